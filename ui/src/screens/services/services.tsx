/** All services: search, filters, live health. By default the services with the worst health come first. */
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useDeferredValue, useMemo } from 'react';
import { fits } from '../../app/palette';
import { path } from '../../api/client';
import { byOrder, callsOf, needsAttention, ORDERS, stateOfService, successOf, type CallsOf, type Order } from '../../api/calls';
import { partsOf } from '../../api/instances';
import { useTroubled } from '../../api/beyond';
import { callsQuery, servicesQuery } from '../../api/queries';
import type { ServiceSummary } from '../../api/types';
import { Bar } from '../../parts/chart';
import { Button } from '../../parts/button';
import { saveCsv } from '../../parts/download';
import { Choice, Search, useTyped } from '../../parts/field';
import { Answered } from '../../parts/answered';
import { count, duration, percent, plural, short } from '../../parts/format';
import { Screen } from '../../parts/layout';
import { Empty, Loaded, Note } from '../../parts/states';
import { ServiceStatus } from '../../parts/status';
import { Table, type Column } from '../../parts/table';
import { FirstRun } from '../overview/first-run';
import { strategyName } from '../service/names';
import { BulkDrain } from './bulk-drain';

type Health = 'all' | 'bad' | 'failing' | 'healthy' | 'degraded' | 'down';

const columnsWith = (calls: CallsOf | undefined, seconds: number): readonly Column<ServiceSummary>[] => [
  { key: 'health', head: 'Health', track: 'clamp(94px, 18vw, 114px)', cell: (s) => <ServiceStatus health={stateOfService(s, calls)} /> },
  {
    key: 'name',
    head: 'Service',
    track: 'minmax(80px, 2.6fr)',
    cell: (s) => (
      // This is a plain link, because with thousands of rows, links that follow the router's state would be slow.
      <a href={`#${path('services', s.namespace, s.name)}`} className="name" title={s.name} tabIndex={-1}>
        {s.name}
      </a>
    ),
  },
  { key: 'ns', head: 'Namespace', track: 'minmax(120px, 1fr)', from: 860, cell: (s) => <span className="muted">{s.namespace}</span> },
  {
    key: 'bar',
    head: 'Instances',
    track: 'minmax(70px, 1fr)',
    from: 620,
    cell: (s) => (
      <Bar
        label={`Instances of ${s.name}`}
        parts={partsOf(s)}
      />
    ),
  },
  {
    key: 'routable',
    head: 'Serving',
    // Wide enough for 50,000 of 50,000, and in a narrow window for 999 of 999.
    track: 'clamp(66px, 15vw, 118px)',
    end: true,
    cell: (s) => (
      <span className="num">
        {count(s.routable)} <span className={s.instances < 1_000 ? 'muted' : 'muted wide-only'}>/ {count(s.instances)}</span>
      </span>
    ),
  },
  {
    key: 'calls',
    head: 'Calls/s',
    track: '76px',
    end: true,
    from: 760,
    cell: (s) => {
      const own = callsOf(s, calls);
      return own && seconds > 0 ? <span className="num">{short((own.lookups + own.proxied) / seconds)}</span> : <None />;
    },
  },
  {
    key: 'success',
    head: 'Success',
    track: '86px',
    end: true,
    from: 680,
    cell: (s) => {
      const share = successOf(callsOf(s, calls));
      return share === null ? <None /> : <span className={share < 0.95 ? 'num text-bad' : 'num'}>{percent(share)}</span>;
    },
  },
  {
    key: 'p95',
    head: 'p95',
    track: '112px',
    end: true,
    from: 860,
    cell: (s) => {
      const us = callsOf(s, calls)?.p95_us ?? null;
      return us === null ? <None /> : <span className="num">≤ {duration(us / 1000)}</span>;
    },
  },
  // Each instance counts once.
  { key: 'unhealthy', head: 'Unhealthy', track: '86px', end: true, from: 960, cell: (s) => <N n={s.no_traffic.unhealthy} tone="bad" /> },
  { key: 'evicted', head: 'Evicted', track: '72px', end: true, from: 1120, cell: (s) => <N n={s.no_traffic.evicted} tone="bad" /> },
  { key: 'draining', head: 'Draining', track: '78px', end: true, from: 1040, cell: (s) => <N n={s.no_traffic.drained} tone="hold" /> },
  {
    key: 'strategy',
    head: 'Strategy',
    track: '150px',
    from: 1280,
    cell: (s) => (
      <span>
        {strategyName(s.strategy)}
        {s.policy_revision === null ? <span className="muted"> · default</span> : null}
      </span>
    ),
  },
];

export const exportedWith = (calls: CallsOf | undefined) =>
  [
    ['namespace', (s: ServiceSummary) => s.namespace],
    ['service', (s: ServiceSummary) => s.name],
    ['state', (s: ServiceSummary) => stateOfService(s, calls)],
    ['instances', (s: ServiceSummary) => s.instances],
    ['serving', (s: ServiceSummary) => s.routable],
    ['unhealthy', (s: ServiceSummary) => s.no_traffic.unhealthy],
    ['evicted', (s: ServiceSummary) => s.no_traffic.evicted],
    ['draining', (s: ServiceSummary) => s.no_traffic.drained],
    // Empty if no calls are known, like the dashes in the list.
    ['lookups_last_minute', (s: ServiceSummary) => callsOf(s, calls)?.lookups],
    ['proxied_last_minute', (s: ServiceSummary) => callsOf(s, calls)?.proxied],
    ['proxied_failed_last_minute', (s: ServiceSummary) => callsOf(s, calls)?.proxied_failed],
    ['p95_us', (s: ServiceSummary) => callsOf(s, calls)?.p95_us],
    ['strategy', (s: ServiceSummary) => s.strategy],
  ] as const;

function None() {
  return <span className="faint">–</span>;
}

function N({ n, tone }: { n: number; tone: string }) {
  return n === 0 ? <span className="faint num">0</span> : <span className={`num text-${tone}`}>{count(n)}</span>;
}

export function ServicesScreen() {
  const search = useSearch({ from: '/services' });
  const navigate = useNavigate();
  const health = (search.health ?? 'all') as Health;
  const [typed, setTyped] = useTyped(search.q);
  const q = useDeferredValue(typed.trim());
  const all = useQuery(servicesQuery());
  const calls = useQuery(callsQuery());
  const of = calls.data?.of;
  const order = (search.sort && search.sort in ORDERS ? search.sort : 'severity') as Order;
  const partial = all.data?.complete === false;
  const troubled = useTroubled(all.data, of);
  // If there are more services than the page loads, the server searches. Those that need attention are all loaded.
  const byServer = partial && (health === 'all' || health === 'healthy') && (q !== '' || health === 'healthy' || Boolean(search.ns));
  const found = useQuery({
    ...servicesQuery({ namespace: search.ns, q, health: health === 'healthy' ? health : undefined }),
    enabled: byServer,
  });
  const source = byServer ? found.data?.items : health === 'all' ? all.data?.items : troubled.items;
  const rows = useMemo(() => {
    const items = (source ?? []).filter(
      (s) =>
        (health === 'all' || stateOfService(s, of) === health || (health === 'bad' && needsAttention(s, of))) &&
        (!search.ns || s.namespace === search.ns) &&
        (q === '' || fits(`${s.namespace}/${s.name}`, q)),
    );
    return items.sort(byOrder(order, of));
  }, [source, health, q, search.ns, order, of]);
  const counts = useMemo(() => tally(troubled.items, of), [troubled.items, of]);
  /** A number of services, if it is the number of all of them. */
  const certain = (n: number, known: boolean) => (known ? n : undefined);
  const columns = useMemo(() => columnsWith(of, (calls.data?.windowMs ?? 0) / 1000), [of, calls.data?.windowMs]);
  const namespaces = useMemo(() => [...new Set((all.data?.items ?? []).map((s) => s.namespace))].sort(), [all.data]);
  const go = (change: Partial<typeof search>) =>
    void navigate({ to: '/services', search: { ...search, ...change }, replace: true });

  return (
    <Screen title="Services" fill actions={all.data && all.data.items.length > 0 ? <BulkDrain /> : null}>
      <Loaded query={all} what="services" rows={12}>
        {(data) =>
          data.items.length === 0 ? (
            <FirstRun namespace="default" />
          ) : (
            <>
              <div className="toolbar">
                <Search
                  value={typed}
                  label="Search services"
                  onChange={(next) => {
                    setTyped(next);
                    go({ q: next.trim() || undefined });
                  }}
                />
                <Choice
                  label="Health"
                  value={health}
                  onChange={(next) => go({ health: next === 'all' ? undefined : next })}
                  options={[
                    { value: 'all', label: 'All', n: certain(data.items.length, data.complete) },
                    { value: 'bad', label: 'Needs attention', n: certain(counts.bad, troubled.complete) },
                    { value: 'failing', label: 'Failing', n: certain(counts.failing, troubled.complete) },
                    { value: 'down', label: 'Down', n: certain(counts.down, troubled.complete) },
                    { value: 'degraded', label: 'Degraded', n: certain(counts.degraded, troubled.complete) },
                    { value: 'healthy', label: 'Serving', n: certain(counts.healthy, data.complete) },
                  ]}
                />
                {namespaces.length > 1 ? (
                  <select
                    aria-label="Namespace"
                    value={search.ns ?? ''}
                    onChange={(e) => go({ ns: e.target.value || undefined })}
                  >
                    <option value="">All namespaces</option>
                    {namespaces.map((ns) => (
                      <option key={ns}>{ns}</option>
                    ))}
                  </select>
                ) : null}
                <select
                  aria-label="Order"
                  value={order}
                  onChange={(e) => go({ sort: e.target.value === 'severity' ? undefined : e.target.value })}
                >
                  {Object.entries(ORDERS).map(([value, name]) => (
                    <option key={value} value={value}>
                      {name}
                    </option>
                  ))}
                </select>
                <Button icon="download" onClick={() => saveCsv('services', rows, exportedWith(of))}>
                  Export
                </Button>
              </div>
              {data.complete ? null : (
                <Note tone="info">
                  The first {count(data.items.length)} services are loaded. The search, the namespaces and the filters use all services
                  {troubled.complete ? '' : ', but not all that need attention are loaded yet'}. The orders and the list of namespaces
                  use those that are loaded.
                </Note>
              )}
              <Table
                label="Services"
                rows={rows}
                columns={columns}
                rowKey={(s) => `${s.namespace}/${s.name}`}
                open={(s) =>
                  void navigate({
                    to: '/services/$namespace/$service',
                    params: { namespace: s.namespace, service: s.name },
                    search: {},
                  })
                }
                empty={<Empty title="No services found.">Change the search or the filter.</Empty>}
                foot={
                  <>
                    {byServer && found.data?.complete === false ? 'the first ' : ''}
                    {plural(rows.length, 'service')}
                    {rows.length < data.items.length && data.complete ? ` of ${count(data.items.length)}` : ''} · calls of the last minute:{' '}
                    {calls.data ? <Answered nodes={calls.data.nodes} /> : calls.error ? 'not known' : 'loading'}
                  </>
                }
              />
            </>
          )
        }
      </Loaded>
    </Screen>
  );
}

function tally(items: readonly ServiceSummary[], calls: CallsOf | undefined) {
  const out = { failing: 0, healthy: 0, degraded: 0, down: 0, bad: 0 };
  for (const s of items) {
    out[stateOfService(s, calls)] += 1;
    if (needsAttention(s, calls)) out.bad += 1;
  }
  return out;
}
