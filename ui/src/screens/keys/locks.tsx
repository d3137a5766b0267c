/** The keys that are held, and by whom. */
import { Link, useNavigate } from '@tanstack/react-router';
import { useMemo, useState } from 'react';
import { locksQuery } from '../../api/kv';
import type { Lock } from '../../api/types';
import { RoleButton } from '../../parts/button';
import { count, plural } from '../../parts/format';
import { Empty, Loaded } from '../../parts/states';
import { Table, type Column } from '../../parts/table';
import { ReleaseLock } from './lock-dialogs';
import { usePaged } from './paged';

export function Locks() {
  const navigate = useNavigate();
  const { query, nearEnd, more } = usePaged(locksQuery());
  const [releasing, setReleasing] = useState<Lock | null>(null);
  const columns = useMemo(
    (): readonly Column<Lock>[] => [
      {
        key: 'key',
        head: 'Key',
        track: 'minmax(90px, 1.6fr)',
        cell: (l) => (
          <span className="mono clip" title={l.key}>
            {l.key}
          </span>
        ),
      },
      {
        key: 'holder',
        head: 'Held by',
        track: 'minmax(90px, 1.2fr)',
        cell: (l) => (
          <Link to="/keys" search={{ tab: 'sessions', session: l.session ?? undefined }} className="clip" title={l.session ?? undefined} tabIndex={-1}>
            {l.holder || l.session}
          </Link>
        ),
      },
      { key: 'node', head: 'Machine', track: 'minmax(90px, 1fr)', from: 700, cell: (l) => <span className="clip">{l.node || <span className="faint">–</span>}</span> },
      { key: 'token', head: 'Fencing token', track: '120px', end: true, from: 560, cell: (l) => <span className="num">{count(l.lock_index)}</span> },
      {
        key: 'act',
        head: <span className="sr">Actions</span>,
        track: '96px',
        end: true,
        from: 430,
        cell: (l) => (
          <span className="row-actions">
            <RoleButton needs="operator" onClick={() => setReleasing(l)}>
              Release<span className="sr"> {l.key}</span>
            </RoleButton>
          </span>
        ),
      },
    ],
    [],
  );
  return (
    <>
      <Loaded query={query} what="the locks" rows={8}>
        {(locks) => (
          <Table
            label="Locks"
            rows={locks}
            columns={columns}
            rowKey={(l) => l.key}
            open={(l) => void navigate({ to: '/keys', search: { key: l.key, prefix: l.key.slice(0, l.key.lastIndexOf('/') + 1) || undefined } })}
            nearEnd={nearEnd}
            empty={<Empty title="No key is locked.">“maxine lock KEY -- COMMAND”, programs and clients of Consul take locks.</Empty>}
            foot={`${plural(locks.length, 'lock')}${more ? ' loaded; more as you scroll' : ''}`}
          />
        )}
      </Loaded>
      <ReleaseLock lock={releasing?.session ? { ...releasing, session: releasing.session } : null} onClose={() => setReleasing(null)} />
    </>
  );
}
