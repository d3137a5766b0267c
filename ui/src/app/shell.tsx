/** The frame around every screen: navigation, top bar, banner, palette. */
import { useQuery } from '@tanstack/react-query';
import { Link, Outlet, useLocation } from '@tanstack/react-router';
import { useEffect, useRef, useState } from 'react';
import { alertsQuery, clusterQuery, isOpen } from '../api/queries';
import { Modal } from '../parts/dialog';
import { groupsOf } from '../screens/alerts/groups';
import { Icon, Logo } from '../parts/icons';
import { useScrollMemory } from '../parts/scroll';
import { Banner } from './banner';
import { PLACES } from './nav';
import { Palette } from './palette';
import { Shortcuts, useShortcuts } from './shortcuts';
import { TopBar } from './topbar';

export function Shell() {
  const [menu, setMenu] = useState(false);
  const [palette, setPalette] = useState(false);
  const [help, setHelp] = useState(false);
  const place = useLocation({ select: (l) => l.pathname });
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);
  const scroll = useScrollMemory('main');
  useShortcuts({ palette: () => setPalette(true), help: () => setHelp(true) });
  useTitle(place);

  useEffect(() => {
    setMenu(false);
    // A new screen begins at its top, also for a screen reader.
    if (first.current) first.current = false;
    else main.current?.focus({ preventScroll: true, focusVisible: false });
    // After Back, it continues where the user was.
    main.current?.scrollTo(0, scroll.saved());
  }, [place, scroll.saved]);

  return (
    <div className="shell">
      <a
        className="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        Skip to content
      </a>
      <aside className="side">
        <Link to="/" className="brand">
          <Logo />
          <span>Maxine</span>
        </Link>
        <Nav />
        <ClusterFoot />
      </aside>
      <div className="column">
        <TopBar openMenu={() => setMenu(true)} openPalette={() => setPalette(true)} openHelp={() => setHelp(true)} />
        <Banner />
        {/* It can take the focus, because it scrolls and a screen may have no other element with focus. */}
        <main className="main" id="main" ref={main} tabIndex={0} onScroll={(event) => scroll.save(event.currentTarget.scrollTop)}>
          <Outlet />
        </main>
      </div>
      <Modal title="Go to" open={menu} onClose={() => setMenu(false)}>
        <Nav />
      </Modal>
      <Palette open={palette} onClose={() => setPalette(false)} />
      <Shortcuts open={help} onClose={() => setHelp(false)} />
    </div>
  );
}

function Nav() {
  const alerts = useQuery(alertsQuery());
  const open = groupsOf((alerts.data?.items ?? []).filter((a) => isOpen(a) && !a.silenced)).length;
  return (
    <nav className="nav" aria-label="Screens">
      {PLACES.map((p) => (
        <Link key={p.to} to={p.to} activeOptions={{ exact: p.to === '/' }} className="nav-link">
          <Icon name={p.icon} />
          <span>{p.name}</span>
          {p.to === '/alerts' && open > 0 ? (
            <span className="nav-n num">
              {open}
              <span className="sr"> open</span>
            </span>
          ) : null}
        </Link>
      ))}
    </nav>
  );
}

function ClusterFoot() {
  const { data } = useQuery(clusterQuery());
  if (!data) return null;
  return (
    <div className="side-foot">
      <span className="mono">{data.node}</span>
      <span className="muted">
        {data.backend} · {data.version}
      </span>
    </div>
  );
}

function useTitle(place: string): void {
  useEffect(() => {
    const [, screen, , service] = place.split('/');
    const known = PLACES.find((p) => p.to === `/${screen ?? ''}`)?.name ?? 'Maxine';
    document.title = `${service ? readable(service) : known} · Maxine`;
  }, [place]);
}

function readable(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
