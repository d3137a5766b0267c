/** The policy of one service: a form, the JSON beside it, and what would change. */
import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useMemo, useRef, useState } from 'react';
import { deletePolicy, putPolicy } from '../../api/actions';
import { Problem } from '../../api/problem';
import { configQuery, instancesQuery, keys, policyQuery, type Revised } from '../../api/queries';
import type { Policy, PolicyRevisionView, Service } from '../../api/types';
import { Button, RoleButton, useDenied } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { Diff, stable } from '../../parts/diff';
import { Panel } from '../../parts/layout';
import { Loaded, Note } from '../../parts/states';
import { say } from '../../parts/toast';
import { checkPolicy, doubtsOf, parsePolicy } from './policy-check';
import { draftOf, keepDraft, type Draft } from './policy-drafts';
import { policyOf, revisionName } from './policy-changes';
import { PolicyForm } from './policy-form';
import { PolicyHistory } from './policy-history';
import { PolicyJson } from './policy-json';
import { strategyName } from './names';

/** `revision` is the change whose difference is shown at first. */
export function PolicyTab({ service, revision }: { service: Service; revision: number | null }) {
  const query = useQuery(policyQuery(service.namespace, service.name));
  // Null is a valid answer: no policy is set.
  const data = query.isSuccess || query.data !== undefined ? { policy: query.data ?? null } : undefined;
  return (
    <Loaded query={{ ...query, data }} what="the policy" rows={6}>
      {({ policy }) => <Editor service={service} stored={policy} revision={revision} />}
    </Loaded>
  );
}

const draftFrom = (base: Revised<Policy> | null, warnings: string[] = []): Draft => ({
  base,
  text: stable(base?.value ?? {}),
  warnings,
});

/** The versions of the registered instances; `complete` if all instances are loaded. */
function useVersions({ namespace, name }: Service): { versions: string[]; complete: boolean } {
  const query = useInfiniteQuery(instancesQuery(namespace, name, {}));
  return useMemo(() => {
    const items = (query.data?.pages ?? []).flatMap((page) => page.items);
    const versions = [...new Set(items.flatMap((i) => i.version ?? []))].sort();
    return { versions, complete: query.data?.pages.at(-1)?.next_cursor === null };
  }, [query.data]);
}

function Editor({ service, stored, revision }: { service: Service; stored: Revised<Policy> | null; revision: number | null }) {
  const { namespace, name } = service;
  const [draft, setDraft] = useState(() => draftOf(namespace, name) ?? draftFrom(stored));
  const [applying, setApplying] = useState(false);
  const [removing, setRemoving] = useState(false);
  const [back, setBack] = useState<PolicyRevisionView | null>(null);
  const queries = useQueryClient();
  const config = useQuery(configQuery());
  const denied = useDenied('operator');
  const { versions, complete } = useVersions(service);
  const { base, text, warnings } = draft;
  const parsed = useMemo(() => parsePolicy(text), [text]);
  const mistake = 'mistake' in parsed ? parsed.mistake : null;
  // While the JSON is invalid, the form shows the last valid policy.
  const valid = useRef<Policy>(base?.value ?? {});
  if ('policy' in parsed) valid.current = parsed.policy;
  const policy = valid.current;
  const mistakes = useMemo(() => checkPolicy(policy), [policy]);
  const doubts = useMemo(() => doubtsOf(policy, complete ? new Set(versions) : null), [policy, versions, complete]);
  const before = stable(base?.value ?? {});
  const after = stable(policy);
  const touched = after !== before || mistake !== null;
  const newer = (stored?.revision ?? 0) !== (base?.revision ?? 0);

  const change = (next: Partial<Draft>) =>
    setDraft((now) => {
      const draft = { ...now, ...next };
      keepDraft(namespace, name, draft);
      return draft;
    });
  const take = (next: Revised<Policy> | null, said: string[] = []) => change(draftFrom(next, said));
  useEffect(() => {
    // There are no unsaved changes, so the editor shows the changes of other users.
    if (newer && !touched) take(stored);
  });

  const refresh = () =>
    Promise.all([
      queries.invalidateQueries({ queryKey: keys.policy(namespace, name) }),
      queries.invalidateQueries({ queryKey: keys.service(namespace, name) }),
    ]);
  const put = async (policy: Policy, from: number | null) => {
    const { data } = await putPolicy(namespace, name, policy, from);
    const next = { revision: data.revision, value: policy };
    queries.setQueryData(keys.policy(namespace, name), next);
    take(next, data.warnings ?? []);
    await refresh();
    return data.revision;
  };
  const remove = async (from: number) => {
    await deletePolicy(namespace, name, from);
    queries.setQueryData(keys.policy(namespace, name), null);
    take(null);
    await refresh();
  };
  /** Replaces the policy, and offers the way back to the one before. */
  const replace = async (next: Policy, text: string) => {
    const previous = base;
    const revision = await put(next, base?.revision ?? null);
    say(`${text} (revision ${revision}).`, {
      undo: {
        act: () => (previous ? put(previous.value, revision) : remove(revision)),
        done: previous ? 'The previous policy applies again.' : 'The policy is removed again; the defaults apply.',
      },
    });
  };
  /** Removes the policy, and offers the way back. */
  const removeIt = async () => {
    if (!base) return;
    const previous = base.value;
    await remove(base.revision);
    say(`The policy of ${name} is removed.`, {
      undo: { act: () => put(previous, null), done: 'The policy applies again.' },
    });
  };
  /** Runs a change. If somebody else was first, their policy is read, so that the page shows it. */
  const tryTo = async (act: () => Promise<unknown>) => {
    try {
      await act();
    } catch (error) {
      if (error instanceof Problem && error.is('revision-mismatch')) await refresh();
      throw error;
    }
  };
  const reason = mistake !== null ? `The JSON is not valid: ${mistake}` : (Object.values(mistakes)[0] ?? null);

  return (
    <div className="policy">
      {newer && touched ? (
        <Note tone="warn">
          Somebody else has changed this policy (revision {stored?.revision ?? 'none'}). Applying yours would be refused.{' '}
          <Button onClick={() => change({ base: stored })}>Apply my changes to theirs</Button>{' '}
          <Button onClick={() => take(stored)}>Discard mine</Button>
        </Note>
      ) : null}
      {warnings.length > 0 ? (
        <Note tone="warn">
          <strong>The applied policy is valid, but:</strong> {warnings.join(' · ')}
        </Note>
      ) : null}
      {doubts.map((text) => (
        <Note key={text} tone="warn">
          {text}
        </Note>
      ))}
      <div className="two-columns policy-columns">
        <Panel title="Policy" aside={base ? `revision ${base.revision}` : 'not set: the defaults apply'}>
          {config.data && !policy.selection?.strategy ? (
            <p className="field-hint">The configuration’s strategy is {strategyName(config.data.value.selection_strategy).toLowerCase()}.</p>
          ) : null}
          {mistake !== null ? (
            <Note tone="bad">The JSON is not valid. The form shows the last valid policy, and can be used again once the JSON is valid.</Note>
          ) : null}
          <PolicyForm
            policy={policy}
            mistakes={mistakes}
            versions={versions}
            disabled={denied !== null || mistake !== null}
            onChange={(next) => change({ text: stable(next) })}
          />
        </Panel>
        <div className="stack">
          <Panel title="What would change" aside={touched ? 'unsaved changes' : 'nothing yet'}>
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
          <Panel title="JSON">
            <PolicyJson value={text} readOnly={denied !== null} error={mistake} versions={versions} onChange={(next) => change({ text: next })} />
          </Panel>
        </div>
      </div>
      <PolicyHistory key={`${namespace}/${name}/${revision ?? ''}`} service={service} now={stored} focus={revision} onBack={setBack} />
      <Confirm
        open={applying}
        onClose={() => setApplying(false)}
        title={`Apply this policy to ${name}?`}
        verb="Apply"
        effect={
          <>
            <p>It applies on every node immediately, to each new request and probe. Requests in flight keep the old one.</p>
            {doubts.map((text) => (
              <Note key={text} tone="warn">
                {text}
              </Note>
            ))}
          </>
        }
        act={() => tryTo(() => replace(policy, 'Policy applied'))}
      >
        <Diff label="Change of the policy" before={before} after={after} />
      </Confirm>
      <Confirm
        open={removing}
        onClose={() => setRemoving(false)}
        title={`Remove the policy of ${name}?`}
        danger
        verb="Remove policy"
        effect={<p>The defaults and the strategy of the configuration then apply, on every node.</p>}
        act={() => tryTo(removeIt)}
      />
      <Confirm
        open={back !== null}
        onClose={() => setBack(null)}
        title={`Roll back to ${revisionName(back?.revision ?? 0)}?`}
        verb="Roll back"
        danger={touched}
        effect={
          <>
            <p>
              {back?.content === 'none'
                ? 'The policy is removed, on every node immediately. The defaults and the strategy of the configuration then apply.'
                : 'The policy of that revision applies on every node immediately, as a new revision.'}
            </p>
            {touched ? <Note tone="warn">Your unsaved changes are lost.</Note> : null}
            {doubtsOf(policyOf(back ?? undefined) ?? {}, complete ? new Set(versions) : null).map((text) => (
              <Note key={text} tone="warn">
                {text}
              </Note>
            ))}
          </>
        }
        act={() =>
          tryTo(async () => {
            if (back?.content === 'none') await removeIt();
            else if (back?.policy) await replace(back.policy, `Rolled back to revision ${back.revision}`);
          })
        }
      >
        {back ? <Diff label="Change by rolling back" before={before} after={stable(policyOf(back) ?? {})} /> : null}
      </Confirm>
    </div>
  );
}
