/** Actions of an operator on an instance. Each states its effect first and, if possible, offers an undo. */
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import * as actions from '../../api/actions';
import { instanceNodesQuery, keys } from '../../api/queries';
import type { Instance, Service } from '../../api/types';
import { Confirm } from '../../parts/dialog';
import { TextField } from '../../parts/field';
import { plural } from '../../parts/format';
import { Note } from '../../parts/states';
import { say } from '../../parts/toast';

interface Props {
  open: boolean;
  onClose: () => void;
  instance: Instance;
}

/** What a drain waits for, as text. */
export function Pending({ instance, open }: { instance: Instance; open: boolean }) {
  const { namespace, service, id } = instance;
  const { data, error } = useQuery({ ...instanceNodesQuery(namespace, service, id), enabled: open });
  if (!data) return <span className="muted">{error ? 'The number of requests in flight is not known.' : 'Counting the requests in flight…'}</span>;
  const silent = data.nodes.filter((n) => n.in_flight === null).map((n) => n.node);
  return (
    <>
      {data.in_flight === 0 ? (
        'No requests in flight'
      ) : (
        <>
          <b>{plural(data.in_flight, 'request')}</b> in flight, which will still be answered
        </>
      )}
      {data.complete ? '.' : `, without ${silent.join(' and ')}: no answer.`}
    </>
  );
}

function useRefresh(instance: Pick<Instance, 'namespace' | 'service' | 'id'>) {
  const queries = useQueryClient();
  const { namespace, service, id } = instance;
  return async () => {
    await Promise.all([
      queries.invalidateQueries({ queryKey: keys.instances(namespace, service) }),
      queries.invalidateQueries({ queryKey: keys.service(namespace, service) }),
      queries.invalidateQueries({ queryKey: keys.why(namespace, service, id) }),
      queries.invalidateQueries({ queryKey: ['instance', namespace, service, id] }),
    ]);
  };
}

export function DrainDialog({ open, onClose, instance, service }: Props & { service: Service }) {
  const [reason, setReason] = useState('');
  const refresh = useRefresh(instance);
  const others = service.routable - (instance.routable ? 1 : 0);
  return (
    <Confirm
      open={open}
      onClose={onClose}
      title={`Drain ${instance.id}?`}
      verb="Drain"
      danger={others === 0}
      effect={
        <>
          <p>
            <b>{instance.id}</b> gets no new requests from any node until someone returns it to service. It stays registered.
          </p>
          <p>
            <Pending instance={instance} open={open} />
          </p>
          {others === 0 ? (
            <Note tone="bad">
              This is the only serving instance of {service.name}: its callers will get “unavailable”.
            </Note>
          ) : (
            <p>
              {plural(others, 'instance')} of {service.name} {others === 1 ? 'takes' : 'take'} over its traffic.
            </p>
          )}
        </>
      }
      act={async () => {
        await actions.drain(instance, reason.trim() || 'from the dashboard');
        say(`${instance.id} is draining.`, {
          undo: {
            label: 'Return it',
            act: async () => {
              await actions.undrain(instance);
              await refresh();
            },
            done: `${instance.id} is back in service.`,
          },
        });
        setReason('');
        await refresh();
      }}
    >
      <TextField
        label="Reason"
        hint="Kept in the audit log and shown to others."
        maxLength={1024}
        value={reason}
        onChange={(e) => setReason(e.target.value)}
      />
    </Confirm>
  );
}

export function ReturnDialog({ open, onClose, instance }: Props) {
  const refresh = useRefresh(instance);
  const bad = instance.health.liveness === 'evicted' || instance.health.readiness === 'not_ready';
  return (
    <Confirm
      open={open}
      onClose={onClose}
      title={`Return ${instance.id} to service?`}
      verb="Return"
      effect={
        bad ? (
          <p>
            The drain ends, but its checks still fail. It gets requests once they pass.
          </p>
        ) : (
          <p>
            The drain ends and <b>{instance.id}</b> gets new requests immediately, in proportion to its weight of {instance.weight}.
          </p>
        )
      }
      act={async () => {
        const reason = instance.drain?.reason ?? '';
        await actions.undrain(instance);
        say(`${instance.id} is back in service.`, {
          undo: {
            label: 'Drain again',
            act: async () => {
              await actions.drain(instance, reason || 'from the dashboard');
              await refresh();
            },
            done: `${instance.id} is draining again.`,
          },
        });
        await refresh();
      }}
    />
  );
}

export function WeightDialog({ open, onClose, instance }: Props) {
  const [text, setText] = useState(String(instance.weight));
  const refresh = useRefresh(instance);
  const weight = Number(text);
  const wrong = !Number.isInteger(weight) || weight < 1 || weight > 100 ? 'A whole number from 1 to 100.' : null;
  return (
    <Confirm
      open={open}
      onClose={onClose}
      title={`Change the weight of ${instance.id}`}
      verb="Change weight"
      blocked={wrong ?? (weight === instance.weight ? 'This is the present weight.' : null)}
      effect={
        <>
          <p>
            It gets requests in proportion to its weight, now {instance.weight}. The change applies on every node immediately.
          </p>
          <p className="muted">
            It is registered again as it is, with the new weight. If its owner registers again with another weight, the
            owner's counts; a heartbeat alone changes nothing.
          </p>
        </>
      }
      act={async () => {
        const before = instance.weight;
        await actions.register(instance, { weight });
        say(`${instance.id} has weight ${weight}.`, {
          undo: {
            act: async () => {
              await actions.register(instance, { weight: before });
              await refresh();
            },
            done: `${instance.id} has weight ${before} again.`,
          },
        });
        await refresh();
      }}
    >
      <TextField
        label="Weight"
        type="number"
        min={1}
        max={100}
        step={1}
        inputMode="numeric"
        value={text}
        error={wrong}
        onChange={(e) => setText(e.target.value)}
      />
    </Confirm>
  );
}

export function DeregisterDialog({
  open,
  onClose,
  instance,
  service,
  gone,
}: Props & { service: Service; gone: () => void }) {
  const refresh = useRefresh(instance);
  const left = service.routable - (instance.routable ? 1 : 0);
  return (
    <Confirm
      open={open}
      onClose={onClose}
      title={`Deregister ${instance.id}?`}
      danger
      verb="Deregister"
      effect={
        <>
          <p>
            {left === 0 ? (
              <>
                The only serving instance of <b>{service.name}</b> is removed, on every node: its callers will get “unavailable”.
              </>
            ) : (
              <>
                <b>{instance.id}</b> is removed on every node. {plural(left, 'instance')} of {service.name} will serve.
              </>
            )}{' '}
            To stop its traffic for a while, drain it instead.
          </p>
          <p>
            <Pending instance={instance} open={open} />
          </p>
          <p className="muted">If the instance still runs, its next registration brings it back. “Register again” restores it as it was.</p>
        </>
      }
      act={async () => {
        await actions.deregister(instance);
        say(`${instance.id} is deregistered.`, {
          undo: {
            label: 'Register again',
            act: async () => {
              await actions.register(instance);
              await refresh();
            },
            done:
              instance.ttl_ms === null
                ? `${instance.id} is registered again.`
                : `${instance.id} is registered again, for ${Math.round(instance.ttl_ms / 1000)} s unless it sends heartbeats.`,
          },
        });
        gone();
        await refresh();
      }}
    />
  );
}
