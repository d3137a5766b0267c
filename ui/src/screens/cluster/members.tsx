/** The nodes of a Raft cluster, and the actions on each. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { promoteMember, removeMember, transfer } from '../../api/actions';
import { keys, nodesQuery } from '../../api/queries';
import type { ClusterNode, ClusterStatus, Member, RaftStatus } from '../../api/types';
import { RoleButton } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { bytes, count, duration, plural } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { ACTIONS, end, PlainTable } from '../../parts/plain-table';
import { Status } from '../../parts/status';
import { say } from '../../parts/toast';
import { reachOf, type Reach } from './reach';

/** A lag of at most this many entries is normal, because entries are in flight. */
const LAG_TOLERATED = 1_000;

type Asked = { what: 'transfer' | 'promote' | 'remove'; member: Member } | null;

export function Members({ status, raft }: { status: ClusterStatus; raft: RaftStatus }) {
  const [asked, setAsked] = useState<Asked>(null);
  const voters = raft.members.filter((m) => m.voter).length;
  const nodes = useQuery(nodesQuery());
  const nodeOf = (m: Member) => nodes.data?.find((n) => n.id === m.id);
  const logEnds = [raft.last_log_index, ...(nodes.data ?? []).map((n) => n.report?.log?.last_log_index)];
  const longestLog = logEnds.reduce<number | null>((end, next) => (next == null ? end : Math.max(end ?? next, next)), null);
  return (
    <Panel title="Nodes" aside={plural(voters, 'voter')} flush>
      <PlainTable
        label="Nodes"
        columns={['Node', 'Role', 'Status', end('Term'), end('Last entry'), end('Applied'), end('Lag'), end('Log on disk'), end('Last sync'), 'Addresses', ACTIONS]}
      >
        {raft.members.map((m) => (
          <tr key={m.id}>
            <th scope="row">
              <span className="name">{m.name}</span> <span className="muted num">#{m.id}</span>
              {m.id === raft.node_id ? <span className="tag">this node</span> : null}
            </th>
            <td>{m.leader ? <Status tone="info">Leader</Status> : m.voter ? 'Voter' : 'Learner'}</td>
            <td>
              <Link reach={reachOf(status, m, nodes.data)} />
            </td>
            <Figures member={m} node={nodeOf(m)} longestLog={longestLog} />
            <td className="mono two-lines">
              {m.http_addr}
              <span className="muted">{m.peer_addr}</span>
            </td>
            <td className="row-actions">
              {m.voter && !m.leader ? (
                <RoleButton
                  needs="admin"
                  reason={reachOf(status, m, nodes.data) === 'cut-off' ? 'The node is unreachable.' : null}
                  onClick={() => setAsked({ what: 'transfer', member: m })}
                >
                  Make leader<span className="sr"> {m.name}</span>
                </RoleButton>
              ) : null}
              {m.voter ? null : (
                <RoleButton
                  needs="admin"
                  reason={reachOf(status, m, nodes.data) === 'cut-off' ? 'The node is unreachable.' : null}
                  onClick={() => setAsked({ what: 'promote', member: m })}
                >
                  Promote<span className="sr"> {m.name}</span>
                </RoleButton>
              )}
              <RoleButton
                needs="admin"
                kind="danger"
                reason={voters === 1 && m.voter ? 'It is the only voter.' : null}
                onClick={() => setAsked({ what: 'remove', member: m })}
              >
                Remove<span className="sr"> {m.name}</span>
              </RoleButton>
            </td>
          </tr>
        ))}
      </PlainTable>
      <MemberDialogs asked={asked} onClose={() => setAsked(null)} status={status} raft={raft} voters={voters} />
    </Panel>
  );
}

function Link({ reach }: { reach: Reach }) {
  if (reach === 'here') return <Status tone="good">Up</Status>;
  if (reach === 'reached') return <Status tone="good">Up</Status>;
  if (reach === 'cut-off') return <Status tone="bad">Unreachable</Status>;
  return <Status tone="muted">Checking</Status>;
}

function Figures({ member: m, node, longestLog }: { member: Member; node: ClusterNode | undefined; longestLog: number | null }) {
  const report = node?.report;
  const log = report?.log;
  const last = log?.last_log_index ?? m.matched_index;
  // A node without a report has old values, so its present lag is unknown.
  const lag = !report || last === null || longestLog === null ? null : Math.max(0, longestLog - last);
  return (
    <>
      <td className="end num">{report ? count(report.term) : '–'}</td>
      <td className="end num">{last === null ? '–' : count(last)}</td>
      <td className="end num">{log && log.applied_index !== null ? count(log.applied_index) : '–'}</td>
      <td className="end num">{lag === null ? '–' : lag > LAG_TOLERATED ? <Status tone="warn">{count(lag)}</Status> : count(lag)}</td>
      <td className="end num">{log ? bytes(log.log_disk_bytes) : '–'}</td>
      <td className="end num">
        {log?.disk_stalled ? <Status tone="bad">stalled</Status> : log && log.last_sync_us !== null ? duration(log.last_sync_us / 1000) : '–'}
      </td>
    </>
  );
}

function MemberDialogs({
  asked,
  onClose,
  status,
  raft,
  voters,
}: {
  asked: Asked;
  onClose: () => void;
  status: ClusterStatus;
  raft: RaftStatus;
  voters: number;
}) {
  const queries = useQueryClient();
  const refresh = () =>
    Promise.all([
      queries.invalidateQueries({ queryKey: keys.cluster() }),
      queries.invalidateQueries({ queryKey: keys.leadership() }),
    ]);
  // The last action is kept while the dialog closes, so that its text does not change visibly.
  const [last, setLast] = useState<Asked>(asked);
  if (asked && asked !== last) setLast(asked);
  const m = last?.member;
  if (!m) return null;
  const is = (what: NonNullable<Asked>['what']) => asked?.what === what;
  const after = voters - (m.voter ? 1 : 0);
  return (
    <>
      <Confirm
        open={is('transfer')}
        onClose={onClose}
        title={`Make ${m.name} the leader?`}
        verb="Transfer leadership"
        effect={
          <p>
            <b>{m.name}</b> takes over from {status.leadership.leader ?? 'the leader'}. Writes pause briefly, usually for
            well under a second. Discovery and the proxy continue.
          </p>
        }
        act={async () => {
          const previous = raft.members.find((other) => other.leader);
          const { data } = await transfer(m.id);
          say(`${data?.leader ?? m.name} is the leader.`, {
            ...(previous
              ? { undo: { label: 'Move it back', act: () => transfer(previous.id), done: `${previous.name} is the leader again.` } }
              : {}),
          });
          await refresh();
        }}
      />
      <Confirm
        open={is('promote')}
        onClose={onClose}
        title={`Promote ${m.name} to a voter?`}
        verb="Promote"
        effect={
          <p>
            It must be reachable and have nearly all of the log. It then counts toward the majority: {voters + 1} voters, of
            which {Math.floor(voters / 2)} can fail.
          </p>
        }
        act={async () => {
          await promoteMember(m.id);
          say(`${m.name} is a voter.`);
          await refresh();
        }}
      />
      <Confirm
        open={is('remove')}
        onClose={onClose}
        title={`Remove ${m.name} from the cluster?`}
        danger
        verb="Remove node"
        typed={m.name}
        effect={
          <>
            <p>
              <b>{m.name}</b> is removed from the cluster. {after} {after === 1 ? 'voter remains' : 'voters remain'}, of which{' '}
              <b>{Math.max(0, Math.floor((after - 1) / 2))}</b> can fail without loss of writes.
            </p>
            <p>
              Stop the node and delete its data: its id cannot be used again. To use the machine again, add it as a new node
              with a new id. The removal is refused if no majority of the remaining voters can be reached.
            </p>
          </>
        }
        act={async () => {
          await removeMember(m.id);
          say(`${m.name} is removed.`);
          await refresh();
        }}
      />
    </>
  );
}
