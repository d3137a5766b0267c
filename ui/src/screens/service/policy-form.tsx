/** The part of a policy that has a form: selection and probe. Other sections are kept unchanged. */
import type { HashKey, Policy, Probe, Strategy } from '../../api/types';
import { SelectField, TextField } from '../../parts/field';
import type { Mistakes } from './policy-check';
import { PROBE_KINDS, STRATEGIES } from './names';

const FORM_SECTIONS = new Set(['selection', 'probe']);

export function PolicyForm({
  policy,
  mistakes,
  disabled,
  onChange,
}: {
  policy: Policy;
  mistakes: Mistakes;
  disabled: boolean;
  onChange: (next: Policy) => void;
}) {
  const selection = policy.selection ?? {};
  const key: HashKey = selection.hash_key ?? { from: 'client_address' };
  const hashes = selection.strategy === 'consistent_hash' || selection.strategy === 'rendezvous';
  const select = (change: Partial<NonNullable<Policy['selection']>>) =>
    onChange({ ...policy, selection: { ...selection, ...change } });
  const others = Object.keys(policy).filter((section) => !FORM_SECTIONS.has(section));
  return (
    <fieldset className="form" disabled={disabled}>
      <legend className="sr">Policy</legend>
      <h3 className="first">Choosing an instance</h3>
      <div className="form-grid">
        <SelectField
          label="Strategy"
          value={selection.strategy ?? ''}
          onChange={(e) => select({ strategy: (e.target.value || null) as Strategy | null })}
        >
          <option value="">Default of the configuration</option>
          {Object.entries(STRATEGIES).map(([value, name]) => (
            <option key={value} value={value}>
              {name}
            </option>
          ))}
        </SelectField>
        <SelectField
          label="Hash by"
          hint={hashes ? undefined : 'Only used by the hashing strategies.'}
          value={key.from}
          onChange={(e) => {
            const from = e.target.value as HashKey['from'];
            select({ hash_key: from === 'client_address' ? { from } : { from, name: key.from === 'client_address' ? '' : key.name } });
          }}
        >
          <option value="client_address">Client's address</option>
          <option value="header">Request header</option>
          <option value="query">Query parameter</option>
        </SelectField>
        {key.from !== 'client_address' ? (
          <TextField
            label={key.from === 'header' ? 'Header' : 'Parameter'}
            value={key.name}
            maxLength={255}
            error={mistakes['selection.hash_key.name']}
            onChange={(e) => select({ hash_key: { from: key.from, name: e.target.value } })}
          />
        ) : null}
      </div>
      <h3>Probing</h3>
      <ProbeForm probe={policy.probe ?? null} mistakes={mistakes} onChange={(probe) => onChange({ ...policy, probe })} />
      {others.length > 0 ? (
        <p className="field-hint">
          Also set: {others.join(', ')}. Change {others.length === 1 ? 'it' : 'them'} under “JSON, all fields”.
        </p>
      ) : null}
    </fieldset>
  );
}

const NUMBERS = [
  ['interval_ms', 'Interval, ms', 15_000],
  ['timeout_ms', 'Time limit, ms', 3_000],
  ['fall', 'Unhealthy after, failures', 3],
  ['rise', 'Healthy after, successes', 1],
] as const;

function ProbeForm({
  probe,
  mistakes,
  onChange,
}: {
  probe: Probe | null;
  mistakes: Mistakes;
  onChange: (next: Probe | null) => void;
}) {
  const set = (change: Partial<Probe>) => onChange({ ...probe, ...change });
  return (
    <div className="form-grid">
      <SelectField
        label="Probe"
        value={probe ? (probe.kind ?? 'heartbeat') : ''}
        onChange={(e) => onChange(e.target.value ? { ...probe, kind: e.target.value as NonNullable<Probe['kind']> } : null)}
      >
        <option value="">Not set: the instance's own probe</option>
        {Object.entries(PROBE_KINDS).map(([value, name]) => (
          <option key={value} value={value}>
            {name}
          </option>
        ))}
      </SelectField>
      {probe?.kind === 'http' ? (
        <TextField
          label="Path"
          placeholder="/healthz"
          value={probe.path ?? ''}
          error={mistakes['probe.path']}
          onChange={(e) => set({ path: e.target.value })}
        />
      ) : null}
      {probe && probe.kind && probe.kind !== 'heartbeat'
        ? NUMBERS.map(([field, label, fallback]) => (
            <TextField
              key={field}
              label={label}
              type="number"
              inputMode="numeric"
              placeholder={String(fallback)}
              value={(probe[field] as number | undefined) ?? ''}
              error={mistakes[`probe.${field}`]}
              onChange={(e) => {
                const next = { ...probe };
                if (e.target.value === '') delete next[field];
                else next[field] = Number(e.target.value);
                onChange(next);
              }}
            />
          ))
        : null}
    </div>
  );
}
