"""A cluster of three nodes that speaks Consul's API, and the faults that a client of Consul must outlive.

The scripts of the cases whose names begin with consul- use it.
"""

import json
import os
import pathlib
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sdks

USER, PASSWORD = "interop", "interop-on-loopback"
os.environ.update(MAXINE_CONSUL_ON_HTTP="true", MAXINE_ADMIN_USERNAME=USER, MAXINE_ADMIN_PASSWORD=PASSWORD)


def guide(page, containing, replaced=None):
    """The block of a guide that contains a text, with some texts replaced: what the guide says is what runs."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", (sdks.ROOT / f"docs/guides/{page}.md").read_text(), re.S | re.M)
    block = next(block for block in blocks if containing in block)
    for old, new in (replaced or {}).items():
        if old not in block:
            raise SystemExit(f"docs/guides/{page}.md has no {old!r}")
        block = block.replace(old, new)
    return block


class Api:
    """The API of Consul and the native one, of the first of some nodes that answers."""

    def __init__(self, consul, native, token=None):
        self.consul, self.native, self.token = consul, native, token

    def send(self, method, urls, path, body=None, fields=None, patience_s=60):
        """The answer of the first node that accepts the request. It is sent again while no node does."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json"} | (fields or {})
        end = time.monotonic() + patience_s
        while True:
            for url in urls:
                request = urllib.request.Request(url + path, data, fields, method=method)
                try:
                    with urllib.request.urlopen(request, timeout=5) as answer:
                        return answer.read()
                except urllib.error.HTTPError as error:
                    last = f"{error}: {error.read().decode()}"
                    if error.code < 500:
                        raise SystemExit(f"{method} {path}: {last}") from error
                except OSError as error:
                    last = error
            if time.monotonic() > end:
                raise SystemExit(f"{method} {path}: {last}")
            time.sleep(0.1)

    def put(self, path, body=None):
        """PUT on Consul's API."""
        return self.send("PUT", self.consul, f"/v1/{path}", body, {"x-consul-token": self.token})

    def get(self, path):
        """GET on Consul's API."""
        return json.loads(self.send("GET", self.consul, f"/v1/{path}", None, {"x-consul-token": self.token}))

    def delete(self, path):
        """DELETE on Consul's API."""
        return self.send("DELETE", self.consul, f"/v1/{path}", None, {"x-consul-token": self.token})

    def drain(self, method, service, instance):
        """Begins (PUT) or ends (DELETE) a drain, through the native API."""
        body = {"reason": "interop"} if method == "PUT" else None
        path = f"/api/v1/services/default/{service}/instances/{instance}/drain"
        self.send(method, self.native, path, body, {"authorization": f"Bearer {self.token}"})

    def token_of(self, role):
        """A new token, made as a user would make it."""
        session = self.send("POST", self.native, "/api/v1/session", {"user": USER, "password": PASSWORD})
        fields = {"authorization": f"Bearer {json.loads(session)['access_token']}"}
        return json.loads(self.send("POST", self.native, "/api/v1/tokens", {"role": role}, fields))["token"]


class Cluster(sdks.Cluster):
    """Three nodes with Consul's API on their port."""

    def __enter__(self):
        super().__enter__()
        self.api = Api(self.urls, self.urls)
        self.api.token = self.api.token_of("operator")
        return self

    def signal(self, at, number):
        os.kill(self.pid(at), number)

    def wait_for_leader(self):
        sdks.wait_for(lambda: self.leader() is not None, "a leader")


def faults(cluster, own, follows):
    """Makes the faults in turn. `own` is the node that the client asks, and `follows(what)` makes a change through the other
    nodes and returns when the client has followed it."""
    others = [at for at in range(3) if at != own]
    # The client's node is a follower at first.
    while cluster.leader() == own:
        cluster.signal(own, signal.SIGTERM)
        cluster.restart(own)
        cluster.wait_for_leader()

    leader = cluster.leader()
    cluster.signal(leader, signal.SIGKILL)
    follows("the leader is killed")
    cluster.restart(leader)
    follows("it is back")

    cluster.signal(own, signal.SIGKILL)
    back = threading.Timer(5, cluster.restart, [own])
    back.start()
    follows("the client's own node is killed, and is back after 5 s")
    back.join()

    # The client's node alone: it has no leader, and answers from its copy.
    for at in others:
        cluster.signal(at, signal.SIGSTOP)
    time.sleep(15)
    for at in others:
        cluster.signal(at, signal.SIGCONT)
    cluster.wait_for_leader()
    follows("the client's own node was alone for 15 s")

    for at in range(3):
        cluster.signal(at, signal.SIGTERM)
        cluster.restart(at)
    follows("each node was stopped and started")
