/**
 * The shapes of the native API. They come from the OpenAPI document of the server: `npm run types` writes them to
 * `openapi.d.ts`. Only names are given here.
 */
import type { components } from './openapi';

type Schemas = components['schemas'];

/** An answer of the server. It has every field, and null for a value that there is not. */
type Whole<T> = T extends readonly unknown[]
  ? { [Item in keyof T]: Whole<T[Item]> }
  : T extends object
    ? { [Field in keyof T]-?: Whole<Exclude<T[Field], undefined>> }
    : T;

type Answer<Name extends keyof Schemas> = Whole<Schemas[Name]>;

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

export type Role = Schemas['Role'];
export type ServiceHealth = Schemas['ServiceHealth'];
export type Strategy = Schemas['SelectionStrategy'];
export type LeadershipCause = Schemas['LeadershipCause'];
export type HashKey = Schemas['HashKey'];

export type NoTraffic = Answer<'NoTrafficCounts'>;
export type ServiceSummary = Answer<'ServiceSummary'>;
export type Instance = Answer<'InstanceView'>;
export type Check = Answer<'CheckView'>;
export type Observation = Answer<'ProbeObservation'>;
export type HealthWhy = Answer<'HealthWhy'>;
export type InstanceAtNodes = Answer<'InstanceAtNodes'>;

/** Policies are sent as they were read, and sections and fields may be absent. */
export type Policy = Schemas['ServicePolicy'];
export type Probe = Schemas['ProbeSpec'];
export type Service = Omit<Answer<'ServiceView'>, 'policy'> & { policy: Policy | null };
export type PolicyRevision = Schemas['PolicyView'];
export type PolicyWritten = Schemas['Revised'];
/** A change of a policy. `policy` is null if it was removed, or if the node does not know it. */
export type PolicyRevisionView = Omit<Answer<'PolicyRevisionView'>, 'policy'> & { policy: Policy | null };

export type RuntimeConfig = Answer<'RuntimeConfig'>;
export type ConfigRecord = Answer<'ConfigRecord'>;
/** An earlier configuration or the present one. It has no user and no time if they are unknown. */
export type ConfigRevision = Answer<'RevisionView'>;

export type Member = Answer<'MemberView'>;
export type RaftStatus = Answer<'ClusterStatus'>;
export type ClusterStatus = Answer<'ClusterView'>;
export type LeadershipGrant = Answer<'LeadershipChange'>;
export type NodeReport = Answer<'NodeReport'>;
export type ClusterNode = Answer<'NodeView'>;
/** A node that was asked for its part of an answer; `problem` says why it gave none. */
export type AskedNode = Answer<'AskedNode'>;

export type AuditRecord = Answer<'AuditRecord'>;
export type AuditVerification = Answer<'AuditProof'>;

export type Alert = Answer<'ClusterAlert'>;
export type ClusterAlerts = Answer<'ClusterAlerts'>;
export type Silence = Answer<'Silence'>;

export type TraceEntry = Answer<'TraceView'>;
export type TraceAttempt = Answer<'AttemptView'>;
export type TrafficStep = Answer<'ClusterTrafficStep'>;
export type ClusterTraffic = Answer<'ClusterTraffic'>;
export type ServiceCalls = Answer<'ServiceCallsView'>;
export type ServicesTraffic = Answer<'ServicesTraffic'>;
export type Objectives = Answer<'ObjectivesView'>;
export type Objective = Answer<'ObjectiveView'>;
export type CountingNode = Answer<'CountingNode'>;

export type KvKey = Answer<'KvKeyView'>;
export type Lock = Answer<'LockView'>;
export type LockSession = Answer<'LockSessionView'>;

export type User = Answer<'UserView'>;
export type ApiToken = Answer<'TokenView'>;
export type NewToken = Answer<'TokenMade'>;
export type SigningKey = Answer<'KeyView'>;
export type RouteRights = Answer<'RouteRights'>;
export type Me = Answer<'Me'>;
export type SignedIn = Answer<'SessionView'>;

/** One change of the watch stream. Fields that do not belong to its type are absent, and never null. */
export type Change = { [Field in keyof Schemas['Change']]: Exclude<Schemas['Change'][Field], null> };
