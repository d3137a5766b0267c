/**
 * Rates out of counters. A node's counters are read every few seconds while the page is seen and
 * kept for a quarter of an hour, in memory. What a counter said before this page was open is not
 * known here, and the screens say since when they count.
 */
import { send } from './client';
import { createStore } from './store';
import { parsePrometheus, total, type Sample } from './prometheus';

export interface Point {
  at: number;
  requests: number | null;
  discoveries: number | null;
  proxied: number | null;
  errors: number | null;
  registrations: number | null;
  checkFailures: number | null;
}

export interface Traffic {
  points: Point[];
  latest: Sample[];
  error: string | null;
}

export const SAMPLE_MS = 3_000;
const POINTS_MAX = (15 * 60_000) / SAMPLE_MS;

export const traffic = createStore<Traffic>({ points: [], latest: [], error: null });

const serverError = (labels: Sample['labels']) =>
  /^5/.test(labels.status ?? labels.code ?? labels.class ?? '') || labels.outcome === 'error';

export function pointOf(samples: readonly Sample[], at: number): Point {
  const errors =
    total(samples, 'maxine_proxy_requests_total', serverError) ??
    total(samples, 'maxine_http_responses_total', serverError) ??
    total(samples, 'maxine_proxy_errors_total');
  return {
    at,
    requests: total(samples, 'maxine_requests_total'),
    discoveries: total(samples, 'maxine_discoveries_total'),
    proxied: total(samples, 'maxine_proxied_requests_total'),
    errors,
    registrations: total(samples, 'maxine_registrations_total'),
    checkFailures: total(samples, 'maxine_health_check_failures_total'),
  };
}

export interface Rate {
  at: number;
  value: number;
}

/** Per second, between neighbouring points. A counter that went back (restart, other node) is a gap. */
export function rates(points: readonly Point[], of: (point: Point) => number | null): Rate[] {
  const out: Rate[] = [];
  for (let i = 1; i < points.length; i += 1) {
    const before = points[i - 1];
    const now = points[i];
    if (!before || !now) continue;
    const a = of(before);
    const b = of(now);
    const seconds = (now.at - before.at) / 1000;
    if (a === null || b === null || b < a || seconds <= 0 || seconds > 30) continue;
    out.push({ at: now.at, value: (b - a) / seconds });
  }
  return out;
}

/** The growth of a counter over all points, not counting resets. */
export function grown(points: readonly Point[], of: (point: Point) => number | null): number | null {
  let sum: number | null = null;
  for (let i = 1; i < points.length; i += 1) {
    const a = points[i - 1] && of(points[i - 1] as Point);
    const b = points[i] && of(points[i] as Point);
    if (typeof a !== 'number' || typeof b !== 'number') continue;
    sum = (sum ?? 0) + Math.max(0, b - a);
  }
  return sum;
}

/** Samples until `signal` aborts; pauses while the page is hidden. */
export function sampleTraffic(signal: AbortSignal): void {
  async function once() {
    if (document.hidden) return;
    try {
      const response = await send('/api/actuator/prometheus', { signal, headers: { accept: 'text/plain' } });
      const samples = parsePrometheus(await response.text());
      const point = pointOf(samples, Date.now());
      traffic.set((t) => ({ points: [...t.points.slice(1 - POINTS_MAX), point], latest: samples, error: null }));
    } catch (error) {
      if (signal.aborted) return;
      const text = error instanceof Error ? error.message : String(error);
      traffic.set((t) => ({ ...t, error: text }));
    }
  }
  async function loop() {
    while (!signal.aborted) {
      await once();
      await new Promise((resolve) => setTimeout(resolve, SAMPLE_MS));
    }
  }
  void loop();
}
