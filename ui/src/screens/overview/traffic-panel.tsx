/** Traffic, success, latency and the remaining error budget, as all nodes counted them. */
import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { preferences, prefer } from '../../app/preferences';
import { calls, failures, HOUR_MS, trafficQuery, type Traffic } from '../../api/traffic';
import { useMarks } from '../../api/marks';
import { useStore } from '../../api/store';
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
            <Budget traffic={traffic} />
            <p className="muted chart-note">Each node counts since it was started.</p>
          </>
        )}
      </Loaded>
    </Panel>
  );
}

/** The remaining error budget: 1 means all of it, and below 0 it is exceeded. Null without requests. */
export function budgetLeft({ good, bad }: { good: number; bad: number }, objectivePercent: number): number | null {
  const all = good + bad;
  if (all === 0) return null;
  const allowed = all * (1 - objectivePercent / 100);
  return allowed === 0 ? (bad === 0 ? 1 : -1) : 1 - bad / allowed;
}

function Budget({ traffic: { total, spanMs } }: { traffic: Traffic }) {
  const { objective } = useStore(preferences);
  const time = `the last ${duration(spanMs)}`;
  const [all, failed] = [calls(total), failures(total)];
  const left = budgetLeft({ good: all - failed, bad: failed }, objective);
  const tone = left === null ? 'muted' : left > 0.25 ? 'good' : left > 0 ? 'warn' : 'bad';
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
      <div>
        <dt>
          <label htmlFor="objective">Error budget at</label>{' '}
          <select
            id="objective"
            className="inline-select"
            value={objective}
            onChange={(e) => prefer({ objective: Number(e.target.value) })}
          >
            {[99, 99.5, 99.9, 99.95, 99.99].map((o) => (
              <option key={o} value={o}>
                {o} %
              </option>
            ))}
          </select>
        </dt>
        <dd>
          <b className={`num text-${tone}`}>{left === null ? '–' : left <= 0 ? 'Spent' : `${percent(left, 0)} left`}</b>
          {left === null ? (
            <span className="muted">no calls</span>
          ) : (
            <meter min={0} max={1} value={Math.max(0, left)} aria-label="Error budget left" className={`meter tone-${tone}`} />
          )}
        </dd>
      </div>
    </dl>
  );
}
