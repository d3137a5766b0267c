/**
 * Asks the node in use once a second whether it still answers. A node that hangs keeps its connections open, so the
 * watch stream alone would notice only after its next comment is overdue.
 */
import { call } from './client';
import { connection } from './connection';

const EVERY_MS = 1_000;
/** With the interval, this is less than the 3 s within which the page must tell that a node is silent. */
const LIMIT_MS = 1_500;

/** Runs until the returned function is called. A hidden page asks nothing. */
export function keepPulse(): () => void {
  const timer = setInterval(() => {
    if (document.visibilityState === 'visible') void beat();
  }, EVERY_MS);
  return () => clearInterval(timer);
}

export async function beat(limitMs = LIMIT_MS): Promise<void> {
  const { base } = connection.get();
  const sentAt = Date.now();
  const silent = await call('/ready', { quiet: true, timeoutMs: limitMs }).then(
    () => false,
    // An answer with a problem is an answer, too.
    (error: { status?: number }) => !error.status,
  );
  connection.set((c) => {
    if (c.base !== base) return c;
    // Any other answer since then counts as well.
    if (!silent || c.heardAt > sentAt) return c.silentSince === null ? c : { ...c, silentSince: null };
    return { ...c, silentSince: c.silentSince ?? sentAt };
  });
}
