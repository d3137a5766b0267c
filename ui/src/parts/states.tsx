/** The other states of every screen: loading, empty, failed. */
import type { UseQueryResult } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { asProblem, type Problem } from '../api/problem';
import { Button } from './button';
import { Mark } from './status';

export function Loading({ what, rows = 6 }: { what: string; rows?: number }) {
  return (
    <div className="loading" role="status">
      <span className="sr">Loading {what}…</span>
      {Array.from({ length: rows }, (_, i) => (
        <span key={i} className="bone" aria-hidden="true" />
      ))}
    </div>
  );
}

export function Empty({ title, children, action }: { title: string; children?: ReactNode; action?: ReactNode }) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children ? <div className="empty-text">{children}</div> : null}
      {action ? <div className="empty-action">{action}</div> : null}
    </div>
  );
}

export function Failed({ problem, retry }: { problem: Problem; retry?: () => void }) {
  const b = problem.body;
  return (
    <div className="failed" role="alert">
      <Mark tone="bad" size={16} />
      <div>
        <p className="failed-title">{b.title}</p>
        <p>{b.detail}</p>
        {b.action ? <p className="muted">{b.action}</p> : null}
        {b.trace_id ? (
          <p className="muted">
            Trace <code>{b.trace_id}</code>
          </p>
        ) : null}
        {retry ? (
          <p>
            <Button onClick={retry}>Try again</Button>
          </p>
        ) : null}
      </div>
    </div>
  );
}

/** A problem inside a dialog or a form. */
export function ProblemNote({ problem }: { problem: Problem }) {
  const b = problem.body;
  return (
    <div className="note tone-bad" role="alert">
      <Mark tone="bad" />
      <div>
        <strong>{b.title}.</strong> {b.detail} {b.action ? <span className="muted">{b.action}</span> : null}
      </div>
    </div>
  );
}

export function Note({ tone, children }: { tone: 'info' | 'warn' | 'bad' | 'good'; children: ReactNode }) {
  return (
    <div className={`note tone-${tone}`}>
      <Mark tone={tone} />
      <div>{children}</div>
    </div>
  );
}

type Result<T> = Pick<UseQueryResult<T>, 'data' | 'error' | 'isPending'> & { refetch: () => unknown };

/** Shows data once there is some, even if a later read failed. The banner says how old it is. */
export function Loaded<T>({
  query,
  what,
  rows,
  children,
}: {
  query: Result<T>;
  what: string;
  rows?: number;
  children: (data: NonNullable<T>) => ReactNode;
}) {
  if (query.data !== undefined && query.data !== null) return <>{children(query.data)}</>;
  if (query.error) return <Failed problem={asProblem(query.error)} retry={() => void query.refetch()} />;
  return <Loading what={what} {...(rows ? { rows } : {})} />;
}
