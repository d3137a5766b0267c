/** Numbers, times and sizes as text. Pure, but for the present time. */
import { clusterNow } from '../api/clock';

const whole = new Intl.NumberFormat('en');

/** A number with separators; a dash if it is unknown. */
export function count(n: number | null): string {
  return n === null ? '–' : whole.format(n);
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${whole.format(n)} ${n === 1 ? one : many}`;
}

/** A number with three figures, such as 1.23 M for 1234567. */
export function short(n: number): string {
  if (!Number.isFinite(n)) return '–';
  const steps = [
    [1e9, ' G'],
    [1e6, ' M'],
    [1e4, ' k'],
  ] as const;
  for (const [step, unit] of steps) {
    if (Math.abs(n) >= step) return `${trim(n / (step === 1e4 ? 1e3 : step))}${unit}`;
  }
  return trim(n);
}

function trim(n: number): string {
  const size = Math.abs(n);
  if (size === 0) return '0';
  if (size < 0.01) return '<0.01';
  return String(Number(n.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2)));
}

export function bytes(n: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  let value = n;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${trim(value)} ${units[at]}`;
}

/** A duration with two significant figures. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms)) return '–';
  if (ms < 1) return `${trim(ms)} ms`;
  if (ms < 1000) return `${ms < 10 ? trim(ms) : Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 10) return `${Number(s.toFixed(1))} s`;
  if (s < 60) return `${Math.round(s)} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return s % 60 >= 1 && m < 10 ? `${m} min ${Math.round(s % 60)} s` : `${m} min`;
  const h = Math.floor(m / 60);
  if (h < 48) return m % 60 ? `${h} h ${m % 60} min` : `${h} h`;
  return `${Math.floor(h / 24)} d`;
}

/** A time relative to `now`, such as "4 s ago" or "in 3 min". */
export function relative(atMs: number, now: number): string {
  const delta = now - atMs;
  const size = Math.abs(delta);
  if (size < 1000) return 'now';
  const minutes = Math.floor(size / 60_000);
  // One unit only; the tooltip has the exact time.
  const text =
    size < 60_000
      ? `${Math.floor(size / 1000)} s`
      : minutes < 60
        ? `${minutes} min`
        : minutes < 48 * 60
          ? `${Math.floor(minutes / 60)} h`
          : `${Math.floor(minutes / 1440)} days`;
  return delta > 0 ? `${text} ago` : `in ${text}`;
}

const clockFormat = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const dayFormat = new Intl.DateTimeFormat('en-GB', { day: '2-digit', month: 'short' });

export function clock(atMs: number): string {
  return clockFormat.format(atMs);
}

/** A time of today as a time of day, any other with its date. */
export function moment(atMs: number, now = clusterNow()): string {
  const same = new Date(atMs).toDateString() === new Date(now).toDateString();
  return same ? clock(atMs) : `${dayFormat.format(atMs)} ${clock(atMs)}`;
}

export function iso(atMs: number): string {
  return Number.isFinite(atMs) ? new Date(atMs).toISOString() : '';
}

/** A share in percent. Almost all is not shown as 100 %, and almost nothing not as 0 %. */
export function percent(share: number, digits = 1): string {
  const [least, text] = [10 ** -digits, (share * 100).toFixed(digits)];
  if (share > 0 && Number(text) === 0) return `<${least.toFixed(digits)} %`;
  if (share < 1 && Number(text) === 100) return `>${(100 - least).toFixed(digits)} %`;
  return `${text} %`;
}
