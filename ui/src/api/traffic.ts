/**
 * Traffic as all nodes counted it, and the serving node added it up. In steps of a few seconds, a node keeps one hour of
 * all traffic and 15 minutes of each service; in longer steps, a day. So a page that is opened now also shows the past.
 */
import { queryOptions } from '@tanstack/react-query';
import { call } from './client';
import { clusterNow } from './clock';
import type { AskedNode, ClusterTraffic, TrafficStep } from './types';

export type { TrafficStep };

export interface Traffic {
  stepMs: number;
  /** The time that was asked for, up to `nowMs`. */
  spanMs: number;
  /** The clock of the serving node when it answered. */
  nowMs: number;
  /** Steps without gaps, oldest first. The last one may be incomplete. */
  steps: TrafficStep[];
  /** The sum over the whole time. */
  total: TrafficStep;
  /** The nodes that were asked. What is said here is without those that did not answer. */
  nodes: readonly AskedNode[];
}

export interface Rate {
  at: number;
  value: number;
}

export const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;
/** A longer time has more steps, and each of them matters less. */
const everyMs = (spanMs: number): number => (spanMs > HOUR_MS ? 30_000 : spanMs > HOUR_MS / 4 ? 15_000 : 5_000);
/** A shorter part of a step says little about its rate. */
const PART_MIN_MS = 60_000;

/**
 * Steps without requests are not in the answer. The present step is left out if it has just begun, because it would look
 * like a drop.
 */
export function wholeSteps(view: Pick<ClusterTraffic, 'step_ms' | 'now_ms' | 'items'>, spanMs = HOUR_MS): TrafficStep[] {
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
  const none = { requests: 0, registrations: 0, lookups: 0, lookups_failed: 0, proxied: 0, proxied_failed: 0 };
  return { at_ms, ...none, p50_us: null, p95_us: null, p99_us: null };
}

type Times = Pick<Traffic, 'stepMs' | 'nowMs'>;
type Steps = Times & Pick<Traffic, 'steps'>;

/** When a step ended, or now if it has not. */
const endOf = (step: TrafficStep, { stepMs, nowMs }: Times) => Math.min(step.at_ms + stepMs, nowMs);

/** Values per second, each at the end of its step. */
export function rates(traffic: Steps, of: (step: TrafficStep) => number): Rate[] {
  return traffic.steps.map((step) => {
    const at = endOf(step, traffic);
    return { at, value: of(step) / ((at - step.at_ms) / 1000) };
  });
}

/** Latencies in milliseconds, for the steps that have one. */
export function latencies(traffic: Steps, of: (step: TrafficStep) => number | null): Rate[] {
  return traffic.steps.flatMap((step) => {
    const us = of(step);
    return us === null ? [] : [{ at: endOf(step, traffic), value: us / 1000 }];
  });
}

/** The share of proxied calls that succeeded, in percent, for the steps that have any. */
export function successes(traffic: Steps): Rate[] {
  return traffic.steps.flatMap((step) =>
    step.proxied === 0 ? [] : [{ at: endOf(step, traffic), value: 100 * (1 - step.proxied_failed / step.proxied) }],
  );
}

/** When the last step ended: the end of charts, also if nothing happened lately. */
export function endOfTraffic(traffic: Steps): number {
  const last = traffic.steps.at(-1);
  return last ? endOf(last, traffic) : traffic.nowMs;
}

export const calls = (step: TrafficStep): number => step.lookups + step.proxied;
export const failures = (step: TrafficStep): number => step.lookups_failed + step.proxied_failed;

/**
 * The traffic of the last `spanMs`. There are no events for counters, so they are read every few seconds while the page is
 * visible.
 */
export const trafficQuery = (spanMs: number, service?: { namespace: string; name: string }) => {
  const isDay = spanMs > HOUR_MS;
  const [namespace, name] = [service?.namespace ?? null, service?.name ?? null];
  return queryOptions({
    queryKey: ['traffic', spanMs, namespace, name] as const,
    queryFn: async ({ signal }): Promise<Traffic> => {
      const query = { namespace, service: name, range: isDay ? 'day' : undefined, since_ms: clusterNow() - spanMs };
      const { data } = await call<ClusterTraffic>('/cluster/traffic', { signal, query });
      const { step_ms: stepMs, now_ms: nowMs, total, nodes } = data;
      return { stepMs, spanMs, nowMs, steps: wholeSteps(data, spanMs), total, nodes };
    },
    refetchInterval: everyMs(spanMs),
    // Another range of the same service, until the new one is read. It says itself which one it is.
    placeholderData: (before, query) => (query?.queryKey[2] === namespace && query.queryKey[3] === name ? before : undefined),
  });
};
