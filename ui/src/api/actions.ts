/**
 * Every write of the page. Each is one request and returns the server's answer. Confirmation, undo
 * and messages belong to the screens.
 */
import { call, path, send } from './client';
import { signedIn, signedOut } from './session';
import type { Alert, Instance, NewToken, Policy, PolicyWritten, Role, RuntimeConfig, SignedIn, Silence } from './types';

const revision = (n: number | null): Record<string, string> => (n === null ? { 'if-none-match': '*' } : { 'if-match': `"${n}"` });
const instancePath = (i: Pick<Instance, 'namespace' | 'service' | 'id'>) =>
  path('services', i.namespace, i.service, 'instances', i.id);

type InstanceName = Pick<Instance, 'namespace' | 'service' | 'id'>;

export async function signIn(user: string, password: string): Promise<void> {
  const { data } = await call<SignedIn>('/session', { method: 'POST', body: { user, password }, quiet: true });
  begin(data);
}

/** Continues the session, so that it does not end while the page is in use. */
export async function renewSession(): Promise<void> {
  begin((await call<SignedIn>('/session/renew', { method: 'POST', quiet: true })).data);
}

function begin({ user, role, expires_at_ms, access_token }: SignedIn): void {
  signedIn({ user, role, expires_at_ms, via: 'session' }, access_token);
}

/** All sessions of the user end, so the page signs in again with the new password. */
export async function changeOwnPassword(user: string, password: string, new_password: string): Promise<void> {
  await call('/me/password', { method: 'PUT', body: { password, new_password } });
  await signIn(user, new_password);
}

export async function signOut(): Promise<void> {
  try {
    await call('/session', { method: 'DELETE', quiet: true });
  } finally {
    signedOut();
  }
}

export const drain = (i: InstanceName, reason: string) =>
  call(`${instancePath(i)}/drain`, { method: 'PUT', body: { reason } });

export const undrain = (i: InstanceName) => call(`${instancePath(i)}/drain`, { method: 'DELETE' });

/** The lease epoch ensures that only the displayed registration is removed, and never a newer one. */
export const deregister = (i: InstanceName & { lease_epoch: number }) =>
  call<{ removed: boolean }>(instancePath(i), { method: 'DELETE', query: { lease_epoch: i.lease_epoch } });

/** Registers an instance again with its present values and `change`. Also renews its lease. */
export function register(i: Instance, change: Partial<Pick<Instance, 'weight'>> = {}) {
  const { address, weight, ttl_ms, permanent, zone, version, node, tags, metadata, probe, checks } = { ...i, ...change };
  const body: Record<string, unknown> = { address, weight, permanent, tags, metadata };
  const reported = checks.filter((check) => check.kind === 'ttl');
  if (reported.length > 0) body.checks = reported.map(({ id, ttl_ms, initial_status }) => ({ id, ttl_ms, initial_status }));
  const optional = { ttl_ms, zone, version, node, probe };
  for (const [field, value] of Object.entries(optional)) if (value !== null) body[field] = value;
  return call(instancePath(i), { method: 'PUT', body });
}

export const removeService = (ns: string, name: string) =>
  call<{ removed: number }>(path('services', ns, name), { method: 'DELETE' });

export const putPolicy = (ns: string, name: string, policy: Policy, from: number | null) =>
  call<PolicyWritten>(path('services', ns, name, 'policy'), {
    method: 'PUT',
    body: policy,
    headers: revision(from),
  });

export const deletePolicy = (ns: string, name: string, from: number) =>
  call<{ revision: number }>(path('services', ns, name, 'policy'), { method: 'DELETE', headers: revision(from) });

export const putConfig = (config: RuntimeConfig, from: number) =>
  call<{ revision: number }>('/config', { method: 'PUT', body: config, headers: revision(from) });

export const transfer = (to: number | null) =>
  call<{ leader: string | null }>('/cluster/transfer', {
    method: 'POST',
    body: to === null ? {} : { to },
    timeoutMs: 30_000,
  });

export const addMember = (member: { id: number; name: string; peer_addr: string; http_addr: string }) =>
  call('/cluster/members', { method: 'POST', body: member, timeoutMs: 60_000 });

export const promoteMember = (id: number) =>
  call(path('cluster', 'members', id, 'promote'), { method: 'POST', body: {}, timeoutMs: 60_000 });

export const removeMember = (id: number) =>
  call(path('cluster', 'members', id), { method: 'DELETE', timeoutMs: 60_000 });

export const takeSnapshot = () => call('/cluster/snapshot', { method: 'POST', body: {}, timeoutMs: 60_000 });

export const confirmExpiry = () => call('/cluster/expiry/confirm', { method: 'POST', body: {} });

/** The backup as a file, with its index. */
export async function takeBackup(): Promise<{ blob: Blob; index: string; name: string }> {
  const response = await send('/cluster/backup', {
    headers: { accept: 'application/octet-stream' },
    timeoutMs: 600_000,
  });
  const index = response.headers.get('x-maxine-backup-index') ?? 'unknown';
  const disposition = response.headers.get('content-disposition') ?? '';
  const name = /filename="?([\w.-]+)"?/.exec(disposition)?.[1] ?? `maxine-${index}.backup`;
  return { blob: await response.blob(), index, name };
}

/** Each node has its own alerts, so the request goes to the node at `base`. */
export const acknowledge = (id: Alert['id'], base?: string) =>
  call(`${path('alerts', id)}/ack`, { method: 'POST', body: {}, ...(base === undefined ? {} : { base }) });

export const silence = (type: string, duration_ms: number, reason: string) =>
  call<Silence>(path('alerts', 'silences', type), { method: 'PUT', body: { duration_ms, reason } });

export const unsilence = (type: string) => call(path('alerts', 'silences', type), { method: 'DELETE' });

export const putUser = (name: string, role: Role, password: string | null, version: number | null) =>
  call(path('users', name), {
    method: 'PUT',
    body: password ? { role, password } : { role },
    headers: version === null ? {} : revision(version),
  });

export const deleteUser = (name: string) => call(path('users', name), { method: 'DELETE' });

export const createToken = (role: Role, note: string, ttl_ms: number) =>
  call<NewToken>('/tokens', { method: 'POST', body: { role, note, ttl_ms } });

export const revokeToken = (id: string) => call(path('tokens', id), { method: 'DELETE' });

export const rotateKeys = (keep_previous: number) =>
  call<{ key_id: string }>('/keys/rotate', { method: 'POST', body: { keep_previous } });
