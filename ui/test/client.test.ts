import { QueryClient, QueryObserver } from '@tanstack/react-query';
import { describe, expect, it, vi } from 'vitest';
import * as actions from '../src/api/actions';
import { call, path } from '../src/api/client';
import { connection } from '../src/api/connection';
import { countFailedReads, OVERDUE_MS } from '../src/api/failed-reads';
import { Problem } from '../src/api/problem';
import { keepSession } from '../src/api/keep-session';
import { beat } from '../src/api/pulse';
import { callsQuery, leadershipQuery } from '../src/api/queries';
import { bearerToken, session, signedIn, signedOut } from '../src/api/session';
import { actAs, instance, problem, scriptFetch } from './fixture';

describe('requests', () => {
  it('escape every part of a path', () => {
    expect(path('services', 'a/b', '<script>', '...')).toBe('/services/a%2Fb/%3Cscript%3E/...');
  });
  it.each(['', '.', '..'])('refuse the name "%s", which means another path', (name) => {
    expect(() => path('services', 'default', name)).toThrow('cannot be a name');
  });
  it('carry the CSRF header and a key against repeats, only when they write', async () => {
    const asked = scriptFetch({ 'GET /me': () => ({}), 'PUT /services/default/orders/instances/orders-1/drain': () => ({}) });
    await call('/me');
    await actions.drain(instance(), 'why');
    expect(asked[0]?.headers.get('x-maxine-csrf')).toBeNull();
    expect(asked[1]?.headers.get('x-maxine-csrf')).toBe('1');
    expect(asked[1]?.headers.get('idempotency-key')).toMatch(/^[\x21-\x7e]{8,255}$/);
    expect(asked[1]?.body).toEqual({ reason: 'why' });
  });
  it('tell problems as the server words them', async () => {
    scriptFetch({ 'GET /config': () => problem(503, 'unavailable', 'there is no leader') });
    await expect(call('/config')).rejects.toMatchObject({ status: 503, message: 'there is no leader' });
  });
  it('tell an answer that is not from Maxine by its status, not by its body', async () => {
    scriptFetch({ 'GET /config': () => new Response('<script>alert(1)</script>', { status: 502 }) });
    const error = await call('/config').catch((e: unknown) => e);
    expect(error).toBeInstanceOf(Problem);
    expect((error as Problem).message).not.toContain('script');
  });
  it('say that a node does not answer', async () => {
    vi.stubGlobal('fetch', () => Promise.reject(new TypeError('refused')));
    await expect(call('/config')).rejects.toMatchObject({ status: 0 });
  });
  it('take in how fresh the answer is', async () => {
    vi.stubGlobal('fetch', async () =>
      Response.json({}, { headers: { 'x-maxine-leader': 'unknown', 'x-maxine-index': '99', 'x-maxine-staleness-ms': '7000' } }),
    );
    await call('/config');
    expect(connection.get()).toMatchObject({ leader: 'unknown', stalenessMs: 7_000 });
    expect(connection.get().index).toBeGreaterThanOrEqual(99);
    vi.stubGlobal('fetch', async () =>
      Response.json({}, { headers: { 'x-maxine-leader': 'unknown', 'x-maxine-staleness': 'unknown' } }),
    );
    await call('/config');
    expect(connection.get()).toMatchObject({ stalenessMs: null });
  });
});

describe('the session', () => {
  it('ends on 401 but leaves the page where it is', async () => {
    actAs('operator');
    scriptFetch({ 'GET /config': () => problem(401, 'unauthorized', 'expired') });
    await call('/config').catch(() => undefined);
    expect(session.get()).toMatchObject({ phase: 'expired', me: { user: 'ada' } });
  });
  it('keeps its token out of storage and forgets it at the end', () => {
    signedIn({ user: 'ada', role: 'admin', expires_at_ms: null, via: 'session' }, 'secret-token');
    expect(bearerToken()).toBe('secret-token');
    expect(JSON.stringify({ ...localStorage, ...sessionStorage })).not.toContain('secret-token');
    expect(document.cookie).not.toContain('secret-token');
    signedOut();
    expect(bearerToken()).toBeNull();
  });
  it('sends no token to the node that has the cookie, and no cookie to others', async () => {
    signedIn({ user: 'ada', role: 'admin', expires_at_ms: null, via: 'session' }, 'secret-token');
    const seen: RequestInit[] = [];
    vi.stubGlobal('fetch', async (_: string, init: RequestInit) => {
      seen.push(init);
      return Response.json({});
    });
    await call('/me');
    await call('/me', { base: 'http://10.0.0.2:8080' });
    expect(new Headers(seen[0]?.headers).get('authorization')).toBeNull();
    expect(seen[0]?.credentials).toBe('same-origin');
    expect(new Headers(seen[1]?.headers).get('authorization')).toBe('Bearer secret-token');
    expect(seen[1]?.credentials).toBe('omit');
    signedOut();
  });
});

describe('the session of a page in use', () => {
  it('is renewed when half of it is left, and only while someone uses the page', async () => {
    vi.useFakeTimers();
    const asked = scriptFetch({
      'POST /session/renew': () => ({ user: 'ada', role: 'viewer', expires_at_ms: Date.now() + 600_000, access_token: 'next' }),
    });
    session.set({ phase: 'signed-in', me: { user: 'ada', role: 'viewer', expires_at_ms: Date.now() + 600_000, via: 'session' } });
    const stop = keepSession();
    await vi.advanceTimersByTimeAsync(280_000);
    expect(asked).toHaveLength(0);
    window.dispatchEvent(new Event('keydown'));
    await vi.advanceTimersByTimeAsync(30_000);
    expect(asked).toHaveLength(1);
    expect(bearerToken()).toBe('next');
    // Nobody has touched the page since.
    await vi.advanceTimersByTimeAsync(590_000);
    expect(asked).toHaveLength(1);
    stop();
    vi.useRealTimers();
  });
});

describe('the pulse', () => {
  it('says since when a node is silent, and that it answers again', async () => {
    let hangs = true;
    scriptFetch({ 'GET /ready': () => (hangs ? Promise.reject(new TypeError('hangs')) : { ready: true }) });
    connection.set((c) => ({ ...c, heardAt: 0, silentSince: null }));
    await beat();
    expect(connection.get().silentSince).not.toBeNull();
    hangs = false;
    await beat();
    expect(connection.get().silentSince).toBeNull();
  });
});

describe('reads that fail', () => {
  /** Shows one figure and reads it again, as `answer` says, and returns after `ms` how many figures are not current. */
  async function after(ms: number, answer: () => unknown): Promise<number> {
    vi.useFakeTimers();
    let first = true;
    scriptFetch({
      'GET /traffic/services': () => {
        if (!first) return answer();
        first = false;
        return { items: [], nodes: [], window_ms: 60_000 };
      },
    });
    const queries = new QueryClient({ defaultOptions: { queries: { retry: 2, retryDelay: 300 } } });
    connection.set((c) => ({ ...c, failedReads: 0 }));
    const stopCounting = countFailedReads(queries);
    const stopShowing = new QueryObserver(queries, callsQuery()).subscribe(() => undefined);
    try {
      await vi.advanceTimersByTimeAsync(0);
      expect(connection.get().failedReads).toBe(0);
      void queries.invalidateQueries();
      await vi.advanceTimersByTimeAsync(ms);
      return connection.get().failedReads;
    } finally {
      stopShowing();
      stopCounting();
      queries.clear();
      vi.useRealTimers();
    }
  }
  it('are told at the first failure, before the retries are over', async () => {
    expect(await after(100, () => problem(503, 'unavailable', 'the node is stopping'))).toBe(1);
  });
  it('are told within 3 s if no answer comes, although the node answers others', async () => {
    expect(await after(2_900, () => new Promise(() => undefined))).toBe(1);
    expect(await after(OVERDUE_MS / 2, () => new Promise(() => undefined))).toBe(0);
  });
  it('are over with the next answer', async () => {
    let fails = true;
    const answer = () => {
      if (!fails) return { items: [], nodes: [], window_ms: 60_000 };
      fails = false;
      return problem(503, 'unavailable', 'the node is stopping');
    };
    expect(await after(1_000, answer)).toBe(0);
  });
});

describe('writes', () => {
  it('name the revision that they change', async () => {
    const asked = scriptFetch({
      'PUT /services/default/orders/policy': () => ({ revision: 5 }),
      'PUT /config': () => ({ revision: 6 }),
    });
    await actions.putPolicy('default', 'orders', {}, null);
    await actions.putPolicy('default', 'orders', {}, 4);
    expect(asked[0]?.headers.get('if-none-match')).toBe('*');
    expect(asked[1]?.headers.get('if-match')).toBe('"4"');
  });
  it('register an instance again exactly as it was, but for the weight', async () => {
    const asked = scriptFetch({ 'PUT /services/default/orders/instances/orders-1': () => ({}) });
    await actions.register(instance({ zone: null, tags: ['a'] }), { weight: 7 });
    expect(asked[0]?.body).toEqual({
      address: 'http://10.0.0.1:8080', weight: 7, ttl_ms: 10_000, permanent: false, version: '1.4.0', tags: ['a'], metadata: {},
    });
  });
  it('register a permanent instance again as permanent, on its node', async () => {
    const asked = scriptFetch({ 'PUT /services/default/orders/instances/orders-1': () => ({}) });
    await actions.register(instance({ ttl_ms: null, permanent: true, node: 'm1', zone: null, version: null }));
    expect(asked[0]?.body).toEqual({
      address: 'http://10.0.0.1:8080', weight: 1, permanent: true, node: 'm1', tags: [], metadata: {},
    });
  });
  it('register the checks that its owner reports again, and not the probe twice', async () => {
    const asked = scriptFetch({ 'PUT /services/default/orders/instances/orders-1': () => ({}) });
    const state = { status: 'passing', output: '', since_ms: 1, modified_index: 9 } as const;
    const checks = [
      { id: 'disk', kind: 'ttl', ttl_ms: 9_000, initial_status: 'warning', ...state } as const,
      { id: 'probe', kind: 'probe', ttl_ms: null, initial_status: null, ...state } as const,
    ];
    await actions.register(instance({ checks }));
    expect(asked[0]?.body).toMatchObject({ checks: [{ id: 'disk', ttl_ms: 9_000, initial_status: 'warning' }] });
  });
  it('deregister only the registration that was seen', async () => {
    const asked = scriptFetch({ 'DELETE /services/default/orders/instances/orders-1': () => ({ removed: true }) });
    await actions.deregister(instance());
    expect(asked[0]?.query.get('lease_epoch')).toBe('17');
  });
});

describe('the leadership history', () => {
  it('is asked for again while its newest cause may still come, and then no more', async () => {
    vi.useFakeTimers();
    const granted = (ageMs: number) => ({ holder: 'node-1', fence: 1, index: 1, time_ms: Date.now() - ageMs, cause: null, gap_ms: null });
    let items = [granted(60_000)];
    const asked = scriptFetch({ 'GET /cluster/leadership': () => ({ items, next_cursor: null }) });
    const client = new QueryClient();
    const observer = new QueryObserver(client, leadershipQuery());
    const stop = observer.subscribe(() => undefined);
    try {
      await vi.advanceTimersByTimeAsync(20_000);
      expect(asked).toHaveLength(1);
      items = [granted(1_000)];
      await client.invalidateQueries({ queryKey: leadershipQuery().queryKey });
      await vi.advanceTimersByTimeAsync(60_000);
      // Every two seconds for the 14 that were left.
      expect(asked.length).toBeGreaterThanOrEqual(2 + 6);
      expect(asked.length).toBeLessThanOrEqual(2 + 7);
    } finally {
      stop();
      client.clear();
      vi.useRealTimers();
    }
  });
});
