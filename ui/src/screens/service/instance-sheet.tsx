/** One instance: its state and the reason, the latest probes, its registration, and the actions on it. */
import { queryOptions, useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { call, path } from '../../api/client';
import { stateOf, usedInPanic } from '../../api/instances';
import { asProblem, Problem } from '../../api/problem';
import { instanceNodesQuery, whyQuery } from '../../api/queries';
import type { Check, HealthWhy, Instance, Service } from '../../api/types';
import { RoleButton } from '../../parts/button';
import { CopyButton } from '../../parts/copy';
import { Sheet } from '../../parts/dialog';
import { duration, plural } from '../../parts/format';
import { Facts } from '../../parts/layout';
import { end, PlainTable } from '../../parts/plain-table';
import { Empty, Failed, Loading } from '../../parts/states';
import { InstanceStatus, Status } from '../../parts/status';
import { Ago, At } from '../../parts/time';
import { DeregisterDialog, DrainDialog, Pending, ReturnDialog, WeightDialog } from './instance-actions';
import { PROBE_KINDS } from './names';

const instanceQuery = (ns: string, name: string, id: string) =>
  queryOptions({
    queryKey: ['instance', ns, name, id] as const,
    queryFn: async ({ signal }) => (await call<Instance>(path('services', ns, name, 'instances', id), { signal })).data,
  });

export function InstanceSheet({
  service,
  id,
  known,
  onClose,
}: {
  service: Service;
  id: string | null;
  /** The row of the list, which the watch stream keeps up to date. */
  known: Instance | null;
  onClose: () => void;
}) {
  return (
    <Sheet
      open={id !== null}
      onClose={onClose}
      title={
        <>
          <span className="name">{id}</span>
          <span className="muted sheet-sub"> of {service.name}</span>
        </>
      }
    >
      {id !== null ? <Body service={service} id={id} known={known} onClose={onClose} /> : null}
    </Sheet>
  );
}

function Body({ service, id, known, onClose }: { service: Service; id: string; known: Instance | null; onClose: () => void }) {
  const queries = useQueryClient();
  const query = useQuery({
    ...instanceQuery(service.namespace, service.name, id),
    // A filter may hide the row after a change. The instance is then requested separately.
    enabled: known === null,
    refetchInterval: known === null ? 3_000 : false,
  });
  useEffect(() => {
    if (known) queries.setQueryData(instanceQuery(service.namespace, service.name, id).queryKey, known);
  }, [known, queries, service.namespace, service.name, id]);
  const instance = known ?? query.data ?? null;
  if (query.error instanceof Problem && query.error.status === 404) {
    return <Empty title="The instance is no longer registered.">Its lease expired, or someone removed it.</Empty>;
  }
  if (!instance) {
    return query.error ? <Failed problem={asProblem(query.error)} /> : <Loading what={id} rows={8} />;
  }
  return (
    <>
      <Actions instance={instance} service={service} onClose={onClose} />
      <Why instance={instance} />
      <Checks checks={instance.checks} />
      <Registered instance={instance} />
    </>
  );
}

function Actions({ instance, service, onClose }: { instance: Instance; service: Service; onClose: () => void }) {
  const [dialog, setDialog] = useState<'drain' | 'return' | 'weight' | 'deregister' | null>(null);
  const close = () => setDialog(null);
  return (
    <div className="sheet-actions">
      {instance.drain ? (
        <RoleButton needs="operator" kind="primary" icon="play" onClick={() => setDialog('return')}>
          Return to service
        </RoleButton>
      ) : (
        <RoleButton needs="operator" kind="primary" icon="pause" onClick={() => setDialog('drain')}>
          Drain
        </RoleButton>
      )}
      <RoleButton needs="operator" onClick={() => setDialog('weight')}>
        Weight
      </RoleButton>
      <RoleButton needs="operator" kind="danger" onClick={() => setDialog('deregister')}>
        Deregister
      </RoleButton>
      <DrainDialog open={dialog === 'drain'} onClose={close} instance={instance} service={service} />
      <ReturnDialog open={dialog === 'return'} onClose={close} instance={instance} />
      <WeightDialog key={`${instance.id}-${dialog}`} open={dialog === 'weight'} onClose={close} instance={instance} />
      <DeregisterDialog open={dialog === 'deregister'} onClose={close} instance={instance} service={service} gone={onClose} />
    </div>
  );
}

function Why({ instance }: { instance: Instance }) {
  const why = useQuery(whyQuery(instance.namespace, instance.service, instance.id));
  const nodes = useQuery(instanceNodesQuery(instance.namespace, instance.service, instance.id));
  // Each node probes a share of the instances, so the results of all nodes are shown.
  const seen = (nodes.data?.nodes.flatMap((n) => n.observations ?? []) ?? [...(why.data?.observations ?? []), ...(why.data?.reports ?? [])]).sort((a, b) => b.at_ms - a.at_ms);
  const silent = nodes.data?.nodes.filter((n) => n.observations === null).map((n) => n.node) ?? [];
  const state = stateOf(instance);
  const probe = why.data?.probe;
  const proxy = why.data?.proxy ?? null;
  // Its probes may be good, but the proxy of this node sends it nothing.
  const failing = instance.routable && proxy !== null && proxy.held_back !== null;
  const from = { instance: 'the instance', policy: 'the policy', node: "the node's health checks" } as const;
  return (
    <section className="sheet-part" aria-label="Health">
      <div className="why">
        <InstanceStatus state={failing ? 'failing' : state} used={usedInPanic(instance)} badge />
        <p className="why-text">{why.data?.why || instance.health.reason || (state === 'unknown' ? (instance.permanent ? 'It has not been probed yet, and it never expires.' : 'It has not been probed yet; only its heartbeats count.') : '')}</p>
      </div>
      <Facts
        items={[
          ['Serving', instance.routable ? <Status tone="good">Yes</Status> : <Status tone="bad">No</Status>],
          ['In flight', <Pending key="p" instance={instance} open />],
          ...(proxy ? ([[`Proxy of ${proxy.node}`, <ProxyState key="x" proxy={proxy} />]] as const) : []),
          ['Verdict since', instance.health.since_ms ? <At at={instance.health.since_ms} /> : '–'],
          ...(instance.drain
            ? ([
                ['Drained by', instance.drain.by],
                ['Drain reason', instance.drain.reason || '–'],
                ['Drained since', <At key="d" at={instance.drain.since_ms} />],
              ] as const)
            : []),
          [
            'Probe',
            probe ? (
              <span>
                {PROBE_KINDS[probe.kind ?? 'heartbeat']}
                {probe.path ? <code> {probe.path}</code> : null}
                {probe.kind && probe.kind !== 'heartbeat' && probe.interval_ms
                  ? ` every ${duration(probe.interval_ms)}, unhealthy after ${probe.fall ?? '?'} failures`
                  : ''}{' '}
                {why.data?.probe_from ? <span className="muted">from {from[why.data.probe_from]}</span> : null}
              </span>
            ) : (
              '–'
            ),
          ],
        ]}
      />
      <h3>Latest probes</h3>
      {why.error && !why.data ? (
        <Failed problem={asProblem(why.error)} retry={() => void why.refetch()} />
      ) : !why.data ? (
        <Loading what="probes" rows={3} />
      ) : seen.length === 0 ? (
        <p className="muted">
          {probe?.kind && probe.kind !== 'heartbeat'
            ? silent.length > 0
              ? 'No node that answered has probed it yet.'
              : 'No node has probed it yet.'
            : instance.permanent
              ? 'It is not probed, and it never expires.'
              : 'It is not probed: only its heartbeats count.'}
        </p>
      ) : (
        <PlainTable label="Latest probes" columns={['When', 'Result', 'Detail', end('Duration'), 'By']}>
          {seen.slice(0, 12).map((o, i) => (
            <tr key={`${o.at_ms}-${i}`}>
              <td className="num">
                <Ago at={o.at_ms} />
              </td>
              <td>{o.ok ? <Status tone="good">Passed</Status> : <Status tone="bad">Failed</Status>}</td>
              <td className="break">{o.detail || '–'}</td>
              <td className="end num">{o.latency_ms === null ? '–' : duration(o.latency_ms)}</td>
              <td className="mono">{o.node}</td>
            </tr>
          ))}
        </PlainTable>
      )}
      {silent.length > 0 ? <p className="muted">No answer from {silent.join(', ')}: the probes of {silent.length === 1 ? 'this node' : 'these nodes'} are not known.</p> : null}
    </section>
  );
}

function ProxyState({ proxy }: { proxy: NonNullable<HealthWhy['proxy']> }) {
  if (proxy.held_back !== null) return <Status tone="bad">{proxy.held_back}</Status>;
  if (proxy.good_total + proxy.bad_total === 0) {
    return <Status tone="muted">Breaker {proxy.breaker.replaceAll('_', ' ')}; no calls since the node started</Status>;
  }
  return (
    <Status tone="good">
      Breaker {proxy.breaker.replaceAll('_', ' ')}; {plural(proxy.good_total, 'call')} succeeded, {proxy.bad_total} failed since the node started
    </Status>
  );
}

const TONES = { passing: 'good', warning: 'warn', critical: 'bad', unknown: 'muted' } as const;

function Checks({ checks }: { checks: Check[] }) {
  if (checks.length === 0) return null;
  return (
    <section className="sheet-part" aria-label="Checks">
      <h3>Checks</h3>
      <PlainTable label="Table of checks" columns={['Check', 'Status', 'Output', 'Made by', 'Since']}>
        {checks.map((check) => (
          <tr key={check.id}>
            <td className="mono">{check.id}</td>
            <td>
              <Status tone={TONES[check.status]}>{check.status}</Status>
            </td>
            <td className="break">{check.output || '–'}</td>
            <td>{check.ttl_ms === null ? 'Maxine' : `its owner, at least every ${duration(check.ttl_ms)}`}</td>
            <td className="num">{check.since_ms === null ? '–' : <Ago at={check.since_ms} />}</td>
          </tr>
        ))}
      </PlainTable>
    </section>
  );
}

function Registered({ instance: i }: { instance: Instance }) {
  const metadata = Object.entries(i.metadata ?? {});
  return (
    <section className="sheet-part" aria-label="Registration">
      <h3>Registration</h3>
      <Facts
        items={[
          [
            'Address',
            <span key="a" className="with-copy">
              <span className="mono break">{i.address}</span>
              <CopyButton text={i.address} label="Copy the address" />
            </span>,
          ],
          ['Weight', <span key="w" className="num">{i.weight}</span>],
          ['Zone', i.zone ?? '–'],
          ['Version', i.version ?? '–'],
          ['Node', i.node ?? '–'],
          ['Lease', i.ttl_ms === null ? 'None: the instance is permanent' : `${duration(i.ttl_ms)} from each heartbeat`],
          ['Registered', <At key="r" at={i.registered_at_ms} />],
          ['Lease epoch', <span key="e" className="num">{i.lease_epoch}</span>],
          ['Tags', i.tags?.length ? i.tags.map((t, at) => <span key={at} className="tag">{t}</span>) : '–'],
          ...metadata.map(([key, value]) => [key, <span key={key} className="break">{value}</span>] as const),
        ]}
      />
    </section>
  );
}
