/** The policy as JSON, with the names and values that can be typed next. */
import { useId, useLayoutEffect, useRef, useState, type KeyboardEvent } from 'react';
import { AreaField } from '../../parts/field';
import { plural } from '../../parts/format';
import { completionsAt, type Completion, type Completions } from './policy-completion';

/** More suggestions than this are not listed. */
const LISTED_MAX = 12;

export function PolicyJson(props: {
  value: string;
  onChange: (next: string) => void;
  readOnly: boolean;
  error: string | null;
  /** The versions of the registered instances. */
  versions: readonly string[];
}) {
  const { value, onChange, readOnly, error, versions } = props;
  const id = useId();
  const area = useRef<HTMLTextAreaElement>(null);
  const [found, setFound] = useState<Completions | null>(null);
  const [picked, setPicked] = useState(0);
  /** Where the caret has to be after a change that the page made. */
  const caret = useRef<number | null>(null);
  const items = (found?.items ?? []).slice(0, LISTED_MAX);
  const suggest = (text: string, at: number, always: boolean) => {
    const next = completionsAt(text, at, versions);
    // Without a request, suggestions would be in the way of lines that are complete.
    setFound(next && (always || next.from < at) ? next : null);
    setPicked(0);
  };
  useLayoutEffect(() => {
    if (caret.current === null || !area.current) return;
    area.current.setSelectionRange(caret.current, caret.current);
    caret.current = null;
  }, [value]);

  const take = ({ text, back = 0 }: Completion) => {
    if (!found || !area.current) return;
    const { from, to } = found;
    setFound(null);
    area.current.focus();
    area.current.setSelectionRange(from, to);
    caret.current = from + text.length - back;
    // This way, the browser can undo it.
    const done = typeof document.execCommand === 'function' && document.execCommand('insertText', false, text);
    const next = value.slice(0, from) + text + value.slice(to);
    if (!done) onChange(next);
    // A value follows a name.
    if (text.endsWith(': ')) suggest(next, from + text.length, true);
  };
  const onKeyDown = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    const { key, ctrlKey } = event;
    const act = (does: () => void) => {
      event.preventDefault();
      event.stopPropagation();
      does();
    };
    const chosen = items[picked];
    if (key === ' ' && ctrlKey && !readOnly) act(() => suggest(value, event.currentTarget.selectionStart, true));
    else if (!chosen) return;
    else if (key === 'ArrowDown') act(() => setPicked((picked + 1) % items.length));
    else if (key === 'ArrowUp') act(() => setPicked((picked + items.length - 1) % items.length));
    else if (key === 'Enter') act(() => take(chosen));
    else if (key === 'Escape') act(() => setFound(null));
    else if (['ArrowLeft', 'ArrowRight', 'Home', 'End', 'PageUp', 'PageDown'].includes(key)) setFound(null);
  };
  const listed = items.length > 0;
  return (
    <>
      <AreaField
        label="Policy as JSON"
        hint="The same policy as in the form. Ctrl + Space shows what can be typed."
        className="code-area"
        rows={18}
        value={value}
        readOnly={readOnly}
        error={error}
        ref={area}
        aria-autocomplete="list"
        aria-controls={listed ? `${id}-list` : undefined}
        aria-activedescendant={listed ? `${id}-${picked}` : undefined}
        onChange={(event) => {
          const { value: next, selectionStart } = event.target;
          const typed = caret.current === null && next.length > value.length;
          onChange(next);
          if (typed) suggest(next, selectionStart, false);
          else setFound(null);
        }}
        onKeyDown={onKeyDown}
        onClick={() => setFound(null)}
        onBlur={() => setFound(null)}
      />
      <div className="sr" role="status">
        {listed ? `${plural(found?.items.length ?? 0, 'suggestion')}. Up and down choose, Enter inserts, Escape closes.` : ''}
      </div>
      {listed ? (
        <ul className="suggestions" id={`${id}-list`} role="listbox" aria-label="What can be typed">
          {items.map((item, i) => (
            <li
              key={item.label}
              id={`${id}-${i}`}
              role="option"
              aria-selected={i === picked}
              // The text keeps the focus.
              onMouseDown={(event) => event.preventDefault()}
              onClick={() => take(item)}
            >
              <code>{item.label}</code>
              <span className="muted">{item.about}</span>
            </li>
          ))}
        </ul>
      ) : null}
    </>
  );
}
