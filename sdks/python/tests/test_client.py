"""The client against nodes that fail in a chosen way, and against a real cluster if `MAXINE_SERVER` names one."""

import asyncio
import http.server
import json
import os
import pathlib
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

from maxine_client import Client, MaxineError
from maxine_client._nodes import Nodes
from maxine_client.aio import AsyncClient

NODES = os.environ.get("MAXINE_SERVER")


class FakeNode:
    """Answers each request with what `answer(method, path, headers)` returns: a status, headers and JSON."""

    def __init__(self, answer, tls=None):
        self.seen, self.bodies = [], []
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self):
                node.bodies.append(self.rfile.read(int(self.headers.get("content-length") or 0)))
                node.seen.append((self.command, self.path, self.headers.get("authorization")))
                status, headers, body = answer(self.command, self.path, self.headers)
                text = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def once(nodes):
    """The same nodes, each of which is not asked again within the time of a call."""
    failed = nodes.failed
    nodes.failed = lambda at, _=None: failed(at, 60)
    return nodes


def problem(status, detail):
    return {"status": status, "detail": detail}


class Failover(unittest.TestCase):
    def test_a_node_that_cannot_be_reached_and_one_without_a_state_are_passed_over(self):
        good = FakeNode(lambda *_: (200, {}, {"ok": 1}))
        bad = FakeNode(lambda *_: (503, {"retry-after": "30"}, problem(503, "no state")))
        nodes = Nodes([closed_port(), bad.url, good.url])
        for _ in range(10):
            self.assertEqual(nodes.json("GET", "/x")[0], {"ok": 1})
        # After its first answer the node is left alone for as long as it has asked.
        self.assertLessEqual(len(bad.seen), 1)

    def test_the_deadline_ends_the_attempts_and_the_last_error_says_why(self):
        # The node asks for more time than there is.
        bad = FakeNode(lambda *_: (503, {"retry-after": "30"}, problem(503, "no leader")))
        with self.assertRaisesRegex(MaxineError, "no leader"):
            Nodes([bad.url]).json("GET", "/x")
        with self.assertRaises(MaxineError) as raised:
            once(Nodes([closed_port()])).json("GET", "/x")
        self.assertEqual(raised.exception.status, 0)

    def test_a_refusal_is_not_repeated(self):
        node = FakeNode(lambda *_: (422, {}, problem(422, "weight must be from 1 to 100")))
        with self.assertRaises(MaxineError) as raised:
            Nodes([node.url, node.url]).json("PUT", "/x", {})
        self.assertEqual((raised.exception.status, len(node.seen)), (422, 1))
        self.assertEqual(raised.exception.problem["detail"], "weight must be from 1 to 100")

    def test_a_replaced_token_file_is_used_at_once(self):
        node = FakeNode(lambda *_: (200, {}, {}))
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "token")
            nodes = Nodes([node.url], token_file=str(file))
            for token in ("one", "two"):
                file.write_text(token + "\n", encoding="ascii")
                nodes.json("GET", "/x")
        self.assertEqual([seen[2] for seen in node.seen], ["Bearer one", "Bearer two"])

    def test_the_certificate_of_a_node_is_checked(self):
        with tempfile.TemporaryDirectory() as folder:
            cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-subj", "/CN=node", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
                check=True, capture_output=True,
            )
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(cert, key)
            node = FakeNode(lambda *_: (200, {}, {"ok": 1}), tls)
            url = f"https://localhost:{node.port}"
            self.assertEqual(Nodes([url], ca_file=cert).json("GET", "/x")[0], {"ok": 1})
            with self.assertRaisesRegex(MaxineError, "certificate verify failed"):
                once(Nodes([url])).json("GET", "/x")


class Staying(unittest.TestCase):
    def test_what_the_cluster_has_lost_is_registered_again(self):
        beats = iter([[], [0]])

        def answer(method, path, _):
            if method == "POST":
                return 200, {}, {"unknown": next(beats, []), "permanent": []}
            return 200, {}, {"index": 1, "lease_epoch": 7, "removed": True}

        node = FakeNode(answer)
        with Client(node.url) as client:
            kept = client.register("orders", "a b/c", address="http://10.0.0.9:3000", ttl_ms=90)
            wait_for(lambda: kept.renewals == 1 and kept.beats >= 3)
        paths = [seen[:2] for seen in node.seen if seen[0] != "POST"]
        path = "/api/v1/services/default/orders/instances/a%20b%2Fc"
        self.assertEqual(paths, [("PUT", path), ("PUT", path), ("DELETE", path + "?lease_epoch=7")])

    def test_names_that_mean_another_path_are_refused(self):
        with self.assertRaises(ValueError):
            Client(closed_port()).register("..", "a", address="http://h")


def wait_for(condition, what="the condition"):
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true")
        time.sleep(0.01)


@unittest.skipUnless(NODES, "MAXINE_SERVER names no cluster")
class Cluster(unittest.TestCase):
    def test_a_resolver_follows_registrations_and_goes_on_without_a_node(self):
        service = f"python-{time.time_ns()}"
        with Client(NODES) as client, Client(NODES) as other:
            resolver = client.resolver(service)
            self.assertIsNone(resolver.choose())
            kept = [other.register(service, name, address=f"http://10.0.0.1:{port}", weight=weight)
                    for name, port, weight in (("a", 1, 1), ("b", 2, 3))]
            wait_for(lambda: len(resolver.instances) == 2, "both instances")
            chosen = [resolver.choose().instance["id"] for _ in range(8)]
            self.assertEqual((chosen.count("a"), chosen.count("b")), (2, 6))
            # An instance that could not be reached is avoided; the last one is chosen all the same.
            with self.assertRaises(ConnectionRefusedError), resolver.choose() as one:
                raise ConnectionRefusedError
            self.assertNotIn(one.instance["id"], [resolver.choose().instance["id"] for _ in range(8)])
            kept[1].stop()
            wait_for(lambda: [i["id"] for i in resolver.instances] == ["a"], "the removal")
            self.assertEqual(resolver.choose().address, "http://10.0.0.1:1")
            self.assertLess(resolver.age_s, 15)
            resolver.stop()
            self.assertEqual(resolver.choose().instance["id"], "a")

    def test_asyncio(self):
        service = f"python-aio-{time.time_ns()}"

        async def run():
            async with AsyncClient(NODES) as client:
                resolver = await client.resolver(service)
                changes = client.changes(resolver)
                self.assertEqual(await changes.__anext__(), [])
                kept = await client.register(service, "a", address="http://10.0.0.1:1")
                seen = await asyncio.wait_for(changes.__anext__(), 30)
                self.assertEqual([i["id"] for i in seen], ["a"])
                await kept.stop()
                self.assertEqual(await asyncio.wait_for(changes.__anext__(), 30), [])

        asyncio.run(run())


if __name__ == "__main__":
    unittest.main()
