/**
 * Sends every request of the page. It adds the base URL of the node in use, the CSRF header, idempotency keys
 * and time limits, and reads problems and freshness. It does not cache, and does not depend on screens.
 */
import { learn } from './clock';
import { connection, heard } from './connection';
import { asProblem, Problem, problemOf, unreachable } from './problem';
import { bearerToken, sessionEnded } from './session';

const TIMEOUT_MS = 10_000;
const API = '/api/v1';

export interface Request {
  method?: 'GET' | 'PUT' | 'POST' | 'DELETE';
  query?: Record<string, string | number | boolean | null | undefined>;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  timeoutMs?: number;
  /** Base URL of the node to ask. Default: the node in use. */
  base?: string;
  /** If true, a 401 does not end the session, as at sign-in and in requests to other nodes. */
  quiet?: boolean;
}

export interface Answer<T> {
  data: T;
  headers: Headers;
}

/** The path with each part escaped: `path('services', ns, name)`. Refuses a part that would change the path. */
export function path(...parts: (string | number)[]): string {
  const segment = (part: string | number) => {
    if (['', '.', '..'].includes(String(part))) throw new TypeError(`"${part}" cannot be a name in a URL`);
    return encodeURIComponent(part);
  };
  return '/' + parts.map(segment).join('/');
}

export function apiUrl(route: string, query?: Request['query'], base = connection.get().base): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    if (value !== null && value !== undefined && value !== '') params.set(key, String(value));
  }
  const text = params.toString();
  const root = route.startsWith('/api/') ? '' : API;
  return `${base}${root}${route}${text ? `?${text}` : ''}`;
}

/** Credentials for `base`: the cookie for the node that served the page, the bearer token for others. */
export function credentialsFor(base: string): { headers: Record<string, string>; credentials: RequestCredentials } {
  if (base === '') return { headers: {}, credentials: 'same-origin' };
  const token = bearerToken();
  return { headers: token ? { authorization: `Bearer ${token}` } : {}, credentials: 'omit' };
}

/** Sends a request and returns the answer. Throws a `Problem` if it is not a success. */
export async function send(route: string, request: Request = {}): Promise<Response> {
  const base = request.base ?? connection.get().base;
  const method = request.method ?? 'GET';
  const access = credentialsFor(base);
  const headers: Record<string, string> = { accept: 'application/json', ...access.headers, ...request.headers };
  if (method !== 'GET') {
    headers['x-maxine-csrf'] = '1';
    headers['idempotency-key'] ??= crypto.randomUUID?.() ?? fallbackKey();
  }
  if (request.body !== undefined) headers['content-type'] = 'application/json';
  const limit = AbortSignal.timeout(request.timeoutMs ?? TIMEOUT_MS);
  let response: Response;
  const sentAt = Date.now();
  try {
    response = await fetch(apiUrl(route, request.query, base), {
      method,
      headers,
      credentials: access.credentials,
      cache: 'no-store',
      redirect: 'error',
      body: request.body === undefined ? null : JSON.stringify(request.body),
      signal: request.signal ? AbortSignal.any([request.signal, limit]) : limit,
    });
  } catch (error) {
    if (request.signal?.aborted) throw error;
    throw unreachable(base || location.host, error);
  }
  if (base === connection.get().base) {
    heard(response.headers);
    learn(response.headers.get('date'), sentAt, Date.now());
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (problem.status === 401 && !request.quiet) sessionEnded();
  throw problem;
}

/** Sends a request and reads the JSON answer; `null` for 204. */
export async function call<T>(route: string, request: Request = {}): Promise<Answer<T>> {
  const response = await send(route, request);
  if (response.status === 204) return { data: null as T, headers: response.headers };
  try {
    return { data: (await response.json()) as T, headers: response.headers };
  } catch (error) {
    throw new Problem({ ...asProblem(error).body, title: 'The answer cannot be read', detail: 'It is not JSON.' });
  }
}

/** `crypto.randomUUID` is missing if the page was loaded over plain HTTP from another machine. */
function fallbackKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
}
