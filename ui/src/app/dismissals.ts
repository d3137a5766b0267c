/** Warnings of nodes that were dismissed in this browser, each with a reason. */
import { createStore } from '../api/store';

export interface Dismissal {
  node: string;
  /** The warning, as the node words it. */
  text: string;
  reason: string;
  by: string;
  at_ms: number;
}

const KEY = 'maxine.dismissals';

function isDismissal(value: unknown): value is Dismissal {
  const one = value as Partial<Record<keyof Dismissal, unknown>> | null;
  return (
    typeof one === 'object' && one !== null && typeof one.at_ms === 'number' &&
    [one.node, one.text, one.reason, one.by].every((text) => typeof text === 'string')
  );
}

function load(): readonly Dismissal[] {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(stored) ? stored.filter(isDismissal) : [];
  } catch {
    return [];
  }
}

export const dismissals = createStore<readonly Dismissal[]>(load());

function keep(next: readonly Dismissal[]): void {
  dismissals.set(next);
  localStorage.setItem(KEY, JSON.stringify(next));
}

const isOf = (one: Dismissal, node: string, text: string) => one.node === node && one.text === text;

export function dismiss(dismissal: Dismissal): void {
  keep([...dismissals.get().filter((one) => !isOf(one, dismissal.node, dismissal.text)), dismissal]);
}

export function showAgain(node: string, text: string): void {
  keep(dismissals.get().filter((one) => !isOf(one, node, text)));
}

/** Forgets the dismissals of warnings that `node` no longer gives. If one comes back, it is shown again. */
export function forgetEnded(node: string, warnings: readonly string[]): void {
  const left = dismissals.get().filter((one) => one.node !== node || warnings.includes(one.text));
  if (left.length < dismissals.get().length) keep(left);
}
