"""Requests to the nodes of a cluster: failover, backoff, deadlines, TLS and tokens."""

import http.client
import json
import random
import socket
import ssl
import threading
import time
import urllib.parse
from typing import NamedTuple, Optional

from ._trace import Span, TracedRequest

_BACKOFF_S = 0.05
_BACKOFF_MAX_S = 5.0


class MaxineError(Exception):
    """An answer that is an error. `status` is 0 if no node has answered in time, or there is no token."""

    def __init__(self, status, message, problem=None):
        super().__init__(f"{status}: {message}" if status else message)
        self.status = status
        self.message = message
        #: The `application/problem+json` of the answer, or None.
        self.problem = problem


class Attempt(NamedTuple):
    """One request to a node. `status` is 0 if there was no answer; then `error` says why."""

    node: str
    method: str
    path: str
    status: int
    duration_s: float
    error: Optional[Exception]


class Nodes:
    """Sends a request to one node after another, until one gives an answer that is not only a matter of the node."""

    def __init__(self, nodes, token=None, token_file=None, ca_file=None, timeout_s=10.0, attempt_timeout_s=3.0,
                 on_attempt=None, credentials=None, tracer=None):
        self._nodes = [urllib.parse.urlsplit(node.rstrip("/")) for node in nodes]
        if not self._nodes:
            raise ValueError("at least one node is needed")
        if credentials and (token or token_file):
            raise ValueError("either a token, a file with one or credentials: not two of them")
        self._token, self._token_file, self._credentials = token, token_file, credentials
        self._tls = None
        if any(node.scheme == "https" for node in self._nodes):
            self._tls = ssl.create_default_context(cafile=ca_file)
        self.timeout_s, self._attempt_timeout_s = timeout_s, attempt_timeout_s
        self._tracer = tracer
        self._on_attempt = on_attempt or (lambda attempt: None)
        self._lock = threading.Lock()
        # Clients that start together do not all begin with the same node.
        self._at = random.randrange(len(self._nodes))
        self._failures = [0] * len(self._nodes)
        self._not_before = [0.0] * len(self._nodes)

    def _pick(self):
        """The node to ask, and the time to wait before."""
        with self._lock:
            now, count = time.monotonic(), len(self._nodes)
            order = [(self._at + n) % count for n in range(count)]
            at = min(order, key=lambda at: max(0.0, self._not_before[at] - now))
            return at, max(0.0, self._not_before[at] - now)

    def worked(self, at):
        """The node has answered: it is asked first from now on."""
        with self._lock:
            self._at, self._failures[at], self._not_before[at] = at, 0, 0.0

    def failed(self, at, retry_after_s=None):
        """The node is not asked again before a pause: that of `Retry-After`, or a random one that grows."""
        with self._lock:
            limit = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** min(self._failures[at], 10))
            pause = limit * random.uniform(0.5, 1)
            if retry_after_s is not None:
                pause = retry_after_s * random.uniform(1, 1.1)
            self._failures[at] += 1
            self._not_before[at] = time.monotonic() + pause
            self._at = (at + 1) % len(self._nodes)

    def _headers(self, headers, fetched):
        token = fetched or self._token
        if self._token_file:  # Read each time, so that a replaced token is used at once.
            with open(self._token_file, encoding="ascii") as file:
                token = file.read().strip()
        return {**({"authorization": f"Bearer {token}"} if token else {}), **(headers or {})}

    def open(self, method, path, body=None, headers=None, timeout_s=None, read_timeout_s=None):
        """An answer below 300, its connection and its node. The caller reads it and closes the connection."""
        timeout_s = timeout_s or self.timeout_s
        deadline = time.monotonic() + timeout_s
        # One node that does not answer may not use up the time in which another one would.
        attempt_s = min(self._attempt_timeout_s, timeout_s / 2)
        sent = None if body is None else json.dumps(body).encode()
        headers = dict(headers or {}, **({} if body is None else {"content-type": "application/json"}))
        last = None
        while True:
            token = None
            if self._credentials:  # That there is no token is no failure of a node.
                token = self._credentials.token(deadline - time.monotonic())
            at, pause = self._pick()
            left = deadline - time.monotonic()
            if pause >= left:
                raise last or MaxineError(0, "no node has answered in time")
            time.sleep(pause)
            left = min(left - pause, attempt_s)
            connection, begun, answer = self._connection(self._nodes[at], left), time.monotonic(), None
            url = self._nodes[at].geturl()
            span = Span(self._tracer, TracedRequest(url, method, path))

            def tell(status, error=None, url=url, begun=begun, span=span):
                span.end(status, error)
                self._on_attempt(Attempt(url, method, path, status, time.monotonic() - begun, error))

            try:
                connection.request(method, self._nodes[at].path + path, sent, self._headers({**span.headers, **headers}, token))
                answer = connection.getresponse()
                tell(answer.status)
                if answer.status < 300:
                    if read_timeout_s and connection.sock:
                        connection.sock.settimeout(read_timeout_s)
                    return answer, connection, at
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if answer is None:
                    tell(0, error)
                self.failed(at)
                # That the time is over says less than the error before.
                if last is None or not isinstance(error, socket.timeout):
                    last = MaxineError(0, f"{self._nodes[at].netloc}: {str(error) or type(error).__name__}")
                    last.__cause__ = error
                continue
            connection.close()
            last = error_of(answer.status, text)
            if answer.status < 500 and answer.status != 429:
                self.worked(at)
                if answer.status == 401 and self._credentials and self._credentials.refused(token):
                    continue
                raise last
            retry_after = answer.headers.get("retry-after", "")
            self.failed(at, float(retry_after) if retry_after.isdigit() else None)

    def json(self, method, path, body=None, headers=None, timeout_s=None):
        """The JSON of an answer, and its headers."""
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        while True:
            answer, connection, at = self.open(method, path, body, headers, deadline - time.monotonic())
            try:
                text = answer.read()
                got = json.loads(text) if text else None
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed(at)
                if time.monotonic() >= deadline:
                    raise MaxineError(0, f"{self._nodes[at].netloc}: {error}") from error
                continue
            finally:
                connection.close()
            self.worked(at)
            return got, answer.headers

    def _connection(self, node, timeout_s):
        if node.scheme == "https":
            return http.client.HTTPSConnection(node.netloc, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(node.netloc, timeout=timeout_s)


def error_of(status, text):
    """The error of an answer."""
    try:
        problem = json.loads(text)
        return MaxineError(status, problem["detail"], problem)
    except (ValueError, KeyError, TypeError):
        return MaxineError(status, text.decode(errors="replace"))
