/** The first screen: the health of the cluster, what needs attention, and traffic. */
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useMemo } from 'react';
import { useTroubled } from '../../api/beyond';
import { alertsQuery, auditQuery, callsQuery, clusterQuery, isOpen, nodesQuery, servicesQuery } from '../../api/queries';
import { byUrgency, callsOf, hasErrors, needsAttention, SERVICES_COUNTED_MAX, stateOfService, type CallsOf } from '../../api/calls';
import { partsOf } from '../../api/instances';
import { connection } from '../../api/connection';
import { useStore } from '../../api/store';
import { Answered, useMissing } from '../../parts/answered';
import type { ClusterNode, ClusterStatus, ServiceSummary } from '../../api/types';
import { useInfiniteQuery } from '@tanstack/react-query';
import { Bar } from '../../parts/chart';
import { count, duration, percent, plural, short } from '../../parts/format';
import { Panel, Screen } from '../../parts/layout';
import { Empty, Failed, Loaded, Loading } from '../../parts/states';
import { asProblem } from '../../api/problem';
import { Badge, ServiceStatus, Status, type Tone } from '../../parts/status';
import { Ago, useNow } from '../../parts/time';
import { reachOf, toleranceOf } from '../cluster/reach';
import { groupsOf } from '../alerts/groups';
import { FirstRun } from './first-run';
import { ObjectivesPanel } from './objectives-panel';
import { TrafficPanel } from './traffic-panel';
import { Warnings } from './warnings';

export function Overview() {
  const cluster = useQuery(clusterQuery());
  const nodes = useQuery(nodesQuery());
  const led = useStore(connection).leader === 'known';
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
  const health = clusterHealth(status, nodes.data, led);
  if (status.totals === null) {
    return (
      <Screen title="Overview" status={<Badge tone={health.tone}>{health.text}</Badge>}>
        <Warnings status={status} />
        <Empty title="This node has no state yet.">It has received none since it started. Use another node.</Empty>
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
          <TrafficPanel />
          <ObjectivesPanel />
          <OpenAlerts />
        </div>
      </div>
    </Screen>
  );
}

/** The health of the cluster itself, in one line. `led` tells whether a majority has confirmed a leader lately. */
export function clusterHealth(s: ClusterStatus, nodes?: readonly ClusterNode[], led = true): { tone: Tone; text: string } {
  if (s.leadership.leader === null || !led) {
    return { tone: 'bad', text: s.raft ? 'No leader: writes are refused' : 'No leader: heartbeats wait, and nothing expires' };
  }
  if (!s.raft) return { tone: 'good', text: s.backend === 'redis' ? 'Redis reachable' : 'Running' };
  const voters = s.raft.members.filter((m) => m.voter);
  const away = voters.filter((m) => reachOf(s, m, nodes) === 'cut-off');
  if (away.length > 0) {
    const names = away.map((m) => m.name).join(', ');
    return { tone: 'warn', text: `${names} unreachable` };
  }
  if (s.raft.disk_stalled) return { tone: 'warn', text: `The disk of ${s.node} is stalled` };
  if (voters.length === 1) return { tone: 'good', text: 'Running as a single node' };
  if (voters.some((m) => reachOf(s, m, nodes) === 'unknown')) return { tone: 'good', text: `${s.leadership.leader} is the leader` };
  return { tone: 'good', text: `All ${voters.length} nodes up` };
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
                · leader since <Ago at={status.grant.since_ms} />
              </>
            ) : null}
          </div>
        </dd>
      </dl>
      <dl className="figure">
        <dt>Node failures tolerated</dt>
        <dd>
          <span className="figure-value">{tolerated?.more ?? '–'}</span>
          <div className="figure-note">
            {status.raft
              ? `of ${plural(tolerated?.voters ?? 0, 'voter')}${tolerated?.certain ? '' : ', at least'}`
              : `no quorum in ${status.backend} mode`}
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
              including draining instances and those used in panic mode: {count(t.unhealthy)} unhealthy, {count(t.evicted)} evicted
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
  const share = calls === 0 ? null : failed / calls;
  const silent = (data?.length ?? 0) - reports.length;
  return (
    <dl className="figure">
      <dt>Calls, last minute</dt>
      <dd>
        <span className="figure-value">{reports.length > 0 ? `${short(calls / 60)}/s` : '–'}</span>
        <div className="figure-note">
          {reports.length === 0 ? (
            'not known'
          ) : share === null ? (
            'no calls'
          ) : (
            <span className={share > 0.001 ? 'text-bad' : undefined}>{percent(share, 2)} failed</span>
          )}
          {silent > 0 ? ` · without ${plural(silent, 'node')}` : reports.length > 1 ? ` · ${reports.length} nodes` : ''}
        </div>
      </dd>
    </dl>
  );
}

const ATTENTION_MAX = 8;

function Attention() {
  const services = useQuery(servicesQuery());
  const calls = useQuery(callsQuery());
  const of = calls.data?.of;
  const { items, complete } = useTroubled(services.data, of);
  const bad = useMemo(() => items.filter((s) => needsAttention(s, of)).sort(byUrgency(of)), [items, of]);
  const missing = useMissing(calls.data?.nodes ?? []);
  // Only with all services and the calls of every node is it certain that no service fails.
  const counted = calls.data !== undefined && calls.data.of.size < SERVICES_COUNTED_MAX;
  const certain = complete && counted && missing.none && !calls.error && !services.error;
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
            <Empty title={certain ? 'Nothing needs attention.' : 'Nothing known to need attention.'}>
              {certain ? (
                <Status tone="good">All instances are serving or draining. No service fails its calls.</Status>
              ) : (
                <Status tone="muted">
                  {complete
                    ? 'All instances are serving or draining. Whether all calls succeed is not known.'
                    : 'Not all services are loaded yet.'}
                </Status>
              )}
            </Empty>
          ) : (
            <ul className="rows">
              {bad.slice(0, ATTENTION_MAX).map((s) => (
                <li key={`${s.namespace}/${s.name}`}>
                  <Link
                    to="/services/$namespace/$service"
                    params={{ namespace: s.namespace, service: s.name }}
                    search={worst(s)}
                    className="row-link"
                  >
                    <ServiceStatus health={stateOfService(s, of)} />
                    <span className="row-name">{s.name}</span>
                    <span className="muted row-rest">{troubles(s, of)}</span>
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

/** Where the reason is shown. */
function worst(s: ServiceSummary): { health?: string; tab?: string } {
  if (s.unhealthy > 0) return { health: 'unhealthy' };
  if (s.evicted > 0) return { health: 'evicted' };
  return s.health === 'healthy' ? { tab: 'traffic' } : {};
}

/** What is wrong with a service. Each instance counts once. */
export function troubles(s: ServiceSummary, all: CallsOf | undefined): string {
  const parts = [];
  const calls = callsOf(s, all);
  if (calls && hasErrors(calls)) {
    const { proxied, proxied_failed } = calls;
    parts.push(proxied === proxied_failed ? `all ${plural(proxied, 'call')} failed` : `${percent(proxied_failed / proxied)} of ${plural(proxied, 'call')} failed`);
  }
  const reasons = partsOf(s).filter((part) => part.n > 0 && part.name !== 'serving');
  const out = reasons.map((part) => `${part.n} ${part.name}`).join(', ');
  if (out) parts.push(`${out} of ${plural(s.instances, 'instance')}`);
  else if (s.instances === 0) parts.push('no instances');
  return parts.join(' · ');
}

function Activity() {
  const audit = useInfiniteQuery(auditQuery({}, 60));
  const records = audit.data?.pages[0]?.items;
  return (
    <Panel title="Latest changes" aside={<Link to="/audit">Audit</Link>} flush>
      <Loaded query={{ ...audit, data: records }} what="the audit log" rows={6}>
        {(items) =>
          items.length === 0 ? (
            <Empty title="No changes yet." />
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
                  <span className="muted row-end">{r.outcome === 'success' ? r.user : r.outcome}</span>
                </li>
              ))}
            </ul>
          )
        }
      </Loaded>
    </Panel>
  );
}

const ALERTS_SHOWN = 6;

function OpenAlerts() {
  const alerts = useQuery(alertsQuery());
  const missing = useMissing(alerts.data?.nodes ?? []);
  const now = useNow();
  return (
    <Panel title="Open alerts" aside={<Link to="/alerts">Alerts</Link>} flush>
      <Loaded query={alerts} what="the alerts" rows={3}>
        {({ items, nodes }) => {
          const open = groupsOf(items.filter((a) => isOpen(a) && !a.silenced));
          return (
            <>
              {open.length === 0 ? (
                <Empty title={missing.none ? 'No open alerts.' : 'No open alerts known.'}>
                  <Answered nodes={nodes} />
                </Empty>
              ) : (
                <>
                  <ul className="rows">
                    {open.slice(0, ALERTS_SHOWN).map(({ latest: a, nodes: by }) => (
                      <li key={`${a.type} ${a.object}`} className="row-line">
                        <Status tone={a.severity === 'critical' ? 'bad' : 'warn'}>{a.severity}</Status>
                        <span className="row-object" title={`${a.message} (${by.join(', ')})`}>
                          {a.message}
                        </span>
                        <span className="muted row-end num">{duration(Math.max(0, now - a.time_ms))}</span>
                      </li>
                    ))}
                  </ul>
                  <p className="pad">
                    {open.length > ALERTS_SHOWN ? `${open.length - ALERTS_SHOWN} more. ` : ''}
                    <Answered nodes={nodes} />
                  </p>
                </>
              )}
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}
