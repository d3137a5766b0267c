/**
 * Who can be reached, as far as the serving node can know: by its own word and the leader's, and
 * where neither can tell, by who answered it. Pure.
 */
import type { ClusterNode, ClusterStatus, Member } from '../../api/types';

export type Reach = 'here' | 'reached' | 'cut-off' | 'unknown';

/** A leader that was heard within this time is there. */
const RECENT_MS = 5_000;

export function reachOf(status: ClusterStatus, member: Member, nodes?: readonly ClusterNode[]): Reach {
  const own = ownView(status, member);
  const asked = own === 'unknown' ? nodes?.find((n) => n.id === member.id) : undefined;
  if (!asked) return own;
  return asked.report ? 'reached' : 'cut-off';
}

function ownView(status: ClusterStatus, member: Member): Reach {
  const raft = status.raft;
  if (!raft) return 'unknown';
  if (member.id === raft.node_id) return 'here';
  // Null where neither this node nor the leader can tell.
  if (member.reachable !== null) return member.reachable ? 'reached' : 'cut-off';
  return member.last_contact_ms !== null && member.last_contact_ms < RECENT_MS ? 'reached' : 'unknown';
}

/** How many more voters may be lost. One of which nothing is known counts as lost; then it is not `certain`. */
export function toleranceOf(
  status: ClusterStatus,
  nodes?: readonly ClusterNode[],
): { more: number; voters: number; there: number; majority: number; certain: boolean } | null {
  const raft = status.raft;
  if (!raft) return null;
  const voters = raft.members.filter((m) => m.voter);
  const there = voters.filter((m) => ['here', 'reached'].includes(reachOf(status, m, nodes))).length;
  const majority = Math.floor(voters.length / 2) + 1;
  return {
    more: status.leadership.leader === null ? 0 : Math.max(0, there - majority),
    voters: voters.length,
    there,
    majority,
    certain: voters.every((m) => reachOf(status, m, nodes) !== 'unknown'),
  };
}
