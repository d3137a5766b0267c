"""The client: registers instances and keeps them registered, and resolves services from a cache."""

import contextlib
import json
import signal
import threading
import time
import traceback
import urllib.error
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from . import _balance
from ._nodes import MaxineError, Nodes
from ._trace import Span, TracedCall

# The nodes send at least a comment every 10 s.
_SILENCE_MAX_S = 15.0
_RELOAD_PAUSE_S = 0.02
_AVOID_S, _AVOID_MAX_S = 2.0, 60.0


class Call(NamedTuple):
    """The use of an instance from its choice to the end of the request."""

    service: str
    instance: str
    duration_s: float
    failed: bool


def _guarded(hook):
    """A hook whose own errors end nothing; None if there is none."""
    def call(event):
        try:
            hook(event)
        except Exception:
            traceback.print_exc()

    return hook and call


class Client:
    """A client of the nodes of one cluster. It may be used by several threads.

    `nodes` are addresses such as `http://10.0.0.1:8080`. `token` or `token_file` has a session token or an API
    token; the file is read for each request. `credentials` are `ClientCredentials`, which fetch tokens from an OpenID
    provider. `ca_file` has the certificates that `https` nodes are checked with;
    without it, those of the system are used. `timeout_s` limits a call with all its attempts,
    `attempt_timeout_s` one attempt. `on_error` gets the errors of the work in the background.

    For metrics and traces, `on_attempt` gets an `Attempt` when the answer of a node has begun or the request has failed,
    and `on_call` a `Call` when the request to a chosen instance is over. Both must return soon.
    `tracer` begins and ends spans, for example those of `maxine_client.otel`.
    """

    def __init__(self, nodes, *, namespace="default", token=None, token_file=None, credentials=None, ca_file=None,
                 timeout_s=10.0, attempt_timeout_s=3.0, on_error=None, on_attempt=None, on_call=None,
                 tracer=None):
        nodes = nodes.split(",") if isinstance(nodes, str) else nodes
        self.nodes = Nodes(
            nodes, token, token_file, ca_file, timeout_s, attempt_timeout_s, _guarded(on_attempt), credentials, tracer
        )
        self.namespace, self.on_call, self.tracer = namespace, _guarded(on_call), tracer
        self._on_error = on_error or (lambda error: None)
        self._lock = threading.Lock()
        self._registrations, self._resolvers = [], []
        self._beating, self._closed = None, threading.Event()

    def report(self, error):
        """Passes an error to `on_error`, whose own errors must not end the work in the background."""
        try:
            self._on_error(error)
        except Exception:
            traceback.print_exc()

    def path(self, service, *rest):
        """The path of a service, or of something in it."""
        parts = ("services", self.namespace, service, *rest)
        if any(part in ("", ".", "..") for part in parts):  # In a URL these names mean another path.
            raise ValueError(f"{service!r} cannot be a service's name")
        return "/api/v1/" + "/".join(quote(part, safe="") for part in parts)

    def register(self, service, instance, *, address, ttl_ms=10_000, **registration):
        """Registers an instance, and keeps it registered until `stop()` of the result, or of this client.

        Further fields are those of the API: `weight`, `zone`, `version`, `node`, `tags`, `metadata`, `probe`, `checks`.
        """
        kept = Registration(self, service, instance, {"address": address, "ttl_ms": ttl_ms, **registration})
        kept.renew()
        with self._lock:
            self._registrations.append(kept)
            if self._beating is None:
                self._beating = threading.Thread(target=self._beat, name="maxine-heartbeats", daemon=True)
                self._beating.start()
        return kept

    def _beat(self):
        """Sends the heartbeats of all registrations together, and registers again what the cluster has lost."""
        while True:
            with self._lock:
                kept = list(self._registrations)
            interval_s = min((one.body["ttl_ms"] for one in kept), default=10_000) / 3000
            if self._closed.wait(interval_s):
                return
            try:
                for at in range(0, len(kept), 1000):
                    self._beat_once(kept[at : at + 1000], interval_s)
            except Exception as error:  # nothing may end the heartbeats
                self.report(error)

    def _beat_once(self, kept, interval_s):
        items = [{"namespace": self.namespace, "service": one.service, "id": one.instance} for one in kept]
        answer, _ = self.nodes.json("POST", "/api/v1/heartbeats", {"items": items}, timeout_s=max(1.0, interval_s * 2))
        for one in kept:
            one.beats += 1
        for at in answer["unknown"]:
            if not kept[at].stopped:
                kept[at].renew()
                kept[at].renewals += 1

    def resolver(self, service, *, zone=None):
        """A cache of the instances of a service. It returns when the instances were read for the first time."""
        resolver = Resolver(self, service, zone)
        resolver.start()
        with self._lock:
            self._resolvers.append(resolver)
        return resolver

    def stop(self, drain_s=0.0):
        """Deregisters all instances, waits `drain_s` for the callers that still have them, and ends."""
        with self._lock:
            kept, resolvers = list(self._registrations), list(self._resolvers)
        for one in kept:
            try:
                one.stop()
            except MaxineError as error:
                self.report(error)
        self._closed.wait(drain_s if kept else 0)
        self._closed.set()
        for resolver in resolvers:
            resolver.stop()

    def stop_on_signals(self, drain_s=0.0, signals=(signal.SIGTERM, signal.SIGINT)):
        """Calls `stop` when the process is asked to end, and then ends as it would have. Main thread only."""
        for number in signals:
            def handle(number, frame, before=signal.getsignal(number)):
                self.stop(drain_s)
                if callable(before):
                    before(number, frame)
                else:
                    raise SystemExit(128 + number)
            signal.signal(number, handle)

    def forget(self, registration):
        """Sends no more heartbeats for a registration."""
        with self._lock:
            if registration in self._registrations:
                self._registrations.remove(registration)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Registration:
    """An instance that is kept registered."""

    def __init__(self, client, service, instance, body):
        self._client, self.service, self.instance, self.body = client, service, instance, body
        #: Heartbeats that were answered, and how often the cluster had lost the instance.
        self.beats = self.renewals = 0
        self.lease_epoch, self.stopped = None, False

    def renew(self):
        """Registers."""
        path = self._client.path(self.service, "instances", self.instance)
        self.lease_epoch = self._client.nodes.json("PUT", path, self.body)[0]["lease_epoch"]

    def stop(self, drain_s=0.0):
        """Deregisters, so that callers choose other instances, and waits `drain_s` for those that still have it."""
        if self.stopped:
            return
        self.stopped = True
        self._client.forget(self)
        # A successor with the same name has another epoch, and stays.
        path = self._client.path(self.service, "instances", self.instance)
        self._client.nodes.json("DELETE", f"{path}?lease_epoch={self.lease_epoch}")
        time.sleep(drain_s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Resolver:
    """The instances of a service that get traffic, as a watch keeps them. It goes on while no node answers.

    The strategy and the policy need the role viewer to be read. Without it, instances are chosen in turn by weight.
    """

    def __init__(self, client, service, zone):
        self._client, self.service, self._zone = client, service, zone
        self._lock = threading.Lock()
        self._state = None
        self._in_flight, self._avoided = {}, {}
        self._position, self._current_at = None, None
        self._stopped, self._connection = threading.Event(), None
        self._listeners = []

    @property
    def instances(self):
        """The instances, as the API shows them."""
        return self._state[0]

    @property
    def age_s(self):
        """How long ago a node has confirmed that the instances are its present ones: up to 10 s while it is reached."""
        return time.monotonic() - self._current_at

    def on_change(self, listener):
        """Calls `listener` with the instances after every change, in the thread of the watch."""
        self._listeners.append(listener)

    def choose(self, key=None, *, address="127.0.0.1", headers=None, queries=()):
        """Chooses an instance for a request, as a node would; None if there is none. Use the result in a `with`.

        `key` replaces the value that the policy hashes; `address`, `headers` and `queries` are those of the request.
        """
        with self._lock:
            instances, balancer, policy = self._state
            now = time.monotonic()
            avoided = {name for name, (until, _) in self._avoided.items() if until > now}
            hash_key = (policy.get("selection") or {}).get("hash_key") or {}
            sticky = ((policy.get("traffic") or {}).get("sticky") or {}).get("header")
            caller = 0
            if balancer.strategy in ("consistent_hash", "rendezvous"):
                caller = _balance.caller_hash(hash_key, address, key, headers, queries)
            affinity = _balance._hash_of_field(headers, sticky["name"]) if sticky else None

            def pick(admits):
                return balancer.choose(caller, affinity, admits, lambda at: self._in_flight.get(instances[at]["id"], 0))

            at = pick(lambda at: instances[at]["id"] not in avoided)
            if at is None and avoided:  # An instance that has failed is better than none.
                at = pick(lambda at: True)
            if at is None:
                return None
            name = instances[at]["id"]
            self._in_flight[name] = self._in_flight.get(name, 0) + 1
        about = TracedCall(self._client.namespace, self.service, name, instances[at]["address"])
        return Chosen(self, instances[at], now, Span(self._client.tracer, about))

    def release(self, name, failed, chosen_at):
        """The request to an instance is over."""
        if self._client.on_call:
            self._client.on_call(Call(self.service, name, time.monotonic() - chosen_at, failed))
        with self._lock:
            self._in_flight[name] = max(0, self._in_flight.get(name, 0) - 1)
            if not failed:
                self._avoided.pop(name, None)
                return
            _, times = self._avoided.get(name, (0, 0))
            self._avoided[name] = (time.monotonic() + min(_AVOID_MAX_S, _AVOID_S * 2**times), times + 1)

    def start(self):
        self._load()
        threading.Thread(target=self._run, name=f"maxine-watch-{self.service}", daemon=True).start()

    def stop(self):
        """Ends the watch. The instances stay as they are."""
        self._stopped.set()
        connection = self._connection
        sock = connection and connection.sock
        if sock:
            with contextlib.suppress(OSError):
                sock.shutdown(2)

    def _load(self, min_index=None):
        """Reads the list and the policy."""
        nodes, path = self._client.nodes, self._client.path(self.service)
        at_least = f"&min_index={min_index}" if min_index else ""
        items, position, cursor = [], None, ""
        try:
            while cursor is not None:
                query = f"?health=routable&limit=1000{at_least}{cursor}"
                page, headers = nodes.json("GET", f"{path}/instances{query}")
                # The watch continues from the oldest page.
                position = position or f"{headers['x-maxine-history']}-{headers['x-maxine-index']}"
                at_least = f"&min_index={position}"
                items += page["items"]
                cursor = page["next_cursor"] and "&cursor=" + quote(page["next_cursor"], safe="")
        except MaxineError as error:
            if error.status == 410 and min_index:  # Another history has begun.
                return self._load()
            if error.status != 404 or not error.problem:
                raise
            items, position = [], None
        strategy, policy = "round_robin", {}
        try:
            service, _ = nodes.json("GET", path)
            strategy, policy = service["strategy"], service["policy"] or {}
        except MaxineError as error:
            if error.status not in (401, 403, 404):
                raise
        traffic = policy.get("traffic") or {}
        zones = traffic.get("zone")
        with self._lock:
            balancer = _balance.Balancer(
                strategy, items, traffic.get("split") or [], self._zone if zones else None,
                (zones or {}).get("local_instances_min", 1), (zones or {}).get("spill_in_flight", 0),
                self._state[1].turns if self._state else 0,
            )
            changed = self._state is None or items != self._state[0]
            self._state = (items, balancer, policy)
            names = {item["id"] for item in items}
            self._in_flight = {name: n for name, n in self._in_flight.items() if n or name in names}
            self._avoided = {name: v for name, v in self._avoided.items() if name in names}
            self._position, self._current_at = position, time.monotonic()
        for listener in self._listeners if changed else ():
            listener(items)

    def _run(self):
        while not self._stopped.is_set():
            try:
                self._watch()
            except Exception as error:
                if not self._stopped.is_set():
                    self._client.report(error)
                    self._stopped.wait(0.5)

    def _watch(self):
        nodes = self._client.nodes
        headers = {"last-event-id": self._position} if self._position else {}
        path = f"/api/v1/watch?namespace={quote(self._client.namespace, safe='')}&service={quote(self.service, safe='')}"
        answer, connection, at = nodes.open("GET", path, None, headers, read_timeout_s=_SILENCE_MAX_S)
        self._connection = connection
        try:
            for event_id, event, _ in events_of(answer):
                if self._stopped.is_set():
                    return
                if event == "ready":
                    nodes.worked(at)
                    if not self._position:  # Something may have changed between the list and this stream.
                        self._load()
                elif event == "compacted":
                    self._position = None
                    return self._load()
                elif event and index_of(event_id) > index_of(self._position):
                    time.sleep(_RELOAD_PAUSE_S)  # Changes that arrive together are read together.
                    self._load(event_id)
                if index_of(event_id) > index_of(self._position):
                    self._position = event_id
                self._current_at = time.monotonic()
        except (OSError, ValueError, AttributeError) as error:
            # http.client raises the last two when the connection is closed in the middle of a read.
            nodes.failed(at)
            if not self._stopped.is_set():
                raise MaxineError(0, f"the watch of {self.service} broke: {error}") from error
        finally:
            connection.close()


class Chosen:
    """An instance that was chosen for a request, which counts as in flight until the end of the `with`.

    If the `with` ends with an `OSError`, such as a refused connection, the instance is avoided for some seconds.
    """

    def __init__(self, resolver, instance, chosen_at, span):
        self._span = span
        self._resolver, self.instance, self._failed = resolver, instance, False
        self._chosen_at, self._over = chosen_at, False

    @property
    def address(self):
        return self.instance["address"]

    @property
    def headers(self):
        """Header fields that pass the trace on, if the client has a tracer. Send them with the request."""
        return self._span.headers

    def failed(self):
        """The instance could not be reached: it is avoided for some seconds."""
        self._failed = True

    def done(self, failed=False, *, status=None, error=None):
        """The request is over. This is for callers without a `with`. `status` and `error` are for the tracer."""
        if not self._over:
            self._over = True
            self._span.end(status, error, self._failed or failed)
            self._resolver.release(self.instance["id"], self._failed or failed, self._chosen_at)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        # An answer with an error status reached the instance.
        if isinstance(error, urllib.error.HTTPError):
            self.done(status=error.code)
        else:
            self.done(isinstance(error, OSError), error=error)


def index_of(position):
    """The index in a position such as `5f3a9c0027e1b4d8-1234`; -1 if there is no position."""
    return int(position.rpartition("-")[2]) if position else -1


def events_of(answer):
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
