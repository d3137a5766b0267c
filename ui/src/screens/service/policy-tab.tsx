/** The policy editor: a form for the most common fields, JSON for the whole policy, and a diff before it is applied. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useMemo, useState } from 'react';
import { deletePolicy, putPolicy } from '../../api/actions';
import { Problem } from '../../api/problem';
import { configQuery, keys, policyQuery, type Revised } from '../../api/queries';
import type { Policy, Service } from '../../api/types';
import { Button, RoleButton, useDenied } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { Diff, stable } from '../../parts/diff';
import { AreaField, Choice } from '../../parts/field';
import { Panel } from '../../parts/layout';
import { Loaded, Note } from '../../parts/states';
import { say } from '../../parts/toast';
import { checkPolicy, parsePolicy } from './policy-check';
import { PolicyForm } from './policy-form';
import { strategyName } from './names';

export function PolicyTab({ service }: { service: Service }) {
  const query = useQuery(policyQuery(service.namespace, service.name));
  // Null is a valid answer: no policy is set.
  const data = query.isSuccess || query.data !== undefined ? { policy: query.data ?? null } : undefined;
  return (
    <Loaded query={{ ...query, data }} what="the policy" rows={6}>
      {({ policy }) => <Editor service={service} stored={policy} />}
    </Loaded>
  );
}

function Editor({ service, stored }: { service: Service; stored: Revised<Policy> | null }) {
  const [base, setBase] = useState(stored);
  const [draft, setDraft] = useState<Policy>(stored?.value ?? {});
  const [text, setText] = useState(stable(stored?.value ?? {}));
  const [mode, setMode] = useState<'form' | 'json'>('form');
  const [applying, setApplying] = useState(false);
  const [removing, setRemoving] = useState(false);
  const queries = useQueryClient();
  const config = useQuery(configQuery());
  const denied = useDenied('operator');
  const parsed = useMemo(() => parsePolicy(text), [text]);
  const now = mode === 'json' ? ('policy' in parsed ? parsed.policy : null) : draft;
  const mistakes = useMemo(() => (now ? checkPolicy(now) : {}), [now]);
  const before = stable(base?.value ?? {});
  const after = now ? stable(now) : before;
  const touched = after !== before;
  const newer = (stored?.revision ?? 0) !== (base?.revision ?? 0);

  const take = (next: Revised<Policy> | null) => {
    setBase(next);
    setDraft(next?.value ?? {});
    setText(stable(next?.value ?? {}));
  };
  useEffect(() => {
    // There are no unsaved changes, so the editor shows the changes of other users.
    if (newer && !touched) take(stored);
  }, [newer, touched, stored]);

  const refresh = () =>
    Promise.all([
      queries.invalidateQueries({ queryKey: keys.policy(service.namespace, service.name) }),
      queries.invalidateQueries({ queryKey: keys.service(service.namespace, service.name) }),
    ]);
  const put = async (policy: Policy, from: number | null) => {
    const { data } = await putPolicy(service.namespace, service.name, policy, from);
    take({ revision: data.revision, value: policy });
    await refresh();
    return data.revision;
  };
  const apply = async () => {
    if (!now) return;
    const previous = base;
    const revision = await put(now, base?.revision ?? null);
    say(`The policy of ${service.name} applies as revision ${revision}.`, {
      undo: {
        act: async () => {
          if (previous) await put(previous.value, revision);
          else {
            await deletePolicy(service.namespace, service.name, revision);
            take(null);
            await refresh();
          }
        },
        done: previous ? 'The previous policy applies again.' : 'The policy is removed again; the defaults apply.',
      },
    });
  };
  const reason = mode === 'json' && 'mistake' in parsed ? `Not valid JSON: ${parsed.mistake}` : (Object.values(mistakes)[0] ?? null);

  return (
    <div className="policy">
      {newer && touched ? (
        <Note tone="warn">
          Somebody else has changed this policy (revision {stored?.revision ?? 'none'}). Applying yours would be refused.{' '}
          <Button onClick={() => setBase(stored)}>Apply my changes to theirs</Button>{' '}
          <Button onClick={() => take(stored)}>Discard mine</Button>
        </Note>
      ) : null}
      <div className="toolbar">
        <Choice
          label="Editor"
          value={mode}
          onChange={(next) => {
            if (next === 'json') setText(stable(draft));
            else if ('policy' in parsed) setDraft(parsed.policy);
            setMode(next);
          }}
          options={[
            { value: 'form', label: 'Form' },
            { value: 'json', label: 'JSON, all fields' },
          ]}
        />
        <span className="muted">
          {base ? '' : 'No policy is set: the defaults apply'}
          {config.data && !draft.selection?.strategy
            ? `${base ? '' : ' · '}the configuration's strategy is ${strategyName(config.data.value.selection_strategy).toLowerCase()}`
            : ''}
        </span>
      </div>
      <div className="two-columns">
        <Panel title="Policy" aside={base ? `revision ${base.revision}` : 'not set'}>
          {mode === 'form' ? (
            <PolicyForm policy={draft} mistakes={mistakes} disabled={denied !== null} onChange={setDraft} />
          ) : (
            <AreaField
              label="Policy"
              hint="The schema is ServicePolicy in the API description. Fields that the form does not show are kept."
              className="code-area"
              rows={24}
              value={text}
              readOnly={denied !== null}
              error={'mistake' in parsed ? parsed.mistake : (Object.values(mistakes)[0] ?? null)}
              onChange={(e) => setText(e.target.value)}
            />
          )}
        </Panel>
        <Panel title="What would change" aside={touched ? null : 'nothing yet'}>
          <Diff label="Change of the policy" before={before} after={after} />
          <div className="form-foot">
            <RoleButton
              needs="operator"
              kind="primary"
              reason={reason ?? (touched ? null : 'There are no changes.')}
              onClick={() => setApplying(true)}
            >
              Apply…
            </RoleButton>
            <Button reason={touched ? null : 'There are no changes.'} onClick={() => take(base)}>
              Discard
            </Button>
            {base ? (
              <RoleButton needs="operator" kind="danger" onClick={() => setRemoving(true)}>
                Remove policy
              </RoleButton>
            ) : null}
          </div>
        </Panel>
      </div>
      <Confirm
        open={applying}
        onClose={() => setApplying(false)}
        title={`Apply this policy to ${service.name}?`}
        verb="Apply"
        effect={<p>It applies on every node immediately, for each new request and probe. Requests in flight keep the old one.</p>}
        act={async () => {
          try {
            await apply();
          } catch (error) {
            if (error instanceof Problem && error.is('revision-mismatch')) await refresh();
            throw error;
          }
        }}
      >
        <Diff label="Change of the policy" before={before} after={after} />
      </Confirm>
      <Confirm
        open={removing}
        onClose={() => setRemoving(false)}
        title={`Remove the policy of ${service.name}?`}
        danger
        verb="Remove policy"
        effect={<p>Then the defaults and the strategy of the configuration apply, on every node.</p>}
        act={async () => {
          if (!base) return;
          const previous = base.value;
          await deletePolicy(service.namespace, service.name, base.revision);
          take(null);
          await refresh();
          say(`The policy of ${service.name} is removed.`, {
            undo: { act: () => put(previous, null), done: 'The policy applies again.' },
          });
        }}
      />
    </div>
  );
}
