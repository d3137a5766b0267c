"""A client of Maxine, with nothing but Python's standard library (3.9 and newer).

It registers a service and keeps it registered, finds instances of others, calls them through the proxy,
and watches for changes. If a node cannot be reached, it uses the next one of the given nodes. One client
may be used by several threads.
"""

import http.client
import json
import threading
import traceback
import urllib.error
import urllib.parse
import urllib.request

REGISTER = "/api/maxine/serviceops/register"
DISCOVER = "/api/maxine/serviceops/discover"
PROXY = "/api/maxine/serviceops/proxy/"


class MaxineError(Exception):
    """An answer that is an error. `status` and `message` are those of the server."""

    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Maxine:
    """A client. `nodes` are the nodes' addresses, such as `http://127.0.0.1:8080`."""

    def __init__(self, *nodes, timeout_s=10):
        self._nodes = [node.rstrip("/") for node in nodes]
        self._at = 0
        self._token = None
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, path, method="GET", body=None, headers=None, timeout_s=None):
        """Sends a request and returns the answer, whatever its status is. The caller reads and closes it."""
        headers = dict(headers or {})
        if self._token:
            headers.setdefault("authorization", f"Bearer {self._token}")
        for tries in range(1, len(self._nodes) + 1):
            at = self._at
            request = urllib.request.Request(self._nodes[at] + path, body, headers, method=method)
            try:
                return self._opener.open(request, timeout=timeout_s or self._timeout_s)
            except urllib.error.HTTPError as answer:
                return answer
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
                if tries == len(self._nodes):
                    raise
                self._at = (at + 1) % len(self._nodes)

    def _use_another_node(self):
        self._at = (self._at + 1) % len(self._nodes)

    def _json(self, path, method="GET", body=None):
        headers = {} if body is None else {"content-type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        with self.send(path, method, sent, headers) as answer:
            text = answer.read()
        if answer.status >= 300:
            raise _error_of(answer.status, text)
        return json.loads(text)

    def sign_in(self, user_name, password):
        """Signs in. Later requests are sent with the token. Returns the role."""
        answer = self._json("/api/maxine/signin", "POST", {"userName": user_name, "password": password})
        self._token = answer["accessToken"]
        return answer["role"]

    def register(self, **registration):
        """Registers once. `hostName`, `nodeName` and `serviceName` are required."""
        return self._json(REGISTER, "POST", registration)

    def keep_registered(self, on_error=lambda error: None, **registration):
        """Registers, and repeats the registration twice within each `timeOut` until `stop()` is called."""
        return Kept(self, registration, self.register(**registration), on_error)

    def discover(self, service_name, end_point=""):
        """The URL of an instance, with `end_point` appended."""
        query = {"serviceName": service_name, **({"endPoint": end_point} if end_point else {})}
        with self.send(f"{DISCOVER}?{urllib.parse.urlencode(query)}") as answer:
            text = answer.read()
        if answer.status != 302:
            raise _error_of(answer.status, text)
        return answer.headers["location"]

    def call(self, service_name, path="/", method="GET", body=None, headers=None):
        """Sends a request to an instance through Maxine's proxy."""
        if service_name in ("", ".", ".."):  # In a URL these names mean another path.
            raise ValueError(f"{service_name!r} cannot be a service's name")
        return self.send(PROXY + urllib.parse.quote(service_name, safe="") + path, method, body, headers)

    def servers(self):
        """The whole registry. Needs the role viewer."""
        return self._json("/api/maxine/serviceops/servers")

    def config(self):
        """The configuration. Needs the role viewer."""
        return self._json("/api/maxine/control/config")

    def change_config(self, **fields):
        """Changes fields of the configuration, and returns the outcome for each. Needs the role operator."""
        return self._json("/api/maxine/control/config", "PUT", fields)

    def watch(self, service_name, index=None, stop=None):
        """Yields the changes of one service, without a gap, from now on or after `index`.

        If changes are no longer available without a gap, the last change has the type `compacted`: read the
        present state, and watch again. `stop`, a `threading.Event`, ends it within 15 s.
        """
        stop = stop or threading.Event()
        path = f"/api/v1/watch?service={urllib.parse.quote(service_name, safe='')}"
        while not stop.is_set():
            headers = {} if index is None else {"last-event-id": str(index)}
            try:
                # The server sends a comment every 10 s, so after a longer silence the connection counts as
                # lost.
                with self.send(path, headers=headers, timeout_s=15) as answer:
                    if answer.status != 200:
                        raise _error_of(answer.status, answer.read())
                    for event_id, event, data in _events_of(answer):
                        index = event_id or index
                        if event and event != "ready":
                            yield {"type": event, **json.loads(data)}
                        if event == "compacted":
                            return
                        if stop.is_set():
                            return
            except MaxineError as error:
                if error.status < 500 and error.status != 429:
                    raise
            except (OSError, http.client.HTTPException):
                pass
            stop.wait(0.5)


class Kept:
    """A registration that a separate thread repeats."""

    def __init__(self, client, registration, registered, on_error):
        self._interval_s = _interval_s(registered)
        self.registered = registered
        self.beats = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(client, registration, on_error), daemon=True)
        self._thread.start()

    def _run(self, client, registration, on_error):
        while not self._stop.wait(self._interval_s):
            try:
                registered = client.register(**registration)
                self._interval_s = _interval_s(registered)
                self.registered = registered
                self.beats += 1
            except Exception as error:  # no answer of a node may end the heartbeats
                if not isinstance(error, MaxineError):
                    client._use_another_node()
                try:
                    on_error(error)
                except Exception:
                    traceback.print_exc()

    def stop(self):
        """Sends no more heartbeats."""
        self._stop.set()
        self._thread.join()


def _interval_s(registered):
    """Half of the time that a registration lives without a heartbeat."""
    time_out = registered.get("timeOut") if isinstance(registered, dict) else None
    if not isinstance(time_out, (int, float)) or time_out <= 0:
        raise ValueError(f"the answer is not a registration: {registered!r}")
    return time_out / 2


def _error_of(status, text):
    try:
        body = json.loads(text)
        return MaxineError(status, body.get("message") or body.get("detail"))
    except (ValueError, AttributeError):  # not JSON, or not an object
        return MaxineError(status, text.decode(errors="replace"))


def _events_of(answer):
    """The server-sent events of an answer. A comment that only updates the id is an event without a name."""
    fields = {}
    for line in answer:
        line = line.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            yield fields.get("id"), fields.get("event"), fields.get("data")
            fields = {}
