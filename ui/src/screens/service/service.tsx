/** One service: its instances, how it is called, its policy. */
import { useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useParams, useSearch } from '@tanstack/react-router';
import { Tabs } from '@base-ui/react/tabs';
import { useState } from 'react';
import { removeService } from '../../api/actions';
import { stateOfService } from '../../api/calls';
import { callsQuery, serviceQuery } from '../../api/queries';
import type { Service } from '../../api/types';
import { RoleButton } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { plural } from '../../parts/format';
import { Screen } from '../../parts/layout';
import { Empty, Loaded } from '../../parts/states';
import { ServiceStatus } from '../../parts/status';
import { say } from '../../parts/toast';
import { Problem } from '../../api/problem';
import { Instances } from './instances';
import { PolicyTab } from './policy-tab';
import { ServiceTraffic } from './service-traffic';

const TABS = [
  ['instances', 'Instances'],
  ['traffic', 'Traffic'],
  ['policy', 'Policy'],
] as const;

export function ServiceScreen() {
  const { namespace, service } = useParams({ from: '/services/$namespace/$service' });
  const search = useSearch({ from: '/services/$namespace/$service' });
  const navigate = useNavigate();
  const query = useQuery(serviceQuery(namespace, service));
  const calls = useQuery(callsQuery());
  const gone = query.error instanceof Problem && query.error.status === 404;
  const tab = TABS.some(([value]) => value === search.tab) ? (search.tab as string) : 'instances';
  return (
    <Screen
      fill={tab === 'instances'}
      title={
        <span className="crumbs">
          <Link to="/services">Services</Link>
          <span className="muted" aria-hidden="true">
            /
          </span>
          <span className="muted">{namespace}</span>
          <span className="muted" aria-hidden="true">
            /
          </span>
          <span className="crumb-name">{service}</span>
        </span>
      }
      status={query.data && !gone ? <ServiceStatus health={stateOfService(query.data, calls.data?.of)} badge /> : null}
      actions={query.data && !gone ? <Remove service={query.data} /> : null}
    >
      {gone ? (
        <Empty title="No such service." action={<Link to="/services">All services</Link>}>
          Its last instance was removed, or it never had one. It appears here when an instance registers.
        </Empty>
      ) : (
        <Loaded query={query} what={service} rows={10}>
          {(data) => (
            <Tabs.Root
              className="tabs"
              value={tab}
              onValueChange={(next) =>
                void navigate({
                  to: '/services/$namespace/$service',
                  params: { namespace, service },
                  search: { tab: next === 'instances' ? undefined : String(next) },
                })
              }
            >
              <Tabs.List className="tab-list" aria-label="Parts of the service">
                {TABS.map(([value, text]) => (
                  <Tabs.Tab key={value} value={value} className="tab">
                    {text}
                    {value === 'instances' ? <span className="num muted"> {data.instances}</span> : null}
                  </Tabs.Tab>
                ))}
              </Tabs.List>
              <Tabs.Panel value="instances" className="tab-panel fill">
                <Instances service={data} />
              </Tabs.Panel>
              <Tabs.Panel value="traffic" className="tab-panel">
                <ServiceTraffic service={data} />
              </Tabs.Panel>
              <Tabs.Panel value="policy" className="tab-panel">
                <PolicyTab service={data} revision={search.rev === undefined ? null : Number(search.rev)} />
              </Tabs.Panel>
            </Tabs.Root>
          )}
        </Loaded>
      )}
    </Screen>
  );
}

function Remove({ service }: { service: Service }) {
  const [open, setOpen] = useState(false);
  const navigate = useNavigate();
  return (
    <>
      <RoleButton needs="operator" kind="danger" onClick={() => setOpen(true)}>
        Remove service
      </RoleButton>
      <Confirm
        open={open}
        onClose={() => setOpen(false)}
        title={`Remove ${service.name}?`}
        danger
        verb={`Remove ${plural(service.instances, 'instance')}`}
        typed={service.name}
        effect={
          <>
            <p>
              All {plural(service.instances, 'instance')} of <b>{service.namespace}/{service.name}</b>, their drains and
              the policy are removed. Callers get “unavailable” immediately.
            </p>
            <p>Instances that still send heartbeats register again; the policy does not return. This cannot be undone.</p>
          </>
        }
        act={async () => {
          const { data } = await removeService(service.namespace, service.name);
          say(`${service.name} was removed with ${plural(data.removed, 'instance')}.`);
          void navigate({ to: '/services' });
        }}
      />
    </>
  );
}
