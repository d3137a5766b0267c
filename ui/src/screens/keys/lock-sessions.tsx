/** The lock sessions: what each holds, when it ends, and a way to end it. */
import { useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { useState } from 'react';
import { lockSessionQuery, lockSessionsQuery } from '../../api/kv';
import type { LockSession } from '../../api/types';
import { RoleButton } from '../../parts/button';
import { Sheet } from '../../parts/dialog';
import { count, duration, plural } from '../../parts/format';
import { Facts } from '../../parts/layout';
import { OPENS_SHEET, useCloseSheet } from '../../parts/sheet-history';
import { Empty, Loaded } from '../../parts/states';
import { Table, type Column } from '../../parts/table';
import { At } from '../../parts/time';
import { endOf, EndSession } from './lock-dialogs';
import { usePaged } from './paged';

const COLUMNS: readonly Column<LockSession>[] = [
  {
    key: 'name',
    head: 'Session',
    track: 'minmax(100px, 1.6fr)',
    cell: (s) => (
      <span className="name clip" title={s.id}>
        {s.name || s.id}
      </span>
    ),
  },
  { key: 'locks', head: 'Holds', track: 'clamp(70px, 20vw, 110px)', end: true, cell: (s) => <span className="num">{plural(s.locks_len, 'key')}</span> },
  { key: 'node', head: 'Machine', track: 'minmax(90px, 1fr)', from: 620, cell: (s) => <span className="clip">{s.node || <span className="faint">–</span>}</span> },
  {
    key: 'ttl',
    head: 'Time to live',
    track: '110px',
    end: true,
    from: 500,
    cell: (s) => (s.ttl_ms === null ? <span className="muted">no end</span> : <span className="num">{duration(s.ttl_ms)}</span>),
  },
  { key: 'end', head: 'At its end', track: '110px', from: 760, cell: (s) => (s.behavior === 'delete' ? 'deletes keys' : 'unlocks keys') },
  { key: 'created', head: 'Created', track: '170px', from: 880, cell: (s) => <At at={s.created_at_ms} /> },
  { key: 'by', head: 'By', track: 'minmax(80px, 0.8fr)', from: 980, cell: (s) => <span className="clip">{s.created_by}</span> },
];

export function LockSessions() {
  const search = useSearch({ from: '/keys' });
  const navigate = useNavigate();
  const closeSheet = useCloseSheet();
  const { query, nearEnd, more } = usePaged(lockSessionsQuery());
  return (
    <>
      <Loaded query={query} what="the lock sessions" rows={8}>
        {(sessions) => (
          <Table
            label="Lock sessions"
            rows={sessions}
            columns={COLUMNS}
            rowKey={(s) => s.id}
            open={(s) => void navigate({ to: '/keys', search: { tab: 'sessions', session: s.id }, ...OPENS_SHEET })}
            nearEnd={nearEnd}
            empty={<Empty title="There are no lock sessions.">A process that takes locks opens one. It ends when it is no longer renewed.</Empty>}
            foot={`${plural(sessions.length, 'session')}${more ? ' loaded; more as you scroll' : ''}`}
          />
        )}
      </Loaded>
      <Sheet
        open={search.session !== undefined}
        onClose={() => closeSheet(() => void navigate({ to: '/keys', search: { tab: 'sessions' }, replace: true }))}
        title="Lock session"
      >
        {search.session === undefined ? null : <One id={search.session} />}
      </Sheet>
    </>
  );
}

function One({ id }: { id: string }) {
  const query = useQuery(lockSessionQuery(id));
  const [ending, setEnding] = useState<LockSession | null>(null);
  if (query.data === null) return <Empty title="This session has ended.">Its locks are given back or lost.</Empty>;
  return (
    <>
      <Loaded query={query} what="the lock session" rows={6}>
        {(s) => (
          <>
            <div className="sheet-actions">
              <RoleButton needs="operator" kind="danger" onClick={() => setEnding(s)}>
                End session
              </RoleButton>
            </div>
            <Facts
              items={[
                ['Name', s.name || '–'],
                ['Id', <span key="i" className="mono break">{s.id}</span>],
                ['Machine', s.node || '–'],
                ['Ends', s.ttl_ms === null ? 'on request, or with one of its checks' : `${duration(s.ttl_ms)} after its last renewal`],
                ['At its end', endOf(s)],
                ['Lock delay', duration(s.lock_delay_ms)],
                ['Created', <span key="c"><At at={s.created_at_ms} /> by {s.created_by}</span>],
              ]}
            />
            <section className="sheet-part" aria-label="Keys that it holds">
              <h3>Holds {plural(s.locks_len, 'key')}</h3>
              <ul className="plain-list">
                {s.locks.map((key) => (
                  <li key={key}>
                    <Link to="/keys" search={{ key, prefix: key.slice(0, key.lastIndexOf('/') + 1) || undefined }} className="mono break">
                      {key}
                    </Link>
                  </li>
                ))}
              </ul>
              {s.locks_len > s.locks.length ? <p className="muted">and {count(s.locks_len - s.locks.length)} more</p> : null}
            </section>
            {s.checks.length > 0 ? (
              <section className="sheet-part" aria-label="Checks that end it">
                <h3>Ends with</h3>
                <ul className="plain-list">
                  {s.checks.map((c) => (
                    <li key={`${c.namespace}/${c.service}/${c.instance}/${c.check ?? ''}`}>
                      {c.check === null ? 'the registration' : `the check ${c.check}`} of{' '}
                      <Link to="/services/$namespace/$service" params={{ namespace: c.namespace, service: c.service }} search={{ instance: c.instance }}>
                        {c.instance}
                      </Link>
                    </li>
                  ))}
                </ul>
              </section>
            ) : null}
          </>
        )}
      </Loaded>
      <EndSession session={ending} onClose={() => setEnding(null)} />
    </>
  );
}
