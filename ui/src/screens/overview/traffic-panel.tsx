/** Traffic, errors and what is left of the error budget, from this node's counters. */
import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { preferences, prefer } from '../../app/preferences';
import { tracesQuery } from '../../api/queries';
import { useStore } from '../../api/store';
import { grown, rates, traffic } from '../../api/traffic';
import { Chart } from '../../parts/chart';
import { clock, duration, percent, short } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { isCall } from '../traces/about';

export function TrafficPanel() {
  const { points, error } = useStore(traffic);
  const series = useMemo(
    () => [
      { name: 'Lookups', tint: 1 as const, points: rates(points, (p) => p.discoveries) },
      { name: 'Proxied', tint: 2 as const, points: rates(points, (p) => p.proxied) },
      { name: 'Registrations and heartbeats', tint: 3 as const, points: rates(points, (p) => p.registrations) },
    ],
    [points],
  );
  return (
    <Panel title="Traffic through this node" aside={points[0] ? `since ${clock(points[0].at)}` : null}>
      <Chart
        label="Requests a second"
        unit="/s"
        series={series}
        height={140}
        empty={error ? `This node's counters cannot be read: ${error}` : 'Rates come with the second sample, in a few seconds.'}
      />
      <Budget />
    </Panel>
  );
}

export interface Sli {
  good: number;
  bad: number;
  from: 'counters' | 'traces';
}

/** What is left of the budget of failures, 1 at best, below 0 where it is spent. */
export function budgetLeft({ good, bad }: Pick<Sli, 'good' | 'bad'>, objectivePercent: number): number | null {
  const all = good + bad;
  if (all === 0) return null;
  const allowed = all * (1 - objectivePercent / 100);
  return allowed === 0 ? (bad === 0 ? 1 : -1) : 1 - bad / allowed;
}

function Budget() {
  const { points } = useStore(traffic);
  const { objective } = useStore(preferences);
  const traces = useQuery(tracesQuery());
  const sli = useMemo((): Sli => {
    const bad = grown(points, (p) => p.errors);
    const all = grown(points, (p) => p.requests);
    if (bad !== null && all !== null) return { good: Math.max(0, all - bad), bad, from: 'counters' };
    const items = (traces.data ?? []).filter(isCall);
    const failed = items.filter((t) => t.status >= 500).length;
    return { good: items.length - failed, bad: failed, from: 'traces' };
  }, [points, traces.data]);
  const all = sli.good + sli.bad;
  const left = budgetLeft(sli, objective);
  const tone = left === null ? 'muted' : left > 0.25 ? 'good' : left > 0 ? 'warn' : 'bad';
  const latencies = (traces.data ?? []).filter(isCall).map((t) => t.duration_ms).sort((a, b) => a - b);
  return (
    <dl className="sli">
      <div>
        <dt>Failed (5xx)</dt>
        <dd>
          <b className="num">{all ? percent(sli.bad / all, 2) : '–'}</b>
          <span className="muted">
            {short(sli.bad)} of {short(all)} {sli.from === 'counters' ? 'since this page opened' : 'latest calls'}
          </span>
        </dd>
      </div>
      <div>
        <dt>Latency, half · 99 %</dt>
        <dd>
          <b className="num">
            {latencies.length ? `${duration(quantile(latencies, 0.5))} · ${duration(quantile(latencies, 0.99))}` : '–'}
          </b>
          <span className="muted">of the latest {latencies.length} calls</span>
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
          <meter
            min={0}
            max={1}
            value={Math.max(0, left ?? 0)}
            aria-label="Error budget left"
            className={`meter tone-${tone}`}
          />
        </dd>
      </div>
    </dl>
  );
}

/** Of sorted values. */
export function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}
