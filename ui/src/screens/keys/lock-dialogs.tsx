/** Gives a lock back for its session, and ends a lock session. */
import { useQueryClient } from '@tanstack/react-query';
import { endLockSession, releaseLock } from '../../api/kv';
import type { LockSession } from '../../api/types';
import { Confirm } from '../../parts/dialog';
import { duration, plural } from '../../parts/format';
import { say } from '../../parts/toast';

function useRefresh() {
  const queries = useQueryClient();
  return () => Promise.all(['kv', 'locks', 'lock-sessions'].map((topic) => queries.invalidateQueries({ queryKey: [topic] })));
}

interface Held {
  key: string;
  session: string;
  /** The name of the session. */
  holder: string | null;
}

export function ReleaseLock({ lock, onClose }: { lock: Held | null; onClose: () => void }) {
  const refresh = useRefresh();
  const holder = lock?.holder || lock?.session;
  return (
    <Confirm
      open={lock !== null}
      onClose={onClose}
      title={`Release the lock on ${lock?.key ?? ''}?`}
      verb="Release"
      danger
      effect={
        <>
          <p>
            <b>{holder}</b> loses the lock, and another session can take it at once: there is no lock delay. The key keeps its value.
          </p>
          <p>
            {holder} is not notified. If it still works under the lock, two processes work at the same time. If its process hangs, end the session instead: then the lock delay
            applies.
          </p>
        </>
      }
      act={async () => {
        if (!lock) return;
        await releaseLock(lock.key, lock.session);
        say(`The lock on ${lock.key} is released.`);
        await refresh();
      }}
    />
  );
}

/** What happens to the keys of a session when it ends. */
export function endOf(session: LockSession): string {
  if (session.locks_len === 0) return 'It holds no keys.';
  const one = session.locks_len === 1;
  const keys = one ? 'Its key is' : `Its ${plural(session.locks_len, 'key')} are`;
  if (session.behavior === 'delete') return `${keys} deleted, with the ${one ? 'value' : 'values'}.`;
  return `${keys} unlocked. ${one ? 'It' : 'They'} can be locked again ${session.lock_delay_ms === 0 ? 'at once' : `after ${duration(session.lock_delay_ms)}`}.`;
}

export function EndSession({ session, onClose }: { session: LockSession | null; onClose: () => void }) {
  const refresh = useRefresh();
  const name = session?.name || session?.id || '';
  return (
    <Confirm
      open={session !== null}
      onClose={onClose}
      title={`End the session ${name}?`}
      verb="End session"
      danger
      effect={
        session ? (
          <>
            <p>{endOf(session)}</p>
            <p>Its process learns this when it next renews the session or uses a lock. This cannot be undone.</p>
          </>
        ) : null
      }
      act={async () => {
        if (!session) return;
        await endLockSession(session.id);
        say(`The session ${name} has ended.`);
        await refresh();
      }}
    />
  );
}
