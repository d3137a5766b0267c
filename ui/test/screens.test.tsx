import { createHashHistory, RouterProvider } from '@tanstack/react-router';
import { act, screen, waitFor, within } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { LiveCache } from '../src/api/live';
import { keys, servicesQuery, instancesQuery } from '../src/api/queries';
import { session } from '../src/api/session';
import { createStore, useStore } from '../src/api/store';
import type { Change, Instance, Service } from '../src/api/types';
import { router } from '../src/app/router';
import { SignInAgain } from '../src/app/sign-in';
import { SignInPage } from '../src/app/sign-in-form';
import { RoleButton } from '../src/parts/button';
import { Confirm } from '../src/parts/dialog';
import { csv } from '../src/parts/download';
import { Table } from '../src/parts/table';
import { dismiss } from '../src/app/dismissals';
import { Warnings } from '../src/screens/overview/warnings';
import { exportedWith } from '../src/screens/services/services';
import { actAs, instance, problem, scriptFetch, service, show, type Asked } from './fixture';

const asked = (name: string, problem: string | null = null) => ({ id: null, name, http_addr: '', problem });

const HOSTILE = '<script>alert("x")</script>';

const status = {
  node: 'n1', backend: 'raft', version: '1.0.0', state_version: { current: 1, understood: 1 }, nodes: null, uptime_ms: 1, index: 21, time_ms: 1, staleness_ms: 0,
  leadership: { leader: 'n1', is_leader: true, term: 3 }, grant: null,
  totals: { namespaces: 1, services: 2, instances: 6, routable: 2, unhealthy: 1, evicted: 3, draining: 2, no_traffic: { drained: 2, evicted: 1, unhealthy: 1, no_share: 0 } }, warnings: [], raft: null,
};

function routes(extra: Record<string, (asked: Asked) => unknown> = {}) {
  const base = '/services/default/orders';
  const bad = instance({
    id: 'orders-2', routable: false,
    health: { readiness: 'not_ready', liveness: 'alive', reason: 'HTTP 500 from /healthz', since_ms: 1_700_000_000_000, flap_score: 1 },
  });
  return {
    'GET /cluster/status': () => status,
    'GET /services': () => ({ items: [service({ health: 'degraded', unhealthy: 1, routable: 2 }), service({ name: HOSTILE })], next_cursor: null }),
    [`GET ${base}`]: () => service({ health: 'degraded', unhealthy: 1, routable: 2 }),
    [`GET ${base}/instances`]: () => ({ items: [instance(), bad], next_cursor: null }),
    [`GET ${base}/instances/orders-2/health`]: () => ({
      namespace: 'default', service: 'orders', id: 'orders-2', routable: false, verdict: bad.health, drain: null,
      why: 'three probes in a row failed', probe: { kind: 'http', path: '/healthz' }, probe_from: 'policy',
      observations: [{ node: 'n1', at_ms: Date.now(), ok: false, detail: 'HTTP 500', latency_ms: 12 }],
    }),
    'GET /cluster/alerts': () => ({ items: [], left_out: 0, nodes: [asked('n1')], complete: true }),
    'GET /traffic/services': () => ({ window_ms: 60_000, now_ms: Date.now(), items: [], nodes: [asked('n1')], complete: true }),
    'GET /objectives': () => ({ since_ms: 0, now_ms: 1, items: [], nodes: [{ ...asked('n1'), began_ms: 0, missing_ms: 0 }], complete: true }),
    'GET /traces': () => ({ items: [], next_cursor: null }),
    'GET /audit': () => ({ items: [], next_cursor: null }),
    ...extra,
  };
}

async function open(hash: string) {
  location.hash = hash;
  router.update({ history: createHashHistory() });
  const view = show(<RouterProvider router={router} />);
  await act(() => router.load());
  return view;
}

beforeEach(() => {
  actAs('operator');
  vi.spyOn(console, 'error');
});

describe('screens', () => {
  it('show a service that is named as a script as text', async () => {
    scriptFetch(routes());
    const { container } = await open('#/services');
    expect(await screen.findByText(HOSTILE, {}, { timeout: 5_000 })).toBeInstanceOf(HTMLAnchorElement);
    expect(container.querySelector('script')).toBeNull();
  });

  it('count every instance once, and name the evicted that count elsewhere', async () => {
    scriptFetch(routes());
    const { container } = await open('#/');
    await screen.findByText('2 serving · 1 unhealthy · 2 draining · 1 evicted', {}, { timeout: 5_000 });
    expect(container.textContent).toContain('including draining instances and those used in panic mode: 1 unhealthy, 3 evicted');
  });

  it('lead from the unhealthy instance to its reason, drain it, and offer the way back', async () => {
    const user = userEvent.setup();
    const asked = scriptFetch(
      routes({
        'PUT /services/default/orders/instances/orders-2/drain': () => ({ index: 22, changed: true }),
        'DELETE /services/default/orders/instances/orders-2/drain': () => ({ index: 23, changed: true }),
      }),
    );
    await open('#/services/default/orders');
    await user.click(await screen.findByText('orders-2', {}, { timeout: 5_000 }));
    expect(await screen.findByText('three probes in a row failed')).toBeTruthy();
    await user.click(screen.getByRole('button', { name: 'Drain' }));
    const dialog = await screen.findByRole('alertdialog');
    expect(dialog.textContent).toContain('2 instances of orders take over its traffic');
    await user.type(within(dialog).getByLabelText('Reason'), 'bad disk');
    await user.click(within(dialog).getByRole('button', { name: 'Drain' }));
    await waitFor(() => expect(asked.find((a) => a.method === 'PUT')?.body).toEqual({ reason: 'bad disk' }));
    await user.click(await screen.findByRole('button', { name: 'Return it' }));
    await waitFor(() => expect(asked.some((a) => a.method === 'DELETE' && a.path.endsWith('/drain'))).toBe(true));
  }, 20_000);

  it('say what failed, and try again when asked', async () => {
    const user = userEvent.setup();
    let failing = true;
    scriptFetch(routes({ 'GET /services': () => (failing ? problem(422, 'limit-exceeded', 'limit must be lower') : { items: [service()], next_cursor: null }) }));
    await open('#/services?sort=name');
    expect(await screen.findByText('limit must be lower.', {}, { timeout: 5_000 })).toBeTruthy();
    failing = false;
    await user.click(screen.getByRole('button', { name: 'Try again' }));
    expect(await screen.findByText('orders')).toBeTruthy();
  }, 15_000);
});

describe('what a role may not do', () => {
  it('is there, says why, and does nothing', async () => {
    actAs('viewer');
    const act = vi.fn();
    show(<RoleButton needs="operator" onClick={act}>Drain</RoleButton>);
    const button = screen.getByRole('button', { name: 'Drain' });
    expect(button.getAttribute('aria-disabled')).toBe('true');
    const why = document.getElementById(button.getAttribute('aria-describedby') ?? '');
    expect(why?.textContent).toBe('Needs the role operator; you are signed in as viewer.');
    await userEvent.click(button);
    expect(act).not.toHaveBeenCalled();
  });
});

describe('a confirmation', () => {
  it('waits for the name where nothing can be undone, and shows a refusal', async () => {
    const user = userEvent.setup();
    const run = vi.fn().mockRejectedValueOnce(new Error('the disk is full')).mockResolvedValueOnce(null);
    const close = vi.fn();
    show(<Confirm open onClose={close} title="Remove?" verb="Remove" effect="It goes." typed="orders" act={run} danger />);
    const go = screen.getByRole('button', { name: 'Remove' });
    await user.click(go);
    expect(run).not.toHaveBeenCalled();
    await user.type(screen.getByRole('textbox'), 'orders');
    await user.click(go);
    expect(await screen.findByText(/the disk is full/)).toBeTruthy();
    expect(close).not.toHaveBeenCalled();
    await user.click(go);
    await waitFor(() => expect(close).toHaveBeenCalled());
  });
});

const failing = { namespace: 'default', service: HOSTILE, lookups: 3, lookups_failed: 0, proxied: 8, proxied_failed: 8, p50_us: 64, p95_us: 64, p99_us: 64 };

describe('what the page knows', () => {
  it('is that there are no open alerts only if all nodes answered', async () => {
    let complete = false;
    scriptFetch(
      routes({
        'GET /cluster/alerts': () => ({
          items: [], left_out: 0, complete, nodes: [asked('n1'), asked('n2'), asked('n3', complete ? null : 'no answer')],
        }),
      }),
    );
    const { queries } = await open('#/');
    expect(await screen.findByText('No open alerts known.', {}, { timeout: 5_000 })).toBeTruthy();
    expect(screen.getByText(/2 of 3 nodes answered: without n3/)).toBeTruthy();
    complete = true;
    await act(() => queries.invalidateQueries());
    expect(await screen.findByText('No open alerts.')).toBeTruthy();
    expect(screen.getByText('3 of 3 nodes answered')).toBeTruthy();
  }, 15_000);

  it('are not called none in Redis mode while some node could not be asked', async () => {
    const store = (name: string) => ({ name, state_version: 1, last_seen_ms: 5 });
    const alerts = { 'GET /cluster/alerts': () => ({ items: [], left_out: 0, nodes: [asked('n1')], complete: true }) };
    scriptFetch(routes({ ...alerts, 'GET /cluster/status': () => ({ ...status, backend: 'redis', nodes: [store('n1'), store('n2')] }) }));
    await open('#/alerts');
    await screen.findByText('No open alerts known.', {}, { timeout: 5_000 });
    await screen.findAllByText('1 of 2 nodes answered: without n2');
    expect(screen.queryByText('No open alerts.')).toBeNull();
  });
  it('puts a service first whose every proxied call fails, although it is healthy', async () => {
    scriptFetch(
      routes({ 'GET /traffic/services': () => ({ window_ms: 60_000, now_ms: 1, items: [failing], nodes: [asked('n1')], complete: true }) }),
    );
    await open('#/');
    const panel = (await screen.findByRole('heading', { name: 'Needs attention' }, { timeout: 5_000 })).closest('section') as HTMLElement;
    await within(panel).findByText('Failing');
    expect(within(panel).getAllByRole('link').map((link) => link.textContent)).toEqual([
      `Failing${HOSTILE}all 8 calls failed`,
      expect.stringMatching(/^Degradedorders/),
    ]);
  }, 15_000);

  it('shows the error budgets, and which nodes did not count', async () => {
    const objective = { name: 'proxy-success', title: 'Proxy success', about: 'Calls', objective: 0.999, requests: 4000, failures: 1, budget_left: 0.75 };
    const nodes = [
      { ...asked('n1'), began_ms: 0, missing_ms: 7_200_000 },
      { ...asked('n2'), problem: 'unreachable', began_ms: null, missing_ms: null },
    ];
    scriptFetch(routes({ 'GET /objectives': () => ({ since_ms: 0, now_ms: 1, items: [objective], nodes, complete: false }) }));
    await open('#/');
    const panel = (await screen.findByRole('heading', { name: 'Error budgets' }, { timeout: 5_000 })).closest('section') as HTMLElement;
    await within(panel).findByText('75 % left');
    within(panel).getByText('Proxy success, 99.90 %');
    within(panel).getByText(/1 of 2 nodes answered: without n2/);
    within(panel).getByText(/Not counted, because the node was not running: n1 for 2 h/);
  }, 15_000);

  it('is dimmed, with its age, when it cannot be read again', async () => {
    let broken = false;
    scriptFetch(routes({ 'GET /cluster/alerts': () => (broken ? problem(503, 'unavailable', 'no') : { items: [], left_out: 0, nodes: [asked('n1')], complete: true }) }));
    const { queries } = await open('#/');
    const fine = await screen.findByText('No open alerts.', {}, { timeout: 5_000 });
    expect(fine.closest('.dimmed')).toBeNull();
    broken = true;
    await act(() => queries.invalidateQueries({ queryKey: keys.alerts() }));
    expect(await screen.findByText(/Not current: the alerts could not be read/)).toBeTruthy();
    expect(screen.getByText('No open alerts.').closest('.dimmed')).not.toBeNull();
  }, 15_000);
});

describe('what is not known', () => {
  const report = { node: 'n1', version: '1.0.0', uptime_ms: 1, index: 21, audit_head: null, staleness_ms: 0, leader: 'n1', is_leader: true, term: 3, log: null, lookups: 0, proxied: 0, failed: 0 };
  const calls = async (nodes: unknown[]) => {
    scriptFetch(routes({ 'GET /cluster/nodes': () => ({ items: nodes, next_cursor: null }) }));
    await open('#/');
    return (await screen.findByText('Calls, last minute', {}, { timeout: 5_000 })).closest('dl') as HTMLElement;
  };
  it('is the share of failed calls where there were none', async () => {
    const figure = await calls([{ id: 1, name: 'n1', report, problem: null }]);
    await within(figure).findByText('no calls');
    expect(figure.textContent).toContain('0/s');
    expect(figure.textContent).not.toContain('%');
  }, 15_000);
  it('is the number of calls if no node answered', async () => {
    const figure = await calls([{ id: 1, name: 'n1', report: null, problem: 'no answer' }]);
    await within(figure).findByText(/not known · without 1 node/);
    expect(figure.textContent).not.toMatch(/\d\/s|%/);
  }, 15_000);
  it('is no number in an export', () => {
    const row = (of: Parameters<typeof exportedWith>[0]) => csv([service()], exportedWith(of)).split('\r\n')[1];
    expect(row(undefined)).toBe('default,orders,healthy,3,3,0,0,0,,,,,round_robin');
    expect(row(new Map([['default/orders', { ...failing, service: 'orders', p95_us: 64 }]]))).toMatch(/,3,8,8,64,round_robin$/);
  });
  it('is the traffic of a service without calls', async () => {
    scriptFetch(routes());
    await open('#/services/default/orders?tab=traffic');
    const panel = (await screen.findByRole('heading', { name: 'Last minute, all nodes' }, { timeout: 5_000 })).closest('section') as HTMLElement;
    expect(await within(panel).findAllByText('no calls known')).toHaveLength(3);
    expect(panel.textContent).not.toMatch(/\d\/s|%/);
  }, 15_000);
  it('is not good news about an instance that nobody called', async () => {
    const path = '/services/default/orders/instances/orders-1';
    const proxy = { node: 'n1', breaker: 'closed', held_back: null, good_total: 0, bad_total: 0 };
    scriptFetch(
      routes({
        [`GET ${path}/health`]: () => ({
          namespace: 'default', service: 'orders', id: 'orders-1', routable: true, verdict: instance().health, drain: null, why: '', probe: null, probe_from: null, observations: [], proxy,
        }),
      }),
    );
    await open('#/services/default/orders?instance=orders-1');
    const text = await screen.findByText(/no calls since the node started/, {}, { timeout: 5_000 });
    expect(text.closest('.status')?.className).toContain('tone-muted');
  }, 15_000);
  it('is not hidden by the graph: what fails every call is failing there, too', async () => {
    const trace = {
      trace_id: 't', traceparent: 't', method: 'GET', path: '/x', kind: 'proxied', namespace: 'default', service: HOSTILE, status: 502,
      duration_ms: 1, time_ms: 1, client: '10.0.0.9', attempts: [],
    };
    scriptFetch(
      routes({
        'GET /traces': () => ({ items: [trace, { ...trace, trace_id: 'u', service: 'gone', namespace: 'batch' }], next_cursor: null }),
        'GET /traffic/services': () => ({ window_ms: 60_000, now_ms: 1, items: [failing], nodes: [asked('n1')], complete: true }),
      }),
    );
    await open('#/dependencies');
    await screen.findByRole('link', { name: `${HOSTILE}, failing: open` }, { timeout: 5_000 });
    screen.getByRole('link', { name: 'gone, not registered: open' });
    await userEvent.selectOptions(screen.getByLabelText('Namespace'), 'batch');
    expect(screen.getAllByRole('link', { name: /: open$/ }).map((link) => link.getAttribute('aria-label'))).toEqual(['gone, not registered: open']);
  }, 15_000);
});

describe('a cluster with more services than the page loads', () => {
  const many = (more: Record<string, (asked: Asked) => unknown> = {}) =>
    routes({
      'GET /services': ({ query }) => {
        const health = query.get('health');
        if (health === 'down') return { items: [service({ name: 'zz-down', health: 'down' })], next_cursor: null };
        if (health === 'degraded') return { items: [service({ name: 'zz-degraded', health: 'degraded' })], next_cursor: null };
        return { items: [service({ name: `a${query.get('cursor') ?? ''}` })], next_cursor: `${query.get('cursor') ?? ''}x` };
      },
      'GET /services/default/zz-failing': () => service({ name: 'zz-failing' }),
      'GET /traffic/services': () => ({ window_ms: 60_000, now_ms: 1, items: [{ ...failing, service: 'zz-failing' }], nodes: [asked('n1')], complete: true }),
      ...more,
    });
  it('still lists every service that needs attention', async () => {
    scriptFetch(many());
    await open('#/services?health=bad');
    await screen.findByText('zz-failing', {}, { timeout: 5_000 });
    const names = screen.getAllByRole('row').flatMap((row) => row.querySelector('a')?.textContent ?? []);
    expect(names).toEqual(['zz-failing', 'zz-down', 'zz-degraded']);
    expect(screen.getByRole('button', { name: 'Degraded1' })).toBeTruthy();
    // Nobody knows how many serve.
    expect(screen.getByRole('button', { name: 'Serving' })).toBeTruthy();
  }, 15_000);
  it('is not called fine while some of it is not known', async () => {
    const nothing = { items: [], next_cursor: null };
    scriptFetch(
      many({
        'GET /services': ({ query }) => {
          if (query.get('health') === 'degraded') return problem(503, 'unavailable', 'no');
          return query.get('health') === 'down' ? nothing : { items: [service()], next_cursor: 'x' };
        },
        'GET /traffic/services': () => ({ window_ms: 60_000, now_ms: 1, items: [], nodes: [asked('n1')], complete: true }),
      }),
    );
    await open('#/');
    await screen.findByText('Not all services are loaded yet.', {}, { timeout: 5_000 });
    expect(screen.queryByText('Nothing needs attention.')).toBeNull();
  }, 15_000);
});

describe('dependencies', () => {
  const attempt = { instance: 'orders-1', address: 'http://10.0.0.1:80', start_ms: 0, duration_ms: 1, status: 200, error: null };
  const call = (n: number, agoMs: number, status: number, duration_ms: number, namespace = 'default') => ({
    trace_id: `t${n}`, traceparent: '', method: 'GET', path: '/x', kind: 'proxied', namespace, service: 'orders', status, duration_ms,
    time_ms: Date.now() - agoMs, client: '10.1.1.1:4000', attempts: [attempt],
  });
  it('show the rate, success and latency of each edge in the chosen time, in a graph that can be enlarged', async () => {
    const recent = [call(1, 30_000, 200, 10), call(2, 30_000, 502, 400)];
    const older = Array.from({ length: 8 }, (_, n) => call(10 + n, 400_000, 200, 10));
    scriptFetch(routes({
      'GET /traces': () => ({ items: [...recent, ...older, call(30, 400_000, 200, 1, 'other')], next_cursor: null }),
      'GET /api/actuator/audit': () => ({ events: [] }),
    }));
    const user = userEvent.setup();
    await open('#/dependencies');
    const graph = await screen.findByRole('group', { name: 'Graph of calls' }, { timeout: 5_000 });
    const width = Number(graph.getAttribute('width'));
    expect(graph.querySelector('title')?.textContent).toMatch(/^10\.1\.1\.1 to orders, proxy: 10 calls seen, 0\.0[23]\/s, 90\.0 % succeeded, p95 400 ms$/);
    await user.click(screen.getByRole('button', { name: 'Larger' }));
    expect(Number(graph.getAttribute('width'))).toBe(width * 1.25);
    await user.click(screen.getByRole('button', { name: /^125 %/ }));
    expect(Number(graph.getAttribute('width'))).toBe(width);
    await user.click(screen.getByRole('button', { name: 'Table' }));
    const row = () => within(screen.getAllByRole('row')[1] as HTMLElement).getAllByRole('cell').map((cell) => cell.textContent);
    await user.click(screen.getByRole('button', { name: '1 min' }));
    expect(row()).toEqual(['10.1.1.1', 'Proxy', '2', '0.03/s', '50.0 %', '10 ms', '400 ms', 'orders-1']);
    // A namespace without calls in this time is not said to have none at all.
    await user.selectOptions(screen.getByLabelText('Namespace'), 'other');
    expect(screen.getByText('No calls in the last 1 min.')).toBeTruthy();
    await user.click(screen.getByRole('button', { name: '15 min' }));
    expect(row()[2]).toBe('1');
  }, 15_000);
});

describe('traces', () => {
  const trace = (trace_id: string, service: string, status: number) => ({
    trace_id, traceparent: trace_id, method: 'GET', path: '/x', kind: 'proxied', namespace: 'default', service, status, duration_ms: 1, time_ms: 1, client: '10.0.0.9', attempts: [],
  });
  const rows = () => screen.getAllByRole('row').slice(1).map((row) => row.textContent);
  it('are found by service and status, and the chosen one stays although the node has forgotten it', async () => {
    const user = userEvent.setup();
    let items = [trace('t1', 'orders', 200), trace('t2', 'billing', 503)];
    scriptFetch(routes({ 'GET /traces': () => ({ items, next_cursor: null }) }));
    const { queries } = await open('#/traces?trace=t2');
    const sheet = await screen.findByRole('dialog', {}, { timeout: 5_000 });
    await within(sheet).findByRole('link', { name: 'billing' });
    items = [trace('t3', 'orders', 200)];
    await act(() => queries.invalidateQueries({ queryKey: keys.traces() }));
    await waitFor(() => expect(document.body.textContent).toContain('t3'));
    expect(within(sheet).getByRole('link', { name: 'billing' })).toBeTruthy();
    expect(within(sheet).queryByText('This node no longer has the trace.')).toBeNull();
    items = [trace('t1', 'orders', 200), trace('t2', 'billing', 503)];
    await act(() => queries.invalidateQueries({ queryKey: keys.traces() }));
    await user.keyboard('{Escape}');
    const search = await screen.findByRole('searchbox');
    for (const text of ['bill', '503']) {
      await user.clear(search);
      await user.type(search, text);
      await waitFor(() => expect(rows()).toHaveLength(1));
      expect(rows()[0]).toContain('billing');
    }
  }, 20_000);
});

describe('a warning that lasts', () => {
  const open = 'registration is open';
  const named = (verb: string) => new RegExp(`${verb}.*${open}`);
  const given = (...warnings: string[]) => ({ node: 'n1', warnings });
  it('is dismissed with a reason, is still counted, and comes back when it had ended', async () => {
    const user = userEvent.setup();
    const warnings = createStore([open, 'the disk is stalled']);
    const Given = () => <Warnings status={given(...useStore(warnings))} />;
    show(<Given />);
    await user.click(screen.getByRole('button', { name: named('Dismiss…') }));
    const dialog = await screen.findByRole('alertdialog');
    await user.click(within(dialog).getByRole('button', { name: 'Dismiss' }));
    expect(screen.getByRole('alertdialog')).toBeTruthy();
    await user.type(within(dialog).getByLabelText('Reason'), 'only a laboratory');
    await user.click(within(dialog).getByRole('button', { name: 'Dismiss' }));
    await screen.findByText('1 warning dismissed in this browser');
    expect(screen.queryByRole('button', { name: named('Dismiss…') })).toBeNull();
    screen.getByRole('button', { name: /Dismiss….*the disk is stalled/ });
    expect(screen.getByText(/by ada: only a laboratory/)).toBeTruthy();
    expect(localStorage.getItem('maxine.dismissals')).toContain(open);
    act(() => warnings.set([]));
    await waitFor(() => expect(localStorage.getItem('maxine.dismissals')).toBe('[]'));
    act(() => warnings.set([open]));
    await screen.findByRole('button', { name: named('Dismiss…') });
  }, 20_000);
  it('is dismissed for the node that gave it, and can be shown again', async () => {
    dismiss({ node: 'n2', text: open, reason: 'r', by: 'ada', at_ms: 1 });
    show(<Warnings status={given(open)} />);
    screen.getByRole('button', { name: named('Dismiss…') });
    act(() => dismiss({ node: 'n1', text: open, reason: 'r', by: 'ada', at_ms: 1 }));
    await userEvent.click(await screen.findByText('1 warning dismissed in this browser'));
    await userEvent.click(screen.getByRole('button', { name: named('Show again') }));
    await screen.findByRole('button', { name: named('Dismiss…') });
  }, 15_000);
});

describe('signing in', () => {
  it('shows a refusal, then lets in without keeping the password', async () => {
    session.set({ phase: 'signed-out' });
    const user = userEvent.setup();
    let right = false;
    scriptFetch({
      'POST /session': () =>
        right
          ? { user: 'ada', role: 'viewer', expires_at_ms: 1, access_token: 'secret-token' }
          : problem(401, 'unauthorized', 'the user or the password is wrong'),
    });
    show(<SignInPage />);
    await user.type(screen.getByLabelText('User name'), 'ada');
    await user.type(screen.getByLabelText('Password'), 'nope');
    await user.click(screen.getByRole('button', { name: 'Sign in' }));
    expect(await screen.findByText(/Wrong user name or password/)).toBeTruthy();
    expect(screen.getByLabelText<HTMLInputElement>('Password').value).toBe('');
    right = true;
    await user.type(screen.getByLabelText('Password'), 'yes');
    await user.click(screen.getByRole('button', { name: 'Sign in' }));
    await waitFor(() => expect(session.get()).toMatchObject({ phase: 'signed-in', me: { role: 'viewer' } }));
  });

  it('offers the providers, and says why a sign-in there failed in words of its own', async () => {
    session.set({ phase: 'signed-out' });
    scriptFetch({ 'GET /session/providers': () => ({ items: [{ name: 'corp', title: HOSTILE }] }) });
    history.replaceState(null, '', `/?sign_in=${encodeURIComponent('call +1 555 0100')}#/services`);
    const view = show(<SignInPage />);
    const link = await screen.findByRole('link', { name: `Sign in with ${HOSTILE}` });
    expect(link.getAttribute('href')).toBe('/api/v1/session/providers/corp/start?return_to=%2F%23%2Fservices');
    expect(view.container.textContent).toContain('The provider did not sign you in.');
    expect(view.container.textContent).not.toContain('555');
    expect(location.search).toBe('');
  });

  it('lets a user of a provider sign in again in another tab, over the page', async () => {
    const me = { user: 'corp/ada', role: 'viewer' as const, expires_at_ms: null, via: 'cookie' as const };
    session.set({ phase: 'expired', me });
    let there = false;
    scriptFetch({
      'GET /session/providers': () => ({ items: [{ name: 'other', title: 'Other' }, { name: 'corp', title: 'Corp' }] }),
      'GET /me': () => (there ? me : problem(401, 'unauthorized', 'nobody is signed in')),
    });
    show(<SignInAgain me={me} />);
    const link = await screen.findByRole('link', { name: 'Sign in with Corp' });
    expect(link.getAttribute('target')).toBe('_blank');
    expect(screen.queryByLabelText('Password')).toBeNull();
    expect(screen.queryByRole('link', { name: 'Sign in with Other' })).toBeNull();
    there = true;
    window.dispatchEvent(new Event('focus'));
    await waitFor(() => expect(session.get()).toMatchObject({ phase: 'signed-in', me: { user: 'corp/ada' } }));
  });
});

describe('the table', () => {
  const rows = Array.from({ length: 50_000 }, (_, i) => ({ id: `i-${i}` }));
  it('holds 50,000 rows but draws only those in sight, and is moved through by keys', async () => {
    const user = userEvent.setup();
    const picked = vi.fn();
    show(
      <Table
        label="Things" rows={rows} rowKey={(r) => r.id} open={picked}
        columns={[{ key: 'id', head: 'Id', track: '1fr', cell: (r) => r.id }]}
      />,
    );
    const grid = screen.getByRole('grid', { name: 'Things' });
    expect(grid.getAttribute('aria-rowcount')).toBe('50001');
    expect(screen.getAllByRole('row').length).toBeLessThan(80);
    screen.getAllByRole('row')[1]?.focus();
    await user.keyboard('{ArrowDown}{ArrowDown}{Enter}');
    expect(picked).toHaveBeenCalledWith({ id: 'i-2' });
  });
});

describe('live changes', () => {
  async function cached() {
    const { queries } = show(null);
    const asked = scriptFetch({
      'GET /services': () => ({ items: [service()], next_cursor: null }),
      'GET /services/default/orders': () => service({ health: 'down', routable: 0 }),
      'GET /services/default/orders/instances': (a) => ({ items: a.query.get('health') ? [] : [instance()], next_cursor: null }),
    });
    await queries.fetchQuery(servicesQuery());
    await queries.fetchInfiniteQuery(instancesQuery('default', 'orders', {}));
    await queries.fetchInfiniteQuery(instancesQuery('default', 'orders', { health: 'unhealthy' }));
    const items = (filter: object): Instance[] =>
      queries.getQueryData<{ pages: { items: Instance[] }[] }>([...keys.instances('default', 'orders'), filter])?.pages.flatMap((p) => p.items) ?? [];
    return { queries, live: new LiveCache(queries), asked, items };
  }
  const change = (type: Change['type'], more: Partial<Change> = {}): Change => ({
    index: 30, time_ms: 1, type, namespace: 'default', service: 'orders', instance: 'orders-1', ...more,
  });
  const bad = { readiness: 'not_ready', liveness: 'alive', reason: 'down', since_ms: 1, flap_score: 0 } as const;

  it('move an instance between filtered lists without asking for them again', async () => {
    const { live, items, queries, asked } = await cached();
    const before = asked.length;
    live.change(change('health_changed', { data: { ...instance(), health: bad } }));
    await waitFor(() => expect(items({})[0]?.health.readiness).toBe('not_ready'));
    expect(items({})[0]?.routable).toBe(false);
    expect(items({ health: 'unhealthy' }).map((i) => i.id)).toEqual(['orders-1']);
    await waitFor(() =>
      expect(queries.getQueryData<{ items: Service[] }>(keys.services())?.items[0]?.health).toBe('down'),
    );
    expect(asked.slice(before).map((a) => a.path)).toEqual(['/services/default/orders']);
    live.change(change('instance_removed', { cause: 'expired' }));
    await waitFor(() => expect(items({})).toEqual([]));
  });

  it('add an instance that nobody has seen before, in order', async () => {
    const { live, items } = await cached();
    live.change(change('instance_registered', { instance: 'a-first', data: instance({ id: 'a-first' }) }));
    await waitFor(() => expect(items({}).map((i) => i.id)).toEqual(['a-first', 'orders-1']));
  });

  it('of many services at once lead to one reading of the list, not to one each', async () => {
    const { live, asked } = await cached();
    const before = asked.length;
    for (let i = 0; i < 500; i += 1) live.change(change('instance_registered', { service: `s-${i}`, data: instance({ service: `s-${i}` }) }));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(asked.slice(before).filter((a) => a.path.startsWith('/services/')).length).toBe(0);
  });
});

describe('the palette', () => {
  it('finds a service by its letters and goes there', async () => {
    const user = userEvent.setup();
    scriptFetch(routes());
    await open('#/');
    await act(async () => {
      window.dispatchEvent(new KeyboardEvent('keydown', { key: 'k', ctrlKey: true }));
    });
    const box = await screen.findByRole('combobox');
    await user.type(box, 'orders');
    expect(await screen.findByRole('option', { name: /orders.*Degraded/s })).toBeTruthy();
    await user.keyboard('{Enter}');
    await waitFor(() => expect(location.hash).toContain('/services/default/orders'));
  }, 15_000);
});

describe('a search field', () => {
  it('keeps every key, and follows the address when something else changes it', async () => {
    const user = userEvent.setup();
    scriptFetch(routes());
    await open('#/services');
    const box = await screen.findByRole<HTMLInputElement>('searchbox', {}, { timeout: 5_000 });
    await user.type(box, 'orders');
    expect(box.value).toBe('orders');
    await waitFor(() => expect(location.hash).toContain('q=orders'));
    await act(() => router.navigate({ to: '/services', search: { q: 'other' } }));
    await waitFor(() => expect(box.value).toBe('other'));
  }, 15_000);
});
