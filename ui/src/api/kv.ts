/** Reads and writes of keys, locks and lock sessions. Apart from the other queries, because only their screen uses them. */
import { infiniteQueryOptions, queryOptions } from '@tanstack/react-query';
import { call, path } from './client';
import type { KvKey, Lock, LockSession, Page } from './types';

const PAGE = 1_000;

/** All begin with a word of `KV_TOPICS` in `live.ts`, which invalidates them when something changes. */
const paged = <T>(key: readonly unknown[], route: string, query: Record<string, string> = {}) =>
  infiniteQueryOptions({
    queryKey: key,
    queryFn: async ({ signal, pageParam }) =>
      (await call<Page<T>>(route, { signal, query: { ...query, limit: PAGE, cursor: pageParam } })).data,
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
  });

export type Paged<T> = ReturnType<typeof paged<T>>;

/** Keys that begin with `prefix`, sorted, without their values. */
export const keysQuery = (prefix: string) => paged<KvKey>(['kv', 'list', prefix], '/kv', { prefix });

/** One key with its value; null if it does not exist. */
export const keyQuery = (key: string) =>
  queryOptions({
    queryKey: ['kv', 'key', key] as const,
    queryFn: async ({ signal }): Promise<KvKey | null> => {
      try {
        return (await call<KvKey>(path('kv', key), { signal })).data;
      } catch (error) {
        if ((error as { status?: number }).status === 404) return null;
        throw error;
      }
    },
  });

/** One key as a lock. */
export const lockQuery = (key: string) =>
  queryOptions({
    queryKey: ['locks', 'key', key] as const,
    queryFn: async ({ signal }) => (await call<Lock>(path('locks', key), { signal })).data,
  });

/** The keys that are held, sorted. */
export const locksQuery = () => paged<Lock>(['locks', 'list'], '/locks');

export const lockSessionsQuery = () => paged<LockSession>(['lock-sessions', 'list'], '/sessions');

/** One lock session; null if it has ended. */
export const lockSessionQuery = (id: string) =>
  queryOptions({
    queryKey: ['lock-sessions', 'one', id] as const,
    queryFn: async ({ signal }): Promise<LockSession | null> => {
      try {
        return (await call<LockSession>(path('sessions', id), { signal })).data;
      } catch (error) {
        if ((error as { status?: number }).status === 404) return null;
        throw error;
      }
    },
  });

export type Value = { text: string } | { base64: string };

/** Sets a value if the key has this revision; null: if the key does not exist. */
export const putKey = (key: string, value: Value, flags: number, revision: number | null) =>
  call<{ revision: number }>(path('kv', key), {
    method: 'PUT',
    body: { ...value, flags },
    headers: revision === null ? { 'if-none-match': '*' } : { 'if-match': `"${revision}"` },
  });

export const deleteKey = (key: string, revision: number) =>
  call(path('kv', key), { method: 'DELETE', headers: { 'if-match': `"${revision}"` } });

/** Deletes every key that begins with `prefix`. */
export const deleteKeys = (prefix: string) => {
  // An empty text would delete all keys, and the client leaves out an empty parameter.
  if (prefix === '') throw new TypeError('a prefix is required');
  return call('/kv', { method: 'DELETE', query: { prefix } });
};

/** Gives a lock back for its session. There is no lock delay. */
export const releaseLock = (key: string, session: string) => call(path('locks', key), { method: 'DELETE', query: { session } });

export const endLockSession = (id: string) => call(path('sessions', id), { method: 'DELETE' });
