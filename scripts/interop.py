"""The checks of scripts/interop.sh: interop.py PORT_OF_THE_NODE NAME=PORT..., with the ports of the server
in front. A name that ends in "+websocket" is tried with a WebSocket too."""

import base64
import hashlib
import http.client
import json
import os
import socket
import statistics
import sys
import threading
import time

NODE = int(sys.argv[1])
# What a server of a WebSocket adds to the client's key (RFC 6455 section 1.3).
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# A stream that is gathered on the way waits for kilobytes, so that this is far above any delay that is not.
LATE_MS = 1_000
TURNS = 20


def register(instance, port):
    connection = http.client.HTTPConnection("127.0.0.1", NODE, timeout=10)
    body = json.dumps({"address": f"http://127.0.0.1:{port}", "ttl_ms": 600_000})
    path = f"/api/v1/services/default/orders/instances/{instance}"
    connection.request("PUT", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status in (200, 201), (answer.status, answer.read())


def watch(name, front, fields):
    """The first bytes of a watch, and each change, arrive at once."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", front, timeout=10)
    connection.request("GET", "/api/v1/watch?service=orders", headers=fields)
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    assert answer.getheader("content-encoding") is None, "it was compressed on the way"
    first = answer.readline()
    first_ms = (time.monotonic() - began) * 1_000
    assert first.startswith(b":"), first
    while not answer.readline().startswith(b"data: "):
        pass
    delays = []
    for turn in range(TURNS):
        began = time.monotonic()
        instance = f"{name}-{turn}-{len(fields)}".replace("+", "-")
        register(instance, 1_000 + turn)
        while instance.encode() not in answer.readline():
            pass
        delays.append((time.monotonic() - began) * 1_000)
    connection.close()
    shown = "".join(f", {field}: {value}" for field, value in fields.items())
    print(
        f"  {name}, watch{shown}: first byte after {first_ms:.0f} ms; {TURNS} registrations seen after"
        f" {statistics.median(delays):.0f} ms (median), {max(delays):.0f} ms (worst)"
    )
    assert first_ms < LATE_MS and max(delays) < LATE_MS, "late"


def echo_instance():
    """Takes an upgrade, and sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        stream, _ = listener.accept()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += stream.recv(1)
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
        assert fields[b"upgrade"] == b"websocket", head
        # The key has a case.
        key = head[head.lower().index(b"sec-websocket-key: ") + 19 :].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest())
        stream.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        while data := stream.recv(4_096):
            stream.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def websocket(name, front):
    """A tunnel through the server in front and Maxine's proxy carries bytes both ways."""
    connection = http.client.HTTPConnection("127.0.0.1", NODE, timeout=10)
    address = {"address": f"http://127.0.0.1:{echo_instance()}", "ttl_ms": 600_000}
    path = "/api/v1/services/default/echo/instances/a"
    connection.request("PUT", path, json.dumps(address), {"content-type": "application/json"})
    assert connection.getresponse().status in (200, 201)
    stream = socket.create_connection(("127.0.0.1", front), timeout=10)
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(
        "GET /api/maxine/serviceops/proxy/echo/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        assert byte, head
        head += byte
    assert head.startswith(b"HTTP/1.1 101 "), head
    delays = []
    for turn in range(TURNS):
        message = f"message {turn}".encode()
        began = time.monotonic()
        stream.sendall(message)
        got = b""
        while len(got) < len(message):
            got += stream.recv(4_096)
        assert got == message, got
        delays.append((time.monotonic() - began) * 1_000)
    print(f"  {name}, WebSocket: {TURNS} messages there and back in {max(delays):.1f} ms at most")
    assert max(delays) < LATE_MS, "late"


for argument in sys.argv[2:]:
    name, port = argument.split("=")
    watch(name, int(port), {})
    watch(name, int(port), {"Accept-Encoding": "gzip"})
    if name.endswith("+websocket"):
        websocket(name, int(port))
