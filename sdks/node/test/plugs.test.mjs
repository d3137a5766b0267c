// The parts for undici and @grpc/grpc-js, against a real cluster and real servers.

import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { Readable } from "node:stream";
import { after, test } from "node:test";
import { Client } from "maxine-client";
import { registerMaxine } from "maxine-client/grpc";
import { maxine } from "maxine-client/undici";

const load = (name) => import(name).catch(() => undefined);
const [undici, grpc] = [await load("undici"), await load("@grpc/grpc-js")];
const { MAXINE_SERVER } = process.env;
const unless = (module) => ({ skip: !MAXINE_SERVER ? "MAXINE_SERVER names no cluster" : module ? false : "npm ci was not run" });
const ends = [];
after(async () => {
  for (const end of ends.reverse()) await end();
});

function client(options) {
  const one = new Client(MAXINE_SERVER, options);
  ends.push(() => one.stop());
  return one;
}

async function until(condition) {
  for (const deadline = Date.now() + 30_000; !(await condition()); ) {
    assert.ok(Date.now() < deadline, `in time: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function httpServer() {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    response.end(JSON.stringify({ url: request.url, host: request.headers.host, body }));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  ends.push(() => server.close().closeAllConnections());
  return `http://127.0.0.1:${server.address().port}`;
}

async function closedPort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  await once(server.close(), "close");
  return `http://127.0.0.1:${port}`;
}

test("undici: requests go to an instance that can be reached", unless(undici), async () => {
  const service = `node-undici-${process.hrtime.bigint()}`;
  const calls = [], attempts = [];
  const caller = client({ onCall: (call) => calls.push(call), onAttempt: (attempt) => attempts.push(attempt) });
  const dispatcher = new undici.Agent().compose(maxine(caller));
  ends.push(() => dispatcher.close());
  const url = `http://${service}.maxine/x?y=1`;
  await assert.rejects(undici.request(url, { dispatcher }), /no instance of/);

  const [server, owner] = [await httpServer(), client()];
  await owner.register(service, "closed", { address: await closedPort() });
  await owner.register(service, "open", { address: `${server}/base/` });
  await until(async () => {
    const answer = await undici.request(url, { dispatcher }).catch(() => undefined);
    await answer?.body.dump();
    return new Set(calls.map((call) => call.instance)).size === 2;
  });
  calls.length = 0;
  const expected = { url: "/base/x?y=1", host: new URL(server).host, body: "body" };
  for (let n = 0; n < 4; n += 1) {
    const answer = await undici.request(url, { dispatcher, method: "POST", body: "body" });
    assert.deepEqual(await answer.body.json(), expected);
    // With fetch the body is something that can be iterated once; nothing of it is read before there is a connection.
    const fetched = await undici.fetch(url, { dispatcher, method: "POST", body: "body" });
    assert.deepEqual(await fetched.json(), expected);
  }
  const query = await undici.request(`http://${service}.maxine/x`, { dispatcher, query: { a: "b c" } });
  assert.equal((await query.body.json()).url, "/base/x?a=b%20c");
  const streamed = await undici.request(url, { dispatcher, method: "POST", body: Readable.from(["bo", "dy"]) });
  assert.deepEqual(await streamed.body.json(), expected);
  assert.equal(calls.filter((call) => !call.failed && call.instance === "open" && call.service === service).length, 10);
  assert.ok(attempts.some((one) => one.status === 200 && one.path.includes(service) && one.durationMs > 0));
  // Other origins go where they name.
  assert.equal((await (await undici.request(`${server}/z`, { dispatcher })).body.json()).url, "/z");
});

test("undici: an aborted request does not count against its instance", unless(undici), async () => {
  const service = `node-undici-abort-${process.hrtime.bigint()}`;
  const silent = http.createServer(() => {});
  await once(silent.listen(0, "127.0.0.1"), "listening");
  ends.push(() => silent.close().closeAllConnections());
  const calls = [];
  const caller = client({ onCall: (call) => calls.push(call) });
  await caller.register(service, "silent", { address: `http://127.0.0.1:${silent.address().port}` });
  const dispatcher = new undici.Agent().compose(maxine(caller));
  ends.push(() => dispatcher.destroy());
  const ended = new AbortController();
  silent.once("request", () => ended.abort());
  await assert.rejects(undici.fetch(`http://${service}.maxine/`, { dispatcher, signal: ended.signal }), { name: "AbortError" });
  await until(() => calls.length === 1);
  assert.equal(calls[0].failed, false);
});

/** A real gRPC server that counts its calls. */
async function grpcServer(definition) {
  const server = new grpc.Server();
  const counted = { calls: 0, server };
  server.addService(definition, { echo: (call, answer) => answer(null, ((counted.calls += 1), call.request)) });
  const port = await new Promise((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound))),
  );
  ends.push(() => server.forceShutdown());
  return Object.assign(counted, { address: `http://127.0.0.1:${port}` });
}

test("grpc: calls follow the instances of the service", unless(grpc), async () => {
  const raw = { requestSerialize: (b) => b, requestDeserialize: (b) => b, responseSerialize: (b) => b, responseDeserialize: (b) => b };
  const definition = { echo: { path: "/test.Echo/Echo", requestStream: false, responseStream: false, ...raw } };
  const service = `node-grpc-${process.hrtime.bigint()}`;
  const [caller, owner] = [client(), client()];
  registerMaxine(grpc, caller);
  const Echo = grpc.makeGenericClientConstructor(definition, "Echo");
  const stub = new Echo(`maxine:///${service}`, grpc.credentials.createInsecure());
  ends.push(() => stub.close());
  const call = () =>
    new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + 10_000 };
      stub.echo(Buffer.from("hello"), new grpc.Metadata(), options, (error, answer) => (error ? reject(error) : resolve(String(answer))));
    });
  await assert.rejects(call(), { code: grpc.status.UNAVAILABLE, details: /no instance of/ });

  const [a, b] = [await grpcServer(definition), await grpcServer(definition)];
  await owner.register(service, "a", { address: a.address });
  const kept = await owner.register(service, "b", { address: b.address });
  await until(async () => (await call().catch(() => {}), a.calls > 0 && b.calls > 0));
  const before = [a.calls, b.calls];
  for (let n = 0; n < 20; n += 1) assert.equal(await call(), "hello");
  assert.deepEqual([a.calls - before[0], b.calls - before[1]], [10, 10]);

  // Nobody calls an instance that has deregistered, although its server still runs.
  await kept.stop();
  const resolver = await caller.resolver(service);
  await until(() => resolver.instances.length === 1);
  await until(async () => {
    const seen = a.calls;
    await call();
    await call();
    return a.calls === seen + 2;
  });
  // Without an instance, calls fail at once.
  await owner.stop();
  await until(() => call().then(() => false, (error) => error.code === grpc.status.UNAVAILABLE && error.details.includes("no instance")));
});

test("the parts can be loaded with require", () => {
  const require = createRequire(import.meta.url);
  assert.equal(typeof require("maxine-client/undici").maxine, "function");
  assert.equal(typeof require("maxine-client/grpc").registerMaxine, "function");
  assert.equal(typeof require("maxine-client/otel").openTelemetry, "function");
});
