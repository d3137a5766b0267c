/** The search, the state of the connection, and the menu of the signed-in user. */
import { Menu } from '@base-ui/react/menu';
import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { signOut } from '../api/actions';
import { connection, stalenessOf } from '../api/connection';
import { clusterQuery } from '../api/queries';
import { session } from '../api/session';
import { useStore } from '../api/store';
import { Button } from '../parts/button';
import { duration, plural } from '../parts/format';
import { Icon } from '../parts/icons';
import { Mark, type Tone } from '../parts/status';
import { useOwnNow } from '../parts/time';
import { OwnPassword } from './own-password';
import { prefer, preferences, type Theme } from './preferences';
import { providerOf } from './providers';

export function TopBar(props: { openMenu: () => void; openPalette: () => void; openHelp: () => void }) {
  const apple = /Mac|iPhone|iPad/.test(navigator.platform);
  return (
    <header className="topbar">
      <Button kind="quiet" icon="menu" className="menu-button" aria-label="Screens" onClick={props.openMenu} />
      <button type="button" className="palette-button" onClick={props.openPalette}>
        <Icon name="search" />
        <span className="palette-hint">Find a service, an instance, an address</span>
        <kbd>{apple ? '⌘K' : 'Ctrl K'}</kbd>
      </button>
      <Link />
      <Person openHelp={props.openHelp} />
    </header>
  );
}

/** Shows whether the data on the page is live, and from which node it comes. */
function Link() {
  const link = useStore(connection);
  const now = useOwnNow();
  const { data } = useQuery(clusterQuery());
  const stale = stalenessOf(link, now);
  let tone: Tone = 'good';
  let text = 'Live';
  if (stale.kind === 'lost') [tone, text] = ['bad', `Lost ${duration(stale.ageMs)} ago`];
  else if (stale.kind === 'no-leader' || (data && data.leadership.leader === null)) [tone, text] = ['warn', 'No leader'];
  else if (stale.kind === 'behind') [tone, text] = ['warn', `${duration(stale.ageMs)} behind`];
  else if (stale.kind === 'unknown') [tone, text] = ['warn', 'Age unknown'];
  else if (stale.kind === 'partly') [tone, text] = ['warn', 'Partly live'];
  else if (link.stream !== 'live') [tone, text] = ['muted', 'Connecting'];
  const node = link.base ? new URL(link.base).host : (data?.node ?? location.host);
  return (
    <div className="link-state" title={stale.kind === 'partly' ? `${plural(stale.failedReads, 'read')} failed or ${stale.failedReads === 1 ? 'is' : 'are'} late. What failed is dimmed, and shows an earlier answer.` : `From ${node} at index ${link.index}`}>
      <span className={`status tone-${tone}`}>
        <Mark tone={tone} size={11} />
        <span>{text}</span>
      </span>
      <span className="link-node mono">
        <span className="sr">served by </span>
        {node}
      </span>
    </div>
  );
}

const THEMES: readonly { value: Theme; label: string }[] = [
  { value: 'system', label: 'Same as the system' },
  { value: 'light', label: 'Light' },
  { value: 'dark', label: 'Dark' },
];

const signOutAt = (provider: string) => `/api/v1/session/providers/${encodeURIComponent(provider)}/sign-out`;

function Person({ openHelp }: { openHelp: () => void }) {
  const state = useStore(session);
  const { theme } = useStore(preferences);
  const [changing, setChanging] = useState(false);
  if (state.phase !== 'signed-in' && state.phase !== 'expired') return null;
  const { user, role } = state.me;
  const provider = providerOf(user);
  return (
    <>
    <Menu.Root>
      <Menu.Trigger className="button quiet person" aria-label={`${user}, ${role}: menu`}>
        <Icon name="user" />
        <span className="person-name">{user}</span>
        <Icon name="down" size={12} />
      </Menu.Trigger>
      <Menu.Portal>
        <Menu.Positioner className="layer" sideOffset={6} align="end">
          <Menu.Popup className="menu">
            <div className="menu-head">
              <strong>{user}</strong>
              <span className="muted">{role}</span>
            </div>
            <Menu.RadioGroup value={theme} onValueChange={(value: Theme) => prefer({ theme: value })}>
              <Menu.Group>
                <Menu.GroupLabel className="menu-label">Theme</Menu.GroupLabel>
                {THEMES.map((t) => (
                  <Menu.RadioItem key={t.value} value={t.value} className="menu-item" closeOnClick={false}>
                    <span className="menu-mark">
                      <Menu.RadioItemIndicator>
                        <Icon name="check" size={14} />
                      </Menu.RadioItemIndicator>
                    </span>
                    {t.label}
                  </Menu.RadioItem>
                ))}
              </Menu.Group>
            </Menu.RadioGroup>
            <Menu.Separator className="menu-line" />
            <Menu.Item className="menu-item" onClick={openHelp}>
              <span className="menu-mark" />
              Keyboard shortcuts
            </Menu.Item>
            {provider ? null : (
              <Menu.Item className="menu-item" onClick={() => setChanging(true)}>
                <span className="menu-mark" />
                Change password…
              </Menu.Item>
            )}
            <Menu.Item className="menu-item" onClick={() => window.open('/api/docs', '_blank', 'noopener')}>
              <span className="menu-mark" />
              API description
            </Menu.Item>
            <Menu.Separator className="menu-line" />
            <Menu.Item className="menu-item" onClick={() => void signOut().catch(() => undefined)}>
              <span className="menu-mark" />
              Sign out
            </Menu.Item>
            {provider ? (
              <Menu.Item className="menu-item" onClick={() => void signOut().then(() => location.assign(signOutAt(provider)), () => undefined)}>
                <span className="menu-mark" />
                Sign out here and at {provider}
              </Menu.Item>
            ) : null}
          </Menu.Popup>
        </Menu.Positioner>
      </Menu.Portal>
    </Menu.Root>
    <OwnPassword user={user} open={changing} onClose={() => setChanging(false)} />
    </>
  );
}
