package maxine.otel;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sun.net.httpserver.HttpServer;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Scope;
import io.opentelemetry.context.propagation.ContextPropagators;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.metrics.SdkMeterProvider;
import io.opentelemetry.sdk.metrics.data.HistogramPointData;
import io.opentelemetry.sdk.testing.exporter.InMemoryMetricReader;
import io.opentelemetry.sdk.testing.exporter.InMemorySpanExporter;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.data.SpanData;
import io.opentelemetry.sdk.trace.data.StatusData;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import maxine.client.MaxineClient;
import maxine.client.Resolver;
import maxine.client.Tracer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Metrics and traces with OpenTelemetry's own SDK, which keeps them in memory. */
class OpenTelemetryTracerTest {
    private static final String TARGET = "http://10.0.0.1:81";

    private final InMemorySpanExporter spans = InMemorySpanExporter.create();
    private final InMemoryMetricReader reader = InMemoryMetricReader.create();
    private final OpenTelemetrySdk telemetry = OpenTelemetrySdk.builder()
        .setTracerProvider(SdkTracerProvider.builder().addSpanProcessor(SimpleSpanProcessor.create(spans)).build())
        .setMeterProvider(SdkMeterProvider.builder().registerMetricReader(reader).build())
        .setPropagators(ContextPropagators.create(W3CTraceContextPropagator.getInstance())).build();
    /** The traces of the requests to the node. */
    private final List<String> traces = new CopyOnWriteArrayList<>();
    private HttpServer node;
    private String url;

    /** A node that knows one instance. */
    @BeforeEach
    void start() throws IOException {
        node = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        node.createContext("/", exchange -> {
            String path = exchange.getRequestURI().getPath();
            traces.add(path + " " + exchange.getRequestHeaders().getFirst("traceparent"));
            String body = "{\"strategy\": \"round_robin\"}";
            if (path.endsWith("/instances")) {
                exchange.getResponseHeaders().set("x-maxine-history", "h");
                exchange.getResponseHeaders().set("x-maxine-index", "1");
                body = "{\"items\": [{\"id\": \"a\", \"address\": \"" + TARGET + "\", \"weight\": 1}], \"next_cursor\": null}";
            }
            exchange.sendResponseHeaders(path.endsWith("/watch") ? 404 : 200, body.length());
            exchange.getResponseBody().write(body.getBytes());
            exchange.close();
        });
        node.start();
        url = "http://127.0.0.1:" + node.getAddress().getPort();
    }

    @AfterEach
    void stop() {
        node.stop(0);
        telemetry.close();
    }

    private MaxineClient client(Tracer tracer) throws IOException {
        return new MaxineClient(List.of(url), MaxineClient.Options.DEFAULT.withTracer(tracer));
    }

    private static String traceOf(SpanData span) {
        return "00-" + span.getTraceId() + "-" + span.getSpanId() + "-01";
    }

    private List<HistogramPointData> points(String name) {
        return reader.collectAllMetrics().stream().filter(metric -> metric.getName().equals(name))
            .flatMap(metric -> metric.getHistogramData().getPoints().stream()).toList();
    }

    @Test
    void requestsToNodesAndUsesOfInstancesAreTracedAndMeasured() throws Exception {
        try (MaxineClient client = client(new OpenTelemetryTracer(telemetry))) {
            Span parent = telemetry.getTracer("test").spanBuilder("parent").startSpan();
            Resolver resolver;
            try (Scope scope = parent.makeCurrent()) {
                resolver = client.resolver("payments", null);
            }
            parent.end();
            SpanData list = spans.getFinishedSpanItems().get(0);
            assertEquals("GET", list.getName());
            assertEquals(SpanKind.CLIENT, list.getKind());
            assertEquals(parent.getSpanContext().getSpanId(), list.getParentSpanId());
            String path = "/api/v1/services/default/payments/instances";
            assertEquals(Attributes.builder().put("http.request.method", "GET").put("server.address", "127.0.0.1")
                .put("server.port", node.getAddress().getPort()).put("url.full", url + path + "?health=routable&limit=1000")
                .put("http.response.status_code", 200).build(), list.getAttributes().toBuilder().build());
            assertEquals(path + " " + traceOf(list), traces.get(0));

            spans.reset();
            Resolver.Chosen good = resolver.choose();
            Map<String, String> headers = good.headers();
            good.end(new Tracer.Outcome(200, null, false));
            resolver.choose().end(new Tracer.Outcome(503, null, false));
            resolver.choose().end(new Tracer.Outcome(0, new IOException("refused"), true));
            resolver.choose().abandon();
            // The watch, in the background, is measured only.
            for (long begun = System.nanoTime(); traces.stream().filter(one -> one.contains("/watch")).count() < 2; Thread.sleep(10)) {
                assertTrue(System.nanoTime() - begun < 30_000_000_000L, traces::toString);
            }
            List<SpanData> calls = spans.getFinishedSpanItems();
            assertEquals(List.of("payments", "payments", "payments"), calls.stream().map(SpanData::getName).toList());
            assertEquals(Map.of("traceparent", traceOf(calls.get(0))), headers);
            Attributes peer = Attributes.builder().put("service.peer.name", "payments").put("service.peer.namespace", "default").build();
            Attributes call = peer.toBuilder().put("server.address", "10.0.0.1").put("server.port", 81).put("maxine.instance", "a").build();
            AttributeKey<Long> status = AttributeKey.longKey("http.response.status_code");
            AttributeKey<String> type = AttributeKey.stringKey("error.type");
            List<Attributes> ends = List.of(Attributes.of(status, 200L), Attributes.of(status, 503L, type, "503"),
                Attributes.of(type, "java.io.IOException"));
            for (int n = 0; n < ends.size(); n++) {
                assertEquals(call.toBuilder().putAll(ends.get(n)).build(), calls.get(n).getAttributes().toBuilder().build());
            }
            assertEquals(StatusData.unset(), calls.get(0).getStatus());
            assertEquals(StatusData.create(io.opentelemetry.api.trace.StatusCode.ERROR, "refused"), calls.get(2).getStatus());

            List<HistogramPointData> points = points("maxine.client.call.duration");
            assertEquals(3, points.size());
            for (Attributes end : ends) {
                Attributes expected = peer.toBuilder().putAll(end).build();
                assertTrue(points.stream().anyMatch(one -> one.getAttributes().equals(expected) && one.getCount() == 1), points::toString);
            }
            List<HistogramPointData> requests = points("http.client.request.duration");
            assertTrue(requests.stream().anyMatch(one -> Long.valueOf(404).equals(one.getAttributes().get(status))), requests::toString);
        }
    }

    @Test
    void callsHaveNoSpanIfTheyAreLeftOut() throws Exception {
        try (MaxineClient client = client(new OpenTelemetryTracer(telemetry, false))) {
            Resolver.Chosen chosen = client.resolver("payments", null).choose();
            assertEquals(Map.of(), chosen.headers());
            chosen.close();
            assertEquals(List.of(), spans.getFinishedSpanItems());
        }
    }

    @Test
    void theErrorsOfATracerEndNothing() throws Exception {
        Tracer broken = about -> {
            if (about instanceof Tracer.NodeRequest) {
                throw new IllegalStateException("an error of a tracer ends nothing: this is expected");
            }
            return new Tracer.Span() {
                @Override
                public Map<String, String> headers() {
                    return Map.of();
                }

                @Override
                public void end(Tracer.Outcome outcome) {
                    throw new IllegalStateException("an error of a tracer ends nothing: this is expected");
                }
            };
        };
        try (MaxineClient client = client(broken); Resolver.Chosen chosen = client.resolver("payments", null).choose()) {
            assertEquals(TARGET, chosen.address());
        }
    }
}
