// What the end-to-end tests share: one cluster and one browser for each file, a page for each test
// that fails on any fault it showed, and a limit in time.
import assert from 'node:assert/strict';
import { after, before, test as nodeTest } from 'node:test';
import { keepPicture, launch, prepare } from './browser.mjs';

/** A test that takes longer hangs. Generous: there may be two cores, and others at work. */
const LIMIT_MS = 300_000;

export const test = (name, act) => nodeTest(name, { timeout: LIMIT_MS }, act);

/** Starts what `start` gives and a browser before the file's tests, and stops both after them. */
export function stage(start) {
  const on = { cluster: null, browser: null };
  before(
    async () => {
      on.cluster = await start();
      on.browser = await launch();
    },
    { timeout: LIMIT_MS },
  );
  after(
    async () => {
      await on.browser?.close();
      await on.cluster?.stop();
    },
    { timeout: 60_000 },
  );
  /** Runs `act` in a page of its own. */
  on.within = async (options, act) => {
    const opened = await prepare(on.browser, options.cluster ?? on.cluster, options);
    try {
      await opened.goIn();
      await act(opened.page, opened);
      assert.deepEqual(opened.faults, []);
    } catch (error) {
      await keepPicture(opened.page, `${options.path ?? 'page'} ${Date.now()}`);
      throw error;
    } finally {
      await opened.context.close();
    }
  };
  return on;
}

/** The time from a write's answer until the page shows `text`, in milliseconds. */
export async function latencyTo(page, text, write) {
  await page.evaluate((wanted) => {
    window.seenAt = null;
    const look = () => {
      if (window.seenAt === null && document.body.innerText.includes(wanted)) window.seenAt = Date.now();
    };
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
  }, text);
  await write();
  const at = Date.now();
  await page.waitForFunction(() => window.seenAt !== null, null, { timeout: 60_000 });
  return (await page.evaluate(() => window.seenAt)) - at;
}
