/**
 * Applies changes of the watch stream to the cache, so that screens update without a request. What an
 * event does not contain is requested, once per batch and with a limit.
 */
import type { InfiniteData, QueryClient } from '@tanstack/react-query';
import { call, path } from './client';
import { connection } from './connection';
import { byKey, matches, routable, type InstanceFilter } from './instances';
import { keys, type ServicesData } from './queries';
import type { Change, Instance, Page, Service, ServiceSummary } from './types';

/** Changes within this time are applied together. */
const BATCH_MS = 40;
/** If one batch changes this many services, the list is read again instead. */
const SERVICES_PER_BATCH_MAX = 20;
/** Minimum interval between two reads of the list while there are many changes. */
const LIST_EVERY_MS = 1_500;
const SLOW_EVERY_MS = 1_000;
/** A list of keys may be long. */
const KEYS_EVERY_MS = 3_000;
/** The first words of the queries of keys, locks and lock sessions, in `kv.ts`. */
const KV_TOPICS = ['locks', 'lock-sessions'];

export class LiveCache {
  private pending: Change[] = [];
  private timer: ReturnType<typeof setTimeout> | null = null;
  /** When a query was last invalidated. */
  private read = new Map<string, number>();
  /** Queries that will be invalidated. */
  private due = new Set<string>();

  constructor(private readonly queries: QueryClient) {}

  change(change: Change): void {
    this.pending.push(change);
    this.timer ??= setTimeout(() => this.flush(), BATCH_MS);
  }

  ready(index: number, gap: boolean): void {
    if (!gap) return;
    // Data that was read at or after this index has missed no change.
    void this.queries.invalidateQueries({
      predicate: (query) => {
        const data = query.state.data as { index?: number } | undefined;
        return typeof data?.index !== 'number' || data.index < index;
      },
    });
  }

  private flush(): void {
    this.timer = null;
    const changes = this.pending;
    this.pending = [];
    const touched = new Map<string, [string, string]>();
    for (const change of changes) {
      if (change.namespace !== undefined && change.service !== undefined) {
        touched.set(`${change.namespace}\n${change.service}`, [change.namespace, change.service]);
      }
      this.one(change);
    }
    const last = changes.at(-1);
    if (last) connection.set((c) => ({ ...c, index: Math.max(c.index, last.index) }));
    if (touched.size > 0) this.summaries([...touched.values()]);
    this.atMostEvery(SLOW_EVERY_MS, keys.cluster());
    this.atMostEvery(SLOW_EVERY_MS, ['audit']);
  }

  private one(change: Change): void {
    const { namespace, service, instance } = change;
    switch (change.type) {
      case 'instance_registered':
      case 'health_changed':
        if (namespace !== undefined && service !== undefined && change.data) this.upsert(namespace, service, change);
        break;
      case 'instance_removed':
        if (namespace !== undefined && service !== undefined) {
          this.patch(namespace, service, (items) => items.filter((i) => i.id !== instance));
        }
        break;
      case 'drain_changed':
        // The event does not say who drained it and why.
        if (namespace !== undefined && service !== undefined && instance !== undefined) {
          void this.reread(namespace, service, instance);
        }
        break;
      case 'policy_changed':
        void this.queries.invalidateQueries({ queryKey: keys.policy(namespace ?? '', service ?? '') });
        break;
      case 'config_changed':
        void this.queries.invalidateQueries({ queryKey: keys.config() });
        break;
      case 'leadership_granted':
        void this.queries.invalidateQueries({ queryKey: keys.leadership() });
        void this.queries.invalidateQueries({ queryKey: keys.cluster() });
        break;
      case 'identity_changed':
        for (const key of [keys.users(), keys.tokens(), keys.signingKeys(), keys.me()]) {
          void this.queries.invalidateQueries({ queryKey: key });
        }
        break;
      case 'kv_changed':
      case 'lock_session_created':
      case 'lock_session_ended':
      case 'lock_delay_ended':
        this.keysChanged(change);
        break;
    }
    if (namespace !== undefined && service !== undefined && instance !== undefined) {
      void this.queries.invalidateQueries({ queryKey: keys.why(namespace, service, instance) });
    }
  }

  /** An event has the changed keys, but neither their values nor who holds them. */
  private keysChanged({ keys: changed = [], prefixes = [] }: Change): void {
    for (const query of this.queries.getQueryCache().findAll({ queryKey: ['kv'] })) {
      const [, kind, name] = query.queryKey as [string, 'list' | 'key', string];
      const concerned =
        changed.some((key) => (kind === 'list' ? key.startsWith(name) : key === name)) ||
        prefixes.some((prefix) => name.startsWith(prefix) || (kind === 'list' && prefix.startsWith(name)));
      if (concerned) this.atMostEvery(kind === 'list' ? KEYS_EVERY_MS : BATCH_MS, query.queryKey);
    }
    for (const topic of KV_TOPICS) this.atMostEvery(SLOW_EVERY_MS, [topic]);
  }

  private upsert(namespace: string, service: string, change: Change): void {
    const id = change.instance ?? change.data?.id;
    if (id === undefined) return;
    this.patch(namespace, service, (items, filter, complete) => {
      const before = items.find((i) => i.id === id);
      if (!before && !complete) return items;
      const next = merged(before, change, namespace, service, id);
      const others = items.filter((i) => i.id !== id);
      if (!matches(next, filter)) return before ? others : items;
      if (before) return items.map((i) => (i.id === id ? next : i));
      return [...others, next].sort(byKey);
    });
  }

  private async reread(namespace: string, service: string, id: string): Promise<void> {
    try {
      const { data } = await call<Instance>(path('services', namespace, service, 'instances', id));
      this.upsert(namespace, service, { index: 0, time_ms: 0, type: 'instance_registered', instance: id, data });
    } catch {
      void this.queries.invalidateQueries({ queryKey: keys.instances(namespace, service) });
    }
  }

  private patch(
    namespace: string,
    service: string,
    edit: (items: Instance[], filter: InstanceFilter, complete: boolean) => Instance[],
  ): void {
    const found = this.queries.getQueriesData<InfiniteData<Page<Instance>>>({
      queryKey: keys.instances(namespace, service),
    });
    for (const [key, data] of found) {
      if (!data) continue;
      const filter = (key[3] ?? {}) as InstanceFilter;
      const complete = data.pages.at(-1)?.next_cursor === null;
      const lastPage = data.pages.length - 1;
      const pages = data.pages.map((page, at) => {
        // A new instance is added to one page only: the last one, if it is known that no page follows.
        const items = edit(page.items, filter, complete && at === lastPage && lastPage === 0);
        return items === page.items ? page : { ...page, items };
      });
      this.queries.setQueryData(key, { ...data, pages });
    }
  }

  private summaries(touched: [string, string][]): void {
    const lists = this.queries.getQueriesData<ServicesData>({ queryKey: ['services'] });
    for (const [namespace, service] of touched) {
      void this.queries.invalidateQueries({ queryKey: keys.service(namespace, service), exact: true });
      // With a policy, one instance's health can decide whether the others get traffic (panic mode, split).
      const known = this.queries.getQueryData<Service>(keys.service(namespace, service));
      if (known && known.policy_revision !== null) {
        this.atMostEvery(SLOW_EVERY_MS, keys.instances(namespace, service));
      }
    }
    if (lists.length === 0) return;
    if (touched.length > SERVICES_PER_BATCH_MAX) {
      this.atMostEvery(LIST_EVERY_MS, ['services']);
      return;
    }
    for (const [namespace, service] of touched) void this.summary(namespace, service);
  }

  private async summary(namespace: string, service: string): Promise<void> {
    let found: Service | null;
    try {
      found = (await call<Service>(path('services', namespace, service))).data;
    } catch (error) {
      if ((error as { status?: number }).status !== 404) return;
      found = null;
    }
    const replace = (items: ServiceSummary[]) => replaced(items, namespace, service, found);
    for (const [key, data] of this.queries.getQueriesData<ServicesData>({ queryKey: ['services'] })) {
      if (!data) continue;
      const only = key[1] as { namespace?: string; q?: string; health?: string } | undefined;
      if (only?.namespace || only?.q || only?.health) void this.queries.invalidateQueries({ queryKey: key });
      else this.queries.setQueryData<ServicesData>(key, { ...data, items: replace(data.items) });
    }
  }

  /** Invalidates a query at once, or when `ms` have passed since it was last invalidated. */
  private atMostEvery(ms: number, queryKey: readonly unknown[]): void {
    const name = JSON.stringify(queryKey);
    if (this.due.has(name)) return;
    this.due.add(name);
    const wait = Math.max(0, (this.read.get(name) ?? 0) + ms - Date.now());
    setTimeout(() => {
      this.due.delete(name);
      this.read.set(name, Date.now());
      void this.queries.invalidateQueries({ queryKey });
    }, wait);
  }
}

function merged(
  before: Instance | undefined,
  change: Change,
  namespace: string,
  service: string,
  id: string,
): Instance {
  const next = { ...before, ...change.data, namespace, service, id } as Instance;
  next.drain ??= null;
  next.routable = routable(next);
  return next;
}

function replaced(
  items: ServiceSummary[],
  namespace: string,
  service: string,
  found: Service | null,
): ServiceSummary[] {
  const at = items.findIndex((s) => s.namespace === namespace && s.name === service);
  if (!found) return at < 0 ? items : items.filter((_, i) => i !== at);
  if (at < 0) return [...items, found];
  const next = items.slice();
  next[at] = found;
  return next;
}
