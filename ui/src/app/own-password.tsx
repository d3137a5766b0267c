/** The dialog in which users change their own password. */
import { useState } from 'react';
import { changeOwnPassword } from '../api/actions';
import { Confirm } from '../parts/dialog';
import { TextField } from '../parts/field';
import { say } from '../parts/toast';

const PASSWORD_CHARS_MIN = 8;

export function OwnPassword({ user, open, onClose }: { user: string; open: boolean; onClose: () => void }) {
  const [present, setPresent] = useState('');
  const [next, setNext] = useState('');
  const [again, setAgain] = useState('');
  const clear = () => {
    setPresent('');
    setNext('');
    setAgain('');
  };
  const blocked =
    present === ''
      ? 'Enter your present password.'
      : [...next].length < PASSWORD_CHARS_MIN
        ? `A password has at least ${PASSWORD_CHARS_MIN} characters.`
        : next !== again
          ? 'Enter the same new password twice.'
          : null;
  return (
    <Confirm
      open={open}
      onClose={() => {
        clear();
        onClose();
      }}
      title="Change your password"
      verb="Change password"
      blocked={blocked}
      effect={<p>All your sessions end, in other browsers too. This page signs in again with the new password.</p>}
      act={async () => {
        await changeOwnPassword(user, present, next);
        say('Your password is changed.');
      }}
    >
      <TextField label="Present password" type="password" autoComplete="current-password" value={present} onChange={(e) => setPresent(e.target.value)} />
      <TextField
        label="New password"
        hint={`At least ${PASSWORD_CHARS_MIN} characters.`}
        type="password"
        autoComplete="new-password"
        value={next}
        onChange={(e) => setNext(e.target.value)}
      />
      <TextField label="New password again" type="password" autoComplete="new-password" value={again} onChange={(e) => setAgain(e.target.value)} />
    </Confirm>
  );
}
