/** Checks the limits that the server also checks, so that a mistake is shown while typing. Pure functions. */
import type { Policy } from '../../api/types';
import { outOfBounds } from './policy-fields';

/** Mistakes by the path of the field, with dots. */
export type Mistakes = Record<string, string>;

export const POLICY_LEN_MAX = 64 * 1024;

export function checkPolicy(policy: Policy): Mistakes {
  const out: Mistakes = outOfBounds(policy);
  const key = policy.selection?.hash_key;
  if (key && key.from !== 'client_address') {
    if (!key.name) out['selection.hash_key'] = `Name the ${key.from === 'header' ? 'header' : 'query parameter'}.`;
    else if (key.from === 'header' && !/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(key.name)) {
      out['selection.hash_key'] = 'Not a header name.';
    } else if (new TextEncoder().encode(key.name).length > 255) out['selection.hash_key'] = 'At most 255 bytes.';
  }
  const path = policy.probe?.path ?? '';
  if (path.includes('://') || path.startsWith('//')) out['probe.path'] = 'A path on the instance, not a URL.';
  if (new TextEncoder().encode(JSON.stringify(policy)).length > POLICY_LEN_MAX) out[''] = 'The policy is over 64 KiB.';
  return out;
}

/** What is valid, but probably not meant. `versions` are those that are registered; null if they are not all known. */
export function doubtsOf(policy: Policy, versions: ReadonlySet<string> | null): string[] {
  if (versions === null) return [];
  const used = (policy.traffic?.split ?? []).filter((share) => share.version !== '' && share.weight > 0);
  const missing = used.filter((share) => !versions.has(share.version)).map((share) => share.version);
  if (missing.length > 0 && missing.length === used.length) {
    return [`No registered instance has version ${missing.join(' or ')}, so the traffic split has no effect: all versions get traffic.`];
  }
  return missing.map((version) => `No registered instance has version ${version}, so its share goes to the other versions.`);
}

/** Parses a policy that a user has typed. */
export function parsePolicy(text: string): { policy: Policy } | { mistake: string } {
  try {
    const value: unknown = JSON.parse(text);
    if (value === null || typeof value !== 'object' || Array.isArray(value)) return { mistake: 'A policy is a JSON object.' };
    return { policy: value as Policy };
  } catch (error) {
    return { mistake: error instanceof Error ? error.message : 'Not JSON.' };
  }
}
