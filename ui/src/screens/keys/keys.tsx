/** Keys with their values, the locks that are held, and the lock sessions that hold them. */
import { Tabs } from '@base-ui/react/tabs';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Screen } from '../../parts/layout';
import { KeyList } from './key-list';
import { LockSessions } from './lock-sessions';
import { Locks } from './locks';

const TABS = [
  ['keys', 'Keys'],
  ['locks', 'Locks'],
  ['sessions', 'Lock sessions'],
] as const;

export function KeysScreen() {
  const search = useSearch({ from: '/keys' });
  const navigate = useNavigate();
  const tab = TABS.some(([value]) => value === search.tab) ? (search.tab as string) : 'keys';
  return (
    <Screen title="Keys" fill>
      <Tabs.Root
        className="tabs"
        value={tab}
        onValueChange={(next) => void navigate({ to: '/keys', search: { tab: next === 'keys' ? undefined : String(next) } })}
      >
        <Tabs.List className="tab-list" aria-label="Parts of this screen">
          {TABS.map(([value, text]) => (
            <Tabs.Tab key={value} value={value} className="tab">
              {text}
            </Tabs.Tab>
          ))}
        </Tabs.List>
        <Tabs.Panel value="keys" className="tab-panel fill">
          <KeyList />
        </Tabs.Panel>
        <Tabs.Panel value="locks" className="tab-panel fill">
          <Locks />
        </Tabs.Panel>
        <Tabs.Panel value="sessions" className="tab-panel fill">
          <LockSessions />
        </Tabs.Panel>
      </Tabs.Root>
    </Screen>
  );
}
