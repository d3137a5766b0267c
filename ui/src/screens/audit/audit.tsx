/** The audit log: who did what to which object. The server searches it and verifies its chain. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useCallback, useEffect, useMemo, useState } from 'react';
import { send } from '../../api/client';
import { asProblem } from '../../api/problem';
import { auditQuery, auditVerifyQuery } from '../../api/queries';
import type { AuditRecord } from '../../api/types';
import { Button } from '../../parts/button';
import { CopyButton } from '../../parts/copy';
import { Sheet } from '../../parts/dialog';
import { saveFile } from '../../parts/download';
import { TextField, SelectField } from '../../parts/field';
import { OPENS_SHEET, useCloseSheet } from '../../parts/sheet-history';
import { count, plural } from '../../parts/format';
import { Facts, Screen } from '../../parts/layout';
import { Empty, Failed, Loading } from '../../parts/states';
import { Badge, Status } from '../../parts/status';
import { Table, type Column } from '../../parts/table';
import { At } from '../../parts/time';
import { fail, say } from '../../parts/toast';
import { RecordedChange } from './change';

const COLUMNS: readonly Column<AuditRecord>[] = [
  { key: 'at', head: 'When', track: 'minmax(70px, 124px)', cell: (r) => <At at={r.time_ms} /> },
  { key: 'user', head: 'Who', track: 'minmax(80px, 0.8fr)', from: 520, cell: (r) => <span className="clip">{r.user || <span className="faint">open</span>}</span> },
  { key: 'action', head: 'Action', track: 'minmax(90px, 1fr)', cell: (r) => <span className="clip">{r.action}</span> },
  {
    key: 'object',
    head: 'Object',
    track: 'minmax(100px, 2fr)',
    cell: (r) => (
      <span className="mono clip" title={r.object}>
        {r.object}
      </span>
    ),
  },
  {
    key: 'outcome',
    head: 'Outcome',
    track: '84px',
    from: 480,
    cell: (r) => <Outcome of={r.outcome} />,
  },
  { key: 'address', head: 'From', track: '130px', from: 1000, cell: (r) => <span className="mono muted clip">{from(r)}</span> },
  { key: 'seq', head: 'No.', track: '80px', end: true, from: 860, cell: (r) => <span className="num muted">{r.seq}</span> },
];

function Outcome({ of }: { of: AuditRecord['outcome'] }) {
  if (of === 'success') return <Status tone="good">Done</Status>;
  return <Status tone="warn">{of === 'unknown' ? 'Unknown' : 'Refused'}</Status>;
}

/** The caller's address, and the member that sent the request to the leader. */
function from(r: AuditRecord): string {
  return r.via_node === null ? r.address : `${r.address} via node ${String(r.via_node)}`;
}

export function AuditScreen() {
  const search = useSearch({ from: '/audit' });
  const navigate = useNavigate();
  const closeSheet = useCloseSheet();
  const [form, setForm] = useState({ user: search.user ?? '', action: search.action ?? '', object: search.object ?? '' });
  useEffect(() => {
    const next = {
      user: form.user.trim() || undefined,
      action: form.action.trim() || undefined,
      object: form.object.trim() || undefined,
    };
    if (next.user === search.user && next.action === search.action && next.object === search.object) return;
    const timer = setTimeout(() => {
      void navigate({ to: '/audit', search: { ...next, outcome: search.outcome }, replace: true });
    }, 250);
    return () => clearTimeout(timer);
  }, [form, navigate, search.outcome, search.user, search.action, search.object]);
  const { seq, ...filter } = search;
  const query = useInfiniteQuery(auditQuery(filter));
  const rows = useMemo(() => (query.data?.pages ?? []).flatMap((p) => p.items), [query.data]);
  const picked = rows.find((r) => String(r.seq) === seq);
  const { fetchNextPage, hasNextPage, isFetchingNextPage } = query;
  const nearEnd = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [fetchNextPage, hasNextPage, isFetchingNextPage]);
  const set = (field: keyof typeof form) => (e: { target: { value: string } }) => setForm((f) => ({ ...f, [field]: e.target.value }));
  return (
    <Screen title="Audit" fill status={<Chain />} actions={<Export />}>
      <div className="toolbar fields">
        <TextField label="Who" value={form.user} onChange={set('user')} placeholder="any" maxLength={255} data-search="" />
        <TextField label="Action begins with" value={form.action} onChange={set('action')} placeholder="instance." maxLength={255} />
        <TextField label="Object begins with" value={form.object} onChange={set('object')} placeholder="default/orders" maxLength={1024} />
        <SelectField
          label="Outcome"
          value={search.outcome ?? ''}
          onChange={(e) =>
            void navigate({ to: '/audit', search: { ...search, outcome: e.target.value || undefined }, replace: true })
          }
        >
          <option value="">Any</option>
          <option value="success">Done</option>
          <option value="refused">Refused</option>
          <option value="unknown">Unknown</option>
        </SelectField>
      </div>
      {query.data ? (
        <Table
          label="Audit records"
          rows={rows}
          columns={COLUMNS}
          rowKey={(r) => String(r.seq)}
          open={(r) => void navigate({ to: '/audit', search: { ...search, seq: String(r.seq) }, ...OPENS_SHEET })}
          nearEnd={nearEnd}
          empty={<Empty title="No records found." />}
          foot={`${plural(rows.length, 'record')}${hasNextPage ? ' loaded; more as you scroll' : ''}`}
        />
      ) : query.error ? (
        <Failed problem={asProblem(query.error)} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the audit log" rows={12} />
      )}
      <Sheet
        open={search.seq !== undefined}
        onClose={() =>
          closeSheet(() => void navigate({ to: '/audit', search: { ...search, seq: undefined }, replace: true }))
        }
        title={`Record ${search.seq ?? ''}`}
      >
        {picked ? (
          <>
            <RecordedChange record={picked} />
            <Record record={picked} />
          </>
        ) : (
          <Empty title="This record is not among those that are loaded.">Change the filters, or scroll to it.</Empty>
        )}
      </Sheet>
    </Screen>
  );
}

function Record({ record: r }: { record: AuditRecord }) {
  return (
    <Facts
      items={[
        ['When', <At key="t" at={r.time_ms} />],
        ['Who', r.user || 'a request without a credential'],
        ['From', <span key="f" className="mono">{from(r) || '–'}</span>],
        ['Action', r.action],
        ['Object', <span key="o" className="mono break">{r.object || '–'}</span>],
        ['Outcome', <Outcome key="r" of={r.outcome} />],
        ['Detail', <span key="d" className="break">{r.detail || '–'}</span>],
        [
          'Trace',
          r.trace_id ? (
            <span className="with-copy">
              <span className="mono break">{r.trace_id}</span>
              <CopyButton text={r.trace_id} label="Copy the trace id" />
            </span>
          ) : (
            '–'
          ),
        ],
        ['State index', <span key="i" className="num">{count(r.index)}</span>],
        ['Hash', <span key="h" className="mono break">{r.hash}</span>],
      ]}
    />
  );
}

function Chain() {
  const query = useQuery(auditVerifyQuery());
  const v = query.data;
  return (
    <span className="chain">
      {query.isFetching ? (
        <Badge tone="muted">Verifying…</Badge>
      ) : query.error && !v ? (
        <Badge tone="warn">Not verified: {asProblem(query.error).body.title}</Badge>
      ) : v?.ok ? (
        <Badge tone="good">
          Hash chain of {count(v.records)} records verified
          {v.records < v.next_seq ? `; ${count(v.next_seq - v.records)} older records were deleted` : ''}
        </Badge>
      ) : v ? (
        <Badge tone="bad">Hash chain broken at record {v.first_bad_seq ?? '?'}</Badge>
      ) : null}
      <Button kind="quiet" onClick={() => void query.refetch()}>
        Verify again
      </Button>
    </span>
  );
}

function Export() {
  const [busy, setBusy] = useState(false);
  const run = async () => {
    setBusy(true);
    try {
      const response = await send('/audit/export', { headers: { accept: 'application/x-ndjson' }, timeoutMs: 120_000 });
      saveFile(await response.blob(), 'maxine-audit.ndjson');
      say('The audit log is saved.', { detail: 'Check it with: maxine audit verify maxine-audit.ndjson --cluster' });
    } catch (error) {
      fail('The audit log could not be exported', error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Button icon="download" busy={busy} onClick={() => void run()}>
      Export
    </Button>
  );
}
