#!/usr/bin/env python3
"""Traefik with the provider consulCatalog, against one node, and then against three with faults.

    interop_traefik.py PORT_OF_THE_NODE PORT_FOR_CONSUL TRAEFIK

scripts/interop.sh consul-traefik starts the node and installs Traefik.
"""

import collections
import contextlib
import http.client
import http.server
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import interop_faults
from ports import free_port

NODE, CONSUL, TRAEFIK = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
# The Go client waits 5 s after the first failed request, 20 s after the second one, and 45 s after the third one.
PATIENCE_S = 120
# Requests in a round: several times as many as instances.
ROUND = 30


class Instance(http.server.BaseHTTPRequestHandler):
    """Answers with its own port."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = str(self.server.server_address[1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def start_instance():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Instance)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def call(front, host):
    """The answer through Traefik: the port of an instance, or the status if it is not 200, or the error."""
    connection = http.client.HTTPConnection("127.0.0.1", front, timeout=10)
    try:
        connection.request("GET", "/", headers={"host": host})
        answer = connection.getresponse()
        body = answer.read()
        return int(body) if answer.status == 200 else f"status {answer.status}"
    except OSError as error:
        return repr(error)
    finally:
        connection.close()


def until(what, front, host, expected):
    """Waits until the answers of a round are exactly the expected ones."""
    began = time.monotonic()
    while (found := {call(front, host) for _ in range(ROUND)}) != expected:
        if time.monotonic() - began > PATIENCE_S:
            raise SystemExit(f"{what}: {found}, expected {expected}")
        time.sleep(0.05)
    print(f"  {what}: after {time.monotonic() - began:.1f} s", flush=True)


@contextlib.contextmanager
def traefik(consul, token, folder):
    """A Traefik with the settings of the guide and the address of Consul's API; the port on which it listens."""
    front = free_port()
    settings = interop_faults.guide("consul-traefik", "consul.example", {
        '":80"': f"127.0.0.1:{front}", "consul.example:8500": consul, "TOKEN": token,
    })
    file = pathlib.Path(folder, f"traefik-{front}.yml")
    file.write_text(settings + "global:\n  checkNewVersion: false\n")
    log = file.with_suffix(".log")
    with open(log, "w") as out:
        process = subprocess.Popen([TRAEFIK, f"--configFile={file}"], stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield front
    except BaseException:
        print(log.read_text()[-4000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


class Calls:
    """Calls a host through Traefik about 50 times a second, and counts the answers that are not 200."""

    def __init__(self, front, host):
        self.front, self.host, self.count, self.failed = front, host, 0, collections.Counter()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ended.wait(0.02):
            answer = call(self.front, self.host)
            self.count += 1
            if not isinstance(answer, int):
                self.failed[answer] += 1

    def end(self):
        self.ended.set()
        self.thread.join()
        print(f"  {self.count} calls, {self.failed.total()} failed")
        if self.failed:
            raise SystemExit(f"failed calls: {dict(self.failed)}")


def register(api, service, port, *tags):
    api.put("agent/service/register", {
        "ID": f"{service}-{port}", "Name": service, "Address": "127.0.0.1", "Port": port,
        "Tags": ["traefik.enable=true", f"traefik.http.routers.{service}.rule=Host(`{service}.example`)", *tags],
        "Check": {"TTL": "10m", "Status": "passing"},
    })


def deregister(api, service, port):
    api.put(f"agent/service/deregister/{service}-{port}")


def one_node(folder):
    api = interop_faults.Api([f"http://127.0.0.1:{CONSUL}"], [f"http://127.0.0.1:{NODE}"])
    api.token = api.token_of("operator")
    one, two, three = ports = [start_instance() for _ in range(3)]
    host = "web.example"
    with traefik(f"127.0.0.1:{CONSUL}", api.token_of("viewer"), folder) as front:
        register(api, "web", one)
        until("one instance registered", front, host, {one})
        until("another host has no route", front, "shop.example", {"status 404"})
        for port in ports:
            register(api, "web", port)
        until("three registered", front, host, set(ports))
        api.drain("PUT", "web", f"web-{one}")
        until("one drained", front, host, {two, three})
        api.put(f"agent/check/fail/service:web-{two}")
        until("the check of another one failed", front, host, {three})
        api.put(f"agent/check/warn/service:web-{two}")
        until("its check warns", front, host, {two, three})
        api.put(f"agent/check/pass/service:web-{two}")
        api.drain("DELETE", "web", f"web-{one}")
        until("the drain ended", front, host, set(ports))
        register(api, "shop", one, "traefik.http.middlewares.slow.ratelimit.average=1000",
                 "traefik.http.routers.shop.middlewares=slow")
        until("a second service, with a middleware", front, "shop.example", {one})
        deregister(api, "web", three)
        until("one deregistered", front, host, {one, two})
        api.put("agent/service/register", {"ID": f"shop-{one}", "Name": "shop", "Address": "127.0.0.1", "Port": one})
        until("the tags of a service removed: no route", front, "shop.example", {"status 404"})
        for port in (one, two):
            deregister(api, "web", port)
        until("all deregistered: no route", front, host, {"status 404"})


def three_nodes(folder):
    with interop_faults.Cluster() as cluster:
        api, own = cluster.api, 0
        # Changes go through the other nodes while the client's own node does not answer.
        api.consul = api.native = cluster.urls[1:] + cluster.urls[:1]
        address = cluster.urls[own].removeprefix("http://")
        there = [start_instance(), start_instance()]
        with traefik(address, api.token_of("viewer"), folder) as front:
            for port in there:
                register(api, "web", port)
            until("two instances, three nodes", front, "web.example", set(there))
            calls = Calls(front, "web.example")

            def follows(what):
                there.append(start_instance())
                register(api, "web", there[-1])
                # The instance that leaves still answers, so no call may fail.
                deregister(api, "web", there.pop(0))
                until(what, front, "web.example", set(there))

            interop_faults.faults(cluster, own, follows)
            calls.end()


with tempfile.TemporaryDirectory() as scratch:
    one_node(scratch)
    three_nodes(scratch)
