// Lighthouse on the sign-in page and the overview of a real node. It prints a table for docs/reference/ui-performance.md and
// what lost points.
//   npm run lighthouse
// npx fetches Lighthouse (Apache-2.0), because it has many dependencies and is run seldom.
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';
import { signIn } from './browser.mjs';
import { startCluster } from './cluster.mjs';
import { seedNormal, traffic } from './seed.mjs';

const LIGHTHOUSE = 'lighthouse@12.8.2';
const RUNS = Number(process.env.RUNS ?? 3);
const CATEGORIES = ['performance', 'accessibility', 'best-practices'];
/** What Lighthouse calls mobile: a slow phone with 4G, which it computes from the load on this machine. */
const FORMS = { desktop: ['--preset=desktop'], phone: [] };
const TIMES = { 'first-contentful-paint': 'first paint', 'largest-contentful-paint': 'largest paint', 'total-blocking-time': 'blocked' };

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const dir = mkdtempSync(join(tmpdir(), 'maxine-lighthouse-'));
const port = await freePort();
const run = promisify(execFile);

/** One report. The profile keeps its session, so the page is the one that is signed in. */
async function measure(url, form) {
  const report = join(dir, 'report.json');
  await run(
    'npx',
    [
      '--yes', LIGHTHOUSE, url, `--port=${port}`, '--disable-storage-reset', '--output=json', `--output-path=${report}`, '--quiet',
      '--no-enable-error-reporting', `--only-categories=${CATEGORIES}`, ...FORMS[form],
    ],
    { timeout: 300_000, maxBuffer: 1 << 26 },
  );
  return JSON.parse(readFileSync(report, 'utf8'));
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];

/** A line of the table: the medians of the runs. */
function row(page, form, reports) {
  const scores = CATEGORIES.map((name) => median(reports.map((r) => Math.round(r.categories[name].score * 100))));
  const times = Object.keys(TIMES).map((id) => `${(median(reports.map((r) => r.audits[id].numericValue)) / 1000).toFixed(2)} s`);
  return `| ${[`${page}, ${form}`, ...scores, ...times].join(' | ')} |`;
}

/** The audits that lost points in any run. */
function lost(reports) {
  const found = new Set();
  for (const report of reports) {
    for (const name of CATEGORIES) {
      for (const { id, weight } of report.categories[name].auditRefs) {
        const { score, title, displayValue = '', details } = report.audits[id];
        if (weight === 0 || score === null || score >= 0.9) continue;
        const nodes = (details?.items ?? []).flatMap((item) => item.node?.selector ?? item.description ?? []).slice(0, 3);
        found.add(`${name}: ${id}: ${title} ${displayValue} ${nodes.join(' | ')}`.trim());
      }
    }
  }
  return [...found];
}

const cluster = await startCluster({ port: Number(process.env.MAXINE_E2E_PORT ?? 18800) });
let context;
try {
  await seedNormal(cluster, { healthy: true });
  await traffic(cluster, 5_000);
  context = await chromium.launchPersistentContext(join(dir, 'profile'), {
    executablePath: process.env.CHROMIUM_BIN ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', `--remote-debugging-port=${port}`],
  });
  const url = `${cluster.nodes[0].http}/`;
  const rows = [];
  const measured = async (page, expected) => {
    for (const form of Object.keys(FORMS)) {
      const reports = [];
      for (let n = 0; n < RUNS; n += 1) reports.push(await measure(url, form));
      rows.push(row(page, form, reports));
      for (const text of lost(reports)) console.log(`${page}, ${form}: ${text}`);
      rows.environment = `${reports[0].lighthouseVersion}, ${reports[0].environment.hostUserAgent}, CPU index ${median(reports.map((r) => r.environment.benchmarkIndex))}`;
    }
    // What was measured is the page that was meant.
    const tab = await context.newPage();
    await tab.goto(url);
    await expected(tab).waitFor();
    await tab.close();
  };
  await measured('sign-in', (page) => page.getByLabel('User name'));
  const tab = await context.newPage();
  await tab.goto(url);
  await signIn(tab, 'admin', cluster.password);
  await tab.close();
  await measured('overview', (page) => page.getByRole('heading', { name: 'Overview' }));
  console.log(`Lighthouse ${rows.environment}; medians of ${RUNS} runs`);
  console.log(`| page | ${[...CATEGORIES, ...Object.values(TIMES)].join(' | ')} |`);
  console.log(`| --- |${' --- |'.repeat(CATEGORIES.length + Object.keys(TIMES).length)}`);
  for (const line of rows) console.log(line);
} finally {
  await context?.close();
  await cluster.stop();
  rmSync(dir, { recursive: true, force: true });
}
