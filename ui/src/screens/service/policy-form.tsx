/** A policy as a form: every section, with what each field does, its unit, range and default. */
import { useId } from 'react';
import type { HashKey, Policy } from '../../api/types';
import { Button } from '../../parts/button';
import { stable } from '../../parts/diff';
import { SelectField, TextField } from '../../parts/field';
import { Toggle } from '../../parts/toggle';
import { at, FIELDS, labelOf, switchedOn, withValue, type Field, type Path, type Section } from './policy-fields';
import type { Mistakes } from './policy-check';
import { PROBE_KINDS, STRATEGIES } from './names';

interface Editing {
  policy: Policy;
  mistakes: Mistakes;
  /** The versions that are registered, as suggestions. */
  versions: readonly string[];
  disabled: boolean;
  set: (path: Path, value: unknown) => void;
}

export function PolicyForm({
  onChange,
  ...rest
}: Omit<Editing, 'set'> & { onChange: (next: Policy) => void }) {
  const editing = { ...rest, set: (path: Path, value: unknown) => onChange(withValue(rest.policy, path, value)) };
  const [traffic, others] = [FIELDS.find((f) => f.name === 'traffic'), FIELDS.filter((f) => f.name !== 'traffic')];
  const inTraffic = traffic?.kind === 'section' ? traffic.fields : [];
  const plain = inTraffic.filter((f) => !isGroup(f));
  return (
    <fieldset className="form" disabled={rest.disabled}>
      <legend className="sr">Policy</legend>
      {others.map((f) => (
        <Group key={f.name} field={f} path={[f.name]} editing={editing} />
      ))}
      {inTraffic.filter(isGroup).map((f) => (
        <Group key={f.name} field={f} path={['traffic', f.name]} editing={editing} />
      ))}
      <Details title="Other settings" set={plain.some((f) => differs(f, at(rest.policy, ['traffic', f.name])))}>
        <div className="form-grid">
          {plain.map((f) => (
            <Value key={f.name} field={f} path={['traffic', f.name]} editing={editing} />
          ))}
        </div>
      </Details>
    </fieldset>
  );
}

const isGroup = (field: Field): boolean => ['section', 'shares', 'choice'].includes(field.kind);

/** Whether a value is another one than the default. The server stores defaults like any other value. */
const differs = (field: Field, value: unknown): boolean =>
  value !== undefined && value !== null && stable(value) !== stable(field.default);

/** A section that is folded in while it is not set. */
function Details({ title, set, children }: { title: string; set: boolean; children: React.ReactNode }) {
  return (
    <details className="form-section" open={set || undefined}>
      <summary>
        <span className="form-section-title">{title}</span>
        <span className={set ? 'tag' : 'faint'}>{set ? 'set' : 'default'}</span>
      </summary>
      <div className="form-section-body">{children}</div>
    </details>
  );
}

function Group({ field, path, editing }: { field: Field; path: Path; editing: Editing }) {
  const value = at(editing.policy, path);
  const set = differs(field, value);
  return (
    <Details title={labelOf(field.name)} set={set}>
      <p className="field-hint">{field.about}</p>
      {field.kind === 'section' ? (
        <SectionForm section={field} path={path} editing={editing} />
      ) : field.kind === 'shares' ? (
        <Shares path={path} editing={editing} />
      ) : (
        <Sticky path={path} editing={editing} />
      )}
    </Details>
  );
}

function SectionForm({ section, path, editing }: { section: Section; path: Path; editing: Editing }) {
  const value = at(editing.policy, path);
  const on = !section.nullable || (value !== undefined && value !== null);
  return (
    <>
      {section.nullable ? (
        <Toggle
          label={`Use ${labelOf(section.name).toLowerCase()}`}
          checked={on}
          disabled={editing.disabled}
          onChange={(next) => editing.set(path, next ? switchedOn(section) : undefined)}
        />
      ) : null}
      {on ? (
        <div className="form-grid">
          {section.fields.filter((f) => matters(f, path, editing.policy)).map((f) => (
            <Value key={f.name} field={f} path={[...path, f.name]} editing={editing} />
          ))}
        </div>
      ) : null}
    </>
  );
}

const HTTP_ONLY = ['path', 'method', 'headers', 'expected_statuses', 'expected_body', 'insecure_tls', 'readiness_path'];

/** Fields of a probe that have no effect for its kind are left out, unless they are set. */
function matters(field: Field, path: Path, policy: Policy): boolean {
  if (path.join('.') !== 'probe' || field.name === 'kind' || at(policy, [...path, field.name]) !== undefined) return true;
  const kind = policy.probe?.kind ?? 'heartbeat';
  return kind !== 'heartbeat' && (kind === 'http' || !HTTP_ONLY.includes(field.name));
}

const VALUES: Record<string, Record<string, string>> = {
  strategy: STRATEGIES,
  kind: PROBE_KINDS,
  protocol: { http1: 'HTTP/1.1', http2: 'HTTP/2' },
  options: { answer: 'Maxine answers', forward: 'Forwarded to an instance' },
  scope: { service: 'Whole service', client: 'Each client' },
};

const textOf = (field: string, value: unknown): string => VALUES[field]?.[String(value)] ?? String(value);

function Value({ field, path, editing }: { field: Field; path: Path; editing: Editing }) {
  const value = at(editing.policy, path);
  const common = { label: labelOf(field.name), hint: field.about, error: editing.mistakes[path.join('.')] };
  const set = (next: unknown) => editing.set(path, next);
  switch (field.kind) {
    case 'number':
      return (
        <TextField
          {...common}
          type="number"
          inputMode="numeric"
          min={field.min}
          max={field.max}
          step={1}
          placeholder={String(field.default ?? '')}
          value={typeof value === 'number' ? value : ''}
          onChange={(e) => set(e.target.value === '' ? undefined : Number(e.target.value))}
        />
      );
    case 'boolean':
      return (
        <SelectField {...common} value={value === undefined ? '' : String(value)} onChange={(e) => set(e.target.value === '' ? undefined : e.target.value === 'true')}>
          <option value="">Default: {field.default === true ? 'yes' : 'no'}</option>
          <option value="true">Yes</option>
          <option value="false">No</option>
        </SelectField>
      );
    case 'enum':
      return (
        <SelectField {...common} value={typeof value === 'string' ? value : ''} onChange={(e) => set(e.target.value || undefined)}>
          <option value="">{field.default === null ? 'Default' : `Default: ${textOf(field.name, field.default)}`}</option>
          {field.values.map((v) => (
            <option key={v} value={v}>
              {textOf(field.name, v)}
            </option>
          ))}
        </SelectField>
      );
    case 'text':
      return (
        <TextField
          {...common}
          placeholder={String(field.default ?? '')}
          value={typeof value === 'string' ? value : ''}
          onChange={(e) => set(e.target.value === '' && field.default !== null ? undefined : e.target.value === '' && field.nullable ? null : e.target.value)}
        />
      );
    case 'enums':
    case 'texts':
    case 'numbers':
      return <List field={field} value={value} common={common} set={set} />;
    case 'pairs':
      return <Pairs common={common} value={(value ?? []) as [string, string][]} disabled={editing.disabled} set={set} />;
    case 'choice':
      return <HashBy path={path} editing={editing} about={field.about} />;
    case 'section':
      return (
        <div className="span-all">
          <SectionForm section={field} path={path} editing={editing} />
        </div>
      );
    default:
      return null;
  }
}

interface CommonProps {
  label: string;
  hint: string;
  error: string | undefined;
}

/** A list as words with commas. The text is the user's until it says something else than the value. */
function List({ field, value, common, set }: { field: Field; value: unknown; common: CommonProps; set: (next: unknown) => void }) {
  const items = (Array.isArray(value) ? value : []) as (string | number)[];
  const shown = Array.isArray(field.default) ? field.default.join(', ') : '';
  const parse = (text: string) =>
    text
      .split(/[\s,]+/)
      .filter((word) => word !== '')
      .map((word) => (field.kind === 'numbers' && /^\d+$/.test(word) ? Number(word) : word));
  return (
    <TextField
      {...common}
      key={items.join(',')}
      hint={`${common.hint} With commas between them.`}
      placeholder={shown}
      defaultValue={items.join(', ')}
      onBlur={(e) => {
        const next = parse(e.target.value);
        if (next.join(',') !== items.join(',')) set(next.length === 0 ? undefined : next);
      }}
    />
  );
}

/** Header fields, one a line. */
function Pairs({ common, value, disabled, set }: { common: CommonProps; value: [string, string][]; disabled: boolean; set: (next: unknown) => void }) {
  const id = useId();
  const change = (i: number, part: 0 | 1, text: string) => set(value.map((pair, n) => (n === i ? (part === 0 ? [text, pair[1]] : [pair[0], text]) : pair)));
  return (
    <div className="field span-all" role="group" aria-labelledby={id}>
      <span className="field-label" id={id}>
        {common.label}
      </span>
      {value.map(([name, text], i) => (
        <div key={i} className="pair">
          <input aria-label={`${common.label}: name ${i + 1}`} value={name} onChange={(e) => change(i, 0, e.target.value)} />
          <input aria-label={`${common.label}: value ${i + 1}`} value={text} onChange={(e) => change(i, 1, e.target.value)} />
          <Button kind="quiet" aria-label={`Remove ${name || `line ${i + 1}`}`} onClick={() => set(value.length === 1 ? undefined : value.filter((_, n) => n !== i))}>
            ×
          </Button>
        </div>
      ))}
      <div>
        <Button icon="plus" reason={disabled ? 'You may not change it.' : null} onClick={() => set([...value, ['', '']])}>
          Add
        </Button>
      </div>
      <p className={common.error ? 'field-error' : 'field-hint'}>{common.error ?? common.hint}</p>
    </div>
  );
}

function HashBy({ path, editing, about }: { path: Path; editing: Editing; about: string }) {
  const key = (at(editing.policy, path) ?? { from: 'client_address' }) as HashKey;
  return (
    <>
      <SelectField
        label="Hash by"
        hint={about}
        value={key.from}
        onChange={(e) => {
          const from = e.target.value as HashKey['from'];
          editing.set(path, from === 'client_address' ? { from } : { from, name: key.from === 'client_address' ? '' : key.name });
        }}
      >
        <option value="client_address">Client address</option>
        <option value="header">Request header</option>
        <option value="query">Query parameter</option>
      </SelectField>
      {key.from === 'client_address' ? null : (
        <TextField
          label={key.from === 'header' ? 'Header name' : 'Parameter name'}
          value={key.name}
          maxLength={255}
          error={editing.mistakes[path.join('.')]}
          onChange={(e) => editing.set(path, { from: key.from, name: e.target.value })}
        />
      )}
    </>
  );
}

type StickyValue = { cookie?: { name: string; max_age_s?: number }; header?: { name: string } } | null | undefined;

function Sticky({ path, editing }: { path: Path; editing: Editing }) {
  const value = at(editing.policy, path) as StickyValue;
  const by = value?.cookie ? 'cookie' : value?.header ? 'header' : '';
  const name = value?.cookie?.name ?? value?.header?.name ?? '';
  return (
    <div className="form-grid">
      <SelectField
        label="By"
        value={by}
        onChange={(e) => editing.set(path, e.target.value === '' ? undefined : { [e.target.value]: { name: name || (e.target.value === 'cookie' ? 'maxine' : 'x-user') } })}
      >
        <option value="">Off</option>
        <option value="cookie">Cookie that Maxine sets</option>
        <option value="header">Request header</option>
      </SelectField>
      {by === '' ? null : (
        <TextField
          label={by === 'cookie' ? 'Cookie name begins with' : 'Header name'}
          value={name}
          onChange={(e) => editing.set(path, { [by]: { ...value?.[by as 'cookie'], name: e.target.value } })}
        />
      )}
      {by === 'cookie' ? (
        <TextField
          label="Cookie lifetime, s"
          hint="How long the browser keeps it, 0 to 31,536,000 s. 0: until the browser is closed."
          type="number"
          inputMode="numeric"
          min={0}
          max={31_536_000}
          placeholder="0"
          value={value?.cookie?.max_age_s ?? ''}
          onChange={(e) => editing.set([...path, 'cookie', 'max_age_s'], e.target.value === '' ? undefined : Number(e.target.value))}
        />
      ) : null}
    </div>
  );
}

interface Share {
  version: string;
  weight: number;
}

/** The shares of versions, with what they come to. */
function Shares({ path, editing }: { path: Path; editing: Editing }) {
  const id = useId();
  const shares = (at(editing.policy, path) ?? []) as Share[];
  const sum = shares.reduce((n, share) => n + (Number(share.weight) || 0), 0);
  const set = (next: Share[]) => editing.set(path, next.length === 0 ? undefined : next);
  const change = (i: number, part: Partial<Share>) => set(shares.map((share, n) => (n === i ? { ...share, ...part } : share)));
  const error = editing.mistakes[path.join('.')];
  return (
    <div className="field">
      <datalist id={id}>
        {editing.versions.map((version) => (
          <option key={version} value={version} />
        ))}
      </datalist>
      {shares.map((share, i) => (
        <div key={i} className="pair">
          <input aria-label={`Version ${i + 1}`} placeholder="version" list={id} value={share.version} onChange={(e) => change(i, { version: e.target.value })} />
          <input
            aria-label={`Weight of version ${i + 1}`}
            type="number"
            inputMode="numeric"
            min={0}
            max={1_000}
            value={Number.isInteger(share.weight) ? share.weight : ''}
            onChange={(e) => change(i, { weight: e.target.value === '' ? Number.NaN : Number(e.target.value) })}
          />
          <span className="num muted">{sum > 0 ? `${((100 * (share.weight || 0)) / sum).toFixed(1)} %` : '–'}</span>
          <Button kind="quiet" aria-label={`Remove version ${share.version || String(i + 1)}`} onClick={() => set(shares.filter((_, n) => n !== i))}>
            ×
          </Button>
        </div>
      ))}
      <div>
        <Button
          icon="plus"
          reason={editing.disabled ? 'You may not change it.' : null}
          onClick={() => set([...shares, { version: editing.versions.find((v) => !shares.some((s) => s.version === v)) ?? '', weight: 1 }])}
        >
          Add a version
        </Button>
      </div>
      {error ? <p className="field-error">{error}</p> : <p className="field-hint">Weights are relative, 0 to 1,000. Versions that are not listed get no traffic.</p>}
    </div>
  );
}
