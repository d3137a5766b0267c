// Figures for docs/reference/ui-performance.md: first load, 5,000 services, 50,000 instances.
import { launch, open, prepare, settled, go } from './browser.mjs';
import { startCluster } from './cluster.mjs';
import { seedLarge } from './seed.mjs';

const cluster = await startCluster({ port: Number(process.env.MAXINE_E2E_PORT ?? 18600) });
const browser = await launch();

/** Scrolls a table for two seconds as fast as frames come; how long frames took. */
function scroll(page, label) {
  return page.evaluate(async (name) => {
    const box = document.querySelector(`[role=grid][aria-label="${name}"] .table-scroll`);
    const frames = [];
    const end = performance.now() + 2_000;
    let last = performance.now();
    while (performance.now() < end) {
      box.scrollTop += 400;
      if (box.scrollTop + box.clientHeight >= box.scrollHeight - 4) box.scrollTop = 0;
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      frames.push(now - last);
      last = now;
    }
    frames.sort((a, b) => a - b);
    const at = (share) => Number(frames[Math.floor(share * (frames.length - 1))].toFixed(1));
    return { frames: frames.length, half_ms: at(0.5), p95_ms: at(0.95), worst_ms: at(1), rows_in_document: box.querySelectorAll('[role=row]').length };
  }, label);
}

/** The sign-in on a link with 400 ms of latency and 50 KB/s, with an empty cache. */
async function slowLink() {
  const { context, page, goIn } = await prepare(browser, cluster, { user: null });
  const devtools = await context.newCDPSession(page);
  await devtools.send('Network.enable');
  await devtools.send('Network.emulateNetworkConditions', { offline: false, latency: 400, downloadThroughput: 50_000, uploadThroughput: 50_000 });
  const at = Date.now();
  await goIn();
  await page.getByLabel('User name').waitFor();
  const form = Date.now() - at;
  const paint = await page.evaluate(() => Math.round(performance.getEntriesByName('first-contentful-paint')[0].startTime));
  const sent = await page.evaluate(() => performance.getEntriesByType('resource').filter((r) => /index-/.test(r.name)).map((r) => `${r.name.split('/').at(-1)} ${Math.round(r.transferSize / 1024)} KiB`));
  console.log('400 ms and 50 KB/s', { first_contentful_paint_ms: paint, sign_in_form_ms: form, sent });
  await context.close();
}

try {
  const seeding = Date.now();
  await seedLarge(cluster, JSON.parse(process.env.MAXINE_LARGE ?? '{}'));
  console.log(`seeded in ${Date.now() - seeding} ms`);
  const first = await open(browser, cluster, { user: null });
  await first.page.getByLabel('User name').waitFor();
  console.log(
    'first load',
    await first.page.evaluate(() => {
      const paint = performance.getEntriesByName('first-contentful-paint')[0];
      const files = performance.getEntriesByType('resource').filter((r) => !r.name.includes('/api/'));
      return { first_contentful_paint_ms: Math.round(paint.startTime), files: files.length };
    }),
  );
  await first.context.close();
  await slowLink();
  const { page } = await open(browser, cluster, {});
  let at = Date.now();
  await go(page, '/services');
  await page.getByRole('row').nth(5).waitFor();
  console.log(`services shown after ${Date.now() - at} ms`);
  console.log('scrolling services', await scroll(page, 'Services'));
  at = Date.now();
  await page.getByRole('searchbox').fill('service-0042');
  await page.getByRole('link', { name: 'service-0042' }).waitFor();
  console.log(`search among them: ${Date.now() - at} ms`);
  at = Date.now();
  await go(page, '/services/default/biggest');
  await page.getByRole('row').nth(5).waitFor();
  console.log(`the biggest service shown after ${Date.now() - at} ms`);
  await settled(page);
  console.log('scrolling instances', await scroll(page, 'Instances of biggest'));
  const took = [];
  for (let i = 0; i < 7; i += 1) {
    const name = `aa-live-${i}`;
    await go(page, `/services?q=${name}`);
    await page.getByText('No services found.').waitFor();
    await page.evaluate((wanted) => {
      window.seenAt = null;
      new MutationObserver(() => {
        if (window.seenAt === null && document.querySelector('[role=grid]')?.innerText.includes(wanted)) window.seenAt = Date.now();
      }).observe(document.body, { subtree: true, childList: true });
    }, name);
    await cluster.call('PUT', `/services/default/${name}/instances/a`, { address: 'http://127.0.0.1:9', ttl_ms: 600_000 });
    const answered = Date.now();
    await page.waitForFunction(() => window.seenAt !== null);
    took.push((await page.evaluate(() => window.seenAt)) - answered);
  }
  console.log(`updates with everything held: ${took.join(', ')} ms`);
  console.log('memory', await page.evaluate(() => Math.round(performance.memory.usedJSHeapSize / 1024 / 1024)), 'MiB');
} finally {
  await browser.close();
  await cluster.stop();
}
