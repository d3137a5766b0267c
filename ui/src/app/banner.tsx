/** The banner that shows how old the data on the page is, why, and what still works. */
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { connection, stalenessOf } from '../api/connection';
import { clusterQuery } from '../api/queries';
import { bearerToken } from '../api/session';
import { useStore } from '../api/store';
import { duration } from '../parts/format';
import { Mark } from '../parts/status';
import { useOwnNow } from '../parts/time';
import { OtherNodes } from './other-nodes';

/** An interruption of the connection that is shorter than this shows no banner, in milliseconds. */
const PATIENCE_MS = 1_500;

export function Banner() {
  const link = useStore(connection);
  const now = useOwnNow();
  const { data } = useQuery(clusterQuery());
  const stale = stalenessOf(link, now);
  const backend = data?.backend;
  if (data?.excluded) {
    return (
      <Bar tone="bad">
        <strong>{data.node} is not part of the cluster.</strong> {data.excluded}. It answers no requests for services.
        The other nodes:
        <OtherNodes />
      </Bar>
    );
  }
  if (stale.kind === 'lost' && stale.ageMs > PATIENCE_MS) {
    return (
      <Bar tone="bad">
        <strong>Connection lost.</strong> What you see is {duration(stale.ageMs)} old.{' '}
        {bearerToken() ? 'Trying this node and the others in turn.' : 'Trying again.'} The same page at the other nodes:
        <OtherNodes />
      </Bar>
    );
  }
  if (stale.kind === 'no-leader' && stale.ageMs > PATIENCE_MS) {
    return (
      <Bar tone="warn">
        <strong>{backend === 'redis' ? 'Redis does not answer, or there is no leader.' : 'No leader.'}</strong> Discovery
        and this page continue from the last known state, {duration(stale.ageMs)} old.{' '}
        {backend === 'raft'
          ? 'Changes are refused until a majority of nodes has elected one.'
          : 'Heartbeats and health verdicts wait for a leader, and nothing expires. Other changes need only the store.'}
      </Bar>
    );
  }
  if (stale.kind === 'behind') {
    return (
      <Bar tone="warn">
        <strong>This node is behind.</strong> What you see may be {duration(stale.ageMs)} old.
      </Bar>
    );
  }
  if (stale.kind === 'unknown') {
    return (
      <Bar tone="warn">
        <strong>This node has just started.</strong> It does not know yet how old its data is.
      </Bar>
    );
  }
  if (link.base !== '') {
    return (
      <Bar tone="info">
        <strong>Served by {new URL(link.base).host}.</strong> The node that served this page does not answer. You
        can keep working here. Reload the page to go back once it is up.
      </Bar>
    );
  }
  if (data?.expiry?.suspended) {
    return (
      <Bar tone="warn">
        <strong>Expiry is suspended.</strong> A large share of all instances became silent at the same time. No instance is removed until
        they send heartbeats again, the suspension reaches its limit, or an operator confirms that they are gone, under{" "}
        <Link to="/cluster">Cluster</Link>.
      </Bar>
    );
  }
  return null;
}

function Bar({ tone, children }: { tone: 'bad' | 'warn' | 'info'; children: React.ReactNode }) {
  return (
    <div className={`banner tone-${tone}`} role="status" aria-live="polite" aria-atomic="false">
      <Mark tone={tone} size={14} />
      <div>{children}</div>
    </div>
  );
}
