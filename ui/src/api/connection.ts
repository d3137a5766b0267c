/**
 * The state of the page's connection to the cluster: the node that serves it, whether the watch stream
 * is open, how old the data is, and whether there is a leader. The client and the stream write it; the
 * banner and the top bar read it. It has no data of the registry.
 */
import { createStore } from './store';

export type StreamState = 'idle' | 'connecting' | 'live' | 'lost';

export interface Connection {
  /** Base URL of the node in use; empty for the node that served the page. */
  base: string;
  stream: StreamState;
  /** When the page last heard from a node, by the browser's clock. */
  heardAt: number;
  /** Since when the node in use does not answer, by the browser's clock; null if it does. */
  silentSince: number | null;
  /** Number of shown figures whose latest read failed, or has had no answer for two seconds. */
  failedReads: number;
  leader: 'known' | 'unknown';
  leaderLostAt: number | null;
  /** Maximum age of the state of the answering node, in milliseconds; null if the node does not know it. */
  stalenessMs: number | null;
  index: number;
  lastError: string | null;
}

export const connection = createStore<Connection>({
  base: '',
  stream: 'idle',
  heardAt: Date.now(),
  silentSince: null,
  failedReads: 0,
  leader: 'known',
  leaderLostAt: null,
  stalenessMs: 0,
  index: 0,
  lastError: null,
});

/** Data that is older than this counts as stale, in milliseconds. */
export const STALE_AFTER_MS = 5_000;

/** Stores the freshness headers of an answer. */
export function heard(headers: Headers): void {
  const now = Date.now();
  const index = Number(headers.get('x-maxine-index') ?? 0);
  const staleness = headers.get('x-maxine-staleness-ms');
  const leader = headers.get('x-maxine-leader') === 'unknown' ? 'unknown' : 'known';
  const tells = headers.has('x-maxine-leader');
  connection.set((c) => {
    const leaderNow = tells ? leader : c.leader;
    return {
      ...c,
      heardAt: now,
      silentSince: null,
      leader: leaderNow,
      leaderLostAt: leaderNow === 'known' ? null : (c.leaderLostAt ?? now),
      stalenessMs: tells ? (staleness === null ? null : Number(staleness)) : c.stalenessMs,
      index: Math.max(c.index, Number.isFinite(index) ? index : 0),
    };
  });
}

export type Staleness =
  | { kind: 'fresh' }
  /** Some figures could not be read. */
  | { kind: 'partly'; failedReads: number }
  | { kind: 'lost'; ageMs: number }
  | { kind: 'no-leader'; ageMs: number }
  | { kind: 'behind'; ageMs: number }
  | { kind: 'unknown' };

/** Whether the data on the page is current at `now`. */
export function stalenessOf(c: Connection, now: number): Staleness {
  if (c.stream === 'lost' || c.silentSince !== null) return { kind: 'lost', ageMs: Math.max(0, now - c.heardAt) };
  if (c.leader === 'unknown') {
    return { kind: 'no-leader', ageMs: Math.max(c.stalenessMs ?? 0, now - (c.leaderLostAt ?? now)) };
  }
  if (c.stalenessMs === null) return { kind: 'unknown' };
  if (c.stalenessMs > STALE_AFTER_MS) return { kind: 'behind', ageMs: c.stalenessMs };
  if (c.failedReads > 0) return { kind: 'partly', failedReads: c.failedReads };
  return { kind: 'fresh' };
}
