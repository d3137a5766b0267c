/** The first screen: the health of the cluster, what needs attention, and traffic. */
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useMemo } from 'react';
import { alertsQuery, auditQuery, clusterQuery, isOpen, nodesQuery, servicesQuery } from '../../api/queries';
import { bySeverity, partsOf } from '../../api/instances';
import type { ClusterNode, ClusterStatus, ServiceSummary } from '../../api/types';
import { useInfiniteQuery } from '@tanstack/react-query';
import { Bar } from '../../parts/chart';
import { count, duration, percent, plural, short } from '../../parts/format';
import { Panel, Screen } from '../../parts/layout';
import { Empty, Failed, Loaded, Loading, Note } from '../../parts/states';
import { asProblem } from '../../api/problem';
import { Badge, ServiceStatus, Status, type Tone } from '../../parts/status';
import { Ago } from '../../parts/time';
import { reachOf, toleranceOf } from '../cluster/reach';
import { FirstRun } from './first-run';
import { TrafficPanel } from './traffic-panel';

export function Overview() {
  const cluster = useQuery(clusterQuery());
  const nodes = useQuery(nodesQuery());
  if (!cluster.data) {
    return (
      <Screen title="Overview">
        {cluster.error ? (
          <Failed problem={asProblem(cluster.error)} retry={() => void cluster.refetch()} />
        ) : (
          <Loading what="the cluster" rows={8} />
        )}
      </Screen>
    );
  }
  const status = cluster.data;
  const health = clusterHealth(status, nodes.data);
  if (status.totals === null) {
    return (
      <Screen title="Overview" status={<Badge tone={health.tone}>{health.text}</Badge>}>
        <Warnings status={status} />
        <Empty title="This node has no state yet.">It has received none since it started. Ask another node.</Empty>
      </Screen>
    );
  }
  if (status.totals.services === 0) {
    return (
      <Screen title="Overview" status={<Badge tone={health.tone}>{health.text}</Badge>}>
        <FirstRun namespace="default" />
      </Screen>
    );
  }
  return (
    <Screen title="Overview" status={<Badge tone={health.tone}>{health.text}</Badge>}>
      <Warnings status={status} />
      <Figures status={status} />
      <div className="overview-grid">
        <div className="stack">
          <Attention />
          <Activity />
        </div>
        <div className="stack">
          <TrafficPanel node={status.node} />
          <OpenAlerts />
        </div>
      </div>
    </Screen>
  );
}

/** The warnings of the node itself. */
export function Warnings({ status }: { status: ClusterStatus }) {
  if (status.warnings.length === 0) return null;
  return (
    <Note tone="warn">
      <strong>{status.node} warns:</strong> {status.warnings.join(' · ')}
    </Note>
  );
}

/** The health of the cluster itself, in one line. */
export function clusterHealth(s: ClusterStatus, nodes?: readonly ClusterNode[]): { tone: Tone; text: string } {
  if (s.leadership.leader === null) {
    return { tone: 'bad', text: s.raft ? 'No leader: writes are refused' : 'No leader: heartbeats wait, and nothing expires' };
  }
  if (!s.raft) return { tone: 'good', text: s.backend === 'redis' ? 'Redis answers' : 'Running' };
  const voters = s.raft.members.filter((m) => m.voter);
  const away = voters.filter((m) => reachOf(s, m, nodes) === 'cut-off');
  if (away.length > 0) {
    const names = away.map((m) => m.name).join(', ');
    return { tone: 'warn', text: `${names} cannot be reached` };
  }
  if (s.raft.disk_stalled) return { tone: 'warn', text: `The disk of ${s.node} is stalled` };
  if (voters.length === 1) return { tone: 'good', text: 'Running as a single node' };
  if (voters.some((m) => reachOf(s, m, nodes) === 'unknown')) return { tone: 'good', text: `${s.leadership.leader} is the leader` };
  return { tone: 'good', text: `All ${voters.length} nodes can be reached` };
}

function Figures({ status }: { status: ClusterStatus }) {
  const t = status.totals;
  const nodes = useQuery(nodesQuery());
  if (!t) return null;
  // Drained instances, and those that are used in panic mode, are counted there and not as unhealthy or evicted.
  const elsewhere = t.unhealthy > t.no_traffic.unhealthy || t.evicted > t.no_traffic.evicted;
  const tolerated = toleranceOf(status, nodes.data);
  return (
    <div className="figures">
      <dl className="figure">
        <dt>Leader</dt>
        <dd>
          <Link to="/cluster" className="figure-value mono">
            {status.leadership.leader ?? 'none'}
          </Link>
          <div className="figure-note">
            term {count(status.leadership.term)}
            {status.grant && status.leadership.leader !== null ? (
              <>
                {' '}
                · became leader <Ago at={status.grant.since_ms} />
              </>
            ) : null}
          </div>
        </dd>
      </dl>
      <dl className="figure">
        <dt>Nodes that may still fail</dt>
        <dd>
          <span className="figure-value">{tolerated?.more ?? '–'}</span>
          <div className="figure-note">
            {status.raft
              ? `of ${plural(tolerated?.voters ?? 0, 'voter')}${tolerated?.certain ? '' : ', as far as is known'}`
              : `${status.backend}: not a quorum`}
          </div>
        </dd>
      </dl>
      <dl className="figure">
        <dt>Services</dt>
        <dd>
          <Link to="/services" className="figure-value">
            {count(t.services)}
          </Link>
          <div className="figure-note">in {plural(t.namespaces, 'namespace')}</div>
        </dd>
      </dl>
      <Calls />
      <dl className="figure wide-figure">
        <dt>Instances</dt>
        <dd>
          <span className="figure-value">{count(t.instances)}</span>
          <Bar
            label="Instances"
            parts={partsOf(t)}
          />
          <div className="figure-note">
            {partsOf(t)
              .filter((part, at) => at === 0 || part.n > 0)
              .map((part) => `${count(part.n)} ${part.name}`)
              .join(' · ')}
          </div>
          {elsewhere ? (
            <div className="figure-note">
              with those drained or used in panic mode: {count(t.unhealthy)} unhealthy, {count(t.evicted)} evicted
            </div>
          ) : null}
        </dd>
      </dl>
    </div>
  );
}

/** The calls of the whole cluster. Each node counts its own calls and is asked for the number. */
function Calls() {
  const { data } = useQuery(nodesQuery());
  const reports = (data ?? []).flatMap((n) => (n.report ? [n.report] : []));
  const calls = reports.reduce((n, r) => n + r.lookups + r.proxied, 0);
  const failed = reports.reduce((n, r) => n + r.failed, 0);
  const share = calls === 0 ? 0 : failed / calls;
  const silent = (data?.length ?? 0) - reports.length;
  return (
    <dl className="figure">
      <dt>Calls, last minute</dt>
      <dd>
        <span className="figure-value">{data ? `${short(calls / 60)}/s` : '–'}</span>
        <div className="figure-note">
          <span className={share > 0.001 ? 'text-bad' : undefined}>{percent(share, 2)} failed</span>
          {silent > 0 ? ` · without ${plural(silent, 'node')}` : reports.length > 1 ? ` · ${reports.length} nodes` : ''}
        </div>
      </dd>
    </dl>
  );
}

const ATTENTION_MAX = 8;

function Attention() {
  const services = useQuery(servicesQuery());
  const bad = useMemo(
    () => (services.data?.items ?? []).filter((s) => s.health !== 'healthy' || s.unhealthy + s.evicted > 0).sort(bySeverity),
    [services.data],
  );
  return (
    <Panel
      title="Needs attention"
      aside={
        bad.length > ATTENTION_MAX ? (
          <Link to="/services" search={{ health: 'bad' }}>
            All {bad.length}
          </Link>
        ) : null
      }
      flush
    >
      <Loaded query={services} what="services" rows={4}>
        {() =>
          bad.length === 0 ? (
            <Empty title="Nothing.">
              <Status tone="good">Every service has all its instances in traffic.</Status>
            </Empty>
          ) : (
            <ul className="rows">
              {bad.slice(0, ATTENTION_MAX).map((s) => (
                <li key={`${s.namespace}/${s.name}`}>
                  <Link
                    to="/services/$namespace/$service"
                    params={{ namespace: s.namespace, service: s.name }}
                    search={{ health: worst(s) }}
                    className="row-link"
                  >
                    <ServiceStatus health={s.health} />
                    <span className="row-name">{s.name}</span>
                    <span className="muted row-rest">{troubles(s)}</span>
                  </Link>
                </li>
              ))}
            </ul>
          )
        }
      </Loaded>
    </Panel>
  );
}

function worst(s: ServiceSummary): string | undefined {
  if (s.unhealthy > 0) return 'unhealthy';
  if (s.evicted > 0) return 'evicted';
  return undefined;
}

function troubles(s: ServiceSummary): string {
  const parts = [];
  if (s.unhealthy) parts.push(`${s.unhealthy} unhealthy`);
  if (s.evicted) parts.push(`${s.evicted} evicted`);
  if (s.draining) parts.push(`${s.draining} drained`);
  return `${parts.join(', ') || 'none gets traffic'} of ${s.instances}`;
}

function Activity() {
  const audit = useInfiniteQuery(auditQuery({}, 60));
  const records = audit.data?.pages[0]?.items;
  return (
    <Panel title="Latest changes" aside={<Link to="/audit">Audit</Link>} flush>
      <Loaded query={{ ...audit, data: records }} what="the audit log" rows={6}>
        {(items) =>
          items.length === 0 ? (
            <Empty title="No change yet." />
          ) : (
            <ul className="rows">
              {items.filter((r) => !r.action.startsWith('session.') && r.action !== 'leadership.takeover').slice(0, 8).map((r) => (
                <li key={r.seq} className="row-line">
                  <span className="muted num row-time">
                    <Ago at={r.time_ms} />
                  </span>
                  <span className="row-action">{r.action}</span>
                  <span className="row-object" title={r.object}>
                    {r.object}
                  </span>
                  <span className="muted row-end">{r.outcome === 'refused' ? 'refused' : r.user}</span>
                </li>
              ))}
            </ul>
          )
        }
      </Loaded>
    </Panel>
  );
}

function OpenAlerts() {
  const alerts = useQuery(alertsQuery());
  const node = useQuery(clusterQuery()).data?.node ?? 'this node';
  return (
    <Panel title={`Open alerts of ${node}`} aside={<Link to="/alerts">Alerts</Link>} flush>
      <Loaded query={alerts} what="alerts" rows={3}>
        {(items) => {
          const open = items.filter((a) => isOpen(a) && !a.silenced);
          if (open.length === 0) {
            return (
              <Empty title="None.">
                Each node has its own alerts. <code>maxine alerts</code> asks all of them.
              </Empty>
            );
          }
          return (
            <ul className="rows">
              {open.slice(0, 6).map((a) => (
                <li key={String(a.id)} className="row-line">
                  <Status tone={a.severity === 'critical' ? 'bad' : 'warn'}>{a.severity}</Status>
                  <span className="row-object" title={a.message}>
                    {a.message}
                  </span>
                  <span className="muted row-end num">{duration(Math.max(0, Date.now() - a.time_ms))}</span>
                </li>
              ))}
            </ul>
          );
        }}
      </Loaded>
    </Panel>
  );
}
