/** The keys that sign sessions: shows which one signs and which are still accepted, and rotates them. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { rotateKeys } from '../../api/actions';
import { keys, signingKeysQuery } from '../../api/queries';
import { Button } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { SelectField } from '../../parts/field';
import { Panel } from '../../parts/layout';
import { PlainTable } from '../../parts/plain-table';
import { Empty, Loaded } from '../../parts/states';
import { Status } from '../../parts/status';
import { At } from '../../parts/time';
import { say } from '../../parts/toast';

export function Keys() {
  const query = useQuery(signingKeysQuery());
  const [rotating, setRotating] = useState(false);
  const [keep, setKeep] = useState(2);
  const queries = useQueryClient();
  return (
    <Panel title="Signing keys" flush aside={<Button onClick={() => setRotating(true)}>Rotate…</Button>}>
      <Loaded query={query} what="keys" rows={3}>
        {(items) =>
          items.length === 0 ? (
            <Empty title="No stored keys.">Sessions are signed with a key from the node's environment.</Empty>
          ) : (
            <PlainTable label="Signing keys" columns={['Key', { name: 'Created', className: 'wide-only' }, 'Use']}>
              {items.map((k) => (
                <tr key={k.key_id}>
                  <th scope="row" className="mono">
                    {k.key_id}
                  </th>
                  <td className="wide-only">
                    <At at={k.created_at_ms} />
                  </td>
                  <td>
                    {k.signs ? <Status tone="good">Signs new sessions</Status> : <Status tone="muted">Still accepted</Status>}
                  </td>
                </tr>
              ))}
            </PlainTable>
          )
        }
      </Loaded>
      <Confirm
        open={rotating}
        onClose={() => setRotating(false)}
        title="Rotate the signing key?"
        verb="Rotate"
        danger={keep === 0}
        effect={
          keep === 0 ? (
            <p>A new key signs new sessions. <b>Every session that was signed before ends immediately, including yours</b>: everybody must sign in again.</p>
          ) : (
            <p>A new key signs new sessions. Sessions signed by the latest {keep} earlier keys remain valid.</p>
          )
        }
        act={async () => {
          const { data } = await rotateKeys(keep);
          say(`${data.key_id} signs new sessions.`);
          await queries.invalidateQueries({ queryKey: keys.signingKeys() });
        }}
      >
        <SelectField label="Earlier keys still accepted" value={keep} onChange={(e) => setKeep(Number(e.target.value))}>
          {[0, 1, 2, 3, 4, 5, 6, 7, 8].map((n) => (
            <option key={n} value={n}>
              {n === 0 ? 'None: end all sessions' : n}
            </option>
          ))}
        </SelectField>
      </Confirm>
    </Panel>
  );
}
