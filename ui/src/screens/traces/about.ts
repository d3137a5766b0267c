/** What a traced request was about. Pure functions. */
import type { TraceEntry } from '../../api/types';

/** Whether a request was a caller's: a look-up, or a request that was forwarded to an instance. */
export function isCall(trace: Pick<TraceEntry, 'kind'>): boolean {
  return trace.kind === 'lookup' || trace.kind === 'proxied';
}

/** Whether a trace is a caller's request to the service, and not a request about it. */
export function isAbout(trace: TraceEntry, namespace: string, service: string): boolean {
  return isCall(trace) && trace.namespace === namespace && trace.service === service;
}

export const KINDS: Record<TraceEntry['kind'], string> = {
  lookup: 'look-up',
  proxied: 'proxied',
  registration: 'registration',
  other: 'API',
};
