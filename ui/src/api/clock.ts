/**
 * The cluster's time. The clock of the browser may be wrong by hours, and all times of the API are of the cluster's
 * clock. Each answer has a `Date` field, in whole seconds, so each answer narrows the difference between the clocks.
 */

/** A difference of clocks below this is ignored, in milliseconds, because it is within the precision of `Date`. */
const TOLERANCE_MS = 1_000;

/** The difference is between these two: the cluster's time less the browser's, in milliseconds. */
let range: { from: number; to: number } | null = null;
let offsetMs = 0;

/** Learns from an answer that has `date`, that was requested at `sentAt`, and that arrived at `gotAt`. */
export function learn(date: string | null, sentAt: number, gotAt: number): void {
  const second = date === null ? Number.NaN : Date.parse(date);
  if (Number.isNaN(second) || gotAt < sentAt) return;
  // The node wrote the field between both times, within the second that it names.
  const from = second - gotAt;
  const to = second + 1_000 - sentAt;
  const both = range && { from: Math.max(range.from, from), to: Math.min(range.to, to) };
  // An empty range means that one of the clocks was set, or that another node answers.
  range = both && both.from <= both.to ? both : { from, to };
  const middle = Math.round((range.from + range.to) / 2);
  offsetMs = Math.abs(middle) < TOLERANCE_MS ? 0 : middle;
}

/** Forgets the difference. */
export function forgetClock(): void {
  range = null;
  offsetMs = 0;
}

/** The present time of the cluster, in milliseconds since 1970. */
export function clusterNow(): number {
  return Date.now() + offsetMs;
}
