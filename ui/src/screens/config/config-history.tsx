/** Earlier configurations: who changed what, a comparison with the present one, and rollback. */
import { useQuery } from '@tanstack/react-query';
import { Fragment, useState } from 'react';
import { configHistoryQuery, type Revised } from '../../api/queries';
import type { ConfigRevision, RuntimeConfig } from '../../api/types';
import { Button, RoleButton } from '../../parts/button';
import { Diff, stable } from '../../parts/diff';
import { type FieldChange, FieldChanges } from '../../parts/field-changes';
import { Panel } from '../../parts/layout';
import { ACTIONS, PlainTable } from '../../parts/plain-table';
import { Empty, Loaded } from '../../parts/states';
import { At } from '../../parts/time';

export function ConfigHistory({ now, onBack }: { now: Revised<RuntimeConfig>; onBack: (to: ConfigRevision) => void }) {
  const query = useQuery(configHistoryQuery());
  const [shown, setShown] = useState<number | null>(null);
  return (
    <Panel title="History" aside="kept by the cluster, the latest 100" flush>
      <Loaded query={query} what="the history" rows={3}>
        {(revisions) =>
          revisions.length === 0 ? (
            <Empty title="No changes yet.">The defaults apply. Each change is listed here.</Empty>
          ) : (
            <PlainTable label="History" columns={['Revision', 'When', 'Who', 'What changed', ACTIONS]}>
              {revisions.map((r, i) => (
                <Fragment key={r.revision}>
                  <Row
                    revision={r}
                    before={revisions[i + 1]}
                    holds={r.revision === now.revision}
                    open={shown === r.revision}
                    onCompare={() => setShown(shown === r.revision ? null : r.revision)}
                    onBack={() => onBack(r)}
                  />
                  {shown === r.revision ? (
                    <tr>
                      <td colSpan={5} className="detail">
                        <Diff
                          label={`From revision ${r.revision} to now`}
                          before={stable(r.config)}
                          after={stable(now.value)}
                        />
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
  onCompare,
  onBack,
}: {
  revision: ConfigRevision;
  before: ConfigRevision | undefined;
  holds: boolean;
  open: boolean;
  onCompare: () => void;
  onBack: () => void;
}) {
  return (
    <tr>
      <th scope="row" className="num">
        {r.revision === 0 ? 'Defaults' : r.revision}
        {holds ? <span className="tag">now</span> : null}
      </th>
      <td>{r.time_ms !== null ? <At at={r.time_ms} /> : <span className="muted">before the first change</span>}</td>
      <td>{r.user || <span className="muted">–</span>}</td>
      <td className="wrap">
        {before ? <FieldChanges of={changesOf(before.config, r.config)} /> : <span className="muted">oldest kept revision</span>}
      </td>
      <td className="row-actions">
        {holds ? null : (
          <>
            <Button aria-expanded={open} onClick={onCompare}>
              Compare<span className="sr"> revision {r.revision} with now</span>
            </Button>
            <RoleButton needs="operator" onClick={onBack}>
              Roll back…<span className="sr"> to revision {r.revision}</span>
            </RoleButton>
          </>
        )}
      </td>
    </tr>
  );
}

/** The fields in which two configurations differ, in the order of their names. */
export function changesOf(from: RuntimeConfig, to: RuntimeConfig): FieldChange[] {
  const fields = ([...new Set([...Object.keys(from), ...Object.keys(to)])] as (keyof RuntimeConfig)[]).sort();
  const text = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value) ?? 'none');
  return fields
    .map((field) => ({ field, from: text(from[field]), to: text(to[field]) }))
    .filter((change) => change.from !== change.to);
}
