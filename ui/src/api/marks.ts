/** What changed and when, for the marks in charts: leaders, drains, policies, the configuration, and new versions. */
import { queryOptions, useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { call } from './client';
import { leadershipQuery } from './queries';
import type { AuditRecord, Instance, LeadershipGrant, Page } from './types';

export interface Mark {
  at: number;
  text: string;
  /** Changes of the leader are drawn, but listed as one, because there may be many. */
  leader?: true;
}

type ServiceName = { namespace: string; name: string };

/** The latest records of each kind of action that are looked at. */
const RECORDS_MAX = 50;
const EVERY_MS = 15_000;

/** The records of changes by people: of one service, or of all. Lists of audit records are long, so they are read seldom. */
const changesQuery = (service: ServiceName | null) =>
  queryOptions({
    queryKey: ['marks', service?.namespace ?? null, service?.name ?? null] as const,
    queryFn: async ({ signal }) => {
      const object = service ? `${service.namespace}/${service.name}` : undefined;
      const actions = ['instance.drain', 'instance.undrain', 'policy.', ...(service ? [] : ['config.'])];
      const pages = await Promise.all(
        actions.map((action) => call<Page<AuditRecord>>('/audit', { signal, query: { action, object, outcome: 'success', limit: RECORDS_MAX } })),
      );
      const records = pages.flatMap((page) => page.data.items).filter((r) => object === undefined || r.object === object || r.object.startsWith(`${object}/`));
      // Of a kind with more records, those before this time are not known here.
      const cut = pages.flatMap(({ data }) => (data.next_cursor === null ? [] : (data.items.at(-1)?.time_ms ?? [])));
      return { records, sinceMs: cut.length === 0 ? null : Math.max(...cut) };
    },
    refetchInterval: EVERY_MS,
  });

/** A record as a mark. Within a service, its name is left out. */
export function markOf({ action, object, user, time_ms }: Pick<AuditRecord, 'action' | 'object' | 'user' | 'time_ms'>, service: ServiceName | null): Mark {
  const [first = '', name = '', instance = ''] = object.split('/');
  const texts: Record<string, string> = {
    'instance.drain': `Drain of ${instance}`,
    'instance.undrain': `Return of ${instance}`,
    'policy.put': service ? 'Change of the policy' : `Change of the policy of ${name}`,
    'config.put': object === 'config' ? 'Change of the configuration' : `Change of ${first} only: ${name}`,
  };
  return { at: time_ms, text: `${texts[action] ?? action}${user ? ` by ${user}` : ''}` };
}

/** Several records of one minute with the same action and user are one mark. */
export function marksOf(records: readonly AuditRecord[], service: ServiceName | null): Mark[] {
  const groups = new Map<string, AuditRecord[]>();
  for (const record of records) {
    const key = `${record.action} ${record.user} ${Math.floor(record.time_ms / 60_000)}`;
    groups.set(key, [...(groups.get(key) ?? []), record]);
  }
  return [...groups.values()].map((group) => {
    const first = group.reduce((a, b) => (a.time_ms <= b.time_ms ? a : b));
    const more = group.length - 1;
    const mark = markOf(first, service);
    return more > 0 ? { ...mark, text: `${mark.text}, and ${more} more` } : mark;
  });
}

export function leaderMarks(grants: readonly LeadershipGrant[]): Mark[] {
  return grants.filter((g) => g.from !== null && g.from !== g.holder).map((g) => ({ at: g.time_ms, text: `${g.holder} became the leader`, leader: true }));
}

/** The first registration of each version that is registered now. */
export function deployMarks(instances: readonly Instance[]): Mark[] {
  const first = new Map<string, number>();
  for (const i of instances) {
    if (i.version !== null) first.set(i.version, Math.min(first.get(i.version) ?? Infinity, i.registered_at_ms));
  }
  return [...first].map(([version, at]) => ({ at, text: `Version ${version} registered` }));
}

/** Says from when on the changes are marked, if there are more than the page reads. */
export function cutMark(sinceMs: number | null): Mark[] {
  return sinceMs === null ? [] : [{ at: sinceMs, text: 'Not all earlier changes are marked' }];
}

const NONE: readonly Instance[] = [];

/** The marks for a chart, oldest first. `instances` are those of the service. */
export function useMarks(service: ServiceName | null, instances: readonly Instance[] = NONE): Mark[] {
  const { data: grants } = useQuery(leadershipQuery());
  const { data: changes } = useQuery(changesQuery(service));
  return useMemo(
    () =>
      [...leaderMarks(grants ?? []), ...marksOf(changes?.records ?? [], service), ...cutMark(changes?.sinceMs ?? null), ...deployMarks(instances)].sort(
        (a, b) => a.at - b.at,
      ),
    [grants, changes, instances, service],
  );
}
