/**
 * The shapes of the native API, as docs/reference/native-api.md gives them.
 * Only data; nothing here talks to the network.
 */

export type Role = 'viewer' | 'operator' | 'admin';

export type ServiceHealth = 'healthy' | 'degraded' | 'down';

export type Strategy = 'round_robin' | 'consistent_hash' | 'rendezvous' | 'least_request';

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

/** Instances that get no traffic, by the reason. With those that get traffic they are all instances. */
export interface NoTraffic {
  drained: number;
  evicted: number;
  unhealthy: number;
  no_share: number;
}

export interface ServiceSummary {
  namespace: string;
  name: string;
  health: ServiceHealth;
  instances: number;
  routable: number;
  no_traffic: NoTraffic;
  /** Panic mode: instances are used whether or not they are healthy, unless they are drained. */
  panic_mode?: boolean;
  unhealthy: number;
  evicted: number;
  draining: number;
  strategy: Strategy;
  policy_revision: number | null;
  modified_index: number;
}

export interface Service extends ServiceSummary {
  policy: Policy | null;
}

export interface Verdict {
  readiness: 'unknown' | 'ready' | 'not_ready';
  liveness: 'alive' | 'evicted';
  reason?: string;
  since_ms: number;
  flap_score: number;
}

export interface Drain {
  by: string;
  reason: string;
  since_ms: number;
}

export interface Instance {
  namespace: string;
  service: string;
  id: string;
  address: string;
  scheme: 'http' | 'https';
  host: string;
  port: number | null;
  base_path: string | null;
  weight: number;
  /** Null if it is permanent. */
  ttl_ms: number | null;
  permanent: boolean;
  zone: string | null;
  version: string | null;
  node: string | null;
  tags: string[];
  metadata: Record<string, string>;
  probe: Probe | null;
  checks: Check[];
  routable: boolean;
  health: Verdict;
  drain: Drain | null;
  lease_epoch: number;
  registered_at_ms: number;
  modified_index: number;
}

export interface Check {
  id: string;
  /** `probe`: nodes of Maxine send requests to the instance. `ttl`: its owner reports. */
  kind: 'probe' | 'ttl';
  ttl_ms: number | null;
  initial_status: CheckStatus | null;
  status: CheckStatus;
  output: string;
  since_ms: number | null;
  modified_index: number;
}

export type CheckStatus = 'unknown' | 'passing' | 'warning' | 'critical';

export interface Observation {
  node: string;
  at_ms: number;
  ok: boolean;
  detail: string;
  latency_ms: number | null;
}

export interface HealthWhy {
  namespace: string;
  service: string;
  id: string;
  routable: boolean;
  verdict: Verdict;
  drain: Drain | null;
  why: string;
  permanent: boolean;
  checks: Check[];
  probe: Probe | null;
  probe_from: 'instance' | 'policy' | 'node' | null;
  /** The probes of the node that answered. */
  observations: Observation[];
  /** The last result of every other observer; null if the leader did not answer. */
  reports: Observation[] | null;
}

/** A probe as the server returns it. Fields that this page does not know are kept unchanged. */
export interface Probe {
  kind?: 'heartbeat' | 'http' | 'tcp' | 'grpc';
  path?: string;
  interval_ms?: number;
  timeout_ms?: number;
  rise?: number;
  fall?: number;
  [field: string]: unknown;
}

export type HashKey = { from: 'client_address' } | { from: 'header' | 'query'; name: string };

export interface Policy {
  selection?: { strategy?: Strategy | null; hash_key?: HashKey };
  probe?: Probe | null;
  [section: string]: unknown;
}

export interface RuntimeConfig {
  log_async: boolean;
  log_json_prettify: boolean;
  heartbeat_timeout_s: number;
  selection_strategy: Strategy;
  discovery_mode: 'redirect' | 'proxy';
  log_format: 'json' | 'plain';
  [field: string]: unknown;
}

/** An earlier configuration or the present one. It has no user and no time if they are unknown. */
export interface ConfigRevision {
  revision: number;
  time_ms: number | null;
  user: string | null;
  config: RuntimeConfig;
}

export interface Member {
  id: number;
  name: string;
  peer_addr: string;
  http_addr: string;
  voter: boolean;
  leader: boolean;
  reachable: boolean | null;
  matched_index: number | null;
  last_contact_ms: number | null;
  state_version: number | null;
}

export interface StoreNode {
  name: string;
  state_version: number;
  last_seen_ms: number;
}

export interface RaftStatus {
  cluster_id: string;
  node_id: number;
  role: string;
  term: number;
  leader: number | string | null;
  last_log_index: number | null;
  committed_index: number | null;
  applied_index: number | null;
  snapshot_index: number | null;
  purged_index: number | null;
  last_sync_us: number | null;
  disk_stalled: boolean;
  log_disk_bytes: number;
  failures_tolerated: number | null;
  members: Member[];
}

export interface ClusterStatus {
  node: string;
  backend: 'raft' | 'redis' | 'shared-file' | 'local' | 'memory';
  version: string;
  state_version: { current: number | null; understood: number };
  nodes: StoreNode[] | null;
  uptime_ms: number;
  index: number | null;
  time_ms: number | null;
  staleness_ms: number | null;
  leadership: { leader: string | null; is_leader: boolean; term: number | null };
  grant: { holder: string; fence: number; since_ms: number } | null;
  totals: {
    namespaces: number;
    services: number;
    instances: number;
    routable: number;
    unhealthy: number;
    evicted: number;
    draining: number;
    no_traffic: NoTraffic;
  } | null;
  expiry?: { suspended: boolean | null; expired_total: number };
  warnings: string[];
  /** Why the node no longer belongs to the cluster. */
  excluded?: string | null;
  raft: RaftStatus | null;
}

export type LeadershipCause = 'first' | 'transfer' | 'handover' | 'silence' | 'regained' | 'unknown';

export interface LeadershipGrant {
  index: number;
  time_ms: number;
  holder: string;
  fence: number;
  cause?: LeadershipCause;
  /** The previous leader, if the new leader knew it. */
  from?: string | null;
  /** For how long nobody could acknowledge a write. */
  gap_ms?: number | null;
  /** Who asked for a transfer. */
  by?: string | null;
}

/** A node's report about itself. */
export interface NodeReport {
  node: string;
  version: string;
  uptime_ms: number;
  /** This and the hash are null while the node has no state. */
  index: number | null;
  /** The newest hash of its audit log: equal on every node at an index. */
  audit_head: string | null;
  staleness_ms: number | null;
  leader: string | null;
  is_leader: boolean;
  term: number | null;
  log: {
    role: string;
    last_log_index: number | null;
    committed_index: number | null;
    applied_index: number | null;
    last_sync_us: number | null;
    disk_stalled: boolean;
    log_disk_bytes: number;
  } | null;
  /** Number of look-ups in the last minute; `proxied` and `failed` are of the same minute. */
  lookups: number;
  proxied: number;
  failed: number;
}

export interface ClusterNode {
  id: number | null;
  name: string;
  http_addr: string;
  report: NodeReport | null;
  problem: string | null;
}

/** What each node knows about an instance: its requests in flight to it, and its own latest probes. */
export interface InstanceAtNodes {
  in_flight: number;
  complete: boolean;
  nodes: { node: string; in_flight: number | null; observations: Observation[] | null }[];
}

export interface AuditRecord {
  seq: number;
  index: number;
  time_ms: number;
  user: string;
  address: string;
  trace_id: string;
  /** The member that sent the request to the leader; null if the leader received it from the caller. */
  via_node: number | null;
  action: string;
  object: string;
  outcome: 'success' | 'refused';
  detail: string;
  hash: string;
}

export interface AuditVerification {
  ok: boolean;
  first_bad_seq: number | null;
  records: number;
  first_seq: number;
  next_seq: number;
  head: string;
  classes: { class: string; kept: number; dropped: number; records_max: number; retention_ms: number; base: string }[];
}

export interface Alert {
  id: string | number;
  node: string;
  time_ms: number;
  state: 'event' | 'active' | 'resolved';
  resolved_ms: number | null;
  severity: string;
  type: string;
  object: string;
  message: string;
  details: Record<string, unknown> | null;
  runbook: string;
  acknowledged_by: string | null;
  silenced: boolean;
}

export interface Silence {
  type: string;
  until_ms: number;
  reason: string;
  by: string;
}

export interface TraceEntry {
  trace_id: string;
  traceparent: string;
  method: string;
  path: string;
  status: number;
  duration_ms: number;
  /** When it began, in milliseconds since 1970. */
  time_ms: number;
  /** The caller's address. */
  client?: string | null;
  /** The attempts to get an answer from an instance, in the order in which they began. */
  attempts?: TraceAttempt[];
}

export interface TraceAttempt {
  instance: string;
  address: string;
  /** Time from the start of the request to that of the attempt, in milliseconds. */
  start_ms: number;
  duration_ms: number;
  status: number | null;
  /** Why there was no answer; `lost_hedge` if another instance was also asked and answered first. */
  error: string | null;
}

export interface User {
  name: string;
  role: Role;
  credential_version: number;
  managed: boolean;
}

export interface ApiToken {
  id: string;
  note: string;
  role: Role;
  created_by: string;
  created_at_ms: number;
  expires_at_ms: number | null;
  token?: string;
}

export interface SigningKey {
  key_id: string;
  created_at_ms: number;
  signs: boolean;
}

export interface Me {
  user: string;
  role: Role;
  expires_at_ms?: number | null;
  via: string;
}

/** One change of the watch stream. */
export interface Change {
  index: number;
  time_ms: number;
  type: string;
  namespace?: string;
  service?: string;
  instance?: string;
  data?: Partial<Instance>;
  draining?: boolean;
  cause?: string;
  revision?: number;
  holder?: string;
  fence?: number;
  subject?: string;
}
