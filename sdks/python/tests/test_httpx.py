"""The transports for httpx, against a real cluster and real servers. Without httpx nothing is tested here."""

import asyncio
import pathlib
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from test_client import NODES, FakeNode, closed_port, wait_for

from maxine_client import Client
from maxine_client.aio import AsyncClient

try:
    import httpx
    from maxine_client.httpx import AsyncMaxineTransport, MaxineTransport
except ImportError:
    httpx = None


@unittest.skipUnless(NODES, "MAXINE_SERVER names no cluster")
@unittest.skipUnless(httpx, "httpx is not installed")
class Httpx(unittest.TestCase):
    def setUp(self):
        self.service = f"python-httpx-{time.time_ns()}"
        self.attempts, self.calls = [], []
        self.server = FakeNode(lambda method, path, headers: (200, {}, {"path": path, "host": headers["host"]}))

    def register(self, client):
        """An instance that refuses connections, and one that answers."""
        client.register(self.service, "closed", address=closed_port())
        client.register(self.service, "open", address=self.server.url + "/base/")

    def check(self, answers):
        self.assertEqual([answer.status_code for answer in answers], [200] * 8)
        self.assertEqual(answers[0].json(), {"path": "/base/x?y=1", "host": f"127.0.0.1:{self.server.port}"})
        self.assertEqual({call.instance for call in self.calls if call.failed}, {"closed"})
        self.assertEqual([call.instance for call in self.calls if not call.failed], ["open"] * 8)
        self.assertTrue(any(one.status == 200 and self.service in one.path for one in self.attempts))

    def hooks(self):
        def broken(attempt):
            self.attempts.append(attempt)
            if len(self.attempts) == 1:
                raise RuntimeError("an error of a hook ends nothing: this traceback is expected")

        return {"on_attempt": broken, "on_call": self.calls.append}

    def test_requests_go_to_an_instance_that_can_be_reached(self):
        with Client(NODES, **self.hooks()) as client:
            with httpx.Client(mounts={"maxine://": MaxineTransport(client)}, trust_env=False) as calls:
                with self.assertRaisesRegex(httpx.ConnectError, "no instance"):
                    calls.get(f"maxine://{self.service}/x")
                self.register(client)
                wait_for(lambda: self.reached(calls), "both instances")
                self.calls[:] = [call for call in self.calls if call.failed]
                self.check([calls.post(f"maxine://{self.service}/x?y=1", content=b"body") for _ in range(8)])
                # Requests whose body can be read only once.
                streamed = calls.post(f"maxine://{self.service}/x", content=iter([b"a", b"b"]))
                self.assertEqual(streamed.status_code, 200)
                # A request is in flight until its answer was read.
                self.calls.clear()
                with calls.stream("GET", f"maxine://{self.service}/x") as answer:
                    self.assertEqual([call for call in self.calls if not call.failed], [])
                    answer.read()
                self.assertEqual([call.instance for call in self.calls if not call.failed], ["open"])
                # Other URLs go where they name.
                self.assertEqual(calls.get(self.server.url + "/y").json()["path"], "/y")

    def reached(self, calls):
        try:
            calls.get(f"maxine://{self.service}/x")
        except httpx.ConnectError:
            return False
        return {call.instance for call in self.calls} == {"closed", "open"}

    def test_asyncio(self):
        async def run():
            async with AsyncClient(NODES, **self.hooks()) as client:
                owner = Client(NODES)
                await asyncio.to_thread(self.register, owner)
                transport = AsyncMaxineTransport(client)
                async with httpx.AsyncClient(mounts={"maxine://": transport}, trust_env=False) as calls:
                    requests = [calls.post(f"maxine://{self.service}/x?y=1", content=b"body") for _ in range(8)]
                    self.check(await asyncio.gather(*requests))
                await asyncio.to_thread(owner.stop)

        asyncio.run(run())


if __name__ == "__main__":
    unittest.main()
