/** Places the requests of one trace, and the attempts of each, on a common axis. Pure. */
import type { TraceAttempt, TraceEntry } from '../../api/types';

export interface Span {
  entry: TraceEntry;
  /** Time from the start of the earliest request, in milliseconds. */
  startMs: number;
  attempts: AttemptSpan[];
}

export interface AttemptSpan {
  attempt: TraceAttempt;
  /** Time from the start of the earliest request to that of the attempt, in milliseconds. */
  startMs: number;
}

export function spansOf(entries: readonly TraceEntry[]): { spans: Span[]; fromMs: number; lengthMs: number } {
  if (entries.length === 0) return { spans: [], fromMs: 0, lengthMs: 0 };
  const fromMs = Math.min(...entries.map((e) => e.time_ms));
  const lengthMs = Math.max(...entries.map((e) => e.time_ms + e.duration_ms)) - fromMs;
  const spans = entries
    .map((entry) => {
      const startMs = entry.time_ms - fromMs;
      const attempts = (entry.attempts ?? []).map((attempt) => ({ attempt, startMs: startMs + attempt.start_ms }));
      return { entry, startMs, attempts };
    })
    .sort((a, b) => a.startMs - b.startMs || b.entry.duration_ms - a.entry.duration_ms);
  return { spans, fromMs, lengthMs };
}
