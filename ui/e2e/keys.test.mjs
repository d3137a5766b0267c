// Keys, locks and lock sessions, against real nodes: each change is looked up on the server.
import assert from 'node:assert/strict';
import { cutOff, go, overflow, violations } from './browser.mjs';
import { startCluster, until } from './cluster.mjs';
import { stage, test } from './harness.mjs';

const on = stage(async () => {
  const cluster = await startCluster({ port: Number(process.env.MAXINE_E2E_PORT ?? 18300) + 80, nodes: 1 });
  await cluster.addUser('olga', 'operator');
  await cluster.addUser('vera', 'viewer');
  return cluster;
});
const at = (key) => `/kv/${encodeURIComponent(key)}`;
const stored = async (key) => (await on.cluster.call('GET', at(key), undefined, { okay: false })).text;
const put = (key, value) => on.cluster.call('PUT', at(key), typeof value === 'string' ? { text: value } : value);

test('a key is found in its folder, changed, refused when somebody was first, deleted and brought back', async () => {
  await put('app/db/host', '10.0.0.5');
  await put('app/config', '{"a":12345678901234567890}');
  await on.within({ user: 'olga', path: '/keys' }, async (page) => {
    const alert = page.getByRole('alertdialog');
    await page.getByRole('row', { name: /app\/ 2 keys/ }).click();
    await page.getByRole('row', { name: /config/ }).click();
    const sheet = page.getByRole('dialog', { name: 'app/config' });
    await sheet.getByLabel('Value', { exact: true }).getByText('"a": 12345678901234567890').waitFor();
    await sheet.getByText(/by admin/).waitFor();
    assert.deepEqual(await violations(page), []);
    await sheet.getByRole('button', { name: 'Edit' }).click();
    await alert.getByRole('textbox', { name: 'Value' }).fill('{"a": 2');
    await alert.getByText('The present value is JSON, and the new one is not.').waitFor();
    await alert.getByRole('textbox', { name: 'Value' }).fill('{"a": 2}');
    await alert.getByRole('group', { name: /1 added, 1 removed/ }).waitFor();
    assert.deepEqual(await violations(page), [], 'the dialog to change a key');
    // The page gets the change of somebody else by the stream, and the server refuses an older revision in any case.
    await put('app/config', '{"a": 3}');
    await alert.getByText(/admin has changed this key meanwhile/).waitFor();
    await alert.getByRole('button', { name: 'Change', exact: true }).click();
    await alert.getByText(/Someone else changed it meanwhile/).waitFor();
    assert.equal(await stored('app/config'), '{"a": 3}');
    await alert.getByRole('button', { name: 'Compare with the new value' }).click();
    await alert.getByRole('button', { name: 'Change', exact: true }).click();
    await page.getByText(/app\/config is changed/).first().waitFor();
    assert.equal(await stored('app/config'), '{"a": 2}');
    await sheet.getByText(/by olga/).waitFor();
    await sheet.getByRole('button', { name: 'Delete' }).click();
    await alert.getByRole('button', { name: 'Delete' }).click();
    await sheet.getByText('This key does not exist.').waitFor();
    assert.equal(await stored('app/config'), undefined);
    await page.getByRole('dialog').filter({ hasText: 'app/config is deleted.' }).getByRole('button', { name: 'Undo' }).click();
    await until(async () => (await stored('app/config')) === '{"a": 2}', 60_000, 'the key to be back');
  });
});

test('a key is added; a folder is deleted after its name is typed; a viewer may do neither, and is told why', async () => {
  await put('old/a', '1');
  await put('old/b/c', '2');
  await on.within({ user: 'olga', path: '/keys?prefix=old%2F' }, async (page) => {
    const alert = page.getByRole('alertdialog');
    await page.getByRole('button', { name: 'Add key' }).click();
    await alert.getByLabel('Key').fill('new/first');
    await alert.getByRole('textbox', { name: 'Value' }).fill('hello');
    await alert.getByRole('button', { name: 'Add', exact: true }).click();
    await page.getByRole('row', { name: /first/ }).waitFor();
    assert.equal(await stored('new/first'), 'hello');
    await go(page, '/keys?prefix=old%2F');
    await page.getByRole('button', { name: 'Delete these keys…' }).click();
    await alert.getByText('2 keys').waitFor();
    await alert.getByLabel('Type old/ to confirm').fill('old/');
    assert.deepEqual(await violations(page), [], 'the dialog to delete keys');
    await alert.getByRole('button', { name: 'Delete all' }).click();
    await page.getByText('No key begins with this text.').waitFor();
    assert.equal(await stored('old/b/c'), undefined);
    assert.equal(await stored('new/first'), 'hello');
  });
  await on.within({ user: 'vera', path: '/keys?prefix=new%2F&key=new%2Ffirst' }, async (page) => {
    await page.getByText('hello').waitFor();
    for (const name of ['Edit', 'Delete']) assert.equal(await page.getByRole('button', { name }).first().getAttribute('aria-disabled'), 'true');
    await page.getByText('Needs the role operator; you are signed in as viewer.').first().waitFor({ state: 'attached' });
  });
});

test('who holds a lock is shown; the lock is released, and a session is ended', async () => {
  const session = async (name, more = {}) => (await on.cluster.call('POST', '/sessions', { name, node: 'host-1', ttl_ms: 86_400_000, ...more })).id;
  const lock = (key, id) => on.cluster.call('PUT', `/locks/${encodeURIComponent(key)}`, { session: id });
  await lock('jobs/nightly', await session('nightly report'));
  const hung = await session('import', { behavior: 'delete' });
  await lock('jobs/import', hung);
  await on.within({ user: 'olga', path: '/keys?tab=locks' }, async (page) => {
    const alert = page.getByRole('alertdialog');
    await page.getByRole('row', { name: /jobs\/nightly nightly report host-1/ }).getByRole('button', { name: /^Release/ }).click();
    assert.deepEqual(await violations(page), [], 'the dialog to release a lock');
    await alert.getByRole('button', { name: 'Release' }).click();
    await page.getByRole('row', { name: /jobs\/nightly/ }).waitFor({ state: 'hidden' });
    assert.equal((await on.cluster.call('GET', '/locks/jobs%2Fnightly')).session ?? null, null);
    await page.getByRole('link', { name: 'import' }).click();
    const sheet = page.getByRole('dialog', { name: 'Lock session' });
    await sheet.getByText('Its key is deleted, with the value.').waitFor();
    await sheet.getByRole('link', { name: 'jobs/import' }).waitFor();
    assert.deepEqual(await violations(page), [], 'a lock session');
    await sheet.getByRole('button', { name: 'End session' }).click();
    await alert.getByRole('button', { name: 'End session' }).click();
    await sheet.getByText('This session has ended.').waitFor();
    assert.equal(await stored('jobs/import'), undefined);
    assert.deepEqual((await on.cluster.call('GET', '/sessions')).items.map((s) => s.name), ['nightly report']);
  });
});

test('10,000 keys and the largest value leave the page usable, at 320 px too', async () => {
  const operations = (from) => Array.from({ length: 128 }, (_, i) => ({ verb: 'put', key: `many/${String(from + i).padStart(5, '0')}`, text: 'x' }));
  const writes = [];
  for (let from = 0; from < 10_112; from += 128) writes.push(on.cluster.call('POST', '/transactions', { operations: operations(from) }));
  await Promise.all(writes);
  const { id } = await on.cluster.call('POST', '/sessions', { name: 'a worker with a long name' });
  await on.cluster.call('PUT', '/locks/jobs%2Fheld', { session: id });
  await put('many-more/large', 'x'.repeat(524_288));
  await put('many-more/binary', { base64: Buffer.from([255, 0, 254]).toString('base64') });
  await on.within({ user: 'olga', path: '/keys', width: 320, height: 640 }, async (page) => {
    await page.getByRole('row', { name: /^many\/ [\d,]+\+ keys/ }).click();
    await page.getByText('10,000 keys loaded; there are more').waitFor();
    await page.getByRole('button', { name: 'Load 10,000 more' }).click();
    await page.getByText(/^10,112 keys$/).waitFor();
    assert.ok((await page.getByRole('row').count()) < 100);
    await page.getByRole('row', { name: /00000/ }).focus();
    await page.keyboard.press('End');
    await page.getByRole('row', { name: /10111/ }).waitFor();
    await page.getByLabel('Keys that begin with').fill('many/0999');
    await page.getByText(/^10 keys/).waitFor();
    await go(page, '/keys?key=many-more%2Flarge');
    await page.getByText('Only the beginning is shown. The whole value has 512 KiB.').waitFor();
    assert.equal(await page.getByRole('button', { name: 'Edit' }).getAttribute('aria-disabled'), 'true');
    assert.equal(await overflow(page), 0);
    assert.deepEqual(await cutOff(page), []);
    await go(page, '/keys?key=many-more%2Fbinary');
    await page.getByText('3 B that are not text.').waitFor();
    await go(page, '/keys?tab=locks');
    await page.getByRole('row', { name: /jobs\/held/ }).waitFor();
    assert.equal(await overflow(page), 0);
    assert.deepEqual(await cutOff(page), []);
  });
});
