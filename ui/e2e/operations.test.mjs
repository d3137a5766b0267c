// What an operator and an admin do, against real nodes: each action is looked up on the server.
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { go, violations } from './browser.mjs';
import { startCluster, startJoiner, startLone, until } from './cluster.mjs';
import { stage, test } from './harness.mjs';

const PORT = Number(process.env.MAXINE_E2E_PORT ?? 18300) + 20;
const on = stage(async () => {
  const cluster = await startCluster({ port: PORT });
  await cluster.addUser('olga', 'operator');
  return cluster;
});
const instance = (id) => `/services/default/orders/instances/${id}`;
/** No violation of what is shown, in both themes. */
async function clean(page, where) {
  for (const colorScheme of ['dark', 'light']) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await violations(page), [], `${where}, ${colorScheme}`);
  }
}

async function register(ids) {
  for (const id of ids) {
    const upstream = await on.cluster.upstream(id);
    await on.cluster.call('PUT', instance(id), { address: upstream.address, ttl_ms: 86_400_000, weight: 2, zone: 'a' });
  }
}

/** Requests that stay under way through a node's proxy until they are let go. */
async function hold(node, n) {
  let release;
  const letGo = new Promise((resolve) => (release = resolve));
  const slow = await on.cluster.upstream('slow', { letGo });
  await on.cluster.call('PUT', '/services/default/slow/instances/slow-1', { address: slow.address, ttl_ms: 86_400_000 });
  // However long the page takes to open, the proxy waits for the answer.
  const timeouts = { connect_ms: 2_000, response_ms: 600_000, idle_ms: 600_000, total_ms: 0 };
  await on.cluster.call('PUT', '/services/default/slow/policy', { traffic: { timeouts } });
  const port = Number(new URL(on.cluster.nodes[node].http).port);
  const ended = Array.from({ length: n }, () => new Promise((resolve) => {
    request({ host: '127.0.0.1', port, path: '/api/maxine/serviceops/proxy/slow/x' }, (answer) => {
      answer.resume().on('end', () => resolve(answer.statusCode));
    }).on('error', () => resolve(0)).end();
  }));
  return { release, ended: Promise.all(ended) };
}

test('a drain tells how many requests are in flight, through every node', async () => {
  const held = await hold(1, 3);
  const counted = () => on.cluster.call('GET', '/services/default/slow/instances/slow-1/nodes');
  await until(async () => (await counted()).in_flight === 3, 60_000, 'three requests in flight');
  await on.within({ user: 'olga', path: '/services/default/slow?instance=slow-1' }, async (page) => {
    await page.getByRole('button', { name: 'Drain', exact: true }).click();
    const dialog = page.getByRole('alertdialog');
    await dialog.getByText('3 requests').waitFor();
    await dialog.getByText('It is the last that gets traffic').waitFor();
    await clean(page, 'the drain dialog');
    await dialog.getByRole('button', { name: 'Drain', exact: true }).click();
    await page.getByText('slow-1 is drained.').first().waitFor();
    held.release();
    assert.deepEqual(await held.ended, [200, 200, 200], 'what was under way is finished');
    await page.getByRole('dialog').getByText('No request is in flight to it.').waitFor();
    await page.getByRole('button', { name: 'Return it' }).click();
    await until(async () => !(await on.cluster.call('GET', '/services/default/slow/instances/slow-1')).drain, 60_000, 'the undo');
  });
});

test('weight, deregistration and their undo', async () => {
  await register(['orders-1', 'orders-2']);
  const weight = async () => (await on.cluster.call('GET', instance('orders-1'))).weight;
  await on.within({ user: 'olga', path: '/services/default/orders?instance=orders-1' }, async (page) => {
    await page.getByRole('button', { name: 'Weight' }).click();
    const dialog = page.getByRole('alertdialog');
    await dialog.getByRole('textbox').or(dialog.getByRole('spinbutton')).first().fill('7');
    await clean(page, 'the weight dialog');
    await dialog.getByRole('button', { name: /weight/i }).last().click();
    await until(async () => (await weight()) === 7, 60_000, 'the weight');
    await page.getByRole('button', { name: 'Undo' }).first().click();
    await until(async () => (await weight()) === 2, 60_000, 'the undo');
    await page.getByRole('dialog').getByRole('button', { name: 'Deregister' }).click();
    await clean(page, 'the deregister dialog');
    await page.getByRole('alertdialog').getByRole('button', { name: 'Deregister' }).click();
    const there = () => on.cluster.call('GET', instance('orders-1')).then(() => true, () => false);
    await until(async () => !(await there()), 60_000, 'the deregistration');
    await page.getByRole('button', { name: 'Register again' }).click();
    await until(there, 60_000, 'the undo');
  });
});

test('a token is made, works, and is revoked; signing keys are rotated', async () => {
  await on.within({ path: '/access?tab=tokens', user: 'admin' }, async (page) => {
    await page.getByRole('button', { name: 'Create token' }).click();
    await clean(page, 'the token dialog');
    await page.getByLabel('What it is for').fill('nightly job');
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    const token = (await page.locator('.command pre').textContent()).trim();
    await clean(page, 'the token, shown once');
    const me = () => fetch(`${on.cluster.nodes[2].http}/api/v1/me`, { headers: { authorization: `Bearer ${token}` } });
    assert.equal((await me()).status, 200);
    await page.getByRole('button', { name: 'I have it' }).click();
    assert.doesNotMatch(await page.content(), new RegExp(token));
    await page.getByRole('row', { name: /nightly job/ }).getByRole('button', { name: /^Revoke/ }).click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Revoke' }).click();
    await until(async () => (await me()).status !== 200, 60_000, 'the revocation on every node');
    await go(page, '/access?tab=keys');
    const keys = async () => (await on.cluster.call('GET', '/keys')).items;
    const before = (await keys()).length;
    await page.getByRole('button', { name: 'Rotate…' }).click();
    await clean(page, 'the rotation dialog');
    await page.getByRole('alertdialog').getByRole('button', { name: 'Rotate' }).click();
    await until(async () => (await keys()).length === before + 1, 60_000, 'the new key');
    await go(page, '/access');
    await page.getByRole('button', { name: 'Add user' }).click();
    await clean(page, 'the user dialog');
  });
});

test('the history of the configuration is the same in another browser', async () => {
  for (const heartbeat_timeout_s of [11, 12]) {
    const { config } = await on.cluster.call('GET', '/config');
    await on.cluster.call('PUT', '/config', { ...config, heartbeat_timeout_s });
  }
  await on.within({ path: '/config', node: 1, user: 'olga' }, async (page) => {
    const history = page.getByRole('region', { name: 'History' });
    await history.getByRole('row', { name: /Defaults/ }).waitFor();
    await history.getByRole('row', { name: /admin.*heartbeat_timeout_s.*11.*to.*12/ }).waitFor();
    await history.getByRole('row', { name: /heartbeat_timeout_s.*5.*to.*11/ }).getByRole('button', { name: /^Roll back/ }).click();
    await clean(page, 'the rollback dialog');
    await page.getByRole('alertdialog').getByRole('button', { name: 'Roll back' }).click();
    await until(async () => (await on.cluster.call('GET', '/config')).config.heartbeat_timeout_s === 11, 60_000, 'the rollback');
    await history.getByRole('row', { name: /olga.*12.*to.*11/ }).waitFor();
  });
});

test('the audit log is searched, and its chain verified', async () => {
  await on.within({ path: '/audit' }, async (page) => {
    await page.getByLabel(/action/i).first().fill('config.');
    await page.getByRole('row', { name: /config\.put/ }).first().waitFor();
    await until(async () => (await page.getByRole('row', { name: /instance\.register/ }).count()) === 0, 60_000, 'the filter');
    await page.getByText(/chain/i).first().waitFor();
  });
});

test('a backup is taken and downloaded', async () => {
  await on.within({ path: '/cluster' }, async (page) => {
    await page.getByRole('button', { name: 'Backup' }).click();
    await clean(page, 'the backup dialog');
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Take and download' }).click(),
    ]);
    assert.match(download.suggestedFilename(), /maxine/);
    await page.getByText(/Backup at index/).first().waitFor();
  });
});

test('leadership is handed over from the page, and the timeline says who asked', async () => {
  const from = await on.cluster.leader();
  await on.within({ node: from, path: '/cluster' }, async (page) => {
    await page.getByRole('button', { name: /^Make leader/ }).first().click();
    await clean(page, 'the transfer dialog');
    await page.getByRole('button', { name: 'Transfer leadership' }).click();
    await page.getByText(/leads\./).first().waitFor();
    await page.getByRole('region', { name: 'Latest leaders' }).getByText(/asked for by admin/).first().waitFor();
  });
  await until(async () => ![-1, from].includes(await on.cluster.leader()), 60_000, 'another leader');
});

test('a node is added, promoted and removed', async () => {
  const lone = await startLone(PORT + 10);
  const joiner = await startJoiner(PORT + 11);
  try {
    const members = async () => (await lone.call('GET', '/cluster/status')).raft.members;
    await on.within({ cluster: lone, path: '/cluster' }, async (page) => {
      await page.getByRole('button', { name: 'Add node' }).click();
      const dialog = page.getByRole('alertdialog');
      await clean(page, 'the dialog to add a node');
      await dialog.getByLabel('Peer address').fill(joiner.peer);
      await dialog.getByLabel('HTTP address').fill(joiner.http);
      await dialog.getByLabel('Name').fill('node-2');
      await dialog.getByRole('button', { name: 'Add as learner' }).click();
      await until(async () => (await members()).length === 2, 60_000, 'the learner');
      await page.getByRole('button', { name: /^Promote/ }).click();
      await page.getByRole('alertdialog').getByRole('button', { name: 'Promote' }).click();
      await until(async () => (await members()).every((m) => m.voter), 60_000, 'the second voter');
      await page.getByRole('row', { name: /node-2/ }).getByRole('button', { name: /^Remove/ }).click();
      const removal = page.getByRole('alertdialog');
      await removal.getByRole('textbox').fill('node-2');
      await clean(page, 'the dialog to remove a node');
      await removal.getByRole('button', { name: 'Remove node' }).click();
      await until(async () => (await members()).length === 1, 60_000, 'the removal');
    });
  } finally {
    await joiner.stop();
    await lone.stop();
  }
});
