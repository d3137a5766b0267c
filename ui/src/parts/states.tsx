/** The other states of every screen: loading, empty, failed. */
import type { UseQueryResult } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { asProblem, forPeople, type Problem } from '../api/problem';
import { Button } from './button';
import { duration } from './format';
import { Mark } from './status';
import { useOwnNow } from './time';

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
  const b = forPeople(problem.body);
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

export { Note, ProblemNote } from './notes';

function Old({ what, readAt }: { what: string; readAt: number }) {
  const now = useOwnNow();
  return (
    <p className="old-note" role="status">
      <Mark tone="warn" /> Not current: {what} could not be read. What is shown is {duration(Math.max(0, now - readAt))} old.
    </p>
  );
}

type Result<T> = Pick<UseQueryResult<T>, 'data' | 'error' | 'isPending'> & {
  refetch: () => unknown;
  failureReason?: unknown;
  dataUpdatedAt?: number;
};

/** Shows data once there is some. If a later read failed, the data is dimmed, with the time of the last good read. */
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
  if (query.data !== undefined && query.data !== null) {
    const failed = Boolean(query.error ?? query.failureReason);
    // The same elements with and without a failure, so that inputs and the focus stay.
    return (
      <>
        {failed ? <Old what={what} readAt={query.dataUpdatedAt ?? 0} /> : null}
        <div className={failed ? 'dimmed' : 'plain-wrap'}>{children(query.data)}</div>
      </>
    );
  }
  if (query.error) return <Failed problem={asProblem(query.error)} retry={() => void query.refetch()} />;
  return <Loading what={what} {...(rows ? { rows } : {})} />;
}
