/** Requests to one service as this node saw them: latency, failures, the latest ones. */
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useEffect, useMemo, useRef } from 'react';
import { tracesQuery } from '../../api/queries';
import type { Service, TraceEntry } from '../../api/types';
import { Chart } from '../../parts/chart';
import { duration, percent, plural } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { quantile } from '../overview/traffic-panel';
import { isAbout } from '../traces/about';
import { StatusCode } from '../traces/status-code';

const KEPT_MAX = 2_000;

export function ServiceTraffic({ service }: { service: Service }) {
  const query = useQuery(tracesQuery());
  const items = useKept(query.data, service);
  const points = items.map((t) => ({ at: t.time_ms, value: t.duration_ms })).sort((a, b) => a.at - b.at);
  const buckets = perSecond(items);
  const sorted = items.map((t) => t.duration_ms).sort((a, b) => a - b);
  const failed = items.filter((t) => t.status >= 500).length;
  return (
    <Loaded query={query} what="requests" rows={6}>
      {() =>
        items.length === 0 ? (
          <Empty title="This node has seen no request for it lately.">
            Requests that come through the proxy, discovery or resolve of this node appear here. Other nodes show their
            own.
          </Empty>
        ) : (
          <div className="two-columns">
            <Panel title="Requests" aside={`${plural(items.length, 'request')} of this node`}>
              <Chart
                label="Requests a second"
                unit="/s"
                height={170}
                series={[
                  { name: 'All', tint: 1, points: buckets.all },
                  { name: 'Failed (5xx)', tint: 4, points: buckets.failed },
                ]}
              />
            </Panel>
            <Panel
              title="Latency"
              aside={`half ${duration(quantile(sorted, 0.5))} · 95 % ${duration(quantile(sorted, 0.95))} · 99 % ${duration(quantile(sorted, 0.99))}`}
            >
              <Chart
                label="Latency of each request"
                unit=""
                height={170}
                format={duration}
                dots
                series={[{ name: 'Each request', tint: 2, points }]}
              />
            </Panel>
            <Panel title="Latest" aside={`${percent(failed / items.length, 1)} failed`} className="span-2" flush>
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
            </Panel>
          </div>
        )
      }
    </Loaded>
  );
}

/** Gathers what comes by; the node itself keeps only the latest of all services. */
function useKept(latest: readonly TraceEntry[] | undefined, service: Service): TraceEntry[] {
  const kept = useRef(new Map<string, TraceEntry>());
  const name = `${service.namespace}/${service.name}`;
  useEffect(() => kept.current.clear(), [name]);
  return useMemo(() => {
    for (const t of latest ?? []) {
      if (isAbout(t, service.namespace, service.name)) kept.current.set(`${t.trace_id} ${t.time_ms} ${t.path}`, t);
    }
    const all = [...kept.current.entries()].sort((a, b) => b[1].time_ms - a[1].time_ms);
    kept.current = new Map(all.slice(0, KEPT_MAX));
    return [...kept.current.values()];
  }, [latest, service.namespace, service.name]);
}

const BUCKET_MS = 5_000;

function perSecond(items: readonly TraceEntry[]) {
  const all = new Map<number, number>();
  const failed = new Map<number, number>();
  let first = Infinity;
  let last = 0;
  for (const t of items) {
    const at = Math.floor(t.time_ms / BUCKET_MS) * BUCKET_MS;
    first = Math.min(first, at);
    last = Math.max(last, at);
    all.set(at, (all.get(at) ?? 0) + 1);
    if (t.status >= 500) failed.set(at, (failed.get(at) ?? 0) + 1);
  }
  first = Math.max(first, last - 600_000);
  const series = (counts: Map<number, number>) => {
    const out = [];
    for (let at = first; at <= last; at += BUCKET_MS) out.push({ at, value: (counts.get(at) ?? 0) / (BUCKET_MS / 1000) });
    return out;
  };
  return { all: series(all), failed: series(failed) };
}
