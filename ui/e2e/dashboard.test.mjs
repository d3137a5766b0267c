// The dashboard in Debian's Chromium against a real three-node on.cluster.
//   cargo build && npm run build && npm run e2e
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { get } from 'node:http';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { cutOff, forget, go, longestTimes, overflow, settled, signIn, spreadText, violations } from './browser.mjs';
import { startCluster, until } from './cluster.mjs';
import { latencyTo, stage, test } from './harness.mjs';
import { seedNormal, traffic } from './seed.mjs';

const HOSTILE = '<script>document.title="owned"</script>';
const SCREENS = [
  '/', '/cluster', '/services', '/services/default/orders', '/services/default/orders?tab=traffic',
  '/services/default/orders?tab=policy', '/services/default/payments?instance=payments-2', '/dependencies', '/traces',
  '/alerts', '/keys', '/keys?key=app%2Ffeatures', '/keys?tab=sessions', '/audit', '/config', '/access', '/access?tab=tokens',
  '/access?tab=keys', '/access?tab=rights',
];

const on = stage(() => startCluster({ port: Number(process.env.MAXINE_E2E_PORT ?? 18300) }));
const within = (options, act) => on.within(options, act);
let upstreams;

test('the page is served with a policy that lets nothing in', async () => {
  const answer = await fetch(`${on.cluster.nodes[0].http}/`);
  const policy = answer.headers.get('content-security-policy');
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|data:|\*/);
  const connect = /connect-src ([^;]*)/.exec(policy)[1].split(' ');
  assert.deepEqual(connect, ["'self'", ...on.cluster.nodes.map((n) => n.http)]);
  assert.equal(answer.headers.get('x-frame-options'), 'DENY');
  assert.equal(answer.headers.get('x-content-type-options'), 'nosniff');
  assert.equal(answer.headers.get('referrer-policy'), 'no-referrer');
});

test('signing in: a wrong password is refused, and no script can reach the session', async () => {
  await within({ user: null }, async (page) => {
    await page.getByLabel('User name').fill('admin');
    await page.getByLabel('Password').fill('wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('alert').getByText('Wrong user name or password.').waitFor();
    assert.deepEqual(await violations(page), []);
    await signIn(page, 'admin', on.cluster.password);
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
    const command = (await page.locator('.command pre').first().textContent()).trim();
    const ms = await latencyTo(page, 'hello', () => execFileSync('sh', ['-c', command], { stdio: 'ignore' }));
    console.log(`# the first service appeared ${ms} ms after the command that the page shows`);
    await page.getByRole('link', { name: 'hello' }).waitFor();
    await go(page, '/');
    await page.getByRole('heading', { name: 'Needs attention' }).waitFor();
  });
});

test('a small company registers', async () => {
  await on.cluster.call('DELETE', '/services/default/hello', undefined, { okay: false });
  upstreams = await seedNormal(on.cluster);
  await traffic(on.cluster, 3_000);
});

test('an update reaches the page by the stream, without a list that is read again', async () => {
  await within({ path: '/services' }, async (page) => {
    await settled(page);
    await page.getByText('Live').first().waitFor();
    const lists = [];
    page.on('request', (request) => {
      if (/\/api\/v1\/services\?/.test(request.url())) lists.push(request.url());
    });
    const took = [];
    for (let i = 0; i < 7; i += 1) {
      took.push(
        await latencyTo(page, `live-${i}`, () =>
          on.cluster.call('PUT', `/services/default/live-${i}/instances/a`, { address: 'http://127.0.0.1:9', ttl_ms: 86_400_000 }),
        ),
      );
    }
    console.log(`# updates reached the page after ${took.join(', ')} ms`);
    assert.deepEqual(lists, []);
  });
  for (let i = 0; i < 7; i += 1) await on.cluster.call('DELETE', `/services/default/live-${i}`);
});

test('a service named as a script is text everywhere', async () => {
  const name = encodeURIComponent(HOSTILE);
  await on.cluster.call('PUT', `/services/default/${name}/instances/${name}`, {
    address: 'http://127.0.0.1:9', ttl_ms: 86_400_000, version: HOSTILE, zone: '"><img src=x onerror=alert(1)>', tags: [HOSTILE],
    metadata: { note: HOSTILE },
  });
  await within({ path: '/services' }, async (page) => {
    await page.getByRole('link', { name: HOSTILE }).waitFor();
    for (const path of ['/services', '/audit?object=default/%3Cscript', `/services/default/${name}`, `/services/default/${name}?instance=${name}`]) {
      await go(page, path);
      await page.getByText(HOSTILE).first().waitFor();
      assert.doesNotMatch(await page.title(), /^owned/);
      assert.equal(await page.locator('img, script:not([src])').count(), 0);
    }
  });
  await on.cluster.call('DELETE', `/services/default/${name}`);
});

test('every screen is free of WCAG 2.2 AA violations, light and dark, and fits 320 px', async () => {
  // In the other theme, only the rules about colours can have another result.
  for (const [theme, rules] of [['light', 'all'], ['dark', 'colour']]) {
    await within({ theme }, async (page) => {
      for (const path of SCREENS) {
        await go(page, path);
        assert.deepEqual(await violations(page, { rules }), [], `${path}, ${theme}`);
      }
      await go(page, '/');
      await page.keyboard.press('Control+k');
      await page.getByRole('option').first().waitFor();
      assert.deepEqual(await violations(page, { rules }), [], `palette, ${theme}`);
    });
  }
  // 320 by 256 px is what 1280 by 1024 are at 400 % (1.4.10), and less than they are at 200 % (1.4.4).
  await within({ width: 320, height: 256, scale: 2 }, async (page) => {
    for (const path of SCREENS) {
      await go(page, path);
      assert.equal(await overflow(page), 0, `${path} is wider than 320 px`);
      assert.deepEqual(await cutOff(page), [], `${path}, 320 px`);
      assert.deepEqual(await violations(page, { rules: 'layout' }), [], `${path}, 320 px`);
    }
  });
  // The screens show the calls of the last minute, and the checks above take about as long.
  await traffic(on.cluster, 1_000);
  for (const size of [{ width: 640, height: 512, scale: 2 }, { width: 1440, height: 900 }]) {
    await within(size, async (page) => {
      await spreadText(page);
      for (const path of SCREENS) {
        await go(page, path);
        await longestTimes(page);
        assert.equal(await overflow(page), 0, `${path} with its text spread is wider than ${size.width} px`);
        assert.deepEqual(await cutOff(page), [], `${path} with its text spread, ${size.width} px`);
      }
    });
  }
});

/** The answer to a request for a file, with its body as it was sent. */
const fetchRaw = (url, encoding) =>
  new Promise((resolve, reject) => {
    get(url, { headers: encoding === null ? {} : { 'accept-encoding': encoding } }, async (answer) => {
      const parts = [];
      for await (const part of answer) parts.push(part);
      resolve({ headers: answer.headers, body: Buffer.concat(parts) });
    }).on('error', reject);
  });

test('the files come compressed to whoever accepts it, and are the same', async () => {
  const page = (await fetchRaw(`${on.cluster.nodes[0].http}/`, null)).body.toString();
  for (const path of ['/', `/${/assets\/index-[\w-]+\.js/.exec(page)[0]}`]) {
    const url = `${on.cluster.nodes[0].http}${path}`;
    const plain = await fetchRaw(url, null);
    assert.equal(plain.headers['content-encoding'], undefined);
    for (const [encoding, name, open] of [['gzip, deflate, br', 'br', brotliDecompressSync], ['gzip', 'gzip', gunzipSync]]) {
      const small = await fetchRaw(url, encoding);
      assert.equal(small.headers['content-encoding'], name);
      assert.match(small.headers.vary, /Accept-Encoding/);
      assert.ok(small.body.length < plain.body.length);
      assert.ok(open(small.body).equals(plain.body), `${path} as ${name}`);
    }
  }
});

test('a service whose every proxied call fails through another node is failing, and comes first', async () => {
  const own = ['accounts-1', 'accounts-2'].map((name) => upstreams[name].state);
  for (const state of own) state.failing = 1;
  for (let i = 0; i < 6; i += 1) await on.cluster.call('GET', '/api/maxine/serviceops/proxy/accounts/x', undefined, { node: 1, okay: false });
  await within({}, async (page) => {
    const first = page.locator('.panel', { hasText: 'Needs attention' }).getByRole('link').first();
    await first.getByText('Failing').waitFor();
    assert.match(await first.innerText(), /accounts[\s\S]*all \d+ calls failed/);
    await go(page, '/services');
    await page.getByRole('row', { name: /Failing accounts/ }).waitFor();
    await page.getByText('3 of 3 nodes answered').waitFor();
    await page.getByLabel('Order', { exact: true }).selectOption('success');
    assert.match(await page.getByRole('row').nth(1).innerText(), /accounts/);
    await page.getByRole('button', { name: /^Failing/ }).click();
    assert.equal(await page.getByRole('row').count(), 2);
    const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Export' }).click()]);
    assert.equal(file.suggestedFilename(), 'services.csv');
  });
  for (const state of own) state.failing = 0;
});

test('times are those of the cluster, also in a browser whose clock is three hours slow', async () => {
  await on.cluster.call('POST', '/tokens', { role: 'viewer', note: 'for 90 days', ttl_ms: 90 * 86_400_000 });
  const slow = () => {
    const now = Date.now.bind(Date);
    Date.now = () => now() - 3 * 3_600_000;
  };
  await within({ path: '/access?tab=tokens', init: slow }, async (page) => {
    await page.getByRole('row', { name: /for 90 days.*in (89|90) days/ }).waitFor();
    await go(page, '/');
    await on.cluster.call('PUT', '/services/default/search/instances/search-3/drain', { reason: 'kernel update, again' });
    await page.locator('.panel', { hasText: 'Latest changes' }).getByText(/^(now|\d+ s ago)$/).first().waitFor();
    assert.equal(await page.getByText(/3 h/).count(), 0);
  });
});

test('Back closes a sheet, and leads back to the same place and the same filter', async () => {
  await within({ path: '/services?sort=name', height: 420 }, async (page) => {
    await settled(page);
    const scroller = page.getByRole('grid', { name: 'Services' }).locator('.table-scroll');
    await scroller.evaluate((box) => box.scrollTo(0, 10_000));
    const before = await scroller.evaluate((box) => box.scrollTop);
    assert.ok(before > 0);
    await page.getByRole('link', { name: 'shipping' }).click();
    await page.getByLabel('Search instances').fill('shipping-2');
    await page.getByRole('row', { name: /shipping-2/ }).click();
    await page.getByRole('button', { name: 'Weight' }).waitFor();
    await page.goBack();
    await page.getByRole('button', { name: 'Weight' }).waitFor({ state: 'hidden' });
    assert.equal(await page.getByLabel('Search instances').inputValue(), 'shipping-2');
    await page.goBack();
    await page.getByRole('grid', { name: 'Services' }).waitFor();
    await page.waitForFunction((to) => Math.abs(document.querySelector('.table-scroll').scrollTop - to) < 2, before);
    assert.equal(await page.getByLabel('Order', { exact: true }).inputValue(), 'name');
  });
});

test('the palette finds an instance by its zone, its address and its tag', async () => {
  await within({ user: 'vera' }, async (page) => {
    for (const text of [upstreams['pricing-2'].address.slice(7), 'eu-1b', 'canary']) {
      await page.keyboard.press('Control+k');
      await page.getByRole('combobox').fill(text);
      await page.getByRole('option').filter({ hasText: '127.0.0.1' }).first().waitFor();
      // A viewer is offered nothing that a viewer may not do.
      assert.equal(await page.getByRole('option', { name: 'Take a backup' }).count(), 0);
      await page.keyboard.press('Enter');
      await page.getByRole('heading', { name: /-\d/ }).first().waitFor();
      await page.keyboard.press('Escape');
    }
  });
});

test('with forced colours, shares can still be told apart', async () => {
  await within({ forcedColors: true }, async (page) => {
    const part = page.locator('.bar-part').first();
    await part.waitFor({ state: 'attached' });
    const [ground, behind] = await part.evaluate((e) => [getComputedStyle(e).backgroundColor, getComputedStyle(document.body).backgroundColor]);
    assert.notEqual(ground, behind);
  });
});

test('an operator finds the unhealthy instance, sees why, drains it and brings it back', async () => {
  await until(
    async () => (await on.cluster.call('GET', '/services/default/payments')).unhealthy + (await on.cluster.call('GET', '/services/default/payments')).evicted > 0,
    60_000,
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
    await page.getByText('payments-2 is draining.').first().waitFor();
    assert.ok((await on.cluster.call('GET', '/services/default/payments/instances/payments-2')).drain);
    upstreams['payments-2'].state.healthy = true;
    await click(page.getByRole('button', { name: 'Return to service' }));
    await click(page.getByRole('alertdialog').getByRole('button', { name: 'Return' }));
    await page.getByText('payments-2 is back in service.').first().waitFor();
    assert.equal((await on.cluster.call('GET', '/services/default/payments/instances/payments-2')).drain, null);
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
    await page.getByText(/Policy applied \(revision/).first().waitFor();
    const strategy = async () => (await on.cluster.call('GET', '/services/default/orders/policy')).policy.selection.strategy;
    assert.equal(await strategy(), 'rendezvous');
    await page.getByRole('button', { name: 'Undo' }).click();
    await until(async () => (await strategy()) === 'least_request', 60_000, 'the undo');
    await page.getByLabel('Unhealthy after, failures').fill('0');
    await page.getByText(/whole number from 1 to 100/).first().waitFor();
    await page.getByLabel('Unhealthy after, failures').fill('5');
    await on.cluster.call('PUT', '/services/default/orders/policy', { selection: { strategy: 'round_robin' } });
    await page.getByText(/Somebody else has changed this policy/).waitFor();
  });
});

test('a policy is made with the form alone, and a draft survives bad JSON and leaving the screen', async () => {
  const stored = async () => (await on.cluster.call('GET', '/services/default/pricing/policy', undefined, { okay: false })) ?? null;
  await within({ user: 'olga', path: '/services/default/pricing?tab=policy' }, async (page) => {
    const section = async (name) => {
      const title = page.locator('summary', { hasText: name });
      if (!(await title.evaluate((e) => e.parentElement.open))) await title.click();
      return page.locator('details', { has: title });
    };
    await (await section('Timeouts')).getByLabel('Response, ms').fill('1500');
    await (await section('Retries')).getByRole('switch').click();
    await (await section('Retries')).getByLabel('Attempts').fill('2');
    const split = await section('Traffic split');
    await split.getByRole('button', { name: 'Add a version' }).click();
    await split.getByLabel('Weight of version 1').fill('90');
    await split.getByRole('button', { name: 'Add a version' }).click();
    await split.getByLabel('Version 2', { exact: true }).fill('9.9.9');
    await split.getByLabel('Weight of version 2').fill('10');
    await page.getByText(/No registered instance has version 9\.9\.9/).first().waitFor();
    await split.getByText('90.0 %').waitFor();
    assert.deepEqual(await violations(page), []);
    const json = page.getByLabel('Policy as JSON');
    const good = await json.inputValue();
    await json.fill(`${good.slice(0, -1)} oops`);
    await page.getByText(/The JSON is not valid\. The form/).waitFor();
    await go(page, '/audit');
    await go(page, '/services/default/pricing?tab=policy');
    assert.match(await json.inputValue(), /oops$/);
    // What can be typed is offered, and taken with the keyboard alone.
    await json.fill('{}');
    await json.press('Home');
    await json.press('ArrowRight');
    await json.pressSequentially('"sel');
    await page.getByRole('option', { name: /^selection/, selected: true }).waitFor();
    assert.deepEqual(await violations(page), []);
    await json.press('Enter');
    assert.equal(await json.inputValue(), '{"selection": }');
    await json.press('Escape');
    await page.getByRole('listbox').waitFor({ state: 'hidden' });
    await json.press('Control+z');
    assert.equal(await json.inputValue(), '{"sel}');
    await json.fill(good.replace('"9.9.9"', '"2.2.2"'));
    await page.getByText(/No registered instance has version/).first().waitFor({ state: 'hidden' });
    // A field that has no effect is reported by the server.
    await json.fill(JSON.stringify({ ...JSON.parse(await json.inputValue()), probe: { kind: 'heartbeat', path: '/x' } }));
    await page.getByRole('button', { name: 'Apply…' }).click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Apply' }).click();
    await page.getByText(/^Policy applied \(revision \d+\)\.$/).first().waitFor();
    await page.getByText('The applied policy is valid, but:').waitFor();
    const { traffic } = (await stored()).policy;
    assert.equal(traffic.timeouts.response_ms, 1_500);
    assert.equal(traffic.retries.attempts, 2);
  });
  await on.cluster.call('DELETE', '/services/default/pricing/policy');
});

test('users change their own password; a session can be renewed', async () => {
  await on.cluster.addUser('pia', 'viewer');
  await within({ user: 'pia' }, async (page, { context }) => {
    const cookie = async () => (await context.cookies()).find((c) => c.httpOnly).value;
    const before = await cookie();
    const renewed = await page.evaluate(() => fetch('/api/v1/session/renew', { method: 'POST', headers: { 'x-maxine-csrf': '1' } }).then((r) => r.status));
    assert.equal(renewed, 200);
    assert.notEqual(await cookie(), before);
    await page.getByRole('button', { name: /pia/ }).click();
    await page.getByRole('menuitem', { name: 'Change password…' }).click();
    const dialog = page.getByRole('alertdialog');
    await dialog.getByLabel('Present password').fill('pia-has-a-long-password');
    await dialog.getByLabel('New password', { exact: true }).fill('another-long-password');
    await dialog.getByLabel('New password again').fill('another-long-password');
    await dialog.getByRole('button', { name: 'Change password' }).click();
    await page.getByText('Your password is changed.').first().waitFor();
    await go(page, '/services');
    await page.getByRole('grid', { name: 'Services' }).waitFor();
  });
  forget(on.cluster, 'pia');
});

test('dependencies: the edges have a rate, success and latency, in the chosen time, and the graph is enlarged', async () => {
  await traffic(on.cluster, 1_000);
  await within({ path: '/dependencies' }, async (page) => {
    const graph = page.getByRole('group', { name: 'Graph of calls' });
    await graph.waitFor();
    const width = Number(await graph.getAttribute('width'));
    await page.getByRole('button', { name: 'Larger' }).click();
    await page.waitForFunction((before) => Number(document.querySelector('svg.graph').getAttribute('width')) > before, width);
    assert.deepEqual(await violations(page), []);
    await page.getByRole('button', { name: 'Table' }).click();
    await page.getByRole('button', { name: '1 min', exact: true }).click();
    await page.getByRole('row', { name: /Proxy.* \d+ [\d.]+\/s [\d.]+ % [\d.]+ m?s [\d.]+ m?s/ }).first().waitFor();
    assert.deepEqual(await violations(page), []);
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
    await page.getByRole('row', { name: /^Drains an instance .* no no yes yes$/ }).waitFor();
  });
  await within({ user: 'olga', path: '/cluster' }, async (page) => {
    const backup = page.getByRole('button', { name: 'Backup' });
    await backup.waitFor();
    assert.equal(await backup.getAttribute('aria-disabled'), 'true');
  });
  await within({ path: '/access?tab=rights' }, async (page) => {
    await page.getByLabel('Find an action').fill('drain');
    await page.getByRole('button', { name: 'Drains an instance', exact: true }).click();
    const names = page.getByRole('region', { name: 'Who may: Drains an instance' });
    await names.getByText(/^\d+ users: .*olga \(operator\)/).waitFor();
    assert.doesNotMatch(await names.textContent(), /vera/);
  });
  await within({ path: '/access?tab=tokens' }, async (page) => {
    await page.getByRole('button', { name: 'Create token' }).click();
    await page.getByLabel('What it is for').fill('nightly job');
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    const token = (await page.locator('.command pre').textContent()).trim();
    assert.match(token, /^mxt_/);
    // A token that is shown once does not go by accident.
    await page.keyboard.press('Escape');
    await page.getByRole('alertdialog').getByText(/cannot be shown again/).waitFor();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Cancel' }).click();
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
    const ttl = async () => (await on.cluster.call('GET', '/config')).config.heartbeat_timeout_s;
    await until(async () => (await ttl()) === 17, 60_000, 'the change');
    await page.getByRole('button', { name: /^Roll back/ }).first().click();
    await page.getByRole('alertdialog').getByRole('button', { name: 'Roll back' }).click();
    await until(async () => (await ttl()) === 5, 60_000, 'the rollback');
  });
});

/** Presses Tab until the focus is on what is called `name`; each stop must be seen. */
async function tabTo(page, name) {
  for (let i = 0; i < 40; i += 1) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const element = document.activeElement;
      // Between a dialog that closes and what is behind it, nothing has the focus for a moment.
      if (element === document.body) return null;
      return { text: element.innerText?.trim() ?? '', outline: getComputedStyle(element).outlineStyle };
    });
    if (at === null) continue;
    assert.notEqual(at.outline, 'none', `focus can be seen on ${at.text}`);
    if (at.text === name) return;
  }
  throw new Error(`no Tab leads to ${name}`);
}

test('whole by keyboard: the palette, a list, drain and return, and back to the list', async () => {
  await within({ user: 'olga' }, async (page) => {
    const drained = async () => (await on.cluster.call('GET', '/services/default/search/instances/search-2')).drain !== null;
    await page.keyboard.press('Control+k');
    await page.keyboard.type('search');
    await page.getByRole('option', { name: /^search/ }).first().waitFor();
    await page.keyboard.press('Enter');
    await page.getByRole('grid', { name: 'Instances of search' }).waitFor();
    await page.getByRole('row', { name: /search-2/ }).focus();
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await page.locator('[role=dialog]:not(.toast)').getByRole('button', { name: 'Weight' }).waitFor();
    await tabTo(page, 'Drain');
    await page.keyboard.press('Enter');
    await page.getByRole('alertdialog').waitFor();
    await page.keyboard.type('by keyboard');
    await tabTo(page, 'Drain');
    await page.keyboard.press('Enter');
    await until(drained, 60_000, 'the drain');
    await page.getByRole('button', { name: 'Return to service' }).waitFor();
    await page.getByRole('alertdialog').waitFor({ state: 'hidden' });
    await tabTo(page, 'Return to service');
    await page.keyboard.press('Enter');
    await page.getByRole('alertdialog').waitFor();
    await tabTo(page, 'Return');
    await page.keyboard.press('Enter');
    await until(async () => !(await drained()), 60_000, 'the return');
    await page.getByRole('alertdialog').waitFor({ state: 'hidden' });
    await page.keyboard.press('Escape');
    // Messages with a way back are dialogs, too, and may still be there.
    await page.locator('[role=dialog]:not(.toast)').waitFor({ state: 'hidden' });
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute('role')), 'row');
    await page.keyboard.press('?');
    await page.locator('[role=dialog]:not(.toast)').waitFor();
    assert.deepEqual(await violations(page), [], 'the help on keys');
  });
});

test('who asked for less motion gets none', async () => {
  for (const [motion, moves] of [[false, false], [true, true]]) {
    await within({ path: '/services', motion }, async (page) => {
      await page.getByRole('searchbox').first().waitFor();
      const seconds = await page.locator('.button').first().evaluate((e) => parseFloat(getComputedStyle(e).transitionDuration));
      assert.equal(seconds > 0.01, moves);
    });
  }
});

test('a session that ends leaves the page as it is, and goes on after signing in', async () => {
  await within({ user: 'olga', path: '/config' }, async (page) => {
    await page.getByLabel('Time to live, seconds').fill('99');
    // A new password ends every session of the user.
    await on.cluster.addUser('olga', 'operator');
    forget(on.cluster, 'olga');
    await page.getByRole('heading', { name: 'Your session has ended' }).waitFor({ timeout: 60_000 });
    assert.deepEqual(await violations(page), []);
    await page.getByLabel('Password').fill('olga-has-a-long-password');
    await page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.getByRole('heading', { name: 'Your session has ended' }).waitFor({ state: 'hidden' });
    assert.equal(await page.getByLabel('Time to live, seconds').inputValue(), '99');
  });
});
