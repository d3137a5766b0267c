"""Keeps itself registered as an instance of worker, and prints the passing instances of web after each change.

Arguments: the address of a node, and a token.
"""

import json
import sys
import threading
import time

import consul

host, _, port = sys.argv[1].partition(":")
client = consul.Consul(host=host, port=int(port), token=sys.argv[2])


def report():
    while True:
        time.sleep(3)
        try:
            client.agent.check.ttl_pass("service:worker-1")
        except Exception as error:
            print(error, file=sys.stderr)


check = consul.Check.ttl("20s") | {"status": "passing"}
assert client.agent.service.register("worker", service_id="worker-1", address="10.0.0.1", port=8080, check=check)
threading.Thread(target=report, daemon=True).start()
index, shown = None, None
while True:
    try:
        index, entries = client.health.service("web", passing=True, index=index, wait="60s")
    except Exception as error:
        print(error, file=sys.stderr)
        index = None
        time.sleep(1)
        continue
    ids = [entry["Service"]["ID"] for entry in entries]
    if ids != shown:
        print(json.dumps(ids), flush=True)
    shown = ids
