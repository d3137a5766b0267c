/** The charts of traffic that several screens show: requests, success, and latency. */
import { endOfTraffic, failures, latencies, rates, successes, type Traffic } from '../api/traffic';
import { Chart, type ChartProps, type Series } from './chart';
import { duration, short } from './format';

type About = Pick<ChartProps, 'marks' | 'marksUnlisted' | 'height'> & { traffic: Traffic };

function frame({ traffic, ...about }: About) {
  return { ...about, spanMs: traffic.spanMs, stepMs: traffic.stepMs, endMs: endOfTraffic(traffic) };
}

const CALL_RATES = [
  { name: 'Look-ups', tint: 1, of: (s) => s.lookups },
  { name: 'Proxied', tint: 2, of: (s) => s.proxied },
  { name: 'Failed (5xx)', tint: 4, of: failures },
] as const satisfies readonly { name: string; tint: Series['tint']; of: Parameters<typeof rates>[1] }[];

/** Requests a second by kind, and those that failed. */
export function RequestsChart({ registrations, ...about }: About & { registrations?: true }) {
  const series: Series[] = CALL_RATES.map(({ name, tint, of }) => ({ name, tint, points: rates(about.traffic, of) }));
  if (registrations) series.splice(2, 0, { name: 'Registrations', tint: 3, points: rates(about.traffic, (s) => s.registrations) });
  return <Chart label="Requests a second" unit="/s" series={series} empty="No requests in this time." {...frame(about)} />;
}

/** Where the scale of successes begins: near the lowest value, because a success of 98 % is far from 100 %. */
export function lowEnd(values: readonly number[]): number {
  const lowest = Math.min(100, ...values);
  return lowest >= 99 ? 98 : lowest >= 90 ? 80 : 0;
}

/** The share of proxied calls that succeeded. */
export function SuccessChart(about: About) {
  const points = successes(about.traffic);
  return (
    <Chart
      label="Success of proxied calls"
      unit="%"
      series={[{ name: 'Success', tint: 1, points }]}
      low={lowEnd(points.map((p) => p.value))}
      high={100}
      // A value just below 100 must not be shown as 100.
      format={(n) => (n > 99.99 && n < 100 ? '>99.99' : short(n))}
      empty="No proxied calls in this time."
      {...frame(about)}
    />
  );
}

/** How long proxied calls took until the head of the answer. */
export function LatencyChart(about: About) {
  const series: Series[] = [
    { name: 'p50', tint: 2, points: latencies(about.traffic, (s) => s.p50_us) },
    { name: 'p95', tint: 3, points: latencies(about.traffic, (s) => s.p95_us) },
    { name: 'p99', tint: 4, points: latencies(about.traffic, (s) => s.p99_us) },
  ];
  return <Chart label="Time to first byte of proxied calls" unit="" format={duration} series={series} empty="No proxied calls in this time." {...frame(about)} />;
}
