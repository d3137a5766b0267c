// Redis mode: the page names the backend, and reports when Redis is down.
import assert from 'node:assert/strict';
import { go, violations } from './browser.mjs';
import { startCluster } from './cluster.mjs';
import { stage, test } from './harness.mjs';

const PORT = Number(process.env.MAXINE_E2E_PORT ?? 18300) + 60;
const on = stage(() => startCluster({ port: PORT, nodes: 2, backend: 'redis' }));

test('Redis stops: the page says so and shows what it has; Redis is back: the page is live again', async () => {
  await on.cluster.call('PUT', '/services/default/before/instances/a', { address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 });
  await on.within({ path: '/services' }, async (page) => {
    await page.getByText('before').first().waitFor();
    await go(page, '/cluster');
    await page.getByText('redis').first().waitFor();
    assert.deepEqual(await violations(page), []);
    on.cluster.pauseRedis();
    await page.getByText(/Redis does not answer/).first().waitFor({ timeout: 60_000 });
    await go(page, '/services');
    await page.getByText('before').first().waitFor();
    assert.deepEqual(await violations(page), []);
    on.cluster.resumeRedis();
    await page.getByText('Live').first().waitFor({ timeout: 60_000 });
  });
});
