/** Dialogs: a plain one, a confirmation that names its effect, and a side sheet. */
import { AlertDialog } from '@base-ui/react/alert-dialog';
import { Dialog } from '@base-ui/react/dialog';
import { useRef, useState, type ReactNode } from 'react';
import { asProblem, type Problem } from '../api/problem';
import { Button } from './button';
import { ProblemNote } from './states';

export interface ModalProps {
  title: ReactNode;
  open: boolean;
  onClose: () => void;
  children: ReactNode;
  wide?: boolean;
  description?: ReactNode;
}

export function Modal({ title, description, open, onClose, children, wide }: ModalProps) {
  return (
    <Dialog.Root open={open} onOpenChange={(next) => !next && onClose()}>
      <Dialog.Portal>
        <Dialog.Backdrop className="backdrop" />
        <Dialog.Popup className={`dialog${wide ? ' wide' : ''}`}>
          <header className="dialog-head">
            <Dialog.Title className="dialog-title">{title}</Dialog.Title>
            <Dialog.Close className="button quiet only-icon" aria-label="Close">
              <CloseMark />
            </Dialog.Close>
          </header>
          {description ? <Dialog.Description className="dialog-text">{description}</Dialog.Description> : null}
          {children}
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

export function Sheet({ title, open, onClose, children, label }: ModalProps & { label?: string }) {
  return (
    <Dialog.Root open={open} onOpenChange={(next) => !next && onClose()}>
      <Dialog.Portal>
        <Dialog.Backdrop className="backdrop light" />
        <Dialog.Popup className="sheet" aria-label={label}>
          <header className="dialog-head">
            <Dialog.Title className="dialog-title">{title}</Dialog.Title>
            <Dialog.Close className="button quiet only-icon" aria-label="Close">
              <CloseMark />
            </Dialog.Close>
          </header>
          <div className="sheet-body">{children}</div>
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

export interface ConfirmProps {
  open: boolean;
  onClose: () => void;
  title: string;
  /** The effect of the action, in full sentences. */
  effect: ReactNode;
  /** The verb on the button. */
  verb: string;
  danger?: boolean;
  /** Text that the user must type first, for actions that cannot be undone. */
  typed?: string;
  act: () => Promise<unknown>;
  children?: ReactNode;
  blocked?: string | null;
}

export function Confirm({ open, onClose, title, effect, verb, danger, typed, act, children, blocked }: ConfirmProps) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [text, setText] = useState('');
  const cancel = useRef<HTMLButtonElement>(null);
  const close = () => {
    if (busy) return;
    setProblem(null);
    setText('');
    onClose();
  };
  const run = async () => {
    setBusy(true);
    setProblem(null);
    try {
      await act();
      setText('');
      onClose();
    } catch (error) {
      setProblem(asProblem(error));
    } finally {
      setBusy(false);
    }
  };
  const waiting = typed !== undefined && text !== typed ? `Type ${typed} to continue.` : null;
  return (
    <AlertDialog.Root open={open} onOpenChange={(next) => !next && close()}>
      <AlertDialog.Portal>
        <AlertDialog.Backdrop className="backdrop" />
        <AlertDialog.Popup className="dialog" initialFocus={danger ? cancel : true}>
          <AlertDialog.Title className="dialog-title">{title}</AlertDialog.Title>
          <AlertDialog.Description className="dialog-text" render={<div />}>
            {effect}
          </AlertDialog.Description>
          {children}
          {typed !== undefined ? (
            <label className="field">
              <span className="field-label">
                Type <code>{typed}</code> to confirm
              </span>
              <input value={text} onChange={(e) => setText(e.target.value)} autoComplete="off" spellCheck={false} />
            </label>
          ) : null}
          {problem ? <ProblemNote problem={problem} /> : null}
          <footer className="dialog-foot">
            <Button ref={cancel} onClick={close}>
              Cancel
            </Button>
            <Button
              kind={danger ? 'danger' : 'primary'}
              busy={busy}
              reason={blocked ?? waiting}
              onClick={() => void run()}
            >
              {verb}
            </Button>
          </footer>
        </AlertDialog.Popup>
      </AlertDialog.Portal>
    </AlertDialog.Root>
  );
}

function CloseMark() {
  return (
    <svg className="icon" width="16" height="16" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d="m4 4 8 8M12 4l-8 8" fill="none" stroke="currentColor" strokeWidth="1.4" strokeLinecap="round" />
    </svg>
  );
}
