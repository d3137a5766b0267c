/** Suspended expiry: too many instances became silent at the same time, and an operator can confirm that they are gone. */
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { confirmExpiry } from '../../api/actions';
import { keys } from '../../api/queries';
import { RoleButton } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { Note } from '../../parts/states';
import { say } from '../../parts/toast';

export function SuspendedExpiry() {
  const [open, setOpen] = useState(false);
  const queries = useQueryClient();
  return (
    <Note tone="warn">
      <strong>Expiry is suspended.</strong> A large share of all instances became silent at the same time. No instance is removed until they send heartbeats again, the
      suspension reaches its limit, or you confirm that they are gone.{' '}
      <RoleButton needs="operator" onClick={() => setOpen(true)}>
        Confirm that they are gone…
      </RoleButton>
      <Confirm
        open={open}
        onClose={() => setOpen(false)}
        title="Let the silent instances expire?"
        danger
        verb="Expire them"
        effect={
          <p>
            Every instance whose lease has run out is removed and gets no more traffic. If they are alive but cannot
            reach Maxine, callers cannot use them until they register again. This cannot be undone.
          </p>
        }
        act={async () => {
          await confirmExpiry();
          say('Expiry continues.');
          await queries.invalidateQueries({ queryKey: keys.cluster() });
        }}
      />
    </Note>
  );
}
