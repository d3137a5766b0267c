/** Judges services by the calls of the last minute through all nodes. Pure functions. */
import { bySeverity, byName } from './instances';
import type { ServiceCalls, ServiceHealth, ServiceSummary } from './types';

/** Each node counts the services that were called last, at most this many. With more, a service may be missing. */
export const SERVICES_COUNTED_MAX = 500;

/** With fewer proxied calls, one accident would make a service fail. */
const CALLS_MIN = 3;
/** From this share of failed calls a service needs attention, if at least `FAILED_MIN` calls failed. */
const ERRORS_SHARE = 0.05;
const FAILED_MIN = 5;

/**
 * The health of a service in one word. `failing`: its probes may be good, but no proxied call succeeds. `degraded`: some
 * instances get no traffic, or many proxied calls fail.
 */
export type ServiceState = ServiceHealth | 'failing';

export type CallsOf = ReadonlyMap<string, ServiceCalls>;

export const callsOf = (s: { namespace: string; name: string }, calls: CallsOf | undefined): ServiceCalls | undefined =>
  calls?.get(`${s.namespace}/${s.name}`);

export function isFailing(calls: ServiceCalls | undefined): boolean {
  return calls !== undefined && calls.proxied >= CALLS_MIN && calls.proxied_failed === calls.proxied;
}

/** Whether many proxied calls fail, or all of them. */
export function hasErrors(calls: ServiceCalls | undefined): boolean {
  if (!calls) return false;
  return isFailing(calls) || (calls.proxied_failed >= FAILED_MIN && calls.proxied_failed >= calls.proxied * ERRORS_SHARE);
}

export function stateOfService(s: ServiceSummary, calls: CallsOf | undefined): ServiceState {
  const own = callsOf(s, calls);
  // What has no instance that gets traffic is down, which says more.
  if (s.health !== 'down' && isFailing(own)) return 'failing';
  // Good probes do not make a service serve well whose calls fail.
  return s.health === 'healthy' && hasErrors(own) ? 'degraded' : s.health;
}

/** The share of proxied calls that succeeded; null without calls. */
export function successOf(calls: ServiceCalls | undefined): number | null {
  return !calls || calls.proxied === 0 ? null : 1 - calls.proxied_failed / calls.proxied;
}

export function needsAttention(s: ServiceSummary, calls: CallsOf | undefined): boolean {
  return s.health !== 'healthy' || s.no_traffic.unhealthy + s.no_traffic.evicted > 0 || hasErrors(callsOf(s, calls));
}

/** The worst first: what fails every call, then what is down or degraded, then what fails some calls. */
export function byUrgency(calls: CallsOf | undefined) {
  const rank = (s: ServiceSummary) => {
    const own = callsOf(s, calls);
    return isFailing(own) ? 0 : s.health === 'down' ? 1 : s.health === 'degraded' ? 2 : hasErrors(own) ? 3 : 4;
  };
  return (a: ServiceSummary, b: ServiceSummary) => rank(a) - rank(b) || bySeverity(a, b);
}

export const ORDERS = {
  severity: 'Worst first',
  name: 'By name',
  traffic: 'Most calls',
  success: 'Lowest success',
  p95: 'Slowest (p95)',
} as const;

export type Order = keyof typeof ORDERS;

export function byOrder(order: Order, calls: CallsOf | undefined): (a: ServiceSummary, b: ServiceSummary) => number {
  if (order === 'severity') return byUrgency(calls);
  if (order === 'name') return byName;
  const value = (s: ServiceSummary) => {
    const own = callsOf(s, calls);
    if (order === 'traffic') return own ? -(own.lookups + own.proxied) : 1;
    if (order === 'success') return successOf(own) ?? 2;
    return own?.p95_us == null ? 1 : -own.p95_us;
  };
  return (a, b) => value(a) - value(b) || byName(a, b);
}
