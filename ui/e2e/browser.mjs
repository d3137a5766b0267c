// Debian's Chromium under Playwright, watched for what must never happen: a request to another
// host, a violation of the Content-Security-Policy, an uncaught error.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const require = createRequire(import.meta.url);
const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

/** Takes the page's files from this folder, to try a change without building the server anew. */
const DIST = process.env.MAXINE_UI_DIST ?? null;

export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM_BIN ?? '/usr/bin/chromium',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
  });
}

/** Cookies by cluster and user: many pages without tripping the limit on sign-ins. */
const sessions = new Map();

export async function open(browser, cluster, options = {}) {
  const { node = 0, width = 1440, height = 900, theme = 'light', strictCsp = true } = options;
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: theme,
    reducedMotion: options.motion ? 'no-preference' : 'reduce',
    deviceScaleFactor: options.scale ?? 1,
  });
  // The page below is handed over by the test, so the browser cannot know that it comes from this machine too.
  await context.grantPermissions(['local-network-access']).catch(() => undefined);
  const page = await context.newPage();
  const faults = [];
  const hosts = new Set(cluster.nodes.map((n) => new URL(n.http).host));
  page.on('pageerror', (error) => faults.push(`uncaught: ${error.message}`));
  page.on('console', (message) => {
    const text = message.text();
    if (/Content Security Policy|Refused to/i.test(text)) faults.push(text);
  });
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol.startsWith('http') && !hosts.has(url.host)) faults.push(`request to ${url.host}`);
    if (url.protocol === 'data:') faults.push('a data: URL');
  });
  if (strictCsp) await harden(page, cluster);
  const user = options.user ?? 'admin';
  const session = options.reuse ? sessions.get(`${cluster.nodes[0].http} ${user}`) : undefined;
  if (session) await context.addCookies(session);
  await page.goto(`${cluster.nodes[node].http}/#${options.path ?? '/'}`);
  if (options.user !== null && !session) {
    await signIn(page, user, user === 'admin' ? cluster.password : `${user}-has-a-long-password`);
    sessions.set(`${cluster.nodes[0].http} ${user}`, await context.cookies());
  }
  return { context, page, faults };
}

/** The page must live with a stricter policy than the server's: no inline style, no data: URL. */
async function harden(page, cluster) {
  const peers = cluster.nodes.map((n) => n.http).join(' ');
  const policy = `default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self' ${peers}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'`;
  await page.route(/\/(\?.*)?$/, async (route) => {
    if (route.request().resourceType() !== 'document') return route.continue();
    if (DIST) return route.fulfill({ path: `${DIST}/index.html`, headers: { 'content-security-policy': policy } });
    const response = await route.fetch();
    await route.fulfill({ response, headers: { ...response.headers(), 'content-security-policy': policy } });
  });
  if (DIST) {
    await page.route(/\/(assets\/.*|favicon\.svg)$/, (route) => route.fulfill({ path: DIST + new URL(route.request().url()).pathname }));
  }
}

export async function signIn(page, user, password) {
  await page.getByLabel('User').fill(user);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('navigation', { name: 'Screens' }).or(page.getByRole('button', { name: 'Screens' })).first().waitFor();
}

/** Goes to a screen without loading the page anew. */
export async function go(page, path) {
  await page.evaluate((to) => {
    location.hash = to;
  }, path);
  await page.waitForTimeout(50);
  await settled(page);
}

export async function settled(page) {
  await page.waitForFunction(() => !document.querySelector('.loading'), null, { timeout: 15_000 });
  await page.waitForTimeout(150);
}

/** Violations of WCAG 2.2 AA on what is shown, as text. */
export async function violations(page) {
  // Evaluated by the debugger, which the page's policy does not govern.
  await page.evaluate(AXE);
  return page.evaluate(async () => {
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const { violations } = await window.axe.run(document, { runOnly: { type: 'tag', values: tags } });
    return violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.target.join(' ')).slice(0, 3).join(' | ')} ${v.nodes[0].failureSummary?.split('\n')[1] ?? ''}`);
  });
}

/** How far the page reaches over the right edge, in pixels. */
export function overflow(page) {
  return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
}
