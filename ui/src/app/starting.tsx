/** Shown until the node has answered who is signed in. */
import { connection } from '../api/connection';
import { useStore } from '../api/store';
import { Logo } from '../parts/icons';
import { OtherNodes } from './other-nodes';

export function Starting() {
  const link = useStore(connection);
  return (
    <main className="gate">
      <div className="gate-card" role="status">
        <Logo size={36} />
        {link.stream === 'lost' ? (
          <>
            <h1>This node does not answer</h1>
            <p className="muted">Retrying {location.host} every few seconds. The other nodes may serve this page:</p>
            <OtherNodes />
          </>
        ) : (
          <p className="muted">Connecting to {location.host}…</p>
        )}
      </div>
    </main>
  );
}
