// The choices of the nodes, as the test vectors in sdks/spec have them.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Balancer, callerHash } from "../lib/balance.mjs";
import { xxh3 } from "../lib/xxh3.mjs";

const spec = (name) => JSON.parse(readFileSync(new URL(`../../spec/${name}`, import.meta.url), "utf8"));
const hex = (hash) => hash.toString(16).padStart(16, "0");

test("XXH3", () => {
  const { hashes } = spec("xxh3.json");
  for (const { len, seed, expect } of hashes) {
    const data = Buffer.from(Array.from({ length: len }, (_, i) => (i * i + 7 * i) & 255));
    assert.equal(hex(xxh3(data, BigInt(`0x${seed}`))), expect, `${len} octets, seed ${seed}`);
  }
  assert.ok(hashes.length > 100);
});

test("hashes of callers", () => {
  const { hashes } = spec("balance.json");
  for (const { name, hash_key, address, key, headers, instance_query, query, expect } of hashes) {
    assert.equal(hex(callerHash(hash_key, { address, key, headers, queries: [instance_query, query] })), expect, name);
  }
  assert.ok(hashes.length > 10);
});

test("choices", () => {
  let checked = 0;
  for (const { name, strategy, instances, split, zone, left_out, turns, keys, expect } of spec("balance.json").choices) {
    const balancer = new Balancer(strategy, instances, { split: split ?? [], zone });
    const admits = (at) => !(left_out ?? []).includes(instances[at].id);
    const choose = (caller) => instances[balancer.choose({ caller, admits })].id;
    if (turns) {
      assert.deepEqual(Array.from({ length: turns }, () => choose(0n)), expect, name);
      checked += turns;
    }
    for (const key of keys ?? []) {
      assert.equal(choose(xxh3(Buffer.from(key))), expect[key], `${name}: ${key}`);
      checked += 1;
    }
  }
  assert.ok(checked > 90);
});

test("least request prefers the idle one, and nothing comes of nothing", () => {
  const balancer = new Balancer("least_request", [{ id: "a", weight: 1 }, { id: "b", weight: 1 }]);
  for (let n = 0; n < 50; n += 1) assert.equal(balancer.choose({ inFlight: (at) => [1, 0][at] }), 1);
  assert.equal(balancer.choose({ admits: () => false }), undefined);
  for (const strategy of ["rendezvous", "consistent_hash", "round_robin", "least_request"]) {
    assert.equal(new Balancer(strategy, []).choose(), undefined);
  }
});
