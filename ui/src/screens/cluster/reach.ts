/**
 * Which members are reachable, as far as the serving node knows: by its own report and the leader's.
 * If neither knows, it depends on which members answered. Pure functions.
 */
import type { ClusterNode, ClusterStatus, Member } from '../../api/types';

export type Reach = 'here' | 'reached' | 'cut-off' | 'unknown';

/** A member that was heard within this time is reachable, in milliseconds. */
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
  // Null if neither this node nor the leader knows.
  if (member.reachable !== null) return member.reachable ? 'reached' : 'cut-off';
  return member.last_contact_ms !== null && member.last_contact_ms < RECENT_MS ? 'reached' : 'unknown';
}

/** How many more voters may fail. An unknown voter counts as failed, and the number is then not `certain`. */
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
