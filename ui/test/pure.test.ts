import { describe, expect, it } from 'vitest';
import { byUrgency, hasErrors, isFailing, needsAttention, stateOfService } from '../src/api/calls';
import { clusterNow, forgetClock, learn } from '../src/api/clock';
import { stalenessOf, type Connection } from '../src/api/connection';
import { matches, routable, stateOf, usedInPanic } from '../src/api/instances';
import { knownBases, peerUrl, rememberPeers } from '../src/api/peers';
import { SseParser } from '../src/api/sse';
import { DAY_MS, endOfTraffic, latencies, rates, successes, wholeSteps, type TrafficStep } from '../src/api/traffic';
import type { Alert, ClusterStatus, LeadershipGrant, Member, NodeReport, ServiceCalls, TraceEntry } from '../src/api/types';
import { scaleOf } from '../src/parts/chart';
import { diffLines, folded, stable } from '../src/parts/diff';
import { bytes, duration, relative, short } from '../src/parts/format';
import { csv } from '../src/parts/download';
import { groupsOf, said } from '../src/screens/alerts/groups';
import { withValue } from '../src/screens/service/policy-fields';
import { doubtsOf } from '../src/screens/service/policy-check';
import { disagreements } from '../src/screens/cluster/node-reports';
import { reachOf, toleranceOf } from '../src/screens/cluster/reach';
import { causeOf, gapsOf, termsOf } from '../src/screens/cluster/leadership';
import { covered, edgesOf, figuresOfEdge, type Edge } from '../src/screens/dependencies/graph';
import { left } from '../src/screens/overview/objectives-panel';
import { lowEnd } from '../src/parts/traffic-charts';
import { checkPolicy, parsePolicy } from '../src/screens/service/policy-check';
import { isAbout, isCall } from '../src/screens/traces/about';
import { spansOf } from '../src/screens/traces/waterfall';
import { changesOf } from '../src/screens/config/config-history';
import { instance, service } from './fixture';

describe('the event stream', () => {
  it('joins messages that arrive in pieces, with any line end', () => {
    const parser = new SseParser();
    const text = ': hello\n\nid: 7\r\nevent: ready\r\ndata: {"index"\r\ndata: :7}\r\n\r\ndata: x\n\n';
    const got = [...text].flatMap((c) => parser.push(c));
    expect(got).toEqual([
      { event: 'comment', data: 'hello', id: null },
      { event: 'ready', data: '{"index"\n:7}', id: '7' },
      { event: 'message', data: 'x', id: '7' },
    ]);
  });
  it('refuses a message without end', () => {
    const parser = new SseParser();
    expect(() => parser.push('a'.repeat(5_000_000))).toThrow('too long');
  });
});

describe('instances', () => {
  const bad = instance({ health: { readiness: 'not_ready', liveness: 'alive', reason: '', since_ms: 0, flap_score: 0 }, routable: false });
  it('names a drained instance drained, whatever its health', () => {
    expect(stateOf({ ...bad, drain: { by: 'a', reason: '', since_ms: 0 } })).toBe('draining');
    expect(stateOf(bad)).toBe('unhealthy');
    expect(routable(bad)).toBe(false);
  });
  it('says that an unhealthy instance gets traffic in panic mode', () => {
    expect(usedInPanic({ ...bad, routable: true })).toBe(true);
    expect(usedInPanic({ ...bad, routable: true, health: { ...bad.health, liveness: 'evicted' } })).toBe(true);
    expect(usedInPanic(bad)).toBe(false);
    expect(usedInPanic({ ...bad, routable: true, health: { ...bad.health, readiness: 'ready' } })).toBe(false);
  });
  it('filters by the rules of the server', () => {
    expect(matches(bad, { health: 'unhealthy' })).toBe(true);
    expect(matches(bad, { health: 'routable' })).toBe(false);
    expect(matches(bad, { q: '10.0.0.1' })).toBe(true);
    expect(matches(bad, { q: 'nope' })).toBe(false);
  });
});

describe('staleness', () => {
  const fresh: Connection = {
    base: '', stream: 'live', heardAt: 1_000, leader: 'known', leaderLostAt: null,
    stalenessMs: 0, index: 1, lastError: null, silentSince: null, failedReads: 0,
  };
  it('says lost before no leader, and no leader before behind', () => {
    expect(stalenessOf(fresh, 2_000)).toEqual({ kind: 'fresh' });
    expect(stalenessOf({ ...fresh, stream: 'lost', leader: 'unknown' }, 5_000)).toEqual({ kind: 'lost', ageMs: 4_000 });
    expect(stalenessOf({ ...fresh, leader: 'unknown', leaderLostAt: 2_000 }, 5_000)).toEqual({ kind: 'no-leader', ageMs: 3_000 });
    expect(stalenessOf({ ...fresh, stalenessMs: 9_000 }, 5_000)).toEqual({ kind: 'behind', ageMs: 9_000 });
    expect(stalenessOf({ ...fresh, stalenessMs: null }, 5_000)).toEqual({ kind: 'unknown' });
    expect(stalenessOf({ ...fresh, silentSince: 2_000 }, 5_000)).toEqual({ kind: 'lost', ageMs: 4_000 });
    expect(stalenessOf({ ...fresh, failedReads: 2 }, 5_000)).toEqual({ kind: 'partly', failedReads: 2 });
  });
});

describe('peers', () => {
  it('takes hosts and URLs, and nothing that is not HTTP', () => {
    expect(peerUrl('10.0.0.1:8080')).toBe('http://10.0.0.1:8080');
    expect(peerUrl('https://a.example/x')).toBe('https://a.example');
    expect(peerUrl('javascript://alert(1)')).toBeNull();
    expect(peerUrl('')).toBeNull();
  });
  it('remembers others, never itself', () => {
    const member = (http_addr: string) => ({ http_addr }) as Member;
    rememberPeers([member(location.host), member('10.0.0.2:8080')]);
    expect(knownBases()).toEqual(['', 'http://10.0.0.2:8080']);
    localStorage.setItem('maxine.peers', '["javascript:alert(1)", 5]');
    expect(knownBases()).toEqual(['']);
  });
});

describe('an error budget', () => {
  it('is shown as what is left of it', () => {
    expect(left(1)).toEqual({ text: '100 % left', tone: 'good' });
    expect(left(0.2)).toEqual({ text: '20 % left', tone: 'warn' });
    expect(left(0)).toEqual({ text: 'Spent', tone: 'bad' });
    expect(left(-3)).toEqual({ text: 'Spent', tone: 'bad' });
    expect(left(null)).toEqual({ text: '–', tone: 'muted' });
  });
});

describe('success', () => {
  it('is known only where there were proxied calls, and its scale begins below the lowest value', () => {
    const step = (at_ms: number, proxied: number, proxied_failed: number): TrafficStep => ({
      at_ms, requests: 9, lookups: 9, lookups_failed: 9, proxied, proxied_failed, registrations: 0, p50_us: null, p95_us: null, p99_us: null,
    });
    const steps = [step(0, 4, 1), step(5_000, 0, 0), step(10_000, 2, 0)];
    expect(successes({ stepMs: 5_000, nowMs: 60_000, steps })).toEqual([{ at: 5_000, value: 75 }, { at: 15_000, value: 100 }]);
    for (const lowest of [100, 99.5, 97, 91, 60, 0]) expect(lowEnd([100, lowest])).toBeLessThan(Math.max(lowest, 1));
  });
});

describe('traffic', () => {
  const step = (at_ms: number, lookups: number, p50_us: number | null = null): TrafficStep => ({
    at_ms, requests: lookups, lookups, lookups_failed: 0, proxied: 0, proxied_failed: 0, registrations: 0, p50_us, p95_us: null, p99_us: null,
  });
  it('has no gaps, and leaves out the step that is under way', () => {
    const steps = wholeSteps({ step_ms: 5_000, now_ms: 22_000, items: [step(5_000, 10, 2_048), step(15_000, 5), step(20_000, 1)] });
    expect(steps.map((s) => [s.at_ms, s.lookups])).toEqual([[5_000, 10], [10_000, 0], [15_000, 5]]);
    const traffic = { stepMs: 5_000, nowMs: 22_000, steps, total: step(5_000, 15) };
    expect(rates(traffic, (s) => s.lookups)).toEqual([
      { at: 10_000, value: 2 },
      { at: 15_000, value: 0 },
      { at: 20_000, value: 1 },
    ]);
    expect(latencies(traffic, (s) => s.p50_us)).toEqual([{ at: 10_000, value: 2.048 }]);
    expect(wholeSteps({ step_ms: 5_000, now_ms: 1, items: [] })).toEqual([]);
  });
  it('of a service that was called before the range begins has its steps where they are', () => {
    const steps = wholeSteps({ step_ms: 5_000, now_ms: 3_622_000, items: [step(5_000, 9), step(3_600_000, 3)] });
    expect(steps[0]?.at_ms).toBe(25_000);
    expect(steps.filter((s) => s.lookups > 0).map((s) => s.at_ms)).toEqual([3_600_000]);
  });
  it('of a day has the present long step, with the rate of the time that has passed', () => {
    const items = [step(0, 6_000, 64), step(600_000, 1_200, 128)];
    const at = (nowMs: number) => {
      const view = { step_ms: 600_000, now_ms: nowMs, items };
      return { stepMs: 600_000, nowMs, steps: wholeSteps(view, DAY_MS), total: step(0, 7_200) };
    };
    expect(rates(at(720_000), (s) => s.lookups)).toEqual([{ at: 600_000, value: 10 }, { at: 720_000, value: 10 }]);
    expect(endOfTraffic(at(720_000))).toBe(720_000);
    // What has just begun would look like a drop.
    expect(rates(at(630_000), (s) => s.lookups)).toEqual([{ at: 600_000, value: 10 }]);
    expect(wholeSteps({ step_ms: 600_000, now_ms: 30 * DAY_MS, items }, DAY_MS)).toHaveLength(144);
  });
});

describe('differences', () => {
  it('are the least that change one text into the other', () => {
    expect(diffLines('a\nb\nc', 'a\nx\nc').map((l) => l.kind + l.text)).toEqual(['samea', 'removedb', 'addedx', 'samec']);
    expect(diffLines('', 'a')).toEqual([{ kind: 'added', text: 'a' }]);
    expect(diffLines('a', 'a').every((l) => l.kind === 'same')).toBe(true);
  });
  it('hide long stretches without a change, and count them', () => {
    const before = Array.from({ length: 20 }, (_, i) => `l${i}`).join('\n');
    const lines = folded(diffLines(before, before.replace('l10', 'x')));
    expect(lines[0]).toEqual({ hidden: 7 });
    expect(lines.at(-1)).toEqual({ hidden: 6 });
    expect(lines).toHaveLength(10);
  });
  it('do not depend on the order of keys', () => {
    expect(stable({ b: 1, a: { d: 1, c: 2 } })).toBe(stable({ a: { c: 2, d: 1 }, b: 1 }));
  });
});

describe('figures', () => {
  it('are short', () => {
    expect([short(0), short(1234567), short(12_345), short(1.234), short(0.001)]).toEqual(['0', '1.23 M', '12.3 k', '1.23', '<0.01']);
    expect([bytes(10), bytes(1536), bytes(5 * 1024 ** 3)]).toEqual(['10 B', '1.5 KiB', '5 GiB']);
    expect([duration(0.4), duration(250), duration(1_500), duration(61_000), duration(7_200_000)]).toEqual([
      '0.4 ms', '250 ms', '1.5 s', '1 min 1 s', '2 h',
    ]);
    expect(relative(1_000, 5_000)).toBe('4 s ago');
    expect(relative(65_000, 5_000)).toBe('in 1 min');
  });
  it('have a scale of round numbers that holds the highest', () => {
    for (const max of [0.3, 1, 7, 99, 1234]) {
      const { top, ticks } = scaleOf(max);
      expect(top).toBeGreaterThanOrEqual(max);
      expect(ticks[0]).toBe(0);
      expect(ticks.length).toBeLessThanOrEqual(6);
    }
  });
});

describe('a split', () => {
  const belief = (node: string, change: Partial<NodeReport> = {}): NodeReport => ({
    node, leader: 'n1', is_leader: false, term: 3, index: 10, audit_head: 'aa', version: '1', uptime_ms: 1,
    staleness_ms: 0, log: null, lookups: 0, proxied: 0, failed: 0, ...change,
  });
  it('is seen when two claim one term, or states differ', () => {
    expect(disagreements([belief('n1', { is_leader: true }), belief('n2'), belief('n3')])).toEqual([]);
    expect(disagreements([belief('n1', { is_leader: true }), belief('n2', { is_leader: true, index: 9 })])[0]).toContain('both claim');
    expect(disagreements([belief('n1'), belief('n2', { audit_head: 'bb' })])[0]).toContain('different histories');
  });
  it('is not an old leader that has not heard yet', () => {
    expect(disagreements([belief('n1', { is_leader: true, term: 2, index: 8 }), belief('n2', { is_leader: true })])).toEqual([]);
  });
});

describe('leadership', () => {
  it('changes for a cause, with the time in which writes failed', () => {
    const grant = (more: Partial<LeadershipGrant>): LeadershipGrant => ({
      index: 9, time_ms: 50_000, holder: 'n2', fence: 9, cause: 'unknown', from: null, gap_ms: null, by: null, ...more,
    });
    expect(causeOf(grant({ cause: 'silence', from: 'n1', gap_ms: 812 }))).toBe('n1 stopped responding');
    expect(causeOf(grant({ cause: 'transfer', from: 'n1', by: 'ada' }))).toBe('Transferred by n1, requested by ada');
    expect(causeOf(grant({}))).toMatch(/^Elected/);
    const told = gapsOf([grant({ gap_ms: 800 }), grant({ time_ms: 9_000 })], [
      { from: 49_400, to: 50_100 },
      { from: 20_000, to: 21_000 },
      { from: 90_000, to: null },
    ]);
    expect(told).toEqual([
      { from: 20_000, to: 21_000 },
      { from: 49_200, to: 50_000 },
      { from: 90_000, to: null },
    ]);
  });
  it('lasts from one grant to the next', () => {
    const grants = [
      { index: 9, time_ms: 500, holder: 'n2', fence: 2 },
      { index: 1, time_ms: 100, holder: 'n1', fence: 1 },
    ] as LeadershipGrant[];
    expect(termsOf(grants, 900).map((t) => [t.holder, t.from, t.to])).toEqual([
      ['n1', 100, 500],
      ['n2', 500, 900],
    ]);
  });
});

describe('reach', () => {
  const member = (id: number, change: Partial<Member> = {}) =>
    ({ id, name: `n${id}`, voter: true, leader: id === 1, reachable: false, last_contact_ms: null, ...change }) as Member;
  const status = (is_leader: boolean, members: Member[]) =>
    ({ leadership: { leader: 'n1', is_leader, term: 1 }, raft: { node_id: is_leader ? 1 : 2, members } }) as ClusterStatus;
  it('is judged by the leader; a follower does not call others lost', () => {
    const seen = status(false, [member(1, { reachable: true, last_contact_ms: 60 }), member(2), member(3, { reachable: null })]);
    expect(seen.raft?.members.map((m) => reachOf(seen, m))).toEqual(['reached', 'here', 'unknown']);
    expect(toleranceOf(seen)).toMatchObject({ more: 0, there: 2, certain: false });
    const answered = [{ id: 3, name: 'n3', http_addr: '', report: null, problem: 'gone' }];
    expect(toleranceOf(seen, answered)).toMatchObject({ more: 0, there: 2, certain: true });
    const led = status(true, [member(1), member(2, { reachable: true }), member(3)]);
    expect(led.raft?.members.map((m) => reachOf(led, m))).toEqual(['here', 'reached', 'cut-off']);
    expect(toleranceOf(led)).toMatchObject({ more: 0, there: 2, certain: true });
    const all = status(true, [member(1), member(2, { reachable: true }), member(3, { reachable: true })]);
    expect(toleranceOf(all)).toMatchObject({ more: 1, there: 3 });
    all.leadership.leader = null;
    expect(toleranceOf(all)).toMatchObject({ more: 0 });
    const alone = status(true, [member(1), member(2), member(3, { reachable: null })]);
    alone.leadership.leader = null;
    expect(toleranceOf(alone)).toMatchObject({ more: 0, there: 1, majority: 2 });
  });
});

describe('policies', () => {
  it('are checked as the server does', () => {
    expect(checkPolicy({})).toEqual({});
    expect(checkPolicy({ probe: { kind: 'http', path: 'http://x', interval_ms: 5, fall: 1.5 } })).toMatchObject({
      'probe.path': expect.stringContaining('not a URL'),
      'probe.interval_ms': expect.stringContaining('100'),
      'probe.fall': expect.stringContaining('whole'),
    });
    expect(checkPolicy({ selection: { hash_key: { from: 'header', name: 'a b' } } })).toHaveProperty(['selection.hash_key']);
    expect(checkPolicy({ probe: { path: 'x'.repeat(70_000) } })).toHaveProperty(['']);
    const limits = checkPolicy({ traffic: { timeouts: { connect_ms: 9 }, retries: { attempts: 11 }, split: [{ version: 'a', weight: 1_001 }] } });
    expect(Object.keys(limits)).toEqual(['traffic.timeouts.connect_ms', 'traffic.retries.attempts', 'traffic.split']);
  });
  it('are objects', () => {
    expect(parsePolicy('[]')).toHaveProperty('mistake');
    expect(parsePolicy('{')).toHaveProperty('mistake');
    expect(parsePolicy('{"a": 1}')).toEqual({ policy: { a: 1 } });
  });
});

describe('traces', () => {
  it('tell their service and kind as the server does, whatever the path', () => {
    const call = { ...trace('/x', 0, 1), kind: 'proxied', namespace: 'eu', service: 'orders' } as const;
    expect(isAbout(call, 'eu', 'orders')).toBe(true);
    expect(isAbout(call, 'default', 'orders')).toBe(false);
    expect(isAbout({ ...call, kind: 'other' }, 'eu', 'orders')).toBe(false);
    expect([isCall({ kind: 'lookup' }), isCall({ kind: 'registration' })]).toEqual([true, false]);
  });
  const trace = (path: string, at: number, took: number, status = 200): TraceEntry => ({
    trace_id: 't', traceparent: '', method: 'GET', path, kind: 'other', namespace: null, service: null, attempts: [], status, duration_ms: took, time_ms: at, client: '10.1.1.1:5000',
  });
  it('lie on one axis', () => {
    const { spans, fromMs, lengthMs } = spansOf([trace('/b', 1_040, 50), trace('/a', 1_000, 100)]);
    expect(spans.map((s) => [s.entry.path, s.startMs])).toEqual([
      ['/a', 0],
      ['/b', 40],
    ]);
    expect([fromMs, lengthMs]).toEqual([1_000, 100]);
  });
  it('have their attempts on the same axis', () => {
    const attempt = { address: 'http://10.0.0.1', duration_ms: 20, status: null, error: 'connect_failed' };
    const tried = [
      { ...attempt, instance: 'a', start_ms: 1 },
      { ...attempt, instance: 'b', start_ms: 22, status: 200, error: null },
    ];
    const { spans } = spansOf([trace('/a', 1_000, 100), { ...trace('/b', 1_040, 50), attempts: tried }]);
    expect(spans.map((s) => s.attempts.map((a) => [a.attempt.instance, a.startMs]))).toEqual([
      [],
      [
        ['a', 41],
        ['b', 62],
      ],
    ]);
  });
  it('make a graph, with the instances that were reached', () => {
    const attempt = { instance: 'orders-1', address: 'http://10.0.0.1:80', start_ms: 0, duration_ms: 1, status: 200, error: null };
    const proxied = { kind: 'proxied' as const, namespace: 'default', service: 'orders', attempts: [attempt] } satisfies Partial<TraceEntry>;
    const edges = edgesOf(
      [
        { ...trace('/x', 1, 5), ...proxied },
        { ...trace('/x', 2, 5, 502), ...proxied, attempts: [] },
        { ...trace('/y', 3, 5), kind: 'lookup', namespace: 'default', service: 'orders' },
        trace('/api/v1/cluster/status', 4, 5),
      ],
      [{ timestamp: '', type: 'discovery.lookup', outcome: 'RESOLVED', serviceName: 'orders', nodeName: 'orders-2-0', address: 'http://10.0.0.1:80/x', traceId: 't' }],
    );
    expect(edges).toHaveLength(1);
    // Look-ups have no part in the latency.
    expect(edges[0]?.durations).toEqual([5, 5]);
    expect(figuresOfEdge(edges[0] as Edge, 60_000)).toEqual({ perS: 0.05, success: 1 - 1 / 3, p50: 5, p95: 5 });
    // A rate counts the time of which anything is known.
    const traces = [trace('/x', 100_000, 5), trace('/y', 160_000, 5)];
    expect([900_000, 60_000].map((range) => covered(traces, 220_000, range))).toEqual([120_000, 60_000]);
    expect(covered([], 220_000, 60_000)).toBe(10_000);
    expect(edges[0]).toMatchObject({ caller: '10.1.1.1', service: 'orders', calls: 3, failed: 1 });
    expect([...(edges[0]?.targets ?? [])]).toEqual([['orders-1', 1], ['orders-2', 1]]);
  });
});

describe('a change of the configuration', () => {
  it('is told by its fields', () => {
    const config = { log_async: true, log_json_prettify: false, heartbeat_timeout_s: 5, selection_strategy: 'round_robin', discovery_mode: 'redirect', log_format: 'json', kv_keys_max: null, kv_len_max: null } as const;
    expect(changesOf(config, { ...config, heartbeat_timeout_s: 17, log_async: false })).toEqual([
      { field: 'heartbeat_timeout_s', from: '5', to: '17' },
      { field: 'log_async', from: 'true', to: 'false' },
    ]);
    expect(changesOf(config, config)).toEqual([]);
  });
});

describe('the clock of the cluster', () => {
  it('is known within a second, whatever the browser thinks of the time', () => {
    forgetClock();
    const wrong = -3 * 3_600_000;
    for (const ms of [100, 2_350, 5_900, 9_450]) {
      const server = Date.now() + ms - wrong;
      // The header has whole seconds, and each way took 20 ms.
      learn(new Date(server).toUTCString(), Date.now() + ms - 20, Date.now() + ms + 20);
    }
    expect(Math.abs(clusterNow() - Date.now() + wrong)).toBeLessThan(1_000);
    // The clock of the browser was set right.
    learn(new Date().toUTCString(), Date.now(), Date.now());
    expect(clusterNow() - Date.now()).toBe(0);
    learn('nonsense', 0, 0);
    learn(null, 0, 0);
    expect(clusterNow() - Date.now()).toBe(0);
  });
  it('says when a token of 90 days ends', () => {
    expect(relative(90 * 86_400_000, 0)).toBe('in 90 days');
  });
});

describe('calls', () => {
  const calls = (proxied: number, proxied_failed: number): ServiceCalls => ({
    namespace: 'default', service: 'orders', lookups: 9, lookups_failed: 0, proxied, proxied_failed, p50_us: null, p95_us: null, p99_us: null,
  });
  const all = (own: ServiceCalls) => new Map([['default/orders', own]]);
  it('that all fail make a service failing, although its probes pass', () => {
    expect(isFailing(calls(40, 40))).toBe(true);
    expect(isFailing(calls(40, 39))).toBe(false);
    // One accident is not enough, and look-ups do not count.
    expect(isFailing(calls(1, 1))).toBe(false);
    expect(isFailing(undefined)).toBe(false);
    expect(stateOfService(service(), all(calls(3, 3)))).toBe('failing');
    expect(stateOfService(service(), all(calls(3, 2)))).toBe('healthy');
    expect(stateOfService(service({ health: 'down' }), all(calls(3, 3)))).toBe('down');
    // What is listed under Needs attention is never green.
    expect(stateOfService(service(), all(calls(100, 6)))).toBe('degraded');
    expect(needsAttention(service(), all(calls(100, 6)))).toBe(true);
    expect(stateOfService(service(), all(calls(1_000, 6)))).toBe('healthy');
    expect(needsAttention(service(), all(calls(1_000, 6)))).toBe(false);
    expect(hasErrors(calls(0, 0))).toBe(false);
  });
  it('put what fails before what is down', () => {
    const list = [service({ name: 'b', health: 'down' }), service(), service({ name: 'a' })];
    expect(list.sort(byUrgency(all(calls(5, 5)))).map((s) => s.name)).toEqual(['orders', 'b', 'a']);
  });
});

describe('alerts', () => {
  const alert = (change: Partial<Alert>): Alert => ({
    id: 1, node: 'n1', time_ms: 1, state: 'active', resolved_ms: null, severity: 'warning', type: 't', object: 'o', message: '', details: {}, runbook: '',
    acknowledged_by: null, silenced: false, ...change,
  });
  it('of several nodes about one thing are one, the critical first', () => {
    const groups = groupsOf([
      alert({ node: 'n1', time_ms: 9 }), alert({ node: 'n2', time_ms: 8 }), alert({ node: 'n3', object: 'other', severity: 'critical' }),
      alert({ node: 'n3', state: 'resolved', resolved_ms: 5, time_ms: 20 }),
    ]);
    expect(groups.map((g) => [g.latest.object, g.nodes, g.open])).toEqual([
      ['other', ['n3'], true],
      ['o', ['n1', 'n2'], true],
      ['o', ['n3'], false],
    ]);
  });
  it('say of a condition that has ended that it was so', () => {
    const message = 'the leader is not known';
    expect(said(alert({ message }))).toBe(message);
    expect(said(alert({ message, state: 'event' }))).toBe(message);
    expect(said(alert({ message, state: 'resolved', resolved_ms: 5 }))).toBe(`Was reported: ${message}`);
  });
});

describe('the form of a policy', () => {
  it('changes one value, and keeps a section that is switched on', () => {
    const policy = withValue({}, ['traffic', 'timeouts', 'connect_ms'], 50);
    expect(policy).toEqual({ traffic: { timeouts: { connect_ms: 50 } } });
    expect(withValue(policy, ['traffic', 'timeouts', 'connect_ms'], undefined)).toEqual({});
    const on = withValue({}, ['traffic', 'retries'], {});
    expect(withValue(withValue(on, ['traffic', 'retries', 'attempts'], 2), ['traffic', 'retries', 'attempts'], undefined)).toEqual(on);
  });
  it('doubts a version that nobody has', () => {
    const policy = { traffic: { split: [{ version: '2.0', weight: 10 }, { version: '1.0', weight: 90 }] } };
    expect(doubtsOf(policy, new Set(['1.0']))).toEqual([expect.stringContaining('version 2.0')]);
    expect(doubtsOf(policy, null)).toEqual([]);
  });
});

describe('an export', () => {
  it('is CSV, and runs nothing in a spreadsheet', () => {
    const rows = [{ a: 'x,"y"', b: -1 }, { a: '=HYPERLINK("http://x")', b: null }];
    expect(csv(rows, [['a', (r) => r.a], ['b', (r) => r.b]])).toBe('a,b\r\n"x,""y""",-1\r\n"\'=HYPERLINK(""http://x"")",\r\n');
  });
});
