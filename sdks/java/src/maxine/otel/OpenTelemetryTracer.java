package maxine.otel;

import io.opentelemetry.api.OpenTelemetry;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.common.AttributesBuilder;
import io.opentelemetry.api.metrics.DoubleHistogram;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.propagation.TextMapPropagator;
import java.net.URI;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import maxine.client.Tracer;

/**
 * Traces and measures a client with OpenTelemetry: {@code Options.DEFAULT.withTracer(new OpenTelemetryTracer(openTelemetry))}.
 * It needs {@code io.opentelemetry:opentelemetry-api}.
 */
public final class OpenTelemetryTracer implements Tracer {
    private static final String NAME = "maxine-client";
    /** Those of the semantic conventions for HTTP, in seconds. */
    private static final List<Double> BOUNDARIES =
        List.of(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0);
    private static final AttributeKey<String> METHOD = AttributeKey.stringKey("http.request.method");
    private static final AttributeKey<Long> STATUS = AttributeKey.longKey("http.response.status_code");
    private static final AttributeKey<String> URL = AttributeKey.stringKey("url.full");
    private static final AttributeKey<String> ADDRESS = AttributeKey.stringKey("server.address");
    private static final AttributeKey<Long> PORT = AttributeKey.longKey("server.port");
    private static final AttributeKey<String> ERROR = AttributeKey.stringKey("error.type");
    private static final AttributeKey<String> SERVICE = AttributeKey.stringKey("service.peer.name");
    private static final AttributeKey<String> NAMESPACE = AttributeKey.stringKey("service.peer.namespace");
    private static final AttributeKey<String> INSTANCE = AttributeKey.stringKey("maxine.instance");

    private final io.opentelemetry.api.trace.Tracer tracer;
    private final TextMapPropagator propagator;
    private final DoubleHistogram requests;
    private final DoubleHistogram calls;

    /** A tracer of requests to nodes and of uses of instances. */
    public OpenTelemetryTracer(OpenTelemetry telemetry) {
        this(telemetry, true);
    }

    /**
     * A tracer of requests to nodes.
     *
     * @param withCalls whether uses of instances are traced and measured too. Programs whose HTTP client is instrumented by
     *     itself can do without
     */
    public OpenTelemetryTracer(OpenTelemetry telemetry, boolean withCalls) {
        tracer = telemetry.getTracer(NAME);
        propagator = telemetry.getPropagators().getTextMapPropagator();
        requests = histogram(telemetry, "http.client.request.duration", "Duration of requests to nodes of Maxine.");
        calls = !withCalls ? null
            : histogram(telemetry, "maxine.client.call.duration", "Time from the choice of an instance to the end of the request.");
    }

    private static DoubleHistogram histogram(OpenTelemetry telemetry, String name, String description) {
        return telemetry.getMeter(NAME).histogramBuilder(name).setUnit("s").setDescription(description)
            .setExplicitBucketBoundariesAdvice(BOUNDARIES).build();
    }

    @Override
    public Tracer.Span start(Traced about) {
        Context parent = Context.current();
        if (about instanceof InstanceCall call) {
            if (calls == null) {
                return null;
            }
            Attributes common = Attributes.of(SERVICE, call.service(), NAMESPACE, call.namespace());
            AttributesBuilder all = server(common.toBuilder(), call.address()).put(INSTANCE, call.instance());
            return new Recorded(calls, common, span(call.service(), all, parent), parent);
        }
        NodeRequest request = (NodeRequest) about;
        Attributes common = server(Attributes.of(METHOD, request.method()).toBuilder(), request.node()).build();
        // Requests in the background are measured only: each would be a trace of its own.
        boolean traced = io.opentelemetry.api.trace.Span.fromContext(parent).getSpanContext().isValid();
        AttributesBuilder all = common.toBuilder().put(URL, request.node() + request.path());
        return new Recorded(requests, common, traced ? span(request.method(), all, parent) : null, parent);
    }

    private io.opentelemetry.api.trace.Span span(String name, AttributesBuilder attributes, Context parent) {
        return tracer.spanBuilder(name).setSpanKind(SpanKind.CLIENT).setAllAttributes(attributes.build()).setParent(parent).startSpan();
    }

    private static AttributesBuilder server(AttributesBuilder attributes, String address) {
        URI at = URI.create(address);
        String host = at.getHost() == null ? "" : at.getHost().replaceAll("^\\[(.*)]$", "$1");
        return attributes.put(ADDRESS, host).put(PORT, at.getPort() >= 0 ? at.getPort() : "https".equals(at.getScheme()) ? 443L : 80L);
    }

    private final class Recorded implements Tracer.Span {
        private final DoubleHistogram duration;
        private final Attributes common;
        private final io.opentelemetry.api.trace.Span span;
        private final Context context;
        private final Map<String, String> headers = new HashMap<>();
        private final long begun = System.nanoTime();

        private Recorded(DoubleHistogram duration, Attributes common, io.opentelemetry.api.trace.Span span, Context parent) {
            this.duration = duration;
            this.common = common;
            this.span = span;
            context = span == null ? parent : parent.with(span);
            if (span != null) {
                propagator.inject(context, headers, Map::put);
            }
        }

        @Override
        public Map<String, String> headers() {
            return headers;
        }

        @Override
        public void end(Outcome outcome) {
            AttributesBuilder builder = Attributes.builder();
            if (outcome.status() > 0) {
                builder.put(STATUS, (long) outcome.status());
            }
            String type = type(outcome);
            if (type != null) {
                builder.put(ERROR, type);
            }
            Attributes ended = builder.build();
            duration.record((System.nanoTime() - begun) / 1e9, common.toBuilder().putAll(ended).build(), context);
            if (span == null) {
                return;
            }
            span.setAllAttributes(ended);
            if (type != null) {
                String message = outcome.error() == null ? null : outcome.error().getMessage();
                span.setStatus(StatusCode.ERROR, message == null ? "" : message);
            }
            span.end();
        }

        private static String type(Outcome outcome) {
            if (outcome.error() != null) {
                return outcome.error().getClass().getName();
            }
            return outcome.failed() ? "_OTHER" : outcome.status() >= 400 ? String.valueOf(outcome.status()) : null;
        }
    }
}
