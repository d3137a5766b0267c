/**
 * Revisions of the configuration that this browser has seen, newest first. The log says who
 * changed it and when; it does not hold the earlier values, so only what was seen can be shown
 * and brought back.
 */
import { createStore } from '../../api/store';
import type { RuntimeConfig } from '../../api/types';

export interface SeenConfig {
  revision: number;
  config: RuntimeConfig;
  seenAt: number;
}

const KEY = 'maxine.config-history';
const KEPT_MAX = 30;

function load(): SeenConfig[] {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    if (!Array.isArray(stored)) return [];
    return stored.filter(
      (s: Partial<SeenConfig>): s is SeenConfig => typeof s.revision === 'number' && typeof s.config === 'object' && s.config !== null,
    );
  } catch {
    return [];
  }
}

export const seenConfigs = createStore<SeenConfig[]>(load());

export function rememberConfig(revision: number, config: RuntimeConfig): void {
  seenConfigs.set((seen) => {
    const known = seen.find((s) => s.revision === revision);
    if (known && JSON.stringify(known.config) === JSON.stringify(config)) return seen;
    const next = [{ revision, config, seenAt: Date.now() }, ...seen.filter((s) => s.revision !== revision)]
      .sort((a, b) => b.revision - a.revision)
      .slice(0, KEPT_MAX);
    localStorage.setItem(KEY, JSON.stringify(next));
    return next;
  });
}
