/**
 * Who can be reached, as far as the serving node can know. Only the leader speaks with every
 * member; a follower hears the leader alone, and what it says of the others is no news. Pure.
 */
import type { ClusterStatus, Member } from '../../api/types';

export type Reach = 'here' | 'reached' | 'cut-off' | 'unknown';

/** A leader that was heard within this time is there. */
const RECENT_MS = 5_000;

export function reachOf(status: ClusterStatus, member: Member): Reach {
  const raft = status.raft;
  if (!raft) return 'unknown';
  if (member.id === raft.node_id) return 'here';
  if (member.last_contact_ms !== null && member.last_contact_ms < RECENT_MS) return 'reached';
  if (status.leadership.is_leader) {
    if (member.reachable === null) return 'unknown';
    return member.reachable ? 'reached' : 'cut-off';
  }
  return member.leader && member.last_contact_ms !== null ? 'cut-off' : 'unknown';
}

/** How many more voters may be lost; not `certain` where the serving node cannot see them all. */
export function toleranceOf(
  status: ClusterStatus,
): { more: number; voters: number; away: number; majority: number; certain: boolean } | null {
  const raft = status.raft;
  if (!raft) return null;
  const voters = raft.members.filter((m) => m.voter);
  const away = voters.filter((m) => reachOf(status, m) === 'cut-off').length;
  const majority = Math.floor(voters.length / 2) + 1;
  return {
    // Without a leader too many are away already, whoever this node still hears.
    more: status.leadership.leader === null ? 0 : Math.max(0, voters.length - away - majority),
    voters: voters.length,
    away,
    majority,
    certain: voters.every((m) => reachOf(status, m) !== 'unknown'),
  };
}
