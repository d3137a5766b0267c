/** The cluster: its nodes, present and earlier leaders, what each node reports, and the actions of an admin. */
import { useQuery } from '@tanstack/react-query';
import { clusterQuery, nodesQuery } from '../../api/queries';
import type { ClusterStatus } from '../../api/types';
import { bytes, count, duration } from '../../parts/format';
import { Facts, Panel, Screen } from '../../parts/layout';
import { Loaded } from '../../parts/states';
import { Badge, Status } from '../../parts/status';
import { Ago } from '../../parts/time';
import { clusterHealth, Warnings } from '../overview/overview';
import { NodeReports } from './node-reports';
import { ClusterActions } from './cluster-actions';
import { Leadership } from './leadership';
import { Members } from './members';
import { toleranceOf } from './reach';
import { SuspendedExpiry } from './suspended-expiry';

export function ClusterScreen() {
  const query = useQuery(clusterQuery());
  const nodes = useQuery(nodesQuery());
  const health = query.data ? clusterHealth(query.data, nodes.data) : null;
  return (
    <Screen
      title="Cluster"
      status={health ? <Badge tone={health.tone}>{health.text}</Badge> : null}
      actions={query.data ? <ClusterActions status={query.data} /> : null}
    >
      <Loaded query={query} what="the cluster" rows={10}>
        {(status) => (
          <>
            <Warnings status={status} />
            {status.expiry?.suspended ? <SuspendedExpiry status={status} /> : null}
            {status.raft ? <Tolerance status={status} /> : null}
            {status.raft ? (
              <Members status={status} raft={status.raft} />
            ) : (
              <Panel title="Nodes">
                <p>
                  The commands are ordered by <b>{status.backend}</b>: there is no membership to show, and nothing to add
                  or remove. This node is <code>{status.node}</code>
                  {status.leadership.is_leader ? ' and carries the leader’s duties.' : '.'}
                </p>
              </Panel>
            )}
            <Leadership status={status} />
            <div className="two-columns">
              <NodeReports />
              <ThisNode status={status} />
            </div>
          </>
        )}
      </Loaded>
    </Screen>
  );
}

function Tolerance({ status }: { status: ClusterStatus }) {
  const nodes = useQuery(nodesQuery());
  const t = toleranceOf(status, nodes.data);
  if (!t) return null;
  if (t.there < t.majority) {
    return (
      <p className="lead">
        <Status tone="bad">
          No majority: {t.majority} of {t.voters} voters are needed, {t.there} reachable. Writes are refused; lookups continue.
        </Status>
      </p>
    );
  }
  if (status.leadership.leader === null) {
    return (
      <p className="lead">
        <Status tone="bad">
          This node knows no leader: writes are refused until {t.majority} of {t.voters} voters can reach each other. Look-ups continue.
        </Status>
      </p>
    );
  }
  const more = t.more === 1 ? 'One more node may fail' : `${t.more} more nodes may fail`;
  return (
    <p className="lead">
      {t.more > 0 ? (
        <Status tone="good">{more} without losing writes or service.</Status>
      ) : t.voters === 1 ? (
        <Status tone="info">A single node: if it fails, the service stops. Add two more nodes to survive the loss of one.</Status>
      ) : (
        <Status tone="warn">
          No further node may fail: {t.there} of {t.voters} are {t.certain ? '' : 'known to be '}reachable, {t.majority} are needed.
        </Status>
      )}
    </p>
  );
}

/** The version of the state, and whether an upgrade must still be finished. */
function stateVersion({ current, understood }: ClusterStatus['state_version']): string {
  if (current === null) return `unknown: this node has no state yet; it understands ${understood}`;
  return current < understood ? `${current}; this node understands ${understood}: the upgrade is not finished` : String(current);
}

function ThisNode({ status }: { status: ClusterStatus }) {
  const raft = status.raft;
  return (
    <Panel title={`This node: ${status.node}`}>
      <Facts
        items={[
          ['Version', <span key="v" className="mono">{status.version}</span>],
          ['State version', stateVersion(status.state_version)],
          ['Up for', duration(status.uptime_ms)],
          ['State index', <N key="i" n={status.index} />],
          ...(raft
            ? ([
                ['Last log entry', <N key="l" n={raft.last_log_index} />],
                ['Committed up to entry', <N key="c" n={raft.committed_index} />],
                ['Applied up to entry', <N key="a" n={raft.applied_index} />],
                ['Snapshot at entry', <N key="s" n={raft.snapshot_index} />],
                ['Compacted up to entry', <N key="p" n={raft.purged_index} />],
                ['Log on disk', bytes(raft.log_disk_bytes)],
                [
                  'Last sync to disk',
                  raft.disk_stalled ? (
                    <Status tone="bad">stalled</Status>
                  ) : raft.last_sync_us === null ? (
                    '–'
                  ) : (
                    duration(raft.last_sync_us / 1000)
                  ),
                ],
                ['Cluster id', <span key="id" className="mono break">{raft.cluster_id}</span>],
              ] as const)
            : []),
          ...(status.nodes ?? []).map(
            (node) => [`Node ${node.name}`, `state version ${node.state_version}, seen ${duration(node.last_seen_ms)} ago`] as const,
          ),
          ...(status.grant && status.leadership.leader !== null
            ? ([
                ['Leader’s duties', status.grant.holder],
                ['Fence', <N key="f" n={status.grant.fence} />],
                ['Held since', <Ago key="g" at={status.grant.since_ms} />],
              ] as const)
            : []),
        ]}
      />
    </Panel>
  );
}

function N({ n }: { n: number | null }) {
  return <span className="num">{count(n)}</span>;
}
