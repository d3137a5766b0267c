/** Drains and returns of many instances at once: which, with what effect, and how they are carried out. */
import type { Instance, ServiceSummary } from '../../api/types';

export type GroupKind = 'node' | 'zone' | 'version';
export type BulkAction = 'drain' | 'return';

/** What is planned for one service. */
export interface ServicePlan {
  namespace: string;
  name: string;
  instances: Instance[];
  /** How many instances of the service serve now, and afterwards; null if that is not known. */
  servingNow: number | null;
  servingAfter: number | null;
}

const sameService = (s: { namespace: string; name: string }, i: Instance) => s.namespace === i.namespace && s.name === i.service;

/** The instances that the action changes, by service. */
export function planOf(
  instances: readonly Instance[],
  { kind, value, action }: { kind: GroupKind; value: string; action: BulkAction },
  services: readonly Pick<ServiceSummary, 'namespace' | 'name' | 'routable'>[],
): ServicePlan[] {
  const plans = new Map<string, ServicePlan>();
  for (const instance of instances) {
    if (instance[kind] !== value || (instance.drain !== null) !== (action === 'return')) continue;
    const key = `${instance.namespace}/${instance.service}`;
    const known = services.find((s) => sameService(s, instance));
    const plan = plans.get(key) ?? {
      namespace: instance.namespace, name: instance.service, instances: [], servingNow: known?.routable ?? null, servingAfter: known?.routable ?? null,
    };
    plan.instances.push(instance);
    if (plan.servingAfter !== null) {
      // An instance that is returned serves only once it is healthy.
      if (action === 'drain' && instance.routable) plan.servingAfter -= 1;
      if (action === 'return' && healthy(instance)) plan.servingAfter += 1;
    }
    plans.set(key, plan);
  }
  return [...plans.values()].sort((a, b) => (a.namespace + a.name < b.namespace + b.name ? -1 : 1));
}

const healthy = (i: Instance) => i.health.liveness === 'alive' && i.health.readiness !== 'not_ready';

/** The values of a field among instances, for suggestions. */
export function valuesOf(instances: readonly Instance[], kind: GroupKind): string[] {
  return [...new Set(instances.flatMap((i) => i[kind] ?? []))].sort();
}

export type Outcome = 'waiting' | 'done' | { problem: string };

/** How many requests are made at a time. */
const AT_ONCE = 4;

/** Runs `act` for each item. `tell` reports each outcome. A failure does not stop the others. */
export async function runAll<T>(
  items: readonly T[],
  act: (item: T) => Promise<unknown>,
  tell: (item: T, outcome: Outcome) => void,
  asText: (error: unknown) => string,
): Promise<void> {
  const rest = [...items];
  const worker = async () => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) {
      const now = item;
      await act(now).then(
        () => tell(now, 'done'),
        (error: unknown) => tell(now, { problem: asText(error) }),
      );
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}
