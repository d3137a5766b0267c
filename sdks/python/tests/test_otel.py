"""Metrics and traces with OpenTelemetry's own SDK, which keeps them in memory. Without it nothing is tested here."""

import contextlib
import io
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from test_client import FakeNode

from maxine_client import Client

try:
    import httpx
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import SpanKind, StatusCode

    from maxine_client.httpx import MaxineTransport
    from maxine_client.otel import OpenTelemetry
except ImportError:
    OpenTelemetry = None


class Nodes:
    """A node that knows one instance, and notes the traces of its requests."""

    def __init__(self, address):
        self.traces = []
        item = {"namespace": "default", "service": "payments", "id": "a", "address": address, "weight": 1}

        def answer(method, path, headers):
            self.traces.append((path, headers.get("traceparent")))
            if "/watch" in path:
                return 404, {}, {}
            if "/instances" in path:
                return 200, {"x-maxine-history": "h", "x-maxine-index": "1"}, {"items": [item], "next_cursor": None}
            return 200, {}, {"strategy": "round_robin", "policy": None}

        self.server = FakeNode(answer)


def trace_of(span):
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


@unittest.skipUnless(OpenTelemetry, "opentelemetry-sdk or httpx is not installed")
class Traces(unittest.TestCase):
    def setUp(self):
        self.exporter, self.reader, self.traces = InMemorySpanExporter(), InMemoryMetricReader(), []
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider(metric_readers=[self.reader])
        self.addCleanup(self.meters.shutdown)

        def answer(method, path, headers):
            self.traces.append(headers.get("traceparent"))
            return (503 if path == "/bad" else 200), {}, {}

        self.target = FakeNode(answer)
        self.nodes = Nodes(self.target.url)

    def tracer(self, **more):
        return OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters, **more)

    def points(self, name):
        """The attributes of a histogram's points, and how many values they have."""
        data = self.reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        points = [point for metric in data if metric.name == name for point in metric.data.data_points]
        return [(dict(point.attributes), point.count) for point in points]

    def test_requests_to_nodes_and_uses_of_instances_are_traced_and_measured(self):
        client = Client(self.nodes.server.url, tracer=self.tracer())
        self.addCleanup(client.stop)
        with self.tracers.get_tracer("test").start_as_current_span("parent") as parent:
            resolver = client.resolver("payments")
        requests = self.exporter.get_finished_spans()
        self.assertEqual([span.name for span in requests], ["GET", "GET", "parent"])
        path = "/api/v1/services/default/payments/instances?health=routable&limit=1000"
        self.assertEqual(requests[0].kind, SpanKind.CLIENT)
        self.assertEqual(requests[0].parent.span_id, parent.context.span_id)
        self.assertEqual(dict(requests[0].attributes), {
            "http.request.method": "GET", "server.address": "127.0.0.1", "server.port": self.nodes.server.port,
            "url.full": self.nodes.server.url + path, "http.response.status_code": 200,
        })
        self.assertEqual(self.nodes.traces[0], (path, trace_of(requests[0])))

        self.exporter.clear()
        with httpx.Client(mounts={"maxine://": MaxineTransport(client)}, trust_env=False) as calls:
            calls.get("maxine://payments/good")
            calls.get("maxine://payments/bad", headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
        with self.assertRaises(ConnectionRefusedError), resolver.choose() as chosen:
            self.assertIn("traceparent", chosen.headers)
            raise ConnectionRefusedError("refused")
        # The requests in the background have no span.
        good, bad, broken = self.exporter.get_finished_spans()
        peer = {"service.peer.name": "payments", "service.peer.namespace": "default"}
        call = {**peer, "server.address": "127.0.0.1", "server.port": self.target.port, "maxine.instance": "a"}
        self.assertEqual(good.name, "payments")
        self.assertEqual(dict(good.attributes), {**call, "http.response.status_code": 200})
        self.assertEqual(dict(bad.attributes), {**call, "http.response.status_code": 503, "error.type": "503"})
        self.assertEqual(dict(broken.attributes), {**call, "error.type": "ConnectionRefusedError"})
        self.assertEqual((broken.status.status_code, broken.status.description), (StatusCode.ERROR, "refused"))
        self.assertEqual(good.status.status_code, StatusCode.UNSET)
        self.assertEqual(self.traces, [trace_of(good), trace_of(bad)])
        self.assertEqual(self.points("maxine.client.call.duration"), [
            ({**peer, "http.response.status_code": 200}, 1),
            ({**peer, "http.response.status_code": 503, "error.type": "503"}, 1),
            ({**peer, "error.type": "ConnectionRefusedError"}, 1),
        ])
        self.assertTrue(any(
            point["http.response.status_code"] == 200 and count >= 2
            for point, count in self.points("http.client.request.duration")
        ))

    def test_calls_have_no_span_if_they_are_left_out(self):
        client = Client(self.nodes.server.url, tracer=self.tracer(calls=False))
        self.addCleanup(client.stop)
        with client.resolver("payments").choose() as chosen:
            self.assertEqual(chosen.headers, {})
        self.assertEqual(self.exporter.get_finished_spans(), ())

    def test_the_errors_of_a_tracer_end_nothing(self):
        class Broken:
            headers = {}

            def start(self, about):
                if hasattr(about, "node"):
                    raise RuntimeError("start")
                return self

            def end(self, **_):
                raise RuntimeError("end")

        with contextlib.redirect_stderr(io.StringIO()) as said:
            client = Client(self.nodes.server.url, tracer=Broken())
            with client.resolver("payments").choose() as chosen:
                self.assertEqual(chosen.address, self.target.url)
            client.stop()
        self.assertIn("RuntimeError: start", said.getvalue())
        self.assertIn("RuntimeError: end", said.getvalue())


if __name__ == "__main__":
    unittest.main()
