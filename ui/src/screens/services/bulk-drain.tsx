/** Drains all instances of a node, a zone or a version at once, or returns them, with the outcome for each. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useDeferredValue, useId, useMemo, useState } from 'react';
import { drain, undrain } from '../../api/actions';
import { asProblem, forPeople } from '../../api/problem';
import { groupQuery, INSTANCES_FOUND_MAX, servicesQuery } from '../../api/queries';
import type { Instance, Service } from '../../api/types';
import { Button, RoleButton } from '../../parts/button';
import { Modal } from '../../parts/dialog';
import { Choice, SelectField, TextField } from '../../parts/field';
import { count, plural } from '../../parts/format';
import { end, PlainTable } from '../../parts/plain-table';
import { Loaded, Note } from '../../parts/states';
import { Status } from '../../parts/status';
import { planOf, runAll, valuesOf, type BulkAction, type GroupKind, type Outcome, type ServicePlan } from './bulk';

const KINDS: Record<GroupKind, string> = { node: 'Node', zone: 'Zone', version: 'Version' };

/** The button and its dialog. With `service`, only instances of this service are changed. */
export function BulkDrain({ service }: { service?: Service }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <RoleButton needs="operator" icon="pause" onClick={() => setOpen(true)}>
        Drain a group…
      </RoleButton>
      <Modal
        wide
        open={open}
        onClose={() => setOpen(false)}
        title="Drain a group of instances"
        description={
          service
            ? `All instances of ${service.name} on a node, in a zone or of a version.`
            : 'All instances on a node, in a zone or of a version, in all services.'
        }
      >
        {open ? <Bulk service={service ?? null} onClose={() => setOpen(false)} /> : null}
      </Modal>
    </>
  );
}

const keyOf = (i: Pick<Instance, 'namespace' | 'service' | 'id'>) => JSON.stringify([i.namespace, i.service, i.id]);
const serviceKey = (p: ServicePlan) => `${p.namespace}/${p.name}`;
const textOf = (error: unknown) => forPeople(asProblem(error).body).detail;

interface Run {
  action: BulkAction;
  reason: string;
  instances: Instance[];
  outcomes: ReadonlyMap<string, Outcome>;
  busy: boolean;
}

function Bulk({ service, onClose }: { service: Service | null; onClose: () => void }) {
  const [action, setAction] = useState<BulkAction>('drain');
  const [kind, setKind] = useState<GroupKind>(service ? 'version' : 'node');
  const [value, setValue] = useState('');
  const [reason, setReason] = useState('');
  const [without, setWithout] = useState<ReadonlySet<string>>(new Set());
  const [typed, setTyped] = useState('');
  const [run, setRun] = useState<Run | null>(null);
  const queries = useQueryClient();
  const wanted = useDeferredValue(value.trim());
  const found = useQuery(groupQuery(service, wanted));
  const services = useQuery(servicesQuery());
  const list = useId();
  const instances = found.data ?? [];
  const known = useMemo(() => (service ? [service] : (services.data?.items ?? [])), [service, services.data]);
  const plans = planOf(instances, { kind, value: wanted, action }, known);
  const chosen = plans.filter((p) => !without.has(serviceKey(p)));
  const items = chosen.flatMap((p) => p.instances);
  const emptied = action === 'drain' ? chosen.filter((p) => p.servingAfter === 0 && p.servingNow !== 0) : [];
  const unsure = action === 'drain' && chosen.some((p) => p.servingAfter === null);
  const risky = emptied.length > 0 || unsure;
  const tooMany = instances.length >= INSTANCES_FOUND_MAX;

  const start = async (action: BulkAction, instances: Instance[], reason: string) => {
    setRun((before) => ({
      action, reason, busy: true,
      instances: before && before.action === action ? before.instances : instances,
      outcomes: new Map([...(before && before.action === action ? before.outcomes : []), ...instances.map((i) => [keyOf(i), 'waiting'] as const)]),
    }));
    await runAll(
      instances,
      (i) => (action === 'drain' ? drain(i, reason) : undrain(i)),
      (i, outcome) => setRun((now) => now && { ...now, outcomes: new Map(now.outcomes).set(keyOf(i), outcome) }),
      textOf,
    );
    setRun((now) => now && { ...now, busy: false });
    await Promise.all([['instances'], ['service'], ['services'], ['instance'], ['group']].map((queryKey) => queries.invalidateQueries({ queryKey })));
  };

  if (run) return <Progress run={run} again={start} onClose={onClose} />;
  const blocked =
    wanted === ''
      ? `Name the ${kind} first.`
      : found.isFetching
        ? 'The instances are being looked up.'
        : tooMany
          ? 'Too many instances were found. Drain them service by service.'
          : items.length === 0
            ? 'There is nothing to change.'
            : risky && typed !== wanted
              ? `Type ${wanted} to continue.`
              : null;
  return (
    <>
      <Choice
        label="Action"
        value={action}
        onChange={setAction}
        options={[
          { value: 'drain', label: 'Drain' },
          { value: 'return', label: 'Return to service' },
        ]}
      />
      <div className="form-grid">
        <SelectField label="Group" value={kind} onChange={(e) => setKind(e.target.value as GroupKind)}>
          {Object.entries(KINDS).map(([value, name]) => (
            <option key={value} value={value}>
              {name}
            </option>
          ))}
        </SelectField>
        <TextField
          label={KINDS[kind]}
          hint={`Exactly as the instances name their ${kind} when they register.`}
          value={value}
          list={list}
          maxLength={255}
          autoComplete="off"
          spellCheck={false}
          onChange={(e) => setValue(e.target.value)}
        />
      </div>
      <datalist id={list}>
        {valuesOf(instances, kind).map((one) => (
          <option key={one} value={one} />
        ))}
      </datalist>
      {wanted === '' ? null : (
        <Loaded query={found} what="the instances" rows={3}>
          {() =>
            plans.length === 0 ? (
              <p className="muted" role="status">
                {action === 'drain' ? `No instance of ${kind} ${wanted} can be drained.` : `No instance of ${kind} ${wanted} is drained.`}
              </p>
            ) : (
              <Plans
                plans={plans}
                action={action}
                without={without}
                set={(key, on) => setWithout(new Set(on ? [...without].filter((k) => k !== key) : [...without, key]))}
              />
            )
          }
        </Loaded>
      )}
      {plans.length > 0 ? <Effect action={action} chosen={chosen} n={items.length} emptied={emptied} /> : null}
      {action === 'drain' ? (
        <TextField
          label="Reason"
          hint="Kept in the audit log and shown to others."
          maxLength={1024}
          value={reason}
          onChange={(e) => setReason(e.target.value)}
        />
      ) : null}
      {risky ? (
        <TextField label={`Type ${wanted} to confirm`} value={typed} autoComplete="off" spellCheck={false} onChange={(e) => setTyped(e.target.value)} />
      ) : null}
      <footer className="dialog-foot">
        <Button onClick={onClose}>Cancel</Button>
        <Button
          kind={risky ? 'danger' : 'primary'}
          reason={blocked}
          onClick={() => void start(action, items, reason.trim() || `${kind} ${wanted}, from the dashboard`)}
        >
          {action === 'drain' ? 'Drain' : 'Return'} {plural(items.length, 'instance')}
        </Button>
      </footer>
    </>
  );
}

/** What will happen to each service. A service can be left out. */
function Plans({
  plans,
  action,
  without,
  set,
}: {
  plans: readonly ServicePlan[];
  action: BulkAction;
  without: ReadonlySet<string>;
  set: (key: string, on: boolean) => void;
}) {
  return (
    <PlainTable
      label="Services"
      className="bulk-list"
      columns={['Service', end(action === 'drain' ? 'To drain' : 'To return'), end('Serving now'), end('Serving after')]}
    >
      {plans.map((p) => {
        const on = !without.has(serviceKey(p));
        const after = on ? p.servingAfter : p.servingNow;
        return (
          <tr key={serviceKey(p)}>
            <th scope="row">
              <label className="check">
                <input type="checkbox" checked={on} onChange={(e) => set(serviceKey(p), e.target.checked)} />
                <span>
                  <span className="muted">{p.namespace}/</span>
                  {p.name}
                </span>
              </label>
            </th>
            <td className="end num">{on ? count(p.instances.length) : '0'}</td>
            <td className="end num">{count(p.servingNow)}</td>
            <td className="end num">{after === 0 && action === 'drain' ? <Status tone="bad">0</Status> : count(after)}</td>
          </tr>
        );
      })}
    </PlainTable>
  );
}

function Effect({ action, chosen, n, emptied }: { action: BulkAction; chosen: readonly ServicePlan[]; n: number; emptied: readonly ServicePlan[] }) {
  if (n === 0) return <p>No service is chosen.</p>;
  if (action === 'return') {
    return (
      <p>
        {plural(n, 'instance')} of {plural(chosen.length, 'service')} {n === 1 ? 'gets' : 'get'} requests again, once {n === 1 ? 'it is' : 'they are'} healthy.
      </p>
    );
  }
  const left = chosen.reduce((sum, p) => sum + (p.servingAfter ?? 0), 0);
  const unknown = chosen.filter((p) => p.servingAfter === null);
  return (
    <>
      <p>
        {plural(n, 'instance')} of {plural(chosen.length, 'service')} {n === 1 ? 'gets' : 'get'} no new requests, until someone returns{' '}
        {n === 1 ? 'it' : 'them'}. Requests in flight are answered.
        {unknown.length < chosen.length
          ? ` ${plural(left, 'instance')} of ${chosen.length - unknown.length === 1 ? 'this service' : 'these services'} ${left === 1 ? 'remains' : 'remain'} serving.`
          : ''}
      </p>
      {unknown.length > 0 ? (
        <Note tone="warn">
          How many instances of {unknown.map((p) => p.name).join(', ')} remain serving is not known: the page has not loaded{' '}
          {unknown.length === 1 ? 'this service' : 'these services'}.
        </Note>
      ) : null}
      {emptied.length > 0 ? (
        <Note tone="bad">
          No instance of {emptied.map((p) => p.name).join(', ')} remains serving: {emptied.length === 1 ? 'its' : 'their'} callers will get “unavailable”.
        </Note>
      ) : null}
    </>
  );
}

function Progress({
  run,
  again,
  onClose,
}: {
  run: Run;
  again: (action: BulkAction, instances: Instance[], reason: string) => Promise<void>;
  onClose: () => void;
}) {
  const outcome = (i: Instance) => run.outcomes.get(keyOf(i)) ?? 'waiting';
  const done = run.instances.filter((i) => outcome(i) === 'done');
  const failed = run.instances.filter((i) => typeof outcome(i) === 'object');
  const past = run.action === 'drain' ? 'drained' : 'returned';
  return (
    <>
      <p role="status">
        {count(done.length)} of {plural(run.instances.length, 'instance')} {past}
        {failed.length > 0 ? `, ${count(failed.length)} failed` : ''}
        {run.busy ? '…' : '.'}
      </p>
      <progress className="progress" aria-label="Progress" max={run.instances.length} value={done.length + failed.length} />
      <PlainTable label="Outcome for each instance" className="bulk-list" columns={['Instance', 'Service', 'Outcome']}>
        {run.instances.map((i) => {
          const now = outcome(i);
          return (
            <tr key={keyOf(i)}>
              <th scope="row">{i.id}</th>
              <td>{i.service}</td>
              <td className="break">
                {now === 'waiting' ? (
                  <Status tone="muted">Waiting</Status>
                ) : now === 'done' ? (
                  <Status tone={run.action === 'drain' ? 'hold' : 'good'}>{run.action === 'drain' ? 'Draining' : 'Returned'}</Status>
                ) : (
                  <Status tone="bad">Failed: {now.problem}</Status>
                )}
              </td>
            </tr>
          );
        })}
      </PlainTable>
      <footer className="dialog-foot">
        {failed.length > 0 && !run.busy ? (
          <Button onClick={() => void again(run.action, failed, run.reason)}>Try the failed ones again</Button>
        ) : null}
        {done.length > 0 && !run.busy ? (
          <Button onClick={() => void again(run.action === 'drain' ? 'return' : 'drain', done, run.reason)}>
            {run.action === 'drain' ? 'Return them' : 'Drain them again'}
          </Button>
        ) : null}
        <Button kind="primary" reason={run.busy ? 'Wait until all instances have an outcome.' : null} onClick={onClose}>
          Close
        </Button>
      </footer>
    </>
  );
}
