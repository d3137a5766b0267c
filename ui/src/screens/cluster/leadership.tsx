/** Who led when, and when this page saw no leader. */
import { useQuery } from '@tanstack/react-query';
import { useEffect, useMemo } from 'react';
import { connection } from '../../api/connection';
import { leadershipQuery } from '../../api/queries';
import { createStore, useStore } from '../../api/store';
import type { ClusterStatus, LeadershipGrant } from '../../api/types';
import { clock, count, duration, iso, moment } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { useNow } from '../../parts/time';

export interface Term {
  holder: string;
  from: number;
  to: number;
  fence: number;
  index: number;
}

export interface Gap {
  from: number;
  to: number | null;
}

const GAPS_MAX = 50;

/** Times at which this page was told that no leader is known: writes failed then. */
export const gaps = createStore<Gap[]>([]);

connection.subscribe(() => {
  const { leader, leaderLostAt } = connection.get();
  gaps.set((seen) => {
    const open = seen.at(-1);
    if (leader === 'unknown' && leaderLostAt !== null && (!open || open.to !== null)) {
      return [...seen.slice(1 - GAPS_MAX), { from: leaderLostAt, to: null }];
    }
    if (leader === 'known' && open?.to === null) return [...seen.slice(0, -1), { ...open, to: Date.now() }];
    return seen;
  });
});

/** Grants, newest first, as stretches of time, oldest first. */
export function termsOf(grants: readonly LeadershipGrant[], now: number): Term[] {
  return [...grants]
    .reverse()
    .map((g, i, all) => ({ holder: g.holder, from: g.time_ms, to: all[i + 1]?.time_ms ?? now, fence: g.fence, index: g.index }));
}

export function Leadership({ status }: { status: ClusterStatus }) {
  const query = useQuery(leadershipQuery());
  const seen = useStore(gaps);
  const { refetch } = query;
  useEffect(() => {
    void refetch();
  }, [status.leadership.term, refetch]);
  return (
    <Panel title="Leadership" aside={`term ${count(status.leadership.term)}`}>
      <Loaded query={query} what="the leadership history" rows={3}>
        {(grants) =>
          grants.length === 0 ? <Empty title="No leadership has been granted yet." /> : <History grants={grants} seen={seen} />
        }
      </Loaded>
    </Panel>
  );
}

const SPANS = [15 * 60_000, 3_600_000, 6 * 3_600_000, 24 * 3_600_000, 7 * 24 * 3_600_000];

function History({ grants, seen }: { grants: readonly LeadershipGrant[]; seen: readonly Gap[] }) {
  const now = useNow();
  const terms = useMemo(() => termsOf(grants, now), [grants, now]);
  const oldest = terms[0]?.from ?? now;
  const span = SPANS.find((s) => now - oldest <= s) ?? SPANS.at(-1) ?? 0;
  const from = now - span;
  const share = (at: number) => `${(Math.min(1, Math.max(0, (at - from) / span)) * 100).toFixed(3)}%`;
  const holders = [...new Set(terms.map((t) => t.holder))].sort();
  return (
    <>
      <div className="timeline" role="img" aria-label={`Leaders of the last ${duration(span)}: ${terms.map((t) => `${t.holder} from ${moment(t.from)}`).join(', ')}`}>
        {holders.map((holder, row) => (
          <div key={holder} className="timeline-row">
            <span className="timeline-name mono">{holder}</span>
            <div className="timeline-track">
              {terms
                .filter((t) => t.holder === holder && t.to > from)
                .map((t) => (
                  <span
                    key={t.index}
                    className={`timeline-term tint-${(row % 4) + 1}`}
                    style={{ left: share(t.from), right: `calc(100% - ${share(t.to)})` }}
                    title={`${holder}: ${moment(t.from)} for ${duration(t.to - t.from)}, fence ${t.fence}`}
                  />
                ))}
              {seen
                .filter((g) => (g.to ?? now) > from)
                .map((g) => (
                  <span
                    key={g.from}
                    className="timeline-gap"
                    style={{ left: share(g.from), right: `calc(100% - ${share(g.to ?? now)})` }}
                    title={`No leader from ${clock(g.from)} for ${duration((g.to ?? now) - g.from)}`}
                  />
                ))}
            </div>
          </div>
        ))}
        <div className="timeline-axis num" aria-hidden="true">
          <span>{moment(from)}</span>
          <span>{moment(from + span / 2)}</span>
          <span>now</span>
        </div>
      </div>
      <div className="scroll-x" role="region" aria-label="Latest leaders" tabIndex={0}>
        <table className="plain">
          <thead>
            <tr>
              <th scope="col">From</th>
              <th scope="col">Leader</th>
              <th scope="col">Cause</th>
              <th scope="col" className="end">
                Led for
              </th>
              <th scope="col" className="end">
                Fence
              </th>
              <th scope="col" className="end">
                Index
              </th>
            </tr>
          </thead>
          <tbody>
            {[...terms]
              .reverse()
              .slice(0, 8)
              .map((t, i, all) => (
                <tr key={t.index}>
                  <td className="num">
                    <time dateTime={iso(t.from)}>{moment(t.from)}</time>
                  </td>
                  <td className="mono">{t.holder}</td>
                  <td>{cause(t, all[i + 1], seen)}</td>
                  <td className="end num">{duration(t.to - t.from)}</td>
                  <td className="end num">{count(t.fence)}</td>
                  <td className="end num">{count(t.index)}</td>
                </tr>
              ))}
          </tbody>
        </table>
      </div>
      {seen.length > 0 ? (
        <p className="muted">
          While this page was open it saw no leader {seen.length === 1 ? 'once' : `${seen.length} times`}, last at{' '}
          {clock(seen.at(-1)?.from ?? 0)}
          {seen.at(-1)?.to ? ` for ${duration((seen.at(-1)?.to ?? 0) - (seen.at(-1)?.from ?? 0))}` : ', still so'}. Writes
          failed meanwhile.
        </p>
      ) : null}
    </>
  );
}

/** What the grants themselves tell; the log does not say more. */
function cause(term: Term, before: Term | undefined, seen: readonly Gap[]): string {
  if (!before) return 'Oldest that is kept';
  const gap = seen.find((g) => g.from <= term.from + 1_000 && (g.to ?? Infinity) >= term.from - 2_000);
  if (gap) return `Elected after ${duration((gap.to ?? term.from) - gap.from)} without a leader, as this page saw it`;
  return before.holder === term.holder ? 'Took its duties anew' : `Took over from ${before.holder}`;
}
