// Runs ../spec/cases.json with fetch, then the client against the same cluster.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Maxine, MaxineError } from "./maxine.mjs";

const EVENTUALLY_MS = 30_000;
// The number of wrong answers of the faulty node that ../spec/README.md describes.
const FAULTY_ANSWERS = 6;
const env = process.env;
const nodes = env.MAXINE_SERVER.split(",");
const [upstreamHost, upstreamPort] = env.MAXINE_UPSTREAM.split(":");
const variables = { unique: `node-${randomBytes(4).toString("hex")}`, upstreamHost, upstreamPort };
for (const role of ["admin", "operator", "viewer"]) {
  variables[`${role}User`] = env[`MAXINE_${role.toUpperCase()}_USERNAME`];
  variables[`${role}Password`] = env[`MAXINE_${role.toUpperCase()}_PASSWORD`];
}

const fill = (text) => text.replace(/\$\{(\w+)\}/g, (_, name) => variables[name]);

function filled(value) {
  if (typeof value === "string") return fill(value);
  if (Array.isArray(value)) return value.map(filled);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [fill(name), filled(inner)]));
}

const TYPES = {
  $string: (v) => typeof v === "string",
  $number: (v) => typeof v === "number",
  $integer: Number.isInteger,
  $boolean: (v) => typeof v === "boolean",
  $array: Array.isArray,
  $object: (v) => v !== null && typeof v === "object" && !Array.isArray(v),
};

function check(expected, actual, at) {
  if (typeof expected === "string" && TYPES[expected]) {
    assert.ok(TYPES[expected](actual), `${at} is ${JSON.stringify(actual)}, not a ${expected}`);
  } else if (typeof expected === "string" && expected.startsWith("$re:")) {
    assert.match(String(actual), new RegExp(`^(?:${expected.slice(4)})$`), at);
  } else if (expected !== null && typeof expected === "object") {
    const { "...": open, ...fields } = expected;
    for (const [name, value] of Object.entries(fields)) check(value, actual?.[name], `${at}.${name}`);
    if (!open) assert.deepEqual(Object.keys(actual).sort(), Object.keys(fields).sort(), at);
  } else {
    assert.deepEqual(actual, expected, at);
  }
}

async function send({ node = 0, method, path, headers = {}, json, text }) {
  const body = json === undefined ? text : JSON.stringify(json);
  const sent = json === undefined ? headers : { "content-type": "application/json", ...headers };
  const answer = await fetch(nodes[node % nodes.length] + path, { method, headers: sent, body, redirect: "manual" });
  return { status: answer.status, headers: answer.headers, text: await answer.text() };
}

function compare(expect, answer) {
  assert.equal(answer.status, expect.status, `status, with ${answer.text}`);
  for (const [name, value] of Object.entries(expect.headers ?? {})) check(value, answer.headers.get(name), name);
  if (expect.text !== undefined) check(expect.text, answer.text, "body");
  if (expect.json !== undefined) check(expect.json, JSON.parse(answer.text), "body");
}

async function step({ request, expect, save = {}, eventually, tally }) {
  [request, expect] = [filled(request), filled(expect)];
  const deadline = Date.now() + EVENTUALLY_MS;
  const counts = {};
  for (let sent = 1; ; sent += 1) {
    const answer = await send(request);
    try {
      compare(expect, answer);
    } catch (error) {
      if (!eventually || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
      continue;
    }
    for (const [name, from] of Object.entries(save)) {
      const header = from.startsWith("header:") && answer.headers.get(from.slice(7));
      variables[name] = header || JSON.parse(answer.text)[from];
    }
    if (!tally) return;
    const value = answer.headers.get(tally.header);
    counts[value] = (counts[value] ?? 0) + 1;
    if (sent === tally.times) return assert.deepEqual(counts, tally.counts);
  }
}

async function eventually(condition) {
  const deadline = Date.now() + EVENTUALLY_MS;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `${condition} does not come true`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function client() {
  const maxine = new Maxine(["http://127.0.0.1:1", ...nodes]);
  const serviceName = `${variables.unique}-client`;
  assert.equal(await maxine.signIn(variables.viewerUser, variables.viewerPassword), "viewer");
  await assert.rejects(maxine.changeConfig({}), (error) => error instanceof MaxineError && error.status === 403);
  await assert.rejects(maxine.discover(serviceName), (error) => error.status === 503);
  const registration = { hostName: upstreamHost, port: Number(upstreamPort), nodeName: "a", serviceName, timeOut: 1 };
  const kept = await maxine.keepRegistered(registration);
  // Five heartbeats take longer than a registration lives without heartbeats.
  await eventually(() => kept.beats >= 5);
  assert.equal(await maxine.discover(serviceName, "x?y=1"), `http://${upstreamHost}:${upstreamPort}/x?y=1`);
  const answer = await maxine.call(serviceName, "/x", { method: "POST", body: "hello" });
  assert.equal((await answer.json()).body, "hello");
  assert.ok((await maxine.servers())[serviceName]);

  const stop = new AbortController();
  const index = (await maxine.send(`/api/v1/changes?service=${serviceName}&wait_ms=0`).then((a) => a.json())).index;
  const changes = maxine.watch(serviceName, { index, signal: stop.signal });
  await maxine.register({ ...registration, nodeName: "b" });
  const { value } = await changes.next();
  assert.deepEqual([value.type, value.instance], ["instance_registered", "b"]);
  kept.stop();
  for await (const change of changes) {
    if (change.type === "instance_removed" && change.instance === "a") stop.abort();
  }
  await eventually(() => maxine.discover(serviceName).then(() => false, (error) => error.status === 503));
}

async function heartbeats() {
  const errors = [];
  const maxine = new Maxine(`http://${env.MAXINE_FAULTY}`);
  const registration = { hostName: "h", nodeName: "a", serviceName: variables.unique };
  const kept = await maxine.keepRegistered(registration, { onError: (error) => errors.push(error) });
  await eventually(() => errors.length >= FAULTY_ANSWERS && kept.beats >= 2);
  kept.stop();
  assert.equal(errors.length, FAULTY_ANSWERS, String(errors));
}

const { cases } = JSON.parse(await readFile(new URL("../spec/cases.json", import.meta.url), "utf8"));
let failed = 0;
const own = [
  { name: "the client", run: client },
  { name: "heartbeats to a faulty node", run: heartbeats },
];
for (const { name, run, steps = [] } of [...cases, ...own]) {
  let at = 0;
  try {
    await run?.();
    for (const one of steps) {
      at += 1;
      await step(one);
    }
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}, step ${at}: ${error.stack}`);
  }
}
console.log(`${cases.length + own.length - failed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
