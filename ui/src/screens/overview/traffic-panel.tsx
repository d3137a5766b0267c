/** Traffic, errors and latency, as the serving node counted them. */
import { useQuery } from '@tanstack/react-query';
import { useMemo, useState } from 'react';
import { calls, endOfTraffic, HOUR_MS, rates, trafficQuery, type Traffic } from '../../api/traffic';
import { useMarks, type Mark } from '../../api/marks';
import { Chart, RANGES } from '../../parts/chart';
import { Choice } from '../../parts/field';
import { duration, percent, short } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { Loaded } from '../../parts/states';

export function TrafficPanel({ node }: { node: string }) {
  const marks = useMarks(null);
  const [range, setRange] = useState(String(HOUR_MS));
  const isDay = Number(range) > HOUR_MS;
  const query = useQuery(trafficQuery(isDay ? 'day' : 'recent'));
  return (
    <Panel title="Traffic" aside={`through ${node}, counted since it was started`}>
      <Choice label="Time that the chart shows" value={range} onChange={setRange} options={RANGES} />
      <Loaded query={query} what="the traffic" rows={4}>
        {(traffic) => (
          <>
            <TrafficChart traffic={traffic} spanMs={Number(range)} marks={marks} />
            <Outcome traffic={traffic} time={isDay ? 'the last 24 hours' : 'the last hour'} />
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function TrafficChart({ traffic, spanMs, marks }: { traffic: Traffic; spanMs: number; marks: readonly Mark[] }) {
  const series = useMemo(
    () => [
      { name: 'Look-ups', tint: 1 as const, points: rates(traffic, (s) => s.lookups) },
      { name: 'Proxied', tint: 2 as const, points: rates(traffic, (s) => s.proxied) },
      { name: 'Registrations', tint: 3 as const, points: rates(traffic, (s) => s.registrations) },
      { name: 'Failed', tint: 4 as const, points: rates(traffic, (s) => s.failed) },
    ],
    [traffic],
  );
  return (
    <Chart
      label="Requests a second"
      unit="/s"
      series={series}
      spanMs={spanMs}
      stepMs={traffic.stepMs}
      endMs={endOfTraffic(traffic)}
      marks={marks}
      height={168}
      empty="The node has just started. The first figures appear in a few seconds."
    />
  );
}

function Outcome({ traffic: { total }, time }: { traffic: Traffic; time: string }) {
  const all = calls(total);
  const took = (us: number | null) => (us === null ? '–' : duration(us / 1000));
  return (
    <dl className="sli">
      <div>
        <dt>Failed (5xx)</dt>
        <dd>
          <b className="num">{all ? percent(total.failed / all, 2) : '–'}</b>
          <span className="muted">{all ? `${short(total.failed)} of ${short(all)} calls in ${time}` : `no calls in ${time}`}</span>
        </dd>
      </div>
      <div>
        <dt>p50 / p99</dt>
        <dd>
          <b className="num">
            {total.p50_us === null ? '–' : `≤ ${took(total.p50_us)} / ≤ ${took(total.p99_us)}`}
          </b>
          <span className="muted">time to first byte</span>
        </dd>
      </div>
    </dl>
  );
}

/** The value below which `share` of the sorted values are. */
export function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}
