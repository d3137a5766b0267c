/** Relative times that are updated while the page is open. */
import { useSyncExternalStore } from 'react';
import { clusterNow } from '../api/clock';
import { iso, moment, relative } from './format';

let tick = Date.now();
let now = clusterNow();
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | null = null;

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    tick = Date.now();
    now = clusterNow();
    for (const one of listeners) one();
  }, 1000);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0 && timer) {
      clearInterval(timer);
      timer = null;
    }
  };
}

/** The present time of the cluster, updated once a second. All components share one timer. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => now);
}

/** The present time of the browser's clock, updated once a second, for what this page itself has timed. */
export function useOwnNow(): number {
  return useSyncExternalStore(subscribe, () => tick);
}

/** A time that has passed. If the clocks of two nodes differ, it never lies ahead. */
export function Ago({ at }: { at: number }) {
  const now = useNow();
  return (
    <time dateTime={iso(at)} title={iso(at)}>
      {relative(at, Math.max(now, at))}
    </time>
  );
}

/** A time that may lie ahead, such as the end of a lifetime. */
export function Until({ at }: { at: number }) {
  const now = useNow();
  return (
    <time dateTime={iso(at)} title={iso(at)}>
      {relative(at, now)}
    </time>
  );
}

export function At({ at }: { at: number }) {
  return (
    <time dateTime={iso(at)} title={iso(at)} className="num">
      {moment(at)}
    </time>
  );
}
