/** Puts alerts together that several nodes raised about the same thing. Pure. */
import { isOpen } from '../../api/queries';
import type { Alert } from '../../api/types';

export interface AlertGroup {
  /** The most urgent one, and of those the latest. */
  latest: Alert;
  all: Alert[];
  /** The nodes that raised it. */
  nodes: string[];
  open: boolean;
}

const URGENCY = { critical: 0, warning: 1 } as const;

/**
 * Groups by type and object. Open alerts are never in one group with others. Critical groups come first, and then the
 * latest.
 */
export function groupsOf(alerts: readonly Alert[]): AlertGroup[] {
  const groups = new Map<string, AlertGroup>();
  for (const alert of alerts) {
    const open = isOpen(alert);
    // Each event and each past condition is shown by itself.
    const key = JSON.stringify([alert.type, alert.object, open || [alert.node, alert.id]]);
    const group = groups.get(key);
    if (!group) {
      groups.set(key, { latest: alert, all: [alert], nodes: [alert.node], open });
      continue;
    }
    group.all.push(alert);
    if (!group.nodes.includes(alert.node)) group.nodes.push(alert.node);
    if (compare(alert, group.latest) < 0) group.latest = alert;
  }
  return [...groups.values()].sort((a, b) => Number(b.open) - Number(a.open) || compare(a.latest, b.latest));
}

/** What an alert says. Messages are in the present tense: of a condition that has ended, the message was true then. */
export const said = (alert: Alert): string => (alert.state === 'resolved' ? `Was reported: ${alert.message}` : alert.message);

function compare(a: Alert, b: Alert): number {
  return (isOpen(a) && isOpen(b) ? URGENCY[a.severity] - URGENCY[b.severity] : 0) || b.time_ms - a.time_ms;
}
