/** API tokens: creates one, which is shown once, and revokes them. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { createToken, revokeToken } from '../../api/actions';
import { keys, tokensQuery } from '../../api/queries';
import type { ApiToken, NewToken, Role } from '../../api/types';
import { Button } from '../../parts/button';
import { Command } from '../../parts/copy';
import { Confirm, Modal } from '../../parts/dialog';
import { SelectField, TextField } from '../../parts/field';
import { Panel } from '../../parts/layout';
import { ACTIONS, PlainTable } from '../../parts/plain-table';
import { Empty, Loaded, Note } from '../../parts/states';
import { Status } from '../../parts/status';
import { At, Until, useNow } from '../../parts/time';
import { say } from '../../parts/toast';
import { ROLE_MAY } from './access';

const DAY_MS = 24 * 3_600_000;
const LIVES = [
  [1, '1 day'],
  [7, '1 week'],
  [30, '30 days'],
  [90, '90 days'],
  [365, '1 year'],
] as const;

export function Tokens() {
  const query = useQuery(tokensQuery());
  const [creating, setCreating] = useState(false);
  const [made, setMade] = useState<NewToken | null>(null);
  const [leaving, setLeaving] = useState(false);
  const [revoked, setRevoked] = useState<ApiToken | null>(null);
  const now = useNow();
  const queries = useQueryClient();
  const refresh = () => queries.invalidateQueries({ queryKey: keys.tokens() });
  return (
    <Panel
      title="API tokens"
      flush
      aside={
        <Button icon="plus" onClick={() => setCreating(true)}>
          Create token
        </Button>
      }
    >
      <Loaded query={query} what="tokens" rows={4}>
        {(tokens) =>
          tokens.length === 0 ? (
            <Empty title="No API tokens.">Services and scripts use tokens to register and to read.</Empty>
          ) : (
            <PlainTable label="API tokens" columns={['Note', 'Role', 'Created', 'Expires', 'Id', ACTIONS]}>
              {tokens.map((t) => (
                <tr key={t.id}>
                  <th scope="row" className="break">
                    {t.note || <span className="muted">no note</span>}
                  </th>
                  <td>{t.role}</td>
                  <td>
                    <At at={t.created_at_ms} /> <span className="muted">by {t.created_by}</span>
                  </td>
                  <td>
                    {t.expires_at_ms === null ? (
                      'never'
                    ) : t.expires_at_ms < now ? (
                      <Status tone="muted">expired</Status>
                    ) : (
                      <Until at={t.expires_at_ms} />
                    )}
                  </td>
                  <td className="mono">{t.id}</td>
                  <td className="row-actions">
                    <Button kind="danger" onClick={() => setRevoked(t)}>
                      Revoke<span className="sr"> {t.note || t.id}</span>
                    </Button>
                  </td>
                </tr>
              ))}
            </PlainTable>
          )
        }
      </Loaded>
      <CreateDialog
        open={creating}
        onClose={() => setCreating(false)}
        done={(token) => {
          setMade(token);
          void refresh();
        }}
      />
      <Modal title="Copy the token now" open={made !== null} onClose={() => setLeaving(true)}>
        <Note tone="warn">It is shown only now. Maxine keeps only its hash.</Note>
        <Command text={made?.token ?? ''} label="API token" />
        <footer className="dialog-foot">
          <Button kind="primary" onClick={() => setMade(null)}>
            I have it
          </Button>
        </footer>
      </Modal>
      <Confirm
        open={leaving}
        onClose={() => setLeaving(false)}
        title="Close without the token?"
        danger
        verb="Close"
        effect={<p>The token cannot be shown again. If you have not copied it, revoke it and create another one.</p>}
        act={async () => setMade(null)}
      />
      <Confirm
        open={revoked !== null}
        onClose={() => setRevoked(null)}
        title={`Revoke ${revoked?.note || revoked?.id || ''}?`}
        danger
        verb="Revoke"
        effect={<p>Requests with this token are refused immediately on every node. This cannot be undone.</p>}
        act={async () => {
          if (!revoked) return;
          await revokeToken(revoked.id);
          say('The token is revoked.');
          await refresh();
        }}
      />
    </Panel>
  );
}

function CreateDialog({ open, onClose, done }: { open: boolean; onClose: () => void; done: (token: NewToken) => void }) {
  const [role, setRole] = useState<Role>('viewer');
  const [note, setNote] = useState('');
  const [days, setDays] = useState(90);
  return (
    <Confirm
      open={open}
      onClose={onClose}
      title="Create an API token"
      verb="Create"
      blocked={note.trim() ? null : 'Enter what it is for.'}
      effect={<p>Anyone who has the token acts with its role, until it expires or is revoked.</p>}
      act={async () => {
        const { data } = await createToken(role, note.trim(), days * DAY_MS);
        setNote('');
        done(data);
      }}
    >
      <TextField label="What it is for" value={note} maxLength={1024} onChange={(e) => setNote(e.target.value)} />
      <SelectField label="Role" hint={ROLE_MAY[role]} value={role} onChange={(e) => setRole(e.target.value as Role)}>
        <option value="viewer">viewer</option>
        <option value="operator">operator</option>
        <option value="admin">admin</option>
      </SelectField>
      <SelectField label="Valid for" value={days} onChange={(e) => setDays(Number(e.target.value))}>
        {LIVES.map(([d, name]) => (
          <option key={d} value={d}>
            {name}
          </option>
        ))}
      </SelectField>
    </Confirm>
  );
}
