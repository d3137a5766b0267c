"""Metrics and traces of OpenTelemetry.

    Client(nodes, tracer=OpenTelemetry())

It needs the API of OpenTelemetry (`pip install maxine-client[otel]`).
"""

import time
from urllib.parse import urlsplit

from opentelemetry import context, metrics, propagate, trace

from ._trace import TracedCall

_NAME = "maxine-client"
# Those of the semantic conventions for HTTP, in seconds.
_BOUNDARIES = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]


class OpenTelemetry:
    """A tracer for a client. The providers are the global ones by default.

    Without `calls`, uses of instances are neither traced nor measured: for programs whose HTTP client is instrumented by itself.
    """

    def __init__(self, *, tracer_provider=None, meter_provider=None, calls=True):
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._requests = meter.create_histogram(
            "http.client.request.duration", "s", "Duration of requests to nodes of Maxine.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self._calls = meter.create_histogram(
            "maxine.client.call.duration", "s", "Time from the choice of an instance to the end of the request.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        ) if calls else None

    def start(self, about):
        """Begins a span; None if nothing is recorded."""
        if isinstance(about, TracedCall):
            if not self._calls:
                return None
            common = {"service.peer.name": about.service, "service.peer.namespace": about.namespace}
            attributes = {**common, **_server(about.address), "maxine.instance": about.instance}
            return _Span(self._calls, common, self._tracer.start_span(about.service, None, trace.SpanKind.CLIENT, attributes))
        common = {"http.request.method": about.method, **_server(about.node)}
        # Requests in the background are measured only: each would be a trace of its own.
        span = None
        if _is_open(trace.get_current_span()):
            attributes = {**common, "url.full": about.node + about.path}
            span = self._tracer.start_span(about.method, None, trace.SpanKind.CLIENT, attributes)
        return _Span(self._requests, common, span)


class _Span:
    def __init__(self, duration, common, span):
        self._duration, self._common, self._span = duration, common, span
        self._begun, self.headers = time.monotonic(), {}
        if span:
            propagate.inject(self.headers, trace.set_span_in_context(span, context.get_current()))

    def end(self, status, error, failed):
        ended, kind = {}, None
        if status:
            ended["http.response.status_code"] = status
            kind = str(status) if status >= 400 else None
        if failed:
            kind = "_OTHER"
        if error is not None:
            kind = type(error).__qualname__
        if kind:
            ended["error.type"] = kind
        self._duration.record(time.monotonic() - self._begun, {**self._common, **ended})
        if self._span:
            self._span.set_attributes(ended)
            if kind:
                self._span.set_status(trace.StatusCode.ERROR, None if error is None else str(error))
            self._span.end()


def _is_open(span):
    """Whether there is a span that has not ended."""
    about = span.get_span_context()
    return about.is_valid and (span.is_recording() or not about.trace_flags.sampled)


def _server(address):
    parts = urlsplit(address)
    return {"server.address": parts.hostname, "server.port": parts.port or (443 if parts.scheme == "https" else 80)}
