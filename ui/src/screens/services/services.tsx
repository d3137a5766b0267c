/** All services: search, filters, live health. By default the services with the worst health come first. */
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useDeferredValue, useMemo } from 'react';
import { fits } from '../../app/palette';
import { path } from '../../api/client';
import { byName, bySeverity, partsOf } from '../../api/instances';
import { servicesQuery } from '../../api/queries';
import type { ServiceSummary } from '../../api/types';
import { Bar } from '../../parts/chart';
import { Choice, Search, useTyped } from '../../parts/field';
import { count, plural } from '../../parts/format';
import { Screen } from '../../parts/layout';
import { Empty, Loaded, Note } from '../../parts/states';
import { ServiceStatus } from '../../parts/status';
import { Table, type Column } from '../../parts/table';
import { FirstRun } from '../overview/first-run';
import { strategyName } from '../service/names';

type Health = 'all' | 'bad' | 'healthy' | 'degraded' | 'down';

const COLUMNS: readonly Column<ServiceSummary>[] = [
  { key: 'health', head: 'Health', track: 'clamp(94px, 18vw, 114px)', cell: (s) => <ServiceStatus health={s.health} /> },
  {
    key: 'name',
    head: 'Service',
    track: 'minmax(80px, 2fr)',
    cell: (s) => (
      // This is a plain link, because with thousands of rows, links that follow the router's state would be slow.
      <a href={`#${path('services', s.namespace, s.name)}`} className="name" title={s.name} tabIndex={-1}>
        {s.name}
      </a>
    ),
  },
  { key: 'ns', head: 'Namespace', track: 'minmax(80px, 1fr)', from: 860, cell: (s) => <span className="muted">{s.namespace}</span> },
  {
    key: 'bar',
    head: 'Instances',
    track: 'minmax(90px, 1.2fr)',
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
    head: 'In use',
    // Wide enough for 50,000 of 50,000, and in a narrow window for 999 of 999.
    track: 'clamp(66px, 15vw, 118px)',
    end: true,
    cell: (s) => (
      <span className="num">
        {count(s.routable)} <span className={s.instances < 1_000 ? 'muted' : 'muted wide-only'}>/ {count(s.instances)}</span>
      </span>
    ),
  },
  { key: 'unhealthy', head: 'Unhealthy', track: '86px', end: true, from: 760, cell: (s) => <N n={s.unhealthy} tone="bad" /> },
  { key: 'evicted', head: 'Evicted', track: '72px', end: true, from: 1000, cell: (s) => <N n={s.evicted} tone="bad" /> },
  { key: 'draining', head: 'Drained', track: '72px', end: true, from: 900, cell: (s) => <N n={s.draining} tone="hold" /> },
  {
    key: 'strategy',
    head: 'Strategy',
    track: '150px',
    from: 1100,
    cell: (s) => (
      <span>
        {strategyName(s.strategy)}
        {s.policy_revision === null ? <span className="muted"> · default</span> : null}
      </span>
    ),
  },
];

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
  // If there are more services than the page loads, the server searches.
  const byServer = all.data?.complete === false && (q !== '' || health !== 'all');
  const found = useQuery({
    ...servicesQuery({ q, health: health === 'all' || health === 'bad' ? undefined : health }),
    enabled: byServer,
  });
  const source = byServer ? found.data : all.data;
  const rows = useMemo(() => {
    const items = (source?.items ?? []).filter(
      (s) =>
        (health === 'all' || s.health === health || (health === 'bad' && isBad(s))) &&
        (!search.ns || s.namespace === search.ns) &&
        (q === '' || fits(`${s.namespace}/${s.name}`, q)),
    );
    return items.sort(search.sort === 'name' ? byName : bySeverity);
  }, [source, health, q, search.ns, search.sort]);
  const counts = useMemo(() => tally(all.data?.items ?? []), [all.data]);
  const namespaces = useMemo(() => [...new Set((all.data?.items ?? []).map((s) => s.namespace))].sort(), [all.data]);
  const go = (change: Partial<typeof search>) =>
    void navigate({ to: '/services', search: { ...search, ...change }, replace: true });

  return (
    <Screen title="Services" fill>
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
                    { value: 'all', label: 'All', n: data.items.length },
                    { value: 'bad', label: 'Needs attention', n: counts.bad },
                    { value: 'down', label: 'Down', n: counts.down },
                    { value: 'degraded', label: 'Degraded', n: counts.degraded },
                    { value: 'healthy', label: 'Healthy', n: counts.healthy },
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
                  value={search.sort ?? 'severity'}
                  onChange={(e) => go({ sort: e.target.value === 'name' ? 'name' : undefined })}
                >
                  <option value="severity">Worst first</option>
                  <option value="name">By name</option>
                </select>
              </div>
              {data.complete ? null : (
                <Note tone="info">
                  The first {count(data.items.length)} services are shown. Search and the health filter use all of
                  them, on the server.
                </Note>
              )}
              <Table
                label="Services"
                rows={rows}
                columns={COLUMNS}
                rowKey={(s) => `${s.namespace}/${s.name}`}
                open={(s) =>
                  void navigate({
                    to: '/services/$namespace/$service',
                    params: { namespace: s.namespace, service: s.name },
                    search: {},
                  })
                }
                empty={<Empty title="No service found.">Change the search or the filter.</Empty>}
                foot={`${plural(rows.length, 'service')}${rows.length < data.items.length ? ` of ${count(data.items.length)}` : ''}`}
              />
            </>
          )
        }
      </Loaded>
    </Screen>
  );
}

function isBad(s: ServiceSummary): boolean {
  return s.health !== 'healthy' || s.unhealthy + s.evicted > 0;
}

function tally(items: readonly ServiceSummary[]) {
  const out = { healthy: 0, degraded: 0, down: 0, bad: 0 };
  for (const s of items) {
    out[s.health] += 1;
    if (isBad(s)) out.bad += 1;
  }
  return out;
}
