/** A line-by-line difference of two texts, by longest common subsequence. */

export interface DiffLine {
  kind: 'same' | 'added' | 'removed';
  text: string;
}

/** With more lines on a side, the quadratic comparison would be slow, so both sides are shown as a whole. */
const LINES_MAX = 1_500;

export function diffLines(before: string, after: string): DiffLine[] {
  const a = before === '' ? [] : before.split('\n');
  const b = after === '' ? [] : after.split('\n');
  if (a.length > LINES_MAX || b.length > LINES_MAX) {
    return [...a.map((text) => ({ kind: 'removed' as const, text })), ...b.map((text) => ({ kind: 'added' as const, text }))];
  }
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] =
        a[i] === b[j]
          ? (longest[(i + 1) * width + j + 1] ?? 0) + 1
          : Math.max(longest[(i + 1) * width + j] ?? 0, longest[i * width + j + 1] ?? 0);
    }
  }
  const out: DiffLine[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      out.push({ kind: 'same', text: a[i] as string });
      i += 1;
      j += 1;
    } else if (i < a.length && (j >= b.length || (longest[(i + 1) * width + j] ?? 0) >= (longest[i * width + j + 1] ?? 0))) {
      out.push({ kind: 'removed', text: a[i] as string });
      i += 1;
    } else {
      out.push({ kind: 'added', text: b[j] as string });
      j += 1;
    }
  }
  return out;
}

/** A value as JSON with sorted keys, so that equal values give equal text. */
export function stable(value: unknown): string {
  return JSON.stringify(sorted(value), null, 2) ?? '';
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
}

/** Number of unchanged lines that are shown around a change. */
const CONTEXT = 3;

/** Long stretches without a change become one line that counts them. */
export function folded(lines: readonly DiffLine[]): (DiffLine | { hidden: number })[] {
  const near = lines.map((_, i) => lines.slice(Math.max(0, i - CONTEXT), i + CONTEXT + 1).some((l) => l.kind !== 'same'));
  const out: (DiffLine | { hidden: number })[] = [];
  for (const [i, line] of lines.entries()) {
    const last = out.at(-1);
    if (near[i]) out.push(line);
    else if (last && 'hidden' in last) last.hidden += 1;
    else out.push({ hidden: 1 });
  }
  return out;
}

const SIGN = { same: ' ', added: '+', removed: '−' } as const;
const SPOKEN = { same: '', added: 'added: ', removed: 'removed: ' } as const;

export function Diff({ before, after, label }: { before: string; after: string; label: string }) {
  const lines = diffLines(before, after);
  const added = lines.filter((l) => l.kind === 'added').length;
  const removed = lines.filter((l) => l.kind === 'removed').length;
  if (added + removed === 0) return <p className="muted">There are no differences.</p>;
  return (
    <div className="diff" role="group" aria-label={`${label}: ${added} added, ${removed} removed`}>
      <pre tabIndex={0} aria-label={label}>
        {folded(lines).map((line, i) =>
          'hidden' in line ? (
            <div key={i} className="diff-line muted">
              ⋯ {line.hidden} unchanged {line.hidden === 1 ? 'line' : 'lines'}
              {'\n'}
            </div>
          ) : (
            <div key={i} className={`diff-line ${line.kind}`}>
              <span aria-hidden="true">{SIGN[line.kind]} </span>
              <span className="sr">{SPOKEN[line.kind]}</span>
              {line.text}
              {'\n'}
            </div>
          ),
        )}
      </pre>
    </div>
  );
}
