/** Keys as folders, and values as text. Pure functions. */
import type { KvKey } from '../../api/types';

export type Entry =
  /** The keys of which the next part of the name is the same. `prefix` ends with a slash. */
  | { kind: 'folder'; name: string; prefix: string; keys: number }
  | { kind: 'key'; name: string; key: KvKey };

/** The part of a prefix that is shown above the list: up to its last slash. */
export function folderOf(prefix: string): string {
  return prefix.slice(0, prefix.lastIndexOf('/') + 1);
}

/** What is directly below a prefix. `keys` are sorted and begin with `prefix`. */
export function entriesOf(keys: readonly KvKey[], prefix: string): Entry[] {
  const above = folderOf(prefix).length;
  const folders = new Map<string, Extract<Entry, { kind: 'folder' }>>();
  const entries: Entry[] = [];
  for (const key of keys) {
    const slash = key.key.indexOf('/', prefix.length);
    if (slash < 0) {
      // A key may have the name of the folder itself.
      entries.push({ kind: 'key', name: key.key.slice(above) || key.key, key });
      continue;
    }
    const below = key.key.slice(0, slash + 1);
    const known = folders.get(below);
    if (known) known.keys += 1;
    else {
      const folder = { kind: 'folder' as const, name: below.slice(above), prefix: below, keys: 1 };
      folders.set(below, folder);
      entries.push(folder);
    }
  }
  return entries;
}

/** The folders above a prefix, from the outermost. */
export function crumbsOf(prefix: string): { name: string; prefix: string }[] {
  const crumbs: { name: string; prefix: string }[] = [];
  for (let at = prefix.indexOf('/'); at >= 0; at = prefix.indexOf('/', at + 1)) {
    const before = crumbs.at(-1)?.prefix.length ?? 0;
    crumbs.push({ name: prefix.slice(before, at + 1), prefix: prefix.slice(0, at + 1) });
  }
  return crumbs;
}

/** Whether a text is a JSON object or array. */
export function isJson(text: string): boolean {
  if (!/^\s*[[{]/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Strings, brackets, separators, and whatever is between them. */
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|[[\]{},:]|[^\s[\]{},:"]+/g;
const OPENS = ['{', '['];
const CLOSES = ['}', ']'];

/** Valid JSON on several lines. Only white space changes: a number that JavaScript would round stays as it is stored. */
export function indented(json: string): string {
  const tokens = json.match(TOKENS) ?? [];
  const out: string[] = [];
  let depth = 0;
  const line = () => out.push(`\n${'  '.repeat(depth)}`);
  for (const [i, token] of tokens.entries()) {
    const before = tokens[i - 1] ?? '';
    if (CLOSES.includes(token)) {
      depth -= 1;
      // An empty object or array stays on its line.
      if (!OPENS.includes(before)) line();
    } else if (OPENS.includes(before) || before === ',') line();
    out.push(token === ':' ? ': ' : token);
    if (OPENS.includes(token)) depth += 1;
  }
  return out.join('');
}
