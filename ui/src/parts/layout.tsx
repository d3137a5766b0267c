/** Layout: headings, panels, figures and key-value lists, and the width of an element. */
import { useEffect, useState, type ReactNode, type RefObject } from 'react';

export function useWidth(ref: RefObject<HTMLElement | null>): number {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const element = ref.current;
    if (!element || typeof ResizeObserver === 'undefined') return;
    const observer = new ResizeObserver((entries) => setWidth(Math.round(entries[0]?.contentRect.width ?? 0)));
    observer.observe(element);
    return () => observer.disconnect();
  }, [ref]);
  return width;
}

export function Screen({
  title,
  status,
  actions,
  intro,
  fill,
  children,
}: {
  title: ReactNode;
  status?: ReactNode;
  actions?: ReactNode;
  intro?: ReactNode;
  /** The content takes the rest of the window's height and scrolls itself. */
  fill?: boolean;
  children: ReactNode;
}) {
  return (
    <div className={fill ? 'screen fill' : 'screen'}>
      <header className="screen-head">
        <div className="screen-title">
          <h1>{title}</h1>
          {status}
        </div>
        {actions ? <div className="actions">{actions}</div> : null}
      </header>
      {intro ? <p className="screen-intro">{intro}</p> : null}
      {children}
    </div>
  );
}

export function Panel({
  title,
  aside,
  children,
  className,
  flush,
}: {
  title: ReactNode;
  aside?: ReactNode;
  children: ReactNode;
  className?: string;
  flush?: boolean;
}) {
  return (
    <section className={`panel${flush ? ' flush' : ''}${className ? ` ${className}` : ''}`}>
      <header className="panel-head">
        <h2>{title}</h2>
        {aside ? <div className="panel-aside">{aside}</div> : null}
      </header>
      <div className="panel-body">{children}</div>
    </section>
  );
}

export function Figure({ label, value, unit, note }: { label: string; value: ReactNode; unit?: string; note?: ReactNode }) {
  return (
    <div className="figure">
      <dt>{label}</dt>
      <dd>
        <span className="figure-value">{value}</span>
        {unit ? <span className="figure-unit"> {unit}</span> : null}
        {note ? <div className="figure-note">{note}</div> : null}
      </dd>
    </div>
  );
}

export function Facts({ items }: { items: readonly (readonly [string, ReactNode])[] }) {
  return (
    <dl className="facts">
      {items.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
