/** Keys as folders. A folder is a prefix that ends with a slash; the server lists what begins with it. */
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { useEffect, useMemo, useRef, useState } from 'react';
import { keysQuery } from '../../api/kv';
import type { KvKey } from '../../api/types';
import { Button, RoleButton } from '../../parts/button';
import { Search } from '../../parts/field';
import { bytes, count, plural } from '../../parts/format';
import { OPENS_SHEET } from '../../parts/sheet-history';
import { Icon } from '../../parts/icons';
import { Empty, Loaded, Note } from '../../parts/states';
import { Status } from '../../parts/status';
import { Table, type Column } from '../../parts/table';
import { At } from '../../parts/time';
import { AddKey, DeleteKeys } from './key-dialogs';
import { KeySheet } from './key-sheet';
import { usePaged } from './paged';
import { crumbsOf, entriesOf, folderOf, type Entry } from './tree';

/** So many keys are loaded by themselves, so that folders are complete, and so many more on request. */
const LOADED_AT_ONCE = 10_000;

const of = <T,>(entry: Entry, show: (key: KvKey) => T): T | null => (entry.kind === 'key' ? show(entry.key) : null);

const columnsWith = (more: boolean): readonly Column<Entry>[] => [
  {
    key: 'name',
    head: 'Name',
    track: 'minmax(110px, 2fr)',
    cell: (e) => (
      <span className="mono clip key-name" title={e.name}>
        <Icon name={e.kind === 'folder' ? 'chevron' : 'keys'} />
        {e.name}
      </span>
    ),
  },
  {
    key: 'size',
    head: 'Size',
    track: 'clamp(88px, 22vw, 130px)',
    end: true,
    cell: (e) =>
      e.kind === 'folder' ? (
        <span className="muted num">
          {count(e.keys)}
          {more ? '+' : ''} {e.keys === 1 && !more ? 'key' : 'keys'}
        </span>
      ) : (
        <span className="num">{bytes(e.key.value_len)}</span>
      ),
  },
  { key: 'lock', head: 'Lock', track: '90px', from: 560, cell: (e) => of(e, (k) => (k.session === null ? <span className="faint">–</span> : <Status tone="hold">Held</Status>)) },
  { key: 'at', head: 'Last change', track: '170px', from: 680, cell: (e) => of(e, (k) => <At at={k.modified_at_ms} />) },
  { key: 'by', head: 'By', track: 'minmax(80px, 1fr)', from: 780, cell: (e) => of(e, (k) => <span className="clip">{k.modified_by}</span>) },
  { key: 'revision', head: 'Revision', track: '110px', end: true, from: 960, cell: (e) => of(e, (k) => <span className="num muted">{count(k.revision)}</span>) },
];

export function KeyList() {
  const search = useSearch({ from: '/keys' });
  const navigate = useNavigate();
  const prefix = search.prefix ?? '';
  const [typed, setTyped] = useTypedPrefix(prefix);
  const [adding, setAdding] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const { query, nearEnd: next, more } = usePaged(keysQuery(prefix));
  const loaded = query.data?.length ?? 0;
  const [asked, setAsked] = useState({ prefix, keys: LOADED_AT_ONCE });
  const limit = asked.prefix === prefix ? asked.keys : LOADED_AT_ONCE;
  useEffect(() => {
    if (loaded < limit) next();
  }, [loaded, limit, next]);
  const entries = useMemo(() => entriesOf(query.data ?? [], prefix), [query.data, prefix]);
  const columns = useMemo(() => columnsWith(more), [more]);
  return (
    <>
      <div className="toolbar">
        <Search value={typed} label="Keys that begin with" onChange={setTyped} />
        <RoleButton needs="operator" icon="plus" onClick={() => setAdding(true)}>
          Add key
        </RoleButton>
        <RoleButton
          needs="operator"
          kind="danger"
          reason={prefix === '' ? 'Open a folder first.' : loaded === 0 ? 'There is no such key.' : null}
          onClick={() => setDeleting(true)}
        >
          Delete these keys…
        </RoleButton>
      </div>
      {folderOf(prefix) !== '' ? (
        <nav aria-label="Folders above" className="crumbs mono">
          <Link to="/keys" search={{}} activeOptions={{ exact: true }}>
            all keys
          </Link>
          {crumbsOf(prefix).map((crumb) => (
            <Link key={crumb.prefix} to="/keys" search={{ prefix: crumb.prefix }} activeOptions={{ exact: true }}>
              {crumb.name}
            </Link>
          ))}
        </nav>
      ) : null}
      <Loaded query={query} what="the keys" rows={12}>
        {(keys) => (
          <>
            {more && keys.length >= limit ? (
              <Note tone="info">
                The first {count(keys.length)} keys are loaded. Enter a longer prefix to see others.
                <Button onClick={() => setAsked({ prefix, keys: limit + LOADED_AT_ONCE })}>Load {count(LOADED_AT_ONCE)} more</Button>
              </Note>
            ) : null}
            <Table
              label={`Keys below ${prefix || 'the root'}`}
              rows={entries}
              columns={columns}
              rowKey={(e) => (e.kind === 'folder' ? `f ${e.prefix}` : `k ${e.key.key}`)}
              open={(e) =>
                void navigate(
                  e.kind === 'folder'
                    ? { to: '/keys', search: { prefix: e.prefix } }
                    : { to: '/keys', search: { ...search, key: e.key.key }, ...OPENS_SHEET },
                )
              }
              empty={
                <Empty title={prefix === '' ? 'There are no keys yet.' : 'No key begins with this text.'}>
                  {prefix === '' ? 'Keys hold small configuration, and locks. Programs, “maxine kv put” and clients of Consul write them.' : null}
                </Empty>
              }
              foot={`${plural(keys.length, 'key')}${more ? ' loaded; there are more' : ''}`}
            />
          </>
        )}
      </Loaded>
      <AddKey open={adding} onClose={() => setAdding(false)} prefix={prefix} />
      <DeleteKeys open={deleting} onClose={() => setDeleting(false)} prefix={prefix} keys={loaded} more={more} />
      <KeySheet />
    </>
  );
}

const TYPING_MS = 250;

/** The text of the field. The address follows it when the reader pauses, and the field follows the address. */
function useTypedPrefix(prefix: string): [string, (next: string) => void] {
  const navigate = useNavigate();
  const [typed, setTyped] = useState(prefix);
  const sent = useRef(prefix);
  useEffect(() => {
    if (prefix === sent.current) return;
    sent.current = prefix;
    setTyped(prefix);
  }, [prefix]);
  useEffect(() => {
    if (typed === sent.current) return;
    const timer = setTimeout(() => {
      sent.current = typed;
      void navigate({ to: '/keys', search: { prefix: typed || undefined }, replace: true });
    }, TYPING_MS);
    return () => clearTimeout(timer);
  }, [typed, navigate]);
  return [typed, setTyped];
}
