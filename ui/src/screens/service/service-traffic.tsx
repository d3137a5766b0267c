/** Requests to one service as the serving node counted them, and the latest ones that it has stored. */
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { callsQuery, tracesQuery } from '../../api/queries';
import { callsOf, successOf } from '../../api/calls';
import { calls, latencies, rates, trafficQuery } from '../../api/traffic';
import type { Service } from '../../api/types';
import { Answered } from '../../parts/answered';
import { Chart } from '../../parts/chart';
import { duration, percent, short } from '../../parts/format';
import { Figure, Panel } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { isAbout } from '../traces/about';
import { StatusCode } from '../traces/status-code';

const QUARTER_MS = 900_000;

export function ServiceTraffic({ service }: { service: Service }) {
  return (
    <>
      <ThroughAllNodes service={service} />
      <ThroughThisNode service={service} />
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
          const rate = (n: number | undefined) => `${short(((n ?? 0) * 1000) / windowMs)}/s`;
          const took = (us: number | null | undefined) => (us == null ? '–' : `≤ ${duration(us / 1000)}`);
          return (
            <dl className="figure-row">
              <Figure label="Proxied calls" value={rate(own?.proxied)} />
              <Figure
                label="Success"
                value={success === null ? '–' : <span className={success < 0.95 ? 'text-bad' : undefined}>{percent(success)}</span>}
                note={own && own.proxied_failed > 0 ? `${short(own.proxied_failed)} of ${short(own.proxied)} failed` : null}
              />
              <Figure label="p50 / p95 / p99" value={own?.p50_us == null ? '–' : `${took(own.p50_us)} / ${took(own.p95_us)} / ${took(own.p99_us)}`} note="time to first byte" />
              <Figure label="Look-ups" value={rate(own?.lookups)} note={own && own.lookups_failed > 0 ? `${short(own.lookups_failed)} failed` : null} />
            </dl>
          );
        }}
      </Loaded>
    </Panel>
  );
}

function ThroughThisNode({ service }: { service: Service }) {
  const query = useQuery(trafficQuery(service));
  return (
    <Loaded query={query} what="requests" rows={6}>
      {(traffic) => {
        const { total } = traffic;
        const all = calls(total);
        if (all === 0) {
          return (
            <Empty title="No requests for this service through this node in the last 15 minutes.">
              Look-ups and proxied requests through this node appear here.
            </Empty>
          );
        }
        const took = (us: number | null) => (us === null ? '–' : `≤ ${duration(us / 1000)}`);
        return (
          <div className="two-columns">
            <Panel title="Requests through this node" aside={`${short(all)} in 15 minutes, ${percent(total.failed / all, 2)} failed`}>
              <Chart
                label="Requests a second"
                unit="/s"
                height={190}
                spanMs={QUARTER_MS}
                series={[
                  { name: 'Look-ups', tint: 1, points: rates(traffic, (s) => s.lookups) },
                  { name: 'Proxied', tint: 2, points: rates(traffic, (s) => s.proxied) },
                  { name: 'Failed (5xx)', tint: 4, points: rates(traffic, (s) => s.failed) },
                ]}
              />
            </Panel>
            <Panel
              title="Latency through this node"
              aside={`p50 / p95 / p99: ${took(total.p50_us)} / ${took(total.p95_us)} / ${took(total.p99_us)}`}
            >
              <Chart
                label="Time to first byte"
                unit=""
                height={190}
                spanMs={QUARTER_MS}
                format={duration}
                series={[
                  { name: 'p50', tint: 2, points: latencies(traffic, (s) => s.p50_us) },
                  { name: 'p95', tint: 3, points: latencies(traffic, (s) => s.p95_us) },
                  { name: 'p99', tint: 4, points: latencies(traffic, (s) => s.p99_us) },
                ]}
              />
            </Panel>
            <Latest service={service} />
          </div>
        );
      }}
    </Loaded>
  );
}

function Latest({ service }: { service: Service }) {
  const query = useQuery(tracesQuery());
  return (
    <Panel title="Latest" className="span-2" aside={<Link to="/traces">Traces</Link>} flush>
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
