// Sign-in at a real OpenID provider: oidc-provider, which is certified by the OpenID Foundation. For the dashboard and the
// command line, as a person's browser goes through its pages.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { startCluster } from './cluster.mjs';
import { test } from './harness.mjs';

const PORT = Number(process.env.MAXINE_E2E_PORT ?? 18300) + 80;
const PROGRAM = process.env.MAXINE_BIN ?? new URL('../../target/debug/maxine', import.meta.url).pathname;
const NODE = `http://127.0.0.1:${PORT}`;
const START = `${NODE}/api/v1/session/providers/corp`;

const dir = mkdtempSync(join(tmpdir(), 'maxine-sign-in-'));
const groups = { ada: ['platform'], bob: ['staff'], eve: ['visitors'] };
let cluster;
let provider;

before(async () => {
  const { default: Provider } = await import('oidc-provider');
  provider = createServer();
  provider.listen(0, '127.0.0.1');
  await once(provider, 'listening');
  const issuer = `http://127.0.0.1:${provider.address().port}`;
  const oidc = new Provider(issuer, {
    clients: [{
      client_id: 'maxine',
      client_secret: 's3cret: with % signs',
      application_type: 'native',
      grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
      redirect_uris: [`${START}/callback`, 'http://127.0.0.1/callback'],
      post_logout_redirect_uris: [`${NODE}/`],
    }],
    claims: { openid: ['sub'], profile: ['preferred_username', 'groups'] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: `subject-of-${id}`, preferred_username: id, groups: groups[id] }),
    }),
    features: { deviceFlow: { enabled: true } },
    cookies: { keys: ['only for this test'] },
  });
  provider.on('request', oidc.callback());
  writeFileSync(join(dir, 'secret'), 's3cret: with % signs\n');
  writeFileSync(join(dir, 'identities.toml'), `
    public_url = "${NODE}"
    [[provider]]
    name = "corp"
    title = "Example Corporation"
    issuer = "${issuer}"
    client_id = "maxine"
    client_secret_file = "secret"
    roles = { admin = ["platform"], viewer = ["staff"] }
  `);
  process.env.MAXINE_IDENTITIES_FILE = join(dir, 'identities.toml');
  cluster = await startCluster({ port: PORT, nodes: 1 });
}, { timeout: 120_000 });

after(async () => {
  await cluster?.stop();
  provider?.closeAllConnections();
  provider?.close();
  rmSync(dir, { recursive: true, force: true });
}, { timeout: 60_000 });

/** A browser without scripts: it keeps cookies, follows redirects, and sends the first form of each page. */
class Browser {
  cookies = new Map();

  constructor(name) {
    this.name = name;
  }

  async ask({ url, form }) {
    const { pathname, origin } = new URL(url);
    const fitting = [...this.cookies.values()].filter((c) => c.origin === origin && pathname.startsWith(c.path));
    const response = await fetch(url, {
      method: form ? 'POST' : 'GET',
      redirect: 'manual',
      body: form,
      headers: { cookie: fitting.map((c) => c.pair).join('; ') },
      signal: AbortSignal.timeout(20_000),
    });
    for (const line of response.headers.getSetCookie()) {
      const [pair] = line.split(';');
      const path = /path=([^;]+)/i.exec(line)?.[1] ?? '/';
      const key = `${origin} ${path} ${pair.split('=')[0]}`;
      if (/expires=Thu, 01 Jan 1970|max-age=0/i.test(line)) this.cookies.delete(key);
      else this.cookies.set(key, { origin, path, pair });
    }
    return response;
  }

  /** Goes on from `url` until the address begins with `end`, or a page has no form. Returns the last address. */
  async go(url, end) {
    let next = { url };
    for (let hop = 0; hop < 20; hop += 1) {
      if (next.url.startsWith(end)) return next.url;
      const response = await this.ask(next);
      const location = response.headers.get('location');
      if (location) {
        next = { url: new URL(location, next.url).href };
        continue;
      }
      const page = await response.text();
      assert.ok(response.status < 400, `${next.url}: ${response.status} ${page}`);
      const action = /<form[^>]*action="([^"]+)"/.exec(page)?.[1];
      if (!action) return next.url;
      const form = new URLSearchParams();
      for (const [input] of page.split('</form>')[0].matchAll(/<input[^>]*>/g)) {
        const name = /name="([^"]+)"/.exec(input)?.[1];
        if (name) form.set(name, /value="([^"]*)"/.exec(input)?.[1] ?? '');
      }
      if (form.has('login')) form.set('login', this.name);
      if (form.has('password')) form.set('password', 'any');
      next = { url: new URL(action, next.url).href, form };
    }
    throw new Error(`too many pages, the last is ${next.url}`);
  }

  /** Signs in to the dashboard. Returns where it ends. */
  async signIn() {
    const back = await this.go(`${START}/start?return_to=/%23/audit`, `${START}/callback`);
    return (await this.ask({ url: back })).headers.get('location');
  }

  async me() {
    const response = await this.ask({ url: `${NODE}/api/v1/me` });
    return response.status === 200 ? response.json() : response.status;
  }
}

/** Runs a command of the command line as `name`, and acts once its messages have `text`. */
async function maxine(name, args, text, act) {
  const env = { ...process.env, MAXINE_SERVER: NODE, MAXINE_SESSION_FILE: join(dir, `${name}.json`) };
  const child = spawn(PROGRAM, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = once(child, 'exit');
  let said = '';
  let acting = null;
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (part) => {
      said += part;
      const found = text?.exec(said);
      if (found && !acting) acting = act(found[1]).catch((error) => child.kill() && Promise.reject(error));
    });
  }
  const [code] = await ended;
  await acting;
  return { code, said };
}

test('the dashboard: groups give a role, and whoever has none stays outside', async () => {
  const ada = new Browser('ada');
  assert.equal(await ada.signIn(), '/#/audit');
  const me = await ada.me();
  assert.deepEqual([me.user, me.role], ['corp/ada', 'admin']);
  const bob = new Browser('bob');
  await bob.signIn();
  assert.equal((await bob.me()).role, 'viewer');
  const eve = new Browser('eve');
  assert.equal(await eve.signIn(), '/?sign_in=no_role');
  assert.equal(await eve.me(), 401);
  // The callback again, with the same code and without the ticket.
  const again = await ada.go(`${START}/start`, `${START}/callback`);
  assert.equal((await ada.ask({ url: again })).headers.get('location'), '/');
  assert.equal((await ada.ask({ url: again })).headers.get('location'), '/?sign_in=start_again');
  assert.equal((await eve.ask({ url: again })).headers.get('location'), '/?sign_in=start_again');
  // The provider's page to sign out there leads back to the dashboard.
  assert.equal(new URL(await ada.go(`${START}/sign-out`, NODE + '/?')).origin, NODE);
});

test('the command line: a browser on this machine, then commands with the session, then the end', async () => {
  const login = await maxine('ada', ['login', '--provider', 'corp', '--no-browser'], /(http:\S+\/auth\?\S+)\n/, (url) =>
    new Browser('ada').go(url, 'nowhere'));
  assert.equal(login.code, 0, login.said);
  assert.match(login.said, /signed in as corp\/ada \(admin\)/);
  assert.equal(statSync(join(dir, 'ada.json')).mode & 0o777, 0o600);
  assert.match((await maxine('ada', ['user', 'list'])).said, /corp\/ada/);
  assert.equal((await maxine('ada', ['logout'])).code, 0);
  assert.notEqual((await maxine('ada', ['user', 'list'])).code, 0);
});

test('the command line: a browser on another device', async () => {
  const login = await maxine('bob', ['login', '--provider', 'corp', '--device'], /Or open (http:\S+)\n/, (url) =>
    new Browser('bob').go(url, 'nowhere'));
  assert.equal(login.code, 0, login.said);
  assert.match(login.said, /signed in as corp\/bob \(viewer\)/);
});
