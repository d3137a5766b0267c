/** The command palette: screens, services and actions by a few typed letters. */
import { Dialog } from '@base-ui/react/dialog';
import { keepPreviousData, queryOptions, useQuery } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useDeferredValue, useEffect, useId, useMemo, useRef, useState, type KeyboardEvent } from 'react';
import { signOut } from '../api/actions';
import { byUrgency, stateOfService, type ServiceState } from '../api/calls';
import { callsQuery, servicesQuery } from '../api/queries';
import { stateOf, usedInPanic } from '../api/instances';
import type { Instance, Page, ServiceSummary } from '../api/types';
import { Icon, type IconName } from '../parts/icons';
import { mayAct, session } from '../api/session';
import { call } from '../api/client';
import { useStore } from '../api/store';
import { InstanceStatus, ServiceStatus } from '../parts/status';
import { PLACES } from './nav';
import { prefer } from './preferences';

interface Entry {
  id: string;
  name: string;
  group: 'Services' | 'Instances' | 'Screens' | 'Actions';
  icon: IconName;
  words: string;
  service?: ServiceSummary;
  state?: ServiceState;
  instance?: Instance;
  run: () => void;
}

const SERVICES_MAX = 12;
const INSTANCES_MAX = 8;
/** A shorter text would be in nearly every address. */
const INSTANCE_TEXT_MIN = 2;

/** Instances of all services by id, address, tag, zone, version or node. The server searches. */
const instanceSearch = (q: string) =>
  queryOptions({
    queryKey: ['instance-search', q] as const,
    queryFn: async ({ signal }) => (await call<Page<Instance>>('/instances', { signal, query: { q, limit: INSTANCES_MAX } })).data.items,
    enabled: q.length >= INSTANCE_TEXT_MIN,
    placeholderData: keepPreviousData,
  });

export function Palette({ open, onClose }: { open: boolean; onClose: () => void }) {
  return (
    <Dialog.Root open={open} onOpenChange={(next) => !next && onClose()}>
      <Dialog.Portal>
        <Dialog.Backdrop className="backdrop" />
        <Dialog.Popup className="palette">
          <Dialog.Title className="sr">Find a service, an instance, a screen or an action</Dialog.Title>
          <Finder onClose={onClose} />
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

/** Whether `text` contains every typed word. */
export function fits(text: string, typed: string): boolean {
  const low = text.toLowerCase();
  return typed
    .toLowerCase()
    .split(/\s+/)
    .every((word) => low.includes(word));
}

function Finder({ onClose }: { onClose: () => void }) {
  const [typed, setTyped] = useState('');
  const [at, setAt] = useState(0);
  const list = useRef<HTMLDivElement>(null);
  const id = useId();
  const entries = useEntries(useDeferredValue(typed.trim()));
  const active = Math.min(at, Math.max(0, entries.length - 1));
  useEffect(() => {
    list.current?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: 'nearest' });
  }, [active]);
  const choose = (entry: Entry | undefined) => {
    if (!entry) return;
    onClose();
    entry.run();
  };
  const press = (event: KeyboardEvent) => {
    const step: Record<string, number> = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in step && entries.length > 0) {
      event.preventDefault();
      setAt((active + (step[event.key] ?? 0) + entries.length) % entries.length);
    } else if (event.key === 'Enter') {
      event.preventDefault();
      choose(entries[active]);
    }
  };
  return (
    <>
      <div className="palette-field">
        <Icon name="search" />
        <input
          role="combobox"
          aria-label="Find"
          aria-expanded="true"
          aria-controls={`${id}-list`}
          aria-activedescendant={entries[active] ? `${id}-${active}` : undefined}
          aria-autocomplete="list"
          placeholder="Service, instance, address, tag, zone, screen or action"
          value={typed}
          spellCheck={false}
          autoComplete="off"
          maxLength={255}
          autoFocus
          onChange={(event) => {
            setTyped(event.target.value);
            setAt(0);
          }}
          onKeyDown={press}
        />
        <kbd>Esc</kbd>
      </div>
      <div className="palette-list" role="listbox" id={`${id}-list`} aria-label="Found" ref={list} tabIndex={-1}>
        {entries.map((entry, i) => (
          <div key={entry.id} role="presentation">
            {entries[i - 1]?.group !== entry.group ? (
              <div className="palette-group" role="presentation">
                {entry.group}
              </div>
            ) : null}
            <div
              role="option"
              id={`${id}-${i}`}
              aria-selected={i === active}
              className="palette-item"
              onClick={() => choose(entry)}
              onPointerMove={() => setAt(i)}
            >
              <Icon name={entry.icon} />
              <span className="palette-name">{entry.name}</span>
              {entry.service && entry.state ? (
                <>
                  <span className="muted">{entry.service.namespace}</span>
                  <ServiceStatus health={entry.state} />
                </>
              ) : null}
              {entry.instance ? (
                <>
                  <span className="muted clip">
                    {entry.instance.service} · {entry.instance.address}
                    {entry.instance.zone === null ? '' : ` · ${entry.instance.zone}`}
                  </span>
                  <InstanceStatus state={stateOf(entry.instance)} used={usedInPanic(entry.instance)} />
                </>
              ) : null}
            </div>
          </div>
        ))}
      </div>
      <div className={entries.length ? 'sr' : 'palette-none'} role="status">
        {entries.length ? `${entries.length} found` : 'Nothing found.'}
      </div>
    </>
  );
}

function useEntries(typed: string): Entry[] {
  const navigate = useNavigate();
  const all = useQuery(servicesQuery());
  const of = useQuery(callsQuery()).data?.of;
  // If the cluster has more services than the page loads, the server searches.
  const found = useQuery({ ...servicesQuery({ q: typed }), enabled: typed !== '' && all.data?.complete === false });
  const matching = useQuery(instanceSearch(typed));
  const state = useStore(session);
  const role = state.phase === 'signed-in' || state.phase === 'expired' ? state.me.role : undefined;
  return useMemo(() => {
    const source = (all.data?.complete === false && typed ? found.data?.items : all.data?.items) ?? [];
    const services = source
      .filter((s) => fits(`${s.namespace}/${s.name}`, typed))
      .sort(byUrgency(of))
      .slice(0, typed ? SERVICES_MAX : 5)
      .map(
        (s): Entry => ({
          id: `s:${s.namespace}/${s.name}`,
          name: s.name,
          group: 'Services',
          icon: 'services',
          words: '',
          service: s,
          state: stateOfService(s, of),
          run: () =>
            void navigate({
              to: '/services/$namespace/$service',
              params: { namespace: s.namespace, service: s.name },
              search: {},
            }),
        }),
      );
    const instances = (typed.length < INSTANCE_TEXT_MIN ? [] : (matching.data ?? [])).map(
      (i): Entry => ({
        id: `i:${i.namespace}/${i.service}/${i.id}`,
        name: i.id,
        group: 'Instances',
        icon: 'services',
        words: '',
        instance: i,
        run: () =>
          void navigate({
            to: '/services/$namespace/$service',
            params: { namespace: i.namespace, service: i.service },
            search: { instance: i.id },
          }),
      }),
    );
    const screens = PLACES.map(
      (p): Entry => ({ id: p.to, name: p.name, group: 'Screens', icon: p.icon, words: p.words, run: () => void navigate({ to: p.to }) }),
    );
    const act = (name: string, icon: IconName, words: string, run: () => void): Entry => ({
      id: name,
      name,
      group: 'Actions',
      icon,
      words,
      run,
    });
    const actions = [
      act('Show unhealthy services', 'services', 'down degraded failing', () =>
        void navigate({ to: '/services', search: { health: 'bad' } })),
      ...(mayAct(role, 'operator')
        ? [act('Drain or return an instance', 'pause', 'maintenance', () => void navigate({ to: '/services', search: {} }))]
        : []),
      ...(mayAct(role, 'admin')
        ? [
            act('Take a backup', 'download', 'snapshot', () => void navigate({ to: '/cluster' })),
            act('Transfer leadership', 'cluster', 'leader', () => void navigate({ to: '/cluster' })),
            act('Create an API token', 'access', '', () => void navigate({ to: '/access', search: { tab: 'tokens' } })),
          ]
        : []),
      act('Theme: light', 'theme', 'appearance', () => prefer({ theme: 'light' })),
      act('Theme: dark', 'theme', 'appearance', () => prefer({ theme: 'dark' })),
      act('Theme: as the system', 'theme', 'appearance', () => prefer({ theme: 'system' })),
      act('Sign out', 'user', 'log out leave', () => void signOut().catch(() => undefined)),
    ];
    const rest = [...screens, ...actions].filter((e) => fits(`${e.name} ${e.words}`, typed));
    return typed ? [...services, ...instances, ...rest] : [...rest.slice(0, PLACES.length), ...services, ...actions];
  }, [all.data, found.data, matching.data, of, role, typed, navigate]);
}
