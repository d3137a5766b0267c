/**
 * Calls to single instances, from the latest requests of the serving node. The node keeps few requests, so the page
 * collects them while it is open. There are no sums per instance or version in the API.
 */
import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { clusterNow } from './clock';
import { tracesQuery } from './queries';
import type { TraceEntry } from './types';

export interface SeenCall {
  instance: string;
  at: number;
  ms: number;
  ok: boolean;
}

/** What some calls come to. */
export interface CallFigures {
  calls: number;
  /** The share of calls that succeeded; null without calls. */
  success: number | null;
  p50: number | null;
  p95: number | null;
}

/** For how long calls are kept. */
export const SEEN_MS = 900_000;
const SEEN_MAX = 5_000;
/** Figures of fewer calls say little. */
export const CALLS_MIN = 20;

/** The calls of one trace to the instances of its service. An attempt that lost against a hedged one counts nowhere. */
export function callsIn(trace: TraceEntry): SeenCall[] {
  return trace.attempts
    .filter((a) => a.error !== 'lost_hedge')
    .map((a) => ({ instance: a.instance, at: trace.time_ms, ms: a.duration_ms, ok: a.status !== null && a.status < 500 }));
}

export class SeenCalls {
  private readonly traces = new Map<string, SeenCall[]>();

  /** Adds the calls of new traces, and forgets old ones. */
  add(traces: readonly TraceEntry[], now: number): void {
    // The newest trace is first.
    for (const trace of [...traces].reverse()) {
      const key = `${trace.trace_id} ${trace.time_ms}`;
      if (!this.traces.has(key)) this.traces.set(key, callsIn(trace));
    }
    for (const [key, calls] of this.traces) {
      const old = (calls[0]?.at ?? 0) < now - SEEN_MS;
      if (!old && this.traces.size <= SEEN_MAX) break;
      this.traces.delete(key);
    }
  }

  all(): SeenCall[] {
    return [...this.traces.values()].flat();
  }
}

/** The value below or at which `share` of the sorted values are; null without values. */
export const quantileOf = (sorted: readonly number[], share: number): number | null => sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? null;

export function figuresOf(calls: readonly SeenCall[]): CallFigures {
  const ms = calls.map((c) => c.ms).sort((a, b) => a - b);
  const success = calls.length === 0 ? null : calls.filter((c) => c.ok).length / calls.length;
  return { calls: calls.length, success, p50: quantileOf(ms, 0.5), p95: quantileOf(ms, 0.95) };
}

/** The figures of each instance. */
export function byInstance(calls: readonly SeenCall[]): ReadonlyMap<string, CallFigures> {
  const groups = new Map<string, SeenCall[]>();
  for (const call of calls) {
    const own = groups.get(call.instance);
    if (own) own.push(call);
    else groups.set(call.instance, [call]);
  }
  return new Map([...groups].map(([id, of]) => [id, figuresOf(of)]));
}

const services = new Map<string, SeenCalls>();

/** The calls to the instances of a service that the page has seen. */
export function useSeenCalls({ namespace, name }: { namespace: string; name: string }): SeenCall[] {
  const { data } = useQuery(tracesQuery());
  return useMemo(() => {
    const key = `${namespace}/${name}`;
    const seen = services.get(key) ?? new SeenCalls();
    services.set(key, seen);
    seen.add((data ?? []).filter((t) => t.namespace === namespace && t.service === name && t.attempts.length > 0), clusterNow());
    return seen.all();
  }, [data, namespace, name]);
}
