/**
 * Who is signed in. The session itself is an HttpOnly cookie that no script can read. The bearer
 * token from sign-in stays in this module's memory only. Its only use is to continue at another node
 * when the serving node is unreachable. It is never stored, and is lost with the page.
 */
import { createStore } from './store';
import type { Me, Role } from './types';

export type SessionState =
  | { phase: 'unknown' }
  | { phase: 'signed-out' }
  | { phase: 'signed-in'; me: Me }
  /** The session ended while the page was in use. The page stays, and a dialog asks the user to sign in again. */
  | { phase: 'expired'; me: Me };

export const session = createStore<SessionState>({ phase: 'unknown' });

let bearer: string | null = null;

export function bearerToken(): string | null {
  return bearer;
}

export function signedIn(me: Me, accessToken: string | null): void {
  bearer = accessToken ?? bearer;
  session.set({ phase: 'signed-in', me });
}

export function signedOut(): void {
  bearer = null;
  session.set({ phase: 'signed-out' });
}

/** Ends the session, because a request was answered with 401. */
export function sessionEnded(): void {
  bearer = null;
  session.set((s) =>
    s.phase === 'signed-in' || s.phase === 'expired' ? { phase: 'expired', me: s.me } : { phase: 'signed-out' },
  );
}

const RANK: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 };

export function mayAct(has: Role | undefined, needs: Role): boolean {
  return has !== undefined && RANK[has] >= RANK[needs];
}
