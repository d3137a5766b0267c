/**
 * Shows the sign-in, or the shell with a screen if someone is signed in. Owns the query cache and,
 * while someone is signed in, the watch stream.
 */
import { CSPProvider } from '@base-ui/react/csp-provider';
import { Tooltip } from '@base-ui/react/tooltip';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { RouterProvider } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { call } from '../api/client';
import { connection } from '../api/connection';
import { LiveCache } from '../api/live';
import { Problem } from '../api/problem';
import { session, signedIn } from '../api/session';
import { useStore } from '../api/store';
import { followChanges } from '../api/stream';
import type { Me } from '../api/types';
import { Toasts } from '../parts/toast';
import { fetchScreens, router } from './router';
import { SignIn } from './sign-in';
import { Starting } from './starting';

export function newQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        retry: (failures, error) => failures < 2 && (!(error instanceof Problem) || error.status === 0 || error.status >= 500),
        retryDelay: (n) => Math.min(4_000, 300 * 2 ** n),
        refetchOnWindowFocus: true,
        staleTime: 2_000,
        // A browser may be offline and still reach a cluster on a private network.
        networkMode: 'always',
      },
      mutations: { networkMode: 'always' },
    },
  });
}

export function App() {
  const [queries] = useState(newQueryClient);
  return (
    <CSPProvider disableStyleElements>
      <QueryClientProvider client={queries}>
        <Tooltip.Provider>
          <Gate queries={queries} />
          <Toasts />
        </Tooltip.Provider>
      </QueryClientProvider>
    </CSPProvider>
  );
}

function Gate({ queries }: { queries: QueryClient }) {
  const state = useStore(session);
  const inside = state.phase === 'signed-in';
  const user = state.phase === 'signed-in' ? state.me.user : null;

  useEffect(() => {
    if (state.phase !== 'unknown') return;
    return recogniseSession();
  }, [state.phase]);

  useEffect(() => {
    if (!inside) return;
    fetchScreens();
    const stop = new AbortController();
    const live = new LiveCache(queries);
    let first = true;
    // Data from before (of another user, or of an ended session) is requested again.
    void queries.invalidateQueries();
    void followChanges(
      {
        change: (change) => live.change(change),
        ready: (index, gap) => {
          if (!first || gap) live.ready(index, true);
          first = false;
        },
      },
      stop.signal,
    );
    return () => stop.abort();
  }, [inside, user, queries]);

  useEffect(() => {
    // The data of one node may be newer than that of another. So all data is read again after a move.
    let base = connection.get().base;
    return connection.subscribe(() => {
      const next = connection.get().base;
      if (next !== base) {
        base = next;
        void queries.invalidateQueries();
      }
    });
  }, [queries]);

  useEffect(() => {
    if (state.phase === 'signed-out') queries.clear();
  }, [state.phase, queries]);

  if (state.phase === 'unknown') return <Starting />;
  if (state.phase === 'signed-out') return <SignIn />;
  return (
    <>
      <RouterProvider router={router} />
      {state.phase === 'expired' ? <SignIn again={state.me} /> : null}
    </>
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
