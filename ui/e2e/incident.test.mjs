// An incident with four faults is found and mended by the page.
import assert from 'node:assert/strict';
import { startCluster } from './cluster.mjs';
import { stage, test } from './harness.mjs';
import { mendIncident } from './incident-walk.mjs';
import { incidentTraffic, seedIncident } from './seed.mjs';

const on = stage(() => startCluster({ port: Number(process.env.MAXINE_E2E_PORT ?? 18300) + 60 }));

test('the four faults of an incident are found and mended from the overview', async () => {
  const incident = await seedIncident(on.cluster);
  const { upstreams, node } = incident;
  let over = false;
  const load = incidentTraffic(on.cluster, node, () => over);
  try {
    await on.within({ node, user: 'admin' }, async (page) => {
      const parts = await mendIncident(page, on.cluster, incident);
      for (const { fault, clicks, ms } of parts) console.log(`# ${fault}: ${clicks} clicks, ${(ms / 1000).toFixed(1)} s`);
      const clicks = parts.reduce((sum, part) => sum + part.clicks, 0);
      console.log(`# all four: ${clicks} clicks, ${(parts.reduce((sum, part) => sum + part.ms, 0) / 1000).toFixed(1)} s`);
      assert.ok(clicks <= 16, `${clicks} clicks`);
    });
  } finally {
    over = true;
    await load;
  }
  // Every call succeeds through every node, and none reaches the instances that are out.
  const reached = () => ['checkout-2', 'search-next'].map((name) => upstreams[name].state.calls);
  const before = reached();
  for (const service of ['checkout', 'search', 'pricing']) {
    for (let n = 0; n < 12; n += 1) {
      await on.cluster.call('GET', `/api/maxine/serviceops/proxy/${service}/v1/items/${n}`, undefined, { node: n % 3 });
    }
  }
  assert.deepEqual(reached(), before);
});
