#!/usr/bin/env python3
"""Runs what the chart gives to its pods, without Kubernetes.

Reads golden renderings of the chart, and starts real nodes with exactly their arguments, environment, files, user
and file modes. Each pod has its own network namespace, its own read-only root, and the names of the others in
/etc/hosts. Then nodes are killed and the chart's probes are made, and the chart's Jobs change the members and make
a backup. Needs root, iproute2, curl and PyYAML.

  scripts/helm-cluster.py BINARY
"""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import yaml

GOLDEN = os.path.join(os.path.dirname(__file__), "../deploy/helm/tests/golden")
TAG = f"mxh{os.getpid() % 10000}"
USER = 10001
ACCOUNTS = {"admin-username": "admin", "admin-password": "only-for-this-test"}
# What the image sets (deploy/container/Containerfile).
IMAGE = {
    "MAXINE_DATA_DIR": "/var/lib/maxine",
    "MAXINE_HTTP_HOST": "0.0.0.0",
    "MAXINE_REGISTRATION_ACCESS": "token",
    "MAXINE_DISCOVERY_ACCESS": "token",
}
BINARY = os.path.abspath(sys.argv[1])


def run(*command, **options):
    return subprocess.run(command, check=True, **options)


def wait_for(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"FAILED: not in {seconds} s: {what}")
        time.sleep(0.1)
    print(f"ok: {what}", flush=True)


def check(what, is_so):
    if not is_so:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}", flush=True)


class Rendering:
    """The objects of one golden file, by kind and name."""

    def __init__(self, name):
        with open(f"{GOLDEN}/{name}.yaml") as file:
            objects = [each for each in yaml.safe_load_all(file) if each]
        self.objects = {(each["kind"], each["metadata"]["name"]): each for each in objects}
        self.stateful_set = self.objects["StatefulSet", "maxine"]

    def scheme(self):
        probe = self.pod()["containers"][0]["livenessProbe"]["httpGet"]
        return probe.get("scheme", "HTTP").lower()

    def pod(self):
        return self.stateful_set["spec"]["template"]["spec"]

    def job(self, name):
        return self.objects["Job", name]["spec"]["template"]["spec"]


class Pods:
    """The network and the directories of all pods of a test."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="maxine-helm-")
        os.chmod(self.dir, 0o755)
        self.processes = {}
        self.namespaces = []
        self.namespace("hub")
        self.within("hub", "ip", "link", "add", "br0", "type", "bridge")
        self.within("hub", "ip", "addr", "add", "10.123.0.1/24", "dev", "br0")
        self.within("hub", "ip", "link", "set", "br0", "up")

    def namespace(self, name):
        run("ip", "netns", "add", f"{TAG}-{name}")
        self.namespaces.append(name)
        self.within(name, "ip", "link", "set", "lo", "up")

    def within(self, name, *command, **options):
        return run("ip", "netns", "exec", f"{TAG}-{name}", *command, **options)

    def connect(self, name, address):
        """A namespace for a pod, on the network of the others."""
        if name in self.namespaces:
            return
        self.namespace(name)
        outer = f"v{name}"
        self.within("hub", "ip", "link", "add", outer, "type", "veth", "peer", "eth0", "netns", f"{TAG}-{name}")
        self.within("hub", "ip", "link", "set", outer, "master", "br0", "up")
        self.within(name, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
        self.within(name, "ip", "link", "set", "eth0", "up")

    def volume(self, name):
        """A new volume as the kubelet leaves it: of root, and writable for the group of `fsGroup`."""
        path = f"{self.dir}/volumes/{name}"
        if not os.path.isdir(path):
            os.makedirs(f"{path}/lost+found")
            os.chown(path, 0, USER)
            os.chmod(path, 0o2775)
        return path

    def files(self, name, contents):
        """A volume with the files of a Secret or ConfigMap."""
        path = self.volume(name)
        shutil.rmtree(f"{path}/lost+found", ignore_errors=True)
        for file, content in contents.items():
            with open(f"{path}/{file}", "wb") as out:
                out.write(content if isinstance(content, bytes) else content.encode())
            os.chown(f"{path}/{file}", 0, USER)
            os.chmod(f"{path}/{file}", 0o440)
        return path

    def environment(self, container, pod):
        """The environment, with $(NAME) replaced as Kubernetes does."""
        env = dict(IMAGE)
        for each in container.get("env", []):
            value = each.get("value", "")
            source = each.get("valueFrom", {})
            if "fieldRef" in source:
                value = pod[source["fieldRef"]["fieldPath"]]
            if "secretKeyRef" in source:
                key = source["secretKeyRef"]["key"]
                if key not in ACCOUNTS and source["secretKeyRef"].get("optional"):
                    continue
                value = ACCOUNTS[key]
            env[each["name"]] = expand(value, env)
        return env

    def command(self, namespace, container, volumes, host_names):
        """The command that runs a container: mounts, then root is given up."""
        root = f"{self.dir}/root-{namespace}-{container['name']}"
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(f"{root}/etc")
        with open(f"{root}/etc/hosts", "w") as hosts:
            hosts.write("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in host_names.items()))
        lines = ["set -e", "mount --make-rprivate /"]
        mounts = [("/usr", "/usr", True), ("/etc/ssl", "/etc/ssl", True), ("/dev", "/dev", False), ("/proc", "/proc", False)]
        mounts += [(path, path, True) for path in ("/lib", "/lib64") if os.path.isdir(path)]
        for mount in container.get("volumeMounts", []):
            mounts.append((volumes[mount["name"]], mount["mountPath"], mount.get("readOnly", False)))
        os.makedirs(f"{root}/opt")
        open(f"{root}/opt/maxine", "w").close()
        lines.append(f"mount --bind {root} {root}")
        for source, target, read_only in mounts:
            os.makedirs(root + target, exist_ok=True)
            lines.append(f"mount --bind {source} {root}{target}")
            if read_only:
                lines.append(f"mount -o remount,bind,ro {root}{target}")
        lines.append(f"mount --bind {BINARY} {root}/opt/maxine")
        lines.append(f"mount -o remount,bind,ro {root}")
        # What runAsUser, fsGroup, "drop ALL" and allowPrivilegeEscalation leave.
        lines.append(
            f"exec chroot {root} /usr/bin/setpriv --reuid={USER} --regid={USER} --groups={USER} --bounding-set=-all "
            '--inh-caps=-all --no-new-privs /opt/maxine "$@"'
        )
        return ["unshare", "--mount", "/bin/sh", "-c", "\n".join(lines), "sh"]

    def start(self, namespace, container, pod, volumes, host_names, log):
        env = self.environment(container, pod)
        args = [expand(arg, env) for arg in container["args"]]
        command = ["ip", "netns", "exec", f"{TAG}-{namespace}"]
        command += [*self.command(namespace, container, volumes, host_names), *args]
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop_all(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", f"{TAG}-{name}"], check=False)
        shutil.rmtree(self.dir)


def expand(text, env):
    return re.sub(r"\$\((\w+)\)", lambda found: env.get(found[1], found[0]), text)


class Cluster:
    """The pods of one rendering after the other."""

    def __init__(self, pods, tls, http_tls, scheme):
        self.pods, self.tls, self.http_tls, self.scheme = pods, tls, http_tls, scheme
        self.hosts = {f"maxine-{i}.maxine-peers.prod.svc.cluster.local": f"10.123.0.{10 + i}" for i in range(1, 6)}
        # The clients' Service has the addresses of several pods.
        self.names = {**self.hosts, "maxine.prod.svc.cluster.local": "10.123.0.11"}

    def start(self, rendering, ordinal):
        self.pods.connect(f"p{ordinal}", f"10.123.0.{10 + ordinal}")
        pod = {
            "metadata.name": f"maxine-{ordinal}",
            "metadata.labels['apps.kubernetes.io/pod-index']": str(ordinal),
            # Without the label, Kubernetes gives an empty text.
            "metadata.labels['topology.kubernetes.io/zone']": "",
        }
        volumes = {
            "data": self.pods.volume(f"data-{ordinal}"),
            "tmp": self.pods.volume(f"tmp-{ordinal}"),
            "nodes": self.pods.files(f"nodes-{ordinal}", rendering.objects["ConfigMap", "maxine"]["data"]),
            "http-tls": self.pods.files(f"http-tls-{ordinal}", self.http_tls),
            "peer-tls": self.pods.files(f"tls-{ordinal}", self.tls),
        }
        container = rendering.pod()["containers"][0]
        with open(f"{self.pods.dir}/pod-{ordinal}.log", "a") as log:
            place = (pod, volumes, self.names, subprocess.DEVNULL)
            self.pods.processes[ordinal] = self.pods.start(f"p{ordinal}", container, pod, volumes, self.names, log)
            # As with `kubectl exec`.
            container = {**container, "name": "exec", "args": ["login"]}
            container["env"] = [*container["env"], {"name": "MAXINE_PASSWORD", "value": ACCOUNTS["admin-password"]}]
            self.sign_in = lambda: self.pods.start(f"p{ordinal}", container, *place).wait() == 0

    def kill(self, ordinal):
        process = self.pods.processes.pop(ordinal)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def get(self, ordinal, path):
        """The status of an answer, as a probe sees it; 0 without an answer."""
        url = f"{self.scheme}://10.123.0.{10 + ordinal}:8080{path}"
        command = ["curl", "-s", "-k", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", url]
        answer = subprocess.run(
            ["ip", "netns", "exec", f"{TAG}-hub", *command], capture_output=True, text=True, check=False
        )
        return int(answer.stdout or 0)

    def probe(self, rendering, kind, ordinal):
        return 200 <= self.get(ordinal, rendering.pod()["containers"][0][kind]["httpGet"]["path"]) < 400

    def run_job(self, spec, name):
        """Runs the containers of a Job's pod one after the other, and repeats one that fails."""
        self.pods.connect("job", "10.123.0.50")
        pod = {"metadata.name": f"maxine-backup-{name}"}
        authority = {"ca.crt": self.http_tls["ca.crt"]}
        volumes = {
            "tmp": self.pods.volume(f"tmp-{name}"),
            "backup": self.pods.volume("backup"),
            "http-tls": self.pods.files("http-tls-job", authority),
        }
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            path = f"{self.pods.dir}/job-{name}.log"

            def succeeds():
                with open(path, "a") as log:
                    return self.pods.start("job", container, pod, volumes, self.names, log).wait() == 0

            wait_for(f"Job {name}: maxine {' '.join(container['args'][:3])}", succeeds)

    def as_admin(self, method, path, body=None):
        account = {"user": "admin", "password": ACCOUNTS["admin-password"]}
        return self.api(method, path, body, self.api("POST", "/api/v1/session", account)["access_token"])

    def members(self):
        """The ids of the voters, by the status of pod 1."""
        status = self.as_admin("GET", "/api/v1/cluster/status")
        return sorted(member["id"] for member in status["raft"]["members"] if member["voter"])

    def api(self, method, path, body, token=""):
        command = ["curl", "-sfk", "-m", "10", "-X", method, f"{self.scheme}://10.123.0.11:8080{path}"]
        command += ["-H", f"authorization: Bearer {token}"] if token else []
        command += ["-H", "content-type: application/json", "-d", json.dumps(body)] if body else []
        answer = self.pods.within("hub", *command, capture_output=True, text=True)
        return json.loads(answer.stdout)


def others_have_no_access(directory):
    """Whether only the owner may use anything in a directory."""
    paths = [directory]
    for parent, directories, files in os.walk(directory):
        paths += [os.path.join(parent, name) for name in [*directories, *files]]
    return len(paths) > 5 and all(os.lstat(path).st_mode & 0o077 == 0 for path in paths)


def widen(directory):
    """Gives the group of `fsGroup` access to everything in a volume, as the kubelet may when it mounts it."""
    for parent, directories, files in os.walk(directory):
        for name in [".", *directories, *files]:
            path = os.path.join(parent, name)
            os.chmod(path, os.lstat(path).st_mode | (0o2770 if os.path.isdir(path) else 0o660))


def certificates_of_init_tls(directory):
    """The files for the Secret that the README describes."""
    run(BINARY, "cluster", "init-tls", directory, "--nodes", "1,2,3,4,5,6", stdout=subprocess.DEVNULL)
    os.remove(f"{directory}/ca-key.pem")


def certificate(directory, subject, names):
    """The files of a Secret that cert-manager makes."""
    names = ",".join(f"DNS:{name}" for name in names)
    os.mkdir(directory)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    ca = [f"{directory}/ca.crt", f"{directory}/ca.key"]
    options = {"stderr": subprocess.DEVNULL}
    run("openssl", "req", "-x509", *key, "-subj", "/CN=test", "-out", ca[0], "-keyout", ca[1], **options)
    run(
        "openssl", "req", "-x509", *key, "-subj", f"/CN={subject}", "-CA", ca[0], "-CAkey", ca[1],
        "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-addext", "extendedKeyUsage=serverAuth,clientAuth",
        "-out", f"{directory}/tls.crt", "-keyout", f"{directory}/tls.key", **options,
    )
    os.remove(ca[1])


def read_all(directory):
    contents = {}
    for file in os.listdir(directory):
        with open(f"{directory}/{file}", "rb") as content:
            contents[file] = content.read()
    return contents


def probes_mean_it(cluster, rendering, name):
    """Starts three nodes, kills two, one after the other, and restarts the third."""
    for ordinal in (1, 2, 3):
        cluster.start(rendering, ordinal)
    for ordinal in (1, 2, 3):
        wait_for(f"{name}: pod {ordinal} takes writes", lambda: cluster.get(ordinal, "/api/v1/ready") == 200)
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            wait_for(f"{name}: {kind} of pod {ordinal}", lambda: cluster.probe(rendering, kind, ordinal), 5)
        data = f"{cluster.pods.dir}/volumes/data-{ordinal}/node-{ordinal}"
        check(f"{name}: the data of pod {ordinal} is private", others_have_no_access(data))
    is_open = name == "open"
    if is_open:
        instance = {"address": "http://10.0.0.9:8080", "permanent": True}
        # After a restart without a majority, a node does not know that its last entry was committed.
        for service in ("orders", "last"):
            cluster.api("PUT", f"/api/v1/services/default/{service}/instances/a", instance)
    cluster.kill(3)
    for ordinal in (1, 2):
        wait_for(f"{name}: without pod 3, pod {ordinal} takes writes", lambda: cluster.get(ordinal, "/api/v1/ready") == 200)
    check(f"{name}: pod 3 is neither alive nor ready", not cluster.probe(rendering, "readinessProbe", 3))
    cluster.kill(2)
    wait_for(f"{name}: without pods 2 and 3, pod 1 takes no writes", lambda: cluster.get(1, "/api/v1/ready") == 503)
    for kind in ("livenessProbe", "readinessProbe"):
        check(f"{name}: without a majority, {kind} of pod 1 succeeds", cluster.probe(rendering, kind, 1))
    resolve = "/api/v1/resolve/default/orders"
    if is_open:
        check(f"{name}: and it answers look-ups", cluster.get(1, resolve) == 200)
    cluster.kill(1)
    widen(f"{cluster.pods.dir}/volumes/data-1")
    cluster.start(rendering, 1)
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        wait_for(f"{name}: restarted without a majority, {kind} of pod 1 succeeds", lambda: cluster.probe(rendering, kind, 1))
    if is_open:
        check(f"{name}: and it answers look-ups", cluster.get(1, resolve) == 200)
    check(f"{name}: and it takes no writes", cluster.get(1, "/api/v1/ready") == 503)
    data = f"{cluster.pods.dir}/volumes/data-1/node-1"
    check(f"{name}: the data is private again after the kubelet gave it to the group", others_have_no_access(data))
    for ordinal in (2, 3):
        cluster.start(rendering, ordinal)
    for ordinal in (1, 2, 3):
        wait_for(f"{name}: pod {ordinal} takes writes again", lambda: cluster.get(ordinal, "/api/v1/ready") == 200)


def members_change(cluster, rendering):
    """Pod 2 has lost its disk, and the cluster grows to five nodes and shrinks to three."""
    check("the voters are 1, 2, 3", cluster.members() == [1, 2, 3])
    check("maxine login in a pod", cluster.sign_in())
    cluster.kill(2)
    shutil.rmtree(f"{cluster.pods.dir}/volumes/data-2")
    cluster.run_job(rendering.job("maxine-retire"), "retire")
    wait_for("the voters are 1, 3", lambda: cluster.members() == [1, 3])
    for ordinal in (2, 4, 5):
        cluster.start(rendering, ordinal)
    for number in (4, 5, 6):
        cluster.run_job(rendering.job(f"maxine-join-{number}"), f"join-{number}")
    wait_for("the voters are 1, 3, 4, 5, 6", lambda: cluster.members() == [1, 3, 4, 5, 6])
    for ordinal in (2, 4, 5):
        wait_for(f"readinessProbe of pod {ordinal}", lambda: cluster.probe(rendering, "readinessProbe", ordinal))
    cluster.run_job(rendering.job("maxine-retire"), "retire-again")
    check("a second run changes nothing", cluster.members() == [1, 3, 4, 5, 6])
    # The cluster shrinks again. One of the nodes that leave is the leader.
    cluster.as_admin("POST", "/api/v1/cluster/transfer", {"to": 6})
    shrink = copy.deepcopy(rendering.job("maxine-retire"))
    remove = shrink["initContainers"].pop()
    for number in ("5", "6"):
        shrink["initContainers"].append({**remove, "args": ["cluster", "remove", number, "--yes"]})
    cluster.run_job(shrink, "shrink")
    wait_for("the voters are 1, 3, 4", lambda: cluster.members() == [1, 3, 4])
    for ordinal in (4, 5):
        cluster.kill(ordinal)
    for ordinal in (1, 2, 3):
        wait_for(f"pod {ordinal} takes writes", lambda: cluster.get(ordinal, "/api/v1/ready") == 200)
    backup = rendering.objects["CronJob", "maxine-backup"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    cluster.run_job(backup, "1")
    check("the backup was written", os.path.getsize(f"{cluster.pods.dir}/volumes/backup/maxine-backup-1.maxine") > 0)


def backup_is_restored(cluster, rendering):
    """Three new nodes begin with the backup, as docs/guides/kubernetes.md says."""
    for ordinal in (1, 2, 3):
        cluster.kill(ordinal)
    members = rendering.objects["ConfigMap", "maxine"]["data"]["first-members"]
    for number in (1, 2, 3):
        shutil.rmtree(f"{cluster.pods.dir}/volumes/data-{number}")
        args = ["cluster", "restore", "/backup/maxine-backup-1.maxine", f"/var/lib/maxine/node-{number}", "--yes"]
        args += ["--cluster-id=maxine", f"--node-id={number}", f"--members={members}"]
        mounts = [{"name": "data", "mountPath": "/var/lib/maxine"}, {"name": "backup", "mountPath": "/backup"}]
        volumes = {"data": cluster.pods.volume(f"data-{number}"), "backup": cluster.pods.volume("backup")}
        container = {"name": "restore", "args": args, "volumeMounts": mounts}
        with open(f"{cluster.pods.dir}/restore.log", "a") as log:
            restore = cluster.pods.start("job", container, {}, volumes, cluster.names, log)
        check(f"the backup becomes the data of node {number}", restore.wait() == 0)
    for ordinal in (1, 2, 3):
        cluster.start(rendering, ordinal)
    for ordinal in (1, 2, 3):
        wait_for(f"restored: pod {ordinal} takes writes", lambda: cluster.get(ordinal, "/api/v1/ready") == 200)
    check("restored: the voters are 1, 2, 3", cluster.members() == [1, 2, 3])


def main():
    for case in ("open", "cert-manager", "secret"):
        pods = Pods()
        try:
            rendering, tls, http_tls = Rendering(case), f"{pods.dir}/tls", f"{pods.dir}/http-tls"
            if case == "cert-manager":
                spec = rendering.objects["Certificate", "maxine-peer-tls"]["spec"]
                certificate(tls, spec["commonName"], spec["dnsNames"])
            else:
                certificates_of_init_tls(tls)
            # The names that the README asks for.
            names = ["maxine.prod.svc.cluster.local", "*.maxine-peers.prod.svc.cluster.local"]
            certificate(http_tls, "maxine", names)
            cluster = Cluster(pods, read_all(tls), read_all(http_tls), rendering.scheme())
            probes_mean_it(cluster, rendering, case)
            if case == "secret":
                members_change(cluster, Rendering("scaled"))
                backup_is_restored(cluster, rendering)
        except BaseException:
            for name in sorted(os.listdir(pods.dir)):
                if name.endswith(".log"):
                    with open(f"{pods.dir}/{name}") as log:
                        print(f"--- {name}\n{log.read()[-2000:]}", file=sys.stderr)
            raise
        finally:
            pods.stop_all()


main()
