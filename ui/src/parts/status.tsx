/** Status by shape, word and colour together, so that nobody depends on colour alone. */
import type { ReactNode } from 'react';

export type Tone = 'good' | 'warn' | 'bad' | 'info' | 'muted' | 'hold';

const MARKS: Record<Tone, ReactNode> = {
  good: (
    <>
      <circle cx="6" cy="6" r="5.2" fill="currentColor" />
      <path d="m3.6 6.2 1.7 1.7 3.2-3.6" className="mark-line" />
    </>
  ),
  warn: (
    <>
      <path d="M6 .9 11.6 11H.4Z" fill="currentColor" />
      <path d="M6 4.4v3M6 9.1v.1" className="mark-line" />
    </>
  ),
  bad: (
    <>
      <path d="M3.6.8h4.8l2.8 2.8v4.8l-2.8 2.8H3.6L.8 8.4V3.6Z" fill="currentColor" />
      <path d="m4.1 4.1 3.8 3.8m0-3.8L4.1 7.9" className="mark-line" />
    </>
  ),
  hold: (
    <>
      <rect x=".8" y=".8" width="10.4" height="10.4" rx="2.4" fill="currentColor" />
      <path d="M4.6 4v4M7.4 4v4" className="mark-line" />
    </>
  ),
  info: (
    <>
      <circle cx="6" cy="6" r="5.2" fill="currentColor" />
      <path d="M6 5.6v3M6 3.4v.1" className="mark-line" />
    </>
  ),
  muted: <circle cx="6" cy="6" r="4.4" fill="none" stroke="currentColor" strokeWidth="1.5" strokeDasharray="2.3 1.6" />,
};

export function Mark({ tone, size = 12 }: { tone: Tone; size?: number }) {
  return (
    <svg className={`mark tone-${tone}`} width={size} height={size} viewBox="0 0 12 12" aria-hidden="true" focusable="false">
      {MARKS[tone]}
    </svg>
  );
}

export function Status({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <span className={`status tone-${tone}`}>
      <Mark tone={tone} />
      <span>{children}</span>
    </span>
  );
}

/** A status as a badge, for headings. */
export function Badge({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <span className={`badge tone-${tone}`}>
      <Mark tone={tone} />
      <span>{children}</span>
    </span>
  );
}

const SERVICE = {
  healthy: ['good', 'Serving'],
  degraded: ['warn', 'Degraded'],
  down: ['bad', 'Down'],
  // Its instances may pass their probes, but every proxied call of the last minute failed.
  failing: ['bad', 'Failing'],
} as const;

export function ServiceStatus({ health, badge }: { health: keyof typeof SERVICE; badge?: boolean }) {
  const [tone, text] = SERVICE[health] ?? (['muted', health] as const);
  return badge ? <Badge tone={tone}>{text}</Badge> : <Status tone={tone}>{text}</Status>;
}

const INSTANCE = {
  ready: ['good', 'Serving'],
  // No failure was observed. An instance that is healthy from the start causes no log entry.
  unknown: ['good', 'Serving'],
  failing: ['bad', 'Failing'],
  unhealthy: ['bad', 'Unhealthy'],
  evicted: ['bad', 'Evicted'],
  draining: ['hold', 'Draining'],
} as const;

/** `used` tells that the instance gets traffic in spite of its state, because its service is in panic mode. */
export function InstanceStatus({ state, used, badge }: { state: keyof typeof INSTANCE; used?: boolean; badge?: boolean }) {
  const [tone, name] = INSTANCE[state];
  const text = used ? `${name}, serving` : name;
  return badge ? <Badge tone={tone}>{text}</Badge> : <Status tone={tone}>{text}</Status>;
}
