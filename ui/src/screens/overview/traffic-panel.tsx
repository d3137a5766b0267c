/** Traffic, success and latency, as all nodes counted them. */
import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { calls, failures, HOUR_MS, trafficQuery, type Traffic } from '../../api/traffic';
import { useMarks } from '../../api/marks';
import { Answered } from '../../parts/answered';
import { RANGES } from '../../parts/chart';
import { Choice } from '../../parts/field';
import { duration, percent, short } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { Loaded } from '../../parts/states';
import { LatencyChart, RequestsChart, SuccessChart } from '../../parts/traffic-charts';

export function TrafficPanel() {
  const marks = useMarks(null);
  const [range, setRange] = useState(String(HOUR_MS));
  const query = useQuery(trafficQuery(Number(range)));
  return (
    <Panel title="Traffic" aside={query.data ? <Answered nodes={query.data.nodes} /> : null}>
      <Choice label="Time that the charts show" value={range} onChange={setRange} options={RANGES} />
      <Loaded query={query} what="the traffic" rows={4}>
        {(traffic) => (
          <>
            <h3 className="chart-title">Requests a second</h3>
            <RequestsChart traffic={traffic} marks={marks} height={168} registrations />
            <h3 className="chart-title">Success of proxied calls</h3>
            <SuccessChart traffic={traffic} marks={marks} height={110} marksUnlisted />
            <h3 className="chart-title">Time to first byte of proxied calls</h3>
            <LatencyChart traffic={traffic} marks={marks} height={130} marksUnlisted />
            <Outcome traffic={traffic} />
            <p className="muted chart-note">Each node counts since it was started.</p>
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function Outcome({ traffic: { total, spanMs } }: { traffic: Traffic }) {
  const time = `the last ${duration(spanMs)}`;
  const [all, failed] = [calls(total), failures(total)];
  const took = (us: number | null) => (us === null ? '–' : duration(us / 1000));
  return (
    <dl className="sli">
      <div>
        <dt>Failed (5xx)</dt>
        <dd>
          <b className="num">{all ? percent(failed / all, 2) : '–'}</b>
          <span className="muted">{all ? `${short(failed)} of ${short(all)} calls in ${time}` : `no calls in ${time}`}</span>
        </dd>
      </div>
      <div>
        <dt>p50 / p99</dt>
        <dd>
          <b className="num">
            {total.p50_us === null ? '–' : `≤ ${took(total.p50_us)} / ≤ ${took(total.p99_us)}`}
          </b>
          <span className="muted">time to first byte of proxied calls</span>
        </dd>
      </div>
    </dl>
  );
}
