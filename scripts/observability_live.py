#!/usr/bin/env python3
"""Runs real clusters, Prometheus, Alertmanager and Jaeger with the files in deploy/, and breaks something.

    scripts/observability_live.py MAXINE JAEGER

1. The commands of docs/guides/monitoring.md, as they are written: a cluster, Prometheus, Alertmanager, Jaeger, a killed
   leader, and an instance that fails, from the alert to the trace of a failed call.
2. Scrape targets that follow register, drain and deregister.
3. Every query of every panel, under load and with a fault. A query that fails or has no value is an error.
4. A lost majority: one notification, which silences what follows from it, and its end.
5. The same queries in Redis mode, and a lost Redis.

Everything listens on loopback and ends with the script. The ports and the intervals of the files are changed, so that it
is quick and can run beside other clusters. docs/reference/interoperability.md has the last result.
"""
import contextlib
import datetime
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import dashboards
import docs

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 180
NODES = ("8080", "8081", "8082")
# The ports in the guide and in the files of deploy/. A trial uses others.
PORTS = (*NODES, "9090", "9093", "9095", "4317", "4318", "16685", "16686")


def until(what, found, patience_s=PATIENCE_S):
    """Waits until `found` returns something, and returns it."""
    end = time.monotonic() + patience_s
    while True:
        value = found()
        if value:
            return value
        if time.monotonic() > end:
            raise SystemExit(f"not seen in {patience_s} s: {what}")
        time.sleep(0.5)


def ask(url, method="GET", body=None, token=None):
    """The status and the body of an answer; status 0 without one."""
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class Trial:
    """A working directory with the files of deploy/, and the servers that run in it."""

    def __init__(self, programs, directory, backend):
        self.dir, self.backend, self.servers = Path(directory), backend, []
        base = random.randrange(20_000, 30_000, 10)
        self.ports = {old: base + at for at, old in enumerate(PORTS)}
        self.nodes = [f"http://127.0.0.1:{self.ports[port]}" for port in NODES]
        self.prometheus = f"http://127.0.0.1:{self.ports['9090']}"
        bin_dir = self.dir / "bin"
        bin_dir.mkdir()
        for name, program in programs.items():
            (bin_dir / name).symlink_to(program)
        self.env = os.environ | {
            "PATH": f"{bin_dir}:{os.environ['PATH']}",
            "HOME": str(self.dir),
            "XDG_CONFIG_HOME": str(self.dir / "config"),
            "MAXINE_SERVER": ",".join(self.nodes),
        }
        for name in ("MAXINE_TOKEN", "MAXINE_PASSWORD", "MAXINE_OUTPUT"):
            self.env.pop(name, None)
        shutil.copytree(ROOT / "deploy", self.dir / "deploy", ignore=shutil.ignore_patterns("maxine-token"))
        for name in ("prometheus/prometheus.yml", "alertmanager/alertmanager.yml", "jaeger/jaeger.yaml"):
            path = self.dir / "deploy" / name
            text = self.adapted(path.read_text())
            # So that the trial is quick.
            text = re.sub(r"(scrape_interval|evaluation_interval): 15s", r"\1: 1s", text)
            text = text.replace("refresh_interval: 30s", "refresh_interval: 1s").replace("group_interval: 1m", "group_interval: 5s")
            path.write_text(text)
        self.notifications = self.dir / "notifications"

    def adapted(self, text):
        """With the ports of this trial."""
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: str(self.ports[found[0]]), text)

    def start(self, command):
        log = open(self.dir / f"server-{len(self.servers)}.log", "wb")
        # The shell becomes the server, so the process that is stopped is the server itself.
        command = re.sub(r"^((?:\w+=\S+ )*)", r"\1exec ", command)
        server = subprocess.Popen(["sh", "-c", command], cwd=self.dir, env=self.env, stdout=log, stderr=log)
        self.servers.append((server, log.name))
        return log.name

    def start_cluster(self, command):
        log = Path(self.start(command))
        password = r"password(?:,|[^\n:]*) (?:\()?shown this once\)?: (\S+)"
        found = until("the password of the cluster", lambda: re.search(password, log.read_text()))
        self.env["MAXINE_PASSWORD"] = found[1]
        until("the cluster", lambda: all(ask(f"{node}/api/v1/ready")[0] == 200 for node in self.nodes))
        self.log_of_nodes = log

    def start_monitoring(self, commands):
        for command in commands:
            command = command.replace("receiver.py " + str(self.ports["9095"]), f"receiver.py {self.ports['9095']} {self.notifications}")
            self.start(command)
        self.token = (self.dir / "deploy/prometheus/maxine-token").read_text().strip()
        until("three nodes that are up", lambda: self.value('sum(up{job="maxine"})') == 3)

    def run(self, command, ends_with=0):
        done = subprocess.run(["sh", "-eu", "-c", command], cwd=self.dir, env=self.env, capture_output=True, text=True, timeout=300)
        if done.returncode != ends_with:
            raise SystemExit(f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def query(self, expr):
        """The result of a query; a fault of the query is an error."""
        status, body = ask(f"{self.prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        # Prometheus answers 503 until it has started.
        if status in (0, 503):
            return []
        answer = json.loads(body)
        if answer["status"] != "success":
            raise SystemExit(f"{expr}\n{answer}")
        return answer["data"]["result"]

    def value(self, expr):
        result = self.query(expr)
        return float(result[0]["value"][1]) if result else None

    def processes(self):
        """The process of each node, by its name."""
        log = self.log_of_nodes.read_text()
        started = re.findall(r"^ (node-\d)\s.*?\s(\d+)\s+/", log, re.M)
        restarted = re.findall(r"^(node-\d) is back \(process (\d+)\)", log, re.M)
        return {name: int(process) for name, process in started + restarted}

    def leader(self):
        result = self.query('maxine_cluster_is_leader == 1')
        if len(result) != 1:
            return None
        port = result[0]["metric"]["instance"].rsplit(":", 1)[1]
        return f"node-{[str(self.ports[p]) for p in NODES].index(port) + 1}"

    def notified(self, name, status):
        """The notifications of an alert with this status."""
        if not self.notifications.exists():
            return []
        bodies = [json.loads(line) for line in self.notifications.read_text().splitlines()]
        return [body for body in bodies if body["groupLabels"]["alertname"] == name and body["status"] == status]

    def targets(self, job):
        status, body = ask(f"{self.prometheus}/api/v1/targets?state=active")
        return [each for each in json.loads(body)["data"]["activeTargets"] if each["scrapePool"] == job]

    def stop(self, failed):
        for server, _ in reversed(self.servers):
            server.terminate()
        for server, _ in self.servers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(30)
            if server.poll() is None:
                server.kill()
        if failed:
            for _, log in self.servers:
                print(f"--- {log}", *Path(log).read_text(errors="replace").splitlines()[-15:], sep="\n", file=sys.stderr)


class Load:
    """Look-ups, proxied requests, heartbeats and a failed sign-in now and then, until it is stopped."""

    def __init__(self, nodes):
        self.nodes, self.over, self.signs_in = nodes, threading.Event(), True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        body = {"address": "http://127.0.0.1:9", "ttl_ms": 600_000}
        for turn in range(1_000_000):
            if self.over.wait(0.05):
                return
            node = self.nodes[turn % len(self.nodes)]
            compatible = f"{node}/api/maxine/serviceops"
            for path in ("proxy/orders/hello", "proxy/nobody/", "discover?serviceName=nobody"):
                ask(f"{compatible}/{path}")
            ask(f"{node}/api/v1/resolve/default/orders")
            # A redirect that is followed leads to the instance.
            ask(f"{compatible}/discover?serviceName=orders")
            ask(f"{node}/api/v1/services/default/load/instances/a", "PUT", body)
            if turn % 100 == 0 and self.signs_in:
                ask(f"{node}/api/v1/session", "POST", {"user": "admin", "password": "wrong"})

    def stop(self):
        self.over.set()
        self.thread.join()


def guide_blocks():
    text = (ROOT / "docs/guides/monitoring.md").read_text()
    return re.findall(r"^```(sh(?: \w+)?)\n(.*?)^```", text, re.M | re.S)


def check_panels(trial, names, has_fault):
    """Evaluates every query of these dashboards. Returns how many."""
    with open(ROOT / "deploy/prometheus/slo.toml", "rb") as file:
        slos = tomllib.load(file)["slo"]
    count, empty = 0, []
    for dashboard in dashboards.sources(slos):
        if dashboard.name not in names:
            continue
        for panel in dashboard.panels:
            if panel.needs == "fault" and not has_fault or panel.needs == "raft" and trial.backend != "raft":
                continue
            for expr, _ in panel.queries:
                expr = expr.replace("$cluster", ".*").replace(dashboards.RATE, "1m")
                values = [each["value"][1] for each in trial.query(expr)]
                count += 1
                if not any(value != "NaN" for value in values):
                    empty.append(f"{dashboard.title} / {panel.title}: {expr}\n  {values or 'no value'}")
    if empty:
        raise SystemExit("\n".join(["queries without a value:", *empty]))
    return count


def targets_follow_the_registry(trial):
    """Prometheus itself is the instance, because it has metrics."""
    path = f"{trial.nodes[0]}/api/v1/services/default/watched/instances/p1"

    def registry(method, suffix="", body=None):
        # An operator drains; the session of the guide is an administrator.
        status, text = ask(path + suffix, method, body, trial.admin)
        assert status == 200, text

    def target():
        return [each for each in trial.targets("maxine-instances") if each["labels"].get("service") == "watched"]

    assert not target()
    registry("PUT", body={"address": trial.prometheus, "ttl_ms": 600_000, "zone": "eu-1a", "version": "1.4.0"})
    up = until("the target of a new instance", lambda: [each for each in target() if each["health"] == "up"])
    assert len(up) == 1, "two nodes list it, and it is scraped once"
    labels = up[0]["labels"]
    assert (labels["zone"], labels["version"], labels["drained"], labels["instance"]) == ("eu-1a", "1.4.0", "false", "p1"), labels
    registry("PUT", "/drain", {"reason": "trial"})
    until("the label of a drained instance", lambda: [each["labels"]["drained"] for each in target()] == ["true"])
    registry("DELETE", "/drain")
    until("the label of an undrained instance", lambda: [each["labels"]["drained"] for each in target()] == ["false"])
    registry("DELETE")
    until("no target of a deregistered instance", lambda: not target())


def notified_once(trial, name):
    """Waits for the notification of an alert, and for its end after `name` is repaired by the caller."""
    until(f"the notification of {name}", lambda: trial.notified(name, "firing"))
    count = len(trial.notified(name, "firing"))
    assert count == 1, f"{count} notifications of {name}"


def an_instance_fails(trial, fail, call, show, end):
    """From an alert to the trace of a failed call, as the guide says."""
    name = "MaxineProxySuccessBurnsFast"
    trial.run(fail)
    notified_once(trial, name)
    runbook, anchor = trial.notified(name, "firing")[0]["alerts"][0]["annotations"]["runbook_url"].split("#")
    assert anchor in docs.anchors((ROOT / runbook).read_text()), (runbook, anchor)
    answer = trial.run(call)
    assert re.match(r"HTTP/1.1 502 ", answer) and re.search(r"(?m)^x-maxine-error: connect_failed\r?$", answer), answer
    trial.env["TRACE_ID"] = re.search(r"(?m)^x-trace-id: (\w+)", answer)[1]
    shown = trial.run(show).splitlines()
    expected = (
        r"GET proxied reports  \S+ ms  http.response.status_code=502  error.type=connect_failed  maxine.exported_because=error",
        r"  choose instance  \S+ ms  maxine.instance=reports-1",
        r"  GET  \S+ ms  error.type=connect_failed  server.address=127.0.0.1  server.port=9  maxine.instance=reports-1",
    )
    assert len(shown) == len(expected) and all(map(re.fullmatch, expected, shown)), shown
    trial.run(end)


def raft_trial(programs, directory, report):
    trial = Trial(programs, directory, "raft")
    failed = True
    try:
        blocks = [(mark, trial.adapted(text.strip())) for mark, text in guide_blocks()]
        servers = [text for mark, text in blocks if mark == "sh server"]
        trial.start_cluster(servers[0])
        body = {"user": "admin", "password": trial.env["MAXINE_PASSWORD"]}
        trial.admin = json.loads(ask(f"{trial.nodes[0]}/api/v1/session", "POST", body)[1])["access_token"]
        commands = [(mark, text) for mark, text in blocks if mark != "sh server"]
        marks = [mark for mark, _ in commands]
        expected = ["sh", "sh up", "sh", "sh", "sh incomplete", "sh", "sh fail", "sh call", "sh trace", "sh end"]
        assert marks == expected and len(servers) == 5, (marks, servers)
        sign_in, up, kill, look, look_at_nodes, repair, *failing = (text for _, text in commands)
        trial.run(sign_in)
        trial.start_monitoring(servers[1:])
        shown = trial.run(up)
        assert re.match(r"\{\} => 3 @", shown), shown
        load = Load(trial.nodes)
        targets_follow_the_registry(trial)
        report("targets follow register, drain and deregister")

        every = {dashboard.name for dashboard in dashboards.sources([])}
        until("ratios of all objectives", lambda: len(trial.query("maxine:slo_failures:ratio_rate5m")) >= 3)
        # A rate needs two scrapes.
        time.sleep(10)
        report(f"{check_panels(trial, every, False)} queries of panels have a value under load")

        until("a leader", trial.leader)
        trial.env["PROCESS_OF_THE_LEADER"] = str(trial.processes()[trial.leader()])
        trial.run(kill)
        notified_once(trial, "MaxineMemberUnreachable")
        shown = trial.run(look) + trial.run(look_at_nodes, ends_with=4)
        assert "MaxineMemberUnreachable" in shown and "cluster.member_unreachable" in shown, shown
        runbook = trial.notified("MaxineMemberUnreachable", "firing")[0]["alerts"][0]["annotations"]["runbook_url"]
        assert (ROOT / runbook).is_file(), runbook
        report(f"{check_panels(trial, every, True)} queries of panels have a value with a node down")
        trial.run(repair)
        until("the end of MaxineMemberUnreachable", lambda: trial.notified("MaxineMemberUnreachable", "resolved"))
        notified_once(trial, "MaxineMemberUnreachable")
        report("a killed leader: one notification, with its runbook, and its end")

        until("three nodes that are up", lambda: trial.value('sum(up{job="maxine"})') == 3)
        until("a leader", trial.leader)
        an_instance_fails(trial, *failing)
        report("an instance that fails: one notification, with its runbook, and the trace of a failed call")
        before = trial.notifications.read_text().splitlines()
        # A sign-in that is refused without a majority leaves no audit record, which is an alert of its own.
        load.signs_in = False
        for name in ("node-1", "node-2"):
            os.kill(trial.processes()[name], signal.SIGKILL)
        notified_once(trial, "MaxineNoMajority")
        # Longer than the times after which the other alerts fire.
        until("an alert that a node is down", lambda: trial.query('ALERTS{alertname="MaxineNodeDown",alertstate="firing"}'))
        time.sleep(20)
        after = trial.notifications.read_text().splitlines()[len(before):]
        # MaxineNodeDown of the killed leader may end only now.
        bodies = [json.loads(line) for line in after]
        names = [body["groupLabels"]["alertname"] for body in bodies if body["status"] == "firing"]
        assert names == ["MaxineNoMajority"], names
        trial.run(repair)
        until("the end of MaxineNoMajority", lambda: trial.notified("MaxineNoMajority", "resolved"))
        notified_once(trial, "MaxineNoMajority")
        report("a lost majority: one notification, which silences what follows from it, and its end")
        load.stop()
        failed = False
    finally:
        trial.stop(failed)


def redis_trial(programs, directory, report):
    trial = Trial(programs, directory, "redis")
    failed = True
    try:
        blocks = [(mark, trial.adapted(text.strip())) for mark, text in guide_blocks()]
        servers = [text for mark, text in blocks if mark == "sh server"]
        trial.start_cluster(servers[0] + " --backend redis")
        trial.run(next(text for mark, text in blocks if mark == "sh"))
        trial.start_monitoring(servers[1:])
        load = Load(trial.nodes)
        until("ratios of all objectives", lambda: len(trial.query("maxine:slo_failures:ratio_rate5m")) >= 3)
        time.sleep(10)
        every = {dashboard.name for dashboard in dashboards.sources([])}
        report(f"Redis mode: {check_panels(trial, every, False)} queries of panels have a value")
        redis = subprocess.run(["pgrep", "-x", "redis-server"], capture_output=True, text=True).stdout.split()
        # That of this trial works in its directory.
        own = [pid for pid in redis if os.path.realpath(f"/proc/{pid}/cwd").startswith(str(trial.dir))]
        assert len(own) == 1, (redis, own)
        os.kill(int(own[0]), signal.SIGKILL)
        notified_once(trial, "MaxineStoreUnreachable")
        check_panels(trial, {"maxine-redis"}, True)
        trial.run("maxine dev --restart")
        until("the end of MaxineStoreUnreachable", lambda: trial.notified("MaxineStoreUnreachable", "resolved"))
        notified_once(trial, "MaxineStoreUnreachable")
        report("a lost Redis: one notification, and its end")
        load.stop()
        failed = False
    finally:
        trial.stop(failed)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    programs = {name: Path(path).resolve() for name, path in zip(("maxine", "jaeger"), sys.argv[1:])}
    if not os.access(programs["maxine"], os.X_OK):
        sys.exit(f"{programs['maxine']} is not there: cargo build")
    started = time.monotonic()

    def report(text):
        print(f"{time.monotonic() - started:4.0f} s  {text}", flush=True)

    def version(command):
        done = subprocess.run([command, "--version"], capture_output=True, text=True)
        return (done.stdout + done.stderr).splitlines()[0].split("(")[0].strip().removesuffix(",")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{version(programs['maxine'])}, {version('prometheus')}, {version('prometheus-alertmanager')}, {datetime.date.today()}")
    for trial in (raft_trial, redis_trial):
        with tempfile.TemporaryDirectory() as directory:
            trial(programs, directory, report)
    report("done")


if __name__ == "__main__":
    main()
