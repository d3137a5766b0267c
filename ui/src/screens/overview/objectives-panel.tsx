/** The error budgets of the service level objectives over 30 days, which all nodes count together. */
import { useQuery } from '@tanstack/react-query';
import { objectivesQuery } from '../../api/queries';
import type { CountingNode, Objective } from '../../api/types';
import { Answered } from '../../parts/answered';
import { duration, percent, short } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { Loaded } from '../../parts/states';
import type { Tone } from '../../parts/status';

/** A node that did not count for longer than this is named. Shorter times are those of a restart. */
const MISSING_MS_MAX = 600_000;

export function ObjectivesPanel() {
  const query = useQuery(objectivesQuery());
  return (
    <Panel title="Error budgets" aside="the last 30 days">
      <Loaded query={query} what="the error budgets" rows={3}>
        {({ items, nodes }) => (
          <>
            <dl className="budgets">
              {items.map((objective) => (
                <Budget key={objective.name} objective={objective} />
              ))}
            </dl>
            <Answered nodes={nodes} />
            <Missing nodes={nodes} />
          </>
        )}
      </Loaded>
    </Panel>
  );
}

/** What is left of a budget, as text and with its colour. */
export function left(budget: number | null): { text: string; tone: Tone } {
  if (budget === null) return { text: '–', tone: 'muted' };
  if (budget <= 0) return { text: 'Spent', tone: 'bad' };
  return { text: `${percent(budget, 0)} left`, tone: budget > 0.25 ? 'good' : 'warn' };
}

function Budget({ objective: { title, about, objective, requests, failures, budget_left } }: { objective: Objective }) {
  const { text, tone } = left(budget_left);
  return (
    <div>
      <dt title={about}>
        {title}, {percent(objective, 2)}
      </dt>
      <dd>
        <b className={`num text-${tone}`}>{text}</b>
        {budget_left === null ? (
          <span className="muted">no requests</span>
        ) : (
          <>
            <meter min={0} max={1} value={Math.max(0, budget_left)} aria-label={`${title}: error budget left`} className={`meter tone-${tone}`} />
            <span className="muted">
              {short(failures)} of {short(requests)} failed
            </span>
          </>
        )}
      </dd>
    </div>
  );
}

/** Names the nodes that did not count for a time, so that the sums are without the requests of that time. */
function Missing({ nodes }: { nodes: readonly CountingNode[] }) {
  const missing = nodes.filter((node) => (node.missing_ms ?? 0) > MISSING_MS_MAX);
  if (missing.length === 0) return null;
  const text = missing.map((node) => `${node.name} for ${duration(node.missing_ms ?? 0)}`).join(', ');
  return <p className="muted">Not counted, because the node was not running: {text}</p>;
}
