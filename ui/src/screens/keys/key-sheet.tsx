/** One key: its value, its last change, who holds it, and what may be done with it. */
import { useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { useState } from 'react';
import { keyQuery, lockQuery } from '../../api/kv';
import type { KvKey } from '../../api/types';
import { RoleButton } from '../../parts/button';
import { CopyButton } from '../../parts/copy';
import { Sheet } from '../../parts/dialog';
import { bytes, count } from '../../parts/format';
import { Facts } from '../../parts/layout';
import { useCloseSheet } from '../../parts/sheet-history';
import { Empty, Loaded } from '../../parts/states';
import { Status } from '../../parts/status';
import { At } from '../../parts/time';
import { DeleteKey, EditKey } from './key-dialogs';
import { ReleaseLock } from './lock-dialogs';
import { StoredValue } from './value';

/** A longer text would make the field slow. */
const EDITED_LEN_MAX = 65_536;

export function KeySheet() {
  const search = useSearch({ from: '/keys' });
  const navigate = useNavigate();
  const closeSheet = useCloseSheet();
  const close = () => closeSheet(() => void navigate({ to: '/keys', search: { ...search, key: undefined }, replace: true }));
  return (
    <Sheet open={search.key !== undefined} onClose={close} title={<span className="mono">{search.key}</span>}>
      {search.key === undefined ? null : <Key key={search.key} name={search.key} />}
    </Sheet>
  );
}

function Key({ name }: { name: string }) {
  const query = useQuery(keyQuery(name));
  const [editing, setEditing] = useState<KvKey | null>(null);
  const [deleting, setDeleting] = useState<KvKey | null>(null);
  if (query.data === null) return <Empty title="This key does not exist.">It was deleted, or never set.</Empty>;
  return (
    <>
      <Loaded query={query} what="the key" rows={6}>
        {(entry) => (
          <>
            <div className="sheet-actions">
              <RoleButton needs="operator" reason={whyNotEdited(entry)} onClick={() => setEditing(entry)}>
                Edit
              </RoleButton>
              <RoleButton needs="operator" kind="danger" onClick={() => setDeleting(entry)}>
                Delete
              </RoleButton>
              <Link to="/audit" search={{ action: 'kv.', object: entry.key }} className="button">
                Changes in the audit log
              </Link>
            </div>
            <section className="sheet-part stack" aria-label="Value">
              <StoredValue entry={entry} />
            </section>
            <Facts
              items={[
                ['Last change', <span key="m"><At at={entry.modified_at_ms} /> by {entry.modified_by}</span>],
                ['Revision', <span key="r" className="num">{count(entry.revision)}</span>],
                ['Created at index', <span key="c" className="num">{count(entry.create_index)}</span>],
                ['Size', bytes(entry.value_len)],
                ['Flags', <span key="f" className="num">{entry.flags}</span>],
                ['Lock', <Holder key="l" entry={entry} />],
                [
                  'Key',
                  <span key="k" className="with-copy">
                    <span className="mono break">{entry.key}</span>
                    <CopyButton text={entry.key} label="Copy the key" />
                  </span>,
                ],
              ]}
            />
          </>
        )}
      </Loaded>
      {editing ? <EditKey entry={editing} now={query.data} onClose={() => setEditing(null)} /> : null}
      {deleting ? <DeleteKey entry={deleting} onClose={() => setDeleting(null)} /> : null}
    </>
  );
}

function whyNotEdited(entry: KvKey): string | null {
  if (entry.text === null) return 'The value is not text. Use: maxine kv put KEY --value-file FILE';
  return entry.value_len > EDITED_LEN_MAX ? `Values over ${bytes(EDITED_LEN_MAX)} are not edited here. Use: maxine kv put KEY --value-file FILE` : null;
}

function Holder({ entry }: { entry: KvKey }) {
  const { data } = useQuery(lockQuery(entry.key));
  const [releasing, setReleasing] = useState(false);
  if (entry.session === null) {
    return data?.delayed ? (
      <Status tone="warn">Nobody holds it. The lock delay is not over.</Status>
    ) : (
      <span className="muted">{entry.lock_index === 0 ? 'never locked' : `nobody holds it; locked ${count(entry.lock_index)} times`}</span>
    );
  }
  return (
    <>
      <Status tone="hold">Held</Status> by{' '}
      <Link to="/keys" search={{ tab: 'sessions', session: entry.session }}>
        {data?.holder || entry.session}
      </Link>
      {data?.node ? ` on ${data.node}` : ''}, fencing token {count(entry.lock_index)}{' '}
      <RoleButton needs="operator" onClick={() => setReleasing(true)}>
        Release
      </RoleButton>
      <ReleaseLock lock={releasing ? { key: entry.key, session: entry.session, holder: data?.holder ?? null } : null} onClose={() => setReleasing(false)} />
    </>
  );
}
