/** Relative times that are updated while the page is open. */
import { useSyncExternalStore } from 'react';
import { iso, moment, relative } from './format';

let tick = Date.now();
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | null = null;

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    tick = Date.now();
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

/** The present time, updated once a second. All components share one timer. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => tick);
}

export function Ago({ at }: { at: number }) {
  const now = useNow();
  return (
    <time dateTime={iso(at)} title={iso(at)}>
      {relative(at, Math.max(now, at))}
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
