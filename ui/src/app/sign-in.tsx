/** The sign-in. If a session ends, it is shown over the page, so that nothing on the page is lost. */
import { Dialog } from '@base-ui/react/dialog';
import { useState, type FormEvent } from 'react';
import { signIn, signOut } from '../api/actions';
import { asProblem, type Problem } from '../api/problem';
import type { Me } from '../api/types';
import { Button } from '../parts/button';
import { TextField } from '../parts/field';
import { Logo } from '../parts/icons';
import { ProblemNote } from '../parts/states';

export function SignIn({ again }: { again?: Me }) {
  if (!again) {
    return (
      <main className="gate">
        <div className="gate-card">
          <Logo size={36} />
          <h1>Sign in to Maxine</h1>
          <p className="muted">{location.host}</p>
          <Form />
        </div>
      </main>
    );
  }
  return (
    <Dialog.Root open>
      <Dialog.Portal>
        <Dialog.Backdrop className="backdrop" />
        <Dialog.Popup className="dialog">
          <Dialog.Title className="dialog-title">Your session has ended</Dialog.Title>
          <Dialog.Description className="dialog-text">
            Sign in again to continue where you were. Your unsaved input is kept.
          </Dialog.Description>
          <Form user={again.user} />
          <Button kind="quiet" onClick={() => void signOut().catch(() => undefined)}>
            Sign in as someone else
          </Button>
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

function Form({ user: known }: { user?: string }) {
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
      setProblem(asProblem(error));
      setPassword('');
    } finally {
      setBusy(false);
    }
  };
  return (
    <form onSubmit={(event) => void submit(event)} className="sign-in">
      <TextField
        label="User"
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
      <Button type="submit" kind="primary" busy={busy}>
        Sign in
      </Button>
    </form>
  );
}
