/** The leaders over time, why they changed, and when no write could be acknowledged. */
import { useQuery } from '@tanstack/react-query';
import { useEffect, useMemo } from 'react';
import { clusterNow } from '../../api/clock';
import { connection } from '../../api/connection';
import { leadershipQuery } from '../../api/queries';
import { createStore, useStore } from '../../api/store';
import type { ClusterStatus, LeadershipCause, LeadershipGrant } from '../../api/types';
import { clock, count, duration, iso, moment } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { end, PlainTable } from '../../parts/plain-table';
import { Empty, Loaded } from '../../parts/states';
import { useNow } from '../../parts/time';

export interface Term {
  holder: string;
  from: number;
  /** Null for the last term if no leader is known now, because the end of the term is unknown. */
  to: number | null;
  fence: number;
  index: number;
  grant: LeadershipGrant;
}

export interface Gap {
  from: number;
  to: number | null;
}

const GAPS_MAX = 50;

/** The times in which this page's node knew no leader, so that writes failed. */
export const gaps = createStore<Gap[]>([]);

connection.subscribe(() => {
  const { leader, leaderLostAt } = connection.get();
  gaps.set((seen) => {
    const open = seen.at(-1);
    if (leader === 'unknown' && leaderLostAt !== null && (!open || open.to !== null)) {
      // The page has timed this with the browser's clock.
      return [...seen.slice(1 - GAPS_MAX), { from: leaderLostAt + clusterNow() - Date.now(), to: null }];
    }
    if (leader === 'known' && open?.to === null) return [...seen.slice(0, -1), { ...open, to: clusterNow() }];
    return seen;
  });
});

/** Converts grants, newest first, to time spans, oldest first. */
export function termsOf(grants: readonly LeadershipGrant[], now: number | null): Term[] {
  return [...grants].reverse().map((g, i, all) => ({
    holder: g.holder,
    from: g.time_ms,
    to: all[i + 1]?.time_ms ?? now,
    fence: g.fence,
    index: g.index,
    grant: g,
  }));
}

/** When writes failed: as recorded by new leaders, and as observed by this page while it was open. */
export function gapsOf(grants: readonly LeadershipGrant[], seen: readonly Gap[]): Gap[] {
  const told = grants
    .filter((g) => (g.gap_ms ?? 0) > 0)
    .map((g) => ({ from: g.time_ms - (g.gap_ms ?? 0), to: g.time_ms }));
  const tolerance = 2_000;
  const known = (gap: Gap) =>
    told.some((t) => gap.to !== null && gap.from <= t.to + tolerance && gap.to >= t.from - tolerance);
  return [...told, ...seen.filter((gap) => !known(gap))].sort((a, b) => a.from - b.from);
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
          grants.length === 0 ? <Empty title="No leader changes recorded." /> : <History grants={grants} seen={seen} led={status.leadership.leader !== null} />
        }
      </Loaded>
    </Panel>
  );
}

const SPANS = [15 * 60_000, 3_600_000, 6 * 3_600_000, 24 * 3_600_000, 7 * 24 * 3_600_000];

function History({ grants, seen, led }: { grants: readonly LeadershipGrant[]; seen: readonly Gap[]; led: boolean }) {
  const now = useNow();
  const terms = useMemo(() => termsOf(grants, led ? now : null), [grants, led, now]);
  const breaks = useMemo(() => gapsOf(grants, seen), [grants, seen]);
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
                .filter((t) => t.holder === holder && (t.to ?? t.from) >= from)
                .map((t) => (
                  <span
                    key={t.index}
                    className={`timeline-term tint-${(row % 4) + 1}`}
                    style={{ left: share(t.from), right: `calc(100% - ${share(t.to ?? t.from)})` }}
                    title={`${holder}: ${moment(t.from)}${t.to === null ? '' : ` for ${duration(t.to - t.from)}`}, fence ${t.fence}`}
                  />
                ))}
              {breaks
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
      <PlainTable label="Latest leaders" columns={['From', 'Leader', 'Cause', end('Writes failed for'), end('Led for'), end('Fence'), end('Index')]}>
        {[...terms]
          .reverse()
          .slice(0, 8)
          .map((t) => (
            <tr key={t.index}>
              <td className="num">
                <time dateTime={iso(t.from)}>{moment(t.from)}</time>
              </td>
              <td className="mono">{t.holder}</td>
              <td className="wrap">{causeOf(t.grant)}</td>
              <td className="end num">
                {typeof t.grant.gap_ms === 'number' ? duration(t.grant.gap_ms) : <span className="muted">–</span>}
              </td>
              <td className="end num">{t.to === null ? <span className="muted">unknown</span> : duration(t.to - t.from)}</td>
              <td className="end num">{count(t.fence)}</td>
              <td className="end num">{count(t.index)}</td>
            </tr>
          ))}
      </PlainTable>
    </>
  );
}

const CAUSES: Record<LeadershipCause, (g: LeadershipGrant) => string> = {
  first: () => 'Oldest recorded change',
  transfer: (g) => `Transferred${g.from ? ` by ${g.from}` : ''}, requested by ${g.by ?? 'an admin'}`,
  handover: (g) => `${g.from ?? 'The previous leader'} stepped down, as a node does when it is stopped`,
  silence: (g) => `${g.from ?? 'The previous leader'} stopped responding`,
  regained: () => 'Leader again, after it had lost its majority',
  unknown: (g) => `Elected; it is not known why the leadership of ${g.from ?? 'the previous leader'} ended`,
};

export function causeOf(grant: LeadershipGrant): string {
  return grant.cause ? CAUSES[grant.cause](grant) : 'Unknown';
}
