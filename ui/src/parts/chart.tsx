/**
 * Time series as SVG, without a library. It follows the theme, and its accessible name has the latest,
 * lowest and highest values.
 */
import { useRef, useState, type PointerEvent } from 'react';
import { clock, short } from './format';
import { useWidth } from './layout';

export interface Series {
  name: string;
  /** One of the four line colours of the theme. Each has its own dash pattern. */
  tint: 1 | 2 | 3 | 4;
  points: readonly { at: number; value: number }[];
}

export interface ChartProps {
  label: string;
  series: readonly Series[];
  unit: string;
  /** The displayed span of time up to the latest point, in milliseconds. Default 300,000. */
  spanMs?: number;
  /** The time at which the chart ends. Default: the latest point. */
  endMs?: number;
  /** The time between two values of a line, in milliseconds. Much longer gaps are not joined. Default 5,000. */
  stepMs?: number;
  height?: number;
  format?: (n: number) => string;
  empty?: string;
  /** Whether each value is drawn as a dot, for single requests. Otherwise values are joined by lines, for rates. */
  dots?: boolean;
  /** Changes that may explain the values: a line at each time, and a list below the chart. */
  marks?: readonly { at: number; text: string; leader?: true }[];
  /** Whether the changes are only drawn, because another chart lists the same ones. */
  marksUnlisted?: true;
  /** The lowest value of the scale. Default 0. */
  low?: number;
  /** The highest value of the scale. Default: a round number of at least the highest value. */
  high?: number;
}

const LEFT_MIN = 44;
/** Maximum width of a character of the scale, in pixels. */
const CHARACTER = 6.6;
/** With more lines than this, filled areas would hide lines. */
const AREAS_MAX = 4;
const BOTTOM = 20;
const TOP = 8;
const GAP_MS = 20_000;
const SPAN_MIN_MS = 60_000;
/** With more marks, only the latest are listed. */
const MARKS_LISTED_MAX = 6;

/** A round number of at least `max`, and the values of the grid lines from 0 to it. */
export function scaleOf(max: number): { top: number; ticks: number[] } {
  if (!(max > 0)) return { top: 1, ticks: [0, 0.5, 1] };
  const power = 10 ** Math.floor(Math.log10(max / 2));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s * 3 >= max) ?? 10 * power;
  const n = Math.ceil(max / step);
  return { top: n * step, ticks: Array.from({ length: n + 1 }, (_, i) => i * step) };
}

export function Chart(props: ChartProps) {
  const { series, unit, height = 150, format = short, dots, low = 0 } = props;
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box) || 480;
  const [hover, setHover] = useState<number | null>(null);
  const all = series.flatMap((s) => s.points);
  if (all.length === 0) {
    return (
      <div className="chart-empty" ref={box} style={{ height }}>
        {props.empty ?? 'No data yet.'}
      </div>
    );
  }
  const gapMs = Math.max(GAP_MS, 2.5 * (props.stepMs ?? 0));
  const end = props.endMs ?? Math.max(...all.map((p) => p.at));
  const first = Math.min(...all.map((p) => p.at));
  // What changed shortly before the first value may have caused it.
  const causes = (props.marks ?? []).map((m) => m.at).filter((at) => at >= first - gapMs && at < first);
  const extent = end - Math.min(first, ...causes);
  // A short series is drawn over the whole width.
  const spanMs = Math.min(props.spanMs ?? 300_000, Math.max(SPAN_MIN_MS, extent));
  const from = end - spanMs;
  const visible = all.filter((p) => p.at >= from);
  const scale = scaleOf((props.high ?? Math.max(0, ...visible.map((p) => p.value))) - low);
  const top = props.high ?? scale.top + low;
  const ticks = scale.ticks.map((tick) => tick + low).filter((tick) => tick <= top);
  const LEFT = Math.max(LEFT_MIN, Math.max(...ticks.map((tick) => format(tick).length)) * CHARACTER + 12);
  const x = (at: number) => LEFT + ((at - from) / spanMs) * (width - LEFT - 6);
  const y = (value: number) => TOP + (1 - (value - low) / (top - low)) * (height - TOP - BOTTOM);
  const track = (event: PointerEvent<SVGSVGElement>) => {
    const left = event.currentTarget.getBoundingClientRect().left;
    setHover(from + ((event.clientX - left - LEFT) / (width - LEFT - 6)) * spanMs);
  };
  const marks = (props.marks ?? []).filter((m) => m.at >= from && m.at <= end);
  const picked = hover === null ? [] : series.map((s) => ({ ...s, at: nearest(s.points, hover, gapMs) }));
  return (
    <div className="chart" ref={box}>
      <svg
        width={width}
        height={height}
        role="img"
        aria-label={`${props.label}. ${spoken(series, from, format, unit)}`}
        onPointerMove={track}
        onPointerLeave={() => setHover(null)}
      >
        {ticks.map((tick) => (
          <g key={tick}>
            <line x1={LEFT} x2={width - 6} y1={y(tick)} y2={y(tick)} className="chart-grid" />
            <text x={LEFT - 7} y={y(tick) + 3.5} textAnchor="end" className="chart-text">
              {format(tick)}
            </text>
          </g>
        ))}
        {[0, 0.5, 1].map((share) => (
          <text
            key={share}
            x={x(from + share * spanMs)}
            y={height - 4}
            textAnchor={share === 0 ? 'start' : share === 1 ? 'end' : 'middle'}
            className="chart-text"
          >
            {clock(from + share * spanMs)}
          </text>
        ))}
        {marks.map((m, i) => (
          <g key={i} className="chart-mark">
            <line x1={x(m.at)} x2={x(m.at)} y1={TOP} y2={height - BOTTOM} />
            <path d={`M${(x(m.at) - 4).toFixed(1)} ${TOP - 6}h8l-4 6Z`} />
          </g>
        ))}
        {series.map((s) =>
          dots ? (
            <g key={s.name} className={`chart-dots tint-${s.tint}`}>
              {s.points
                .filter((p) => p.at >= from)
                .map((p, i) => (
                  <circle key={i} cx={x(p.at)} cy={y(p.value)} r="2.2" />
                ))}
            </g>
          ) : (
            <g key={s.name}>
              {series.length <= AREAS_MAX ? <path d={area(s.points, from, gapMs, x, y, y(low))} className={`chart-area tint-${s.tint}`} /> : null}
              <path d={line(s.points, from, gapMs, x, y)} className={`chart-line tint-${s.tint}`} />
            </g>
          ),
        )}
        {picked.map((s) =>
          s.at ? <circle key={s.name} cx={x(s.at.at)} cy={y(s.at.value)} r="3.2" className={`chart-pick tint-${s.tint}`} /> : null,
        )}
      </svg>
      <ul className="legend" aria-hidden="true">
        {series.map((s, i) => {
          const last = s.points.at(-1);
          // A value from before the end of the chart is not the present one.
          const point = hover !== null ? picked[i]?.at : last && last.at >= end - gapMs ? last : null;
          return (
            <li key={s.name}>
              <svg width="16" height="8">
                <line x1="0" x2="16" y1="4" y2="4" className={`chart-line tint-${s.tint}`} />
              </svg>
              {s.name}
              <b className="num">{point ? `${format(point.value)} ${unit}` : '–'}</b>
            </li>
          );
        })}
        {picked.find((s) => s.at) ? <li className="num muted">{clock(picked.find((s) => s.at)?.at?.at ?? 0)}</li> : null}
      </ul>
      {props.marksUnlisted ? null : <Marks label={props.label} marks={marks} />}
    </div>
  );
}

function Marks({ label, marks }: { label: string; marks: NonNullable<ChartProps['marks']> }) {
  if (marks.length === 0) return null;
  const leaders = marks.filter((m) => m.leader);
  const others = marks.filter((m) => !m.leader);
  const last = leaders.at(-1);
  return (
    <ul className="marks" aria-label={`Changes during this time: ${label}`}>
      {others.length > MARKS_LISTED_MAX ? <li className="muted">{others.length - MARKS_LISTED_MAX} earlier changes are marked in the chart.</li> : null}
      {others.slice(-MARKS_LISTED_MAX).map((m, i) => (
        <li key={i}>
          <span className="num muted">{clock(m.at)}</span> {m.text}
        </li>
      ))}
      {last ? (
        <li>
          <span className="num muted">{clock(last.at)}</span> {last.text}
          {leaders.length > 1 ? `, the last of ${leaders.length} changes of the leader` : ''}
        </li>
      ) : null}
    </ul>
  );
}

/** The spans of time that charts can show, up to what the server keeps. */
export const RANGES = [
  { value: '300000', label: '5 min' },
  { value: '900000', label: '15 min' },
  { value: '3600000', label: '1 h' },
  { value: '21600000', label: '6 h' },
  { value: '86400000', label: '24 h' },
] as const;

function line(
  points: Series['points'],
  from: number,
  gapMs: number,
  x: (at: number) => number,
  y: (value: number) => number,
): string {
  let path = '';
  let before = -Infinity;
  for (const p of points) {
    if (p.at < from) continue;
    path += `${p.at - before > gapMs ? 'M' : 'L'}${x(p.at).toFixed(1)} ${y(p.value).toFixed(1)}`;
    before = p.at;
  }
  return path;
}

/** The filled area between a line and `bottom`, with the gaps of the line. */
function area(
  points: Series['points'],
  from: number,
  gapMs: number,
  x: (at: number) => number,
  y: (value: number) => number,
  bottom: number,
): string {
  let path = '';
  let before: { at: number; value: number } | null = null;
  for (const p of points) {
    if (p.at < from) continue;
    if (before && p.at - before.at > gapMs) path += `L${x(before.at).toFixed(1)} ${bottom}Z`;
    if (!before || p.at - before.at > gapMs) path += `M${x(p.at).toFixed(1)} ${bottom}`;
    path += `L${x(p.at).toFixed(1)} ${y(p.value).toFixed(1)}`;
    before = p;
  }
  return before ? `${path}L${x(before.at).toFixed(1)} ${bottom}Z` : '';
}

function nearest(points: Series['points'], at: number, gapMs: number): { at: number; value: number } | null {
  let best: { at: number; value: number } | null = null;
  for (const p of points) if (!best || Math.abs(p.at - at) < Math.abs(best.at - at)) best = p;
  return best && Math.abs(best.at - at) < gapMs ? best : null;
}

function spoken(series: readonly Series[], from: number, format: (n: number) => string, unit: string): string {
  return series
    .map((s) => {
      const values = s.points.filter((p) => p.at >= from).map((p) => p.value);
      const latest = values.at(-1);
      if (latest === undefined) return `${s.name}: no data`;
      return `${s.name}: latest ${format(latest)} ${unit}, lowest ${format(Math.min(...values))}, highest ${format(Math.max(...values))}`;
    })
    .join('. ');
}

/** A bar that shows the shares of named parts. */
export function Bar({ parts, label }: { parts: readonly { name: string; n: number; tone: string }[]; label: string }) {
  const sum = parts.reduce((n, p) => n + p.n, 0);
  return (
    <div className="bar" role="img" aria-label={`${label}: ${parts.map((p) => `${p.n} ${p.name}`).join(', ')}`}>
      {sum === 0
        ? null
        : parts
            .filter((p) => p.n > 0)
            .map((p) => <span key={p.name} className={`bar-part tone-${p.tone}`} style={{ flexGrow: p.n }} title={`${p.n} ${p.name}`} />)}
    </div>
  );
}
