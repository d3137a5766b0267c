// Every screen, in both themes, wide and narrow, with no data, normal data and 5,000 services, and each step of an incident.
//   npm run screenshots [-- none normal large incident]
// The pictures go to ui/screenshots/all; look at them. Those of the README are copied from there.
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { go, launch, open, settled } from './browser.mjs';
import { startCluster, until } from './cluster.mjs';
import { mendIncident } from './incident-walk.mjs';
import { incidentTraffic, seedIncident, seedLarge, seedNormal, traffic } from './seed.mjs';

const OUT = new URL('../screenshots/all/', import.meta.url).pathname;
/** What the README shows, by the name in `all`. */
const README = {
  'overview-dark': 'normal-overview-dark-wide', 'overview-light': 'normal-overview-light-wide', 'cluster-light': 'normal-cluster-light-wide',
  'services-dark': 'normal-services-dark-wide', 'policy-diff-dark': 'state-policy-diff-dark',
  'incident-light': 'incident-overview',
};
const PORT = Number(process.env.MAXINE_E2E_PORT ?? 18400);
const THEMES = ['light', 'dark'];
const SIZES = { wide: [1440, 900], narrow: [360, 780] };

const EMPTY = {
  overview: '/', cluster: '/cluster', services: '/services', dependencies: '/dependencies', traces: '/traces',
  alerts: '/alerts', keys: '/keys', audit: '/audit', config: '/config', access: '/access', tokens: '/access?tab=tokens',
  'signing-keys': '/access?tab=keys', rights: '/access?tab=rights',
};
const NORMAL = {
  ...EMPTY,
  service: '/services/default/orders',
  'service-traffic': '/services/default/recommendations?tab=traffic',
  'service-policy': '/services/default/orders?tab=policy',
  instance: '/services/default/payments?instance=payments-2',
  key: '/keys?prefix=app%2F&key=app%2Ffeatures',
  locks: '/keys?tab=locks',
  'lock-sessions': '/keys?tab=sessions',
};
const LARGE = {
  ...EMPTY,
  service: '/services/default/biggest',
  'service-traffic': '/services/default/biggest?tab=traffic',
  'service-policy': '/services/default/biggest?tab=policy',
  instance: '/services/default/biggest?instance=biggest-4711',
};

async function shoot(browser, cluster, set, screens, sizes = SIZES) {
  for (const theme of THEMES) {
    for (const [size, [width, height]] of Object.entries(sizes)) {
      const { context, page } = await open(browser, cluster, { theme, width, height });
      await page.waitForTimeout(6_000);
      for (const [name, path] of Object.entries(screens)) {
        await go(page, path);
        await page.mouse.move(0, 0);
        await page.waitForTimeout(700);
        await page.screenshot({ path: `${OUT}${set}-${name}-${theme}-${size}.png` });
      }
      await context.close();
    }
  }
}

/** What is seen only for a moment: dialogs, the palette, a lost node, a missing leader. */
async function states(browser, cluster) {
  for (const theme of THEMES) {
    const signedOut = await open(browser, cluster, { theme, user: null });
    await signedOut.page.getByLabel('User name').waitFor();
    await signedOut.page.screenshot({ path: `${OUT}state-sign-in-${theme}.png` });
    await signedOut.context.close();

    const { context, page } = await open(browser, cluster, { theme });
    const save = (name) => page.screenshot({ path: `${OUT}state-${name}-${theme}.png` });
    await settled(page);
    await page.keyboard.press('Control+k');
    await page.keyboard.type('pay');
    await page.waitForTimeout(400);
    await save('palette');
    await page.keyboard.press('Escape');
    await go(page, '/services/default/payments?instance=payments-2');
    await page.waitForTimeout(1_500);
    await save('instance');
    await go(page, '/services/default/orders?instance=orders-1');
    await page.getByRole('button', { name: 'Drain', exact: true }).click();
    await page.waitForTimeout(300);
    await save('drain');
    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.keyboard.press('Escape');
    await go(page, '/services/default/orders?tab=policy');
    await page.getByLabel('Strategy').selectOption('rendezvous');
    await page.getByRole('button', { name: 'Apply…' }).click();
    await page.waitForTimeout(300);
    await save('policy-diff');
    await page.getByRole('button', { name: 'Cancel' }).click();
    const retried = await until(
      async () => (await cluster.call('GET', '/traces?limit=200')).items.find((t) => t.attempts.length > 1),
      30_000,
      'a request that was tried twice',
    );
    await go(page, `/traces?trace=${retried.trace_id}`);
    await page.waitForTimeout(500);
    await save('trace');
    await context.close();

    const viewer = await open(browser, cluster, { theme, user: 'vera', path: '/services/default/orders?instance=orders-1' });
    await viewer.page.getByRole('button', { name: 'Drain', exact: true }).hover();
    await viewer.page.waitForTimeout(700);
    await viewer.page.screenshot({ path: `${OUT}state-viewer-${theme}.png` });
    await viewer.context.close();
  }
}

/** Last, for it kills two nodes of three. */
async function faults(browser, cluster) {
  const leader = await cluster.leader();
  const stays = (leader + 1) % 3;
  const opened = [];
  for (const theme of THEMES) opened.push([theme, await open(browser, cluster, { theme, node: stays, path: '/cluster' })]);
  const lost = await open(browser, cluster, { node: leader, path: '/services' });
  await lost.page.waitForTimeout(2_500);
  cluster.kill(leader);
  await lost.page.waitForTimeout(6_000);
  await lost.page.screenshot({ path: `${OUT}fault-node-lost-light.png` });
  cluster.kill((leader + 2) % 3);
  for (const [theme, { page }] of opened) {
    await page.getByText(/No leader\./).first().waitFor({ timeout: 30_000 });
    await page.waitForTimeout(1_000);
    await page.screenshot({ path: `${OUT}fault-no-leader-${theme}.png` });
  }
}

/** So long counts a call among those of the last minute, and some more. */
const MINUTE_MS = 65_000;

/** Each step of the incident, and the overview when all is mended. Prints the clicks and the time of each fault. */
async function incident(browser, cluster) {
  const seeded = await seedIncident(cluster);
  let over = false;
  const load = incidentTraffic(cluster, seeded.node, () => over);
  try {
    const { context, page } = await open(browser, cluster, { node: seeded.node, width: 1200, height: 760 });
    // The figures of a whole minute, so that all services have some.
    await page.waitForTimeout(MINUTE_MS / 2);
    const shot = async (name) => {
      await page.mouse.move(0, 0);
      await page.waitForTimeout(800);
      await page.screenshot({ path: `${OUT}incident-${name}.png` });
    };
    for (const { fault, clicks, ms } of await mendIncident(page, cluster, seeded, shot)) {
      console.log(`${fault}: ${clicks} clicks, ${(ms / 1000).toFixed(1)} s`);
    }
    await go(page, '/');
    await page.getByText('Nothing needs attention.').waitFor({ timeout: 3 * MINUTE_MS });
    await shot('mended');
    await context.close();
  } finally {
    over = true;
    await load;
  }
}

mkdirSync(OUT, { recursive: true });
const wanted = process.argv.slice(2);
const wants = (set) => wanted.length === 0 || wanted.includes(set);
const browser = await launch();
try {
  if (wants('none') || wants('normal')) {
    const cluster = await startCluster({ port: PORT });
    try {
      if (wants('none')) await shoot(browser, cluster, 'none', EMPTY);
      if (wants('normal')) {
        await seedNormal(cluster);
        await until(async () => (await cluster.call('GET', '/services/default/payments')).health !== 'healthy', 15_000, 'the prober').catch(
          (error) => console.warn(error.message),
        );
        await traffic(cluster, 6_000);
        let going = true;
        const load = (async () => {
          while (going) await traffic(cluster, 2_000);
        })();
        await shoot(browser, cluster, 'normal', NORMAL);
        await shoot(browser, cluster, 'normal', { overview: '/', services: '/services', cluster: '/cluster' }, { '4k': [3840, 2160] });
        await states(browser, cluster);
        going = false;
        await load;
        await faults(browser, cluster);
      }
    } finally {
      await cluster.stop();
    }
  }
  if (wants('incident')) {
    const cluster = await startCluster({ port: PORT + 20 });
    try {
      await incident(browser, cluster);
    } finally {
      await cluster.stop();
    }
  }
  if (wants('large')) {
    const cluster = await startCluster({ port: PORT + 10 });
    try {
      await seedLarge(cluster);
      await shoot(browser, cluster, 'large', LARGE);
    } finally {
      await cluster.stop();
    }
  }
} finally {
  await browser.close();
}
for (const [name, from] of Object.entries(README)) {
  if (existsSync(`${OUT}${from}.png`)) copyFileSync(`${OUT}${from}.png`, `${OUT}../${name}.png`);
}
