/** The runtime configuration: editing with a diff before it is applied, history and rollback. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { putConfig } from '../../api/actions';
import { configQuery, keys, type Revised } from '../../api/queries';
import type { ConfigRevision, RuntimeConfig } from '../../api/types';
import { Button, RoleButton } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { Diff, stable } from '../../parts/diff';
import { Panel, Screen } from '../../parts/layout';
import { Loaded, Note } from '../../parts/states';
import { say } from '../../parts/toast';
import { ConfigForm, configMistake } from './config-form';
import { ConfigHistory } from './config-history';

export function ConfigScreen() {
  const query = useQuery(configQuery());
  return (
    <Screen title="Configuration" intro="Settings of the whole cluster. A change applies on every node immediately, without a restart.">
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
  const [back, setBack] = useState<ConfigRevision | null>(null);
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
    queries.setQueryData(keys.config(), next);
    void queries.invalidateQueries({ queryKey: keys.configHistory() });
    setBase(next);
    setDraft(config);
    return data.revision;
  };
  const change = async (config: RuntimeConfig, text: string) => {
    const previous = base.value;
    const revision = await put(config, base.revision);
    say(`${text} (revision ${revision}).`, {
      undo: { act: () => put(previous, revision), done: 'The previous configuration applies again.' },
    });
  };
  const wrong = configMistake(draft);

  return (
    <>
      {newer && changed ? (
        <Note tone="warn">
          Somebody else has changed the configuration (revision {stored.revision}).{' '}
          <Button onClick={() => setBase(stored)}>Apply my changes to theirs</Button>{' '}
          <Button
            onClick={() => {
              setBase(stored);
              setDraft(stored.value);
            }}
          >
            Discard mine
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
              reason={wrong ?? (changed ? null : 'There are no changes.')}
              onClick={() => setApplying(true)}
            >
              Apply…
            </RoleButton>
            <Button reason={changed ? null : 'There are no changes.'} onClick={() => setDraft(base.value)}>
              Discard
            </Button>
          </div>
        </Panel>
      </div>
      <ConfigHistory now={base} onBack={setBack} />
      <Confirm
        open={applying}
        onClose={() => setApplying(false)}
        title="Apply this configuration?"
        verb="Apply"
        effect={<p>It applies on every node immediately. Instances keep the time to live with which they registered.</p>}
        act={() => change(draft, 'Configuration applied')}
      >
        <Diff label="Change of the configuration" before={before} after={after} />
      </Confirm>
      <Confirm
        open={back !== null}
        onClose={() => setBack(null)}
        title={`Roll back to revision ${back?.revision ?? ''}?`}
        verb="Roll back"
        effect={<p>The values of that revision apply on every node immediately, as a new revision.</p>}
        act={async () => {
          if (back) await change(back.config, `Rolled back to revision ${back.revision}`);
        }}
      >
        {back ? <Diff label="Change by rolling back" before={before} after={stable(back.config)} /> : null}
      </Confirm>
    </>
  );
}
