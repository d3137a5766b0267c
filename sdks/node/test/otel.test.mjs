// Metrics and traces with OpenTelemetry's own SDK, which keeps them in memory.

import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import { after, before, test } from "node:test";
import { Client } from "maxine-client";
import { maxine } from "maxine-client/undici";

const load = (name) => import(name).catch(() => undefined);
const names = ["api", "core", "context-async-hooks", "sdk-trace-base", "sdk-metrics"];
const [api, core, hooks, traces, measures] = await Promise.all(names.map((name) => load(`@opentelemetry/${name}`)));
const undici = await load("undici");
const options = { skip: measures && undici ? false : "npm ci was not run" };
const ends = [];
let exporter, tracerProvider, meterProvider, metricExporter;

before(() => {
  if (options.skip) return;
  api.propagation.setGlobalPropagator(new core.W3CTraceContextPropagator());
  api.context.setGlobalContextManager(new hooks.AsyncLocalStorageContextManager().enable());
  exporter = new traces.InMemorySpanExporter();
  tracerProvider = new traces.BasicTracerProvider({ spanProcessors: [new traces.SimpleSpanProcessor(exporter)] });
  metricExporter = new measures.InMemoryMetricExporter(measures.AggregationTemporality.CUMULATIVE);
  const reader = new measures.PeriodicExportingMetricReader({ exporter: metricExporter, exportIntervalMillis: 1e8 });
  meterProvider = new measures.MeterProvider({ readers: [reader] });
  ends.push(() => meterProvider.shutdown());
});
after(async () => {
  for (const end of ends.reverse()) await end();
});

/** A server that notes the header fields of its requests. */
async function serve(answer) {
  const seen = [];
  const server = http.createServer((request, response) => {
    seen.push(request);
    const [status, headers, body] = answer(request);
    response.writeHead(status, headers).end(JSON.stringify(body));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  ends.push(() => server.close().closeAllConnections());
  return { url: `http://127.0.0.1:${server.address().port}`, port: server.address().port, seen };
}

/** A client of a node that knows one instance. */
async function clientOf(instance, tracer) {
  const item = { namespace: "default", service: "payments", id: "a", address: instance, weight: 1 };
  const node = await serve(({ url }) => {
    const headers = { "x-maxine-history": "h", "x-maxine-index": "1" };
    if (url.includes("/watch")) return [404, {}, {}];
    return url.includes("/instances") ? [200, headers, { items: [item], next_cursor: null }] : [200, {}, { strategy: "round_robin" }];
  });
  const client = new Client(node.url, { tracer });
  ends.push(() => client.stop());
  return [client, node];
}

const traceOf = (span) => `00-${span.spanContext().traceId}-${span.spanContext().spanId}-01`;

/** The points of a histogram: their attributes and how many values they have. */
async function pointsOf(name) {
  await meterProvider.forceFlush();
  const all = metricExporter.getMetrics().at(-1).scopeMetrics.flatMap(({ metrics }) => metrics);
  return all.filter(({ descriptor }) => descriptor.name === name).flatMap(({ dataPoints }) => dataPoints);
}

test("requests to nodes and uses of instances are traced and measured", options, async () => {
  const { openTelemetry } = await import("maxine-client/otel");
  const target = await serve(({ url }) => [url === "/bad" ? 503 : 200, {}, {}]);
  const [client, node] = await clientOf(target.url, openTelemetry({ tracerProvider, meterProvider }));
  const tracer = tracerProvider.getTracer("test");
  const [resolver, parent] = await tracer.startActiveSpan("parent", async (span) => [await client.resolver("payments"), span]);
  parent.end();

  const [list] = exporter.getFinishedSpans();
  assert.equal(list.name, "GET");
  assert.equal(list.kind, api.SpanKind.CLIENT);
  assert.equal(list.parentSpanContext.spanId, parent.spanContext().spanId);
  assert.deepEqual(list.attributes, {
    "http.request.method": "GET",
    "server.address": "127.0.0.1",
    "server.port": node.port,
    "url.full": `${node.url}/api/v1/services/default/payments/instances?health=routable&limit=1000`,
    "http.response.status_code": 200,
  });
  assert.equal(node.seen[0].headers.traceparent, traceOf(list));

  // The watch began within the span, and goes on without it.
  const watches = () => node.seen.filter(({ url }) => url.includes("/watch"));
  for (const deadline = Date.now() + 30_000; watches().length < 3; ) {
    assert.ok(Date.now() < deadline);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.equal(watches().at(-1).headers.traceparent, undefined);

  exporter.reset();
  await resolver.fetch("/good", { headers: { accept: "text/plain" } });
  const dispatcher = new undici.Agent().compose(maxine(client));
  ends.push(() => dispatcher.close());
  const headers = { traceparent: "00-11111111111111111111111111111111-2222222222222222-01", "x-two": ["1", "2"] };
  await (await undici.request("http://payments.maxine/bad", { dispatcher, headers })).body.dump();
  resolver.choose().failed(Object.assign(new Error("reset by the peer"), { code: "ECONNRESET" }));
  const [good, bad, broken] = exporter.getFinishedSpans().filter(({ name }) => name === "payments");
  const peer = { "service.peer.name": "payments", "service.peer.namespace": "default" };
  const call = { ...peer, "server.address": "127.0.0.1", "server.port": target.port, "maxine.instance": "a" };
  assert.deepEqual(good.attributes, { ...call, "http.response.status_code": 200 });
  assert.deepEqual(bad.attributes, { ...call, "http.response.status_code": 503, "error.type": "503" });
  assert.deepEqual(broken.attributes, { ...call, "error.type": "ECONNRESET" });
  assert.deepEqual(broken.status, { code: api.SpanStatusCode.ERROR, message: "reset by the peer" });
  assert.equal(good.status.code, api.SpanStatusCode.UNSET);
  assert.deepEqual(target.seen.map((request) => request.headers.traceparent), [traceOf(good), traceOf(bad)]);
  assert.equal(target.seen[0].headers.accept, "text/plain");
  assert.equal(target.seen[1].headers["x-two"], "1, 2");

  const calls = await pointsOf("maxine.client.call.duration");
  assert.deepEqual(calls.map(({ attributes, value }) => [attributes, value.count]), [
    [{ ...peer, "http.response.status_code": 200 }, 1],
    [{ ...peer, "http.response.status_code": 503, "error.type": "503" }, 1],
    [{ ...peer, "error.type": "ECONNRESET" }, 1],
  ]);
  const requests = await pointsOf("http.client.request.duration");
  assert.ok(requests.some(({ attributes, value }) => attributes["http.response.status_code"] === 200 && value.count >= 2));
});

test("requests in the background have no span, and calls have none if they are left out", options, async () => {
  const { openTelemetry } = await import("maxine-client/otel");
  exporter.reset();
  const target = await serve(() => [200, {}, {}]);
  const [client] = await clientOf(target.url, openTelemetry({ tracerProvider, meterProvider, calls: false }));
  const resolver = await client.resolver("payments");
  await resolver.fetch("/");
  assert.deepEqual(exporter.getFinishedSpans(), []);
  assert.equal(target.seen[0].headers.traceparent, undefined);
});

test("the errors of a tracer end nothing", options, async (t) => {
  const target = await serve(() => [200, {}, {}]);
  t.mock.method(console, "error", () => {});
  const tracer = {
    start({ kind }) {
      if (kind === "request") throw new Error("start");
      return {
        end() {
          throw new Error("end");
        },
      };
    },
  };
  const [client] = await clientOf(target.url, tracer);
  const resolver = await client.resolver("payments");
  assert.equal((await resolver.fetch("/")).status, 200);
  assert.deepEqual([...new Set(console.error.mock.calls.map(({ arguments: [error] }) => error.message))].slice(0, 2), ["start", "end"]);
});
