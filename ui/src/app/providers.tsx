/**
 * Sign-in at the company's own provider: a button for each. The browser leaves the page and comes back to it, so a
 * dialog over unsaved changes opens the provider in another tab instead. Uses no library, like the form of the sign-in.
 */
import { useEffect, useState } from 'react';
import { call } from '../api/client';
import { signedIn } from '../api/session';
import type { Me } from '../api/types';
import { Note } from '../parts/notes';

interface Provider {
  name: string;
  title: string;
}

const START = '/api/v1/session/providers';

/** Why a sign-in at a provider failed. The address only has one of these words, so it cannot put a text on the page. */
const WHY: Record<string, string> = {
  denied: 'The provider did not sign you in.',
  invalid_answer: 'The answer of the provider is not valid. An administrator finds the reason in the log of the node.',
  name_taken: 'A user with this name exists and does not belong to your account at the provider. Ask an administrator to delete it.',
  no_role: 'None of your groups at the provider has a role here. Ask an administrator.',
  not_set_up: 'This provider is not set up for the dashboard. Ask an administrator.',
  provider_away: 'The provider cannot be reached now. Try again later, or sign in with a password.',
  start_again: 'The sign-in took too long, or began in another browser. Start again.',
  try_later: 'No sign-in is possible at this node now. Try again in a few seconds.',
  unusable_name: 'Your name at the provider cannot be used here. Ask an administrator.',
};

/** The provider of a user, whose name is then `PROVIDER/NAME`. */
export function providerOf(user: string | undefined): string | null {
  const at = user?.indexOf('/') ?? -1;
  return at > 0 ? user!.slice(0, at) : null;
}

/** Reads why the last sign-in failed, once. */
function takeFailure(): string | null {
  const word = new URLSearchParams(location.search).get('sign_in');
  if (word === null) return null;
  history.replaceState(null, '', location.pathname + location.hash);
  return WHY[word] ?? WHY.denied!;
}

export function Providers({ user }: { user?: string }) {
  const [providers, setProviders] = useState<Provider[]>([]);
  const [failure] = useState(takeFailure);
  useEffect(() => {
    const stop = new AbortController();
    // Without an answer there is still the password.
    call<{ items: Provider[] }>('/session/providers', { signal: stop.signal, quiet: true })
      .then(({ data }) => setProviders(data.items), () => undefined);
    return () => stop.abort();
  }, []);
  useEffect(() => {
    if (!user) return undefined;
    // The other tab has the session, too.
    const look = () => {
      call<Me>('/me', { quiet: true }).then(({ data }) => {
        if (data.user === user) signedIn(data, null);
      }, () => undefined);
    };
    window.addEventListener('focus', look);
    return () => window.removeEventListener('focus', look);
  }, [user]);
  const own = providerOf(user);
  const shown = user ? providers.filter((p) => p.name === own) : providers;
  const back = user ? '/' : `/${location.hash}`;
  return (
    <>
      {failure ? <Note tone="bad">{failure}</Note> : null}
      {shown.map((p) => (
        <a
          key={p.name}
          className="button"
          href={`${START}/${encodeURIComponent(p.name)}/start?return_to=${encodeURIComponent(back)}`}
          {...(user ? { target: '_blank', rel: 'noopener' } : {})}
        >
          Sign in with {p.title}
        </a>
      ))}
    </>
  );
}
