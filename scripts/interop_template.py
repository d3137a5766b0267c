#!/usr/bin/env python3
"""consul-template with one template over services and keys, against one node, and then against three with faults.

    interop_template.py PORT_OF_THE_NODE PORT_FOR_CONSUL CONSUL_TEMPLATE

scripts/interop.sh consul-template starts the node and builds the program.
"""

import contextlib
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import interop_faults

NODE, CONSUL, PROGRAM = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
# The program waits from 250 ms to 1 min after a failed request, twice as long each time.
PATIENCE_S = 120
TEMPLATE = """\
{{range services}}service {{.Name}} {{.Tags | join ","}}
{{end}}{{range service "web"}}passing {{.ID}} {{.Address}}:{{.Port}} {{.ServiceMeta.team}}
{{end}}{{range service "web|any"}}any {{.ID}} {{.Status}}
{{end}}{{range service "blue.web"}}blue {{.ID}}
{{end}}key {{keyOrDefault "app/limit" "none"}}
{{range tree "app/hosts"}}tree {{.Key}}={{.Value}}
{{end}}{{range ls "app"}}ls {{.Key}}
{{end}}"""


@contextlib.contextmanager
def consul_template(consul, token, folder, always=""):
    """The program, with its defaults and the address of Consul's API; a function that reads what it has written. Every
    rendering after the first one must contain `always`."""
    home = pathlib.Path(tempfile.mkdtemp(dir=folder))
    (home / "template").write_text(TEMPLATE)
    # The command sees each rendering.
    settings = interop_faults.guide("consul-template", "consul.example", {
        "consul.example:8500": consul, "TOKEN": token, "/etc/haproxy/haproxy.cfg.tmpl": f"{home}/template",
        "/etc/haproxy/haproxy.cfg": f"{home}/result",
        "systemctl reload haproxy": f"cat {home}/result >>{home}/history && echo end >>{home}/history",
    })
    (home / "settings.hcl").write_text(settings)
    log = home / "log"
    with open(log, "w") as out:
        process = subprocess.Popen([PROGRAM, f"-config={home}/settings.hcl"], stdout=out, stderr=subprocess.STDOUT, cwd=home)

    def result():
        if process.poll() is not None:
            raise SystemExit(f"consul-template has ended with {process.returncode}")
        return sorted((home / "result").read_text().splitlines()) if (home / "result").exists() else []

    try:
        yield result
        renderings = (home / "history").read_text().split("end\n")[:-1]
        print(f"  rendered {len(renderings)} times")
        if always:
            bare = [text for text in renderings[1:] if always not in text]
            if bare:
                raise SystemExit(f"{len(bare)} renderings without {always!r}, such as {bare[0]!r}")
    except BaseException:
        print(log.read_text()[-4000:], file=sys.stderr)
        raise
    finally:
        # It ignores SIGTERM.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()


class Expected:
    """What the template must show, and the requests that make it so."""

    def __init__(self, api):
        self.api, self.tags, self.status, self.limit, self.hosts = api, {}, {}, "none", {}

    def lines(self):
        result = ["service web " + ",".join(sorted({tag for tags in self.tags.values() for tag in tags}))] if self.tags else []
        for one, tags in self.tags.items():
            result.append(f"any web-{one} {self.status[one]}")
            if self.status[one] == "passing":
                result.append(f"passing web-{one} 10.0.0.{one}:8080 a")
                result += [f"blue web-{one}"] if "blue" in tags else []
        result.append(f"key {self.limit}")
        result += [f"tree {key}={value}" for key, value in self.hosts.items()]
        result += ["ls limit"] if self.limit != "none" else []
        return sorted(result)

    def register(self, one, *tags):
        self.api.put("agent/service/register", {
            "ID": f"web-{one}", "Name": "web", "Address": f"10.0.0.{one}", "Port": 8080, "Tags": tags, "Meta": {"team": "a"},
            "Check": {"TTL": "10m", "Status": "passing"},
        })
        self.tags[one], self.status[one] = tags, "passing"

    def deregister(self, one):
        self.api.put(f"agent/service/deregister/web-{one}")
        del self.tags[one], self.status[one]

    def report(self, one, verb, status):
        self.api.put(f"agent/check/{verb}/service:web-{one}")
        self.status[one] = status

    def set_limit(self, value):
        self.api.put("kv/app/limit", value.encode())
        self.limit = value

    def set_host(self, name, value):
        self.api.put(f"kv/app/hosts/{name}", value.encode())
        self.hosts[name] = value

    def delete_hosts(self):
        self.api.delete("kv/app/hosts?recurse")
        self.hosts = {}


def until(what, result, expected):
    began = time.monotonic()
    while (found := result()) != expected.lines():
        if time.monotonic() - began > PATIENCE_S:
            raise SystemExit(f"{what}: {found}, expected {expected.lines()}")
        time.sleep(0.02)
    print(f"  {what}: after {time.monotonic() - began:.2f} s", flush=True)


def one_node(folder):
    api = interop_faults.Api([f"http://127.0.0.1:{CONSUL}"], [f"http://127.0.0.1:{NODE}"])
    api.token = api.token_of("operator")
    expected = Expected(api)
    with consul_template(f"127.0.0.1:{CONSUL}", api.token_of("viewer"), folder) as result:
        until("nothing is there", result, expected)
        expected.register(1, "blue")
        until("registered", result, expected)
        expected.register(2, "green")
        until("another one, with another tag", result, expected)
        expected.report(2, "fail", "critical")
        until("its check failed", result, expected)
        expected.report(2, "pass", "passing")
        until("its check passes", result, expected)
        expected.set_limit("10")
        until("a key", result, expected)
        expected.set_limit("11")
        until("another value", result, expected)
        expected.set_host("a", "10.0.1.1")
        expected.set_host("b", "10.0.1.2")
        until("keys below a prefix", result, expected)
        expected.delete_hosts()
        until("the prefix deleted", result, expected)
        expected.deregister(1)
        until("deregistered", result, expected)
        expected.deregister(2)
        until("the service is gone", result, expected)


def three_nodes(folder):
    with interop_faults.Cluster() as cluster:
        api, own = cluster.api, 0
        # Changes go through the other nodes while the client's own node does not answer.
        api.consul = api.native = cluster.urls[1:] + cluster.urls[:1]
        expected, turn = Expected(api), iter(range(1, 200))
        address, token = cluster.urls[own].removeprefix("http://"), api.token_of("viewer")
        expected.register(next(turn), "blue")
        # An instance passes at any time, so none may be without one.
        with consul_template(address, token, folder, always="passing web-") as result:
            until("registered, three nodes", result, expected)

            def follows(what):
                one = next(turn)
                expected.register(one, "blue")
                expected.deregister(one - 1)
                expected.set_limit(f"{one}")
                until(what, result, expected)

            interop_faults.faults(cluster, own, follows)


with tempfile.TemporaryDirectory() as scratch:
    one_node(scratch)
    three_nodes(scratch)
