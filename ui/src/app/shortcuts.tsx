/** Keyboard shortcuts: Ctrl K works everywhere. Single keys work outside of fields, and can be turned off. */
import { useNavigate } from '@tanstack/react-router';
import { useEffect, useRef } from 'react';
import { useStore } from '../api/store';
import { Modal } from '../parts/dialog';
import { Toggle } from '../parts/toggle';
import { prefer, preferences } from './preferences';

const GO: Record<string, string> = {
  o: '/',
  c: '/cluster',
  s: '/services',
  d: '/dependencies',
  t: '/traces',
  a: '/alerts',
  k: '/keys',
  u: '/audit',
  f: '/config',
  x: '/access',
};

const CHORD_MS = 1_200;

export function useShortcuts({ palette, help }: { palette: () => void; help: () => void }): void {
  const navigate = useNavigate();
  const { shortcuts } = useStore(preferences);
  const run = useRef({ palette, help });
  run.current = { palette, help };
  useEffect(() => {
    let going = 0;
    const press = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === 'k') {
        event.preventDefault();
        run.current.palette();
        return;
      }
      const target = event.target as HTMLElement;
      const typing = target.closest('input, textarea, select, [contenteditable], [role="dialog"], [role="alertdialog"]');
      if (!shortcuts || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (Date.now() - going < CHORD_MS && GO[event.key]) {
        going = 0;
        event.preventDefault();
        void navigate({ to: GO[event.key] as string });
      } else if (event.key === 'g') going = Date.now();
      else if (event.key === '?') run.current.help();
      else if (event.key === '/') {
        const search = document.querySelector<HTMLInputElement>('input[data-search]');
        if (search) {
          event.preventDefault();
          search.focus();
          search.select();
        }
      }
    };
    window.addEventListener('keydown', press);
    return () => window.removeEventListener('keydown', press);
  }, [navigate, shortcuts]);
}

const KEYS: readonly (readonly [string, string])[] = [
  ['Ctrl K', 'Find a service, an instance, a screen or an action'],
  ['/', 'Search on this screen'],
  ['↑ ↓ Home End', 'Move in a list; Enter opens'],
  ['g o', 'Overview'],
  ['g c', 'Cluster'],
  ['g s', 'Services'],
  ['g d', 'Dependencies'],
  ['g t', 'Traces'],
  ['g a', 'Alerts'],
  ['g k', 'Keys'],
  ['g u', 'Audit'],
  ['g f', 'Configuration'],
  ['g x', 'Access'],
  ['?', 'This list'],
];

export function Shortcuts({ open, onClose }: { open: boolean; onClose: () => void }) {
  const { shortcuts } = useStore(preferences);
  return (
    <Modal title="Keyboard" open={open} onClose={onClose}>
      <dl className="keys">
        {KEYS.map(([key, what]) => (
          <div key={key}>
            <dt>
              {key.split(' ').map((k) => (
                <kbd key={k}>{k}</kbd>
              ))}
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <Toggle
        label="Single-key shortcuts"
        hint="Turn them off if you use speech input."
        checked={shortcuts}
        onChange={(next) => prefer({ shortcuts: next })}
      />
    </Modal>
  );
}
