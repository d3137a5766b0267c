/**
 * Traffic as a node counted it. In steps of a few seconds, it keeps one hour for itself and 15 minutes for each
 * service; in longer steps, a day. So a page that is opened now also shows the past.
 */
import { queryOptions } from '@tanstack/react-query';
import { call } from './client';
import type { TrafficStep, TrafficView } from './types';

export type { TrafficStep };

/** Which steps are read: the recent short ones, or those of a day. */
export type TrafficRange = 'recent' | 'day';

export interface Traffic {
  stepMs: number;
  /** The node's clock when it answered. */
  nowMs: number;
  /** Steps without gaps, oldest first. The last one may be incomplete. */
  steps: TrafficStep[];
  /** The sum over the whole time. */
  total: TrafficStep;
}

export interface Rate {
  at: number;
  value: number;
}

export const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;
const EVERY_MS: Record<TrafficRange, number> = { recent: 5_000, day: 30_000 };
/** A shorter part of a step says little about its rate. */
const PART_MIN_MS = 60_000;

/**
 * Steps without requests are not in the answer. The present step is left out if it has just begun, because it would look
 * like a drop.
 */
export function wholeSteps(view: Pick<TrafficView, 'step_ms' | 'now_ms' | 'items'>, spanMs = HOUR_MS): TrafficStep[] {
  const first = view.items[0];
  if (!first) return [];
  const known = new Map(view.items.map((step) => [step.at_ms, step]));
  const out: TrafficStep[] = [];
  const end = view.now_ms - Math.min(view.step_ms, PART_MIN_MS);
  const earliest = Math.ceil((view.now_ms - spanMs) / view.step_ms) * view.step_ms;
  for (let at = Math.max(first.at_ms, earliest); at <= end; at += view.step_ms) {
    out.push(known.get(at) ?? nothing(at));
  }
  return out;
}

function nothing(at_ms: number): TrafficStep {
  const none = { requests: 0, lookups: 0, proxied: 0, failed: 0, proxied_failed: 0, registrations: 0 };
  return { at_ms, ...none, p50_us: null, p95_us: null, p99_us: null };
}

/** When a step ended, or now if it has not. */
const endOf = (step: TrafficStep, { stepMs, nowMs }: Traffic) => Math.min(step.at_ms + stepMs, nowMs);

/** Values per second, each at the end of its step. */
export function rates(traffic: Traffic, of: (step: TrafficStep) => number): Rate[] {
  return traffic.steps.map((step) => {
    const at = endOf(step, traffic);
    return { at, value: of(step) / ((at - step.at_ms) / 1000) };
  });
}

/** Latencies in milliseconds, for the steps that have one. */
export function latencies(traffic: Traffic, of: (step: TrafficStep) => number | null): Rate[] {
  return traffic.steps.flatMap((step) => {
    const us = of(step);
    return us === null ? [] : [{ at: endOf(step, traffic), value: us / 1000 }];
  });
}

/** When the last step ended: the end of charts, also if nothing happened lately. */
export function endOfTraffic(traffic: Traffic): number {
  const last = traffic.steps.at(-1);
  return last ? endOf(last, traffic) : traffic.nowMs;
}

export const calls = (step: TrafficStep): number => step.lookups + step.proxied;

/** There are no events for counters, so they are read every few seconds while the page is visible. */
export const trafficQuery = (range: TrafficRange, service?: { namespace: string; name: string }) =>
  queryOptions({
    queryKey: ['traffic', range, service?.namespace ?? null, service?.name ?? null] as const,
    queryFn: async ({ signal }): Promise<Traffic> => {
      const of = service ? { namespace: service.namespace, service: service.name } : {};
      const { data } = await call<TrafficView>('/traffic', { signal, query: { ...of, range: range === 'day' ? range : undefined } });
      const steps = wholeSteps(data, range === 'day' ? DAY_MS : HOUR_MS);
      return { stepMs: data.step_ms, nowMs: data.now_ms, steps, total: data.total };
    },
    refetchInterval: EVERY_MS[range],
  });
