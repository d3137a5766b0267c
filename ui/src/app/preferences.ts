/** Preferences that this browser stores: theme and single-key shortcuts. */
import { createStore } from '../api/store';

export type Theme = 'system' | 'light' | 'dark';

export interface Preferences {
  theme: Theme;
  shortcuts: boolean;
}

const KEY = 'maxine.preferences';
const DEFAULTS: Preferences = { theme: 'system', shortcuts: true };

function load(): Preferences {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Preferences>;
    const theme = stored.theme === 'light' || stored.theme === 'dark' ? stored.theme : 'system';
    return { theme, shortcuts: stored.shortcuts !== false };
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
