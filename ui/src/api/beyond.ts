/** The services that need attention, in a cluster with more services than the page loads. */
import { useQueries, useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { hasErrors, type CallsOf } from './calls';
import { serviceQuery, servicesQuery, type ServicesData } from './queries';
import type { ServiceSummary } from './types';

/** More services than this whose calls fail are not looked up one by one. */
const LOOKED_UP_MAX = 50;

export interface Troubled {
  /** The loaded services, and all others that need attention. */
  items: readonly ServiceSummary[];
  /** Whether no service that needs attention is missing. What calls say is known only with `calls`. */
  complete: boolean;
}

const NONE: Troubled = { items: [], complete: false };
const keyOf = (s: ServiceSummary) => `${s.namespace}/${s.name}`;

/**
 * Adds to the loaded services those that are down or degraded, which the server filters, and those whose calls fail, by
 * their names in `calls`.
 */
export function useTroubled(all: ServicesData | undefined, calls: CallsOf | undefined): Troubled {
  const partial = all?.complete === false;
  const down = useQuery({ ...servicesQuery({ health: 'down' }), enabled: partial }).data;
  const degraded = useQuery({ ...servicesQuery({ health: 'degraded' }), enabled: partial }).data;
  const known = useMemo(() => {
    const lists = partial ? [all?.items, down?.items, degraded?.items] : [all?.items];
    return new Map(lists.flatMap((items) => items ?? []).map((s) => [keyOf(s), s]));
  }, [partial, all, down, degraded]);
  const missing = useMemo(
    () => (partial ? [...(calls ?? [])].filter(([key, of]) => hasErrors(of) && !known.has(key)).map(([, of]) => of) : []),
    [partial, calls, known],
  );
  const lookedUp = useQueries({
    queries: missing.slice(0, LOOKED_UP_MAX).map((of) => serviceQuery(of.namespace, of.service)),
    combine: (results) => ({ items: results.flatMap((r) => r.data ?? []), settled: results.every((r) => !r.isPending) }),
  });
  return useMemo(() => {
    if (!all) return NONE;
    if (!partial) return { items: all.items, complete: true };
    const complete = Boolean(down?.complete && degraded?.complete) && lookedUp.settled && missing.length <= LOOKED_UP_MAX;
    return { items: [...known.values(), ...lookedUp.items], complete };
  }, [all, partial, down, degraded, known, missing, lookedUp]);
}
