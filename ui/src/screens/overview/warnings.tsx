/** The warnings of the node itself. One that lasts can be dismissed with a reason, in this browser. */
import { useEffect, useState } from 'react';
import { dismiss, dismissals, forgetEnded, showAgain, type Dismissal } from '../../app/dismissals';
import { clusterNow } from '../../api/clock';
import { session } from '../../api/session';
import { useStore } from '../../api/store';
import type { ClusterStatus } from '../../api/types';
import { Button } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { TextField } from '../../parts/field';
import { plural } from '../../parts/format';
import { Note } from '../../parts/states';
import { Ago } from '../../parts/time';

export function Warnings({ status: { node, warnings } }: { status: Pick<ClusterStatus, 'node' | 'warnings'> }) {
  const all = useStore(dismissals);
  const [asked, setAsked] = useState<string | null>(null);
  useEffect(() => forgetEnded(node, warnings), [node, warnings]);
  const dismissed = all.filter((one) => one.node === node && warnings.includes(one.text));
  const shown = warnings.filter((text) => !dismissed.some((one) => one.text === text));
  return (
    <>
      {shown.length > 0 ? (
        <Note tone="warn">
          <strong>{node} warns:</strong>
          <ul className="warnings">
            {shown.map((text) => (
              <li key={text}>
                {text}{' '}
                <Button onClick={() => setAsked(text)}>
                  Dismiss…<span className="sr"> {text}</span>
                </Button>
              </li>
            ))}
          </ul>
        </Note>
      ) : null}
      {dismissed.length > 0 ? <Dismissed items={dismissed} /> : null}
      <DismissDialog key={asked} node={node} text={asked} onClose={() => setAsked(null)} />
    </>
  );
}

function Dismissed({ items }: { items: readonly Dismissal[] }) {
  return (
    <details className="muted">
      <summary>{plural(items.length, 'warning')} dismissed in this browser</summary>
      <ul className="warnings">
        {items.map((one) => (
          <li key={one.text}>
            {one.text} (dismissed <Ago at={one.at_ms} /> by {one.by}: {one.reason}){' '}
            <Button onClick={() => showAgain(one.node, one.text)}>
              Show again<span className="sr"> {one.text}</span>
            </Button>
          </li>
        ))}
      </ul>
    </details>
  );
}

function DismissDialog({ node, text, onClose }: { node: string; text: string | null; onClose: () => void }) {
  const [reason, setReason] = useState('');
  return (
    <Confirm
      open={text !== null}
      onClose={onClose}
      title="Dismiss this warning?"
      verb="Dismiss"
      blocked={reason.trim() ? null : 'Enter a reason.'}
      effect={
        <>
          <p>{text}</p>
          <p>
            It is hidden in this browser only, and only as long as it lasts. If it ends and comes back, it is shown again. A line below
            the warnings says that it was dismissed.
          </p>
        </>
      }
      act={async () => {
        const now = session.get();
        const by = now.phase === 'signed-in' ? now.me.user : 'you';
        if (text !== null) dismiss({ node, text, reason: reason.trim(), by, at_ms: clusterNow() });
      }}
    >
      <TextField label="Reason" value={reason} maxLength={1024} onChange={(e) => setReason(e.target.value)} />
    </Confirm>
  );
}
