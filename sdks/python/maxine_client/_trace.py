"""What a tracer gets, and the spans that it gives."""

import traceback
from typing import NamedTuple


class TracedRequest(NamedTuple):
    """A request to a node, from its start until its answer begins."""

    node: str
    method: str
    path: str


class TracedCall(NamedTuple):
    """The use of an instance from its choice to the end of the request."""

    namespace: str
    service: str
    instance: str
    address: str


class Span:
    """The span of a tracer, if there is one. Its errors end nothing."""

    def __init__(self, tracer, about):
        self.headers, self._span = {}, None
        if tracer:
            try:
                self._span = tracer.start(about)
                self.headers = dict(self._span.headers) if self._span else {}
            except Exception:
                traceback.print_exc()

    def end(self, status=None, error=None, failed=False):
        if self._span:
            try:
                self._span.end(status=status, error=error, failed=failed)
            except Exception:
                traceback.print_exc()
