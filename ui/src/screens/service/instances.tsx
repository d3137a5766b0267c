/** The instances of one service, and the sheet of the selected one. */
import { useInfiniteQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useCallback, useDeferredValue, useMemo } from 'react';
import { byKey, stateOf, usedInPanic } from '../../api/instances';
import { instancesQuery } from '../../api/queries';
import { asProblem } from '../../api/problem';
import { byInstance, useSeenCalls, type CallFigures } from '../../api/seen-calls';
import type { Instance, Service } from '../../api/types';
import { Choice, Search, useTyped } from '../../parts/field';
import { count, duration, iso, percent, plural } from '../../parts/format';
import { Empty, Failed, Loading } from '../../parts/states';
import { InstanceStatus } from '../../parts/status';
import { Table, type Column } from '../../parts/table';
import { Ago } from '../../parts/time';
import { Button } from '../../parts/button';
import { saveCsv } from '../../parts/download';
import { OPENS_SHEET, useCloseSheet } from '../../parts/sheet-history';
import { BulkDrain } from '../services/bulk-drain';
import { InstanceSheet } from './instance-sheet';

/** `seen` has the calls to each instance that the page has seen. */
const columnsWith = (seen: ReadonlyMap<string, CallFigures>): readonly Column<Instance>[] => [
  { key: 'state', head: 'State', track: 'clamp(100px, 20vw, 150px)', cell: (i) => <InstanceStatus state={stateOf(i)} used={usedInPanic(i)} /> },
  {
    key: 'id',
    head: 'Instance',
    track: 'minmax(90px, 1.3fr)',
    cell: (i) => (
      <span className="name" title={i.id}>
        {i.id}
      </span>
    ),
  },
  {
    key: 'address',
    head: 'Address',
    track: 'minmax(140px, 1.6fr)',
    from: 620,
    cell: (i) => (
      <span className="mono clip" title={i.address}>
        {i.address}
      </span>
    ),
  },
  {
    key: 'reason',
    head: 'Reason',
    track: 'minmax(120px, 2fr)',
    from: 900,
    cell: (i) => (
      <span className="muted clip" title={reasonOf(i)}>
        {reasonOf(i)}
      </span>
    ),
  },
  { key: 'zone', head: 'Zone', track: '90px', from: 1060, cell: (i) => <span className="clip">{i.zone ?? <None />}</span> },
  { key: 'version', head: 'Version', track: '90px', from: 980, cell: (i) => <span className="clip">{i.version ?? <None />}</span> },
  {
    key: 'success',
    head: 'Success',
    track: '80px',
    end: true,
    from: 1140,
    cell: (i) => {
      const success = seen.get(i.id)?.success ?? null;
      return success === null ? <None /> : <span className={success < 0.95 ? 'num text-bad' : 'num'}>{percent(success)}</span>;
    },
  },
  {
    key: 'p95',
    head: 'p95',
    track: '96px',
    end: true,
    from: 1140,
    cell: (i) => {
      const p95 = seen.get(i.id)?.p95 ?? null;
      return p95 === null ? <None /> : <span className="num">{duration(p95)}</span>;
    },
  },
  { key: 'weight', head: 'Weight', track: '64px', end: true, from: 480, cell: (i) => <span className="num">{i.weight}</span> },
  {
    key: 'since',
    head: 'Since',
    track: '110px',
    end: true,
    from: 760,
    cell: (i) => (
      <span className="muted num">
        <Ago at={i.drain?.since_ms || i.health.since_ms || i.registered_at_ms} />
      </span>
    ),
  },
];

function None() {
  return <span className="faint">–</span>;
}

/** The reason for the state of an instance in one line, as the operator or the probes gave it. */
export function reasonOf(i: Instance): string {
  if (i.drain) return `${i.drain.by}${i.drain.reason ? `: ${i.drain.reason}` : ''}`;
  const reason = i.health.reason ?? '';
  return usedInPanic(i) ? `serving anyway, because the service is in panic mode; ${reason}` : reason;
}

const EXPORTED = [
  ['id', (i: Instance) => i.id],
  ['state', (i: Instance) => stateOf(i)],
  ['address', (i: Instance) => i.address],
  ['zone', (i: Instance) => i.zone],
  ['version', (i: Instance) => i.version],
  ['node', (i: Instance) => i.node],
  ['weight', (i: Instance) => i.weight],
  ['tags', (i: Instance) => i.tags.join(' ')],
  ['reason', reasonOf],
  ['registered_at', (i: Instance) => iso(i.registered_at_ms)],
] as const;

const ORDER = { unhealthy: 0, evicted: 1, draining: 2, unknown: 3, ready: 4 } as const;

export function Instances({ service }: { service: Service }) {
  const search = useSearch({ from: '/services/$namespace/$service' });
  const navigate = useNavigate();
  const { namespace, name } = service;
  const [typed, setTyped] = useTyped(search.q);
  const q = useDeferredValue(typed.trim()) || undefined;
  const health = search.health;
  const query = useInfiniteQuery(instancesQuery(namespace, name, { q, health }));
  const complete = query.data?.pages.at(-1)?.next_cursor === null;
  const rows = useMemo(() => {
    const items = (query.data?.pages ?? []).flatMap((page) => page.items);
    // Only a complete list can be sorted in another order than the server's.
    return complete ? items.sort((a, b) => ORDER[stateOf(a)] - ORDER[stateOf(b)] || byKey(a, b)) : items;
  }, [query.data, complete]);
  const go = (change: Partial<typeof search>, how: { replace: boolean; state?: { sheet: boolean } } = { replace: true }) =>
    void navigate({
      to: '/services/$namespace/$service',
      params: { namespace, service: name },
      search: { ...search, ...change },
      ...how,
    });
  const closeSheet = useCloseSheet();
  const seen = useSeenCalls(service);
  const columns = useMemo(() => columnsWith(byInstance(seen)), [seen]);
  const { fetchNextPage, hasNextPage, isFetchingNextPage } = query;
  const nearEnd = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [fetchNextPage, hasNextPage, isFetchingNextPage]);

  return (
    <>
      <div className="toolbar">
        <Search
          value={typed}
          label="Search instances"
          placeholder="Search by id or address"
          onChange={(next) => {
            setTyped(next);
            go({ q: next.trim() || undefined });
          }}
        />
        <Choice
          label="State"
          value={health ?? 'all'}
          onChange={(next) => go({ health: next === 'all' ? undefined : next })}
          options={[
            { value: 'all', label: 'All', n: service.instances },
            { value: 'unhealthy', label: 'Unhealthy', n: service.unhealthy },
            { value: 'evicted', label: 'Evicted', n: service.evicted },
            { value: 'draining', label: 'Draining', n: service.draining },
            { value: 'routable', label: 'Serving', n: service.routable },
          ]}
        />
        <Button
          icon="download"
          reason={complete ? null : 'Only a part of the list is loaded. Narrow the search, or scroll to its end.'}
          onClick={() => saveCsv(`${namespace}-${name}-instances`, rows, EXPORTED)}
        >
          Export
        </Button>
        <BulkDrain service={service} />
      </div>
      {query.data ? (
        <Table
          label={`Instances of ${name}`}
          rows={rows}
          columns={columns}
          rowKey={(i) => i.id}
          total={health || q ? rows.length : Math.max(service.instances, rows.length)}
          selected={search.instance ?? null}
          open={(i) => go({ instance: i.id }, OPENS_SHEET)}
          nearEnd={nearEnd}
          empty={
            <Empty title="No instances found.">
              {health || q ? 'Change the search or the filter.' : 'The service has a policy, but no instances.'}
            </Empty>
          }
          foot={
            <>
              {complete ? plural(rows.length, 'instance') : `${count(rows.length)} loaded of ${count(service.instances)}; more as you scroll`}
              {isFetchingNextPage ? ' · loading' : ''}
              {seen.length > 0 ? ` · success and p95 of ${plural(seen.length, 'call')} through this node` : ''}
            </>
          }
        />
      ) : query.error ? (
        <Failed problem={asProblem(query.error)} retry={() => void query.refetch()} />
      ) : (
        <Loading what="instances" rows={10} />
      )}
      <InstanceSheet
        service={service}
        id={search.instance ?? null}
        known={rows.find((i) => i.id === search.instance) ?? null}
        onClose={() => closeSheet(() => go({ instance: undefined }))}
      />
    </>
  );
}
