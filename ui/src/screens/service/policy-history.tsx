/** Earlier policies of a service: who changed what and when, a comparison of any two, and rollback. */
import { useQuery } from '@tanstack/react-query';
import { Fragment, useEffect, useRef, useState } from 'react';
import { policyHistoryQuery, type Revised } from '../../api/queries';
import type { Policy, PolicyRevisionView, Service } from '../../api/types';
import { Button, RoleButton } from '../../parts/button';
import { Diff, stable } from '../../parts/diff';
import { SelectField } from '../../parts/field';
import { FieldChanges } from '../../parts/field-changes';
import { Panel } from '../../parts/layout';
import { ACTIONS, PlainTable } from '../../parts/plain-table';
import { Empty, Loaded } from '../../parts/states';
import { At } from '../../parts/time';
import { policyChanges, policyOf, revisionName } from './policy-changes';

const UNKNOWN = 'The node that serves this page does not know this policy: it was set before that node was started, or there were many changes since.';

export function PolicyHistory({
  service,
  now,
  focus,
  onBack,
}: {
  service: Service;
  /** The present policy; null if none is set. */
  now: Revised<Policy> | null;
  /** The revision that the address names. It is opened at first. */
  focus: number | null;
  onBack: (to: PolicyRevisionView) => void;
}) {
  const query = useQuery(policyHistoryQuery(service.namespace, service.name));
  const [shown, setShown] = useState(focus);
  return (
    <Panel title="History" aside="the latest 100 changes" flush>
      <Loaded query={query} what="the history of the policy" rows={3}>
        {(revisions) =>
          revisions.length === 0 ? (
            <Empty title="No changes yet.">The defaults apply. Each change of the policy is listed here.</Empty>
          ) : (
            <PlainTable label="History of the policy" columns={['Revision', 'When', 'Who', 'What changed', ACTIONS]}>
              {revisions.map((r, i) => (
                <Fragment key={r.revision}>
                  <Row
                    revision={r}
                    before={revisions[i + 1]}
                    holds={now ? r.revision === now.revision : i === 0 && r.content === 'none'}
                    open={shown === r.revision}
                    focused={focus === r.revision}
                    onCompare={() => setShown(shown === r.revision ? null : r.revision)}
                    onBack={() => onBack(r)}
                  />
                  {shown === r.revision ? (
                    <tr>
                      <td colSpan={5} className="detail">
                        <Comparison of={r} revisions={revisions} />
                      </td>
                    </tr>
                  ) : null}
                </Fragment>
              ))}
            </PlainTable>
          )
        }
      </Loaded>
    </Panel>
  );
}

function Row({
  revision: r,
  before,
  holds,
  open,
  focused,
  onCompare,
  onBack,
}: {
  revision: PolicyRevisionView;
  before: PolicyRevisionView | undefined;
  holds: boolean;
  open: boolean;
  focused: boolean;
  onCompare: () => void;
  onBack: () => void;
}) {
  const row = useRef<HTMLTableRowElement>(null);
  useEffect(() => {
    if (focused) row.current?.scrollIntoView({ block: 'center' });
  }, [focused]);
  const unknown = r.content === 'unknown' ? UNKNOWN : null;
  return (
    <tr ref={row}>
      <th scope="row" className="num">
        {r.revision === 0 ? 'At first' : r.revision}
        {holds ? <span className="tag">now</span> : null}
      </th>
      <td>{r.time_ms !== null ? <At at={r.time_ms} /> : <span className="muted">{r.revision === 0 ? 'before the first change' : 'unknown'}</span>}</td>
      <td>{r.user ?? <span className="muted">–</span>}</td>
      <td className="wrap">
        <Changed to={r} from={before} />
      </td>
      <td className="row-actions">
        <Button aria-expanded={open} reason={unknown} onClick={onCompare}>
          Compare<span className="sr"> {revisionName(r.revision)}</span>
        </Button>
        {holds ? null : (
          <RoleButton needs="operator" reason={unknown} onClick={onBack}>
            Roll back…<span className="sr"> to {revisionName(r.revision)}</span>
          </RoleButton>
        )}
      </td>
    </tr>
  );
}

const CHANGES_SHOWN = 4;

/** What a revision changed, in one line for each field. */
function Changed({ from, to }: { from: PolicyRevisionView | undefined; to: PolicyRevisionView }) {
  if (to.content === 'unknown') return <span className="muted">not known to this node</span>;
  if (to.content === 'none') return <span className="muted">{to.revision === 0 ? 'no policy: the defaults' : 'removed: the defaults apply'}</span>;
  const before = policyOf(from);
  if (before === null) return <span className="muted">{from ? 'the policy before is not known to this node' : 'oldest known change'}</span>;
  return <FieldChanges of={policyChanges(before, policyOf(to) ?? {})} max={CHANGES_SHOWN} />;
}

/** The difference of a revision and another one: at first the one before it. */
function Comparison({ of, revisions }: { of: PolicyRevisionView; revisions: readonly PolicyRevisionView[] }) {
  const known = revisions.filter((r) => r.content !== 'unknown');
  const older = known.find((r) => r.revision < of.revision) ?? known.find((r) => r.revision !== of.revision);
  const [other, setOther] = useState(older?.revision ?? of.revision);
  const against = known.find((r) => r.revision === other) ?? of;
  const [from, to] = against.revision < of.revision ? [against, of] : [of, against];
  return (
    <div className="stack">
      <SelectField label={`Compare ${revisionName(of.revision)} with`} value={other} onChange={(e) => setOther(Number(e.target.value))}>
        {known.map((r, i) => (
          <option key={r.revision} value={r.revision}>
            {revisionName(r.revision)}
            {i === 0 ? ' (the latest)' : r.revision === of.revision ? ' (this one)' : ''}
          </option>
        ))}
      </SelectField>
      <Diff
        label={`From ${revisionName(from.revision)} to ${revisionName(to.revision)}`}
        before={stable(policyOf(from) ?? {})}
        after={stable(policyOf(to) ?? {})}
      />
    </div>
  );
}
