"""The script of scripts/interop.sh consul-python: what each client of Consul does, with py-consul.

Arguments: the port of the node, and a token.
"""

import sys
import threading
import time

import consul

port, token = int(sys.argv[1]), sys.argv[2]
client = consul.Consul(host="127.0.0.1", port=port, token=token)


def expect(is_so, what):
    if not is_so:
        sys.exit(f"not as expected: {what}")
    print(f"  {what}")


check = consul.Check.ttl("60s")
assert client.agent.service.register(
    "python", service_id="python-1", address="10.0.0.1", port=8080, tags=["v1", "blue"], meta={"team": "a"}, check=check
)
index, entries = client.health.service("python", passing=True)
expect(entries == [], "registered: critical until the first report")

woken = {}


def wait():
    woken["index"], woken["entries"] = client.health.service("python", passing=True, index=index, wait="60s")
    woken["at"] = time.monotonic()


waiter = threading.Thread(target=wait)
waiter.start()
time.sleep(0.2)
reported = time.monotonic()
client.agent.check.ttl_pass("service:python-1")
waiter.join()
expect(len(woken["entries"]) == 1, "passing: the waiting query was woken")
print(f"  woken {(woken['at'] - reported) * 1000:.0f} ms after the report")
same, _ = client.health.service("python", passing=True, index=woken["index"], wait="300ms")
expect(same == woken["index"], "no change: the index is the same after the wait")
_, found = client.catalog.service("python", tag="blue")
expect(found[0]["ServiceMeta"] == {"team": "a"}, "the catalog, with a tag")
_, services = client.catalog.services()
expect(services["python"] == ["blue", "v1"], "all services with their tags")
expect("python-1" in client.agent.services(), "the services of the agent")
_, nodes = client.catalog.nodes()
expect(len(nodes) >= 1, "the nodes")
client.agent.check.ttl_fail("service:python-1", notes="disk is full")
_, entries = client.health.service("python")
expect(entries[0]["Checks"][1]["Status"] == "critical", "failed: it stays listed")
client.agent.service.deregister("python-1")
_, entries = client.health.service("python")
expect(entries == [], "deregistered")
expect(client.agent.check.ttl_pass("service:python-1") is False, "a report about it is refused")
expect(client.status.leader() != "", "the leader")
