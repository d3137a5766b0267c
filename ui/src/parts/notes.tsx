/** Notes in a page, a dialog or a form. They use no library, because the sign-in uses them. */
import type { ReactNode } from 'react';
import { forPeople, saying, type Problem } from '../api/problem';
import { Mark } from './status';

export function ProblemNote({ problem }: { problem: Problem }) {
  const b = forPeople(problem.body);
  const { head, rest } = saying(b);
  return (
    <div className="note tone-bad" role="alert">
      <Mark tone="bad" />
      <div>
        <strong>{head}</strong> {rest} {b.action ? <span className="muted">{b.action}</span> : null}
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
