/** Shares of versions: what promoting or aborting a version makes of a policy. Pure functions. */
import type { Instance, Policy } from '../../api/types';

export interface VersionShare {
  version: string;
  weight: number;
}

export const splitOf = (policy: Policy | null | undefined): VersionShare[] =>
  (policy?.traffic?.split ?? []).map(({ version, weight }) => ({ version, weight: weight ?? 0 }));

/** The share of each version in the traffic, by the split or, without one, by the weights of the serving instances. */
export function sharesOf(instances: readonly Instance[], policy: Policy | null): ReadonlyMap<string, number> {
  const serving = (version: string) => instances.some((i) => i.version === version && i.routable);
  const split = splitOf(policy).filter((s) => s.weight > 0 && serving(s.version));
  const weights = split.length > 0 ? split : byWeight(instances);
  const sum = weights.reduce((n, s) => n + s.weight, 0);
  return new Map(weights.map((s) => [s.version, sum === 0 ? 0 : s.weight / sum]));
}

function byWeight(instances: readonly Instance[]): VersionShare[] {
  const sums = new Map<string, number>();
  for (const i of instances) {
    if (i.version !== null && i.routable) sums.set(i.version, (sums.get(i.version) ?? 0) + i.weight);
  }
  return [...sums].map(([version, weight]) => ({ version, weight }));
}

const WEIGHT_MAX = 1_000;

function withSplit(policy: Policy | null, split: VersionShare[]): Policy {
  return { ...policy, traffic: { ...policy?.traffic, split } } as Policy;
}

/** All traffic goes to the version. */
export function promoted(policy: Policy | null, version: string): Policy {
  return withSplit(policy, [{ version, weight: 1 }]);
}

/** The version gets no traffic; the others keep their proportions. Null if there is no other version. */
export function aborted(policy: Policy | null, version: string, instances: readonly Instance[]): Policy | null {
  const split = splitOf(policy);
  const before = split.some((s) => s.weight > 0) ? split : byWeight(instances).map((s) => ({ ...s, weight: Math.min(s.weight, WEIGHT_MAX) }));
  const rest = before.filter((s) => s.version !== version && s.weight > 0);
  return rest.length === 0 ? null : withSplit(policy, rest);
}

/** The versions of the instances and of the split, the highest first. */
export function versionsOf(instances: readonly Instance[], policy: Policy | null): string[] {
  const all = new Set([...instances.flatMap((i) => i.version ?? []), ...splitOf(policy).map((s) => s.version)]);
  return [...all].sort((a, b) => b.localeCompare(a, 'en', { numeric: true }));
}
