// What an operator and an admin do, against real nodes: each action is looked up on the server.
import assert from 'node:assert/strict';
import { createServer, request } from 'node:http';
import { go, overflow, violations } from './browser.mjs';
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
  for (const [colorScheme, rules] of [['dark', 'colour'], ['light', 'all']]) {
    await page.emulateMedia({ colorScheme });
    // A busy browser applies the theme with its next frames, and may leave out elements that it adds at that moment.
    await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
    let found = await violations(page, { rules });
    if (found.length > 0) {
      await page.waitForTimeout(500);
      found = await violations(page, { rules });
    }
    assert.deepEqual(found, [], `${where}, ${colorScheme}`);
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
    await dialog.getByText('This is the only serving instance of').waitFor();
    await clean(page, 'the drain dialog');
    await dialog.getByRole('button', { name: 'Drain', exact: true }).click();
    await page.getByText('slow-1 is draining.').first().waitFor();
    held.release();
    assert.deepEqual(await held.ended, [200, 200, 200], 'what was under way is finished');
    await page.getByRole('dialog').getByText('No requests in flight.').waitFor();
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
    // If a disk stalls, the answer may be late although the change was made. The dialog reports that, and stays open.
    const dialog = page.getByRole('alertdialog');
    const cancel = () => dialog.getByRole('button', { name: 'Cancel' }).click();
    await dialog.waitFor({ state: 'hidden', timeout: 20_000 }).catch(cancel);
    await history.getByRole('row', { name: /olga.*12.*to.*11/ }).waitFor();
  });
});

test('a bad policy is found in the history, compared and rolled back; the audit log leads there', async () => {
  const policy = '/services/default/orders/policy';
  await register(['orders-3']);
  for (const strategy of ['least_request', 'rendezvous']) await on.cluster.call('PUT', policy, { selection: { strategy } });
  const bad = (await on.cluster.call('GET', policy)).revision;
  await on.within({ path: '/services/default/orders?tab=policy', node: 1, user: 'olga' }, async (page) => {
    const history = page.getByRole('region', { name: 'History of the policy' });
    const row = history.getByRole('row', { name: /now.*admin.*selection\.strategy.*least_request.*to.*rendezvous/ });
    await row.getByRole('button', { name: /^Compare/ }).click();
    await history.getByRole('group', { name: /1 added, 1 removed/ }).waitFor();
    await history.getByLabel(/^Compare revision/).selectOption('0');
    await history.getByRole('group', { name: /^From before the first change/ }).waitFor();
    await clean(page, 'the history of a policy');
    await history.getByRole('row', { name: /default.*to.*least_request/ }).getByRole('button', { name: /^Roll back/ }).click();
    await clean(page, 'the rollback of a policy');
    await page.getByRole('alertdialog').getByRole('button', { name: 'Roll back' }).click();
    await history.getByRole('row', { name: /now.*olga.*rendezvous.*to.*least_request/ }).waitFor();
    assert.equal((await on.cluster.call('GET', policy)).policy.selection.strategy, 'least_request');
  });
  await on.within({ path: '/audit?action=policy.&object=default/orders' }, async (page) => {
    await page.getByRole('row', { name: /policy\.put/ }).nth(1).click();
    const record = page.getByRole('dialog');
    await record.getByRole('group', { name: 'Change of the policy: 1 added, 1 removed' }).waitFor();
    await clean(page, 'the record of a change of a policy');
    await record.getByRole('link', { name: 'History of the policy of orders' }).click();
    // The change of the record is open there.
    await page.getByRole('group', { name: new RegExp(`to revision ${bad}:`) }).waitFor();
  });
});

test('a host is drained in all services at once and returned, after the page has said what remains', async () => {
  const onHost = (service, id, node) => ({ namespace: 'default', service, id, node, address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 });
  await on.cluster.register([onHost('bulk-a', 'a-1', 'host-7'), onHost('bulk-a', 'a-2', 'host-8'), onHost('bulk-b', 'b-1', 'host-7')]);
  const draining = async () => (await on.cluster.call('GET', '/instances?q=host-')).items.filter((i) => i.drain).map((i) => [i.id, i.drain.reason]).sort();
  await on.within({ path: '/services', user: 'olga' }, async (page) => {
    await page.getByRole('button', { name: 'Drain a group…' }).click();
    const dialog = page.getByRole('dialog', { name: 'Drain a group of instances' });
    await dialog.getByLabel('Node').fill('host-7');
    await dialog.getByText('2 instances of 2 services get no new requests').waitFor();
    await dialog.getByText('1 instance of these services remains serving').waitFor();
    await dialog.getByText(/No instance of bulk-b remains serving/).waitFor();
    await clean(page, 'the dialog to drain a group');
    await page.setViewportSize({ width: 320, height: 256 });
    assert.equal(await overflow(page), 0, 'the dialog is wider than 320 px');
    await page.setViewportSize({ width: 1440, height: 900 });
    await dialog.getByLabel('Type host-7 to confirm').fill('host-7');
    await dialog.getByLabel('Reason').fill('new kernel');
    await dialog.getByRole('button', { name: 'Drain 2 instances' }).click();
    await dialog.getByText('2 of 2 instances drained.').waitFor();
    assert.deepEqual(await draining(), [['a-1', 'new kernel'], ['b-1', 'new kernel']]);
    await clean(page, 'the outcome of a drain of a group');
    await dialog.getByRole('button', { name: 'Return them' }).click();
    await dialog.getByText('2 of 2 instances returned.').waitFor();
    assert.deepEqual(await draining(), []);
  });
});

test('two versions are compared by their calls, the bad one is taken out, and charts show what changed when', async () => {
  const [well, ill] = [await on.cluster.upstream('v1'), await on.cluster.upstream('v2')];
  ill.state.failing = 1;
  for (const [id, version, { address }] of [['v-1', '1.0.0', well], ['v-2', '2.0.0', ill]]) {
    await on.cluster.call('PUT', `/services/default/canary/instances/${id}`, { address, version, ttl_ms: 86_400_000 });
  }
  const split = async () => (await on.cluster.call('GET', '/services/default/canary/policy')).policy.traffic.split.map((s) => s.version);
  await on.cluster.call('PUT', '/services/default/canary/policy', {
    traffic: { split: [{ version: '1.0.0', weight: 1 }, { version: '2.0.0', weight: 1 }] },
  });
  for (let i = 0; i < 100; i += 1) await on.cluster.call('GET', '/api/maxine/serviceops/proxy/canary/x', undefined, { okay: false });
  // The page is served by the first node, and its charts have the calls through the others too.
  for (let i = 0; i < 10; i += 1) await on.cluster.call('GET', '/api/maxine/serviceops/proxy/canary/x', undefined, { okay: false, node: 1 });
  await on.within({ path: '/services/default/canary?tab=traffic', user: 'olga' }, async (page) => {
    const versions = page.getByRole('region', { name: 'Versions' });
    await versions.getByRole('row', { name: /^1\.0\.0 50\.0 % .*100\.0 %/ }).waitFor();
    const bad = versions.getByRole('row', { name: /^2\.0\.0 50\.0 % .* 0\.0 %/ });
    await page.getByRole('list', { name: /^Changes during this time: Requests/ }).getByText('Change of the policy by admin').waitFor();
    await page.getByRole('list', { name: /^Changes during this time: Requests/ }).getByText('Version 2.0.0 registered').waitFor();
    await page.getByText(/^110 in 15 min, /).waitFor();
    await page.getByText('3 of 3 nodes answered').first().waitFor();
    await page.getByRole('img', { name: /^Success of proxied calls\. Success: latest \d/ }).waitFor();
    await page.getByRole('img', { name: /^Time to first byte of proxied calls\..*p95: latest \d/ }).waitFor();
    await page.getByRole('button', { name: '24 h', exact: true }).click();
    await page.getByText(/^\d+ in 24 h, /).waitFor();
    await page.getByRole('button', { name: '5 min', exact: true }).click();
    await clean(page, 'versions side by side');
    await bad.getByRole('button', { name: /^Abort/ }).click();
    await clean(page, 'the dialog to abort a version');
    await page.getByRole('alertdialog').getByRole('button', { name: 'Abort' }).click();
    await page.getByText('Version 2.0.0 gets no traffic.').first().waitFor();
    assert.deepEqual(await split(), ['1.0.0']);
    await page.getByRole('button', { name: 'Undo' }).first().click();
    await until(async () => (await split()).length === 2, 60_000, 'the undo');
    await versions.getByRole('button', { name: 'Promote 1.0.0' }).click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Promote' }).click();
    await versions.getByRole('row', { name: /^1\.0\.0 100\.0 %/ }).waitFor();
    assert.deepEqual(await split(), ['1.0.0']);
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
    await page.getByText(/is the leader\./).first().waitFor();
    await page.getByRole('region', { name: 'Latest leaders' }).getByText(/requested by admin/).first().waitFor();
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

test('a trace shows each attempt with its instance, one after the other', async () => {
  const well = await on.cluster.upstream('well');
  await on.cluster.register([
    { namespace: 'default', service: 'retried', id: 'gone', address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 },
    { namespace: 'default', service: 'retried', id: 'well', address: well.address, ttl_ms: 86_400_000 },
  ]);
  await on.cluster.call('PUT', '/services/default/retried/policy', {
    traffic: { retries: { attempts: 3, budget_percent: 100 } },
  });
  // Every second call meets the one first that is gone.
  for (const id of ['e2e-trace-1', 'e2e-trace-2']) {
    await on.cluster.call('GET', '/api/maxine/serviceops/proxy/retried/x', undefined, { headers: { 'x-trace-id': id } });
  }
  const { items } = await on.cluster.call('GET', '/traces?limit=100');
  const { trace_id: id } = items.find((t) => t.trace_id.startsWith('e2e-trace-') && t.attempts.length === 2);
  await on.within({ path: `/traces?trace=${id}` }, async (page) => {
    const attempts = page.getByRole('list', { name: 'Attempts' }).getByRole('listitem');
    await attempts.first().waitFor();
    assert.equal(await attempts.count(), 2);
    assert.match(await attempts.nth(0).innerText(), /connection failed\s+gone/);
    assert.match(await attempts.nth(1).innerText(), /200\s+well/);
    const bars = await attempts.locator('.waterfall-span').evaluateAll((all) => all.map((bar) => bar.getBoundingClientRect().toJSON()));
    // What took no time to speak of is drawn a little wider than it is.
    assert.ok(bars[0].left + bars[0].width <= bars[1].left + 5, 'the second began when the first had failed');
    await clean(page, 'a trace with attempts');
    await attempts.nth(1).getByRole('link', { name: 'well' }).click();
    await page.getByRole('heading', { name: 'retried' }).waitFor();
  });
});

/** Tries whatever a page may try to act for who is signed in; what it got is the text of the page. */
async function attack() {
  const got = {};
  const attempt = async (name, act) => {
    got[name] = await Promise.resolve()
      .then(act)
      .then(String, (error) => `refused: ${error.name}`);
  };
  const headers = { 'content-type': 'application/json', 'x-maxine-csrf': '1' };
  for (const credentials of ['same-origin', 'include']) {
    await attempt(`read, ${credentials}`, async () => (await fetch('/api/v1/me', { credentials })).text());
    await attempt(`write, ${credentials}`, async () =>
      (await fetch('/api/v1/services/default/planted/instances/a', {
        method: 'PUT', credentials, headers, body: '{"address": "http://127.0.0.1:9", "ttl_ms": 60000}',
      })).status,
    );
  }
  await attempt('cookie', () => document.cookie);
  await attempt('storage', () => localStorage.length);
  await attempt('worker', async () => (await navigator.serviceWorker.register('worker.js')).scope);
  await attempt('frame', async () => {
    const frame = document.createElement('iframe');
    const loaded = new Promise((resolve) => (frame.onload = resolve));
    frame.src = '/api/v1/openapi.json';
    document.body.append(frame);
    await loaded;
    return frame.contentWindow.document.body.innerText.length;
  });
  const result = document.createElement('pre');
  result.id = 'got';
  result.textContent = JSON.stringify(got);
  document.body.append(result);
}

test('a page of an instance can do nothing with the session of who opens it', async () => {
  const cookies = [];
  const server = createServer((asked, answer) => {
    if (asked.headers.cookie) cookies.push(asked.headers.cookie);
    const script = asked.url.endsWith('.js');
    answer.writeHead(200, {
      'content-type': script ? 'text/javascript' : 'text/html',
      'set-cookie': 'maxine_session=planted; Path=/',
    });
    answer.end(script ? '' : `<!doctype html><title>x</title><body><script>(${attack})()</script>`);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  on.cluster.upstreams.push({ server });
  await on.cluster.call('PUT', '/services/default/hostile/instances/a', {
    address: `http://127.0.0.1:${server.address().port}`, ttl_ms: 86_400_000,
  });
  await on.within({}, async (page) => {
    const opened = async (prepare) => {
      const tab = await page.context().newPage();
      await prepare?.(tab);
      await tab.goto(`${on.cluster.nodes[0].http}/api/maxine/serviceops/proxy/hostile/`);
      const got = JSON.parse(await tab.locator('#got').textContent());
      await tab.close();
      return got;
    };
    const got = await opened();
    for (const [what, came] of Object.entries(got)) assert.match(came, /^refused/, `${what}: ${came}`);
    assert.deepEqual(cookies, [], 'the instance sees no cookie of the session');
    assert.equal((await on.cluster.call('GET', '/services?q=planted')).items.length, 0);
    // Whoever is signed in still is, as the same one.
    await page.reload();
    await page.locator('.topbar').waitFor();
    // The same page without the policy could do it: this is what the test is about.
    const bare = await opened((tab) =>
      tab.route('**/proxy/hostile/', async (route) => {
        const answer = await route.fetch();
        const { 'content-security-policy': _, ...headers } = answer.headers();
        await route.fulfill({ response: answer, headers });
      }),
    );
    assert.match(bare['read, same-origin'], /"user":"admin"/);
    assert.match(bare.worker, /^refused/, 'a service worker is refused all the same');
  });
  await on.cluster.call('DELETE', '/services/default/planted', undefined, { okay: false });
});
