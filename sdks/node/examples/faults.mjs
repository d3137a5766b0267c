// The part of a client in `scripts/sdks.py faults`: registers itself, calls the targets, and prints what it sees.

import { Client, ClientCredentials } from "../index.mjs";

let errors = 0, calls = 0, failed = 0, ageMaxMs = 0, stopping = false;
// The tokens of this client are valid for 10 s.
const credentials = process.env.MAXINE_TEST_ISSUER && new ClientCredentials({
  clientId: "worker", issuer: process.env.MAXINE_TEST_ISSUER, clientSecretEnv: "MAXINE_TEST_SECRET", resource: "https://maxine.test/",
});
const client = new Client(process.env.MAXINE_SERVER, { credentials, onError: () => (errors += 1) });
const kept = await client.register("workers", "node", { address: "http://127.0.0.1:1", ttl_ms: 3_000 });
const targets = await client.resolver("targets");
const tell = () => console.log(`change ${Date.now()} ${targets.instances.map(({ id }) => id).join()}`);
targets.on("change", tell);
tell();

process.on("SIGTERM", async () => {
  stopping = true;
  await client.stop();
  const began = process.hrtime.bigint();
  for (let n = 0; n < 100_000; n += 1) targets.choose().done();
  const chooseNs = Number(process.hrtime.bigint() - began) / 100_000;
  console.log(JSON.stringify({ calls, failed, ageMaxMs: Math.round(ageMaxMs), chooseNs: Math.round(chooseNs), renewals: kept.renewals, errors }));
  process.exit();
});

while (!stopping) {
  calls += 1;
  ageMaxMs = Math.max(ageMaxMs, targets.ageMs);
  try {
    if (!(await targets.fetch("/")).ok) failed += 1;
  } catch {
    failed += 1;
  }
  await new Promise((resolve) => setTimeout(resolve, 10));
}
