/** The services that are called through this node, how often and with which results: as a graph and as a table. */
import { queryOptions, useQuery } from '@tanstack/react-query';
import { Link, useNavigate } from '@tanstack/react-router';
import { useEffect, useMemo, useRef, useState } from 'react';
import { stateOfService, type ServiceState } from '../../api/calls';
import { call } from '../../api/client';
import { clusterNow } from '../../api/clock';
import { callsQuery, clusterQuery, servicesQuery, tracesQuery } from '../../api/queries';
import type { TraceEntry } from '../../api/types';
import { Choice } from '../../parts/field';
import { clock, count, duration, percent, short } from '../../parts/format';
import { Panel, Screen, useWidth } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { Status } from '../../parts/status';
import { useNow } from '../../parts/time';
import { Button } from '../../parts/button';
import { end, PlainTable } from '../../parts/plain-table';
import { covered, edgesOf, figuresOfEdge, share, type Edge, type LookupEvent } from './graph';

const eventsQuery = () =>
  queryOptions({
    queryKey: ['lookup-events'] as const,
    queryFn: async ({ signal }) => {
      const { data } = await call<{ events: LookupEvent[] }>('/api/actuator/audit', { signal });
      return data.events;
    },
    refetchInterval: 4_000,
  });

const KEPT_MAX = 5_000;
const RANGES = [
  { value: '60000', label: '1 min' },
  { value: '300000', label: '5 min' },
  { value: '900000', label: '15 min' },
  { value: 'Infinity', label: 'All seen' },
] as const;
/** How often old calls leave the graph, in milliseconds. */
const STEP_MS = 5_000;

/** All calls since the screen was opened. The node keeps only the latest. */
function useKept<T>(latest: readonly T[] | undefined, key: (item: T) => string): T[] {
  const kept = useRef(new Map<string, T>());
  return useMemo(() => {
    for (const item of latest ?? []) kept.current.set(key(item), item);
    if (kept.current.size > KEPT_MAX) kept.current = new Map([...kept.current].slice(-KEPT_MAX));
    return [...kept.current.values()];
  }, [latest, key]);
}

const traceKey = (t: TraceEntry) => `${t.trace_id} ${t.time_ms} ${t.path}`;
const eventKey = (e: LookupEvent) => `${e.traceId ?? ''} ${e.timestamp} ${e.type} ${e.address ?? ''}`;

export function DependenciesScreen() {
  const traces = useQuery(tracesQuery());
  const events = useQuery(eventsQuery());
  const cluster = useQuery(clusterQuery());
  const services = useQuery(servicesQuery());
  const calls = useQuery(callsQuery());
  // In a narrow window too little of a graph would be visible.
  const [mode, setMode] = useState<'graph' | 'table'>(() => (window.innerWidth < 560 ? 'table' : 'graph'));
  const [since] = useState(clusterNow);
  const seen = useKept(traces.data, traceKey);
  const lookups = useKept(events.data, eventKey);
  const [namespace, setNamespace] = useState('');
  const [range, setRange] = useState<string>('Infinity');
  const now = Math.ceil(useNow() / STEP_MS) * STEP_MS;
  const recent = useMemo(() => seen.filter((t) => t.time_ms >= now - Number(range)), [seen, now, range]);
  const spanMs = covered(seen, now, Number(range));
  const all = useMemo(() => edgesOf(recent, lookups), [recent, lookups]);
  // A namespace stays in the list when its calls are too old to be shown.
  const namespaces = useMemo(() => [...new Set(seen.flatMap((t) => t.namespace ?? []))].sort(), [seen]);
  const edges = useMemo(() => (namespace === '' ? all : all.filter((e) => e.namespace === namespace)), [all, namespace]);
  const of = calls.data?.of;
  const states = useMemo(
    () => new Map((services.data?.items ?? []).map((s) => [`${s.namespace}/${s.name}`, stateOfService(s, of)])),
    [services.data, of],
  );
  return (
    <Screen
      title="Dependencies"
      intro={`Services reached through ${cluster.data?.node ?? 'this node'}, from those of its latest requests that the page has read, first at ${clock(since)}. With much traffic they are a sample, and rates are higher than shown. Callers are shown by their address.`}
    >
      <Loaded query={traces} what="requests" rows={8}>
        {() =>
          seen.length === 0 ? (
            <Empty title="No recent calls through this node.">
              Look-ups and proxied requests appear here as they happen.
            </Empty>
          ) : (
            <>
              <div className="toolbar">
                <Choice label="Time that is shown" value={range} onChange={setRange} options={RANGES} />
                <Choice
                  label="Show as"
                  value={mode}
                  onChange={setMode}
                  options={[
                    { value: 'graph', label: 'Graph' },
                    { value: 'table', label: 'Table' },
                  ]}
                />
                {namespaces.length > 1 ? (
                  <select aria-label="Namespace" value={namespace} onChange={(e) => setNamespace(e.target.value)}>
                    <option value="">All namespaces</option>
                    {namespaces.map((name) => (
                      <option key={name}>{name}</option>
                    ))}
                  </select>
                ) : null}
              </div>
              {edges.length === 0 ? (
                <Empty title={range === 'Infinity' ? 'No calls were seen.' : `No calls in the last ${duration(Number(range))}.`}>Choose a longer time, or another namespace.</Empty>
              ) : mode === 'graph' ? (
                <Graph edges={edges} spanMs={spanMs} node={cluster.data?.node ?? 'this node'} states={states} complete={services.data?.complete === true} />
              ) : (
                <EdgeTable edges={edges} spanMs={spanMs} />
              )}
            </>
          )
        }
      </Loaded>
    </Screen>
  );
}

const ROW = 46;
const BOX = 30;
const SERVICES_MAX = 40;
const TONE = { healthy: 'good', degraded: 'warn', down: 'bad', failing: 'bad' } as const;
const WORD = { healthy: 'serving', degraded: 'degraded', down: 'down', failing: 'failing' } as const;

/** A factor for each step of the zoom. */
const ZOOM_STEP = 1.25;
const ZOOM_MIN = 0.5;
const ZOOM_MAX = 3;

function Graph({
  edges,
  spanMs,
  node,
  states,
  complete,
}: {
  edges: readonly Edge[];
  /** The time in which the calls were seen, in milliseconds. */
  spanMs: number;
  node: string;
  states: ReadonlyMap<string, ServiceState>;
  /** Whether `states` has every service. */
  complete: boolean;
}) {
  const box = useRef<HTMLDivElement>(null);
  const width = Math.max(560, useWidth(box) || 800);
  const navigate = useNavigate();
  const [over, setOver] = useState<string | null>(null);
  const [zoom, setZoom] = useState(1);
  const by = (factor: number) => setZoom(Math.min(ZOOM_MAX, Math.max(ZOOM_MIN, zoom * factor)));
  const ways = [...new Set(edges.map((e) => e.caller))].slice(0, SERVICES_MAX);
  const services = [...new Set(edges.map((e) => `${e.namespace}/${e.service}`))].slice(0, SERVICES_MAX);
  const targets = [...new Set(edges.flatMap((e) => [...e.targets.keys()]))].slice(0, SERVICES_MAX);
  const rows = Math.max(ways.length, services.length, targets.length);
  const height = rows * ROW + 34;
  const most = Math.max(...edges.map((e) => e.calls), 1);
  const columnWidth = Math.min(230, width * 0.27);
  const xs = [0, (width - columnWidth) / 2, width - columnWidth];
  // Each column is spread over the whole height.
  const y = (at: number, of: number) => 26 + ((at + 0.5) * rows * ROW) / of;
  useEffect(() => setOver(null), [services.length]);
  const curve = (x1: number, y1: number, x2: number, y2: number) =>
    `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`;
  const lines = edges.flatMap((e) => {
    const name = `${e.namespace}/${e.service}`;
    const s = services.indexOf(name);
    const caller = ways.indexOf(e.caller);
    if (s < 0 || caller < 0) return [];
    const weight = 1 + 5 * Math.sqrt(e.calls / most);
    const bad = share(e.failed, e.calls);
    const tone = bad > 0.05 ? 'bad' : bad > 0 ? 'warn' : 'plain';
    const first = {
      key: `${e.caller}>${name}`,
      name,
      d: curve(xs[0]! + columnWidth, y(caller, ways.length), xs[1]!, y(s, services.length)),
      weight,
      tone,
      title: `${e.caller} to ${e.service}, ${[...e.vias].join(' and ').toLowerCase()}: ${said(e, spanMs)}`,
    };
    const rest = [...e.targets].flatMap(([target, n]) => {
      const t = targets.indexOf(target);
      return t < 0
        ? []
        : [
            {
              key: `${e.caller}>${name}>${target}`,
              name,
              d: curve(xs[1]! + columnWidth, y(s, services.length), xs[2]!, y(t, targets.length)),
              weight: 1 + 5 * Math.sqrt(n / most),
              tone: 'plain',
              title: `${e.service} at ${target}: ${n} calls`,
            },
          ];
    });
    return [first, ...rest];
  });
  return (
    <Panel title={`Calls through ${node}`} aside="line width: calls · colour and dash: failures" className="graph-panel">
      <div className="zoom" role="group" aria-label="Size of the graph">
        <Button reason={zoom <= ZOOM_MIN ? 'It is not made smaller.' : null} aria-label="Smaller" onClick={() => by(1 / ZOOM_STEP)}>
          −
        </Button>
        <Button reason={zoom === 1 ? 'It has this size.' : null} onClick={() => setZoom(1)}>
          {percent(zoom, 0)}
          <span className="sr">: back to 100 %</span>
        </Button>
        <Button reason={zoom >= ZOOM_MAX ? 'It is not made larger.' : null} aria-label="Larger" onClick={() => by(ZOOM_STEP)}>
          +
        </Button>
      </div>
      <div className="scroll-x" ref={box} role="region" aria-label="Graph of calls. Choose the table for the same data." tabIndex={0}>
        <svg width={width * zoom} height={height * zoom} viewBox={`0 0 ${width} ${height}`} className="graph" role="group" aria-label="Graph of calls">
          {['Caller', 'Service', 'Instance'].map((head, i) => (
            <text key={head} x={xs[i]} y={12} className="graph-head">
              {head}
            </text>
          ))}
          {lines.map((l) => (
            <path
              key={l.key}
              d={l.d}
              strokeWidth={l.weight}
              className={`graph-edge ${l.tone}${over !== null && over !== l.name ? ' dim' : ''}`}
            >
              <title>{l.title}</title>
            </path>
          ))}
          {ways.map((w, i) => (
            <Node key={w} x={xs[0]!} y={y(i, ways.length)} width={columnWidth} text={w} mono />
          ))}
          {services.map((name, i) => {
            const [namespace = '', ...rest] = name.split('/');
            const service = rest.join('/');
            const state = states.get(name);
            return (
              <Node
                key={name}
                x={xs[1]!}
                y={y(i, services.length)}
                width={columnWidth}
                text={service}
                tone={state ? TONE[state] : 'muted'}
                label={`${service}, ${state ? WORD[state] : complete ? 'not registered' : 'state unknown'}: open`}
                onHover={(on) => setOver(on ? name : null)}
                onOpen={() =>
                  void navigate({ to: '/services/$namespace/$service', params: { namespace, service }, search: {} })
                }
              />
            );
          })}
          {targets.map((t, i) => (
            <Node key={t} x={xs[2]!} y={y(i, targets.length)} width={columnWidth} text={t} />
          ))}
        </svg>
      </div>
    </Panel>
  );
}

function Node(props: {
  x: number;
  y: number;
  width: number;
  text: string;
  tone?: string;
  mono?: boolean;
  label?: string;
  onHover?: (on: boolean) => void;
  onOpen?: () => void;
}) {
  const { x, y, width, text, tone, mono, label, onHover, onOpen } = props;
  const room = Math.floor((width - 34) / (mono ? 7.4 : 7));
  const cut = text.length > room ? `${text.slice(0, room - 1)}…` : text;
  return (
    <g
      transform={`translate(${x} ${y - BOX / 2})`}
      className={onOpen ? 'graph-node opens' : 'graph-node'}
      role={onOpen ? 'link' : undefined}
      tabIndex={onOpen ? 0 : undefined}
      aria-label={label}
      onPointerEnter={() => onHover?.(true)}
      onPointerLeave={() => onHover?.(false)}
      onFocus={() => onHover?.(true)}
      onBlur={() => onHover?.(false)}
      onClick={onOpen}
      onKeyDown={(event) => {
        if (event.key === 'Enter') onOpen?.();
      }}
    >
      <title>{text}</title>
      <rect width={width} height={BOX} rx="6" />
      {tone ? <rect x="0" y="0" width="4" height={BOX} rx="2" className={`graph-tone tone-${tone}`} /> : null}
      <text x="14" y={BOX / 2 + 4} className={mono ? 'mono' : ''}>
        {cut}
      </text>
    </g>
  );
}

/** The figures of an edge as text. */
function said(edge: Edge, spanMs: number): string {
  const { perS, success, p95 } = figuresOfEdge(edge, spanMs);
  return `${count(edge.calls)} calls seen, ${short(perS)}/s, ${percent(success)} succeeded${p95 === null ? '' : `, p95 ${duration(p95)}`}`;
}

function EdgeTable({ edges, spanMs }: { edges: readonly Edge[]; spanMs: number }) {
  return (
    <Panel title="Calls" flush>
      <PlainTable
        label="Calls"
        columns={['Service', 'Caller', 'Kind', end('Calls seen'), end('Rate'), 'Success', end('p50'), end('p95'), 'Instances']}
      >
        {edges.map((e) => {
          const { perS, success, p50, p95 } = figuresOfEdge(e, spanMs);
          return (
            <tr key={`${e.caller} ${e.namespace}/${e.service}`}>
              <th scope="row">
                <Link
                  to="/services/$namespace/$service"
                  params={{ namespace: e.namespace, service: e.service }}
                  search={{}}
                  className="name"
                >
                  {e.service}
                </Link>
              </th>
              <td className="mono">{e.caller}</td>
              <td>{[...e.vias].join(', ')}</td>
              <td className="end num">{count(e.calls)}</td>
              <td className="end num">{short(perS)}/s</td>
              <td>{e.failed ? <Status tone="bad">{percent(success)}</Status> : <span className="num">{percent(success)}</span>}</td>
              <td className="end num">{p50 === null ? '–' : duration(p50)}</td>
              <td className="end num">{p95 === null ? '–' : duration(p95)}</td>
              <td className="mono">{[...e.targets.keys()].slice(0, 4).join(', ') || '–'}</td>
            </tr>
          );
        })}
      </PlainTable>
    </Panel>
  );
}
