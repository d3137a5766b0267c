/**
 * A virtualised grid: only the visible rows are in the document, so 50,000 rows scroll like 50.
 * Arrow keys, Home, End and Page keys move between rows; Enter opens one.
 */
import { useVirtualizer } from '@tanstack/react-virtual';
import { memo, useEffect, useMemo, useRef, useState, type KeyboardEvent, type ReactNode } from 'react';
import { useWidth } from './layout';
import { useScrollMemory } from './scroll';

export interface Column<T> {
  key: string;
  head: ReactNode;
  /** A CSS grid track. A fixed width must leave room for increased text spacing. */
  track: string;
  /** Hidden if the table is narrower than this many pixels. */
  from?: number;
  end?: boolean;
  cell: (row: T) => ReactNode;
}

export interface TableProps<T> {
  label: string;
  rows: readonly T[];
  columns: readonly Column<T>[];
  rowKey: (row: T) => string;
  /** Called when Enter is pressed on a row, or a row is clicked. */
  open?: (row: T) => void;
  selected?: string | null;
  rowHeight?: number;
  /** Total number of rows, if not all of them are loaded. */
  total?: number;
  nearEnd?: () => void;
  empty?: ReactNode;
  foot?: ReactNode;
}

export function Table<T>(props: TableProps<T>) {
  const { rows, columns, rowKey, open, selected, rowHeight = 38, nearEnd } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const width = useWidth(scroller);
  const [active, setActive] = useState(0);
  const focusNext = useRef(false);
  const shown = useMemo(() => columns.filter((c) => !c.from || width === 0 || width >= c.from), [columns, width]);
  const { saved, save } = useScrollMemory(props.label);
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => rowHeight,
    overscan: 12,
    initialOffset: saved,
    getItemKey: (i) => rowKey(rows[i] as T),
  });
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;
  useEffect(() => {
    if (rows.length > 0 && last >= rows.length - 30) nearEnd?.();
  }, [last, rows.length, nearEnd]);
  const at = Math.min(active, Math.max(0, rows.length - 1));
  useEffect(() => {
    if (!focusNext.current) return;
    const row = scroller.current?.querySelector<HTMLElement>(`[data-row="${at}"]`);
    if (row) {
      focusNext.current = false;
      row.focus({ preventScroll: true });
    }
  });

  const move = (event: KeyboardEvent<HTMLDivElement>) => {
    const step = Math.max(1, Math.floor((scroller.current?.clientHeight ?? 300) / rowHeight) - 2);
    const to: Record<string, number> = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      PageDown: at + step,
      PageUp: at - step,
      Home: 0,
      End: rows.length - 1,
    };
    const target = event.target as HTMLElement;
    if (target.closest('button, a, input, select') && target.dataset.row === undefined) return;
    if (event.key === 'Enter' && rows[at] !== undefined && open) {
      event.preventDefault();
      open(rows[at]);
      return;
    }
    const next = to[event.key];
    if (next === undefined || rows.length === 0) return;
    event.preventDefault();
    const clamped = Math.min(rows.length - 1, Math.max(0, next));
    focusNext.current = true;
    setActive(clamped);
    virtual.scrollToIndex(clamped);
  };

  const tracks = shown.map((c) => c.track).join(' ');
  return (
    <div
      className="table"
      role="grid"
      aria-label={props.label}
      aria-rowcount={(props.total ?? rows.length) + 1}
      aria-colcount={shown.length}
      onKeyDown={move}
    >
      <div className="table-scroll" ref={scroller} role="presentation" onScroll={(event) => save(event.currentTarget.scrollTop)}>
        <div className="table-head" role="rowgroup">
          <div className="table-row" role="row" aria-rowindex={1} style={{ gridTemplateColumns: tracks }}>
            {shown.map((c) => (
              <div key={c.key} role="columnheader" className={c.end ? 'cell end' : 'cell'}>
                {c.head}
              </div>
            ))}
          </div>
        </div>
        {rows.length === 0 ? (
          <div role="rowgroup" className="table-empty">
            <div role="row">
              <div role="gridcell">{props.empty ?? 'Nothing here.'}</div>
            </div>
          </div>
        ) : (
          <div className="table-body" role="rowgroup" style={{ height: virtual.getTotalSize() }}>
            {items.map((item) => {
              const row = rows[item.index] as T;
              const key = rowKey(row);
              const first = item === items[0] && !items.some((i) => i.index === at);
              return (
                <Row
                  key={item.key}
                  row={row}
                  index={item.index}
                  start={item.start}
                  height={rowHeight}
                  tracks={tracks}
                  columns={shown}
                  selected={selected === undefined ? undefined : selected === key}
                  reached={item.index === at || first}
                  open={open}
                  onReach={setActive}
                />
              );
            })}
          </div>
        )}
      </div>
      {props.foot ? <div className="table-foot">{props.foot}</div> : null}
    </div>
  );
}

interface RowProps<T> {
  row: T;
  index: number;
  start: number;
  height: number;
  tracks: string;
  columns: readonly Column<T>[];
  selected: boolean | undefined;
  /** Whether Tab reaches this row. Only one row has this set. */
  reached: boolean;
  open: ((row: T) => void) | undefined;
  onReach: (index: number) => void;
}

function PlainRow<T>({ row, index, start, height, tracks, columns, selected, reached, open, onReach }: RowProps<T>) {
  return (
    <div
      data-row={index}
      role="row"
      aria-rowindex={index + 2}
      aria-selected={selected}
      tabIndex={reached ? 0 : -1}
      className={`table-row body${open ? ' opens' : ''}`}
      style={{ gridTemplateColumns: tracks, height, transform: `translateY(${start}px)` }}
      onFocus={() => onReach(index)}
      onClick={(event) => {
        if (!(event.target as HTMLElement).closest('a, button')) open?.(row);
      }}
    >
      {columns.map((c) => (
        <div key={c.key} role="gridcell" className={c.end ? 'cell end' : 'cell'}>
          {c.cell(row)}
        </div>
      ))}
    </div>
  );
}

/** Scrolling renders only rows that become visible. Rows that stay visible are not rendered again. */
const Row = memo(PlainRow) as typeof PlainRow;
