/** Derives the state of an instance from its data, without a request. Pure functions. */
import type { Instance, NoTraffic, ServiceSummary } from './types';

export type InstanceState = 'ready' | 'unknown' | 'unhealthy' | 'evicted' | 'draining';

export interface InstanceFilter {
  q?: string | undefined;
  health?: string | undefined;
}

/** One word for the state of an instance. Draining comes first, because an operator decided it. */
export function stateOf(instance: Pick<Instance, 'health' | 'drain'>): InstanceState {
  if (instance.drain) return 'draining';
  if (instance.health.liveness === 'evicted') return 'evicted';
  if (instance.health.readiness === 'not_ready') return 'unhealthy';
  return instance.health.readiness === 'ready' ? 'ready' : 'unknown';
}

export function routable(instance: Pick<Instance, 'health' | 'drain'>): boolean {
  const state = stateOf(instance);
  return state === 'ready' || state === 'unknown';
}

/** Whether an instance gets traffic although its checks fail, because its service is in panic mode. */
export function usedInPanic(instance: Pick<Instance, 'health' | 'drain' | 'routable'>): boolean {
  const state = stateOf(instance);
  return instance.routable && (state === 'evicted' || state === 'unhealthy');
}

/** Whether an instance belongs in a filtered list, by the same rules as on the server. */
export function matches(instance: Instance, filter: InstanceFilter): boolean {
  const { health, q } = filter;
  if (health === 'routable' && !instance.routable) return false;
  if (health === 'draining' && !instance.drain) return false;
  if (health === 'evicted' && instance.health.liveness !== 'evicted') return false;
  if (health === 'unhealthy') {
    const bad = instance.health.liveness === 'alive' && instance.health.readiness === 'not_ready';
    if (!bad) return false;
  }
  if (!q) return true;
  const needle = q.toLowerCase();
  return [instance.id, instance.address].some((text) => text.toLowerCase().includes(needle));
}

export function byKey(a: Instance, b: Instance): number {
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}

const SEVERITY = { down: 0, degraded: 1, healthy: 2 } as const;

/** Sorts services by health, the worst first, and then by name. */
export function bySeverity(a: ServiceSummary, b: ServiceSummary): number {
  return SEVERITY[a.health] - SEVERITY[b.health] || byName(a, b);
}

export function byName(a: ServiceSummary, b: ServiceSummary): number {
  if (a.namespace !== b.namespace) return a.namespace < b.namespace ? -1 : 1;
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

/** The number of instances that get traffic, and of those that do not, by the reason. Each instance counts once. */
export function partsOf(of: { routable: number; no_traffic: NoTraffic }) {
  const { drained, evicted, unhealthy, no_share } = of.no_traffic;
  return [
    { name: 'serving', n: of.routable, tone: 'good' },
    { name: 'unhealthy', n: unhealthy, tone: 'bad' },
    { name: 'draining', n: drained, tone: 'hold' },
    { name: 'evicted', n: evicted, tone: 'muted' },
    { name: 'without a share', n: no_share, tone: 'muted' },
  ];
}
