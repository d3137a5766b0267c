/** Instances, services and a scripted `fetch` for component tests. End-to-end tests use a real cluster. */
import { Tooltip } from '@base-ui/react/tooltip';
import { QueryClientProvider } from '@tanstack/react-query';
import { render } from '@testing-library/react';
import type { ReactNode } from 'react';
import { vi } from 'vitest';
import { newQueryClient } from '../src/app/app';
import { session } from '../src/api/session';
import type { Instance, Role, Service } from '../src/api/types';
import { Toasts } from '../src/parts/toast';

export function instance(change: Partial<Instance> = {}): Instance {
  return {
    namespace: 'default',
    service: 'orders',
    id: 'orders-1',
    address: 'http://10.0.0.1:8080',
    scheme: 'http',
    host: '10.0.0.1',
    port: 8080,
    base_path: null,
    weight: 1,
    ttl_ms: 10_000,
    permanent: false,
    zone: 'eu-1a',
    version: '1.4.0',
    node: null,
    tags: [],
    metadata: {},
    probe: null,
    checks: [],
    routable: true,
    health: { readiness: 'ready', liveness: 'alive', reason: '', since_ms: 1_700_000_000_000, flap_score: 0 },
    drain: null,
    lease_epoch: 17,
    registered_at_ms: 1_700_000_000_000,
    modified_index: 19,
    ...change,
  };
}

export function service(change: Partial<Service> = {}): Service {
  return {
    namespace: 'default',
    name: 'orders',
    health: 'healthy',
    instances: 3,
    routable: 3,
    unhealthy: 0,
    evicted: 0,
    draining: 0,
    no_traffic: { drained: 0, evicted: 0, unhealthy: 0, no_share: 0 },
    strategy: 'round_robin',
    panic_mode: false,
    kept_drains: [],
    policy_revision: null,
    modified_index: 21,
    policy: null,
    ...change,
  };
}

export interface Asked {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: Headers;
  body: unknown;
}

/** Answers by method and path; what is not scripted is 404. Returns what was asked. */
export function scriptFetch(routes: Record<string, (asked: Asked) => unknown>): Asked[] {
  const asked: Asked[] = [];
  vi.stubGlobal('fetch', async (input: string, init: RequestInit = {}) => {
    const url = new URL(input, 'http://maxine.test');
    const one: Asked = {
      method: init.method ?? 'GET',
      path: url.pathname.replace('/api/v1', ''),
      query: url.searchParams,
      headers: new Headers(init.headers),
      body: typeof init.body === 'string' ? JSON.parse(init.body) : null,
    };
    asked.push(one);
    const route = routes[`${one.method} ${one.path}`];
    const answer = route ? await route(one) : problem(404, 'not-found', 'there is nothing here');
    if (answer instanceof Response) return answer;
    return Response.json(answer, { headers: { 'x-maxine-index': '21', 'x-maxine-leader': 'known' } });
  });
  return asked;
}

export function problem(status: number, kind: string, detail: string): Response {
  const body = { type: `/problems/${kind}`, title: 'Refused', status, detail, action: 'Look again.' };
  return Response.json(body, { status, headers: { 'content-type': 'application/problem+json' } });
}

export function actAs(role: Role): void {
  session.set({ phase: 'signed-in', me: { user: 'ada', role, expires_at_ms: null, via: 'session' } });
}

export function show(children: ReactNode) {
  const queries = newQueryClient();
  queries.setDefaultOptions({ queries: { retry: false } });
  const view = render(
    <QueryClientProvider client={queries}>
      <Tooltip.Provider>
        {children}
        <Toasts />
      </Tooltip.Provider>
    </QueryClientProvider>,
  );
  return { ...view, queries };
}
