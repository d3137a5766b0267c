/** Places the requests of one trace on a common axis. `time_ms` is when each ended. Pure. */
import type { TraceEntry } from '../../api/types';

export interface Span {
  entry: TraceEntry;
  /** From the start of the earliest. */
  startMs: number;
}

export function spansOf(entries: readonly TraceEntry[]): { spans: Span[]; fromMs: number; lengthMs: number } {
  if (entries.length === 0) return { spans: [], fromMs: 0, lengthMs: 0 };
  const starts = entries.map((e) => e.time_ms - e.duration_ms);
  const fromMs = Math.min(...starts);
  const lengthMs = Math.max(...entries.map((e) => e.time_ms)) - fromMs;
  const spans = entries
    .map((entry, i) => ({ entry, startMs: (starts[i] ?? fromMs) - fromMs }))
    .sort((a, b) => a.startMs - b.startMs || b.entry.duration_ms - a.entry.duration_ms);
  return { spans, fromMs, lengthMs };
}
