/**
 * Unsaved changes of policies, which survive leaving the screen. They are kept in the memory of the page only, because a
 * policy may contain secrets.
 */
import type { Revised } from '../../api/queries';
import type { Policy } from '../../api/types';

export interface Draft {
  /** The policy that the changes are based on; null if none was set. */
  base: Revised<Policy> | null;
  /** The draft as JSON, which may be invalid while it is being typed. */
  text: string;
  /** What the server said about the last applied policy. */
  warnings: string[];
}

const DRAFTS_MAX = 50;
const drafts = new Map<string, Draft>();

const keyOf = (namespace: string, service: string) => JSON.stringify([namespace, service]);

export const draftOf = (namespace: string, service: string): Draft | undefined => drafts.get(keyOf(namespace, service));

export function keepDraft(namespace: string, service: string, draft: Draft): void {
  const key = keyOf(namespace, service);
  drafts.delete(key);
  drafts.set(key, draft);
  if (drafts.size > DRAFTS_MAX) drafts.delete(drafts.keys().next().value ?? '');
}

export function forgetDrafts(): void {
  drafts.clear();
}
