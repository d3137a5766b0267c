// Tokens by client credentials: against a provider that fails in a chosen way, and against a real provider and a cluster that
// accepts its tokens, if MAXINE_TEST_ISSUER names one.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { ClientCredentials, MaxineClientError } from "../index.mjs";
import { Nodes } from "../lib/nodes.mjs";

const SECRET = "s3cret: with % signs +";
const folder = mkdtempSync(join(tmpdir(), "maxine-"));
const clientSecretFile = join(folder, "secret");
writeFileSync(clientSecretFile, `${SECRET}\n`);
const servers = [];
after(() => {
  for (const server of servers) server.close().closeAllConnections();
  rmSync(folder, { recursive: true });
});

/** A server that answers with `answer(request, body)`: a status, headers and JSON. The first answer has the number 1. */
async function serve(answer) {
  const seen = [];
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    seen.push({ url: request.url, authorization: request.headers.authorization, form: new URLSearchParams(body) });
    const [status, headers, json] = await answer(seen.length, request);
    response.writeHead(status, headers).end(JSON.stringify(json));
  });
  servers.push(server);
  await once(server.listen(0, "127.0.0.1"), "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, seen };
}

const granted = (token, expires_in) => [200, {}, { access_token: token, token_type: "bearer", expires_in }];
const source = (tokenUrl, more) => new ClientCredentials({ clientId: "orders: a+b", tokenUrl, clientSecretFile, ...more });

async function until(condition) {
  for (const deadline = Date.now() + 30_000; !(await condition()); ) {
    assert.ok(Date.now() < deadline, `in time: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test("one fetch serves all callers, with the form and the credentials of RFC 6749", async () => {
  const { url, seen } = await serve(() => granted("one", 600));
  const credentials = source(`${url}/token`, { scope: "a b", audience: "maxine", resource: "https://maxine.test/" });
  assert.deepEqual(new Set(await Promise.all(Array.from({ length: 20 }, () => credentials.token()))), new Set(["one"]));
  assert.equal(seen.length, 1);
  assert.deepEqual(Object.fromEntries(seen[0].form), {
    grant_type: "client_credentials", scope: "a b", audience: "maxine", resource: "https://maxine.test/",
  });
  const basic = Buffer.from("orders%3A+a%2Bb:s3cret%3A+with+%25+signs+%2B").toString("base64");
  assert.equal(seen[0].authorization, `Basic ${basic}`);
});

test("a token is renewed before it expires, and used while the provider fails", async () => {
  const errors = [];
  const { url, seen } = await serve((nth) => (nth === 2 ? [503, {}, {}] : granted(`token-${nth}`, 8)));
  const credentials = source(url, { onError: (error) => errors.push(error) });
  assert.equal(await credentials.token(), "token-1");
  const begun = performance.now();
  const got = [];
  await until(async () => (got.push(await credentials.token()), got.at(-1) === "token-3"));
  assert.ok(performance.now() - begun < 8_000, "the new token was fetched before the first one expired");
  assert.deepEqual(new Set(got), new Set(["token-1", "token-3"]));
  assert.match(errors[0].message, /answers 503/);
  assert.equal(seen.length, 3);
});

test("a provider that fails is asked again after a pause, and a call waits for it", async () => {
  const { url, seen } = await serve((nth) => (nth < 3 ? [503, {}, {}] : granted("late", 600)));
  const begun = performance.now();
  assert.deepEqual(new Set(await Promise.all([source(url).token()])), new Set(["late"]));
  assert.equal(seen.length, 3);
  assert.ok(performance.now() - begun > 700);
  const down = await serve(() => [503, { "retry-after": "30" }, {}]);
  await assert.rejects(source(down.url).token({ timeoutMs: 300 }), /answers 503/);
  const silent = await serve(() => new Promise(() => {}));
  await assert.rejects(source(silent.url).token({ timeoutMs: 300 }), /no token: the provider has not answered in time/);
});

test("a refusal ends the call at once, and its error does not tell the secret", async () => {
  const description = `no client with ${SECRET} and ${Buffer.from(`orders%3A+a%2Bb:${new URLSearchParams({ "": SECRET }).toString().slice(1)}`).toString("base64")}`;
  const { url, seen } = await serve(() => [401, {}, { error: "invalid_client", error_description: description }]);
  const credentials = source(`${url}/token`);
  for (let n = 0; n < 3; n += 1) {
    await assert.rejects(credentials.token(), (error) => {
      assert.ok(error instanceof MaxineClientError);
      assert.equal(error.message, `no token: ${url}/token answers 401: invalid_client: no client with *** and ***`);
      return true;
    });
  }
  assert.equal(seen.length, 1, "it is not asked again before a pause is over");
});

test("no token of a node's call is asked for where there is none", async () => {
  const node = await serve(() => [200, {}, {}]);
  const provider = await serve(() => [400, {}, { error: "invalid_scope" }]);
  const nodes = new Nodes([node.url], { credentials: source(provider.url) });
  await assert.rejects(nodes.json("GET", "/x"), { status: 0, message: /^no token: .* invalid_scope$/ });
  assert.equal(node.seen.length, 0);
  nodes.close();
});

test("a token that a node refuses is replaced, unless it is new", async (t) => {
  const provider = await serve((nth) => granted(`token-${nth}`, 600));
  const node = await serve((_, request) => [request.headers.authorization === "Bearer token-1" ? 401 : 200, {}, { detail: "no" }]);
  const nodes = new Nodes([node.url], { credentials: source(provider.url) });
  await assert.rejects(nodes.json("GET", "/x"), { status: 401 });
  const now = performance.now.bind(performance);
  t.mock.method(performance, "now", () => now() + 6_000);
  await nodes.json("GET", "/x");
  assert.equal(node.seen.at(-1).authorization, "Bearer token-2");
  nodes.close();
});

test("the issuer names the endpoint and the method, and only itself", async () => {
  const found = { token_endpoint_auth_methods_supported: ["client_secret_post"] };
  const { url, seen } = await serve((_, request) => (request.url === "/token" ? granted("posted", 600) : [200, {}, found]));
  Object.assign(found, { issuer: url, token_endpoint: `${url}/token` });
  const issuer = () => new ClientCredentials({ clientId: "orders", issuer: url, clientSecretFile });
  assert.equal(await issuer().token(), "posted");
  assert.equal(seen[1].form.get("client_secret"), SECRET);
  assert.equal(seen[1].authorization, undefined);
  found.token_endpoint = "http://10.0.0.1/token";
  await assert.rejects(issuer().token(), /the token_endpoint must be an https URL/);
  found.issuer = "https://another.test";
  await assert.rejects(issuer().token(), /another one/);
});

test("answers and settings that are not safe are refused", async () => {
  const bad = [
    [{ access_token: "a b", token_type: "bearer" }, /no access_token/],
    [{ access_token: "a\nb", token_type: "bearer" }, /no access_token/],
    [{ access_token: "a", token_type: "mac" }, /token_type/],
  ];
  for (const [json, message] of bad) await assert.rejects(source((await serve(() => [200, {}, json])).url).token(), message);
  const elsewhere = await serve(() => granted("stolen", 600));
  const redirecting = await serve(() => [307, { location: elsewhere.url }, {}]);
  await assert.rejects(source(redirecting.url).token(), /answers 307/);
  assert.equal(elsewhere.seen.length, 0);
  for (const url of ["http://10.0.0.1/token", "http://localhost.example/token", "https://u:p@h/token", "ftp://localhost/", "token"]) {
    assert.throws(() => source(url), /must be an https URL/, url);
  }
  assert.throws(() => new ClientCredentials({ clientId: "a", tokenUrl: "https://h", issuer: "https://h", clientSecretFile }), TypeError);
  assert.throws(() => new ClientCredentials({ clientId: "a", tokenUrl: "https://h" }), TypeError);
  assert.throws(() => new Nodes(["http://127.0.0.1:1"], { token: "t", credentials: source("https://h") }), TypeError);
  const unset = { clientSecretFile: undefined, clientSecretEnv: "MAXINE_TEST_NO_SECRET" };
  await assert.rejects(source("https://127.0.0.1:1", unset).token(), /MAXINE_TEST_NO_SECRET has no client secret/);
  await assert.rejects(source("https://127.0.0.1:1", { clientSecretFile: "/nowhere" }).token(), /the client secret cannot be read/);
});

const { MAXINE_TEST_ISSUER: issuer, MAXINE_SERVER } = process.env;
const real = { skip: issuer && MAXINE_SERVER ? false : "MAXINE_TEST_ISSUER names no provider" };
const resource = "https://maxine.test/";

/** What a node says about the caller who has the tokens of this client. */
async function me(clientId, use = async (ask) => ask()) {
  process.env.MAXINE_TEST_SECRET = SECRET;
  const credentials = new ClientCredentials({ clientId, issuer, clientSecretEnv: "MAXINE_TEST_SECRET", resource, scope: "register" });
  const nodes = new Nodes(MAXINE_SERVER.split(","), { credentials });
  try {
    return await use(async () => (await nodes.json("GET", "/api/v1/me"))[0], credentials);
  } finally {
    nodes.close();
  }
}

test("the nodes accept the token of a real provider", real, async () => {
  const { user, role, via } = await me("orders: a+b");
  assert.deepEqual([user, role, via], ["jwt:corp/orders: a+b", "operator", "jwt"]);
  await assert.rejects(me("stranger"), { status: 403 });
  await assert.rejects(me("nobody"), { status: 0, message: /^no token: .* answers 401: invalid_client/ });
});

test("calls go on beyond the life of a token", real, async () => {
  const tokens = await me("brief", async (ask, credentials) => {
    const used = new Set();
    await until(async () => {
      assert.equal((await ask()).role, "viewer");
      used.add(await credentials.token());
      return used.size === 3;
    });
    return used;
  });
  assert.equal(tokens.size, 3);
});
