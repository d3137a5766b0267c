/** Requests to one service as all nodes counted them, and the latest ones that the serving node has stored. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useMemo, useState } from 'react';
import { useMarks } from '../../api/marks';
import { callsQuery, instancesQuery, tracesQuery } from '../../api/queries';
import { callsOf, successOf } from '../../api/calls';
import { byInstance, useSeenCalls, type CallFigures } from '../../api/seen-calls';
import { calls, failures, HOUR_MS, trafficQuery } from '../../api/traffic';
import type { Service } from '../../api/types';
import { Answered } from '../../parts/answered';
import { RANGES } from '../../parts/chart';
import { Choice } from '../../parts/field';
import { count, duration, percent, plural, short } from '../../parts/format';
import { Figure, Panel } from '../../parts/layout';
import { end, PlainTable } from '../../parts/plain-table';
import { Empty, Loaded } from '../../parts/states';
import { LatencyChart, RequestsChart, SuccessChart } from '../../parts/traffic-charts';
import { isAbout } from '../traces/about';
import { StatusCode } from '../traces/status-code';
import { Versions } from './versions';

const QUARTER_MS = 900_000;

export function ServiceTraffic({ service }: { service: Service }) {
  return (
    <>
      <ThroughAllNodes service={service} />
      <Versions service={service} />
      <ByInstance service={service} />
      <Charts service={service} />
    </>
  );
}

/** The last minute through all nodes. */
function ThroughAllNodes({ service }: { service: Service }) {
  const query = useQuery(callsQuery());
  return (
    <Panel title="Last minute, all nodes" aside={query.data ? <Answered nodes={query.data.nodes} /> : null}>
      <Loaded query={query} what="the calls" rows={2}>
        {({ of, windowMs }) => {
          const own = callsOf(service, of);
          const success = successOf(own);
          // A service that is not in the answer had no calls, or others were called later: a node counts 500 services.
          const rate = (n: number | undefined) => (n === undefined ? '–' : `${short((n * 1000) / windowMs)}/s`);
          const none = own === undefined ? 'no calls known' : null;
          const took = (us: number | null | undefined) => (us == null ? '–' : `≤ ${duration(us / 1000)}`);
          return (
            <dl className="figure-row">
              <Figure label="Proxied calls" value={rate(own?.proxied)} note={none} />
              <Figure
                label="Success"
                value={success === null ? '–' : <span className={success < 0.95 ? 'text-bad' : undefined}>{percent(success)}</span>}
                note={success === null ? (none ?? 'no proxied calls') : own && own.proxied_failed > 0 ? `${short(own.proxied_failed)} of ${short(own.proxied)} failed` : null}
              />
              <Figure label="p50 / p95 / p99" value={own?.p50_us == null ? '–' : `${took(own.p50_us)} / ${took(own.p95_us)} / ${took(own.p99_us)}`} note="time to first byte" />
              <Figure label="Look-ups" value={rate(own?.lookups)} note={own && own.lookups_failed > 0 ? `${short(own.lookups_failed)} failed` : none} />
            </dl>
          );
        }}
      </Loaded>
    </Panel>
  );
}

const INSTANCES_SHOWN = 8;

/** The instances with the most failed calls first, and then the slowest. */
function ByInstance({ service }: { service: Service }) {
  const seen = useSeenCalls(service);
  const figures = useMemo(() => {
    const worse = (a: CallFigures, b: CallFigures) => (a.success ?? 1) - (b.success ?? 1) || (b.p95 ?? 0) - (a.p95 ?? 0);
    return [...byInstance(seen)].sort(([, a], [, b]) => worse(a, b));
  }, [seen]);
  const { namespace, name } = service;
  if (figures.length === 0) return null;
  return (
    <Panel title="By instance, worst first" aside="calls through this node, seen since the page was opened" flush>
      <PlainTable label="Calls by instance" columns={['Instance', end('Calls'), end('Success'), end('p50'), end('p95')]}>
        {figures.slice(0, INSTANCES_SHOWN).map(([id, of]) => (
          <tr key={id}>
            <th scope="row" className="break">
              <Link to="/services/$namespace/$service" params={{ namespace, service: name }} search={{ instance: id }}>
                {id}
              </Link>
            </th>
            <td className="end num">{count(of.calls)}</td>
            <td className={`end num${of.success !== null && of.success < 0.95 ? ' text-bad' : ''}`}>{of.success === null ? '–' : percent(of.success)}</td>
            <td className="end num">{of.p50 === null ? '–' : duration(of.p50)}</td>
            <td className="end num">{of.p95 === null ? '–' : duration(of.p95)}</td>
          </tr>
        ))}
      </PlainTable>
      {figures.length > INSTANCES_SHOWN ? <p className="pad muted">{plural(figures.length - INSTANCES_SHOWN, 'more instance')} with better figures.</p> : null}
    </Panel>
  );
}

/** The charts, which all nodes counted. */
function Charts({ service }: { service: Service }) {
  const [range, setRange] = useState(String(QUARTER_MS));
  const query = useQuery(trafficQuery(Number(range), service));
  const list = useInfiniteQuery(instancesQuery(service.namespace, service.name, {}));
  const instances = useMemo(() => (list.data?.pages ?? []).flatMap((page) => page.items), [list.data]);
  const { namespace, name } = service;
  const about = useMemo(() => ({ namespace, name }), [namespace, name]);
  const marks = useMarks(about, instances);
  return (
    <>
      <div className="toolbar">
        <Choice
          label="Time that the charts show"
          value={range}
          onChange={setRange}
          options={RANGES.filter((r) => Number(r.value) <= QUARTER_MS || Number(r.value) > HOUR_MS)}
        />
        {query.data ? <Answered nodes={query.data.nodes} /> : null}
      </div>
      <Loaded query={query} what="requests" rows={6}>
        {(traffic) => {
          const { total, spanMs } = traffic;
          const all = calls(total);
          const time = duration(spanMs);
          if (all === 0) {
            return (
              <Empty title={`No requests for this service in the last ${time}.`}>
                Look-ups and proxied requests through the nodes that answered appear here. Each node counts since it was started.
              </Empty>
            );
          }
          const took = (us: number | null) => (us === null ? '–' : `≤ ${duration(us / 1000)}`);
          return (
            <div className="two-columns">
              <Panel title="Requests" aside={`${short(all)} in ${time}, ${percent(failures(total) / all, 2)} failed`} className="span-2">
                <RequestsChart traffic={traffic} marks={marks} height={190} />
              </Panel>
              <Panel title="Success" aside={total.proxied === 0 ? null : `${percent(1 - total.proxied_failed / total.proxied, 2)} of ${short(total.proxied)} proxied calls`}>
                <SuccessChart traffic={traffic} marks={marks} height={190} marksUnlisted />
              </Panel>
              <Panel title="Latency" aside={`p50 / p95 / p99: ${took(total.p50_us)} / ${took(total.p95_us)} / ${took(total.p99_us)}`}>
                <LatencyChart traffic={traffic} marks={marks} height={190} marksUnlisted />
              </Panel>
            </div>
          );
        }}
      </Loaded>
      <Latest service={service} />
    </>
  );
}

function Latest({ service }: { service: Service }) {
  const query = useQuery(tracesQuery());
  return (
    <Panel title="Latest requests through this node" aside={<Link to="/traces">Traces</Link>} flush>
      <Loaded query={query} what="the latest requests" rows={4}>
        {(traces) => {
          const items = traces.filter((t) => isAbout(t, service.namespace, service.name));
          if (items.length === 0) return <Empty title="None of this node's latest requests was for this service." />;
          return (
            <ul className="rows">
              {items.slice(0, 12).map((t) => (
                <li key={t.trace_id + t.time_ms} className="row-line">
                  <StatusCode status={t.status} />
                  <span className="mono row-method">{t.method}</span>
                  <span className="mono row-object" title={t.path}>
                    {t.path}
                  </span>
                  <Link to="/traces" search={{ trace: t.trace_id }} className="row-end num">
                    {duration(t.duration_ms)}
                  </Link>
                </li>
              ))}
            </ul>
          );
        }}
      </Loaded>
    </Panel>
  );
}
