/** Requests to one service as the serving node counted them, and the latest ones that it has stored. */
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { tracesQuery } from '../../api/queries';
import { calls, latencies, rates, trafficQuery } from '../../api/traffic';
import type { Service } from '../../api/types';
import { Chart } from '../../parts/chart';
import { duration, percent, short } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { isAbout } from '../traces/about';
import { StatusCode } from '../traces/status-code';

const QUARTER_MS = 900_000;

export function ServiceTraffic({ service }: { service: Service }) {
  const query = useQuery(trafficQuery(service));
  return (
    <Loaded query={query} what="requests" rows={6}>
      {(traffic) => {
        const { total } = traffic;
        const all = calls(total);
        if (all === 0) {
          return (
            <Empty title="This node has received no request for it in the last 15 minutes.">
              Look-ups and forwarded requests of this node appear here. Other nodes count their own.
            </Empty>
          );
        }
        const took = (us: number | null) => (us === null ? '–' : `≤ ${duration(us / 1000)}`);
        return (
          <div className="two-columns">
            <Panel title="Requests" aside={`${short(all)} in 15 minutes, ${percent(total.failed / all, 2)} failed`}>
              <Chart
                label="Requests a second"
                unit="/s"
                height={190}
                spanMs={QUARTER_MS}
                series={[
                  { name: 'Lookups', tint: 1, points: rates(traffic, (s) => s.lookups) },
                  { name: 'Forwarded', tint: 2, points: rates(traffic, (s) => s.proxied) },
                  { name: 'Failed (5xx)', tint: 4, points: rates(traffic, (s) => s.failed) },
                ]}
              />
            </Panel>
            <Panel
              title="Latency"
              aside={`p50 ${took(total.p50_us)} · p95 ${took(total.p95_us)} · p99 ${took(total.p99_us)}`}
            >
              <Chart
                label="Latency until the answer's head"
                unit=""
                height={190}
                spanMs={QUARTER_MS}
                format={duration}
                series={[
                  { name: 'Half', tint: 2, points: latencies(traffic, (s) => s.p50_us) },
                  { name: '95 %', tint: 3, points: latencies(traffic, (s) => s.p95_us) },
                  { name: '99 %', tint: 4, points: latencies(traffic, (s) => s.p99_us) },
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
          if (items.length === 0) return <Empty title="None of this node's latest requests was for it." />;
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
