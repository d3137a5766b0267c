/** Every read of the page: its key, its route, and its interval if there are no events for it. */
import { infiniteQueryOptions, keepPreviousData, queryOptions } from '@tanstack/react-query';
import { call, path } from './client';
import type { InstanceFilter } from './instances';
import { rememberPeers } from './peers';
import { clusterNow } from './clock';
import type {
  Alert,
  ApiToken,
  AuditRecord,
  AuditVerification,
  ClusterAlerts,
  ClusterNode,
  ClusterStatus,
  ConfigRecord,
  ConfigRevision,
  HealthWhy,
  InstanceAtNodes,
  Instance,
  LeadershipGrant,
  Me,
  Objectives,
  Page,
  Policy,
  PolicyRevision,
  PolicyRevisionView,
  RouteRights,
  RuntimeConfig,
  Service,
  ServiceCalls,
  ServicesTraffic,
  ServiceSummary,
  SigningKey,
  Silence,
  TraceEntry,
  User,
} from './types';

export interface ServicesFilter {
  namespace?: string | undefined;
  q?: string | undefined;
  health?: string | undefined;
}

export interface ServicesData {
  items: ServiceSummary[];
  /** False if the cluster has more services than the page loads at a time. */
  complete: boolean;
  index: number;
}

export interface Revised<T> {
  revision: number;
  value: T;
}

export const keys = {
  me: () => ['me'] as const,
  cluster: () => ['cluster'] as const,
  leadership: () => ['leadership'] as const,
  services: (filter: ServicesFilter = {}) => ['services', filter] as const,
  service: (ns: string, name: string) => ['service', ns, name] as const,
  instances: (ns: string, name: string) => ['instances', ns, name] as const,
  why: (ns: string, name: string, id: string) => ['why', ns, name, id] as const,
  policy: (ns: string, name: string) => ['policy', ns, name] as const,
  policyHistory: (ns: string, name: string) => ['policy', ns, name, 'history'] as const,
  config: () => ['config'] as const,
  configHistory: () => ['config', 'history'] as const,
  users: () => ['users'] as const,
  tokens: () => ['tokens'] as const,
  signingKeys: () => ['keys'] as const,
  alerts: () => ['alerts'] as const,
  silences: () => ['silences'] as const,
  traces: () => ['traces'] as const,
};

const PAGE = 1_000;
/**
 * Maximum number of pages of services that are loaded: 10,000 services. If there are more, the server searches and
 * filters.
 */
const SERVICE_PAGES_MAX = 10;
export const INSTANCE_PAGE = 500;

export const meQuery = () =>
  queryOptions({
    queryKey: keys.me(),
    queryFn: async ({ signal }) => (await call<Me>('/me', { signal })).data,
  });

/** There are no events for indexes, lag and disk, so they are read every two seconds while the page is visible. */
export const clusterQuery = () =>
  queryOptions({
    queryKey: keys.cluster(),
    queryFn: async ({ signal }) => {
      const { data } = await call<ClusterStatus>('/cluster/status', { signal });
      if (data.raft) rememberPeers(data.raft.members);
      return data;
    },
    refetchInterval: 2_000,
  });

/** The answers of all nodes, which the serving node fetches from its peers. */
export const nodesQuery = () =>
  queryOptions({
    queryKey: ['nodes'] as const,
    queryFn: async ({ signal }) => (await call<Page<ClusterNode>>('/cluster/nodes', { signal })).data.items,
    refetchInterval: 3_000,
  });

export const instanceNodesQuery = (ns: string, name: string, id: string) =>
  queryOptions({
    queryKey: ['instance-nodes', ns, name, id] as const,
    queryFn: async ({ signal }) =>
      (await call<InstanceAtNodes>(path('services', ns, name, 'instances', id, 'nodes'), { signal })).data,
    refetchInterval: 2_000,
  });

/** The requester of a transfer may be recorded up to this long after the grant, without an event. */
const CAUSE_SETTLES_MS = 15_000;

export const leadershipQuery = () =>
  queryOptions({
    queryKey: keys.leadership(),
    queryFn: async ({ signal }) =>
      (await call<Page<LeadershipGrant>>('/cluster/leadership', { signal, query: { limit: 100 } })).data.items,
    refetchInterval: ({ state }) => {
      const newest = state.data?.[0];
      return newest && Math.abs(clusterNow() - newest.time_ms) < CAUSE_SETTLES_MS ? 2_000 : false;
    },
  });

export const servicesQuery = (filter: ServicesFilter = {}) =>
  queryOptions({
    queryKey: keys.services(filter),
    queryFn: async ({ signal }): Promise<ServicesData> => {
      const items: ServiceSummary[] = [];
      let cursor: string | null = null;
      let index = Number.MAX_SAFE_INTEGER;
      for (let page = 0; page < SERVICE_PAGES_MAX; page += 1) {
        const answer: Awaited<ReturnType<typeof call<Page<ServiceSummary>>>> = await call<Page<ServiceSummary>>(
          '/services',
          { signal, query: { ...filter, limit: PAGE, cursor } },
        );
        items.push(...answer.data.items);
        index = Math.min(index, Number(answer.headers.get('x-maxine-index') ?? 0));
        cursor = answer.data.next_cursor;
        if (cursor === null) break;
      }
      return { items, complete: cursor === null, index };
    },
    placeholderData: keepPreviousData,
    staleTime: 60_000,
  });

export const serviceQuery = (ns: string, name: string) =>
  queryOptions({
    queryKey: keys.service(ns, name),
    queryFn: async ({ signal }) => (await call<Service>(path('services', ns, name), { signal })).data,
  });

export const instancesQuery = (ns: string, name: string, filter: InstanceFilter) =>
  infiniteQueryOptions({
    queryKey: [...keys.instances(ns, name), filter] as const,
    queryFn: async ({ signal, pageParam }) => {
      const query = { ...filter, limit: INSTANCE_PAGE, cursor: pageParam };
      return (await call<Page<Instance>>(path('services', ns, name, 'instances'), { signal, query })).data;
    },
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
    placeholderData: keepPreviousData,
    staleTime: 60_000,
  });

/** A search over all services returns at most this many instances. */
export const INSTANCES_FOUND_MAX = 1_000;

/**
 * The instances whose node, zone or version may be `text`: those of one service, or of all services. Others are among
 * them, so the caller has to compare the fields.
 */
export const groupQuery = (service: { namespace: string; name: string } | null, text: string) =>
  queryOptions({
    queryKey: ['group', service?.namespace ?? null, service?.name ?? null, service ? '' : text] as const,
    queryFn: async ({ signal }) => {
      const [route, query] = service
        ? [path('services', service.namespace, service.name, 'instances'), { limit: INSTANCES_FOUND_MAX }]
        : ['/instances', { q: text, limit: INSTANCES_FOUND_MAX }];
      return (await call<Page<Instance>>(route, { signal, query })).data.items;
    },
    enabled: service !== null || text !== '',
    placeholderData: keepPreviousData,
    // What is drained must not rest on an old answer.
    gcTime: 0,
  });

/** Probes belong to each node and cause no events, so they are read while the panel is open. */
export const whyQuery = (ns: string, name: string, id: string) =>
  queryOptions({
    queryKey: keys.why(ns, name, id),
    queryFn: async ({ signal }) =>
      (await call<HealthWhy>(path('services', ns, name, 'instances', id, 'health'), { signal })).data,
    refetchInterval: 3_000,
  });

export const policyQuery = (ns: string, name: string) =>
  queryOptions({
    queryKey: keys.policy(ns, name),
    queryFn: async ({ signal }): Promise<Revised<Policy> | null> => {
      try {
        const { data } = await call<PolicyRevision>(path('services', ns, name, 'policy'), {
          signal,
        });
        return { revision: data.revision, value: data.policy };
      } catch (error) {
        // 404 means that no policy is set, and the defaults apply.
        if ((error as { status?: number }).status === 404) return null;
        throw error;
      }
    },
  });

/** The latest hundred changes of a policy, newest first. */
export const policyHistoryQuery = (ns: string, name: string) =>
  queryOptions({
    queryKey: keys.policyHistory(ns, name),
    queryFn: async ({ signal }) =>
      (await call<Page<PolicyRevisionView>>(path('services', ns, name, 'policy', 'history'), { signal, query: { limit: 100 } })).data.items,
  });

export const configQuery = () =>
  queryOptions({
    queryKey: keys.config(),
    queryFn: async ({ signal }): Promise<Revised<RuntimeConfig>> => {
      const { data } = await call<ConfigRecord>('/config', { signal });
      return { revision: data.revision, value: data.config };
    },
  });

/** The latest hundred configurations, newest first. */
export const configHistoryQuery = () =>
  queryOptions({
    queryKey: keys.configHistory(),
    queryFn: async ({ signal }) =>
      (await call<Page<ConfigRevision>>('/config/history', { signal, query: { limit: 100 } })).data.items,
  });

export interface AuditFilter {
  user?: string | undefined;
  action?: string | undefined;
  object?: string | undefined;
  outcome?: string | undefined;
  since_ms?: number | undefined;
}

export const auditQuery = (filter: AuditFilter, limit = 200) =>
  infiniteQueryOptions({
    queryKey: ['audit', filter, limit] as const,
    queryFn: async ({ signal, pageParam }) =>
      (await call<Page<AuditRecord>>('/audit', { signal, query: { ...filter, limit, cursor: pageParam } })).data,
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
    placeholderData: keepPreviousData,
  });

export const auditVerifyQuery = () =>
  queryOptions({
    queryKey: ['audit-verify'] as const,
    queryFn: async ({ signal }) =>
      (await call<AuditVerification>('/audit/verify', { signal, timeoutMs: 60_000 })).data,
    staleTime: 30_000,
    // It reads the whole audit log.
    meta: { slow: true },
  });

const list = <T>(key: readonly unknown[], route: string, refetchInterval: number | false = false, limit?: number) =>
  queryOptions({
    queryKey: key,
    queryFn: async ({ signal }) => (await call<Page<T>>(route, { signal, query: { limit } })).data.items,
    refetchInterval,
  });

/** All pages of a list. */
const whole = <T>(key: readonly unknown[], route: string) =>
  queryOptions({
    queryKey: key,
    queryFn: async ({ signal }) => {
      const items: T[] = [];
      let cursor: string | null = null;
      do {
        const { data }: { data: Page<T> } = await call<Page<T>>(route, { signal, query: { limit: PAGE, cursor } });
        items.push(...data.items);
        cursor = data.next_cursor;
      } while (cursor !== null);
      return items;
    },
  });

/** Whether the alert is still open. */
export const isOpen = (alert: Alert) => alert.acknowledged_by === null && alert.state !== 'resolved';

// There are no events for alerts, traces and traffic.

/** The alerts of all nodes, which the serving node fetches from its peers. */
export const alertsQuery = () =>
  queryOptions({
    queryKey: keys.alerts(),
    queryFn: async ({ signal }) => (await call<ClusterAlerts>('/cluster/alerts', { signal })).data,
    refetchInterval: 5_000,
  });

export interface CallsOfServices {
  /** By namespace and name of the service, with a slash between them. */
  of: ReadonlyMap<string, ServiceCalls>;
  windowMs: number;
  nodes: ServicesTraffic['nodes'];
}

/** The calls to each service through all nodes in the last minute. */
export const callsQuery = () =>
  queryOptions({
    queryKey: ['calls'] as const,
    queryFn: async ({ signal }): Promise<CallsOfServices> => {
      const { data } = await call<ServicesTraffic>('/traffic/services', { signal });
      const of = new Map(data.items.map((calls) => [`${calls.namespace}/${calls.service}`, calls]));
      return { of, windowMs: data.window_ms, nodes: data.nodes };
    },
    refetchInterval: 5_000,
  });

/** The service level objectives with their error budgets, through all nodes. */
export const objectivesQuery = () =>
  queryOptions({
    queryKey: ['objectives'] as const,
    queryFn: async ({ signal }) => (await call<Objectives>('/objectives', { signal })).data,
    refetchInterval: 30_000,
  });

export const silencesQuery = () => list<Silence>(keys.silences(), '/alerts/silences', 15_000);
export const tracesQuery = () => list<TraceEntry>(keys.traces(), '/traces', 4_000, 1_000);
export const usersQuery = () => whole<User>(keys.users(), '/users');
export const tokensQuery = () => whole<ApiToken>(keys.tokens(), '/tokens');
/** Who may use which route, by the settings of the serving node. They change only when it is started again. */
export const rightsQuery = () => list<RouteRights>(['rights'], '/access');
export const signingKeysQuery = () => list<SigningKey>(keys.signingKeys(), '/keys');
