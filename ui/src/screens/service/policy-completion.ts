/**
 * What can be typed next in a policy as JSON, by the fields of the OpenAPI document. The text may be unfinished or wrong.
 * Pure functions.
 */
import { FIELDS, type Field } from './policy-fields';

export interface Completion {
  /** What is inserted. */
  text: string;
  /** The name or the value, as it is listed. */
  label: string;
  /** What it is. */
  about: string;
  /** How far before the end of the inserted text the caret is then. */
  back?: number;
}

export interface Completions {
  /** The part of the text that is replaced. */
  from: number;
  to: number;
  items: readonly Completion[];
}

/** A list or an object that is open at some place of the text. */
interface Frame {
  kind: 'object' | 'list';
  /** The names that the object has, before and after the place. */
  names: string[];
  /** The name whose value is next; null before a name. */
  name: string | null;
  /** The last name or value, without quotes. */
  last: string;
  /** Whether a value or a name can be next. */
  open: boolean;
}

interface Place {
  frames: Frame[];
  /** Where the word or the string at the place begins and ends. */
  from: number;
  to: number;
  /** What is typed of it, without the quotes. */
  typed: string;
  /** Whether a name is next, and no value. */
  isName: boolean;
  /** Whether anything can be next. */
  open: boolean;
}

const TOKEN = /"(?:[^"\\\n]|\\.)*"?|[{}[\]:,]|[^\s"{}[\]:,]+/g;

/** The end of a name or a value behind the caret, with its quote. What else follows belongs to something else. */
const REST = /^[\w.-]*"?$/;

/** What is at `caret`. Strings end at the end of their line, because a quote may be missing. */
function placeOf(text: string, caret: number): Place {
  const frames: Frame[] = [];
  const placeAt = (from: number, to: number, typed: string): Place => {
    const top = frames.at(-1);
    const isName = top?.kind === 'object' && top.name === null;
    // The names are added to later.
    return { frames: frames.map((frame) => ({ ...frame })), from, to, typed, isName, open: top ? top.open : false };
  };
  let place: Place | null = null;
  for (const token of text.matchAll(TOKEN)) {
    const [word] = token;
    const from = token.index;
    const to = from + word.length;
    const isMark = /^[{}[\]:,]$/.test(word);
    const isWhole = /^".*"$/.test(word) && word.length > 1;
    if (!place && from >= caret) place = placeAt(caret, caret, '');
    // Nothing is typed behind a string that is complete.
    else if (!place && !isMark && (to > caret || (to === caret && !isWhole))) {
      place = placeAt(from, REST.test(text.slice(caret, to)) ? to : caret, text.slice(from, caret).replace(/^"/, ''));
    }
    step(frames, word);
  }
  return place ?? placeAt(caret, caret, '');
}

function step(frames: Frame[], word: string): void {
  const top = frames.at(-1);
  switch (word) {
    case '{':
    case '[':
      frames.push({ kind: word === '{' ? 'object' : 'list', names: [], name: null, last: '', open: true });
      return;
    case '}':
    case ']': {
      frames.pop();
      const outer = frames.at(-1);
      if (outer) outer.open = false;
      return;
    }
    case ',':
      if (top) Object.assign(top, { name: null, open: true });
      return;
    case ':':
      // What is before a colon is a name, also if a comma is missing before it.
      if (top) {
        Object.assign(top, { name: top.last, open: true });
        top.names.push(top.last);
      }
      return;
  }
  if (!top) return;
  top.last = word.replace(/^"|"$/g, '');
  top.name ??= top.last;
  top.open = false;
}

/** The fields of the object, or the field of the value, that is next; null if the document has none. */
function fieldsAt(frames: readonly Frame[]): { fields: readonly Field[]; field: Field | null } | null {
  let fields: readonly Field[] = FIELDS;
  let field: Field | null = null;
  for (const [depth, frame] of frames.entries()) {
    const isLast = depth === frames.length - 1;
    if (frame.kind === 'object') {
      if (depth > 0) {
        if (!field || !('fields' in field)) return null;
        fields = field.fields;
      }
      const { name } = frame;
      field = fields.find((f) => f.name === name) ?? null;
      if (!isLast && !field) return null;
    }
  }
  return { fields, field };
}

/** What can be typed at `caret`; null if nothing is known. `versions` are those of the registered instances. */
export function completionsAt(text: string, caret: number, versions: readonly string[] = []): Completions | null {
  const place = placeOf(text, caret);
  const known = place.open && place.frames[0]?.kind === 'object' ? fieldsAt(place.frames) : null;
  if (!known) return null;
  const { from, to, typed } = place;
  const own = text.slice(from, to).replaceAll('"', '');
  const items = place.isName ? namesOf(known.fields, place, own) : valuesOf(known.field, place, versions);
  const fitting = items.filter((item) => item.label.toLowerCase().includes(typed.toLowerCase()));
  // What begins with the typed text comes first. Nothing is offered if it is there already.
  fitting.sort((a, b) => Number(b.label.startsWith(typed)) - Number(a.label.startsWith(typed)));
  if (fitting.length === 0 || (fitting.length === 1 && fitting[0]?.text === text.slice(from, to))) return null;
  const behind = place.isName && /^\s*:/.test(text.slice(to));
  return { from, to, items: behind ? fitting.map((item) => ({ ...item, text: `"${item.label}"` })) : fitting };
}

function namesOf(fields: readonly Field[], { frames }: Place, own: string): Completion[] {
  const names = frames.at(-1)?.names ?? [];
  return fields.filter(({ name }) => name === own || !names.includes(name)).map(({ name, about }) => ({ text: `"${name}": `, label: name, about }));
}

function valuesOf(field: Field | null, { frames, typed }: Place, versions: readonly string[]): Completion[] {
  if (!field) return [];
  const inList = frames.at(-1)?.kind === 'list';
  const values = (of: readonly string[]): Completion[] => of.map((value) => ({ text: JSON.stringify(value), label: value, about: '' }));
  const words = (of: readonly string[], about = ''): Completion[] => of.map((word) => ({ text: word, label: word, about }));
  const pair = (text: string): Completion[] => (typed === '' ? [{ text, label: text, about: '', back: 1 }] : []);
  if (inList) {
    if (field.kind === 'enums') return values(field.values);
    return field.kind === 'shares' ? pair('{}') : [];
  }
  const off = field.nullable ? words(['null'], 'Off, or the default.') : [];
  switch (field.kind) {
    case 'enum':
      return [...values(field.values), ...off];
    case 'boolean':
      return [...words(['true', 'false']), ...off];
    case 'number':
      // A number that is being typed is not replaced.
      return typed === '' ? [...words([String(field.default ?? field.min)], `${field.min} to ${field.max}`), ...off] : off;
    case 'section':
    case 'choice':
      return [...pair('{}'), ...off];
    case 'enums':
    case 'texts':
    case 'numbers':
    case 'pairs':
    case 'shares':
      return pair('[]');
    case 'text':
      return field.name === 'version' ? values(versions) : off;
  }
}
