#!/usr/bin/env python3
"""Gives every rendering of the chart to a real kube-apiserver, and installs and upgrades the chart with Helm.

Called by `scripts/helm.sh apiserver`, which builds the server:

  helm-apiserver.py KUBE_APISERVER CHART TESTS CRD...

The server runs with etcd on loopback, and without controllers: nothing starts pods, but the objects are checked as in
a real cluster, and pods are checked against the Pod Security level "restricted".
"""

import contextlib
import glob
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml

from ports import free_port

SERVER, CHART, TESTS, *CRDS = sys.argv[1:]
TOKEN = "only-on-loopback"
APPLY = "application/apply-patch+yaml"


def check(what, is_so, detail=""):
    if not is_so:
        raise SystemExit(f"FAILED: {what}: {detail}")
    print(f"ok: {what}", flush=True)


@contextlib.contextmanager
def process(name, directory, *command):
    """Runs a server, and shows the end of its log after a failure."""
    with open(f"{directory}/{name}.log", "w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield server
        except BaseException:
            log.seek(0)
            print(f"--- {name}\n{log.read()[-1000:]}", file=sys.stderr)
            raise
        finally:
            server.terminate()
            server.wait()


class Api:
    """A client of the API server."""

    def __init__(self, port, ca):
        self.url = f"https://127.0.0.1:{port}"
        self.ca = ca
        self.plurals = {}

    def request(self, method, path, body=None, content_type="application/json"):
        """The answer and its warnings."""
        request = urllib.request.Request(self.url + path, method=method, data=body and body.encode())
        request.add_header("authorization", f"Bearer {TOKEN}")
        request.add_header("content-type", content_type)
        context = ssl.create_default_context(cafile=self.ca)
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return answer.read(), answer.headers.get_all("warning") or []

    def path(self, each, namespace):
        """The path of the collection of an object."""
        group = each["apiVersion"] if "/" in each["apiVersion"] else ""
        prefix = f"/apis/{group}" if group else f"/api/{each['apiVersion']}"
        if prefix not in self.plurals:
            resources = json.loads(self.request("GET", prefix)[0])["resources"]
            self.plurals[prefix] = {one["kind"]: one for one in resources if "/" not in one["name"]}
        resource = self.plurals[prefix][each["kind"]]
        place = f"/namespaces/{namespace}" if resource["namespaced"] else ""
        return f"{prefix}{place}/{resource['name']}"

    def apply(self, each, namespace=""):
        """Server-side apply, with unknown fields refused. Returns what is wrong with the object."""
        path = f"{self.path(each, namespace)}/{each['metadata']['name']}?fieldManager=check&fieldValidation=Strict"
        return self.problems("PATCH", path, yaml.safe_dump(each), APPLY)

    def try_pod(self, name, template, namespace):
        """What would be wrong with a pod of a template."""
        metadata = {**template["metadata"], "name": name}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict"
        return self.problems("POST", path, json.dumps(pod), "application/json")

    def problems(self, method, path, body, content_type):
        try:
            return self.request(method, path, body, content_type)[1]
        except urllib.error.HTTPError as error:
            return [json.loads(error.read())["message"]]


def templates(objects):
    """The pod templates of a rendering, by the names of their owners."""
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if each["kind"] in ("StatefulSet", "Job", "CronJob"):
            for claim in spec.get("volumeClaimTemplates", []):
                name = claim["metadata"]["name"]
                volume = {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-pod"}}
                spec["template"]["spec"]["volumes"].append(volume)
            yield each["metadata"]["name"], spec["template"]


def renderings():
    """The golden files, and one with the rules and dashboards that the chart contains."""
    for file in sorted(glob.glob(f"{TESTS}/golden/*.yaml")):
        with open(file) as rendering:
            yield os.path.basename(file).removesuffix(".yaml"), rendering.read()
    if glob.glob(f"{CHART}/files/*/*"):
        command = ["helm", "template", "maxine", CHART, "--kube-version", "1.34"]
        command += ["--values", f"{TESTS}/values/secret.yaml"]
        command += ["--set", "prometheusRule.enabled=true,grafanaDashboards.enabled=true"]
        yield "monitoring", subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check_renderings(api):
    for case, text in renderings():
        objects = [each for each in yaml.safe_load_all(text) if each]
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": case, "labels": labels}}
        check(f"namespace {case}", not api.apply(namespace))
        for each in objects:
            problems = api.apply(each, case)
            check(f"{case}: {each['kind']} {each['metadata']['name']}", not problems, problems)
        # As a controller would make it.
        for name, template in templates(objects):
            problems = api.try_pod(name, template, case)
            check(f"{case}: a pod of {name}", not problems, problems)


def check_upgrades(api, directory):
    """Installs the chart with Helm, and changes the number of nodes."""
    config = f"{directory}/kubeconfig"
    with open(config, "w") as out:
        cluster = {"server": api.url, "certificate-authority": api.ca}
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": TOKEN}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "prod"}}],
                "current-context": "c",
            },
            out,
        )
    check("namespace prod", not api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}}))

    def helm(*arguments):
        command = ["helm", *arguments, "--kubeconfig", config, "--namespace", "prod"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    values = ["maxine", CHART, "--values", f"{TESTS}/values/secret.yaml"]
    dry = "--dry-run=server"
    five = ["--set", "cluster.replicas=5"]
    less = ["--set", "cluster.retired={4,5}"]
    done, text = helm("install", *values)
    check("install three nodes", done, text)
    check("the notes name the Service", "https://maxine.prod.svc.cluster.local:8080" in text, text)
    done, text = helm("upgrade", *values, dry)
    check("an upgrade without changes has no Jobs", done and "kind: Job" not in text, text)
    done, text = helm("upgrade", *values, *five, dry)
    jobs = ["name: maxine-join-4" in text, "name: maxine-join-5" in text, text.count("kind: Job\n")]
    check("an upgrade to five nodes adds 4 and 5", done and jobs == [True, True, 2], text)
    done, text = helm("upgrade", *values, *five, "--no-hooks")
    check("upgrade to five nodes", done, text)
    done, text = helm("upgrade", *values, dry)
    check("an upgrade to three nodes that names no retired ones is refused", not done and "takes away node 4" in text, text)
    done, text = helm("upgrade", *values, *less, dry)
    jobs = ["name: remove-4" in text, "name: remove-5" in text, text.count("kind: Job\n")]
    check("an upgrade to three nodes removes 4 and 5", done and jobs == [True, True, 1], text)
    done, text = helm("upgrade", *values, *less, "--no-hooks")
    check("upgrade to three nodes", done, text)
    again = [*less, "--set", "cluster.replicas=4"]
    done, text = helm("upgrade", *values, *again, dry)
    check("a retired number is not used again", not done and "node number 4 is in cluster.retired" in text, text)
    done, text = helm("upgrade", *values, *again, "--set", "cluster.numbers.4=6", dry)
    check("a new number is added", done and "name: maxine-join-6" in text, text)
    done, text = helm("upgrade", *values, "--set", "cluster.id=other", dry)
    check("an upgrade with another name of the cluster is refused", not done and "cluster.id cannot change" in text, text)
    done, text = helm("upgrade", *values, *less, "--set", "cluster.firstMembers=1", dry)
    check("the first members do not change", not done and "cannot change" in text, text)
    done, text = helm("uninstall", "maxine")
    check("uninstall", done, text)


def main():
    with tempfile.TemporaryDirectory() as directory:
        peers, clients, port = free_port(), free_port(), free_port()
        etcd = f"http://127.0.0.1:{clients}"
        key = f"{directory}/accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, stderr=subprocess.DEVNULL)
        with open(f"{directory}/tokens.csv", "w") as tokens:
            tokens.write(f"{TOKEN},check,check\n")
        with process(
            "etcd", directory, "etcd", "--data-dir", f"{directory}/etcd", "--listen-client-urls", etcd,
            "--advertise-client-urls", etcd, "--listen-peer-urls", f"http://127.0.0.1:{peers}",
            "--unsafe-no-fsync",
        ), process(
            "kube-apiserver", directory, SERVER, f"--etcd-servers={etcd}", "--bind-address=127.0.0.1",
            f"--secure-port={port}", f"--cert-dir={directory}", f"--token-auth-file={directory}/tokens.csv",
            "--authorization-mode=AlwaysAllow", "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", "--disable-admission-plugins=ServiceAccount",
        ):
            api = Api(port, f"{directory}/apiserver.crt")
            deadline = time.monotonic() + 120
            while True:
                try:
                    api.request("GET", "/readyz")
                    break
                except (OSError, urllib.error.URLError) as error:
                    if time.monotonic() > deadline:
                        raise SystemExit(f"the server does not become ready: {error}") from error
                    time.sleep(0.5)
            version = json.loads(api.request("GET", "/version")[0])["gitVersion"]
            etcd_version = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
            print(f"kube-apiserver {version}, {etcd_version.splitlines()[0]}", flush=True)
            for crd in CRDS:
                with open(crd) as file:
                    each = yaml.safe_load(file)
                name = each["metadata"]["name"]
                check(f"definition {name}", not (problems := api.apply(each)), problems)
                path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
                is_served = {"type": "Established", "status": "True"}.items()
                while not any(
                    is_served <= one.items()
                    for one in json.loads(api.request("GET", path)[0])["status"]["conditions"] or []
                ):
                    time.sleep(0.2)
            check_renderings(api)
            check_upgrades(api, directory)


main()
