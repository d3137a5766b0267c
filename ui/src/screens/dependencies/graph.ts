/** Builds the graph of calls from the events and traces of one node. Pure functions. */
import type { TraceEntry } from '../../api/types';
import { quantileOf } from '../../api/seen-calls';
import { isCall } from '../traces/about';

/** An event of the compatible audit feed, with the fields that the graph needs. */
export interface LookupEvent {
  timestamp: string;
  type: string;
  outcome: string;
  serviceName?: string;
  nodeName?: string;
  address?: string;
  traceId?: string;
}

export interface Edge {
  /** The caller's address, without its port. */
  caller: string;
  /** The kinds of the calls: forwarded by the proxy, or looked up. */
  vias: Set<Via>;
  namespace: string;
  service: string;
  calls: number;
  failed: number;
  /** Durations of proxied calls in milliseconds. Look-ups take no time in comparison. */
  durations: number[];
  /** Number of calls by instance, if it is known. */
  targets: Map<string, number>;
}

export type Via = 'Proxy' | 'Look-up';

export function edgesOf(traces: readonly TraceEntry[], events: readonly LookupEvent[]): Edge[] {
  const edges = new Map<string, Edge>();
  const edge = (caller: string, namespace: string, service: string) => {
    const key = `${caller}\n${namespace}\n${service}`;
    let found = edges.get(key);
    if (!found) {
      found = { caller, vias: new Set(), namespace, service, calls: 0, failed: 0, durations: [], targets: new Map() };
      edges.set(key, found);
    }
    return found;
  };
  const lookups = new Map<string, Edge>();
  for (const t of traces) {
    if (!isCall(t) || t.namespace === null || t.service === null) continue;
    const e = edge(hostOf(t.client), t.namespace, t.service);
    e.vias.add(t.kind === 'proxied' ? 'Proxy' : 'Look-up');
    for (const { instance } of t.attempts) e.targets.set(instance, (e.targets.get(instance) ?? 0) + 1);
    if (t.kind === 'lookup') lookups.set(t.trace_id, e);
    e.calls += 1;
    if (t.status >= 500) e.failed += 1;
    if (t.kind === 'proxied') e.durations.push(t.duration_ms);
  }
  for (const event of events) {
    if (!event.serviceName || !event.address) continue;
    if (event.type !== 'discovery.lookup') continue;
    const e = lookups.get(event.traceId ?? '');
    const target = instanceOf(event);
    e?.targets.set(target, (e.targets.get(target) ?? 0) + 1);
  }
  return [...edges.values()].sort((a, b) => b.calls - a.calls);
}

/** An address without its port, because a caller has a new port for each connection. */
export function hostOf(client: string | null | undefined): string {
  if (!client) return 'unknown caller';
  const bracketed = /^\[([^\]]+)\]/.exec(client)?.[1];
  return bracketed ?? (client.split(':').length === 2 ? (client.split(':')[0] ?? client) : client);
}

/** The name of the instance. Events name virtual nodes, whose names are that of the instance and a number. */
function instanceOf(event: LookupEvent): string {
  return event.nodeName?.replace(/-\d+$/, '') || originOf(event.address ?? '');
}

/** The part of a full URL that identifies the instance. */
export function originOf(address: string): string {
  try {
    return new URL(address).origin;
  } catch {
    return address;
  }
}

/** With less time, a rate says little, in milliseconds. */
const SPAN_MIN_MS = 10_000;

/** The time that `traces` cover of the last `rangeMs`: before the oldest of them, nothing is known. In milliseconds. */
export function covered(traces: readonly TraceEntry[], now: number, rangeMs: number): number {
  const oldest = traces.reduce((at, t) => Math.min(at, t.time_ms), now);
  return Math.max(SPAN_MIN_MS, Math.min(rangeMs, now - oldest));
}

/** What an edge comes to: its rate, its success, and its latency. */
export function figuresOfEdge(edge: Edge, spanMs: number): { perS: number; success: number; p50: number | null; p95: number | null } {
  const sorted = [...edge.durations].sort((a, b) => a - b);
  const success = 1 - share(edge.failed, edge.calls);
  return { perS: (edge.calls * 1000) / spanMs, success, p50: quantileOf(sorted, 0.5), p95: quantileOf(sorted, 0.95) };
}

export function share(failed: number, calls: number): number {
  return calls === 0 ? 0 : failed / calls;
}
