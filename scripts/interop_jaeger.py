#!/usr/bin/env python3
"""Exports traces of a cluster of three nodes to a real Jaeger: scripts/interop.sh jaeger.

1. Over gRPC and then over HTTP, with every request sampled: the traces of proxied requests, look-ups and writes, as
   docs/guides/monitoring.md describes them, with a caller and an instance that send spans of their own.
2. Jaeger is stopped, and then frozen: requests are answered as before, and the loss is counted. Jaeger comes back: the export
   continues.
3. Without sampling: only failures and slow requests.
4. A Jaeger with TLS that asks for a password: it is taken from a file, also after a change.

One line for each check; the first one that fails ends the script. Everything listens on loopback and ends with the script.
docs/reference/interoperability.md has the last result.

    JAEGER_BIN   the program (default: scripts/jaeger.sh builds it)
    MAXINE_BIN   the binary (default: target/debug/maxine)
"""
import base64
import contextlib
import datetime
import http.client
import http.server
import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import sdks
from ports import free_port, free_ports

sys.path.insert(0, str(sdks.ROOT / "deploy/jaeger"))
import show_trace

USER, PASSWORD = "interop", "interop-on-loopback"
# Small, so that the outage fills it.
QUEUE_MAX = 512
# The largest delivery. One is in flight while the receiver is away, and does not count as waiting.
BATCH_MAX = 256
TIMEOUT_MS = 1_000
# A node closes a connection that has had no request for 10 s.
IDLE_S = 5
OUTAGE_REQUESTS = 1_500
# The pause after a failed delivery is at most 30 s.
PATIENCE_S = 60
PROXY = "/api/maxine/serviceops/proxy"
JSON = {"content-type": "application/json"}


def check(condition, what, seen=""):
    """Prints a check that succeeded, and ends the script with one that failed."""
    if not condition:
        raise SystemExit(f"NOT as expected: {what}: {seen}")
    print(f"  {what}", flush=True)


def until(what, found, patience_s=PATIENCE_S):
    """Waits until `found` returns something, and returns it."""
    end = time.monotonic() + patience_s
    while True:
        value = found()
        if value:
            return value
        if time.monotonic() > end:
            raise SystemExit(f"NOT seen in {patience_s} s: {what}")
        time.sleep(0.05)


class Jaeger:
    """A Jaeger with the configuration in deploy/jaeger, on free ports."""

    def __init__(self, program, directory, change=lambda text: text):
        text = (sdks.ROOT / "deploy/jaeger/jaeger.yaml").read_text()
        self.grpc, self.http, query, api = free_ports(4)
        for port, free in (("4317", self.grpc), ("4318", self.http), ("16686", query), ("16685", api)):
            assert f"127.0.0.1:{port}" in text, port
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        self.url = f"http://127.0.0.1:{query}"
        self.program, self.directory = program, Path(directory)
        self.config = self.directory / "jaeger.yaml"
        self.config.write_text(change(text))
        self.process = None

    def start(self):
        with open(self.directory / "jaeger.log", "ab") as log:
            self.process = subprocess.Popen([self.program, "--config", self.config], stdout=log, stderr=log)

        def answers():
            if self.process.poll() is not None:
                raise SystemExit("Jaeger has ended:\n" + (self.directory / "jaeger.log").read_text()[-2000:])
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.grpc), 1):
                return self.ask("/api/services") is not None

        until("Jaeger", answers)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def ask(self, path):
        """The list in an answer; None without an answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return json.load(answer)["data"] or []
        except OSError:
            return None

    def trace(self, trace, names):
        """The spans of a trace, once spans with these names are among them."""
        spans = []

        def whole():
            spans[:] = show_trace.spans_of(self.url, trace)
            return not names - {span["name"] for span in spans}

        until(f"{sorted(names)} in the trace {trace} in Jaeger", whole)
        return spans

    def has(self, traces):
        """How many of these traces Jaeger has."""
        found = 0
        for at in range(0, len(traces), 50):
            # The limits of the search apply to searches by id, too.
            query = urllib.parse.urlencode([("traceID", each) for each in traces[at:at + 50]])
            found += len(self.ask(f"/api/traces?{query}") or [])
        return found

    def send_span(self, service, trace, span, parent, kind, name):
        """Sends a span of another program, over OTLP with JSON."""
        now = time.time_ns()
        one = {
            "traceId": trace, "spanId": span, "parentSpanId": parent, "kind": kind, "name": name,
            "startTimeUnixNano": str(now - 1_000_000), "endTimeUnixNano": str(now),
        }
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [one]}]}]}
        url = f"http://127.0.0.1:{self.http}/v1/traces"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), JSON), timeout=10) as answer:
            assert answer.status == 200


class Instance:
    """An instance that notes the trace context of each request, and answers with the status and after the time in ms that the
    path names."""

    def __init__(self):
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise each small answer waits for an acknowledgement.
            disable_nagle_algorithm = True

            def answer(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                seen.append({name: self.headers.get(name) for name in ("traceparent", "tracestate", "baggage", "x-trace-id")})
                late = re.search(r"/late/(\d+)", self.path)
                time.sleep(int(late[1]) / 1_000 if late else 0)
                named = re.search(r"/status/(\d+)", self.path)
                self.send_response(int(named[1]) if named else 200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Node:
    """A connection to one node."""

    def __init__(self, url):
        self.url = url
        self.connection = http.client.HTTPConnection(urllib.parse.urlparse(url).netloc, timeout=30)
        self.used_at = 0.0

    def ask(self, method, path, body=None, fields=None):
        """The status, the fields and the body of an answer."""
        data = None if body is None else json.dumps(body).encode()
        if time.monotonic() - self.used_at > IDLE_S:
            self.connection.close()
        self.used_at = time.monotonic()
        self.connection.request(method, path, data, (JSON if data else {}) | (fields or {}))
        answer = self.connection.getresponse()
        text = answer.read().decode()
        return answer.status, answer.headers, text

    def done(self, method, path, body=None, fields=None):
        """An answer that must be a good one: its fields, and its JSON."""
        status, headers, text = self.ask(method, path, body, fields)
        assert 200 <= status < 300, f"{method} {path}: {status} {text}"
        return headers, json.loads(text) if headers.get_content_type() == "application/json" else text

    def timed(self, count):
        """Sends requests through the proxy in turn. Their traces, and the times until their answers in ms."""
        traces, times = [], []
        for _ in range(count):
            began = time.monotonic()
            headers, _ = self.done("GET", f"{PROXY}/orders/load")
            times.append((time.monotonic() - began) * 1_000)
            traces.append(trace_of(headers))
        return traces, times


def trace_of(headers):
    return headers["traceparent"].split("-")[1]


def span_of(headers):
    return headers["traceparent"].split("-")[2]


def shown(times):
    return f"median {statistics.median(times):.1f} ms, p99 {statistics.quantiles(times, n=100)[98]:.1f} ms"


class Trial:
    """A cluster that exports to a Jaeger."""

    def __init__(self, jaeger, cluster):
        self.jaeger, self.cluster = jaeger, cluster
        self.nodes = [Node(url) for url in cluster.urls]
        session = self.nodes[0].done("POST", "/api/v1/session", {"user": USER, "password": PASSWORD})[1]
        self.admin = {"authorization": f"Bearer {session['access_token']}"}
        self.scrapes = []

    def register(self, service, instance, address):
        path = f"/api/v1/services/default/{service}/instances/{instance}"
        self.nodes[0].done("PUT", path, {"address": address, "ttl_ms": 3_600_000})
        for node in self.nodes:
            until("the instance on every node", lambda: node.ask("GET", path)[0] == 200)

    def counted(self, at):
        """What a node has counted about its export."""
        headers, text = self.nodes[at].done("GET", "/api/actuator/prometheus", fields=self.admin)
        self.scrapes.append(trace_of(headers))
        values = {result: 0.0 for result in ("exported", "lost", "refused")}
        for name, value in re.findall(r'^maxine_otlp_requests_total\{[^}]*result="(\w+)"[^}]*\} (\S+)', text, re.M):
            values[name] = float(value)
        for name in ("maxine_otlp_delivery_failures_total", "maxine_otlp_requests_waiting"):
            values[name] = float(re.search(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", text, re.M)[1])
        return values

    def proxied(self):
        """The trace of a proxied request, from the caller to the instance."""
        instance = Instance()
        self.register("orders", "a", instance.url)
        # The plain GET takes the fast path, and the POST another one.
        for at, node in enumerate(self.nodes):
            for method in ("GET", "POST"):
                trace, caller = secrets.token_hex(16), secrets.token_hex(8)
                given = {"traceparent": f"00-{trace}-{caller}-01", "tracestate": "vendor=1", "baggage": "tenant=7"}
                body = {} if method == "POST" else None
                answered, _ = node.done(method, f"{PROXY}/orders/x?secret=1", body, given)
                seen = instance.seen[-1]
                assert (seen["tracestate"], seen["baggage"]) == ("vendor=1", "tenant=7"), seen
                assert trace_of(answered) == trace_of(seen) == trace == answered["x-trace-id"] == seen["x-trace-id"], (answered, seen)
                assert seen["traceparent"].endswith("-01"), seen
                inside = secrets.token_hex(8)
                self.jaeger.send_span("shop", trace, caller, "", 3, "buy")
                self.jaeger.send_span("orders", trace, inside, span_of(seen), 2, "handle")
                name = f"{method} proxied orders"
                spans = self.jaeger.trace(trace, {"buy", name, "choose instance", method, "handle"})
                assert len(spans) == 5, spans
                by = {span["name"]: span for span in spans}
                parents = {name: by[name]["parent"] for name in by}
                expected = {
                    "buy": None, name: caller, "choose instance": span_of(answered), method: span_of(answered),
                    "handle": span_of(seen),
                }
                assert parents == expected, (parents, expected)
                assert (by[name]["id"], by[method]["id"]) == (span_of(answered), span_of(seen)), spans
                self.has_attributes(by[name], {
                    "span.kind": "server", "http.request.method": method, "http.response.status_code": 200,
                    "url.scheme": "http", "url.path": f"{PROXY}/orders/x", "client.address": "127.0.0.1",
                    "network.protocol.version": "1.1", "maxine.kind": "proxied", "maxine.namespace": "default",
                    "maxine.service": "orders", "maxine.trace_id": trace, "maxine.exported_because": "sampled",
                }, {"url.query", "error"})
                self.has_attributes(by["choose instance"], {"span.kind": "internal", "maxine.instance": "a"}, {"error"})
                port = urllib.parse.urlparse(instance.url).port
                self.has_attributes(by[method], {
                    "span.kind": "client", "http.request.method": method, "http.response.status_code": 200,
                    "server.address": "127.0.0.1", "server.port": port, "maxine.instance": "a",
                }, {"error", "http.request.resend_count"})
                resource = by[name]["resource"]
                own = {
                    "service.instance.id": f"node-{at + 1}", "service.namespace": "maxine-dev",
                    "deployment.environment.name": "interop", "process.pid": self.cluster.pid(at),
                }
                assert {key: resource.get(key) for key in own} == own and "service.version" in resource, resource
                assert by[name]["service"] == "maxine", by[name]
                self.nested(by, [(name, "choose instance"), (name, method)])
        check(True, "a proxied GET and POST at each node: caller, node, choice, attempt and instance are one trace")
        self.instance = instance

    def has_attributes(self, span, expected, absent=()):
        attributes = span["attributes"]
        found = {key: attributes.get(key) for key in expected}
        assert found == expected, f"{span['name']}: {found}, expected {expected}"
        assert not absent & attributes.keys(), f"{span['name']}: {absent & attributes.keys()}"

    def nested(self, by, pairs):
        """Each second span is within the time of the first one."""
        for outer, inner in pairs:
            outer, inner = by[outer], by[inner]
            ends = [span["start_us"] + span["duration_us"] for span in (outer, inner)]
            assert outer["start_us"] <= inner["start_us"] and ends[1] <= ends[0], (outer, inner)

    def failures(self):
        """Attempts that fail, answers of instances that are errors, and the search for them."""
        node = self.nodes[0]
        nobody = free_port()
        self.register("retried", "good", self.instance.url)
        self.register("retried", "bad", f"http://127.0.0.1:{nobody}")
        policy = {"traffic": {"retries": {"attempts": 2, "budget_percent": 100}}}
        node.done("PUT", "/api/v1/services/default/retried/policy", policy, self.admin)

        def retried():
            headers, _ = node.done("GET", f"{PROXY}/retried/x")
            spans = self.jaeger.trace(trace_of(headers), {"GET proxied retried", "GET"})
            attempts = [span for span in spans if span["name"] == "GET"]
            return attempts if len(attempts) == 2 else None

        first, second = until("a request with two attempts", retried)
        self.has_attributes(first, {"error.type": "connect_failed", "error": True, "maxine.instance": "bad"})
        self.has_attributes(second, {"http.request.resend_count": 1, "http.response.status_code": 200, "maxine.instance": "good"}, {"error"})
        check(True, "a repeated attempt: the failed one with its error, and the next one with its number")

        self.register("broken", "b", f"http://127.0.0.1:{nobody}")
        # The caller's flag says that it is not sampled. It is exported because it failed.
        given = secrets.token_hex(16)
        parent = secrets.token_hex(8)
        status, headers, _ = node.ask("GET", f"{PROXY}/broken/x", fields={"traceparent": f"00-{given}-{parent}-00"})
        assert status == 502 and trace_of(headers) == given, (status, headers)
        spans = self.jaeger.trace(given, {"GET proxied broken"})
        by = {span["name"]: span for span in spans}
        self.has_attributes(by["GET proxied broken"], {
            "http.response.status_code": 502, "error.type": "connect_failed", "error": True, "otel.status_code": "ERROR",
            "maxine.exported_because": "error",
        })
        # A search for error=true finds nothing in the memory of this version of Jaeger.
        tags = json.dumps({"error.type": "connect_failed", "http.response.status_code": "502"})
        query = urllib.parse.urlencode({"service": "maxine", "operation": "GET proxied broken", "tags": tags, "limit": 20})
        found = {trace["traceID"] for trace in self.jaeger.ask(f"/api/traces?{query}")}
        assert given in found, found
        check(True, "a call that failed: exported although its caller did not sample it, and found by a search for its error and status")

        quiet = secrets.token_hex(16)
        node.done("GET", f"{PROXY}/orders/x", fields={"traceparent": f"00-{quiet}-{parent}-00"})
        assert self.instance.seen[-1]["traceparent"].endswith("-00"), self.instance.seen[-1]
        headers, _ = node.done("GET", f"{PROXY}/orders/x")
        self.jaeger.trace(trace_of(headers), {"GET"})
        check(not show_trace.spans_of(self.jaeger.url, quiet), "a call that its caller did not sample is not exported")

        status, headers, _ = node.ask("GET", f"{PROXY}/orders/status/503")
        assert status == 503, status
        by = {span["name"]: span for span in self.jaeger.trace(trace_of(headers), {"GET proxied orders", "GET"})}
        for name in ("GET proxied orders", "GET"):
            self.has_attributes(by[name], {"http.response.status_code": 503, "error.type": "503", "error": True})
        check(True, "an error of an instance is an error of the attempt and of the request")

    def lookups(self):
        for node in self.nodes:
            headers, _ = node.done("GET", "/api/v1/resolve/default/orders")
            spans = self.jaeger.trace(trace_of(headers), {"GET lookup orders"})
            self.has_attributes(spans[0], {"maxine.kind": "lookup", "maxine.service": "orders", "http.response.status_code": 200})
        check(True, "look-ups at each node")

    def writes(self):
        """A write at each node, which the leader commits."""
        leader = self.cluster.leader()
        times = {}
        for at, node in enumerate(self.nodes):
            registration = {"hostName": "127.0.0.1", "nodeName": f"w{at}", "serviceName": "written", "port": 9, "timeOut": 600}
            headers, _ = node.done("POST", "/api/maxine/serviceops/register", registration)
            names = {"POST registration", "write", "actor mailbox", "wait for batch", "proposal", "commit", "apply"}
            by = {span["name"]: span for span in self.jaeger.trace(trace_of(headers), names)}
            pairs = [
                ("POST registration", "write"), ("write", "actor mailbox"), ("write", "wait for batch"), ("write", "proposal"),
                ("proposal", "commit"), ("proposal", "apply"),
            ]
            for outer, inner in pairs:
                assert by[inner]["parent"] == by[outer]["id"], (inner, outer)
            self.nested(by, pairs)
            ends = [by["commit"]["start_us"] + by["commit"]["duration_us"], by["apply"]["start_us"]]
            # Times are whole microseconds.
            assert ends[0] <= ends[1] + 1, by
            write = by["write"]["attributes"]
            assert write["maxine.index"] > 0 and write["maxine.batch.size"] >= 1, write
            times[at] = by["proposal"]["duration_us"] / 1_000
        follower = statistics.mean(time for at, time in times.items() if at != leader)
        check(True, f"a write at each node: mailbox, batch, proposal, commit and apply; proposal {times[leader]:.1f} ms at the leader, {follower:.1f} ms at a follower")

    def write_without_majority(self):
        """Two of three nodes are killed: the failed write is in Jaeger, with its reason."""
        killed = [1, 2]
        for at in killed:
            os.kill(self.cluster.pid(at), signal.SIGKILL)
        registration = {"hostName": "127.0.0.1", "nodeName": "lost", "serviceName": "written", "port": 9, "timeOut": 600}

        def refused():
            status, headers, _ = self.nodes[0].ask("POST", "/api/maxine/serviceops/register", registration)
            return headers if status == 503 else None

        headers = until("a refused write", refused)
        by = {span["name"]: span for span in self.jaeger.trace(trace_of(headers), {"POST registration", "write"})}
        self.has_attributes(by["POST registration"], {"http.response.status_code": 503, "error": True})
        self.has_attributes(by["write"], {"error": True, "error.type": "write_failed"})
        reason = by["write"]["attributes"].get("otel.status_description")
        check(reason, f"a write without a majority: refused, and its span has the reason ({reason})")
        for at in killed:
            sdks.wait_for(lambda: not Path(f"/proc/{self.cluster.pid(at)}").exists(), "the end of a node")
        self.cluster.restart(killed[0])
        # They are other processes, with new connections.
        self.nodes = [Node(url) for url in self.cluster.urls]
        until("a leader", lambda: self.cluster.leader() is not None)

    def every_request(self):
        """With a ratio of 1, no request is missing."""
        count, traces = 300, []
        before = [self.counted(at) for at in range(3)]
        for node in self.nodes:
            traces += node.timed(count)[0]
        until(f"{len(traces)} traces", lambda: self.jaeger.has(traces) == len(traces))
        after = [self.counted(at) for at in range(3)]
        for old, new in zip(before, after):
            assert (new["lost"], new["refused"]) == (old["lost"], old["refused"]), (old, new)
            assert new["exported"] >= old["exported"] + count, (old, new)
        delays = []
        for _ in range(5):
            headers, _ = self.nodes[0].done("GET", f"{PROXY}/orders/x")
            began = time.monotonic()
            self.jaeger.trace(trace_of(headers), {"GET proxied orders"})
            delays.append(time.monotonic() - began)
        check(True, f"{len(traces)} of {len(traces)} requests are in Jaeger; a trace is there {max(delays):.1f} s after the answer at the latest (of {len(delays)})")

    def outage(self, what, begin, end):
        """Jaeger is away for a while."""
        node = self.nodes[0]
        _, good = node.timed(500)
        until("an empty queue", lambda: self.counted(0)["maxine_otlp_requests_waiting"] <= 1)
        begin()
        self.scrapes.clear()
        before = self.counted(0)
        failures = "maxine_otlp_delivery_failures_total"
        first, _ = node.timed(20)
        until("failed deliveries", lambda: self.counted(0)[failures] >= before[failures] + 3)
        traces, bad = node.timed(OUTAGE_REQUESTS)
        median = [statistics.median(times) for times in (good, bad)]
        check(
            median[1] <= 2 * median[0] + 5, f"{what}: {len(bad)} of {len(bad)} requests answered, {shown(bad)} (before: {shown(good)})",
            "much slower",
        )
        until("the queue", lambda: self.counted(0)["maxine_otlp_requests_waiting"] == QUEUE_MAX)
        during = self.counted(0)
        lost = during["lost"] - before["lost"]
        check(
            OUTAGE_REQUESTS - QUEUE_MAX - BATCH_MAX <= lost <= OUTAGE_REQUESTS + 200 and during["refused"] == before["refused"],
            f"{what}: the loss is counted (lost {lost:.0f}, waiting {during['maxine_otlp_requests_waiting']:.0f}, failed deliveries {during[failures] - before[failures]:.0f})",
            during,
        )
        logged = any("traces could not be exported" in path.read_text(errors="replace") for path in Path(self.cluster.directory).rglob("*.log"))
        check(logged, f"{what}: the log names it")
        began = time.monotonic()
        end()
        newest, _ = node.timed(1)
        self.jaeger.trace(newest[0], {"GET proxied orders"})
        took = time.monotonic() - began
        # The newest that waited were kept.
        kept = self.jaeger.has(traces[-QUEUE_MAX // 2:])
        check(kept == QUEUE_MAX // 2, f"{what}, and back: the export continues after {took:.1f} s, with the newest of the requests that waited", kept)
        until("an empty queue", lambda: self.counted(0)["maxine_otlp_requests_waiting"] <= 1)
        after = self.counted(0)
        sent = first + traces + newest + self.scrapes
        # The last scrapes may still be on their way.
        until("the rest of the traces", lambda: self.jaeger.has(sent) + after["lost"] - before["lost"] >= len(sent))
        found, lost = self.jaeger.has(sent), after["lost"] - before["lost"]
        # The last request before may still have waited.
        check(
            found + lost - len(sent) in (0, 1) and after["refused"] == before["refused"],
            f"{what}, and back: of {len(sent)} requests since then, {found} are in Jaeger and {lost:.0f} are counted as lost", after,
        )


@contextlib.contextmanager
def trial(jaeger, protocol, **more):
    """A new cluster that exports to this Jaeger."""
    scheme = more.pop("scheme", "http")
    port = jaeger.grpc if protocol == "grpc" else jaeger.http
    settings = {
        "ENDPOINT": f"{scheme}://127.0.0.1:{port}", "PROTOCOL": protocol, "SAMPLE_RATIO": "1", "QUEUE_MAX": QUEUE_MAX,
        "TIMEOUT_MS": TIMEOUT_MS, "ATTRIBUTES": "deployment.environment.name=interop", "HEADERS_FILE": "", "CA": "",
        "SLOW_MS": 1_000,
    } | more
    for name, value in settings.items():
        os.environ[f"MAXINE_OTLP_{name}"] = str(value)
        if value == "":
            del os.environ[f"MAXINE_OTLP_{name}"]
    with sdks.Cluster() as cluster:
        yield Trial(jaeger, cluster)


def plain(program, directory, protocol):
    print(f"OTLP over {protocol}")
    jaeger = Jaeger(program, directory)
    jaeger.start()
    try:
        with trial(jaeger, protocol) as cluster:
            cluster.proxied()
            cluster.failures()
            cluster.lookups()
            cluster.writes()
            cluster.every_request()
            cluster.outage("Jaeger is stopped", jaeger.stop, jaeger.start)
            cluster.outage(
                "Jaeger is frozen", lambda: jaeger.process.send_signal(signal.SIGSTOP), lambda: jaeger.process.send_signal(signal.SIGCONT),
            )
            cluster.write_without_majority()
            cluster.instance.stop()
    finally:
        jaeger.stop()


def unsampled(program, directory):
    """No request is sampled, and 300 ms are slow."""
    print("OTLP over grpc, without sampling")
    jaeger, instance = Jaeger(program, directory), Instance()
    jaeger.start()
    try:
        with trial(jaeger, "grpc", SAMPLE_RATIO="0", SLOW_MS="300") as cluster:
            cluster.register("orders", "a", instance.url)
            node = cluster.nodes[0]
            quick = trace_of(node.done("GET", f"{PROXY}/orders/x")[0])
            waited = trace_of(node.done("GET", "/api/v1/changes?wait_ms=600", fields=cluster.admin)[0])
            # This query is for the instance.
            late = trace_of(node.done("GET", f"{PROXY}/orders/late/600?index=1")[0])
            status, headers, _ = node.ask("GET", f"{PROXY}/nobody/x")
            failed = trace_of(headers)
            assert status == 503, status
            for trace, name, why in ((late, "GET proxied orders", "slow"), (failed, "GET proxied", "error")):
                by = {span["name"]: span for span in jaeger.trace(trace, {name})}
                cluster.has_attributes(by[name], {"maxine.exported_because": why})
            found = [what for what, trace in (("quick", quick), ("waited", waited)) if jaeger.has([trace])]
            check(not found, "a slow request and a failed one are in Jaeger, a quick one and one that waits for a change are not", found)
    finally:
        jaeger.stop()
        instance.stop()


def certificates(directory):
    """An authority, and a certificate of it for 127.0.0.1."""
    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=interop", "-days", "2")
    openssl("req", *key, "-keyout", "jaeger.key", "-out", "jaeger.csr", "-subj", "/CN=jaeger")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509", "-req", "-in", "jaeger.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "jaeger.pem",
        "-extfile", "names", "-days", "2",
    )


def secured(program, directory, protocol):
    """TLS with an authority of its own, and a password."""
    print(f"OTLP over {protocol}, with TLS and a password")
    directory = Path(directory)
    certificates(directory)
    password = secrets.token_hex(16)

    def with_tls(text):
        text = text.replace("[jaeger_storage, jaeger_query]", "[jaeger_storage, jaeger_query, basicauth]")
        text = text.replace("extensions:\n  jaeger_storage:", f"extensions:\n  basicauth:\n    htpasswd:\n      inline: 'maxine:{password}'\n  jaeger_storage:")
        secure = f"\n        auth:\n          authenticator: basicauth\n        tls:\n          cert_file: {directory}/jaeger.pem\n          key_file: {directory}/jaeger.key"
        receivers = re.compile(r"(receivers:\n  otlp:.*?)(?=\n\n)", re.S)
        return receivers.sub(lambda found: re.sub(r"(endpoint: \S+)", rf"\1{secure}", found[1]), text)

    jaeger = Jaeger(program, directory, with_tls)
    jaeger.start()
    headers_file = directory / "headers"

    def write(word):
        text = base64.b64encode(f"maxine:{word}".encode()).decode()
        headers_file.write_text(f"authorization: Basic {text}\n")

    try:
        write("wrong")
        with trial(jaeger, protocol, scheme="https", HEADERS_FILE=headers_file, CA=directory / "ca.pem") as cluster:
            node = cluster.nodes[0]
            until("refused traces", lambda: cluster.counted(0)["refused"] > 0)
            check(True, "a wrong password: the requests are counted as refused")
            write(password)
            # The file is read before the next delivery.
            headers, _ = node.done("GET", "/api/v1/ready")
            trace = trace_of(headers)
            spans = cluster.jaeger.trace(trace, {"GET"})
            check(spans, "the password in the file is replaced: the next request is in Jaeger")
    finally:
        jaeger.stop()


def main():
    program = os.environ.get("JAEGER_BIN")
    if not os.access(sdks.PROGRAM, os.X_OK):
        sys.exit(f"{sdks.PROGRAM} is not there: cargo build")
    if not program:
        program = subprocess.run([sdks.ROOT / "scripts/jaeger.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    os.environ.update(MAXINE_ADMIN_USERNAME=USER, MAXINE_ADMIN_PASSWORD=PASSWORD)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Only Go can tell the version of a program that it has built.
    built = subprocess.run(["go", "version", "-m", program], capture_output=True, text=True).stdout if shutil.which("go") else ""
    module = re.search(r"github\.com/jaegertracing/jaeger\s+(v\S+)", built)
    maxine = subprocess.run([sdks.PROGRAM, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    print(f"{maxine}, Jaeger {module[1] if module else program}, {datetime.date.today()}", flush=True)
    for what, *settings in ((plain, "grpc"), (plain, "http"), (unsampled,), (secured, "grpc"), (secured, "http")):
        with tempfile.TemporaryDirectory(prefix="maxine-jaeger-") as directory:
            what(program, directory, *settings)
    print("as expected")


if __name__ == "__main__":
    main()
