/**
 * The form of the sign-in, and the page with it. They are loaded before everything else, so they use only parts without
 * a library.
 */
import { useState, type FormEvent } from 'react';
import { signIn } from '../api/actions';
import { asProblem, Problem } from '../api/problem';
import { TextField } from '../parts/field';
import { Logo } from '../parts/icons';
import { ProblemNote } from '../parts/notes';
import { Providers } from './providers';

export function SignInPage() {
  return (
    <main className="gate">
      <div className="gate-card">
        <Logo size={36} />
        <h1>Sign in to Maxine</h1>
        <p className="muted">{location.host}</p>
        <SignInForm />
        <div className="sign-in"><Providers /></div>
      </div>
    </main>
  );
}

/** A refused sign-in says no more than that. */
function wrongOr(problem: Problem): Problem {
  if (problem.status !== 401) return problem;
  return new Problem({ ...problem.body, title: 'Wrong user name or password', detail: 'Upper and lower case matter.', action: '' });
}

export function SignInForm({ user: known }: { user?: string }) {
  const [user, setUser] = useState(known ?? '');
  const [password, setPassword] = useState('');
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setProblem(null);
    try {
      await signIn(user, password);
    } catch (error) {
      setProblem(wrongOr(asProblem(error)));
      setPassword('');
    } finally {
      setBusy(false);
    }
  };
  return (
    <form onSubmit={(event) => void submit(event)} className="sign-in">
      <TextField
        label="User name"
        name="username"
        autoComplete="username"
        autoCapitalize="none"
        spellCheck={false}
        required
        autoFocus={!known}
        readOnly={known !== undefined}
        value={user}
        onChange={(e) => setUser(e.target.value)}
      />
      <TextField
        label="Password"
        name="password"
        type="password"
        autoComplete="current-password"
        required
        autoFocus={known !== undefined}
        value={password}
        onChange={(e) => setPassword(e.target.value)}
      />
      {problem ? <ProblemNote problem={problem} /> : null}
      <button type="submit" className="button primary" aria-busy={busy || undefined} aria-disabled={busy || undefined}>
        {busy ? <span className="spinner" aria-hidden="true" /> : null}
        Sign in
      </button>
    </form>
  );
}
