"""Registers services, and waits until the targets of Prometheus' service discovery are exactly those.

Arguments: the port for clients of Consul, the program with the discovery, and a token.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request

consul, program, token = sys.argv[1:]
discovery = subprocess.Popen([program, f"127.0.0.1:{consul}", token], stdout=subprocess.PIPE, text=True)
seen = []
threading.Thread(target=lambda: seen.extend(map(json.loads, discovery.stdout)), daemon=True).start()


def put(path, body=None):
    data = json.dumps(body).encode() if body else b""
    request = urllib.request.Request(f"http://127.0.0.1:{consul}/v1/{path}", data=data, method="PUT")
    request.add_header("X-Consul-Token", token)
    urllib.request.urlopen(request).read()


def targets():
    return [tuple(target) for target in seen[-1]] if seen else []


def until(what, expected):
    started = time.monotonic()
    while targets() != expected:
        if time.monotonic() - started > 30:
            sys.exit(f"{what}: {targets()}")
        time.sleep(0.05)
    print(f"  {what}: after {time.monotonic() - started:.1f} s")


def register(service, at, port):
    body = {"ID": f"{service}-{at}", "Name": service, "Address": "127.0.0.1", "Port": port, "Tags": ["metrics"]}
    put("agent/service/register", body | {"Check": {"TTL": "60s", "Status": "passing"}})


register("web", 1, 9001)
register("web", 2, 9002)
one, two, shop = (
    ("127.0.0.1:9001", "web", "passing"),
    ("127.0.0.1:9002", "web", "passing"),
    ("127.0.0.1:9003", "shop", "passing"),
)
until("two instances", [one, two])
register("shop", 1, 9003)
until("a second service", [one, two, shop])
put("agent/check/fail/service:web-2")
until("one failed", [one, (two[0], "web", "critical"), shop])
put("agent/service/deregister/web-2")
until("one deregistered", [one, shop])
put("agent/service/deregister/shop-1")
until("a service is gone", [one])
discovery.terminate()
discovery.wait()
