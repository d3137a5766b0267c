/** What each node itself says, asked one by one: two that both claim to lead would be seen here. */
import { useQueries, queryOptions } from '@tanstack/react-query';
import { call } from '../../api/client';
import { connection } from '../../api/connection';
import { peerUrl } from '../../api/peers';
import { bearerToken } from '../../api/session';
import { useStore } from '../../api/store';
import type { ClusterStatus, Member } from '../../api/types';
import { count } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { Note } from '../../parts/states';
import { Status } from '../../parts/status';

export interface Belief {
  node: string;
  leader: string | null;
  isLeader: boolean;
  term: number;
  index: number;
  digest: string | null;
}

async function ask(base: string, signal: AbortSignal): Promise<Belief> {
  const options = { base, signal, quiet: true, timeoutMs: 2_500 };
  const { data } = await call<ClusterStatus>('/cluster/status', options);
  const digest = await call<{ index: number; digest: string }>('/cluster/digest', options).catch(() => null);
  return {
    node: data.node,
    leader: data.leadership.leader,
    isLeader: data.leadership.is_leader,
    term: data.leadership.term,
    index: digest?.data.index ?? data.index,
    digest: digest?.data.digest ?? null,
  };
}

const beliefQuery = (member: Member, base: string) =>
  queryOptions({
    queryKey: ['belief', member.id, base] as const,
    queryFn: ({ signal }) => ask(base, signal),
    refetchInterval: 3_000,
    retry: false,
  });

/** What is wrong among the nodes' answers, in words; empty where nothing is. */
export function disagreements(beliefs: readonly Belief[]): string[] {
  const out: string[] = [];
  const claimants = beliefs.filter((b) => b.isLeader);
  const byTerm = new Map<number, string[]>();
  for (const b of claimants) byTerm.set(b.term, [...(byTerm.get(b.term) ?? []), b.node]);
  for (const [term, nodes] of byTerm) {
    if (nodes.length > 1) out.push(`${nodes.join(' and ')} both claim to lead in term ${term}.`);
  }
  const byIndex = new Map<number, Belief[]>();
  for (const b of beliefs) if (b.digest) byIndex.set(b.index, [...(byIndex.get(b.index) ?? []), b]);
  for (const [index, same] of byIndex) {
    if (new Set(same.map((b) => b.digest)).size > 1) {
      out.push(`${same.map((b) => b.node).join(' and ')} hold different states at index ${index}.`);
    }
  }
  return out;
}

export function Beliefs({ status }: { status: ClusterStatus }) {
  const { base } = useStore(connection);
  const members = status.raft?.members ?? [];
  const asked = members.map((m) => {
    const self = m.id === status.raft?.node_id;
    const url = self ? base : peerUrl(m.http_addr);
    return { member: m, url, may: self || (url !== null && bearerToken() !== null) };
  });
  const results = useQueries({
    queries: asked.map(({ member, url, may }) => ({ ...beliefQuery(member, url ?? ''), enabled: may })),
  });
  const beliefs = results.flatMap((r) => (r.data && !r.error ? [r.data] : []));
  const wrong = disagreements(beliefs);
  return (
    <Panel title="What each node believes" aside={`${beliefs.length} of ${members.length || 1} asked`}>
      {wrong.map((text) => (
        <Note key={text} tone="bad">
          {text}
        </Note>
      ))}
      {members.length === 0 ? <p className="muted">There are no other members to ask in this mode.</p> : null}
      {members.length > 0 ? (
        <div className="scroll-x" role="region" aria-label="What each node believes" tabIndex={0}>
          <table className="plain">
            <thead>
              <tr>
                <th scope="col">Node</th>
                <th scope="col">Believes the leader is</th>
                <th scope="col" className="end">
                  Term
                </th>
                <th scope="col" className="end">
                  Index
                </th>
                <th scope="col">State</th>
              </tr>
            </thead>
            <tbody>
              {asked.map(({ member, may }, i) => {
                const r = results[i];
                const b = r?.error ? undefined : r?.data;
                return (
                  <tr key={member.id}>
                    <th scope="row">{member.name}</th>
                    {b ? (
                      <>
                        <td className="mono">
                          {b.leader ?? <Status tone="warn">none</Status>}
                          {b.isLeader ? <span className="tag">itself</span> : null}
                        </td>
                        <td className="end num">{count(b.term)}</td>
                        <td className="end num">{count(b.index)}</td>
                        <td className="mono" title={b.digest ?? undefined}>
                          {b.digest?.slice(0, 10) ?? '–'}
                        </td>
                      </>
                    ) : (
                      <td colSpan={4} className="muted">
                        {!may
                          ? 'Not asked: this browser may ask other nodes only in the page it signed in on.'
                          : r?.error
                            ? 'Does not answer this browser.'
                            : 'Asking…'}
                      </td>
                    )}
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      ) : null}
      {beliefs.length > 1 && wrong.length === 0 ? (
        <p>
          <Status tone="good">No split: nobody else claims to lead, and equal indexes have equal states.</Status>
        </p>
      ) : null}
    </Panel>
  );
}
