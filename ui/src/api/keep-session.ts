/** Renews the session while the page is in use, so that it does not end in the middle of an action. */
import { renewSession } from './actions';
import { clusterNow } from './clock';
import { Problem } from './problem';
import { session } from './session';

const LOOK_EVERY_MS = 10_000;
/** The page is in use if its user did something in this time. */
const USED_MS = 5 * 60_000;
/** A session is renewed when it has half of its lifetime left, or this long. */
const LEFT_MAX_MS = 15 * 60_000;

/** Runs until the returned function is called. */
export function keepSession(): () => void {
  let usedAt = Date.now();
  /** The end of the session that was last seen, and how long it had left then. */
  let seen = { ends: 0, left: 0 };
  /** The end of a session that cannot be renewed. */
  let last: number | null = null;
  let busy = false;
  const use = () => {
    usedAt = Date.now();
  };
  const look = async () => {
    const state = session.get();
    const ends = state.phase === 'signed-in' ? state.me.expires_at_ms : null;
    if (ends === null || busy || ends === last) return;
    const left = ends - clusterNow();
    if (seen.ends !== ends) seen = { ends, left };
    if (left > Math.min(LEFT_MAX_MS, seen.left / 2) || Date.now() - usedAt > USED_MS) return;
    busy = true;
    try {
      await renewSession();
    } catch (error) {
      if (error instanceof Problem && error.status >= 400 && error.status < 500) last = ends;
    } finally {
      busy = false;
    }
  };
  const events = ['pointerdown', 'keydown', 'wheel'] as const;
  for (const event of events) window.addEventListener(event, use, { passive: true });
  const timer = setInterval(() => void look(), LOOK_EVERY_MS);
  return () => {
    clearInterval(timer);
    for (const event of events) window.removeEventListener(event, use);
  };
}
