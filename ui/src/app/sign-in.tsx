/** The sign-in over the page after a session has ended, so that nothing on the page is lost. */
import { Dialog } from '@base-ui/react/dialog';
import { signOut } from '../api/actions';
import type { Me } from '../api/types';
import { Button } from '../parts/button';
import { Providers, providerOf } from './providers';
import { SignInForm } from './sign-in-form';

export function SignInAgain({ me }: { me: Me }) {
  return (
    <Dialog.Root open>
      <Dialog.Portal>
        <Dialog.Backdrop className="backdrop" />
        <Dialog.Popup className="dialog">
          <Dialog.Title className="dialog-title">Your session has ended</Dialog.Title>
          <Dialog.Description className="dialog-text">
            Sign in again to continue where you were. Your unsaved changes are kept.
          </Dialog.Description>
          {providerOf(me.user) ? <div className="sign-in"><Providers user={me.user} /></div> : <SignInForm user={me.user} />}
          <Button kind="quiet" onClick={() => void signOut().catch(() => undefined)}>
            Sign in as someone else
          </Button>
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}
