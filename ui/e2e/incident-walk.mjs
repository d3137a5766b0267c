// How somebody at the overview finds and mends the four faults of `seedIncident`, by the page alone, except for starting
// the dead node. The test and the screenshots share it.
import { go } from './browser.mjs';

/**
 * Walks the page. `shot(name)` is called at each step. Returns, for each fault, the clicks from the overview and the
 * time. What is counted: clicks, and choices in a list (two each).
 */
export async function mendIncident(page, cluster, { dead }, shot = async () => undefined) {
  const lost = `node-${cluster.nodes[dead].id}`;
  const parts = [];
  let clicks = 0;
  let since = Date.now();
  const click = async (locator) => {
    await locator.click();
    clicks += 1;
  };
  const mended = (fault) => {
    parts.push({ fault, clicks, ms: Date.now() - since });
    clicks = 0;
    since = Date.now();
  };
  const confirm = (name) => click(page.getByRole('alertdialog').getByRole('button', { name, exact: true }));
  const attention = (name) => page.locator('.panel', { hasText: 'Needs attention' }).getByRole('link', { name });

  await attention(/Degraded checkout/).waitFor();
  await attention(/pricing/).waitFor();
  await page.getByText(`${lost} unreachable`).first().waitFor();
  // Nothing in this list is green.
  await page.locator('.panel', { hasText: 'Needs attention' }).getByText('Serving').waitFor({ state: 'hidden' });
  await shot('overview');
  since = Date.now();

  await click(attention(/checkout/));
  const byInstance = page.getByRole('region', { name: 'Calls by instance' });
  await byInstance.getByRole('row', { name: /^checkout-2 \d+ 0\.0 %/ }).waitFor();
  await shot('failing-instance');
  await click(byInstance.getByRole('link', { name: 'checkout-2' }));
  await click(page.getByRole('button', { name: 'Drain', exact: true }));
  await shot('drain');
  await confirm('Drain');
  await page.getByText('checkout-2 is draining.').first().waitFor();
  mended('the instance that fails all calls is drained');

  await go(page, '/');
  since = Date.now();
  await click(attention(/pricing/));
  await click(page.getByRole('tab', { name: 'Policy' }));
  const history = page.getByRole('region', { name: 'History of the policy' });
  await history.getByRole('row', { name: /now.*olga.*response_ms.*to.*10/ }).waitFor();
  await history.scrollIntoViewIfNeeded();
  await shot('history');
  await click(history.getByRole('row', { name: /admin.*response_ms/ }).getByRole('button', { name: /^Roll back/ }));
  await shot('roll-back');
  await confirm('Roll back');
  await page.getByText(/Rolled back to revision/).first().waitFor();
  mended('the bad policy is rolled back');

  await go(page, '/');
  since = Date.now();
  await click(page.getByRole('navigation', { name: 'Screens' }).getByRole('link', { name: 'Services' }));
  await page.getByLabel('Order', { exact: true }).selectOption('p95');
  clicks += 2;
  await page.waitForFunction(() => /search/.test(document.querySelector('[data-row="0"]')?.innerText ?? ''));
  await shot('slowest');
  await click(page.getByRole('link', { name: 'search', exact: true }));
  await click(page.getByRole('tab', { name: 'Traffic' }));
  const versions = page.getByRole('region', { name: 'Versions' });
  // The page compares the calls that it sees: it waits for the first one of the new version.
  await versions.getByRole('row', { name: /^7\.1\.0 .* 100\.0 % \d+ ms/ }).waitFor();
  await shot('versions');
  await click(versions.getByRole('button', { name: 'Abort 7.1.0' }));
  await confirm('Abort');
  await page.getByText('Version 7.1.0 gets no traffic.').first().waitFor();
  mended('the slow version gets no traffic');

  await go(page, '/');
  since = Date.now();
  await click(page.getByRole('navigation', { name: 'Screens' }).getByRole('link', { name: 'Cluster' }));
  await page.getByRole('row', { name: new RegExp(lost) }).getByText('Unreachable').first().waitFor();
  await shot('cluster');
  await cluster.revive();
  await page.getByText('One more node can fail without loss of writes or service.').waitFor();
  mended('the dead node is named, and is back');
  return parts;
}
