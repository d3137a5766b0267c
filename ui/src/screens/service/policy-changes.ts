/** What differs between two policies, field by field, and the policies that a service had before. Pure functions. */
import type { Policy, PolicyRevisionView } from '../../api/types';
import { stable } from '../../parts/diff';
import type { FieldChange } from '../../parts/field-changes';
import { at, FIELDS, type Field, type Path } from './policy-fields';

/** The values that are not the default, by the path of the field with dots. */
function valuesOf(policy: Policy, fields: readonly Field[] = FIELDS, path: Path = []): Map<string, string> {
  const out = new Map<string, string>();
  for (const field of fields) {
    const here = [...path, field.name];
    const value = at(policy, here);
    if (value === undefined || value === null) continue;
    if (field.kind === 'section') {
      // Such a section has an effect by being present, also if all its fields have their defaults.
      if (field.nullable) out.set(here.join('.'), 'on');
      for (const [name, text] of valuesOf(policy, field.fields, here)) out.set(name, text);
    } else if (stable(value) !== stable(field.default) && stable(value) !== '[]') {
      out.set(here.join('.'), textOf(field, value));
    }
  }
  return out;
}

function textOf(field: Field, value: unknown): string {
  if (typeof value === 'string') return value;
  if (field.kind === 'shares') {
    return (value as { version: string; weight: number }[]).map(({ version, weight }) => `${version}: ${weight}`).join(', ');
  }
  return JSON.stringify(value);
}

/** The fields in which two policies differ, in the order of the form. */
export function policyChanges(from: Policy, to: Policy): FieldChange[] {
  const [before, after] = [valuesOf(from), valuesOf(to)];
  return [...new Set([...before.keys(), ...after.keys()])]
    .map((field) => ({ field, from: before.get(field) ?? 'default', to: after.get(field) ?? 'default' }))
    .filter((change) => change.from !== change.to);
}

/** The policy of a revision, or null if this node does not know it. No policy is the same as an empty one. */
export function policyOf(revision: PolicyRevisionView | undefined): Policy | null {
  if (!revision || revision.content === 'unknown') return null;
  return revision.policy ?? {};
}

export const revisionName = (revision: number): string => (revision === 0 ? 'before the first change' : `revision ${revision}`);
