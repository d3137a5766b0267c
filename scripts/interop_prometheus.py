"""Registers services, and waits until the targets of Prometheus are exactly those: with one node, and then with three that fail
in turn. Prometheus runs with the configuration of docs/guides/consul-prometheus.md, and scrapes each target.

Arguments: the port of the node, its port for clients of Consul, and the program prometheus.
"""

import contextlib
import http.server
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import interop_faults
from ports import free_port

NODE, CONSUL, PROGRAM = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
# Prometheus asks again 15 s after a failed request.
PATIENCE_S = 60


class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b"# TYPE calls_total counter\ncalls_total 1\n")

    def log_message(self, *_):
        pass


def instance():
    """Starts an instance with a page of metrics. Returns its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


class Prometheus:
    """A Prometheus that finds its targets at one address, and the lists of targets that it has had, oldest first."""

    def __init__(self, address, token, folder):
        # Prometheus waits as long as the guide says by default; here it asks each second.
        waits = "\n        refresh_interval: 1s"
        relabel = (
            "\n    relabel_configs:"
            "\n      - {source_labels: [__meta_consul_service], target_label: service}"
            "\n      - {source_labels: [__meta_consul_health], target_label: health}"
        )
        text = interop_faults.guide(
            "consul-prometheus", "token: TOKEN", {"consul.example:8500": address, "TOKEN": token + waits}
        )
        config = pathlib.Path(folder) / "prometheus.yml"
        config.write_text(f"global:\n  scrape_interval: 1s\n{text.rstrip()}{relabel}\n")
        self.port, self.log = free_port(), open(pathlib.Path(folder) / "prometheus.log", "wb")
        self.process = subprocess.Popen(
            [
                PROGRAM,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self.log,
            stderr=self.log,
        )
        self.seen, self.ends = [], threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def ask(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=5) as answer:
            return json.load(answer)["data"]

    def read(self):
        while not self.ends.wait(0.05):
            try:
                active = self.ask("targets?state=active")["activeTargets"]
            except OSError:
                continue
            targets = sorted(
                (target["discoveredLabels"]["__address__"], target["labels"]["service"], target["labels"]["health"])
                for target in active
            )
            if not self.seen or self.seen[-1] != targets:
                self.seen.append(targets)

    def until(self, what, expected):
        """Waits until the targets are exactly these, and each of them was scraped without an error."""
        began, expected = time.monotonic(), sorted(expected)
        query = urllib.parse.urlencode({"query": 'up{job="services"} == 1'})
        found_after = None
        while True:
            if self.seen and self.seen[-1] == expected:
                found_after = found_after or time.monotonic() - began
                up = sorted(
                    (result["metric"]["instance"], result["metric"]["service"], result["metric"]["health"])
                    for result in self.ask(f"query?{query}")["result"]
                )
                if up == expected:
                    break
            if time.monotonic() - began > PATIENCE_S:
                raise SystemExit(f"{what}: {self.seen[-1:]}, expected {expected}")
            time.sleep(0.05)
        print(f"  {what}: found after {found_after:.1f} s, scraped after {time.monotonic() - began:.1f} s", flush=True)

    def stop(self):
        self.ends.set()
        self.reader.join()
        self.process.terminate()
        self.process.wait()
        self.log.close()


@contextlib.contextmanager
def prometheus(address, token):
    with tempfile.TemporaryDirectory() as folder:
        running = Prometheus(address, token, folder)
        try:
            yield running
        except BaseException:
            print((pathlib.Path(folder) / "prometheus.log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            running.stop()


def register(api, service, at, port):
    body = {"ID": f"{service}-{at}", "Name": service, "Address": "127.0.0.1", "Port": port, "Tags": ["metrics"]}
    api.put("agent/service/register", body | {"Check": {"TTL": "10m", "Status": "passing"}})
    return (f"127.0.0.1:{port}", service, "passing")


def one_node():
    api = interop_faults.Api([f"http://127.0.0.1:{CONSUL}"], [f"http://127.0.0.1:{NODE}"])
    api.token = api.token_of("operator")
    with prometheus(f"127.0.0.1:{CONSUL}", api.token_of("viewer")) as running:
        one, two = register(api, "web", 1, instance()), register(api, "web", 2, instance())
        running.until("two instances", [one, two])
        shop = register(api, "shop", 1, instance())
        running.until("a second service", [one, two, shop])
        api.put("agent/check/fail/service:web-2")
        running.until("one failed", [one, (two[0], "web", "critical"), shop])
        api.put("agent/service/deregister/web-2")
        running.until("one deregistered", [one, shop])
        api.put("agent/service/deregister/shop-1")
        running.until("a service is gone", [one])


def three_nodes():
    with interop_faults.Cluster() as cluster:
        api, own = cluster.api, 0
        # Changes go through the other nodes while the client's own node does not answer.
        api.consul = api.native = cluster.urls[1:] + cluster.urls[:1]
        at = 1
        web = register(api, "web", at, instance())
        with prometheus(cluster.urls[own].removeprefix("http://"), api.token_of("viewer")) as running:
            running.until("one instance, three nodes", [web])
            found = len(running.seen)

            def follows(what):
                nonlocal at
                at += 1
                web = register(api, "web", at, instance())
                api.put(f"agent/service/deregister/web-{at - 1}")
                running.until(what, [web])

            interop_faults.faults(cluster, own, follows)
            if not all(running.seen[found:]):
                raise SystemExit(f"a list without targets: {running.seen}")
            print(f"  {len(running.seen) - found} lists, each with a target")


one_node()
three_nodes()
