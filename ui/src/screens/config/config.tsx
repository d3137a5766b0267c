/** The runtime configuration: edit with a diff before it holds; history and rollback. */
import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useMemo, useState } from 'react';
import { putConfig } from '../../api/actions';
import { auditQuery, configQuery, keys, type Revised } from '../../api/queries';
import { useStore } from '../../api/store';
import type { RuntimeConfig } from '../../api/types';
import { Button, RoleButton } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { Diff, stable } from '../../parts/diff';
import { Panel, Screen } from '../../parts/layout';
import { Loaded, Note } from '../../parts/states';
import { At } from '../../parts/time';
import { say } from '../../parts/toast';
import { ConfigForm, configMistake } from './config-form';
import { rememberConfig, seenConfigs, type SeenConfig } from './history';

export function ConfigScreen() {
  const query = useQuery(configQuery());
  useEffect(() => {
    if (query.data) rememberConfig(query.data.revision, query.data.value);
  }, [query.data]);
  return (
    <Screen title="Configuration" intro="Replicated: a change holds on every node at once, without a restart.">
      <Loaded query={query} what="the configuration" rows={8}>
        {(stored) => <Editor stored={stored} />}
      </Loaded>
    </Screen>
  );
}

function Editor({ stored }: { stored: Revised<RuntimeConfig> }) {
  const [base, setBase] = useState(stored);
  const [draft, setDraft] = useState(stored.value);
  const [applying, setApplying] = useState(false);
  const [back, setBack] = useState<SeenConfig | null>(null);
  const queries = useQueryClient();
  const before = stable(base.value);
  const after = stable(draft);
  const changed = before !== after;
  const newer = stored.revision !== base.revision;
  useEffect(() => {
    if (newer && !changed) {
      setBase(stored);
      setDraft(stored.value);
    }
  }, [newer, changed, stored]);

  const put = async (config: RuntimeConfig, from: number) => {
    const { data } = await putConfig(config, from);
    const next = { revision: data.revision, value: config };
    rememberConfig(data.revision, config);
    queries.setQueryData(keys.config(), next);
    setBase(next);
    setDraft(config);
    return data.revision;
  };
  const change = async (config: RuntimeConfig, text: string) => {
    const previous = base.value;
    const revision = await put(config, base.revision);
    say(`${text} as revision ${revision}.`, {
      undo: { act: () => put(previous, revision), done: 'The previous configuration holds again.' },
    });
  };
  const wrong = configMistake(draft);

  return (
    <>
      {newer && changed ? (
        <Note tone="warn">
          Someone changed the configuration meanwhile (revision {stored.revision}).{' '}
          <Button onClick={() => setBase(stored)}>Put mine on top of theirs</Button>{' '}
          <Button
            onClick={() => {
              setBase(stored);
              setDraft(stored.value);
            }}
          >
            Take theirs
          </Button>
        </Note>
      ) : null}
      <div className="two-columns">
        <Panel title="Settings" aside={`revision ${base.revision}`}>
          <ConfigForm config={draft} onChange={setDraft} />
        </Panel>
        <Panel title="What would change" aside={changed ? null : 'nothing yet'}>
          <Diff label="Change of the configuration" before={before} after={after} />
          <div className="form-foot">
            <RoleButton
              needs="operator"
              kind="primary"
              reason={wrong ?? (changed ? null : 'Nothing is changed.')}
              onClick={() => setApplying(true)}
            >
              Apply…
            </RoleButton>
            <Button reason={changed ? null : 'Nothing is changed.'} onClick={() => setDraft(base.value)}>
              Discard
            </Button>
          </div>
        </Panel>
      </div>
      <History now={base} onBack={setBack} />
      <Confirm
        open={applying}
        onClose={() => setApplying(false)}
        title="Apply this configuration?"
        verb="Apply"
        effect={<p>It holds on every node at once. Instances keep the time to live with which they registered.</p>}
        act={() => change(draft, 'The configuration holds')}
      >
        <Diff label="Change of the configuration" before={before} after={after} />
      </Confirm>
      <Confirm
        open={back !== null}
        onClose={() => setBack(null)}
        title={`Go back to revision ${back?.revision ?? ''}?`}
        verb="Roll back"
        effect={<p>The values of that revision hold on every node at once, as a new revision.</p>}
        act={async () => {
          if (back) await change(back.config, `Revision ${back.revision} holds again,`);
        }}
      >
        {back ? <Diff label="Change by rolling back" before={before} after={stable(back.config)} /> : null}
      </Confirm>
    </>
  );
}

function History({ now, onBack }: { now: Revised<RuntimeConfig>; onBack: (to: SeenConfig) => void }) {
  const audit = useInfiniteQuery(auditQuery({ action: 'config.' }, 50));
  const seen = useStore(seenConfigs);
  const [shown, setShown] = useState<number | null>(null);
  const rows = useMemo(() => {
    const records = (audit.data?.pages ?? []).flatMap((p) => p.items).filter((r) => r.outcome === 'success');
    const byRevision = new Map(seen.map((s) => [s.revision, s]));
    const out = records.map((r) => ({ revision: r.index, at: r.time_ms, by: r.user, seen: byRevision.get(r.index) ?? null }));
    for (const s of seen) {
      if (!out.some((row) => row.revision === s.revision)) out.push({ revision: s.revision, at: s.seenAt, by: '', seen: s });
    }
    return out.sort((a, b) => b.revision - a.revision);
  }, [audit.data, seen]);
  const open = rows.find((r) => r.revision === shown)?.seen;
  return (
    <Panel title="History" aside="values of the revisions that this browser has seen" flush>
      <div className="scroll-x" role="region" aria-label="History" tabIndex={0}>
        <table className="plain">
          <thead>
            <tr>
              <th scope="col">Revision</th>
              <th scope="col">When</th>
              <th scope="col">Who</th>
              <th scope="col">Values</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((r) => (
              <tr key={r.revision}>
                <th scope="row" className="num">
                  {r.revision === 0 ? 'defaults' : r.revision}
                  {r.revision === now.revision ? <span className="tag">now</span> : null}
                </th>
                <td className="num">
                  <At at={r.at} />
                </td>
                <td>{r.by || <span className="muted">seen by this browser</span>}</td>
                <td className="row-actions start">
                  {r.revision === now.revision ? (
                    <span className="muted">hold now</span>
                  ) : r.seen ? (
                    <>
                      <Button
                        aria-expanded={shown === r.revision}
                        onClick={() => setShown(shown === r.revision ? null : r.revision)}
                      >
                        Compare<span className="sr"> revision {r.revision} with now</span>
                      </Button>
                      <RoleButton needs="operator" onClick={() => r.seen && onBack(r.seen)}>
                        Roll back…<span className="sr"> to revision {r.revision}</span>
                      </RoleButton>
                    </>
                  ) : (
                    <span className="muted">not kept: this browser was not open then</span>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {open ? (
        <div className="pad">
          <Diff label={`From revision ${shown} to now`} before={stable(open.config)} after={stable(now.value)} />
        </div>
      ) : null}
    </Panel>
  );
}
