/** The cluster: its nodes, present and earlier leaders, what each node reports, and the actions of an admin. */
import { useQuery } from '@tanstack/react-query';
import { connection } from '../../api/connection';
import { clusterQuery, nodesQuery } from '../../api/queries';
import { useStore } from '../../api/store';
import type { ClusterStatus } from '../../api/types';
import { bytes, count, duration } from '../../parts/format';
import { Facts, Panel, Screen } from '../../parts/layout';
import { Loaded } from '../../parts/states';
import { Badge, Status } from '../../parts/status';
import { Ago } from '../../parts/time';
import { clusterHealth } from '../overview/overview';
import { Warnings } from '../overview/warnings';
import { NodeReports } from './node-reports';
import { ClusterActions } from './cluster-actions';
import { Leadership } from './leadership';
import { Members } from './members';
import { toleranceOf } from './reach';
import { SuspendedExpiry } from './suspended-expiry';

export function ClusterScreen() {
  const query = useQuery(clusterQuery());
  const nodes = useQuery(nodesQuery());
  const led = useStore(connection).leader === 'known';
  const health = query.data ? clusterHealth(query.data, nodes.data, led) : null;
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
            {status.expiry?.suspended ? <SuspendedExpiry /> : null}
            {status.raft ? <Tolerance status={status} /> : null}
            {status.raft ? (
              <Members status={status} raft={status.raft} />
            ) : (
              <Panel title="Nodes">
                <p>
                  This cluster uses <b>{status.backend}</b> as its backend, so it has no list of members to show or change. This node is <code>{status.node}</code>
                  {status.leadership.is_leader ? ' and is the leader.' : '.'}
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
          No majority: {t.there} of {t.voters} voters reachable, {t.majority} needed. Writes are refused. Look-ups continue.
        </Status>
      </p>
    );
  }
  if (status.leadership.leader === null) {
    return (
      <p className="lead">
        <Status tone="bad">
          This node knows no leader. Writes are refused until {t.majority} of {t.voters} voters can reach each other. Look-ups continue.
        </Status>
      </p>
    );
  }
  const more = t.more === 1 ? 'One more node can fail' : `${t.more} more nodes can fail`;
  return (
    <p className="lead">
      {t.more > 0 ? (
        <Status tone="good">{more} without loss of writes or service.</Status>
      ) : t.voters === 1 ? (
        <Status tone="info">Single node: if it fails, the service stops. Add two nodes to tolerate the failure of one.</Status>
      ) : (
        <Status tone="warn">
          No more nodes can fail: {t.there} of {t.voters} voters {t.certain ? '' : 'known to be '}reachable, {t.majority} needed.
        </Status>
      )}
    </p>
  );
}

/** The version of the state, and whether an upgrade must still be finished. */
function stateVersion({ current, understood }: ClusterStatus['state_version']): string {
  if (current === null) return `not known: this node has no state yet; it understands ${understood}`;
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
          ['Uptime', duration(status.uptime_ms)],
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
                ['Leader since', <Ago key="g" at={status.grant.since_ms} />],
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
