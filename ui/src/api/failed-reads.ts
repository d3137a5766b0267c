/**
 * Counts the figures on the page that are not current, because their latest read failed or has had no answer for too
 * long. The top bar says so.
 */
import type { Query, QueryClient } from '@tanstack/react-query';
import { connection } from './connection';
import { Problem } from './problem';

/** A read of something that is shown counts as failed if it has had no answer for this long, in milliseconds. */
export const OVERDUE_MS = 2_000;
/** With `OVERDUE_MS`, this is less than the 3 s within which the page must tell that a read failed. */
const LOOK_EVERY_MS = 500;

/** Runs until the returned function is called. */
export function countFailedReads(queries: QueryClient): () => void {
  const cache = queries.getQueryCache();
  const begun = new Map<string, number>();
  const count = () => {
    const failedReads = cache.getAll().filter((query) => failed(query) || overdue(query, begun.get(query.queryHash))).length;
    connection.set((c) => (c.failedReads === failedReads ? c : { ...c, failedReads }));
  };
  const unsubscribe = cache.subscribe(({ query, type }) => {
    if (type === 'removed' || query.state.fetchStatus !== 'fetching') begun.delete(query.queryHash);
    else if (!begun.has(query.queryHash)) begun.set(query.queryHash, Date.now());
    count();
  });
  const timer = setInterval(() => begun.size > 0 && count(), LOOK_EVERY_MS);
  return () => {
    unsubscribe();
    clearInterval(timer);
  };
}

/** Whether the node did not answer, or answered that it cannot. */
function failed(query: Query): boolean {
  const error = query.state.error ?? query.state.fetchFailureReason;
  return query.isActive() && error !== null && (!(error instanceof Problem) || error.status === 0 || error.status >= 500);
}

/** Whether what is shown is waiting for a newer answer. Where nothing is shown yet, nothing is out of date. */
function overdue(query: Query, begunAt: number | undefined): boolean {
  const shown = query.isActive() && query.state.data !== undefined && query.meta?.slow !== true;
  return shown && begunAt !== undefined && Date.now() - begunAt >= OVERDUE_MS;
}
