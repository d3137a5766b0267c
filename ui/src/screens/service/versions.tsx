/** The versions of a service side by side: share, instances, success and latency; promote one, or take one out. */
import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { deletePolicy, putPolicy } from '../../api/actions';
import { instancesQuery, keys, policyQuery, type Revised } from '../../api/queries';
import { CALLS_MIN, figuresOf, useSeenCalls } from '../../api/seen-calls';
import type { Policy, Service } from '../../api/types';
import { RoleButton } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { Diff, stable } from '../../parts/diff';
import { count, duration, percent, plural } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { ACTIONS, end, PlainTable } from '../../parts/plain-table';
import { Note } from '../../parts/states';
import { say } from '../../parts/toast';
import { aborted, promoted, sharesOf, splitOf, versionsOf } from './split';

export function Versions({ service }: { service: Service }) {
  const { namespace, name } = service;
  const list = useInfiniteQuery(instancesQuery(namespace, name, {}));
  const stored = useQuery(policyQuery(namespace, name));
  const seen = useSeenCalls(service);
  const [doing, setDoing] = useState<{ verb: 'Promote' | 'Abort'; version: string; next: Policy } | null>(null);
  const queries = useQueryClient();
  const instances = (list.data?.pages ?? []).flatMap((page) => page.items);
  const complete = list.data?.pages.at(-1)?.next_cursor === null;
  const base = stored.data ?? null;
  const versions = versionsOf(instances, base?.value ?? null);
  if (!complete || stored.data === undefined || versions.length < 2) return null;
  const shares = sharesOf(instances, base?.value ?? null);
  const serving = (version: string) => instances.filter((i) => i.version === version && i.drain === null && i.health.readiness !== 'not_ready' && i.health.liveness === 'alive').length;

  const refresh = () => Promise.all([keys.policy(namespace, name), keys.service(namespace, name), keys.instances(namespace, name)].map((queryKey) => queries.invalidateQueries({ queryKey })));
  const put = async (policy: Policy, from: number | null) => {
    const { data } = await putPolicy(namespace, name, policy, from);
    await refresh();
    return data.revision;
  };
  const undo = async (previous: Revised<Policy> | null, revision: number) => {
    if (previous) await put(previous.value, revision);
    else await deletePolicy(namespace, name, revision).finally(refresh);
  };
  const target = splitOf(doing?.next).map((share) => share.version);
  const left = target.reduce((n, version) => n + serving(version), 0);
  const lost = doing?.verb === 'Promote' ? serving(doing.version) === 0 : left === 0;

  return (
    <Panel title="Versions side by side" aside="calls through this node, seen since the page was opened" flush>
      <PlainTable label="Versions" columns={['Version', end('Share'), end('Serving'), end('Calls'), end('Success'), end('p50'), end('p95'), ACTIONS]}>
        {versions.map((version) => {
          const own = new Set(instances.filter((i) => i.version === version).map((i) => i.id));
          const of = figuresOf(seen.filter((call) => own.has(call.instance)));
          const share = shares.get(version) ?? 0;
          const without = aborted(base?.value ?? null, version, instances);
          return (
            <tr key={version}>
              <th scope="row">{version}</th>
              <td className="end num">{percent(share)}</td>
              <td className="end num">
                {count(serving(version))} <span className="muted">/ {count(own.size)}</span>
              </td>
              <td className="end num">
                {count(of.calls)}
                {of.calls < CALLS_MIN ? <span className="muted"> too few to compare</span> : null}
              </td>
              <td className={`end num${of.success !== null && of.success < 0.95 ? ' text-bad' : ''}`}>{of.success === null ? 'unknown' : percent(of.success)}</td>
              <td className="end num">{of.p50 === null ? 'unknown' : duration(of.p50)}</td>
              <td className="end num">{of.p95 === null ? 'unknown' : duration(of.p95)}</td>
              <td className="row-actions">
                <RoleButton
                  needs="operator"
                  reason={share === 1 ? 'It has all traffic already.' : null}
                  onClick={() => setDoing({ verb: 'Promote', version, next: promoted(base?.value ?? null, version) })}
                >
                  Promote<span className="sr"> {version}</span>
                </RoleButton>
                <RoleButton
                  needs="operator"
                  kind="danger"
                  reason={share === 0 ? 'It has no traffic.' : without === null ? 'No other version could take over.' : null}
                  onClick={() => without && setDoing({ verb: 'Abort', version, next: without })}
                >
                  Abort<span className="sr"> {version}</span>
                </RoleButton>
              </td>
            </tr>
          );
        })}
      </PlainTable>
      <Confirm
        open={doing !== null}
        onClose={() => setDoing(null)}
        title={doing?.verb === 'Promote' ? `Give version ${doing.version} all traffic?` : `Give version ${doing?.version ?? ''} no traffic?`}
        verb={doing?.verb ?? ''}
        danger={lost}
        effect={
          <>
            <p>
              The traffic split of the policy changes, on every node immediately. {plural(doing?.verb === 'Promote' ? serving(doing.version) : left, 'instance')} of{' '}
              {doing?.verb === 'Promote' ? `version ${doing.version}` : target.join(', ')} will get the traffic. The instances of the other versions stay registered.
            </p>
            {lost ? <Note tone="bad">None of these instances is serving. The split then has no effect, or callers get “unavailable”.</Note> : null}
          </>
        }
        act={async () => {
          if (!doing) return;
          const revision = await put(doing.next, base?.revision ?? null);
          say(doing.verb === 'Promote' ? `Version ${doing.version} gets all traffic.` : `Version ${doing.version} gets no traffic.`, {
            undo: { act: () => undo(base, revision), done: 'The previous split applies again.' },
          });
        }}
      >
        {doing ? <Diff label="Change of the policy" before={stable(base?.value ?? {})} after={stable(doing.next)} /> : null}
      </Confirm>
    </Panel>
  );
}
