// Debian's Chromium under Playwright, watched for what must never happen: a request to another
// host, a violation of the Content-Security-Policy, an uncaught error.
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const require = createRequire(import.meta.url);
const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

/** Where the pictures of failures go. */
const FAILURES = new URL('../test-results/', import.meta.url).pathname;

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

/** Makes the next page of `user` sign in anew. */
export function forget(cluster, user) {
  sessions.delete(`${cluster.nodes[0].http} ${user}`);
}

/**
 * Opens a page. `user: null` stays signed out; `fresh` signs in by the form, so that the page holds
 * a token for the other nodes, which a session that was taken up does not.
 */
export async function open(browser, cluster, options = {}) {
  const opened = await prepare(browser, cluster, options);
  await opened.goIn();
  return opened;
}

/** The same in two steps, for whoever wants a picture of what went wrong in the second. */
export async function prepare(browser, cluster, options = {}) {
  const { node = 0, width = 1440, height = 900, theme = 'light', user = 'admin', fresh = false } = options;
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: theme,
    reducedMotion: options.motion ? 'no-preference' : 'reduce',
    forcedColors: options.forcedColors ? 'active' : 'none',
    deviceScaleFactor: options.scale ?? 1,
  });
  if (options.init) await context.addInitScript(options.init);
  const page = await context.newPage();
  // Generous: there may be two cores, and others at work on them.
  page.setDefaultTimeout(60_000);
  const faults = watch(page, cluster);
  const key = `${cluster.nodes[0].http} ${user}`;
  const session = fresh ? undefined : sessions.get(key);
  const goIn = async () => {
    if (session) await context.addCookies(session);
    await page.goto(`${cluster.nodes[node].http}/#${options.path ?? '/'}`);
    if (user === null) return;
    if (session) return page.locator('.topbar').waitFor();
    await signIn(page, user, user === 'admin' ? cluster.password : `${user}-has-a-long-password`);
    sessions.set(key, await context.cookies());
  };
  return { context, page, faults, goIn };
}

/** Gathers what must never happen. */
function watch(page, cluster) {
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
  return faults;
}

/** A picture of what was there when a test failed, and its text for whoever has only the log. */
export async function keepPicture(page, name) {
  mkdirSync(FAILURES, { recursive: true });
  const path = `${FAILURES}${name.replace(/[^a-z0-9]+/gi, '-').slice(0, 80)}.png`;
  const text = await page.evaluate(() => document.body.innerText).catch(() => '');
  console.error(`# its text: ${text.replace(/\s+/g, ' ').slice(-3_000)}`);
  await page.screenshot({ path }).then(
    () => console.error(`# the page at the failure: ${path}`),
    () => undefined,
  );
}

export async function signIn(page, user, password) {
  await page.getByLabel('User name').fill(user);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  // Not by its role: behind an open panel it is hidden from assistive technology.
  await page.locator('.topbar').waitFor();
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
  await page.waitForFunction(() => !document.querySelector('.loading'), null, { timeout: 60_000 });
  await page.waitForTimeout(150);
}

/** The rules that depend on the colours of the theme. All others depend on the document and its layout alone. */
const COLOUR_RULES = ['color-contrast', 'link-in-text-block'];

/**
 * Violations of WCAG 2.2 AA on what is shown, as text. `rules: 'colour'` checks only the rules about colours, for a page
 * of which the others were checked in the other theme. `rules: 'layout'` leaves them out, for another size of the same page.
 */
export async function violations(page, { rules = 'all' } = {}) {
  // Evaluated by the debugger, which the page's policy does not govern.
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(AXE);
  return page.evaluate(async ([rules, colour]) => {
    // During a transition between the themes, colours belong to neither theme.
    const frame = () => new Promise(requestAnimationFrame);
    await frame();
    await frame();
    const ends = (animation) => Number.isFinite(animation.effect?.getComputedTiming().endTime);
    const moving = document.getAnimations().filter(ends);
    await Promise.all(moving.map((animation) => animation.finished.catch(() => undefined)));
    await frame();
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    // What lies behind a modal dialog is out of reach, and axe takes the dialog for its background.
    const dialogs = document.querySelectorAll('[role="dialog"], [role="alertdialog"]');
    const shown = dialogs.length > 0 ? [...dialogs].at(-1) : document;
    const runOnly = rules === 'colour' ? { type: 'rule', values: colour } : { type: 'tag', values: tags };
    const off = rules === 'layout' ? Object.fromEntries(colour.map((rule) => [rule, { enabled: false }])) : {};
    const { violations } = await window.axe.run(shown, { runOnly, rules: off, resultTypes: ['violations'] });
    return violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.target.join(' ')).slice(0, 3).join(' | ')} ${v.nodes[0].failureSummary?.split('\n')[1] ?? ''}`);
  }, [rules, COLOUR_RULES]);
}

/**
 * How far the page reaches over the right edge, in pixels. The document never scrolls: its content scrolls in `main`, and
 * so does that of a dialog.
 */
export function overflow(page) {
  return page.evaluate(() => {
    const scrollers = [document.documentElement, ...document.querySelectorAll('.main, [role="dialog"], [role="alertdialog"], .sheet-body')];
    return Math.max(...scrollers.map((element) => element.scrollWidth - element.clientWidth));
  });
}

/** What is cut off without a sign of it, as text: what ends in an ellipsis has its whole text elsewhere. */
export function cutOff(page) {
  return page.evaluate(() => {
    const cut = [];
    for (const element of document.body.querySelectorAll('*')) {
      const style = getComputedStyle(element);
      const hides = (axis) => ['hidden', 'clip'].includes(style[axis]);
      const wide = hides('overflowX') && element.scrollWidth > element.clientWidth + 1 && style.textOverflow !== 'ellipsis';
      const range = document.createRange();
      range.selectNodeContents(element);
      // What is aligned to the right is cut on its left, and cannot be scrolled to there.
      const left = hides('overflowX') && range.getBoundingClientRect().left < element.getBoundingClientRect().left - 1;
      const high = hides('overflowY') && element.scrollHeight > element.clientHeight + 1;
      // Texts for screen readers alone are meant to be; the options of a closed list are not shown.
      if ((!wide && !left && !high) || element.closest('.sr, select') || element.clientWidth <= 1 || !element.innerText?.trim() || !element.checkVisibility()) continue;
      cut.push(`${element.tagName} ${element.className}: ${element.innerText.trim().slice(0, 60)}`);
    }
    return cut;
  });
}

/** Gives every time in a cell its longest usual text: how wide a column must be does not depend on what was measured. */
export function longestTimes(page) {
  return page.evaluate(() => {
    for (const element of document.querySelectorAll('.cell .num')) {
      if (/^(≤ )?[\d.]+ ms$/.test(element.textContent)) element.textContent = element.textContent.replace(/[\d.]+/, '8.19');
    }
  });
}

/** Sets the text as wide apart as WCAG 1.4.12 asks a page to bear. */
export function spreadText(page) {
  return page.evaluate(() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(
      '* { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important } p { margin-bottom: 2em !important }',
    );
    document.adoptedStyleSheets.push(sheet);
  });
}
