/** Access: users, API tokens, the keys that sign sessions, and who may do what. All but the last are for admins. */
import { Tabs } from '@base-ui/react/tabs';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { session } from '../../api/session';
import { useStore } from '../../api/store';
import { useDenied } from '../../parts/button';
import { Screen } from '../../parts/layout';
import { Empty } from '../../parts/states';
import { Keys } from './keys';
import { Tokens } from './tokens';
import { Users } from './users';
import { WhoMay } from './who-may';

const TABS = [
  ['users', 'Users'],
  ['tokens', 'API tokens'],
  ['keys', 'Signing keys'],
  ['rights', 'Who may?'],
] as const;

export function AccessScreen() {
  const search = useSearch({ from: '/access' });
  const navigate = useNavigate();
  const denied = useDenied('admin');
  const state = useStore(session);
  const me = state.phase === 'signed-in' || state.phase === 'expired' ? state.me : null;
  const tab = TABS.some(([value]) => value === search.tab) ? (search.tab as string) : 'users';
  return (
    <Screen title="Access">
      {denied ? (
        <>
          <Empty title="Only admins see users, tokens and keys.">
            {me ? (
              <p>
                You are <b>{me.user}</b>, {me.role}. {ROLE_MAY[me.role]}
              </p>
            ) : null}
          </Empty>
          <WhoMay named={false} />
        </>
      ) : (
        <Tabs.Root
          className="tabs"
          value={tab}
          onValueChange={(next) =>
            void navigate({ to: '/access', search: { tab: next === 'users' ? undefined : String(next) } })
          }
        >
          <Tabs.List className="tab-list" aria-label="Parts of access">
            {TABS.map(([value, text]) => (
              <Tabs.Tab key={value} value={value} className="tab">
                {text}
              </Tabs.Tab>
            ))}
          </Tabs.List>
          <Tabs.Panel value="users" className="tab-panel">
            <Users me={me?.user ?? ''} />
          </Tabs.Panel>
          <Tabs.Panel value="tokens" className="tab-panel">
            <Tokens />
          </Tabs.Panel>
          <Tabs.Panel value="keys" className="tab-panel">
            <Keys />
          </Tabs.Panel>
          <Tabs.Panel value="rights" className="tab-panel">
            <WhoMay named />
          </Tabs.Panel>
        </Tabs.Root>
      )}
    </Screen>
  );
}

export const ROLE_MAY = {
  viewer: 'A viewer sees everything but secrets, and changes nothing.',
  operator: 'An operator may also drain, deregister, change policies, configuration and keys, and handle alerts.',
  admin: 'An admin may also change the cluster, its users, tokens and keys.',
} as const;
