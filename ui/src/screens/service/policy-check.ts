/** Checks the limits that the server also checks, so that a mistake is shown while typing. Pure functions. */
import type { Policy, Probe } from '../../api/types';

export type Mistakes = Record<string, string>;

const RANGES: readonly (readonly [keyof Probe & string, string, number, number])[] = [
  ['interval_ms', 'Interval', 100, 3_600_000],
  ['timeout_ms', 'Time limit', 10, 60_000],
  ['rise', 'Rise', 1, 100],
  ['fall', 'Fall', 1, 100],
];

export const POLICY_LEN_MAX = 64 * 1024;

export function checkPolicy(policy: Policy): Mistakes {
  const out: Mistakes = {};
  const key = policy.selection?.hash_key;
  if (key && key.from !== 'client_address') {
    if (!key.name) out['selection.hash_key.name'] = `Name the ${key.from === 'header' ? 'header' : 'query parameter'}.`;
    else if (key.from === 'header' && !/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(key.name)) {
      out['selection.hash_key.name'] = 'Not a header name.';
    } else if (new TextEncoder().encode(key.name).length > 255) out['selection.hash_key.name'] = 'At most 255 bytes.';
  }
  if (policy.probe) checkProbe(policy.probe, out);
  if (new TextEncoder().encode(JSON.stringify(policy)).length > POLICY_LEN_MAX) out[''] = 'The policy is over 64 KiB.';
  return out;
}

function checkProbe(probe: Probe, out: Mistakes): void {
  for (const [field, name, min, max] of RANGES) {
    const value = probe[field];
    if (value === undefined) continue;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      out[`probe.${field}`] = `${name}: a whole number from ${min} to ${max}.`;
    }
  }
  const path = probe.path ?? '';
  if (path.includes('://') || path.startsWith('//')) out['probe.path'] = 'A path on the instance, not a URL.';
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
