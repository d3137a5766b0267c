/**
 * Remembers how far the parts of a screen were scrolled, by entry of the browser's history, so that Back leads to
 * where the user was. Kept in memory only.
 */
import { useRouter } from '@tanstack/react-router';
import { useCallback, useEffect, useRef } from 'react';

const ENTRIES_MAX = 200;
const offsets = new Map<string, number>();

function remember(key: string, offset: number): void {
  offsets.delete(key);
  offsets.set(key, offset);
  if (offsets.size > ENTRIES_MAX) offsets.delete(offsets.keys().next().value ?? '');
}

/** The scroll position of `part` in the present entry, and a function that stores it. */
export function useScrollMemory(part: string): { saved: () => number; save: (offset: number) => void } {
  // Tables are also tested without a router.
  const router = useRouter({ warn: false }) as ReturnType<typeof useRouter> | undefined;
  const keyOf = useCallback(() => `${router?.state.location.state.__TSR_key ?? ''} ${part}`, [router, part]);
  // A part that is removed during a navigation belongs to the entry in which it was shown.
  const own = useRef(keyOf());
  useEffect(() => {
    own.current = keyOf();
  });
  const saved = useCallback(() => offsets.get(keyOf()) ?? 0, [keyOf]);
  const save = useCallback((offset: number) => remember(own.current, offset), []);
  return { saved, save };
}
