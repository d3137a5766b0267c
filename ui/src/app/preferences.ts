/** Preferences that this browser stores: theme, single-key shortcuts, and the service level objective. */
import { createStore } from '../api/store';

export type Theme = 'system' | 'light' | 'dark';

export interface Preferences {
  theme: Theme;
  shortcuts: boolean;
  /** The service level objective: the share of requests that should succeed, in percent. Default 99.9. */
  objective: number;
}

const KEY = 'maxine.preferences';
const DEFAULTS: Preferences = { theme: 'system', shortcuts: true, objective: 99.9 };

function load(): Preferences {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Preferences>;
    const theme = stored.theme === 'light' || stored.theme === 'dark' ? stored.theme : 'system';
    const objective = Number(stored.objective);
    return {
      theme,
      shortcuts: stored.shortcuts !== false,
      objective: objective >= 50 && objective < 100 ? objective : DEFAULTS.objective,
    };
  } catch {
    return DEFAULTS;
  }
}

export const preferences = createStore<Preferences>(load());

function show(p: Preferences): void {
  if (p.theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = p.theme;
}

show(preferences.get());

export function prefer(change: Partial<Preferences>): void {
  preferences.set((p) => ({ ...p, ...change }));
  const now = preferences.get();
  show(now);
  localStorage.setItem(KEY, JSON.stringify(now));
}
