"""Registers services, and waits until the targets of Prometheus' service discovery are exactly those: with one node, and then
with three that fail in turn.

Arguments: the port of the node, its port for clients of Consul, and the program with the discovery.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time

import interop_faults

NODE, CONSUL, PROGRAM = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
# The discovery waits 15 s after a failed request.
PATIENCE_S = 60


@contextlib.contextmanager
def discovery(address, token):
    """The lists of targets that the discovery has found, oldest first."""
    process = subprocess.Popen([PROGRAM, address, token], stdout=subprocess.PIPE, text=True)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(map(json.loads, process.stdout)), daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        process.kill()
        process.wait()
        reader.join()


def until(what, seen, expected):
    began, expected = time.monotonic(), sorted(map(list, expected))
    while not seen or sorted(seen[-1]) != expected:
        if time.monotonic() - began > PATIENCE_S:
            raise SystemExit(f"{what}: {seen[-1:]}, expected {expected}")
        time.sleep(0.05)
    print(f"  {what}: after {time.monotonic() - began:.1f} s", flush=True)


def register(api, service, at, port):
    body = {"ID": f"{service}-{at}", "Name": service, "Address": "127.0.0.1", "Port": port, "Tags": ["metrics"]}
    api.put("agent/service/register", body | {"Check": {"TTL": "10m", "Status": "passing"}})


def one_node():
    api = interop_faults.Api([f"http://127.0.0.1:{CONSUL}"], [f"http://127.0.0.1:{NODE}"])
    api.token = api.token_of("operator")
    one, two, shop = (
        ("127.0.0.1:9001", "web", "passing"),
        ("127.0.0.1:9002", "web", "passing"),
        ("127.0.0.1:9003", "shop", "passing"),
    )
    with discovery(f"127.0.0.1:{CONSUL}", api.token_of("viewer")) as seen:
        register(api, "web", 1, 9001)
        register(api, "web", 2, 9002)
        until("two instances", seen, [one, two])
        register(api, "shop", 1, 9003)
        until("a second service", seen, [one, two, shop])
        api.put("agent/check/fail/service:web-2")
        until("one failed", seen, [one, (two[0], "web", "critical"), shop])
        api.put("agent/service/deregister/web-2")
        until("one deregistered", seen, [one, shop])
        api.put("agent/service/deregister/shop-1")
        until("a service is gone", seen, [one])


def three_nodes():
    with interop_faults.Cluster() as cluster:
        api, own = cluster.api, 0
        # Changes go through the other nodes while the client's own node does not answer.
        api.consul = api.native = cluster.urls[1:] + cluster.urls[:1]
        at = 1
        register(api, "web", at, 9000 + at)
        with discovery(cluster.urls[own].removeprefix("http://"), api.token_of("viewer")) as seen:
            until("one instance, three nodes", seen, [("127.0.0.1:9001", "web", "passing")])
            found = len(seen)

            def follows(what):
                nonlocal at
                at += 1
                register(api, "web", at, 9000 + at)
                api.put(f"agent/service/deregister/web-{at - 1}")
                until(what, seen, [(f"127.0.0.1:{9000 + at}", "web", "passing")])

            interop_faults.faults(cluster, own, follows)
            if not all(seen[found:]):
                raise SystemExit(f"a list without targets: {seen}")
            print(f"  {len(seen) - found} lists, each with a target")


one_node()
three_nodes()
