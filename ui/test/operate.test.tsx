// What an operator does to policies and to many instances, and what charts and versions are made of.
import { createHashHistory, RouterProvider } from '@tanstack/react-router';
import { act, fireEvent, screen, waitFor, within } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { clusterNow } from '../src/api/clock';
import { cutMark, deployMarks, leaderMarks, marksOf } from '../src/api/marks';
import { byInstance, figuresOf, SeenCalls } from '../src/api/seen-calls';
import type { AuditRecord, LeadershipGrant, Policy, TraceEntry } from '../src/api/types';
import { router } from '../src/app/router';
import { Chart, type ChartProps } from '../src/parts/chart';
import { TrafficPanel } from '../src/screens/overview/traffic-panel';
import { serviceOf } from '../src/screens/audit/change';
import { doubtsOf } from '../src/screens/service/policy-check';
import { policyChanges } from '../src/screens/service/policy-changes';
import { aborted, promoted, sharesOf, versionsOf } from '../src/screens/service/split';
import { planOf, runAll, type Outcome } from '../src/screens/services/bulk';
import { actAs, instance, problem, scriptFetch, service, show, type Asked } from './fixture';

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

const SERVICE = '/services/default/orders';
const common = (extra: Record<string, (asked: Asked) => unknown>) => ({
  [`GET ${SERVICE}`]: () => service(),
  [`GET ${SERVICE}/instances`]: () => ({ items: [instance()], next_cursor: null }),
  'GET /services': () => ({ items: [service()], next_cursor: null }),
  'GET /traces': () => ({ items: [], next_cursor: null }),
  'GET /audit': () => ({ items: [], next_cursor: null }),
  'GET /config': () => ({ revision: 0, config: { selection_strategy: 'round_robin' } }),
  ...extra,
});

const split = (...shares: [string, number][]): Policy => ({ traffic: { split: shares.map(([version, weight]) => ({ version, weight })) } });

describe('the changes of a policy', () => {
  it('are named field by field, without what has its default', () => {
    const before: Policy = { selection: { strategy: 'round_robin' } };
    const after: Policy = { selection: { strategy: 'rendezvous' }, traffic: { retries: { attempts: 3 }, split: [{ version: '2.0', weight: 10 }] } };
    const changes = Object.fromEntries(policyChanges(before, after).map((c) => [c.field, [c.from, c.to]]));
    expect(changes['selection.strategy']).toEqual(['round_robin', 'rendezvous']);
    expect(changes['traffic.split']).toEqual(['default', '2.0: 10']);
    expect(changes['traffic.retries']).toEqual(['default', 'on']);
    expect(policyChanges(after, after)).toEqual([]);
  });

  it('are doubted if no share of a version has an instance', () => {
    expect(doubtsOf(split(['3.0', 1], ['4.0', 1]), new Set(['1.0']))).toEqual([expect.stringContaining('no effect: all versions get traffic')]);
    expect(doubtsOf(split(['1.0', 1], ['4.0', 0]), new Set(['1.0']))).toEqual([]);
  });
});

describe('the history of a policy', () => {
  const at = (revision: number, user: string, content: string, policy: Policy | null) => ({ revision, user, content, policy, time_ms: revision * 1_000 });
  const good: Policy = { selection: { strategy: 'round_robin' } };
  const bad: Policy = { selection: { strategy: 'rendezvous' } };
  const items = [at(30, 'mallory', 'set', bad), at(20, 'ada', 'set', good), { ...at(10, 'bob', 'unknown', null) }];

  it('shows who changed what, compares two revisions, and rolls back to one', async () => {
    const user = userEvent.setup();
    const asked = scriptFetch(
      common({
        [`GET ${SERVICE}/policy`]: () => ({ revision: 30, policy: bad }),
        [`GET ${SERVICE}/policy/history`]: () => ({ items, next_cursor: null }),
        [`PUT ${SERVICE}/policy`]: () => ({ index: 31, revision: 31 }),
      }),
    );
    await open('#/services/default/orders?tab=policy&rev=30');
    const history = within(await screen.findByRole('region', { name: 'History of the policy' }));
    expect(history.getByRole('row', { name: /30now.*mallory.*selection\.strategy.*round_robin.*rendezvous/ })).toBeTruthy();
    // The address named the revision, so its difference to the one before is shown.
    expect(history.getByRole('group', { name: 'From revision 20 to revision 30: 1 added, 1 removed' })).toBeTruthy();
    const unknown = history.getByRole('row', { name: /^10 .*bob/ });
    expect(within(unknown).getByRole('button', { name: /Roll back/ }).getAttribute('aria-disabled')).toBe('true');
    await user.click(history.getByRole('button', { name: /^Roll back.*to revision 20$/ }));
    const dialog = await screen.findByRole('alertdialog');
    await user.click(within(dialog).getByRole('button', { name: 'Roll back' }));
    await waitFor(() => expect(asked.find((a) => a.method === 'PUT')).toMatchObject({ body: good }));
    expect(asked.find((a) => a.method === 'PUT')?.headers.get('if-match')).toBe('"30"');
    expect(await screen.findByText(/Rolled back to revision 20 \(revision 31\)/)).toBeTruthy();
  }, 60_000);

  it('is linked from the audit record, which shows the difference', async () => {
    const record = {
      seq: 7, class: 'settings', class_seq: 1, index: 30, time_ms: 30_000, user: 'mallory', address: '127.0.0.1', trace_id: 't', via_node: null,
      action: 'policy.put', object: 'default/orders', outcome: 'success', detail: '', refusal: '', previous: '', hash: 'h',
    };
    scriptFetch(
      common({
        'GET /audit': () => ({ items: [record], next_cursor: null }),
        [`GET ${SERVICE}/policy/history`]: () => ({ items, next_cursor: null }),
      }),
    );
    await open('#/audit?seq=7');
    expect(await screen.findByRole('group', { name: 'Change of the policy: 1 added, 1 removed' })).toBeTruthy();
    const link = screen.getByRole('link', { name: 'History of the policy of orders' });
    expect(link.getAttribute('href')).toMatch(/services\/default\/orders\?tab=policy&rev=30$/);
    expect(serviceOf({ action: 'policy.put', object: 'team/a/b' })).toEqual({ namespace: 'team', service: 'a/b' });
    expect(serviceOf({ action: 'instance.drain', object: 'default/orders/a' })).toBeNull();
  }, 60_000);
});

describe('a group of instances', () => {
  const drained = { by: 'ada', reason: '', since_ms: 1 };
  const all = [
    instance({ id: 'a', node: 'host-1' }), instance({ id: 'b', node: 'host-2' }), instance({ id: 'c', node: 'host-1', drain: drained, routable: false }),
    instance({ id: 'd', node: 'host-1', service: 'carts' }), instance({ id: 'e', node: 'host-11', service: 'carts' }),
  ];
  const services = [service({ routable: 2 }), service({ name: 'carts', routable: 1 })];

  it('is planned by service, with what remains serving', () => {
    const plan = (action: 'drain' | 'return') =>
      planOf(all, { kind: 'node', value: 'host-1', action }, services).map((p) => [p.name, p.instances.map((i) => i.id), p.servingNow, p.servingAfter]);
    expect(plan('drain')).toEqual([['carts', ['d'], 1, 0], ['orders', ['a'], 2, 1]]);
    expect(plan('return')).toEqual([['orders', ['c'], 2, 3]]);
    expect(planOf(all, { kind: 'node', value: 'host-1', action: 'drain' }, [])[0]?.servingAfter).toBeNull();
  });

  it('is worked off although one fails', async () => {
    const told: [number, Outcome][] = [];
    const work = (n: number) => (n === 2 ? Promise.reject(new Error('no')) : Promise.resolve());
    await runAll([1, 2, 3, 4, 5, 6], work, (n, outcome) => told.push([n, outcome]), (error) => (error as Error).message);
    expect(told.sort(([a], [b]) => a - b)).toEqual([[1, 'done'], [2, { problem: 'no' }], [3, 'done'], [4, 'done'], [5, 'done'], [6, 'done']]);
  });

  it('of services that the page has not loaded is not said to leave none serving, and is drained only after a typed name', async () => {
    scriptFetch(
      common({
        'GET /services': () => ({ items: [service({ name: 'other' })], next_cursor: null }),
        'GET /instances': () => ({ items: all, next_cursor: null }),
      }),
    );
    await open('#/services');
    await userEvent.click(await screen.findByRole('button', { name: 'Drain a group…' }));
    const dialog = within(await screen.findByRole('dialog'));
    fireEvent.change(dialog.getByLabelText('Node'), { target: { value: 'host-1' } });
    expect(await dialog.findByText(/How many instances of carts, orders remain serving is not known/)).toBeTruthy();
    expect(dialog.queryByText(/remains? serving\.$/)).toBeNull();
    expect(dialog.getByText('Drain 2 instances').getAttribute('aria-disabled')).toBe('true');
    expect(dialog.getByLabelText('Type host-1 to confirm')).toBeTruthy();
  }, 60_000);

  it('is drained after a warning and a typed name, tells each outcome, and can be tried again and returned', async () => {
    const user = userEvent.setup();
    let refuse = true;
    const asked = scriptFetch(
      common({
        'GET /services': () => ({ items: services, next_cursor: null }),
        'GET /instances': () => ({ items: all, next_cursor: null }),
        [`PUT ${SERVICE}/instances/a/drain`]: () => (refuse ? problem(503, 'unavailable', 'there is no leader') : { index: 22, changed: true }),
        'PUT /services/default/carts/instances/d/drain': () => ({ index: 22, changed: true }),
        [`DELETE ${SERVICE}/instances/a/drain`]: () => ({ index: 23, changed: true }),
        'DELETE /services/default/carts/instances/d/drain': () => ({ index: 23, changed: true }),
      }),
    );
    await open('#/services');
    await user.click(await screen.findByRole('button', { name: 'Drain a group…' }));
    const dialog = within(await screen.findByRole('dialog'));
    const fill = (label: string, value: string) => fireEvent.change(dialog.getByLabelText(label), { target: { value } });
    fill('Node', 'host-1');
    expect(await dialog.findByText(/2 instances of 2 services get no new requests.*1 instance of these services remains serving/)).toBeTruthy();
    expect(dialog.getByText(/No instance of carts remains serving/)).toBeTruthy();
    const go = dialog.getByText('Drain 2 instances');
    expect(go.getAttribute('aria-disabled')).toBe('true');
    fill('Type host-1 to confirm', 'host-1');
    fill('Reason', 'new kernel');
    await waitFor(() => expect(go.getAttribute('aria-disabled')).toBeNull());
    await user.click(go);
    expect(await dialog.findByText('1 of 2 instances drained, 1 failed.')).toBeTruthy();
    expect(dialog.getByText(/^Failed: /).closest('tr')?.textContent).toMatch(/^aorders/);
    refuse = false;
    await user.click(dialog.getByText('Try the failed ones again'));
    expect(await dialog.findByText('2 of 2 instances drained.')).toBeTruthy();
    const puts = asked.filter((a) => a.method === 'PUT');
    expect(puts.map((a) => a.body)).toEqual([{ reason: 'new kernel' }, { reason: 'new kernel' }, { reason: 'new kernel' }]);
    await user.click(dialog.getByText('Return them'));
    expect(await dialog.findByText('2 of 2 instances returned.')).toBeTruthy();
    expect(asked.filter((a) => a.method === 'DELETE').length).toBe(2);
  }, 60_000);
});

describe('versions side by side', () => {
  const all = [
    instance({ id: 'a', version: '1.9.0', weight: 3 }), instance({ id: 'b', version: '1.10.0', weight: 1 }),
    instance({ id: 'c', version: '1.8.0', routable: false }),
  ];
  it('have shares by the split, or by weight without one', () => {
    expect(versionsOf(all, split(['2.0.0', 1]))).toEqual(['2.0.0', '1.10.0', '1.9.0', '1.8.0']);
    expect(Object.fromEntries(sharesOf(all, null))).toEqual({ '1.9.0': 0.75, '1.10.0': 0.25 });
    // A share of a version without a serving instance goes to the others.
    expect(Object.fromEntries(sharesOf(all, split(['1.9.0', 90], ['1.8.0', 10])))).toEqual({ '1.9.0': 1 });
  });
  it('are promoted and aborted by the split, and nothing else of the policy changes', () => {
    const policy: Policy = { selection: { strategy: 'rendezvous' }, ...split(['1.9.0', 90], ['1.10.0', 10]) };
    expect(promoted(policy, '1.10.0')).toEqual({ ...policy, ...split(['1.10.0', 1]) });
    expect(aborted(policy, '1.10.0', all)).toEqual({ ...policy, ...split(['1.9.0', 90]) });
    expect(aborted(null, '1.10.0', all)).toEqual(split(['1.9.0', 3]));
    expect(aborted(split(['1.9.0', 1]), '1.9.0', all)).toBeNull();
  });

  const trace = (n: number, attempts: Partial<TraceEntry['attempts'][number]>[]) =>
    ({ trace_id: `t${n}`, time_ms: n, attempts: attempts.map((a) => ({ instance: 'a', address: '', start_ms: 0, duration_ms: n, status: 200, error: null, ...a })) }) as TraceEntry;
  it('are judged by the attempts that the page has seen, each once', () => {
    const seen = new SeenCalls();
    seen.add([trace(2, [{ status: 503 }, { instance: 'b' }]), trace(1, [{}])], 10);
    seen.add([trace(3, [{ status: null, error: 'lost_hedge' }]), trace(2, [{ status: 503 }])], 10);
    const of = byInstance(seen.all());
    expect(of.get('a')).toEqual({ calls: 2, success: 0.5, p50: 1, p95: 2 });
    expect(of.get('b')).toEqual({ calls: 1, success: 1, p50: 2, p95: 2 });
    seen.add([trace(2_000_000, [{}])], 2_000_000);
    expect(seen.all().length).toBe(1);
    expect(figuresOf([])).toEqual({ calls: 0, success: null, p50: null, p95: null });
  });
});

describe('the marks of a chart', () => {
  const record = (change: Partial<AuditRecord>) => ({ action: 'instance.drain', object: 'default/orders/a', user: 'ada', time_ms: 60_000, ...change }) as AuditRecord;
  it('are leaders, drains, policies and new versions', () => {
    const about = { namespace: 'default', name: 'orders' };
    expect(marksOf([record({ time_ms: 61_000, object: 'default/orders/b' }), record({})], about)).toEqual([{ at: 60_000, text: 'Drain of a by ada, and 1 more' }]);
    expect(marksOf([record({ action: 'policy.put', object: 'default/orders' })], null)[0]?.text).toBe('Change of the policy of orders by ada');
    expect(marksOf([record({ action: 'config.put', object: 'config', user: '' })], null)[0]?.text).toBe('Change of the configuration');
    expect(marksOf([record({ action: 'config.put', object: 'n1/log-level/maxine_raft, debug for 60000 ms' })], null)[0]?.text).toBe('Change of n1 only: log-level by ada');
    const grants = [{ holder: 'n2', from: 'n1', time_ms: 5 }, { holder: 'n1', from: null, time_ms: 1 }] as LeadershipGrant[];
    expect(leaderMarks(grants)).toEqual([{ at: 5, text: 'n2 became the leader', leader: true }]);
    const two = [instance({ version: '2', registered_at_ms: 9 }), instance({ version: '2', registered_at_ms: 7 }), instance({ version: null })];
    expect(deployMarks(two)).toEqual([{ at: 7, text: 'Version 2 registered' }]);
  });
  it('are listed if they are in the range of the chart', () => {
    const points = [0, 100, 200, 300].map((s) => ({ at: s * 1_000, value: 1 }));
    show(<Chart label="Requests" unit="/s" spanMs={120_000} series={[{ name: 'x', tint: 1, points }]} marks={[{ at: 10_000, text: 'too old' }, { at: 240_000, text: 'n1 became the leader', leader: true }, { at: 250_000, text: 'n2 became the leader', leader: true }, { at: 260_000, text: 'Drain of a' }]} />);
    expect(screen.getByRole('list', { name: /Changes during this time/ }).textContent).toMatch(
      /Drain of a.*n2 became the leader, the last of 2 changes of the leader$/,
    );
    expect(screen.queryByText(/too old/)).toBeNull();
  });
  it('say from when on they are complete', () => {
    expect(cutMark(null)).toEqual([]);
    expect(cutMark(7)).toEqual([{ at: 7, text: 'Not all earlier changes are marked' }]);
  });
});

describe('a chart', () => {
  const chart = (more: Partial<ChartProps>) => {
    const points = [0, 600, 1_200].map((s) => ({ at: s * 1_000, value: 7 }));
    const { container } = show(<Chart label="Requests" unit="/s" spanMs={3_600_000} series={[{ name: 'x', tint: 1, points }]} {...more} />);
    return { path: container.querySelector('path.chart-line')?.getAttribute('d') ?? '', legend: container.querySelector('.legend')?.textContent };
  };
  it('joins the values of long steps, and not those beyond a gap', () => {
    expect(chart({}).path.match(/M/g)).toHaveLength(3);
    expect(chart({ stepMs: 600_000 }).path.match(/M/g)).toHaveLength(1);
  });
  it('does not show an old value as the present one', () => {
    expect(chart({}).legend).toContain('7 /s');
    expect(chart({ endMs: 3_000_000 }).legend).toContain('–');
  });
});

describe('the charts of traffic', () => {
  const step = { at_ms: 0, requests: 60, registrations: 0, lookups: 50, lookups_failed: 0, proxied: 10, proxied_failed: 0, p50_us: 64, p95_us: 64_000, p99_us: 64_000 };
  const node = (name: string, problem: string | null = null) => ({ id: 1, name, http_addr: '', problem });
  function serve(nodes: unknown[]) {
    const view = (step_ms: number, lookups: number) => ({
      step_ms, now_ms: 10 * step_ms, nodes, complete: true, total: { ...step, lookups, proxied_failed: 4 },
      items: [step, { ...step, at_ms: step_ms, proxied_failed: 4 }],
    });
    return scriptFetch({
      'GET /cluster/traffic': ({ query }) => (query.get('range') === 'day' ? view(60_000, 500) : view(5_000, 40)),
      'GET /cluster/leadership': () => ({ items: [{ time_ms: 6_000, holder: 'n2', from: 'n1' }], next_cursor: null }),
      'GET /audit': () => ({ items: [], next_cursor: null }),
    });
  }
  it('have a range of up to 24 hours, which are read in longer steps, and never say an old range of the new one', async () => {
    const asked = serve([node('n1')]);
    show(<TrafficPanel />);
    await screen.findByText('4 of 50 calls in the last 1 h');
    await userEvent.click(screen.getByRole('button', { name: '24 h' }));
    await screen.findByText('4 of 510 calls in the last 24 h');
    const reads = asked.filter((a) => a.path === '/cluster/traffic');
    expect(reads.map((a) => a.query.get('range'))).toContain('day');
    const spans = reads.map((a) => Math.round((clusterNow() - Number(a.query.get('since_ms'))) / 60_000));
    expect([...new Set(spans)]).toEqual([60, 1_440]);
  });
  it('add up all nodes, name those that are missing, and show requests, success and p95 with what changed', async () => {
    serve([node('n1'), node('n2', 'no answer within 1.5 s')]);
    show(<TrafficPanel />);
    await screen.findByText('1 of 2 nodes answered: without n2');
    expect(screen.getByRole('img', { name: /^Requests a second\. Look-ups: latest .*Failed \(5xx\): latest 0 / })).toBeTruthy();
    expect(screen.getByRole('img', { name: /^Success of proxied calls\. Success: latest 60 %, lowest 60, highest 100/ })).toBeTruthy();
    expect(screen.getByRole('img', { name: /^Time to first byte of proxied calls\..* p95: latest 64 ms/ })).toBeTruthy();
    // Every chart marks the change, and one of them lists it.
    expect(document.querySelectorAll('.chart-mark')).toHaveLength(3);
    expect(screen.getByRole('list', { name: 'Changes during this time: Requests a second' }).textContent).toContain('n2 became the leader');
  });
});
