/**
 * Traffic as a node counted it, in steps of a few seconds. The node keeps one hour for itself and 15
 * minutes for each service, so a page that is opened now also shows the past.
 */
import { queryOptions } from '@tanstack/react-query';
import { call } from './client';
import type { TrafficStep, TrafficView } from './types';

export type { TrafficStep };

export interface Traffic {
  stepMs: number;
  /** Complete steps without gaps, oldest first. */
  steps: TrafficStep[];
  /** The sum over the whole time. */
  total: TrafficStep;
}

export interface Rate {
  at: number;
  value: number;
}

const EVERY_MS = 5_000;
const HOUR_MS = 3_600_000;

/** Steps without requests are not in the answer. The present step is left out, because it would look like a drop. */
export function wholeSteps(view: Pick<TrafficView, 'step_ms' | 'now_ms' | 'items'>): TrafficStep[] {
  const first = view.items[0];
  if (!first) return [];
  const known = new Map(view.items.map((step) => [step.at_ms, step]));
  const out: TrafficStep[] = [];
  const end = view.now_ms - view.step_ms;
  for (let at = Math.max(first.at_ms, view.now_ms - HOUR_MS); at <= end; at += view.step_ms) {
    out.push(known.get(at) ?? nothing(at));
  }
  return out;
}

function nothing(at_ms: number): TrafficStep {
  const none = { requests: 0, lookups: 0, proxied: 0, failed: 0, proxied_failed: 0, registrations: 0 };
  return { at_ms, ...none, p50_us: null, p95_us: null, p99_us: null };
}

/** Values per second, each at the end of its step. */
export function rates({ steps, stepMs }: Traffic, of: (step: TrafficStep) => number): Rate[] {
  return steps.map((step) => ({ at: step.at_ms + stepMs, value: of(step) / (stepMs / 1000) }));
}

/** Latencies in milliseconds, for the steps that have one. */
export function latencies({ steps, stepMs }: Traffic, of: (step: TrafficStep) => number | null): Rate[] {
  return steps.flatMap((step) => {
    const us = of(step);
    return us === null ? [] : [{ at: step.at_ms + stepMs, value: us / 1000 }];
  });
}

export const calls = (step: TrafficStep): number => step.lookups + step.proxied;

/** There are no events for counters, so they are read every few seconds while the page is visible. */
export const trafficQuery = (service?: { namespace: string; name: string }) =>
  queryOptions({
    queryKey: ['traffic', service?.namespace ?? null, service?.name ?? null] as const,
    queryFn: async ({ signal }): Promise<Traffic> => {
      const query = service ? { namespace: service.namespace, service: service.name } : {};
      const { data } = await call<TrafficView>('/traffic', { signal, query });
      return { stepMs: data.step_ms, steps: wholeSteps(data), total: data.total };
    },
    refetchInterval: EVERY_MS,
  });
