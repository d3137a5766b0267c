// Writes what the policy form and the completion of its JSON need from the OpenAPI document: the fields of a policy with
// their kinds, bounds, defaults and descriptions. A field that the form could not show fails the build.
import { readFileSync, writeFileSync } from 'node:fs';

const ROOT = new URL('../', import.meta.url);
const { schemas } = JSON.parse(readFileSync(new URL('../docs/reference/openapi.json', ROOT), 'utf8')).components;

const named = (schema) => (schema.$ref ? schemas[schema.$ref.split('/').at(-1)] : schema);

/** The schema behind a reference or `null | schema`, whether it may be null, and the description nearest to the field. */
function open(schema) {
  const variants = (schema.oneOf ?? []).filter((v) => v.type !== 'null');
  const inner = schema.oneOf && variants.length === 1 ? variants[0] : schema;
  const nullable = variants.length < (schema.oneOf ?? []).length || (Array.isArray(schema.type) && schema.type.includes('null'));
  const found = named(inner);
  return { found, nullable, about: (inner.description ?? schema.description ?? found.description ?? '').replaceAll('\n', ' ') };
}

function fieldOf(name, schema) {
  const { found, nullable, about } = open(schema);
  const common = { name, about, nullable, default: schema.default ?? null };
  const type = Array.isArray(found.type) ? found.type.find((t) => t !== 'null') : found.type;
  // These have several forms, which the page knows by name.
  if (found.oneOf) return { ...common, kind: 'choice', fields: together(found.oneOf) };
  if (found.enum) return { ...common, kind: 'enum', values: found.enum };
  if (type === 'object') {
    return { ...common, kind: 'section', required: found.required ?? [], fields: fieldsOf(found) };
  }
  if (type === 'integer') {
    if (found.minimum === undefined || found.maximum === undefined) throw new Error(`${name} has no bounds`);
    return { ...common, kind: 'number', min: found.minimum, max: found.maximum };
  }
  if (type === 'boolean') return { ...common, kind: 'boolean' };
  if (type === 'string') return { ...common, kind: 'text' };
  if (type === 'array') {
    const items = named(found.items);
    if (items.enum) return { ...common, kind: 'enums', values: items.enum };
    if (items.type === 'string') return { ...common, kind: 'texts' };
    if (items.type === 'integer') return { ...common, kind: 'numbers' };
    if (items.prefixItems) return { ...common, kind: 'pairs' };
    if (items.properties?.version) return { ...common, kind: 'shares', min: items.properties.weight.minimum, max: items.properties.weight.maximum, fields: fieldsOf(items) };
  }
  throw new Error(`the policy form cannot show ${name}: ${JSON.stringify(found)}`);
}

function fieldsOf({ properties }) {
  return Object.entries(properties).map(([name, schema]) => fieldOf(name, schema));
}

/** The fields of all forms of a value. A field that names the form has the values of all forms. */
function together(forms) {
  const fields = new Map();
  for (const field of forms.flatMap(fieldsOf)) {
    const known = fields.get(field.name);
    if (known?.values && field.values) known.values.push(...field.values.filter((v) => !known.values.includes(v)));
    else if (!known) fields.set(field.name, field);
  }
  return [...fields.values()];
}

const policy = fieldOf('policy', { $ref: '#/components/schemas/ServicePolicy' });
writeFileSync(new URL('src/screens/service/policy-schema.json', ROOT), `${JSON.stringify(policy.fields, null, 1)}\n`);
