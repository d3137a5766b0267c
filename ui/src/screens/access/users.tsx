/** Users: adds, changes and deletes them. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { deleteUser, putUser } from '../../api/actions';
import { keys, usersQuery } from '../../api/queries';
import type { Role, User } from '../../api/types';
import { Button } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { SelectField, TextField } from '../../parts/field';
import { Panel } from '../../parts/layout';
import { ACTIONS, PlainTable } from '../../parts/plain-table';
import { Loaded } from '../../parts/states';
import { say } from '../../parts/toast';
import { ROLE_MAY } from './access';

export function Users({ me }: { me: string }) {
  const query = useQuery(usersQuery());
  const [edited, setEdited] = useState<User | 'new' | null>(null);
  const [deleted, setDeleted] = useState<User | null>(null);
  const queries = useQueryClient();
  const refresh = () => queries.invalidateQueries({ queryKey: keys.users() });
  return (
    <Panel
      title="Users"
      flush
      aside={
        <Button icon="plus" onClick={() => setEdited('new')}>
          Add user
        </Button>
      }
    >
      <Loaded query={query} what="users" rows={4}>
        {(users) => (
          <PlainTable label="Users" columns={['Name', 'Role', { name: 'Credentials', className: 'end wide-only' }, ACTIONS]}>
            {users.map((u) => {
              const reason = u.managed ? "This user comes from the node's environment. Change it there." : null;
              return (
                <tr key={u.name}>
                  <th scope="row">
                    <span className="name">{u.name}</span>
                    {u.name === me ? <span className="tag">you</span> : null}
                    {u.managed ? <span className="tag">from the environment</span> : null}
                  </th>
                  <td>{u.role}</td>
                  <td className="end num wide-only">version {u.credential_version}</td>
                  <td className="row-actions">
                    <Button reason={reason} onClick={() => setEdited(u)}>
                      Change…<span className="sr"> {u.name}</span>
                    </Button>
                    <Button
                      kind="danger"
                      reason={reason ?? (u.name === me ? 'You cannot delete yourself.' : null)}
                      onClick={() => setDeleted(u)}
                    >
                      Delete<span className="sr"> {u.name}</span>
                    </Button>
                  </td>
                </tr>
              );
            })}
          </PlainTable>
        )}
      </Loaded>
      <UserDialog key={edited === 'new' ? 'new' : (edited?.name ?? 'none')} user={edited} onClose={() => setEdited(null)} done={refresh} />
      <Confirm
        open={deleted !== null}
        onClose={() => setDeleted(null)}
        title={`Delete ${deleted?.name ?? ''}?`}
        danger
        verb="Delete user"
        effect={<p>All sessions of {deleted?.name} end immediately. Their actions stay in the audit log. This cannot be undone.</p>}
        act={async () => {
          if (!deleted) return;
          await deleteUser(deleted.name);
          say(`User ${deleted.name} deleted.`);
          await refresh();
        }}
      />
    </Panel>
  );
}

/** Minimum length of a password, in characters, which the server also checks. */
const PASSWORD_CHARS_MIN = 8;

function UserDialog({ user, onClose, done }: { user: User | 'new' | null; onClose: () => void; done: () => Promise<unknown> }) {
  const known = user === 'new' ? null : user;
  const [name, setName] = useState('');
  const [role, setRole] = useState<Role>(known?.role ?? 'viewer');
  const [password, setPassword] = useState('');
  const blocked =
    !known && !name.trim()
      ? 'Enter a name.'
      : !known && !password
        ? 'Enter a password.'
        : known && role === known.role && !password
          ? 'There are no changes.'
          : password && [...password].length < PASSWORD_CHARS_MIN
            ? `A password has at least ${PASSWORD_CHARS_MIN} characters.`
            : null;
  return (
    <Confirm
      open={user !== null}
      onClose={onClose}
      title={known ? `Change ${known.name}` : 'Add a user'}
      verb={known ? 'Change' : 'Add'}
      blocked={blocked}
      effect={
        known ? <p>Every session of {known.name} ends immediately, and they must sign in again.</p> : <p>They can sign in at every node immediately.</p>
      }
      act={async () => {
        await putUser(known?.name ?? name.trim(), role, password || null, known?.credential_version ?? null);
        say(known ? `User ${known.name} changed.` : `User ${name.trim()} added.`);
        setPassword('');
        await done();
      }}
    >
      {known ? null : (
        <TextField label="Name" value={name} maxLength={255} autoComplete="off" onChange={(e) => setName(e.target.value)} />
      )}
      <SelectField label="Role" hint={ROLE_MAY[role]} value={role} onChange={(e) => setRole(e.target.value as Role)}>
        <option value="viewer">viewer</option>
        <option value="operator">operator</option>
        <option value="admin">admin</option>
      </SelectField>
      <TextField
        label={known ? 'New password' : 'Password'}
        hint={known ? 'If empty, the present password is kept.' : undefined}
        type="password"
        autoComplete="new-password"
        value={password}
        onChange={(e) => setPassword(e.target.value)}
      />
    </Confirm>
  );
}
