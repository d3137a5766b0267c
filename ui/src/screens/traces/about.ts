/** Derives the service of a request from its path, because traces have no such field. Pure functions. */
import type { TraceEntry } from '../../api/types';

export interface Subject {
  namespace: string;
  service: string;
  via: 'proxy' | 'discover' | 'resolve' | 'registry';
}

export function subjectOf(path: string): Subject | null {
  const [route = '', query = ''] = path.split('?', 2);
  const parts = route.split('/').map(decoded);
  if (route.startsWith('/api/maxine/serviceops/proxy/') && parts[5]) {
    return { namespace: 'default', service: parts[5], via: 'proxy' };
  }
  if (/^\/api\/maxine\/serviceops\/discover\/?$/.test(route)) {
    const service = new URLSearchParams(query).get('serviceName');
    return service ? { namespace: 'default', service, via: 'discover' } : null;
  }
  if (parts[1] === 'api' && parts[2] === 'v1' && parts[4] && parts[5]) {
    const via = { resolve: 'resolve', proxy: 'proxy', services: 'registry' }[parts[3] ?? ''];
    if (via) return { namespace: parts[4], service: parts[5], via: via as Subject['via'] };
  }
  if (parts[1] === 'proxy' && parts[2] && parts[3]) return { namespace: parts[2], service: parts[3], via: 'proxy' };
  return null;
}

/** Whether a trace is a caller's request to the service, and not a request about it. */
export function isAbout(trace: TraceEntry, namespace: string, service: string): boolean {
  const subject = subjectOf(trace.path);
  return subject !== null && subject.via !== 'registry' && subject.namespace === namespace && subject.service === service;
}

/** Whether a request was a caller's request to a service, through the proxy, a redirect or resolve. */
export function isCall(trace: TraceEntry): boolean {
  const subject = subjectOf(trace.path);
  return subject !== null && subject.via !== 'registry';
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
