/** The fields of the configuration with their limits. Fields that this page does not know are kept unchanged. */
import type { RuntimeConfig, Strategy } from '../../api/types';
import { useDenied } from '../../parts/button';
import { SelectField, TextField } from '../../parts/field';
import { Toggle } from '../../parts/toggle';
import { STRATEGIES } from '../service/names';

const TTL_S_MAX = 34_560_000;

export function configMistake(config: RuntimeConfig): string | null {
  const ttl = config.heartbeat_timeout_s;
  return Number.isInteger(ttl) && ttl >= 1 && ttl <= TTL_S_MAX ? null : `The time to live is a whole number from 1 to ${TTL_S_MAX} s.`;
}

export function ConfigForm({ config, onChange }: { config: RuntimeConfig; onChange: (next: RuntimeConfig) => void }) {
  const denied = useDenied('operator');
  const set = (change: Partial<RuntimeConfig>) => onChange({ ...config, ...change } as RuntimeConfig);
  return (
    <>
      {denied ? <p className="muted">{denied}</p> : null}
      <fieldset className="form" disabled={denied !== null}>
        <legend className="sr">Settings</legend>
        <SelectField
          label="Selection strategy"
          hint="For services whose policy has none."
          value={config.selection_strategy}
          onChange={(e) => set({ selection_strategy: e.target.value as Strategy })}
        >
          {Object.entries(STRATEGIES).map(([value, name]) => (
            <option key={value} value={value}>
              {name}
            </option>
          ))}
        </SelectField>
        <SelectField
          label="Discovery answers"
          hint="If the request does not choose."
          value={config.discovery_mode}
          onChange={(e) => set({ discovery_mode: e.target.value as RuntimeConfig['discovery_mode'] })}
        >
          <option value="redirect">With a redirect to the instance</option>
          <option value="proxy">By forwarding the request</option>
        </SelectField>
        <TextField
          label="Time to live, seconds"
          hint="For registrations that set none."
          type="number"
          inputMode="numeric"
          min={1}
          max={TTL_S_MAX}
          value={Number.isNaN(config.heartbeat_timeout_s) ? '' : config.heartbeat_timeout_s}
          error={configMistake(config)}
          onChange={(e) => set({ heartbeat_timeout_s: e.target.value === '' ? Number.NaN : Number(e.target.value) })}
        />
        <SelectField
          label="Request log"
          value={config.log_format}
          onChange={(e) => set({ log_format: e.target.value as RuntimeConfig['log_format'] })}
        >
          <option value="json">JSON, one object a line</option>
          <option value="plain">Plain text</option>
        </SelectField>
        <Toggle
          label="Write the log on a separate thread"
          checked={config.log_async}
          disabled={denied !== null}
          onChange={(next) => set({ log_async: next })}
        />
        <Toggle
          label="Indent JSON log lines"
          checked={config.log_json_prettify}
          disabled={denied !== null}
          onChange={(next) => set({ log_json_prettify: next })}
        />
      </fieldset>
    </>
  );
}
