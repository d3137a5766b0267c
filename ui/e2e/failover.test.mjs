// When nodes fail, the page reports it, continues with another node, and recovers without a reload.
import assert from 'node:assert/strict';
import { go, violations } from './browser.mjs';
import { startCluster, until } from './cluster.mjs';
import { latencyTo, stage, test } from './harness.mjs';

const PORT = Number(process.env.MAXINE_E2E_PORT ?? 18300) + 40;
const on = stage(() => startCluster({ port: PORT }));
const put = (name, node) =>
  on.cluster
    .call('PUT', `/services/default/${name}/instances/a`, { address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 }, { node })
    .then(() => true, () => false);

test('the leader is killed: the page goes on, and the timeline tells why and for how long', async () => {
  await put('before', 0);
  const leader = await until(async () => (await on.cluster.leader()) + 1, 60_000, 'a leader').then((n) => n - 1);
  const other = (leader + 1) % 3;
  await on.within({ node: other }, async (page) => {
    await page.getByText('Live').first().waitFor();
    on.cluster.kill(leader);
    const at = Date.now();
    await until(async () => ![-1, leader].includes(await on.cluster.leader()), 60_000, 'a new leader');
    await go(page, '/services');
    const name = `after-failover-${at}`;
    const ms = await latencyTo(page, name, () => until(() => put(name, other), 60_000, 'a write after the failover'));
    console.log(`# writes again ${Date.now() - at} ms after the kill; the page showed it ${ms} ms after its answer`);
    await page.getByText('Live').first().waitFor();
    await go(page, '/cluster');
    await page.getByRole('region', { name: 'Latest leaders' }).getByText(`node-${leader + 1} stopped responding`).waitFor();
    await page.getByRole('region', { name: 'Nodes' }).getByText('Unreachable', { exact: true }).first().waitFor();
    // The new leader alone reports the member that is gone, and every node shows it.
    const third = [0, 1, 2].find((node) => node !== leader && node !== other);
    for (const node of [other, third]) {
      await on.within({ node, path: '/alerts' }, async (alerts) => {
        await alerts.getByText('cluster.member_unreachable').first().waitFor();
        await alerts.getByText(`2 of 3 nodes answered: without node-${leader + 1}`).first().waitFor();
        assert.equal(await alerts.getByText('No open alerts.').count(), 0);
      });
    }
    await page.getByRole('region', { name: 'What each node reports' }).getByText('no answer').waitFor();
    assert.deepEqual(await violations(page), []);
  });
  const changes = (await on.cluster.call('GET', '/cluster/leadership', undefined, { node: other })).items;
  await on.cluster.revive();
  // On a busy machine the new leader may have lost its lease for a moment meanwhile, and that is a later change.
  const taken = changes.find((change) => change.from === `node-${leader + 1}` && change.from !== change.holder);
  assert.equal(taken?.cause, 'silence', JSON.stringify(changes));
  assert.ok(taken.gap_ms > 0);
});

/** Within this time the page must not say any longer that it is live, in milliseconds. */
const LIVE_MS = 3_000;

/** The time from `stop`, which stops the node of the page, until the page no longer says that it is live, in milliseconds. */
async function liveFor(page, stop) {
  // The page measures: what the test itself needs on a busy machine does not count.
  await page.evaluate(() => {
    window.liveUntil = null;
    const state = document.querySelector('.link-state');
    const look = () => {
      if (window.liveUntil === null && !/\bLive\b/.test(state.innerText)) window.liveUntil = Date.now();
    };
    new MutationObserver(look).observe(state, { subtree: true, childList: true, characterData: true });
  });
  const at = Date.now();
  stop();
  await page.waitForFunction(() => window.liveUntil !== null, null, { timeout: 60_000 });
  return (await page.evaluate(() => window.liveUntil)) - at;
}

test('the node that serves the page hangs: the page says so, and lives on when it wakes', async () => {
  const here = on.cluster.nodes.findIndex((n) => !n.dead);
  await on.within({ node: here, path: '/services' }, async (page) => {
    const state = page.locator('.link-state');
    await state.getByText('Live').waitFor();
    try {
      const ms = await liveFor(page, () => process.kill(on.cluster.nodes[here].pid, 'SIGSTOP'));
      console.log(`# the page said that its node is silent after ${ms} ms`);
      assert.ok(ms < LIVE_MS, `the page said that it is live for ${ms} ms after its node hung`);
      await state.getByText(/^Lost/).waitFor();
    } finally {
      process.kill(on.cluster.nodes[here].pid, 'SIGCONT');
    }
    await state.getByText('Live').waitFor();
  });
});

test('the node that serves the page is killed: the page goes on at another, by default', async () => {
  const here = on.cluster.nodes.findIndex((n) => !n.dead);
  await on.within({ node: here, path: '/services', fresh: true }, async (page) => {
    await page.getByText('Live').first().waitFor();
    // The members' addresses come with the first look at the cluster.
    await page.waitForFunction(() => localStorage.getItem('maxine.peers') !== null);
    // So do the other screens, once the page is idle; what it has not got by then it cannot show.
    await page.waitForFunction(() =>
      performance.getEntriesByType('resource').some((r) => /\/service-[\w-]+\.js$/.test(r.name) && r.responseEnd > 0),
    );
    const at = Date.now();
    const ms = await liveFor(page, () => on.cluster.kill(here));
    console.log(`# the page said that its node is gone after ${ms} ms`);
    assert.ok(ms < LIVE_MS, `the page said that it is live for ${ms} ms after its node was killed`);
    await page.getByText(/^Served by/).waitFor({ timeout: 60_000 });
    console.log(`# the page went on at another node after ${Date.now() - at} ms`);
    const other = on.cluster.nodes.findIndex((n) => !n.dead);
    const name = `elsewhere-${at}`;
    await until(() => put(name, other), 60_000, 'a write');
    await page.getByText(name).first().waitFor();
    // Writing through the page works there as well.
    await go(page, `/services/default/${name}?instance=a`);
    await page.getByRole('button', { name: 'Drain', exact: true }).click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Drain', exact: true }).click();
    await page.getByText('a is draining.').first().waitFor();
  });
  await on.cluster.revive();
});

test('two of three nodes are gone: the page says that nobody leads, and shows what it has', async () => {
  await until(async () => (await on.cluster.leader()) >= 0, 60_000, 'a leader');
  for (const theme of ['light', 'dark']) {
    await on.within({ node: 0, path: '/services', theme }, async (page) => {
      await page.getByText('before').first().waitFor();
      if (theme === 'light') [1, 2].forEach((node) => on.cluster.kill(node));
      await page.getByText(/No leader\./).first().waitFor({ timeout: 60_000 });
      await page.getByText('before').first().waitFor();
      await go(page, '/cluster');
      await page.getByText(/No majority: 1 of 3 voters reachable, 2 needed/).waitFor();
      const rules = theme === 'light' ? 'all' : 'colour';
      assert.deepEqual(await violations(page, { rules }), [], theme);
      await go(page, '/services/default/before?instance=a');
      await page.getByRole('button', { name: 'Drain', exact: true }).click();
      await page.getByRole('alertdialog').getByRole('button', { name: 'Drain', exact: true }).click();
      await page.getByRole('alertdialog').getByRole('alert').waitFor();
      assert.deepEqual(await violations(page, { rules }), [], `a refused drain, ${theme}`);
    });
  }
});
