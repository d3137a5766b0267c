// The dashboard in Debian's Chromium against a real three-node cluster.
//   cargo build && npm run build && npm run e2e
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { go, launch, open, overflow, settled, signIn, violations } from './browser.mjs';
import { startCluster, until } from './cluster.mjs';
import { seedNormal, traffic } from './seed.mjs';

const HOSTILE = '<script>document.title="owned"</script>';
const SCREENS = [
  '/', '/cluster', '/services', '/services/default/orders', '/services/default/orders?tab=traffic',
  '/services/default/orders?tab=policy', '/services/default/payments?instance=payments-2', '/dependencies', '/traces',
  '/alerts', '/audit', '/config', '/access', '/access?tab=tokens', '/access?tab=keys',
];

let cluster;
let browser;
let upstreams;

before(async () => {
  cluster = await startCluster({ port: Number(process.env.MAXINE_E2E_PORT ?? 18300) });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await cluster?.stop();
});

/** Runs `act` in a page of its own and fails on any fault that the page showed. */
async function within(options, act) {
  const opened = await open(browser, cluster, options);
  try {
    await act(opened.page, opened);
    assert.deepEqual(opened.faults, []);
  } finally {
    await opened.context.close();
  }
}

/** The time from a write's answer until the page shows `text`, in milliseconds. */
async function latencyTo(page, text, write) {
  await page.evaluate((wanted) => {
    window.seenAt = null;
    const look = () => {
      if (window.seenAt === null && document.body.innerText.includes(wanted)) window.seenAt = Date.now();
    };
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
  }, text);
  await write();
  const at = Date.now();
  await page.waitForFunction(() => window.seenAt !== null, null, { timeout: 10_000 });
  return (await page.evaluate(() => window.seenAt)) - at;
}

test('signing in: a wrong password is refused, and no script can reach the session', async () => {
  await within({ user: null }, async (page) => {
    await page.getByLabel('User').fill('admin');
    await page.getByLabel('Password').fill('wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('alert').waitFor();
    assert.deepEqual(await violations(page), []);
    await signIn(page, 'admin', cluster.password);
    const reachable = await page.evaluate(() => document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage));
    assert.doesNotMatch(reachable, /eyJ|mxt_/);
    const cookie = (await page.context().cookies()).find((c) => c.httpOnly);
    assert.ok(cookie, 'the session is an HttpOnly cookie');
    await page.reload();
    await page.getByRole('heading', { name: 'Overview' }).waitFor();
  });
});

test('the first run shows how to register, and changes by itself', async () => {
  await within({}, async (page) => {
    await page.getByRole('heading', { name: 'Nothing is registered yet' }).waitFor();
    assert.deepEqual(await violations(page), []);
    await go(page, '/services');
    await page.getByRole('heading', { name: 'Nothing is registered yet' }).waitFor();
    const ms = await latencyTo(page, 'first-service', () =>
      cluster.call('PUT', '/services/default/first-service/instances/a', { address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 }),
    );
    assert.ok(ms < 1_000, `the first service took ${ms} ms to appear`);
  });
});

test('a small company registers', async () => {
  await cluster.call('DELETE', '/services/default/first-service', undefined, { okay: false });
  upstreams = await seedNormal(cluster);
  await traffic(cluster, 3_000);
});

test('an update reaches the page in under 250 ms', async () => {
  await within({ path: '/services' }, async (page) => {
    await settled(page);
    const took = [];
    for (let i = 0; i < 7; i += 1) {
      took.push(
        await latencyTo(page, `live-${i}`, () =>
          cluster.call('PUT', `/services/default/live-${i}/instances/a`, { address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 }),
        ),
      );
    }
    console.log(`# updates reached the page after ${took.join(', ')} ms`);
    assert.ok(took.sort((a, b) => a - b)[3] < 250, `half took over ${took[3]} ms`);
  });
  for (let i = 0; i < 7; i += 1) await cluster.call('DELETE', `/services/default/live-${i}`);
});

test('a service named as a script is text everywhere', async () => {
  const name = encodeURIComponent(HOSTILE);
  await cluster.call('PUT', `/services/default/${name}/instances/${name}`, {
    address: 'http://127.0.0.1:9', ttl_ms: 86_400_000, version: HOSTILE, zone: '"><img src=x onerror=alert(1)>', tags: [HOSTILE],
    metadata: { note: HOSTILE },
  });
  await within({ path: '/services' }, async (page) => {
    await page.getByRole('link', { name: HOSTILE }).waitFor();
    for (const path of ['/', '/audit', `/services/default/${name}`, `/services/default/${name}?instance=${name}`]) {
      await go(page, path);
      await page.getByText(HOSTILE).first().waitFor();
      assert.doesNotMatch(await page.title(), /^owned/);
      assert.equal(await page.locator('img, script:not([src])').count(), 0);
    }
  });
  await cluster.call('DELETE', `/services/default/${name}`);
});

test('every screen is free of WCAG 2.2 AA violations, light and dark, and fits 360 px', async () => {
  for (const theme of ['light', 'dark']) {
    await within({ theme }, async (page) => {
      for (const path of SCREENS) {
        await go(page, path);
        assert.deepEqual(await violations(page), [], `${path}, ${theme}`);
      }
      await go(page, '/');
      await page.keyboard.press('Control+k');
      await page.getByRole('option').first().waitFor();
      assert.deepEqual(await violations(page), [], `palette, ${theme}`);
    });
  }
  await within({ width: 360, height: 740 }, async (page) => {
    for (const path of SCREENS) {
      await go(page, path);
      assert.equal(await overflow(page), 0, `${path} is wider than 360 px`);
      assert.deepEqual(await violations(page), [], `${path}, 360 px`);
    }
  });
});

test('an operator finds the unhealthy instance, sees why, drains it and brings it back', async () => {
  await until(
    async () => (await cluster.call('GET', '/services/default/payments')).unhealthy + (await cluster.call('GET', '/services/default/payments')).evicted > 0,
    20_000,
    'the prober to find payments-2 unhealthy',
  );
  await within({ user: 'olga' }, async (page) => {
    let clicks = 0;
    const click = async (locator) => {
      await locator.click();
      clicks += 1;
    };
    await click(page.getByRole('link', { name: /payments/ }));
    await click(page.getByRole('row', { name: /payments-2/ }));
    await page.getByText(/500/).first().waitFor();
    const seen = clicks;
    await click(page.getByRole('button', { name: 'Drain', exact: true }));
    await click(page.getByRole('alertdialog').getByRole('button', { name: 'Drain', exact: true }));
    await page.getByText('payments-2 is drained.').first().waitFor();
    assert.ok((await cluster.call('GET', '/services/default/payments/instances/payments-2')).drain);
    upstreams['payments-2'].state.healthy = true;
    await click(page.getByRole('button', { name: 'Return to service' }));
    await click(page.getByRole('alertdialog').getByRole('button', { name: 'Return' }));
    await page.getByText('payments-2 is back in service.').first().waitFor();
    assert.equal((await cluster.call('GET', '/services/default/payments/instances/payments-2')).drain, null);
    console.log(`# ${seen} clicks to the reason, ${clicks} with drain and return`);
    assert.ok(clicks <= 6);
  });
});

test('a policy is changed with its difference shown, refused when someone was first, and undone', async () => {
  await within({ user: 'olga', path: '/services/default/orders?tab=policy' }, async (page) => {
    await page.getByLabel('Strategy').selectOption('rendezvous');
    await page.getByText(/"strategy": "rendezvous"/).first().waitFor();
    await page.getByRole('button', { name: 'Apply…' }).click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Apply' }).click();
    await page.getByText(/holds as revision/).first().waitFor();
    const strategy = async () => (await cluster.call('GET', '/services/default/orders/policy')).policy.selection.strategy;
    assert.equal(await strategy(), 'rendezvous');
    await page.getByRole('button', { name: 'Undo' }).click();
    await until(async () => (await strategy()) === 'least_request', 5_000, 'the undo');
    await page.getByLabel('Bad after, probes').fill('0');
    await page.getByText(/whole number from 1 to 100/).first().waitFor();
    await page.getByLabel('Bad after, probes').fill('5');
    await cluster.call('PUT', '/services/default/orders/policy', { selection: { strategy: 'round_robin' } });
    await page.getByText(/Someone changed this policy meanwhile/).waitFor();
  });
});

test('each role sees what it may do, and why not the rest', async () => {
  await within({ user: 'vera', path: '/services/default/orders?instance=orders-1' }, async (page) => {
    const drain = page.getByRole('button', { name: 'Drain', exact: true });
    await drain.waitFor();
    assert.equal(await drain.getAttribute('aria-disabled'), 'true');
    await page.getByText('Needs the role operator; you are signed in as viewer.').first().waitFor({ state: 'attached' });
    await drain.click({ force: true });
    assert.equal(await page.getByRole('alertdialog').count(), 0);
    await page.keyboard.press('Escape');
    await go(page, '/access');
    await page.getByText('Only admins see users, tokens and keys.').waitFor();
  });
  await within({ user: 'olga', path: '/cluster' }, async (page) => {
    const backup = page.getByRole('button', { name: 'Backup' });
    await backup.waitFor();
    assert.equal(await backup.getAttribute('aria-disabled'), 'true');
  });
  await within({ path: '/access?tab=tokens' }, async (page) => {
    await page.getByRole('button', { name: 'Create token' }).click();
    await page.getByLabel('What it is for').fill('nightly job');
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    const token = (await page.locator('.command pre').textContent()).trim();
    assert.match(token, /^mxt_/);
    await page.getByRole('button', { name: 'I have it' }).click();
    await page.getByRole('row', { name: /nightly job/ }).waitFor();
    assert.doesNotMatch(await page.content(), new RegExp(token));
  });
});

test('the configuration is changed, compared and rolled back', async () => {
  await within({ path: '/config' }, async (page) => {
    await page.getByLabel('Time to live, seconds').fill('17');
    await page.getByRole('button', { name: 'Apply…' }).click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Apply' }).click();
    const ttl = async () => (await cluster.call('GET', '/config')).config.heartbeat_timeout_s;
    await until(async () => (await ttl()) === 17, 5_000, 'the change');
    await page.getByRole('button', { name: /^Roll back/ }).first().click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Roll back' }).click();
    await until(async () => (await ttl()) === 5, 5_000, 'the rollback');
  });
});

test('whole by keyboard: the palette, a list, a dialog, and back', async () => {
  await within({ user: 'olga' }, async (page) => {
    await page.keyboard.press('Control+k');
    await page.keyboard.type('search');
    await page.getByRole('option', { name: /^search/ }).waitFor();
    await page.keyboard.press('Enter');
    await page.getByRole('grid', { name: 'Instances of search' }).waitFor();
    await page.getByRole('row').nth(1).focus();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').getByRole('button', { name: 'Weight' }).waitFor();
    for (let i = 0; i < 6; i += 1) {
      await page.keyboard.press('Tab');
      const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.notEqual(ring, 'none', 'focus can be seen');
    }
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute('role')), 'row');
  });
});

test('a session that ends leaves the page as it is, and goes on after signing in', async () => {
  await within({ user: 'olga', path: '/config' }, async (page) => {
    await page.getByLabel('Time to live, seconds').fill('99');
    // A new password ends every session of the user.
    await cluster.addUser('olga', 'operator');
    await page.getByRole('heading', { name: 'Your session has ended' }).waitFor({ timeout: 40_000 });
    assert.deepEqual(await violations(page), []);
    await page.getByLabel('Password').fill('olga-has-a-long-password');
    await page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.getByRole('heading', { name: 'Your session has ended' }).waitFor({ state: 'hidden' });
    assert.equal(await page.getByLabel('Time to live, seconds').inputValue(), '99');
  });
});

test('a backup is taken and downloaded', async () => {
  await within({ path: '/cluster' }, async (page) => {
    await page.getByRole('button', { name: 'Backup' }).click();
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Take and download' }).click(),
    ]);
    assert.match(download.suggestedFilename(), /maxine/);
    await page.getByText(/Backup at index/).first().waitFor();
  });
});

test('leadership is handed over from the page', async () => {
  const from = await cluster.leader();
  await within({ node: from, path: '/cluster' }, async (page) => {
    await page.getByRole('button', { name: /^Make leader/ }).first().click();
    await page.getByRole('button', { name: 'Transfer leadership' }).click();
    await page.getByText(/leads\./).first().waitFor({ timeout: 20_000 });
  });
  await until(async () => ![-1, from].includes(await cluster.leader()), 10_000, 'another leader');
});

test('the leader is killed: the page says so, goes on, and recovers by itself', async () => {
  const leader = await until(async () => (await cluster.leader()) + 1, 10_000, 'a leader').then((n) => n - 1);
  const other = (leader + 1) % 3;
  await within({ node: other }, async (page) => {
    await page.getByText('Live').first().waitFor();
    cluster.kill(leader);
    const at = Date.now();
    await until(async () => ![-1, leader].includes(await cluster.leader()), 30_000, 'a new leader');
    const name = `after-failover-${at}`;
    await go(page, '/services');
    const ms = await latencyTo(page, name, async () => {
      await until(
        () => cluster.call('PUT', `/services/default/${name}/instances/a`, { address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 }, { node: other }).then(() => true, () => false),
        30_000,
        'a write after the failover',
      );
    });
    console.log(`# writes again ${Date.now() - at} ms after the kill; the page showed it ${ms} ms after its answer`);
    await page.getByText('Live').first().waitFor();
  });
});

test('the node that serves the page is killed: the page goes on at another', async () => {
  const here = cluster.nodes.findIndex((n) => !n.dead);
  // One is dead already: bring it back first, so that a majority remains.
  const dead = cluster.nodes.findIndex((n) => n.dead);
  if (dead >= 0) await cluster.revive();
  await within({ node: here, path: '/services' }, async (page) => {
    await page.getByText('Live').first().waitFor();
    await page.waitForTimeout(2_500);
    cluster.kill(here);
    const at = Date.now();
    await page.getByText(/^Served by/).waitFor({ timeout: 30_000 });
    console.log(`# the page went on at another node after ${Date.now() - at} ms`);
    const other = cluster.nodes.findIndex((n) => !n.dead);
    const name = `elsewhere-${at}`;
    const put = () => cluster.call('PUT', `/services/default/${name}/instances/a`, { address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 }, { node: other });
    await until(() => put().then(() => true, () => false), 30_000, 'a write');
    await page.getByText(name).first().waitFor({ timeout: 10_000 });
  });
});
