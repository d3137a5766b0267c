/** What a change did to the fields of a configuration or a policy. */
import { plural } from './format';

export interface FieldChange {
  /** The path of the field, with dots. */
  field: string;
  from: string;
  to: string;
}

/** One line for each field, at most `max`. */
export function FieldChanges({ of, max = of.length }: { of: readonly FieldChange[]; max?: number }) {
  if (of.length === 0) return <span className="muted">nothing changed</span>;
  return (
    <>
      {of.slice(0, max).map((change) => (
        <span key={change.field} className="field-change">
          <span className="muted">{change.field}</span> <span className="num">{change.from}</span> <span aria-hidden="true">→</span>
          <span className="sr">to</span> <b className="num">{change.to}</b>
        </span>
      ))}
      {of.length > max ? <span className="muted">and {plural(of.length - max, 'more field')}</span> : null}
    </>
  );
}
