/** The latest requests of this node; one trace as a waterfall. */
import { useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { useMemo, useState } from 'react';
import { clusterQuery, tracesQuery } from '../../api/queries';
import type { TraceAttempt, TraceEntry } from '../../api/types';
import { Button } from '../../parts/button';
import { CopyButton } from '../../parts/copy';
import { Sheet } from '../../parts/dialog';
import { Choice, Search, useTyped } from '../../parts/field';
import { clock, duration, plural } from '../../parts/format';
import { Facts, Screen } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { Status } from '../../parts/status';
import { Table, type Column } from '../../parts/table';
import { isCall, subjectOf } from './about';
import { StatusCode } from './status-code';
import { spansOf } from './waterfall';

const COLUMNS: readonly Column<TraceEntry>[] = [
  { key: 'at', head: 'Began', track: 'clamp(66px, 14vw, 86px)', cell: (t) => <span className="num muted">{clock(t.time_ms)}</span> },
  { key: 'status', head: 'Status', track: '58px', cell: (t) => <StatusCode status={t.status} /> },
  { key: 'method', head: 'Method', track: '72px', from: 560, cell: (t) => <span className="mono">{t.method}</span> },
  {
    key: 'path',
    head: 'Request',
    track: 'minmax(60px, 3fr)',
    cell: (t) => {
      const subject = subjectOf(t.path);
      return (
        <span className="clip" title={t.path}>
          <span className={subject ? 'mono wide-only' : 'mono'}>{t.path}</span>
          {subject && (
            <span className="narrow-only">
              {subject.service} <span className="muted">· {subject.via}</span>
            </span>
          )}
        </span>
      );
    },
  },
  { key: 'client', head: 'Caller', track: '120px', from: 1180, cell: (t) => <span className="mono muted clip">{t.client ?? '–'}</span> },
  {
    key: 'service',
    head: 'Service',
    track: 'minmax(90px, 1fr)',
    from: 900,
    cell: (t) => <span className="clip">{subjectOf(t.path)?.service ?? <span className="faint">–</span>}</span>,
  },
  { key: 'took', head: 'Took', track: 'clamp(62px, 13vw, 84px)', end: true, cell: (t) => <span className="num">{duration(t.duration_ms)}</span> },
  {
    key: 'id',
    head: 'Trace',
    track: '110px',
    from: 1060,
    cell: (t) => <span className="mono muted clip">{t.trace_id}</span>,
  },
];

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
        (needle === '' || `${t.method} ${t.path} ${t.trace_id}`.toLowerCase().includes(needle)),
    );
  }, [items, status, typed]);
  const go = (change: Partial<typeof search>) =>
    void navigate({ to: '/traces', search: { ...search, ...change }, replace: true });
  return (
    <Screen
      title="Traces"
      fill
      actions={
        <Button icon={held ? 'play' : 'pause'} onClick={() => setHeld(held ? null : (query.data ?? []))}>
          {held ? 'Go on' : 'Hold'}
        </Button>
      }
    >
      <Loaded query={query} what="traces" rows={12}>
        {(all) => (
          <>
            <div className="toolbar">
              <Search
                value={typed}
                label="Search by path, method or trace id"
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
              open={(t) => go({ trace: t.trace_id })}
              empty={
                status === 'calls' && typed.trim() === '' ? (
                  <Empty title="No recent call to a service.">Calls through the proxy, the redirect or resolve appear here when they end.</Empty>
                ) : (
                  <Empty title={all.length ? 'No request found.' : 'No request yet.'}>
                    {all.length ? 'Change the search or the filter.' : 'Each finished request of this node appears here.'}
                  </Empty>
                )
              }
              foot={`${plural(rows.length, 'request')} of ${cluster.data?.node ?? 'this node'}; each node keeps its own latest${held ? ' · held' : ''}`}
            />
            <TraceSheet
              id={search.trace ?? null}
              entries={items.filter((t) => t.trace_id === search.trace)}
              onClose={() => go({ trace: undefined })}
            />
          </>
        )}
      </Loaded>
    </Screen>
  );
}

function TraceSheet({ id, entries, onClose }: { id: string | null; entries: readonly TraceEntry[]; onClose: () => void }) {
  const { spans, fromMs, lengthMs } = spansOf(entries);
  const subject = entries[0] ? subjectOf(entries[0].path) : null;
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
          ...(entries[0] ? ([['Traceparent', <span key="p" className="mono break">{entries[0].traceparent}</span>]] as const) : []),
          ...(subject
            ? ([
                [
                  'Service',
                  <Link
                    key="s"
                    to="/services/$namespace/$service"
                    params={{ namespace: subject.namespace, service: subject.service }}
                    search={{}}
                  >
                    {subject.service}
                  </Link>,
                ],
              ] as const)
            : []),
        ]}
      />
      <h3>Waterfall</h3>
      {spans.length === 0 ? (
        <p className="muted">The node no longer has this trace.</p>
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
        Each bar is a request with this id that this node has finished. Below a forwarded request are its attempts, each with the
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
  lost_hedge: 'another was first',
  connect_failed: 'no connection could be opened',
  connect_timeout: 'no connection in time',
  upstream_reset: 'closed the connection',
  response_timeout: 'no answer in time',
  bad_response: 'not valid HTTP',
  resolve_failed: 'name not resolved',
  tls_failed: 'no secure connection',
};

function toneOf({ status, error }: TraceAttempt): 'bad' | 'muted' | 'info' {
  if (error === 'lost_hedge') return 'muted';
  return status === null || status >= 500 ? 'bad' : 'info';
}

function InstanceName({ of, name }: { of: TraceEntry; name: string }) {
  const subject = subjectOf(of.path);
  if (!subject) return <span className="break">{name}</span>;
  const { namespace, service } = subject;
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
