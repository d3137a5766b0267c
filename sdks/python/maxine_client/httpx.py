"""Transports for httpx: the host of a URL such as `maxine://payments/invoices/7` is a service.

    with httpx.Client(mounts={"maxine://": MaxineTransport(client)}) as calls:
        calls.get("maxine://payments/invoices/7")

Each request goes to an instance that is chosen for it. If the instance cannot be reached, another one is tried. It needs
httpx (`pip install maxine-client[httpx]`).
"""

import asyncio
import threading

import httpx

from ._nodes import MaxineError

_TRIES_MAX = 3
_SAFE = ("GET", "HEAD", "OPTIONS")


def _no_instance(request, why):
    return httpx.ConnectError(f"{request.url.host}: {why}", request=request)


def _choose(resolver, request):
    chosen = resolver.choose(headers=request.headers, queries=(request.url.query.decode("ascii"),))
    if chosen is None:
        raise _no_instance(request, "no instance of this service gets traffic")
    return chosen


def _to(request, chosen):
    """The request as it is sent to this instance."""
    base = httpx.URL(chosen.address)
    url = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + request.url.raw_path)
    headers = request.headers.copy()
    headers["host"] = url.netloc.decode("ascii")
    headers.update(chosen.headers)
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


def _may_repeat(request, error, tries):
    """Without a connection nothing was sent. After another error, only what changes nothing is sent again."""
    if tries >= _TRIES_MAX:
        return False
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return True
    return request.method in _SAFE and isinstance(request.stream, httpx.ByteStream)


class _Stream(httpx.SyncByteStream):
    """The body of an answer. The request is in flight until it is closed."""

    def __init__(self, answer, chosen):
        self._stream, self._status, self._chosen = answer.stream, answer.status_code, chosen

    def __iter__(self):
        yield from self._stream

    def close(self):
        try:
            self._stream.close()
        finally:
            self._chosen.done(status=self._status)


class _AsyncStream(httpx.AsyncByteStream):
    """The body of an answer. The request is in flight until it is closed."""

    def __init__(self, answer, chosen):
        self._stream, self._status, self._chosen = answer.stream, answer.status_code, chosen

    async def __aiter__(self):
        async for piece in self._stream:
            yield piece

    async def aclose(self):
        try:
            await self._stream.aclose()
        finally:
            self._chosen.done(status=self._status)


class MaxineTransport(httpx.BaseTransport):
    """A transport for `httpx.Client`. `transport` sends the requests; by default an `httpx.HTTPTransport`."""

    def __init__(self, client, *, zone=None, transport=None):
        self._client, self._zone = client, zone
        self._transport = transport or httpx.HTTPTransport()
        self._lock, self._resolvers = threading.Lock(), {}

    def _resolver(self, request):
        service = request.url.host
        with self._lock:
            if service not in self._resolvers:
                try:
                    self._resolvers[service] = self._client.resolver(service, zone=self._zone)
                except MaxineError as error:
                    raise _no_instance(request, error) from error
            return self._resolvers[service]

    def handle_request(self, request):
        resolver, tries = self._resolver(request), 0
        while True:
            tries += 1
            chosen = _choose(resolver, request)
            try:
                answer = self._transport.handle_request(_to(request, chosen))
            except httpx.TransportError as error:
                chosen.done(failed=True, error=error)
                if not _may_repeat(request, error, tries):
                    raise
            except BaseException as error:
                chosen.done(error=error)
                raise
            else:
                answer.stream = _Stream(answer, chosen)
                return answer

    def close(self):
        self._transport.close()
        for resolver in self._resolvers.values():
            resolver.stop()


class AsyncMaxineTransport(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient`, with an `AsyncClient` of Maxine."""

    def __init__(self, client, *, zone=None, transport=None):
        self._client, self._zone = client, zone
        self._transport = transport or httpx.AsyncHTTPTransport()
        self._resolvers = {}

    async def _resolver(self, request):
        service = request.url.host
        if service not in self._resolvers:
            # The other requests to this service wait for the same resolver.
            self._resolvers[service] = asyncio.ensure_future(self._client.resolver(service, zone=self._zone))
        try:
            return await asyncio.shield(self._resolvers[service])
        except MaxineError as error:
            self._resolvers.pop(service, None)
            raise _no_instance(request, error) from error

    async def handle_async_request(self, request):
        resolver, tries = await self._resolver(request), 0
        while True:
            tries += 1
            chosen = _choose(resolver, request)
            try:
                answer = await self._transport.handle_async_request(_to(request, chosen))
            except httpx.TransportError as error:
                chosen.done(failed=True, error=error)
                if not _may_repeat(request, error, tries):
                    raise
            except BaseException as error:
                chosen.done(error=error)
                raise
            else:
                answer.stream = _AsyncStream(answer, chosen)
                return answer

    async def aclose(self):
        await self._transport.aclose()
        for resolver in self._resolvers.values():
            (await resolver).stop()
