#!/usr/bin/env python3
"""Runs the client packages against real clusters of three nodes on loopback.

    scripts/sdks.py test [NAME...]      the tests of the packages (node, python, go, java, rust; those whose tools are installed)
    scripts/sdks.py faults [NAME...]    all clients at once, while nodes are killed, restarted and frozen (2 minutes)

MAXINE_BIN is the program (default: target/debug/maxine). MAXINE_SDKS_PORT is the first of three ports (default: any).
`faults` prints a table, and fails if a call to an instance failed or a client lost its registration. Its nodes ask for tokens, which
are valid for 10 s; the clients fetch them from an OpenID provider (this needs npm).
"""

import base64
import contextlib
import http.server
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
SDKS = ROOT / "sdks"
PROGRAM = os.environ.get("MAXINE_BIN", str(ROOT / "target/debug/maxine"))
TARGET = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
NEEDS = {"node": "node", "python": "python3", "go": "go", "java": "mvn", "rust": "cargo"}
# What the optional parts of the Python package are tested with, in a virtual environment of their own.
VENV = ROOT / "target/sdks-python"
PYTHON_PACKAGES = ["httpx==0.28.1", "opentelemetry-sdk==1.45.2"]
# The secret of all clients of sdks/node/provider.mjs, and the provider as the nodes know it. One of its clients has no role.
SECRET = "s3cret: with % signs +"
IDENTITIES = """
[[issuer]]
name = "corp"
issuer = "{issuer}"
audiences = ["https://maxine.test/"]
clock_skew_s = 1
[[issuer.rule]]
role = "operator"
claims = {{ sub = "orders: a+b" }}
[[issuer.rule]]
role = "operator"
claims = {{ sub = "worker" }}
[[issuer.rule]]
role = "viewer"
claims = {{ sub = "brief", scope = "register" }}
"""


class Provider:
    """An OpenID provider in a process of its own, stopped at the end of the `with`."""

    def __enter__(self):
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=SDKS / "node", check=True)
        self.process = subprocess.Popen(["node", "provider.mjs"], cwd=SDKS / "node", text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.issuer = next((line.strip() for line in self.process.stdout if line.startswith("http")), None)
        if self.issuer is None:
            raise SystemExit("the OpenID provider did not start: run `node provider.mjs` in sdks/node")
        return self

    def token(self, client_id="orders: a+b"):
        """A token of this client. It is valid for 10 minutes."""
        quoted = ":".join(urllib.parse.quote_plus(part) for part in (client_id, SECRET))
        headers = {"authorization": f"Basic {base64.b64encode(quoted.encode()).decode()}"}
        form = urllib.parse.urlencode({"grant_type": "client_credentials", "resource": "https://maxine.test/"})
        request = urllib.request.Request(f"{self.issuer}/token", form.encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())["access_token"]

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


class Cluster:
    """A `maxine dev`, stopped at the end of the `with`. It accepts the tokens of the OpenID provider `issuer`.

    With a `token`, the nodes ask for one, and `ask` sends this one.
    """

    def __init__(self, issuer=None, token=None):
        self.issuer, self.token = issuer, token

    def __enter__(self):
        self.home = tempfile.mkdtemp(prefix="maxine-sdks-")
        self.directory = f"{self.home}/dev"
        port = os.environ.get("MAXINE_SDKS_PORT", "0")
        environment = dict(os.environ)
        if self.token:
            environment |= {"MAXINE_REGISTRATION_ACCESS": "token", "MAXINE_DISCOVERY_ACCESS": "token"}
        if self.issuer:
            environment["MAXINE_IDENTITIES_FILE"] = f"{self.home}/identities.toml"
            pathlib.Path(environment["MAXINE_IDENTITIES_FILE"]).write_text(IDENTITIES.format(issuer=self.issuer), encoding="utf-8")
        self.process = subprocess.Popen(
            [PROGRAM, "dev", "--output", "json", "--no-samples", "--port", port, "--data-dir", self.directory],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )
        self.nodes = [json.loads(self.process.stdout.readline()) for _ in range(3)]
        threading.Thread(target=self.read, daemon=True).start()
        self.urls = [node["http"] for node in self.nodes]
        wait_for(lambda: self.leader() is not None, "a leader")
        return self

    def read(self):
        """Notes the process of each node, also after a restart."""
        for line in self.process.stdout:
            if line.startswith("{"):
                node = json.loads(line)
                self.nodes = [node if node["id"] == old["id"] else old for old in self.nodes]

    def ask(self, method, path, body=None, node=None, timeout_s=3):
        """The JSON of an answer of a node, or of the first one that gives a good answer."""
        sent = None if body is None else json.dumps(body).encode()
        last = None
        for url in self.urls if node is None else [self.urls[node]]:
            request = urllib.request.Request(url + path, sent, {"content-type": "application/json"}, method=method)
            if self.token:
                request.add_header("authorization", f"Bearer {self.token}")
            try:
                with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                    return json.loads(answer.read() or "null")
            except OSError as error:
                last = error
        raise last

    def leader(self):
        """The position of the leader among the nodes; None if there is none."""
        for at in range(3):
            try:
                if self.ask("GET", "/api/v1/ready", node=at, timeout_s=1)["is_leader"]:
                    return at
            except OSError:
                pass
        return None

    def pid(self, at):
        return self.nodes[at]["pid"]

    def restart(self, at):
        """Starts a node again, when its process has ended."""
        wait_for(lambda: not pathlib.Path(f"/proc/{self.pid(at)}").exists(), "the end of a node")
        subprocess.run([PROGRAM, "dev", "--restart", "--data-dir", self.directory], check=True, capture_output=True)
        wait_for(lambda: all(self.is_ready(at) for at in range(3)), "three ready nodes")

    def is_ready(self, at):
        try:
            return self.ask("GET", "/api/v1/ready", node=at, timeout_s=1)["ready"]
        except OSError:
            return False

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.home)


def wait_for(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not in time: {what}")
        time.sleep(0.02)


def python_with_packages():
    """A Python that has the packages of PYTHON_PACKAGES. It is kept for the next run."""
    python, note = VENV / "bin/python", VENV / "packages"
    if not note.exists() or note.read_text().split() != PYTHON_PACKAGES:
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run(["python3", "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYTHON_PACKAGES], check=True)
        note.write_text("\n".join(PYTHON_PACKAGES))
    return str(python)


def go_has(needed):
    """Whether Go is of this version or newer."""
    found = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    numbers = [[int(part) for part in version.split(".")[:2]] for version in (found.removeprefix("go"), needed)]
    if numbers[0] < numbers[1]:
        print(f"NOT RUN: the parts for gRPC and OpenTelemetry, because they need Go {needed}, not {found}", file=sys.stderr)
    return numbers[0] >= numbers[1]


def rust_tests():
    """The programs with the tests of the Rust package. They are those of `cargo test --workspace`: tests of the package alone would
    need other features of its dependencies, and compile these again."""
    built = subprocess.run(["cargo", "test", "--workspace", "--locked", "--no-run", "--message-format=json"], cwd=ROOT,
                           check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    artifacts = [json.loads(line) for line in built.stdout.splitlines()]
    return [[artifact["executable"]] for artifact in artifacts
            if artifact.get("manifest_path") == str(SDKS / "rust/Cargo.toml") and artifact["profile"]["test"]
            and artifact["executable"]]


def test(names):
    """The tests of the packages. The last line counts the packages."""
    python = python_with_packages() if "python" in names else None
    commands = {
        # Provider has installed the packages.
        "node": [["node", "build.mjs"], ["node", "--test", "test/"]],
        "python": [[python, "-m", "unittest", "discover", "-s", "tests"]],
        "go": [["go", "vet", "./..."], ["go", "test", "-count=1", "./..."]],
        # The starter takes the client from the local repository.
        "java": [["mvn", "-q", "-B", "install"]],
        "rust": rust_tests() if "rust" in names else [],
    }
    folders = {name: [SDKS / name] for name in names}
    if "go" in names and go_has("1.23"):
        folders["go"] += [SDKS / "go/grpc", SDKS / "go/otel"]
    if "java" in names:
        folders["java"].append(SDKS / "java/spring")
    failed = 0
    with contextlib.ExitStack() as running:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
        if shutil.which("npm"):
            environment["MAXINE_TEST_ISSUER"] = running.enter_context(Provider()).issuer
        else:
            print("NOT RUN: tokens of a real OpenID provider, because npm is not installed", file=sys.stderr)
        cluster = running.enter_context(Cluster(environment.get("MAXINE_TEST_ISSUER")))
        environment["MAXINE_SERVER"] = ",".join(cluster.urls)
        for name in names:
            began = time.monotonic()
            for folder, command in ((folder, command) for folder in folders[name] for command in commands[name]):
                done = subprocess.run(command, cwd=folder, env=environment, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if done.returncode:
                    print(f"{done.stdout}\n{name}: {' '.join(command)} failed", flush=True)
                    failed += 1
                    break
            print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed")
    return failed


class Worker:
    """One client in the fault suite."""

    def __init__(self, name, command, cluster, folder, more):
        self.name, self.changes, self.result = name, [], None
        environment = {**os.environ, "MAXINE_SERVER": ",".join(cluster.urls), "PYTHONPATH": str(SDKS / "python"), **more}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                self.result = json.loads(line)
            else:
                _, at_ms, *ids = line.split()
                self.changes.append((int(at_ms), set(ids[0].split(",")) if ids else set()))

    def seen_at(self, instance, there, after_ms):
        """When the client first knew that an instance is there, or is not; None if it does not yet."""
        return next((at for at, ids in list(self.changes) if at >= after_ms and (instance in ids) == there), None)


def commands_of(names, scratch):
    """The programs of the clients in the fault suite."""
    commands = {"node": ["node", "examples/faults.mjs"], "python": ["python3", "-B", "examples/faults.py"],
                "go": [f"{scratch}/faults"], "java": ["java", "-cp", scratch, "Faults"],
                "rust": [f"{TARGET}/debug/examples/faults"]}
    if "go" in names:
        subprocess.run(["go", "build", "-o", f"{scratch}/faults", "./cmd/faults"], cwd=SDKS / "go", check=True)
    if "java" in names:
        sources = [*SDKS.glob("java/src/maxine/*.java"), *SDKS.glob("java/src/maxine/client/*.java"),
                   SDKS / "java/examples/Faults.java"]
        subprocess.run(["javac", "-d", scratch, *map(str, sources)], check=True)
    if "rust" in names:
        subprocess.run(["cargo", "build", "--quiet", "--locked", "-p", "maxine-client", "--example", "faults"], cwd=ROOT, check=True)
    return {name: commands[name] for name in names}


class Suite:
    def __init__(self, cluster, workers):
        self.cluster, self.workers = cluster, workers
        self.times_ms = {}
        self.absent = set()
        self.marker = 0

    def change(self, what):
        """Registers an instance, and notes how long after the answer each client knows it. Then removes it."""
        self.marker += 1
        path = f"/api/v1/services/default/targets/instances/marker-{self.marker}"
        body = {"address": self.target, "ttl_ms": 3_600_000}
        begun_ms = time.time() * 1000
        wait_for(lambda: self.accepted("PUT", path, body), "a write")
        self.note(what, f"marker-{self.marker}", True, begun_ms, time.time() * 1000)
        begun_ms = time.time() * 1000
        wait_for(lambda: self.accepted("DELETE", path), "a write")
        self.note(what, f"marker-{self.marker}", False, begun_ms, time.time() * 1000)

    def accepted(self, *request):
        try:
            self.cluster.ask(*request)
            return True
        except OSError:
            return False

    def note(self, what, instance, there, begun_ms, done_ms):
        wait_for(lambda: all(w.seen_at(instance, there, begun_ms - 1) for w in self.workers), f"{what}: {instance}, {there}", 120)
        for worker in self.workers:
            seen = max(0, worker.seen_at(instance, there, begun_ms - 1) - done_ms)
            self.times_ms.setdefault(what, {}).setdefault(worker.name, []).append(seen)

    def watch_registrations(self, ended):
        """Notes every client whose registration is missing."""
        while not ended.wait(0.2):
            try:
                page = self.cluster.ask("GET", "/api/v1/services/default/workers/instances")
            except OSError:
                continue
            there = {item["id"] for item in page["items"]}
            self.absent |= {worker.name for worker in self.workers} - there


def faults(names):
    class Target(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Target)
    upstream.daemon_threads = True
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    with contextlib.ExitStack() as running:
        scratch = running.enter_context(tempfile.TemporaryDirectory())
        provider, token, more = None, None, {}
        if shutil.which("npm"):
            provider = running.enter_context(Provider())
            token, more = provider.token(), {"MAXINE_TEST_ISSUER": provider.issuer, "MAXINE_TEST_SECRET": SECRET}
        else:
            print("NOT RUN: tokens that expire, because npm is not installed", file=sys.stderr)
        cluster = running.enter_context(Cluster(provider and provider.issuer, token))
        commands = commands_of(names, scratch)
        target = f"http://127.0.0.1:{upstream.server_port}"
        for name in ("a", "b"):
            body = {"address": target, "ttl_ms": 3_600_000}
            cluster.ask("PUT", f"/api/v1/services/default/targets/instances/{name}", body)
        workers = [Worker(name, command, cluster, SDKS / name, more) for name, command in commands.items()]
        try:
            suite = Suite(cluster, workers)
            suite.target = target
            wait_for(lambda: all(worker.changes for worker in workers), "the clients")
            ended = threading.Event()
            threading.Thread(target=suite.watch_registrations, args=(ended,), daemon=True).start()
            run(cluster, suite)
            if provider:
                freeze(provider, suite)
            ended.set()
            for worker in workers:
                worker.process.send_signal(signal.SIGTERM)
            for worker in workers:
                worker.process.wait(30)
                worker.thread.join(10)
            # Each has deregistered: nothing waits for a lease.
            try:
                left = cluster.ask("GET", "/api/v1/services/default/workers/instances")["items"]
            except urllib.error.HTTPError:
                left = []
        finally:
            for worker in workers:
                worker.process.kill()
    return report(suite, workers, left)


def run(cluster, suite):
    for _ in range(10):
        suite.change("no fault")
    leader = cluster.leader()
    os.kill(cluster.pid(leader), signal.SIGKILL)
    suite.change("leader killed")
    for _ in range(3):
        suite.change("two of three nodes")
    cluster.restart(leader)
    for at in range(3):
        os.kill(cluster.pid(at), signal.SIGTERM)
        suite.change("each node restarted")
        cluster.restart(at)
    for at in range(3):
        os.kill(cluster.pid(at), signal.SIGSTOP)
        try:
            suite.change("each node frozen")
        finally:
            os.kill(cluster.pid(at), signal.SIGCONT)
        wait_for(lambda: cluster.is_ready(at), "the node that was frozen")
    for at in range(3):
        os.kill(cluster.pid(at), signal.SIGSTOP)
    time.sleep(20)
    for at in range(3):
        os.kill(cluster.pid(at), signal.SIGCONT)
    wait_for(lambda: cluster.leader() is not None, "a leader")
    suite.change("all frozen for 20 s")


def freeze(provider, suite):
    """Freezes the provider for most of the life of a token. A token is renewed 2 to 3 s before its end."""
    for _ in range(6):
        os.kill(provider.process.pid, signal.SIGSTOP)
        try:
            suite.change("the provider of tokens frozen")
            time.sleep(1.5)
        finally:
            os.kill(provider.process.pid, signal.SIGCONT)
        time.sleep(0.4)


def report(suite, workers, left):
    names = [worker.name for worker in workers]
    print("\n| time until a client knows a change, ms (median, longest) | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * len(names))
    for what, times in suite.times_ms.items():
        cells = [f"{statistics.median(times[name]):.0f}, {max(times[name]):.0f}" for name in names]
        print(f"| {what} | " + " | ".join(cells) + " |")
    for title, field in (("calls to instances", "calls"), ("of these failed", "failed"), ("oldest cache, ms", "ageMaxMs"),
                         ("one choice, ns", "chooseNs"), ("errors in the background", "errors"),
                         ("registered again", "renewals")):
        print(f"| {title} | " + " | ".join(str(worker.result[field]) for worker in workers) + " |")
    wrong = [f"{worker.name}: {worker.result['failed']} calls failed" for worker in workers if worker.result["failed"]]
    wrong += [f"{name} was not registered for a time" for name in sorted(suite.absent)]
    wrong += [f"{item['id']} is still registered" for item in left]
    print("\n".join(wrong) or f"{len(names)} passed, 0 failed")
    return bool(wrong)


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("test", "faults"):
        raise SystemExit(__doc__)
    asked = sys.argv[2:] or list(NEEDS)
    names = [name for name in asked if shutil.which(NEEDS[name])]
    for name in asked:
        if name not in names:
            print(f"NOT RUN: {name}, because {NEEDS[name]} is not installed", file=sys.stderr)
    if not names:
        raise SystemExit("nothing was run")
    sys.exit(1 if {"test": test, "faults": faults}[sys.argv[1]](names) else 0)


if __name__ == "__main__":
    main()
