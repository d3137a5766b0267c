/** A table that shows all its rows. In a narrow window it scrolls sideways. */
import type { ReactNode } from 'react';

interface PlainColumn {
  name: string;
  /** The classes of the column's head. */
  className?: string;
  /** The name is only for screen readers. */
  hidden?: boolean;
}

/** A column of numbers, which end at the same edge. */
export const end = (name: string): PlainColumn => ({ name, className: 'end' });

/** The column of the buttons. */
export const ACTIONS: PlainColumn = { name: 'Actions', hidden: true };

export function PlainTable({
  label,
  columns,
  className,
  children,
}: {
  label: string;
  columns: readonly (string | PlainColumn)[];
  className?: string;
  /** The rows. */
  children: ReactNode;
}) {
  return (
    <div className={className ? `scroll-x ${className}` : 'scroll-x'} role="region" aria-label={label} tabIndex={0}>
      <table className="plain">
        <thead>
          <tr>
            {columns.map((column) => {
              const { name, className: classes, hidden }: PlainColumn = typeof column === 'string' ? { name: column } : column;
              return (
                <th key={name} scope="col" className={classes}>
                  {hidden ? <span className="sr">{name}</span> : name}
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}
