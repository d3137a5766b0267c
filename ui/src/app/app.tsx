/** The page of a signed-in user: the shell with a screen. Owns the query cache and the watch stream. */
import { CSPProvider } from '@base-ui/react/csp-provider';
import { Tooltip } from '@base-ui/react/tooltip';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { RouterProvider } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { connection } from '../api/connection';
import { forgetClock } from '../api/clock';
import { countFailedReads } from '../api/failed-reads';
import { LiveCache } from '../api/live';
import { keepSession } from '../api/keep-session';
import { keepPulse } from '../api/pulse';
import { Problem } from '../api/problem';
import { session } from '../api/session';
import { useStore } from '../api/store';
import { followChanges } from '../api/stream';
import { forgetDrafts } from '../screens/service/policy-drafts';
import { Toasts } from '../parts/toast';
import { fetchScreens, router } from './router';
import { SignInAgain } from './sign-in';

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
    const stopPulse = keepPulse();
    const stopKeeping = keepSession();
    const stopCounting = countFailedReads(queries);
    return () => {
      stop.abort();
      stopPulse();
      stopKeeping();
      stopCounting();
    };
  }, [inside, user, queries]);

  useEffect(() => {
    // The data of one node may be newer than that of another. So all data is read again after a move.
    let base = connection.get().base;
    return connection.subscribe(() => {
      const next = connection.get().base;
      if (next !== base) {
        base = next;
        forgetClock();
        void queries.invalidateQueries();
      }
    });
  }, [queries]);

  // This component is removed when the user signs out.
  useEffect(() => forgetDrafts, []);

  return (
    <>
      <RouterProvider router={router} />
      {state.phase === 'expired' ? <SignInAgain me={state.me} /> : null}
    </>
  );
}
