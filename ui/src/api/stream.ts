/**
 * Keeps one watch stream open while someone is signed in. It reconnects at the last position, and moves
 * to another node when the present one is silent. It forwards changes and does not interpret them.
 */
import { apiUrl, credentialsFor } from './client';
import { connection, heard } from './connection';
import { knownBases } from './peers';
import { bearerToken, sessionEnded } from './session';
import { readSse } from './sse';
import type { Change } from './types';

/** After this time without data the stream counts as lost, in milliseconds. The server sends a comment every 10 s. */
const SILENCE_MS = 25_000;
const CONNECT_MS = 4_000;
const BACKOFF_MIN_MS = 250;
const BACKOFF_MAX_MS = 5_000;
/** If the node has not answered any request for this long, the stream counts as lost, in milliseconds. */
const SILENT_NODE_MS = 3_000;
/** After this many failures in a row the page moves to another node. */
const FAILURES_UNTIL_MOVE = 2;

/** The position of a stream: the id from which to resume, which names the history, and the index in it. */
interface Place {
  id: string;
  index: number;
}

export interface StreamHandler {
  change(change: Change): void;
  /** The stream has reached `index`; `gap` if changes before it may have been missed. */
  ready(index: number, gap: boolean): void;
}

/** Runs until `signal` aborts. */
export async function followChanges(handler: StreamHandler, signal: AbortSignal): Promise<void> {
  let last: Place | null = null;
  let failures = 0;
  while (!signal.aborted) {
    const base = connection.get().base;
    connection.set((c) => ({ ...c, stream: c.stream === 'lost' ? 'lost' : 'connecting' }));
    try {
      const from: Place | null = last;
      last = await one(base, from, handler, signal, () => {
        failures = 0;
      });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof StreamRefused && error.status === 401) {
        connection.set((c) => ({ ...c, stream: 'idle' }));
        sessionEnded();
        return;
      }
      if (error instanceof StreamRefused && error.status === 410) last = null;
      else last = error instanceof StreamBroke ? (error.last ?? last) : last;
      failures += 1;
      const text = error instanceof Error ? error.message : String(error);
      connection.set((c) => ({ ...c, stream: 'lost', lastError: text }));
      if (failures >= FAILURES_UNTIL_MOVE) moveOn(base);
    }
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(failures, 6));
    await pause(ceiling * (0.5 + Math.random() / 2), signal);
  }
}

class StreamRefused extends Error {
  constructor(readonly status: number) {
    super(`the node refused the stream with status ${status}`);
  }
}

class StreamBroke extends Error {
  constructor(
    readonly last: Place | null,
    cause: unknown,
  ) {
    super(cause instanceof Error ? cause.message : 'the stream broke');
  }
}

async function one(
  base: string,
  from: Place | null,
  handler: StreamHandler,
  signal: AbortSignal,
  connected: () => void,
): Promise<Place | null> {
  const access = credentialsFor(base);
  const own = new AbortController();
  const stop = () => own.abort();
  signal.addEventListener('abort', stop);
  const unsubscribe = connection.subscribe(() => {
    const { silentSince } = connection.get();
    if (silentSince !== null && Date.now() - silentSince > SILENT_NODE_MS) stop();
  });
  const connecting = setTimeout(stop, CONNECT_MS);
  let last = from;
  try {
    const response = await fetch(apiUrl('/watch', { index: from?.id }, base), {
      headers: { accept: 'text/event-stream', ...access.headers },
      credentials: access.credentials,
      cache: 'no-store',
      signal: own.signal,
    });
    clearTimeout(connecting);
    if (!response.ok) throw new StreamRefused(response.status);
    heard(response.headers);
    connected();
    for await (const message of readSse(response, own.signal, SILENCE_MS)) {
      connection.set((c) => alive(c));
      if (message.event === 'comment') continue;
      if (message.event === 'compacted') return null;
      const data = JSON.parse(message.data) as Change;
      const place = { id: message.id || String(data.index), index: data.index };
      if (message.event === 'ready') {
        handler.ready(data.index, from === null || data.index < from.index);
        if (last === null || last.index < data.index) last = place;
      } else {
        last = place;
        handler.change(data);
      }
    }
    // The server ends streams regularly. The next one continues where this one stopped.
    return last;
  } catch (error) {
    if (error instanceof StreamRefused) throw error;
    throw new StreamBroke(last, error);
  } finally {
    clearTimeout(connecting);
    unsubscribe();
    signal.removeEventListener('abort', stop);
    own.abort();
  }
}

function alive(c: ReturnType<typeof connection.get>) {
  const now = Date.now();
  // The age is updated at most twice a second. More often would only cause needless rendering.
  if (c.stream === 'live' && now - c.heardAt < 500) return c;
  return { ...c, stream: 'live' as const, heardAt: now, silentSince: null, lastError: null };
}

/** Moves to the next node. Without a bearer token no other node would accept the page. */
function moveOn(from: string): void {
  const bases = knownBases().filter((base) => base === '' || bearerToken() !== null);
  if (bases.length < 2) return;
  const next = bases[(bases.indexOf(from) + 1) % bases.length] ?? '';
  connection.set((c) => (c.base === from ? { ...c, base: next, silentSince: null } : c));
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
