/** The nodes of a Raft cluster, and what can be done with each. */
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { promoteMember, removeMember, transfer } from '../../api/actions';
import { keys } from '../../api/queries';
import type { ClusterStatus, Member, RaftStatus } from '../../api/types';
import { RoleButton } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { count, duration } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { Status } from '../../parts/status';
import { say } from '../../parts/toast';
import { reachOf, type Reach as Reachability } from './reach';

type Asked = { what: 'transfer' | 'promote' | 'remove'; member: Member } | null;

export function Members({ status, raft }: { status: ClusterStatus; raft: RaftStatus }) {
  const [asked, setAsked] = useState<Asked>(null);
  const voters = raft.members.filter((m) => m.voter).length;
  return (
    <Panel title="Nodes" aside={`${voters} voting`} flush>
      <div className="scroll-x" role="region" aria-label="Nodes" tabIndex={0}>
        <table className="plain">
          <thead>
            <tr>
              <th scope="col">Node</th>
              <th scope="col">Role</th>
              <th scope="col">Link</th>
              <th scope="col" className="end">
                Matched index
              </th>
              <th scope="col" className="end">
                Lag
              </th>
              <th scope="col" className="end">
                Last contact
              </th>
              <th scope="col">Addresses</th>
              <th scope="col">
                <span className="sr">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {raft.members.map((m) => (
              <tr key={m.id}>
                <th scope="row">
                  <span className="name">{m.name}</span> <span className="muted num">#{m.id}</span>
                  {m.id === raft.node_id ? <span className="tag">this node</span> : null}
                </th>
                <td>{m.leader ? <Status tone="info">Leader</Status> : m.voter ? 'Follower' : 'Learner'}</td>
                <td>
                  <Reach reach={reachOf(status, m)} />
                </td>
                <td className="end num">{m.matched_index === null ? '–' : count(m.matched_index)}</td>
                <td className="end num">{lag(m, raft)}</td>
                <td className="end num">{m.last_contact_ms === null ? '–' : duration(m.last_contact_ms)}</td>
                <td className="mono">
                  {m.http_addr}
                  <span className="muted"> · {m.peer_addr}</span>
                </td>
                <td className="row-actions">
                  {m.voter && !m.leader ? (
                    <RoleButton
                      needs="admin"
                      reason={reachOf(status, m) === 'cut-off' ? 'It cannot be reached.' : null}
                      onClick={() => setAsked({ what: 'transfer', member: m })}
                    >
                      Make leader<span className="sr"> {m.name}</span>
                    </RoleButton>
                  ) : null}
                  {m.voter ? null : (
                    <RoleButton needs="admin" onClick={() => setAsked({ what: 'promote', member: m })}>
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
          </tbody>
        </table>
      </div>
      <MemberDialogs asked={asked} onClose={() => setAsked(null)} status={status} raft={raft} voters={voters} />
    </Panel>
  );
}

function Reach({ reach }: { reach: Reachability }) {
  if (reach === 'here') return <Status tone="good">Here</Status>;
  if (reach === 'reached') return <Status tone="good">Reached</Status>;
  if (reach === 'cut-off') return <Status tone="bad">Cut off</Status>;
  return <Status tone="muted">The leader knows</Status>;
}

function lag(m: Member, raft: RaftStatus): string {
  if (m.matched_index === null) return '–';
  return count(Math.max(0, raft.last_log_index - m.matched_index));
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
  const refresh = () => queries.invalidateQueries({ queryKey: keys.cluster() });
  // Kept while the dialog closes, so that its text does not change under the eye.
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
            {status.leadership.leader ?? 'The leader'} hands over to <b>{m.name}</b>. Changes wait for a moment, usually
            well under a second; discovery and the proxy go on throughout.
          </p>
        }
        act={async () => {
          const previous = raft.members.find((other) => other.leader);
          const { data } = await transfer(m.id);
          say(`${data?.leader ?? m.name} leads.`, {
            ...(previous
              ? { undo: { label: 'Hand back', act: () => transfer(previous.id), done: `${previous.name} leads again.` } }
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
            It then counts for majorities: {voters + 1} voters, of which {Math.floor((voters + 1) / 2)} may fail.
          </p>
        }
        act={async () => {
          await promoteMember(m.id);
          say(`${m.name} votes.`);
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
              <b>{m.name}</b> stops taking part. {after} {after === 1 ? 'voter remains' : 'voters remain'}, of which{' '}
              <b>{Math.max(0, Math.floor((after - 1) / 2))}</b> may fail without losing writes.
            </p>
            <p>Its data stays on its disk, but it cannot come back under this id without being added anew.</p>
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
