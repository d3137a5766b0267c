"""Tokens by client credentials: against a provider that fails in a chosen way, and against a real provider and a cluster that
accepts its tokens, if `MAXINE_TEST_ISSUER` names one."""

import base64
import concurrent.futures
import os
import pathlib
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock
from urllib.parse import parse_qsl

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from test_client import NODES, FakeNode, wait_for

from maxine_client import Client, ClientCredentials, MaxineError

SECRET = "s3cret: with % signs +"
PAIR = base64.b64encode(b"orders%3A+a%2Bb:s3cret%3A+with+%25+signs+%2B").decode()
ISSUER = os.environ.get("MAXINE_TEST_ISSUER")


def granted(token, expires_in=600):
    return 200, {}, {"access_token": token, "token_type": "bearer", "expires_in": expires_in}


def provider(*answers):
    """A provider that gives these answers in turn, and then the last one again."""
    left, lock = list(answers), threading.Lock()

    def answer(*_):
        with lock:
            given = left.pop(0) if len(left) > 1 else left[0]
        return given() if callable(given) else given

    return FakeNode(answer)


class WithSecret(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = pathlib.Path(folder.name, "secret")
        self.file.write_text(SECRET + "\n", encoding="utf-8")

    def source(self, token_url, **more):
        return ClientCredentials("orders: a+b", token_url=token_url, **{"client_secret_file": str(self.file), **more})

    def refuses(self, message, call):
        with self.assertRaisesRegex(MaxineError, message) as raised:
            call()
        return raised.exception


class Fetching(WithSecret):
    def test_one_fetch_serves_all_threads_with_the_form_of_rfc_6749(self):
        server = provider(granted("one"))
        source = self.source(server.url + "/token", scope="a b", audience="maxine", resource="https://maxine.test/")
        with concurrent.futures.ThreadPoolExecutor(20) as threads:
            self.assertEqual(set(threads.map(lambda _: source.token(), range(20))), {"one"})
        self.assertEqual(server.seen, [("POST", "/token", f"Basic {PAIR}")])
        form = {"grant_type": "client_credentials", "scope": "a b", "audience": "maxine", "resource": "https://maxine.test/"}
        self.assertEqual(dict(parse_qsl(server.bodies[0].decode())), form)

    def test_a_token_is_renewed_before_it_expires_and_used_while_the_provider_fails(self):
        server, errors, got = provider(granted("a", 8), (503, {}, {}), granted("b", 8)), [], []
        source = self.source(server.url, on_error=errors.append)
        self.assertEqual(source.token(), "a")
        begun = time.monotonic()
        wait_for(lambda: got.append(source.token()) or got[-1] == "b")
        self.assertLess(time.monotonic() - begun, 8)
        self.assertEqual(set(got), {"a", "b"})
        self.assertRegex(str(errors[0]), "answers 503")

    def test_a_provider_that_fails_is_asked_again_after_a_pause(self):
        server, begun = provider((503, {}, {}), (503, {}, {}), granted("late")), time.monotonic()
        self.assertEqual(self.source(server.url).token(), "late")
        self.assertGreater(time.monotonic() - begun, 0.7)
        down = provider((503, {"retry-after": "30"}, {}))
        self.refuses("answers 503", lambda: self.source(down.url).token(0.3))
        blocked = threading.Event()
        self.addCleanup(blocked.set)
        silent = provider(lambda: (blocked.wait(30), granted("never"))[1])
        self.refuses("the provider has not answered in time", lambda: self.source(silent.url).token(0.3))

    def test_a_refusal_ends_the_call_at_once_and_its_error_does_not_tell_the_secret(self):
        said = {"error": "invalid_client", "error_description": f"no client with {SECRET} and {PAIR}"}
        server = provider((401, {}, said))
        source, url = self.source(server.url), server.url
        for _ in range(3):
            error = self.refuses("no token", source.token)
            self.assertEqual(str(error), f"no token: {url} answers 401: invalid_client: no client with *** and ***")
        self.assertEqual(len(server.seen), 1)

    def test_without_a_token_no_node_is_asked(self):
        node, server = provider((200, {}, {})), provider((400, {}, {"error": "invalid_scope"}))
        client = Client(node.url, credentials=self.source(server.url))
        error = self.refuses("invalid_scope$", lambda: client.nodes.json("GET", "/x"))
        self.assertEqual((error.status, node.seen), (0, []))

    def test_a_token_that_a_node_refuses_is_replaced_unless_it_is_new(self):
        server = provider(granted("a"), granted("b"))
        node = FakeNode(lambda method, path, headers: (401 if headers["authorization"] == "Bearer a" else 200, {}, {}))
        client = Client(node.url, credentials=self.source(server.url))
        self.assertEqual(self.refuses("401", lambda: client.nodes.json("GET", "/x")).status, 401)
        with mock.patch("maxine_client._credentials._REFUSED_AFTER_S", 0):
            client.nodes.json("GET", "/x")
        self.assertEqual(node.seen[-1][2], "Bearer b")

    def test_the_issuer_names_the_endpoint_and_the_method_and_only_itself(self):
        found = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
        server = FakeNode(lambda method, path, headers: granted("posted") if path == "/token" else (200, {}, found))
        found.update(issuer=server.url, token_endpoint=server.url + "/token")

        def token():
            return ClientCredentials("orders", issuer=server.url, client_secret_file=str(self.file)).token()

        self.assertEqual(token(), "posted")
        self.assertEqual(server.seen[1], ("POST", "/token", None))
        self.assertEqual(dict(parse_qsl(server.bodies[1].decode()))["client_secret"], SECRET)
        found["token_endpoint"] = "http://10.0.0.1/token"
        self.refuses("the token_endpoint must be an https URL", token)
        found["issuer"] = "https://another.test"
        self.refuses("another one", token)

    def test_answers_and_settings_that_are_not_safe_are_refused(self):
        for json, message in (
            ({"access_token": "a b", "token_type": "bearer"}, "no access_token"),
            ({"access_token": "a\nb", "token_type": "bearer"}, "no access_token"),
            ({"access_token": "a", "token_type": "mac"}, "token_type"),
        ):
            self.refuses(message, self.source(provider((200, {}, json)).url).token)
        elsewhere = provider(granted("stolen"))
        self.refuses("answers 307", self.source(provider((307, {"location": elsewhere.url}, {})).url).token)
        self.assertEqual(elsewhere.seen, [])
        for url in ("http://10.0.0.1/token", "http://localhost.example/token", "https://u:p@h/token", "ftp://localhost/", "token"):
            with self.assertRaisesRegex(ValueError, "must be an https URL"):
                self.source(url)
        with self.assertRaises(ValueError):
            ClientCredentials("a", token_url="https://h", issuer="https://h", client_secret_file="f")
        with self.assertRaises(ValueError):
            ClientCredentials("a", token_url="https://h")
        with self.assertRaises(ValueError):
            Client("http://127.0.0.1:1", token="t", credentials=self.source("https://h"))
        nowhere = self.source("https://127.0.0.1:1", client_secret_file="/nowhere")
        self.refuses("the client secret cannot be read", nowhere.token)
        unset = self.source("https://127.0.0.1:1", client_secret_file=None, client_secret_env="MAXINE_TEST_NO_SECRET")
        self.refuses("MAXINE_TEST_NO_SECRET has no client secret", unset.token)


@unittest.skipUnless(ISSUER and NODES, "MAXINE_TEST_ISSUER names no provider")
class RealProvider(WithSecret):
    def me(self, client_id):
        """What the nodes say about the caller who has the tokens of this client, and the source of these."""
        source = ClientCredentials(client_id, issuer=ISSUER, client_secret_env="MAXINE_TEST_SECRET",
                                   resource="https://maxine.test/", scope="register")
        client = Client(NODES, credentials=source)
        return lambda: client.nodes.json("GET", "/api/v1/me")[0], source

    def setUp(self):
        super().setUp()
        environment = mock.patch.dict(os.environ, MAXINE_TEST_SECRET=SECRET)
        environment.start()
        self.addCleanup(environment.stop)

    def test_the_nodes_accept_its_token(self):
        me = self.me("orders: a+b")[0]()
        self.assertEqual((me["user"], me["role"], me["via"]), ("jwt:corp/orders: a+b", "operator", "jwt"))
        self.assertEqual(self.refuses("", self.me("stranger")[0]).status, 403)
        self.refuses("^no token: .* answers 401: invalid_client", self.me("nobody")[0])

    def test_calls_go_on_beyond_the_life_of_a_token(self):
        me, source = self.me("brief")
        used = set()

        def third():
            self.assertEqual(me()["role"], "viewer")
            used.add(source.token())
            return len(used) == 3

        wait_for(third)


if __name__ == "__main__":
    unittest.main()
