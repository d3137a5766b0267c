/** Types of the package, for ESM and CommonJS. */

import { EventEmitter } from "node:events";

export interface ClientOptions {
  /** The namespace of all services of this client; by default `default`. */
  namespace?: string;
  /** A session token or an API token. */
  token?: string;
  /** A file with the token, read for each request. */
  tokenFile?: string;
  /** Fetches tokens from an OpenID provider. It replaces `token` and `tokenFile`. */
  credentials?: ClientCredentials;
  /** A file with the certificates that `https` nodes are checked with; by default those of Node.js. */
  caFile?: string;
  /** The time for a call with all its attempts; by default 10,000. */
  timeoutMs?: number;
  /** The time for one attempt; by default 3,000. */
  attemptTimeoutMs?: number;
  /** Gets the errors of the work in the background. */
  onError?: (error: unknown) => void;
  /** Gets each request to a node, when its answer has begun or it has failed. */
  onAttempt?: (attempt: Attempt) => void;
  /** Gets each use of an instance, from its choice to `done` or `failed`. */
  onCall?: (call: Call) => void;
  /** Begins and ends spans, for example those of `maxine-client/otel`. */
  tracer?: Tracer;
}

/** What a span is about: a request to a node, or the use of an instance from its choice to its end. */
export type Traced =
  | { kind: "request"; node: string; method: string; path: string }
  | { kind: "call"; namespace: string; service: string; instance: string; address: string };

/** How it has ended. `status` is that of an HTTP answer, if there was one. `failed`: the instance could not be reached. */
export interface Outcome {
  status?: number;
  error?: unknown;
  failed?: boolean;
}

/** Its errors end nothing. Both functions must return soon. */
export interface Tracer {
  /** Begins a span. `headers` are sent with the request, for example `traceparent`, with names in lower case. */
  start(about: Traced): { headers?: Record<string, string>; end(outcome: Outcome): void } | undefined;
}

export interface ClientCredentialsOptions {
  /** The name of this client at the provider. */
  clientId: string;
  /** The URL of the provider, whose `/.well-known/openid-configuration` names the token endpoint. */
  issuer?: string;
  /** The token endpoint itself, instead of `issuer`. */
  tokenUrl?: string;
  /** A file with the client's secret, read for each fetch. */
  clientSecretFile?: string;
  /** The name of the environment variable with the client's secret, instead of `clientSecretFile`. */
  clientSecretEnv?: string;
  /** The scopes, separated by spaces. */
  scope?: string;
  /** For whom the token is, for providers that read `audience`. */
  audience?: string;
  /** For whom the token is, for providers that read `resource` (RFC 8707). */
  resource?: string;
  /** A file with the certificates that the provider is checked with; by default those of Node.js. */
  caFile?: string;
  /** Gets the errors of fetches while the former token is still valid. */
  onError?: (error: unknown) => void;
}

/** Tokens of an OpenID provider by the grant `client_credentials`. Several clients may share it. */
export class ClientCredentials {
  constructor(options: ClientCredentialsOptions);
  /** A token that is valid now; fetched if none is held. */
  token(options?: { timeoutMs?: number; signal?: AbortSignal }): Promise<string>;
  /** A node has refused this token. Tells whether to ask again, with a new one. */
  refused(token: string): boolean;
}

/** One request to a node. `status` is 0 if there was no answer; then `error` says why. */
export interface Attempt {
  node: string;
  method: string;
  path: string;
  status: number;
  durationMs: number;
  error?: unknown;
}

/** The use of an instance from its choice to the end of the request. */
export interface Call {
  service: string;
  instance: string;
  durationMs: number;
  failed: boolean;
}

/** What is registered. The fields are those of the API; `ttl_ms` is 10,000 by default. */
export interface RegistrationBody {
  address: string;
  ttl_ms?: number;
  weight?: number;
  zone?: string;
  version?: string;
  node?: string;
  tags?: string[];
  metadata?: Record<string, string>;
  probe?: Record<string, unknown>;
  checks?: { id: string; ttl_ms: number; initial_status?: "passing" | "warning" | "critical" | "unknown" }[];
}

/** An instance as the API shows it. */
export interface Instance {
  namespace: string;
  service: string;
  id: string;
  address: string;
  scheme: string;
  host: string;
  port: number | null;
  base_path: string | null;
  weight: number;
  ttl_ms: number | null;
  permanent: boolean;
  zone: string | null;
  version: string | null;
  node: string | null;
  tags: string[];
  metadata: Record<string, string>;
  routable: boolean;
  lease_epoch: number;
  registered_at_ms: number;
  modified_index: number;
  [field: string]: unknown;
}

/** The parts of a request that can identify the caller. */
export interface RequestInput {
  /** Replaces the value that the service's policy hashes. */
  key?: string;
  /** The address of the client; by default `127.0.0.1`. */
  address?: string;
  headers?: Record<string, string> | Iterable<[string, string]>;
  /** Queries without the question mark: that of the request to the instance first. */
  queries?: (string | undefined)[];
}

/** How long `stop` waits, after the instances are deregistered, for the callers that still have them. */
export interface StopOptions {
  drainMs?: number;
}

/** A client of the nodes of one cluster. */
export class Client {
  constructor(nodes: string | string[], options?: ClientOptions);
  readonly namespace: string;
  /** Registers an instance, and keeps it registered until it, or this client, is stopped. */
  register(service: string, instance: string, registration: RegistrationBody): Promise<Registration>;
  /** A cache of the instances of a service, when they were read for the first time. */
  resolver(service: string, options?: { zone?: string }): Promise<Resolver>;
  /** Deregisters all instances and ends. */
  stop(options?: StopOptions): Promise<void>;
  /** Calls `stop` when the process is asked to end, and then sends it the same signal again. */
  stopOnSignals(options?: StopOptions & { signals?: NodeJS.Signals[] }): void;
}

/** An instance that is kept registered. */
export class Registration {
  private constructor();
  readonly service: string;
  readonly instance: string;
  readonly leaseEpoch: number;
  /** Heartbeats that were answered. */
  readonly beats: number;
  /** How often the cluster had lost the instance. */
  readonly renewals: number;
  readonly stopped: boolean;
  /** Deregisters, so that callers choose other instances. */
  stop(options?: StopOptions): Promise<void>;
}

/** The instances of a service that get traffic, as a watch keeps them. It goes on while no node answers. */
export class Resolver extends EventEmitter<{ change: [Instance[]] }> {
  private constructor();
  readonly service: string;
  readonly instances: readonly Instance[];
  /** How long ago a node has confirmed the instances: up to 10,000 while it is reached. */
  readonly ageMs: number;
  /** Chooses an instance as a node would. Call `done` or `failed` of the result at the end of the request. */
  choose(request?: RequestInput): Chosen | undefined;
  /** `fetch` to a chosen instance. After an error of a connection another instance is tried if a repeat is safe. */
  fetch(path: string, options?: RequestInit & { key?: string; address?: string }): Promise<Response>;
  /** Ends the watch. The instances stay as they are. */
  stop(): void;
}

/** An instance that was chosen for a request, which counts as in flight until `done` or `failed`. */
export class Chosen {
  private constructor();
  readonly instance: Instance;
  readonly address: string;
  /** Header fields that pass the trace on, if the client has a tracer. Send them with the request. */
  readonly headers: Readonly<Record<string, string>>;
  /** The request is over. What is known of its outcome is for the tracer. */
  done(outcome?: { status?: number; error?: unknown }): void;
  /** The instance could not be reached: it is avoided for some seconds. */
  failed(error?: unknown): void;
}

/** An error of `Client`. `status` is 0 if no node has answered in time, or there is no token. */
export class MaxineClientError extends Error {
  constructor(status: number, message: string, problem?: Record<string, unknown>, options?: ErrorOptions);
  readonly status: number;
  readonly problem?: Record<string, unknown>;
}

/** An error of `Maxine`. */
export class MaxineError extends Error {
  constructor(status: number, message: string);
  readonly status: number;
}

/** A registration of the compatible API. */
export interface CompatibleRegistration {
  hostName: string;
  nodeName: string;
  serviceName: string;
  port?: number;
  ssl?: boolean;
  path?: string;
  timeOut?: number;
  weight?: number;
  healthCheckPath?: string;
}

/** One change that a watch reports. */
export interface Change {
  type: string;
  index: number;
  instance?: string;
  [field: string]: unknown;
}

/** The client on the compatible API. */
export class Maxine {
  constructor(nodes: string | string[], options?: { timeoutMs?: number });
  send(path: string, options?: RequestInit): Promise<Response>;
  signIn(userName: string, password: string): Promise<string>;
  register(registration: CompatibleRegistration): Promise<Record<string, unknown>>;
  keepRegistered(
    registration: CompatibleRegistration,
    options?: { onError?: (error: unknown) => void },
  ): Promise<{ registered: Record<string, unknown>; beats: number; stop(): void }>;
  discover(serviceName: string, endPoint?: string): Promise<string>;
  call(serviceName: string, path?: string, options?: RequestInit): Promise<Response>;
  servers(): Promise<Record<string, unknown>>;
  config(): Promise<Record<string, unknown>>;
  changeConfig(fields: Record<string, unknown>): Promise<Record<string, unknown>>;
  watch(serviceName: string, options?: { index?: number | string; signal?: AbortSignal }): AsyncGenerator<Change>;
}
