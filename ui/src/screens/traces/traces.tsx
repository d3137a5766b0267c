/** The latest requests of this node; one trace as a waterfall. */
import { useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { useMemo, useRef, useState } from 'react';
import { clusterQuery, tracesQuery } from '../../api/queries';
import type { TraceAttempt, TraceEntry } from '../../api/types';
import { Button } from '../../parts/button';
import { CopyButton } from '../../parts/copy';
import { Sheet } from '../../parts/dialog';
import { Choice, Search, useTyped } from '../../parts/field';
import { clock, duration, iso, plural } from '../../parts/format';
import { Facts, Screen } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { Status } from '../../parts/status';
import { saveCsv } from '../../parts/download';
import { OPENS_SHEET, useCloseSheet } from '../../parts/sheet-history';
import { Table, type Column } from '../../parts/table';
import { isCall, KINDS } from './about';
import { StatusCode } from './status-code';
import { spansOf } from './waterfall';

const COLUMNS: readonly Column<TraceEntry>[] = [
  { key: 'at', head: 'Started', track: 'clamp(66px, 14vw, 86px)', cell: (t) => <span className="num muted">{clock(t.time_ms)}</span> },
  { key: 'status', head: 'Status', track: '58px', cell: (t) => <StatusCode status={t.status} /> },
  { key: 'method', head: 'Method', track: '72px', from: 560, cell: (t) => <span className="mono">{t.method}</span> },
  {
    key: 'path',
    head: 'Request',
    track: 'minmax(60px, 3fr)',
    cell: (t) => (
      <span className="clip" title={t.path}>
        <span className={t.service === null ? 'mono' : 'mono wide-only'}>{t.path}</span>
        {t.service === null ? null : (
          <span className="narrow-only">
            {t.service} <span className="muted">· {KINDS[t.kind]}</span>
          </span>
        )}
      </span>
    ),
  },
  { key: 'client', head: 'Caller', track: '120px', from: 1180, cell: (t) => <span className="mono muted clip">{t.client ?? '–'}</span> },
  {
    key: 'service',
    head: 'Service',
    track: 'minmax(90px, 1fr)',
    from: 900,
    cell: (t) => <span className="clip">{t.service ?? <span className="faint">–</span>}</span>,
  },
  { key: 'took', head: 'Duration', track: 'clamp(72px, 13vw, 90px)', end: true, cell: (t) => <span className="num">{duration(t.duration_ms)}</span> },
  {
    key: 'id',
    head: 'Trace',
    track: '110px',
    from: 1060,
    cell: (t) => <span className="mono muted clip">{t.trace_id}</span>,
  },
];

const EXPORTED = [
  ['time', (t: TraceEntry) => iso(t.time_ms)],
  ['status', (t: TraceEntry) => t.status],
  ['method', (t: TraceEntry) => t.method],
  ['path', (t: TraceEntry) => t.path],
  ['kind', (t: TraceEntry) => t.kind],
  ['namespace', (t: TraceEntry) => t.namespace],
  ['service', (t: TraceEntry) => t.service],
  ['client', (t: TraceEntry) => t.client],
  ['duration_ms', (t: TraceEntry) => t.duration_ms],
  ['attempts', (t: TraceEntry) => t.attempts.length],
  ['trace_id', (t: TraceEntry) => t.trace_id],
] as const;

export function TracesScreen() {
  const search = useSearch({ from: '/traces' });
  const navigate = useNavigate();
  const [held, setHeld] = useState<TraceEntry[] | null>(null);
  const [typed, setTyped] = useTyped(search.q);
  const query = useQuery(tracesQuery());
  const cluster = useQuery(clusterQuery());
  const items = held ?? query.data ?? [];
  const status = search.status ?? 'calls';
  const rows = useMemo(() => {
    const needle = typed.trim().toLowerCase();
    return items.filter(
      (t) =>
        (status === 'all' ||
          (status === 'calls' ? isCall(t) : status === 'slow' ? t.duration_ms >= 500 : String(t.status)[0] === status[0])) &&
        (needle === '' || `${t.method} ${t.path} ${t.service ?? ''} ${t.status} ${t.trace_id}`.toLowerCase().includes(needle)),
    );
  }, [items, status, typed]);
  const go = (change: Partial<typeof search>, how: { replace: boolean; state?: { sheet: boolean } } = { replace: true }) =>
    void navigate({ to: '/traces', search: { ...search, ...change }, ...how });
  const closeSheet = useCloseSheet();
  const picked = usePicked(items, search.trace ?? null);
  return (
    <Screen
      title="Traces"
      fill
      actions={
        <>
        <Button icon="download" onClick={() => saveCsv('requests', rows, EXPORTED)}>
          Export
        </Button>
        <Button icon={held ? 'play' : 'pause'} onClick={() => setHeld(held ? null : (query.data ?? []))}>
          {held ? 'Resume' : 'Pause'}
        </Button>
        </>
      }
    >
      <Loaded query={query} what="traces" rows={12}>
        {(all) => (
          <>
            <div className="toolbar">
              <Search
                value={typed}
                label="Search by service, path, status or trace id"
                onChange={(next) => {
                  setTyped(next);
                  go({ q: next.trim() || undefined });
                }}
              />
              <Choice
                label="Which"
                value={status}
                onChange={(next) => go({ status: next === 'calls' ? undefined : next })}
                options={[
                  { value: 'calls', label: 'Calls to services' },
                  { value: 'all', label: 'All requests' },
                  { value: '5xx', label: '5xx' },
                  { value: '4xx', label: '4xx' },
                  { value: 'slow', label: 'Over 500 ms' },
                ]}
              />
            </div>
            <Table
              label="Requests"
              rows={rows}
              columns={COLUMNS}
              rowKey={(t) => `${t.trace_id} ${t.time_ms} ${t.path}`}
              open={(t) => go({ trace: t.trace_id }, OPENS_SHEET)}
              empty={
                status === 'calls' && typed.trim() === '' ? (
                  <Empty title="No recent calls to services.">Look-ups and proxied requests appear here when they end.</Empty>
                ) : (
                  <Empty title={all.length ? 'No requests found.' : 'No requests yet.'}>
                    {all.length ? 'Change the search or the filter.' : 'Each finished request of this node appears here.'}
                  </Empty>
                )
              }
              foot={`${plural(rows.length, 'request')} of ${cluster.data?.node ?? 'this node'}; each node keeps its own${held ? ' · paused' : ''}`}
            />
            <TraceSheet
              id={search.trace ?? null}
              entries={picked}
              onClose={() => closeSheet(() => go({ trace: undefined }))}
            />
          </>
        )}
      </Loaded>
    </Screen>
  );
}

/** The requests of the chosen trace. They stay when the node no longer has them. */
function usePicked(items: readonly TraceEntry[], id: string | null): readonly TraceEntry[] {
  const kept = useRef<readonly TraceEntry[]>([]);
  return useMemo(() => {
    const found = items.filter((t) => t.trace_id === id);
    const before = kept.current.filter((t) => t.trace_id === id && !found.some((other) => other.time_ms === t.time_ms && other.path === t.path));
    kept.current = [...found, ...before];
    return kept.current;
  }, [items, id]);
}

function TraceSheet({ id, entries, onClose }: { id: string | null; entries: readonly TraceEntry[]; onClose: () => void }) {
  const { spans, fromMs, lengthMs } = spansOf(entries);
  const [first] = entries;
  return (
    <Sheet open={id !== null} onClose={onClose} title="Trace">
      <Facts
        items={[
          [
            'Trace id',
            <span key="t" className="with-copy">
              <span className="mono break">{id}</span>
              <CopyButton text={id ?? ''} label="Copy the trace id" />
            </span>,
          ],
          ['Requests', spans.length],
          ['Total time', duration(lengthMs)],
          ...(first ? ([['Traceparent', <span key="p" className="mono break">{first.traceparent}</span>]] as const) : []),
          ...(first && first.namespace !== null && first.service !== null
            ? ([
                [
                  'Service',
                  <Link
                    key="s"
                    to="/services/$namespace/$service"
                    params={{ namespace: first.namespace, service: first.service }}
                    search={{}}
                  >
                    {first.service}
                  </Link>,
                ],
              ] as const)
            : []),
        ]}
      />
      <h3>Waterfall</h3>
      {spans.length === 0 ? (
        <p className="muted">This node no longer has the trace.</p>
      ) : (
        <ol className="waterfall">
          {spans.map((s, i) => (
            <li key={i}>
              <div className="waterfall-text">
                <StatusCode status={s.entry.status} />
                <span className="mono">{s.entry.method}</span>
                <span className="mono break">{s.entry.path}</span>
              </div>
              <Bar tone={s.entry.status >= 500 ? 'bad' : 'info'} startMs={s.startMs} tookMs={s.entry.duration_ms} lengthMs={lengthMs} />
              <div className="muted num waterfall-note">
                {i > 0 ? `+${duration(s.startMs)}, ` : ''}
                {duration(s.entry.duration_ms)} · {clock(fromMs + s.startMs)}
              </div>
              {s.attempts.length > 0 && (
                <ol className="waterfall-attempts" aria-label="Attempts">
                  {s.attempts.map((a, n) => (
                    <li key={n}>
                      <div className="waterfall-text">
                        <AttemptOutcome attempt={a.attempt} />
                        <InstanceName of={s.entry} name={a.attempt.instance} />
                        <span className="mono muted break">{a.attempt.address}</span>
                      </div>
                      <Bar tone={toneOf(a.attempt)} startMs={a.startMs} tookMs={a.attempt.duration_ms} lengthMs={lengthMs} />
                      <div className="muted num waterfall-note">
                        +{duration(a.startMs)}, {duration(a.attempt.duration_ms)}
                      </div>
                    </li>
                  ))}
                </ol>
              )}
            </li>
          ))}
        </ol>
      )}
      <p className="muted">
        Each bar is a request with this id that this node has finished. Below a proxied request are its attempts, each with the
        instance that was called.
      </p>
    </Sheet>
  );
}

function Bar({ tone, startMs, tookMs, lengthMs }: { tone: string; startMs: number; tookMs: number; lengthMs: number }) {
  const share = (ms: number) => Math.min(100, (ms / (lengthMs || 1)) * 100);
  const width = Math.max(0.6, share(tookMs));
  return (
    <div className="waterfall-track">
      <span className={`waterfall-span tone-${tone}`} style={{ left: `${Math.min(share(startMs), 100 - width)}%`, width: `${width}%` }} />
    </div>
  );
}

/** Texts for the proxy's codes. Other codes are shown unchanged. */
const FAILURES: Record<string, string> = {
  lost_hedge: 'another instance was faster',
  connect_failed: 'connection failed',
  connect_timeout: 'connection timed out',
  upstream_reset: 'connection reset',
  response_timeout: 'response timed out',
  bad_response: 'invalid HTTP response',
  resolve_failed: 'name not resolved',
  tls_failed: 'TLS handshake failed',
};

function toneOf({ status, error }: TraceAttempt): 'bad' | 'muted' | 'info' {
  if (error === 'lost_hedge') return 'muted';
  return status === null || status >= 500 ? 'bad' : 'info';
}

function InstanceName({ of, name }: { of: TraceEntry; name: string }) {
  const { namespace, service } = of;
  if (namespace === null || service === null) return <span className="break">{name}</span>;
  return (
    <Link className="break" to="/services/$namespace/$service" params={{ namespace, service }} search={{ instance: name }}>
      {name}
    </Link>
  );
}

function AttemptOutcome({ attempt }: { attempt: TraceAttempt }) {
  if (attempt.status !== null) return <StatusCode status={attempt.status} />;
  const error = attempt.error ?? 'no answer';
  return <Status tone={toneOf(attempt)}>{FAILURES[error] ?? error.replaceAll('_', ' ')}</Status>;
}
