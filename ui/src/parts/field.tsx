/** Form controls, connected to their label, hint and error. */
import { useEffect, useId, useRef, useState, type ComponentPropsWithRef, type ReactNode } from 'react';

interface FieldProps {
  label: ReactNode;
  hint?: ReactNode;
  error?: string | null | undefined;
}

function Wrap({ label, hint, error, id, children }: FieldProps & { id: string; children: ReactNode }) {
  return (
    <div className={error ? 'field wrong' : 'field'}>
      <label className="field-label" htmlFor={id}>
        {label}
      </label>
      {children}
      {error ? (
        <p className="field-error" id={`${id}-note`}>
          {error}
        </p>
      ) : hint ? (
        <p className="field-hint" id={`${id}-note`}>
          {hint}
        </p>
      ) : null}
    </div>
  );
}

export function TextField({ label, hint, error, ...rest }: FieldProps & ComponentPropsWithRef<'input'>) {
  const id = useId();
  return (
    <Wrap label={label} hint={hint} error={error} id={id}>
      <input
        {...rest}
        id={id}
        aria-invalid={error ? true : undefined}
        aria-describedby={error || hint ? `${id}-note` : undefined}
      />
    </Wrap>
  );
}

export function SelectField({ label, hint, error, children, ...rest }: FieldProps & ComponentPropsWithRef<'select'>) {
  const id = useId();
  return (
    <Wrap label={label} hint={hint} error={error} id={id}>
      <select
        {...rest}
        id={id}
        aria-invalid={error ? true : undefined}
        aria-describedby={error || hint ? `${id}-note` : undefined}
      >
        {children}
      </select>
    </Wrap>
  );
}

export function AreaField({ label, hint, error, ...rest }: FieldProps & ComponentPropsWithRef<'textarea'>) {
  const id = useId();
  return (
    <Wrap label={label} hint={hint} error={error} id={id}>
      <textarea
        spellCheck={false}
        {...rest}
        id={id}
        aria-invalid={error ? true : undefined}
        aria-describedby={error || hint ? `${id}-note` : undefined}
      />
    </Wrap>
  );
}

/** A row of exclusive choices. */
export function Choice<T extends string>({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: T;
  options: readonly { value: T; label: string; n?: number | undefined }[];
  onChange: (next: T) => void;
}) {
  return (
    <div className="choice" role="group" aria-label={label}>
      {options.map((o) => (
        <button key={o.value} type="button" aria-pressed={o.value === value} onClick={() => onChange(o.value)}>
          {o.label}
          {o.n !== undefined ? <span className="num choice-n">{o.n}</span> : null}
        </button>
      ))}
    </div>
  );
}

export function Search({
  value,
  onChange,
  label,
  placeholder,
}: {
  value: string;
  onChange: (next: string) => void;
  label: string;
  placeholder?: string;
}) {
  return (
    <input
      type="search"
      className="search"
      data-search=""
      aria-label={label}
      placeholder={placeholder ?? label}
      value={value}
      maxLength={255}
      spellCheck={false}
      autoComplete="off"
      onChange={(event) => onChange(event.target.value)}
    />
  );
}

/** The text of a search field that is also in the address: it changes when the address changes. */
export function useTyped(inAddress: string | undefined): [string, (next: string) => void] {
  const [typed, setTyped] = useState(inAddress ?? '');
  // The address is updated with a delay. An older text must never replace a newer one.
  const own = useRef(new Set([inAddress ?? '']));
  useEffect(() => {
    const now = inAddress ?? '';
    if (own.current.has(now)) return;
    own.current = new Set([now]);
    setTyped(now);
  }, [inAddress]);
  const type = (next: string) => {
    own.current.add(next.trim());
    setTyped(next);
  };
  return [typed, type];
}
