/**
 * The first thing that runs: finds out who is signed in, and shows the sign-in, or loads the rest of the page. It is
 * kept small, so that a browser on a slow link shows the sign-in soon.
 */
import { lazy, Suspense, useEffect } from 'react';
import { call } from '../api/client';
import { connection } from '../api/connection';
import { Problem } from '../api/problem';
import { session, signedIn } from '../api/session';
import { useStore } from '../api/store';
import type { Me } from '../api/types';
import { SignInPage } from './sign-in-form';
import { Starting } from './starting';

const load = async () => ({ default: (await import('./app')).App });
const App = lazy(load);

export function Entry() {
  const state = useStore(session);
  const known = state.phase !== 'unknown';
  useEffect(() => {
    // The rest is loaded while the user signs in, and not before: on a slow link the answer to the first question, and
    // so the sign-in, would wait for it. If it fails, it is tried again when it is needed.
    if (known) void load().catch(() => undefined);
  }, [known]);
  useEffect(() => {
    if (state.phase === 'unknown') return recogniseSession();
  }, [state.phase]);
  if (state.phase === 'unknown') return <Starting />;
  if (state.phase === 'signed-out') return <SignInPage />;
  return (
    <Suspense fallback={<Starting />}>
      <App />
    </Suspense>
  );
}

/** Reads the user of the session cookie, and repeats this while the node does not answer. */
function recogniseSession(): () => void {
  const stop = new AbortController();
  void (async () => {
    while (!stop.signal.aborted) {
      try {
        const { data } = await call<Me>('/me', { signal: stop.signal, quiet: true, timeoutMs: 5_000 });
        signedIn(data, null);
        return;
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error instanceof Problem && (error.status === 401 || error.status === 403)) {
          session.set({ phase: 'signed-out' });
          return;
        }
        connection.set((c) => ({ ...c, stream: 'lost', lastError: String(error) }));
        await new Promise((resolve) => setTimeout(resolve, 1_500));
      }
    }
  })();
  return () => stop.abort();
}
