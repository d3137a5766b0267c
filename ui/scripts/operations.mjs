// Writes what each route of the API does, from the OpenAPI document, for the screen that shows who may do it.
import { readFileSync, writeFileSync } from 'node:fs';

const ROOT = new URL('../', import.meta.url);
const { paths } = JSON.parse(readFileSync(new URL('../docs/reference/openapi.json', ROOT), 'utf8'));

/** The first statement of a text, without its full stop. */
const first = (text) => text.replaceAll('\n', ' ').split(/[.:;] |[.:;]$/)[0];
const operations = Object.entries(paths).flatMap(([path, item]) =>
  Object.entries(item).map(([method, { tags, summary }]) => ({ method: method.toUpperCase(), path, subject: tags[0], does: first(summary) })),
);
writeFileSync(new URL('src/screens/access/operations.json', ROOT), `${JSON.stringify(operations, null, 1)}\n`);
