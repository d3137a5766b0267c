// The package as its users load it, by its name.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import * as esm from "maxine-client";

test("import and require give the same names, and types exist for each", async () => {
  const cjs = createRequire(import.meta.url)("maxine-client");
  assert.deepEqual(Object.keys(cjs).sort(), Object.keys(esm).sort());
  const client = new cjs.Client("http://127.0.0.1:1", { timeoutMs: 50 });
  await assert.rejects(client.resolver("orders"), cjs.MaxineClientError);
  const { readFileSync } = await import("node:fs");
  const types = readFileSync(new URL("../index.d.mts", import.meta.url), "utf8");
  for (const name of Object.keys(esm)) assert.match(types, new RegExp(`^export class ${name}\\b`, "m"));
});
