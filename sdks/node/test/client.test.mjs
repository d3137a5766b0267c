// The client against nodes that fail in a chosen way, and against a real cluster if MAXINE_SERVER names one.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Client, MaxineClientError } from "../index.mjs";
import { Nodes } from "../lib/nodes.mjs";

const cluster = { skip: process.env.MAXINE_SERVER ? false : "MAXINE_SERVER names no cluster" };
const folder = mkdtempSync(join(tmpdir(), "maxine-"));
const servers = [];
after(() => {
  for (const server of servers) server.close().closeAllConnections();
  rmSync(folder, { recursive: true });
});

/** A node that answers each request with `answer(method, path)`: a status, headers and JSON. */
async function fakeNode(answer, tls) {
  const seen = [];
  const listen = (request, response) => {
    seen.push([request.method, request.url, request.headers.authorization]);
    request.resume().on("end", () => {
      const [status, headers, body] = answer(request.method, request.url);
      response.writeHead(status, headers).end(JSON.stringify(body));
    });
  };
  const server = tls ? https.createServer(tls, listen) : http.createServer(listen);
  servers.push(server);
  await once(server.listen(0, "127.0.0.1"), "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, port: server.address().port, seen };
}

/** The same nodes, each of which is not asked again within the time of a call. */
function askedOnce(nodes) {
  const failed = nodes.failed.bind(nodes);
  nodes.failed = (node) => failed(node, 60);
  return nodes;
}

async function closedPort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  await once(server.close(), "close");
  return `http://127.0.0.1:${port}`;
}

async function until(condition) {
  for (const deadline = Date.now() + 30_000; !(await condition()); ) {
    assert.ok(Date.now() < deadline, `in time: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test("a node that cannot be reached and one without a state are passed over", async () => {
  const good = await fakeNode(() => [200, {}, { ok: 1 }]);
  const bad = await fakeNode(() => [503, { "retry-after": "30" }, { detail: "no state" }]);
  const nodes = new Nodes([await closedPort(), bad.url, good.url]);
  for (let n = 0; n < 10; n += 1) assert.deepEqual((await nodes.json("GET", "/x"))[0], { ok: 1 });
  // After its first answer the node is left alone for as long as it has asked.
  assert.ok(bad.seen.length <= 1);
  nodes.close();
});

test("the deadline ends the attempts, and the last error says why", async () => {
  // The node asks for more time than there is.
  const bad = await fakeNode(() => [503, { "retry-after": "30" }, { detail: "no leader" }]);
  await assert.rejects(new Nodes([bad.url]).json("GET", "/x"), /no leader/);
  await assert.rejects(askedOnce(new Nodes([await closedPort()])).json("GET", "/x"), { status: 0 });
});

test("a refusal is not repeated", async () => {
  const node = await fakeNode(() => [422, {}, { detail: "weight must be from 1 to 100" }]);
  const refused = new Nodes([node.url, node.url]).json("PUT", "/x", { body: {} });
  await assert.rejects(refused, (error) => error instanceof MaxineClientError && error.problem.detail.startsWith("weight"));
  assert.equal(node.seen.length, 1);
});

test("a replaced token file is used at once", async () => {
  const node = await fakeNode(() => [200, {}, {}]);
  const tokenFile = join(folder, "token");
  const nodes = new Nodes([node.url], { tokenFile });
  for (const token of ["one", "two"]) {
    writeFileSync(tokenFile, `${token}\n`);
    await nodes.json("GET", "/x");
  }
  assert.deepEqual(node.seen.map((seen) => seen[2]), ["Bearer one", "Bearer two"]);
  nodes.close();
});

test("the certificate of a node is checked", async () => {
  const [cert, key] = [join(folder, "cert.pem"), join(folder, "key.pem")];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  const names = ["-subj", "/CN=node", "-addext", "subjectAltName=DNS:localhost"];
  execFileSync("openssl", ["req", "-x509", ...curve, ...names, "-keyout", key, "-out", cert], { stdio: "ignore" });
  const node = await fakeNode(() => [200, {}, { ok: 1 }], { cert: readFileSync(cert), key: readFileSync(key) });
  const url = `https://localhost:${node.port}`;
  const nodes = new Nodes([url], { caFile: cert });
  assert.deepEqual((await nodes.json("GET", "/x"))[0], { ok: 1 });
  nodes.close();
  await assert.rejects(askedOnce(new Nodes([url])).json("GET", "/x"), /self-signed certificate/);
});

test("what the cluster has lost is registered again, whatever onError does", async () => {
  const beats = [[], "wrong", [0]];
  const node = await fakeNode((method) =>
    method === "POST" ? [200, {}, { unknown: beats.length > 0 ? beats.shift() : [] }] : [200, {}, { lease_epoch: 7 }],
  );
  const errors = [];
  const onError = (error) => {
    errors.push(error);
    throw new Error("of the callback");
  };
  const { error: print } = console;
  console.error = () => {};
  const client = new Client(node.url, { onError });
  const kept = await client.register("orders", "a b/c", { address: "http://10.0.0.9:3000", ttl_ms: 90 });
  await until(() => kept.renewals === 1 && kept.beats >= 3);
  await client.stop();
  console.error = print;
  assert.equal(errors.length, 1);
  const path = "/api/v1/services/default/orders/instances/a%20b%2Fc";
  const others = node.seen.filter(([method]) => method !== "POST").map(([method, url]) => `${method} ${url}`);
  assert.deepEqual(others, [`PUT ${path}`, `PUT ${path}`, `DELETE ${path}?lease_epoch=7`]);
});

test("names that mean another path are refused", async () => {
  await assert.rejects(new Client("http://127.0.0.1:1").register("..", "a", { address: "http://h" }), TypeError);
});

test("a resolver follows registrations, and goes on without a node", cluster, async () => {
  const service = `node-${process.hrtime.bigint()}`;
  const upstream = await fakeNode((_, url) => [200, {}, { url }]);
  const [client, other] = [new Client(process.env.MAXINE_SERVER), new Client(process.env.MAXINE_SERVER)];
  const resolver = await client.resolver(service);
  assert.equal(resolver.choose(), undefined);
  const dead = await closedPort();
  const kept = [
    await other.register(service, "a", { address: dead }),
    await other.register(service, "b", { address: upstream.url, weight: 3 }),
  ];
  await until(() => resolver.instances.length === 2);
  const chosen = Array.from({ length: 8 }, () => resolver.choose()).map((one) => (one.done(), one.instance.id));
  assert.deepEqual([chosen.filter((id) => id === "a").length, chosen.filter((id) => id === "b").length], [2, 6]);
  // The instance that refuses connections is tried, avoided, and does not fail a request.
  for (let n = 0; n < 8; n += 1) assert.deepEqual(await (await resolver.fetch(`/x?n=${n}`)).json(), { url: `/x?n=${n}` });
  assert.equal(resolver.choose().instance.id, "b");
  await kept[0].stop();
  await until(() => resolver.instances.map(({ id }) => id).join() === "b");
  assert.ok(resolver.ageMs < 15_000);
  await client.stop();
  assert.equal(resolver.choose().address, upstream.url);
  await other.stop();
});
