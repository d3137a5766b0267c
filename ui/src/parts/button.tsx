/**
 * Buttons. A button that the role may not use stays visible and focusable. It gives the reason in a
 * tooltip and to screen readers, and does nothing.
 */
import { Tooltip } from '@base-ui/react/tooltip';
import { useId, type ComponentPropsWithRef, type ReactElement, type ReactNode } from 'react';
import { mayAct, session } from '../api/session';
import { useStore } from '../api/store';
import type { Role } from '../api/types';
import { Icon, type IconName } from './icons';

export interface ButtonProps extends Omit<ComponentPropsWithRef<'button'>, 'children'> {
  children?: ReactNode;
  kind?: 'plain' | 'primary' | 'danger' | 'quiet';
  icon?: IconName;
  /** Why the button cannot be used now, which is shown instead of the action. Null if it can be used. */
  reason?: string | null | undefined;
  busy?: boolean;
}

export function Button({ kind = 'plain', icon, reason, busy, children, className, onClick, ...rest }: ButtonProps) {
  const id = useId();
  const off = Boolean(reason) || busy === true;
  const classes = `button ${kind}${children === undefined ? ' only-icon' : ''}${className ? ` ${className}` : ''}`;
  const button = (
    <button
      type="button"
      {...rest}
      className={classes}
      aria-disabled={off || undefined}
      aria-busy={busy || undefined}
      aria-describedby={reason ? id : rest['aria-describedby']}
      onClick={off ? (event) => event.preventDefault() : onClick}
    >
      {busy ? <span className="spinner" aria-hidden="true" /> : icon ? <Icon name={icon} /> : null}
      {children}
    </button>
  );
  // With null the same elements are rendered, so that a focused button keeps the focus when its reason disappears.
  if (reason === undefined) return button;
  return (
    <>
      <Tip text={reason}>{button}</Tip>
      {reason ? (
        <span id={id} className="sr">
          {reason}
        </span>
      ) : null}
    </>
  );
}

export function Tip({ text, children }: { text: string | null; children: ReactElement }) {
  return (
    <Tooltip.Root disabled={text === null}>
      <Tooltip.Trigger render={children as ReactElement<Record<string, unknown>>} delay={250} />
      <Tooltip.Portal>
        <Tooltip.Positioner sideOffset={6} className="layer-tip">
          <Tooltip.Popup className="tip">{text}</Tooltip.Popup>
        </Tooltip.Positioner>
      </Tooltip.Portal>
    </Tooltip.Root>
  );
}

/** Why the signed-in role may not do what needs `role`; null if it may. */
export function useDenied(role: Role): string | null {
  const state = useStore(session);
  if (state.phase !== 'signed-in' && state.phase !== 'expired') return 'Sign in first.';
  if (mayAct(state.me.role, role)) return null;
  return `Needs the role ${role}; you are signed in as ${state.me.role}.`;
}

/** A button that needs a role. */
export function RoleButton({ needs, reason, ...rest }: ButtonProps & { needs: Role }) {
  const denied = useDenied(needs);
  return <Button {...rest} reason={denied ?? reason ?? null} />;
}
