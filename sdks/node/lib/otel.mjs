// Metrics and traces of OpenTelemetry. It needs @opentelemetry/api.

import { SpanKind, SpanStatusCode, TraceFlags, context, metrics, propagation, trace } from "@opentelemetry/api";

const NAME = "maxine-client";
// Those of the semantic conventions for HTTP, in seconds.
const BOUNDARIES = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];

/** A tracer for `new Client(nodes, { tracer: openTelemetry() })`. Without `calls`, uses of instances are neither traced nor measured. */
export function openTelemetry({ tracerProvider = trace, meterProvider = metrics, calls = true } = {}) {
  const tracer = tracerProvider.getTracer(NAME);
  const meter = meterProvider.getMeter(NAME);
  const histogram = (name, description) =>
    meter.createHistogram(name, { unit: "s", description, advice: { explicitBucketBoundaries: BOUNDARIES } });
  const durations = {
    request: histogram("http.client.request.duration", "Duration of requests to nodes of Maxine."),
    call: histogram("maxine.client.call.duration", "Time from the choice of an instance to the end of the request."),
  };
  return {
    start(about) {
      const isCall = about.kind === "call";
      if (isCall && !calls) return undefined;
      const parent = context.active();
      const common = isCall ? peerOf(about) : { "http.request.method": about.method, ...serverOf(about.node) };
      const attributes = isCall
        ? { ...common, ...serverOf(about.address), "maxine.instance": about.instance }
        : { ...common, "url.full": about.node + about.path };
      // Requests in the background are measured only: each would be a trace of its own.
      const isTraced = isCall || isOpen(trace.getSpan(parent));
      const span = isTraced ? tracer.startSpan(isCall ? about.service : about.method, { kind: SpanKind.CLIENT, attributes }, parent) : undefined;
      const headers = {};
      if (span) propagation.inject(trace.setSpan(parent, span), headers);
      const begun = performance.now();
      return {
        headers,
        end({ status, error, failed }) {
          const ended = {};
          if (status) ended["http.response.status_code"] = status;
          const type = typeOf(status, error, failed);
          if (type) ended["error.type"] = type;
          durations[about.kind].record((performance.now() - begun) / 1000, { ...common, ...ended });
          span?.setAttributes(ended);
          if (type) span?.setStatus({ code: SpanStatusCode.ERROR, message: error?.message });
          span?.end();
        },
      };
    },
  };
}

/** Whether a span has not ended. What runs in the background has the context in which it began, also after the end of its span. */
const isOpen = (span) => span !== undefined && (span.isRecording() || (span.spanContext().traceFlags & TraceFlags.SAMPLED) === 0);

const peerOf = ({ namespace, service }) => ({ "service.peer.name": service, "service.peer.namespace": namespace });

function serverOf(address) {
  const { hostname, port, protocol } = new URL(address);
  return { "server.address": hostname.replace(/^\[(.*)\]$/, "$1"), "server.port": Number(port) || (protocol === "https:" ? 443 : 80) };
}

function typeOf(status, error, failed) {
  if (error) return String(error.cause?.code ?? error.code ?? error.name ?? "_OTHER");
  if (failed) return "_OTHER";
  return status >= 400 ? String(status) : undefined;
}
