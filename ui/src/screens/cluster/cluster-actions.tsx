/** Actions of an admin on the whole cluster: backup, snapshot, transfer of leadership, adding a node. */
import { Menu } from '@base-ui/react/menu';
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { addMember, takeBackup, takeSnapshot, transfer } from '../../api/actions';
import { keys } from '../../api/queries';
import type { ClusterStatus } from '../../api/types';
import { RoleButton, useDenied } from '../../parts/button';
import { Command } from '../../parts/copy';
import { Confirm } from '../../parts/dialog';
import { saveFile } from '../../parts/download';
import { TextField } from '../../parts/field';
import { bytes } from '../../parts/format';
import { Icon } from '../../parts/icons';
import { say } from '../../parts/toast';

type What = 'backup' | 'snapshot' | 'transfer' | 'add' | null;

export function ClusterActions({ status }: { status: ClusterStatus }) {
  const [what, setWhat] = useState<What>(null);
  const denied = useDenied('admin');
  const queries = useQueryClient();
  const close = () => setWhat(null);
  const notRaft = status.raft ? null : `Not available in ${status.backend} mode.`;
  return (
    <>
      <RoleButton needs="admin" icon="download" onClick={() => setWhat('backup')}>
        Backup
      </RoleButton>
      <RoleButton needs="admin" icon="plus" reason={notRaft} onClick={() => setWhat('add')}>
        Add node
      </RoleButton>
      {denied || notRaft ? null : (
        <Menu.Root>
          <Menu.Trigger className="button only-icon" aria-label="More actions">
            <Icon name="more" />
          </Menu.Trigger>
          <Menu.Portal>
            <Menu.Positioner className="layer" sideOffset={6} align="end">
              <Menu.Popup className="menu">
                <Menu.Item className="menu-item" onClick={() => setWhat('transfer')}>
                  Transfer leadership…
                </Menu.Item>
                <Menu.Item className="menu-item" onClick={() => setWhat('snapshot')}>
                  Take a snapshot…
                </Menu.Item>
              </Menu.Popup>
            </Menu.Positioner>
          </Menu.Portal>
        </Menu.Root>
      )}
      <Confirm
        open={what === 'backup'}
        onClose={close}
        title="Take a backup?"
        verb="Take and download"
        effect={
          <p>
            {status.node} writes its whole state into one file, which this browser saves. It contains password hashes
            and signing keys: keep it secret. The cluster keeps working during the backup.
          </p>
        }
        act={async () => {
          const { blob, index, name } = await takeBackup();
          saveFile(blob, name);
          say(`Backup at index ${index}, ${bytes(blob.size)}.`, { detail: name });
        }}
      />
      <Confirm
        open={what === 'snapshot'}
        onClose={close}
        title="Take a snapshot now?"
        verb="Take a snapshot"
        effect={<p>{status.node} writes a snapshot and deletes the log before it. This also happens automatically.</p>}
        act={async () => {
          await takeSnapshot();
          say(`${status.node} has taken a snapshot.`);
          await queries.invalidateQueries({ queryKey: keys.cluster() });
        }}
      />
      <Confirm
        open={what === 'transfer'}
        onClose={close}
        title="Transfer leadership?"
        verb="Transfer"
        effect={
          <p>
            The most up-to-date node takes over from {status.leadership.leader ?? 'the leader'}. Writes pause briefly. Discovery
            and the proxy continue.
          </p>
        }
        act={async () => {
          const { data } = await transfer(null);
          say(data?.leader ? `${data.leader} is the leader.` : 'Leadership has moved.');
          await Promise.all([
            queries.invalidateQueries({ queryKey: keys.cluster() }),
            queries.invalidateQueries({ queryKey: keys.leadership() }),
          ]);
        }}
      />
      <AddNode open={what === 'add'} onClose={close} status={status} />
    </>
  );
}

function AddNode({ open, onClose, status }: { open: boolean; onClose: () => void; status: ClusterStatus }) {
  const taken = status.raft?.members ?? [];
  const next = Math.max(0, ...taken.map((m) => m.id)) + 1;
  const [form, setForm] = useState({ id: '', name: '', peer_addr: '', http_addr: '' });
  const queries = useQueryClient();
  const id = Number(form.id || next);
  const name = form.name || `node-${id}`;
  const blocked = !Number.isInteger(id) || id < 1
    ? 'The id is a whole number from 1.'
    : taken.some((m) => m.id === id)
      ? `The id ${id} is taken.`
      : !form.peer_addr || !form.http_addr
        ? 'Enter both addresses.'
        : null;
  const set = (field: keyof typeof form) => (e: { target: { value: string } }) =>
    setForm((f) => ({ ...f, [field]: e.target.value }));
  return (
    <Confirm
      open={open}
      onClose={onClose}
      title="Add a node"
      verb="Add as learner"
      blocked={blocked}
      effect={
        <>
          <p>
            It starts as a learner: it receives the log, but has no vote. Promote it once it has caught up. Start it first,
            with an empty data directory and, if the cluster uses TLS, a certificate for its id:
          </p>
          <Command
            label="Start the node"
            text={`maxine serve --mode raft --cluster-id ${status.raft?.cluster_id ?? 'CLUSTER'} --node-id ${id} \\
  --raft-listen ${form.peer_addr.trim() || 'HOST:PORT'} --raft-members "" --data-dir DIR`}
          />
        </>
      }
      act={async () => {
        await addMember({ id, name, peer_addr: form.peer_addr.trim(), http_addr: form.http_addr.trim() });
        say(`${name} is a learner and receives the log.`, { detail: 'Promote it when its lag is near 0.' });
        setForm({ id: '', name: '', peer_addr: '', http_addr: '' });
        await queries.invalidateQueries({ queryKey: keys.cluster() });
      }}
    >
      <div className="form-grid">
        <TextField label="Id" inputMode="numeric" placeholder={String(next)} value={form.id} onChange={set('id')} />
        <TextField label="Name" placeholder={`node-${id}`} value={form.name} onChange={set('name')} maxLength={255} />
        <TextField label="Peer address" placeholder="10.0.0.4:9080" value={form.peer_addr} onChange={set('peer_addr')} />
        <TextField label="HTTP address" placeholder="http://10.0.0.4:8080" value={form.http_addr} onChange={set('http_addr')} />
      </div>
    </Confirm>
  );
}
