/** Alerts: lists them, acknowledges one, and silences a type for a time. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useState } from 'react';
import { acknowledge, silence, unsilence } from '../../api/actions';
import { clusterNow } from '../../api/clock';
import { knownBases, peerUrl } from '../../api/peers';
import { alertsQuery, clusterQuery, keys, silencesQuery } from '../../api/queries';
import { bearerToken, session } from '../../api/session';
import type { Alert, ClusterAlerts } from '../../api/types';
import { Answered, useMissing, names } from '../../parts/answered';
import { RoleButton } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { Choice, SelectField, TextField } from '../../parts/field';
import { plural } from '../../parts/format';
import { Panel, Screen } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { Status } from '../../parts/status';
import { Ago, At, useNow } from '../../parts/time';
import { fail, say } from '../../parts/toast';
import { groupsOf, said, type AlertGroup } from './groups';

const SHOWN_MAX = 200;

export function AlertsScreen() {
  const search = useSearch({ from: '/alerts' });
  const navigate = useNavigate();
  const query = useQuery(alertsQuery());
  const cluster = useQuery(clusterQuery());
  const missing = useMissing(query.data?.nodes ?? []);
  const [silencing, setSilencing] = useState<string | null>(null);
  const show = search.show ?? 'open';
  return (
    <Screen
      title="Alerts"
      status={query.data ? <Answered nodes={query.data.nodes} /> : null}
      intro={`The alerts of all nodes. Silences and acknowledgements belong to one node: silences are those of ${cluster.data?.node ?? 'this node'}.`}
    >
      <Silences />
      <Loaded query={query} what="alerts" rows={8}>
        {(data) => {
          const all = groupsOf(data.items);
          const open = all.filter((group) => group.open);
          const acknowledged = all.filter((group) => !group.open && group.latest.acknowledged_by !== null);
          const items = show === 'all' ? all : show === 'acknowledged' ? acknowledged : open;
          return (
            <>
              <div className="toolbar">
                <Choice
                  label="Which"
                  value={show}
                  onChange={(next) =>
                    void navigate({ to: '/alerts', search: { show: next === 'open' ? undefined : next }, replace: true })
                  }
                  options={[
                    { value: 'open', label: 'Open', n: open.length },
                    { value: 'acknowledged', label: 'Acknowledged', n: acknowledged.length },
                    { value: 'all', label: 'All, including resolved', n: all.length },
                  ]}
                />
              </div>
              {items.length === 0 ? (
                <Empty title={`No ${show === 'open' ? 'open ' : ''}alerts${missing.none ? '.' : ' known.'}`}>
                  <Answered nodes={data.nodes} />
                </Empty>
              ) : (
                <ul className="cards">
                  {items.slice(0, SHOWN_MAX).map((group) => (
                    <AlertCard
                      key={`${group.latest.node} ${group.latest.id}`}
                      group={group}
                      nodes={data.nodes}
                      own={cluster.data?.node ?? null}
                      onSilence={() => setSilencing(group.latest.type)}
                    />
                  ))}
                </ul>
              )}
              {data.left_out > 0 ? <p className="muted">Not shown: {plural(data.left_out, 'active alert')} beyond the newest 200 of a node.</p> : null}
              {items.length > SHOWN_MAX ? <p className="muted">Not shown: {plural(items.length - SHOWN_MAX, 'older alert')}.</p> : null}
            </>
          );
        }}
      </Loaded>
      <SilenceDialog key={silencing} type={silencing} onClose={() => setSilencing(null)} />
    </Screen>
  );
}

const SEVERITY = { critical: ['bad', 'Critical'], warning: ['warn', 'Warning'] } as const;

/** Where a request about an alert of `node` goes; null if this page cannot reach that node. */
export function baseOf(node: string, own: string | null, nodes: ClusterAlerts['nodes']): string | null {
  if (node === own) return '';
  const url = peerUrl(nodes.find((n) => n.name === node)?.http_addr ?? '');
  return url !== null && bearerToken() !== null && knownBases().includes(url) ? url : null;
}

function AlertCard({
  group,
  nodes,
  own,
  onSilence,
}: {
  group: AlertGroup;
  nodes: ClusterAlerts['nodes'];
  own: string | null;
  onSilence: () => void;
}) {
  const queries = useQueryClient();
  const alert = group.latest;
  const [tone, text] = SEVERITY[alert.severity];
  const open = group.all.filter((a) => a.acknowledged_by === null);
  const away = group.nodes.filter((node) => baseOf(node, own, nodes) === null);
  const same = (a: Alert) => open.some((one) => one.node === a.node && one.id === a.id);
  const mark = (by: string | null) =>
    queries.setQueryData<ClusterAlerts>(keys.alerts(), (all) =>
      all && { ...all, items: all.items.map((a) => (same(a) ? { ...a, acknowledged_by: by } : a)) },
    );
  // The mark is shown immediately. If the server refuses, it is removed again.
  const ack = async () => {
    const state = session.get();
    mark(state.phase === 'signed-in' ? state.me.user : 'you');
    try {
      for (const one of open) {
        const base = baseOf(one.node, own, nodes);
        await acknowledge(one.id, base || undefined);
      }
    } catch (error) {
      mark(null);
      fail('The alert could not be acknowledged', error);
    }
    void queries.invalidateQueries({ queryKey: keys.alerts() });
  };
  const details = Object.entries(alert.details ?? {});
  return (
    <li className="card">
      <div className="card-head">
        <Status tone={tone}>{text}</Status>
        <code>{alert.type}</code>
        {alert.object ? <span className="break">{alert.object}</span> : null}
        {alert.state === 'active' ? <span className="tag">active</span> : null}
        {alert.silenced ? <span className="tag">silenced</span> : null}
        <span className="muted num card-end">
          {group.nodes.join(', ')} · <Ago at={alert.time_ms} />
        </span>
      </div>
      {alert.resolved_ms !== null ? (
        <p className="card-text">
          <Status tone="good">
            Resolved: from <At at={alert.time_ms} /> to <At at={alert.resolved_ms} />
          </Status>
        </p>
      ) : null}
      <p className="card-text">{said(alert)}</p>
      <p className="muted">
        Runbook: <code>docs/operations/{alert.runbook}.md</code>
      </p>
      {details.length > 0 ? (
        <dl className="inline-facts">
          {details.map(([key, value]) => (
            <div key={key}>
              <dt>{key}</dt>
              <dd className="break">{typeof value === 'string' ? value : JSON.stringify(value)}</dd>
            </div>
          ))}
        </dl>
      ) : null}
      <div className="card-foot">
        {alert.acknowledged_by !== null ? (
          <Status tone="good">
            Acknowledged by {alert.acknowledged_by}
          </Status>
        ) : alert.state === 'resolved' ? null : (
          <RoleButton
            needs="operator"
            icon="check"
            reason={away.length > 0 ? `Open the dashboard of ${names(away)} to acknowledge it: each node has its own alerts.` : null}
            onClick={() => void ack()}
          >
            Acknowledge
          </RoleButton>
        )}
        <RoleButton needs="operator" onClick={onSilence}>
          Silence this type…
        </RoleButton>
      </div>
    </li>
  );
}

function Silences() {
  const query = useQuery(silencesQuery());
  const queries = useQueryClient();
  const now = useNow();
  const items = (query.data ?? []).filter((s) => s.until_ms > now);
  if (items.length === 0) return null;
  return (
    <Panel title="Silenced" flush>
      <ul className="rows">
        {items.map((s) => (
          <li key={s.type} className="row-line">
            <code>{s.type}</code>
            <span className="row-object">
              until <At at={s.until_ms} /> by {s.by}
              {s.reason ? `: ${s.reason}` : ''}
            </span>
            <RoleButton
              needs="operator"
              onClick={() =>
                void unsilence(s.type).then(
                  () => {
                    say(`Alerts of type ${s.type} are sent again.`, {
                      undo: {
                        act: async () => {
                          await silence(s.type, Math.max(1_000, s.until_ms - clusterNow()), s.reason);
                          await queries.invalidateQueries({ queryKey: keys.silences() });
                        },
                        done: `${s.type} is silenced again.`,
                      },
                    });
                    void queries.invalidateQueries({ queryKey: keys.silences() });
                    void queries.invalidateQueries({ queryKey: keys.alerts() });
                  },
                  (error: unknown) => fail('The silence could not be ended', error),
                )
              }
            >
              End<span className="sr"> the silence of {s.type}</span>
            </RoleButton>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

const HOURS = [
  [0.25, '15 minutes'],
  [1, '1 hour'],
  [4, '4 hours'],
  [24, '1 day'],
  [168, '1 week'],
] as const;

function SilenceDialog({ type, onClose }: { type: string | null; onClose: () => void }) {
  const [hours, setHours] = useState(1);
  const [reason, setReason] = useState('');
  const queries = useQueryClient();
  return (
    <Confirm
      open={type !== null}
      onClose={onClose}
      title={`Silence ${type ?? ''}?`}
      verb="Silence"
      blocked={reason.trim() ? null : 'Enter a reason.'}
      effect={<p>Alerts of this type are still shown here, marked as silenced, but not sent to the webhook during this time.</p>}
      act={async () => {
        if (type === null) return;
        await silence(type, hours * 3_600_000, reason.trim());
        say(`${type} is silenced.`, {
          undo: {
            act: async () => {
              await unsilence(type);
              await queries.invalidateQueries({ queryKey: keys.silences() });
            },
            done: `Alerts of type ${type} are sent again.`,
          },
        });
        await Promise.all([
          queries.invalidateQueries({ queryKey: keys.silences() }),
          queries.invalidateQueries({ queryKey: keys.alerts() }),
        ]);
      }}
    >
      <SelectField label="For" value={hours} onChange={(e) => setHours(Number(e.target.value))}>
        {HOURS.map(([h, name]) => (
          <option key={h} value={h}>
            {name}
          </option>
        ))}
      </SelectField>
      <TextField label="Reason" value={reason} maxLength={1024} onChange={(e) => setReason(e.target.value)} />
    </Confirm>
  );
}
