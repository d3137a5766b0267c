"""The checks of scripts/interop.sh dns-NAME: interop_dns.py PORT_OF_THE_NODE PORT_OF_THE_PROXY. The proxy finds the
instances of the service web in DNS."""

import http.client
import http.server
import json
import os
import sys
import threading
import time

NODE, FRONT = int(sys.argv[1]), int(sys.argv[2])
# The proxies ask each second.
PATIENCE_S = 30
INSTANCES = 10
# Requests in a round: several times as many as instances.
ROUND = 60


class Instance(http.server.BaseHTTPRequestHandler):
    """Answers with its own port."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        body = str(self.server.server_address[1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def call(method, path, body=None, token=None):
    connection = http.client.HTTPConnection("127.0.0.1", NODE, timeout=10)
    fields = {"content-type": "application/json"}
    if token:
        fields["authorization"] = f"Bearer {token}"
    connection.request(method, f"/api/v1{path}", json.dumps(body) if body else None, fields)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status < 300, (path, answer.status, text)
    return json.loads(text) if text else None


def path_of(port):
    return f"/services/default/web/instances/i{port}"


def answering():
    """Who answers a round of requests through the proxy, and with which errors."""
    found, errors = set(), 0
    for _ in range(ROUND):
        connection = http.client.HTTPConnection("127.0.0.1", FRONT, timeout=10)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                found.add(int(body))
            else:
                errors += 1
        except OSError:
            errors += 1
        finally:
            connection.close()
    return found, errors


def until(what, expected):
    began = time.monotonic()
    found, errors = answering()
    while found != expected or errors:
        assert time.monotonic() - began < PATIENCE_S, (what, sorted(found), sorted(expected), errors)
        found, errors = answering()
    print(f"  {what}: the proxy calls exactly these {len(expected)} after {time.monotonic() - began:.1f} s")


# Each on an address of its own, as on machines of its own.
hosts = [f"127.0.0.{at + 2}" for at in range(INSTANCES)]
servers = [http.server.ThreadingHTTPServer((host, 0), Instance) for host in hosts]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
ports = [server.server_address[1] for server in servers]
host_of = dict(zip(ports, hosts))
assert len(host_of) == INSTANCES, "each needs its own port"


def register(port):
    call("PUT", path_of(port), {"address": f"http://{host_of[port]}:{port}", "ttl_ms": 600_000})


user = {"user": os.environ["MAXINE_ADMIN_USERNAME"], "password": os.environ["MAXINE_ADMIN_PASSWORD"]}
token = call("POST", "/session", user)["access_token"]
register(ports[0])
until("one instance registered", {ports[0]})
for port in ports:
    register(port)
until(f"{INSTANCES} registered", set(ports))
call("PUT", path_of(ports[0]) + "/drain", {"reason": "interop"}, token)
until("one drained", set(ports[1:]))
for port in ports[4:]:
    call("DELETE", path_of(port))
until(f"{INSTANCES - 4} deregistered", set(ports[1:4]))
call("DELETE", path_of(ports[0]) + "/drain", None, token)
until("the drain ended", set(ports[:4]))
