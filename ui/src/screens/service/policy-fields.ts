/**
 * The fields of a policy for the form: from the OpenAPI document, with labels, and how to read and change a value in a
 * policy by its path. A value that is absent has its default. Pure functions.
 */
import type { Policy } from '../../api/types';
import schema from './policy-schema.json';

interface Common {
  name: string;
  /** What it is, with its unit and its range. */
  about: string;
  /** Whether it can be switched off. */
  nullable: boolean;
  default: unknown;
}

export type Field = Common &
  (
    | { kind: 'section'; required: string[]; fields: Field[] }
    | { kind: 'number'; min: number; max: number }
    | { kind: 'shares'; min: number; max: number; fields: Field[] }
    | { kind: 'choice'; fields: Field[] }
    | { kind: 'enum' | 'enums'; values: string[] }
    | { kind: 'boolean' | 'text' | 'texts' | 'numbers' | 'pairs' }
  );

export type Section = Field & { kind: 'section' };

export const FIELDS = schema as unknown as readonly Field[];

export type Path = readonly string[];

/** Labels that do not follow from the name. */
const LABELS: Record<string, string> = {
  selection: 'Choosing an instance',
  probe: 'Probing',
  health: 'Health',
  timeouts: 'Timeouts',
  retries: 'Retries',
  hedging: 'Hedging',
  circuit_breaker: 'Circuit breaker',
  outlier_ejection: 'Outlier ejection',
  connections: 'Connections',
  rate_limit: 'Rate limit',
  request_headers: 'Request headers',
  response_headers: 'Response headers',
  rewrite: 'Path rewrite',
  prefix: 'Path prefix',
  options: 'OPTIONS requests',
  split: 'Traffic split',
  mirror: 'Mirroring',
  sticky: 'Sticky sessions',
  zone: 'Zones',
  hash_key: 'Hash by',
  fall: 'Unhealthy after, failures',
  rise: 'Healthy after, successes',
  on: 'Retry on',
  attempts: 'Attempts',
  kind: 'Probe',
  insecure_tls: 'Accept any certificate',
  latency_aware: 'Prefer faster instances',
};

const UNITS = [
  ['_ms', 'ms'],
  ['_s', 's'],
  ['_percent', '%'],
  ['_percent_max', '%'],
] as const;

/** The label of a field, with its unit. */
export function labelOf(name: string): string {
  const known = LABELS[name];
  if (known) return known;
  const unit = UNITS.find(([suffix]) => name.endsWith(suffix));
  const rest = unit ? name.slice(0, -unit[0].length) + (unit[0].endsWith('_max') ? '_max' : '') : name;
  const words = rest
    .replace(/_len_max$/, ' length, maximum')
    .replace(/_max$/, ', maximum')
    .replace(/_min$/, ', minimum')
    .replaceAll('_', ' ')
    .replace(' per s', ' per second')
    .replace('tls', 'TLS');
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  const bytes = name.endsWith('_len_max') ? ', bytes' : '';
  return `${text}${bytes}${unit ? `, ${unit[1]}` : ''}`;
}

export function at(policy: unknown, path: Path): unknown {
  return path.reduce<unknown>((value, name) => (value as Record<string, unknown> | null | undefined)?.[name], policy);
}

/**
 * The policy with a value at `path`. `undefined` removes it, and then sections that became empty, except those that are
 * switched on by being present.
 */
export function withValue(policy: Policy, path: Path, value: unknown): Policy {
  return changed(FIELDS, policy as Values, path, value) as Policy;
}

type Values = Record<string, unknown>;

function changed(fields: readonly Field[], values: Values, [name, ...rest]: Path, value: unknown): Values {
  if (name === undefined) return values;
  const field = fields.find((f) => f.name === name);
  const next = { ...values };
  if (rest.length === 0) next[name] = value;
  else next[name] = changed(field?.kind === 'section' ? field.fields : [], (values[name] ?? {}) as Values, rest, value);
  const empty = rest.length > 0 && !field?.nullable && Object.keys(next[name] as Values).length === 0;
  if (next[name] === undefined || empty) delete next[name];
  return next;
}

/** A section that is switched on: with the fields that it must have. */
export function switchedOn(section: Section): Values {
  const needed = section.fields.filter((field) => section.required.includes(field.name));
  return Object.fromEntries(needed.map((field) => [field.name, field.kind === 'number' ? Math.max(field.min, 1) : '']));
}

/** Each number outside of its bounds, by its path with dots, as a sentence. */
export function outOfBounds(policy: Policy, fields: readonly Field[] = FIELDS, path: Path = []): Record<string, string> {
  const out: Record<string, string> = {};
  for (const field of fields) {
    const here = [...path, field.name];
    const value = at(policy, here);
    if (value === undefined || value === null) continue;
    if (field.kind === 'section') Object.assign(out, outOfBounds(policy, field.fields, here));
    if (field.kind === 'number' && !within(value, field)) {
      out[here.join('.')] = `${labelOf(field.name)}: a whole number from ${field.min} to ${field.max}.`;
    }
    if (field.kind === 'shares' && Array.isArray(value)) {
      for (const share of value as { version?: unknown; weight?: unknown }[]) {
        if (!within(share.weight, field)) out[here.join('.')] = `Each weight is a whole number from ${field.min} to ${field.max}.`;
        else if (!share.version) out[here.join('.')] = 'Name each version.';
      }
    }
  }
  return out;
}

function within(value: unknown, { min, max }: { min: number; max: number }): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max;
}
