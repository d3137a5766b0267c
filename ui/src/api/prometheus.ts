/** Reads the Prometheus text format: names, labels, values. Comments and timestamps are left out. */

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

const SAMPLES_MAX = 200_000;

export function parsePrometheus(text: string): Sample[] {
  const out: Sample[] = [];
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const sample = parseLine(line);
    if (sample) out.push(sample);
    if (out.length >= SAMPLES_MAX) break;
  }
  return out;
}

function parseLine(line: string): Sample | null {
  const name = /^[a-zA-Z_:][a-zA-Z0-9_:]*/.exec(line)?.[0];
  if (name === undefined) return null;
  let at = name.length;
  const labels: Record<string, string> = Object.create(null) as Record<string, string>;
  if (line[at] === '{') {
    at += 1;
    while (at < line.length && line[at] !== '}') {
      const pair = /^\s*([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"\s*,?/.exec(line.slice(at));
      if (!pair?.[1]) return null;
      labels[pair[1]] = (pair[2] ?? '').replace(/\\(.)/g, (_, c: string) => (c === 'n' ? '\n' : c));
      at += pair[0].length;
    }
    at += 1;
  }
  const word = line.slice(at).trim().split(/\s+/)[0] ?? '';
  const value = word === '+Inf' ? Infinity : word === '-Inf' ? -Infinity : Number(word);
  return word === '' || Number.isNaN(value) ? null : { name, labels, value };
}

/** The sum over all label sets; null where the metric is absent. */
export function total(samples: readonly Sample[], name: string, only?: (labels: Sample['labels']) => boolean): number | null {
  let sum: number | null = null;
  for (const sample of samples) {
    if (sample.name === name && (!only || only(sample.labels))) sum = (sum ?? 0) + sample.value;
  }
  return sum;
}
