/**
 * The report of each node about itself, which the nodes fetch from each other. Two nodes that both claim to lead
 * would be visible here.
 */
import { useQuery } from '@tanstack/react-query';
import { nodesQuery } from '../../api/queries';
import type { ClusterNode, NodeReport } from '../../api/types';
import { count, duration } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { end, PlainTable } from '../../parts/plain-table';
import { Loaded, Note } from '../../parts/states';
import { Status } from '../../parts/status';

/** A follower that has heard the leader within this time knows who leads. */
const STALE_MS = 5_000;

/** Contradictions between the nodes' answers, as text; empty if there are none. */
export function disagreements(reports: readonly NodeReport[]): string[] {
  const out: string[] = [];
  const byTerm = new Map<number, string[]>();
  for (const r of reports) if (r.is_leader && r.term !== null) byTerm.set(r.term, [...(byTerm.get(r.term) ?? []), r.node]);
  for (const [term, nodes] of byTerm) {
    if (nodes.length > 1) out.push(`${nodes.join(' and ')} both claim to be leader in term ${term}.`);
  }
  const byIndex = new Map<number, NodeReport[]>();
  for (const r of reports) if (r.index !== null) byIndex.set(r.index, [...(byIndex.get(r.index) ?? []), r]);
  for (const [index, same] of byIndex) {
    if (new Set(same.map((r) => r.audit_head)).size > 1) {
      out.push(`${same.map((r) => r.node).join(' and ')} have different histories at index ${index}.`);
    }
  }
  return out;
}

export function NodeReports() {
  const query = useQuery(nodesQuery());
  const reports = (query.data ?? []).flatMap((n) => (n.report ? [n.report] : []));
  const wrong = disagreements(reports);
  return (
    <Panel title="What each node reports" aside={query.data ? `${reports.length} of ${query.data.length} nodes answered` : null} flush>
      {wrong.map((text) => (
        <div key={text} className="pad">
          <Note tone="bad">{text}</Note>
        </div>
      ))}
      <Loaded query={query} what="the nodes" rows={3}>
        {(nodes) => (
          <PlainTable label="What each node reports" columns={['Node', 'Reported leader', end('Term'), end('State index'), 'History']}>
            {nodes.map((n) => (
              <Row key={n.name} node={n} />
            ))}
          </PlainTable>
        )}
      </Loaded>
      {reports.length > 1 && wrong.length === 0 ? (
        <p className="pad">
          {reports.length === query.data?.length ? (
            <Status tone="good">No split brain: there is at most one leader, and nodes at the same index have the same history.</Status>
          ) : (
            <Status tone="muted">The {reports.length} nodes that answered do not contradict each other. Of the others, nothing is known.</Status>
          )}
        </p>
      ) : null}
    </Panel>
  );
}

function Row({ node: n }: { node: ClusterNode }) {
  const r = n.report;
  return (
    <tr>
      <th scope="row">{n.name}</th>
      {r ? (
        <>
          <td>
            {r.leader ? <span className="mono">{r.leader}</span> : <Status tone="warn">none</Status>}
            {r.is_leader ? <span className="tag">itself</span> : null}
            {r.staleness_ms === null ? <span className="tag">age unknown</span> : null}
            {r.staleness_ms !== null && r.staleness_ms > STALE_MS ? (
              <span className="tag">{duration(r.staleness_ms)} behind</span>
            ) : null}
          </td>
          <td className="end num">{count(r.term)}</td>
          <td className="end num">{count(r.index)}</td>
          <td className="mono" title={r.audit_head ?? 'unknown'}>
            {r.audit_head?.slice(0, 10) ?? '–'}
          </td>
        </>
      ) : (
        <td colSpan={4}>
          <Status tone="bad">no answer</Status> <span className="muted">{n.problem}</span>
        </td>
      )}
    </tr>
  );
}
