// Keys as folders, their values, and what may be done with them.
import { createHashHistory, RouterProvider } from '@tanstack/react-router';
import { act, fireEvent, screen, waitFor, within } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { deleteKeys, keyQuery, keysQuery } from '../src/api/kv';
import { LiveCache } from '../src/api/live';
import type { Change, KvKey } from '../src/api/types';
import { router } from '../src/app/router';
import { endOf } from '../src/screens/keys/lock-dialogs';
import { crumbsOf, entriesOf, indented, isJson } from '../src/screens/keys/tree';
import { actAs, problem, scriptFetch, show, type Asked } from './fixture';

const entry = (key: string, change: Partial<KvKey> = {}): KvKey => ({
  key, text: null, base64: null, value_len: 3, flags: 0, revision: 7, create_index: 5, lock_index: 0, session: null,
  modified_at_ms: 1_700_000_000_000, modified_by: 'ada', ...change,
});

async function open(hash: string) {
  location.hash = hash;
  router.update({ history: createHashHistory() });
  const view = show(<RouterProvider router={router} />);
  await act(() => router.load());
  return view;
}

beforeEach(() => {
  actAs('operator');
  vi.spyOn(console, 'error');
});

describe('keys', () => {
  const named = (prefix: string, ...keys: string[]) =>
    entriesOf(keys.map((key) => entry(key)), prefix).map((e) => (e.kind === 'folder' ? `${e.name} ${e.keys}` : e.name));

  it('become folders and keys, also if the prefix ends within a name', () => {
    expect(named('', 'a', 'app/db/host', 'app/db/port', 'app/ttl')).toEqual(['a', 'app/ 3']);
    expect(named('app/', 'app/', 'app/db/host', 'app/db/port', 'app/ttl')).toEqual(['app/', 'db/ 2', 'ttl']);
    expect(named('app/d', 'app/db/host', 'app/debug')).toEqual(['db/ 1', 'debug']);
    expect(named('', '/a', '//b')).toEqual(['/ 2']);
    expect(named('/', '//b', '/a')).toEqual(['/ 1', 'a']);
  });

  it('have the folders above them as links', () => {
    expect(crumbsOf('app/db/ho')).toEqual([{ name: 'app/', prefix: 'app/' }, { name: 'db/', prefix: 'app/db/' }]);
    expect(crumbsOf('a')).toEqual([]);
  });

  it('are never all deleted by an empty prefix', () => {
    expect(() => deleteKeys('')).toThrow(/prefix/);
  });
});

describe('a value that is JSON', () => {
  it('is shown on several lines, and no part of it changes but white space', () => {
    const text = '{"big":12345678901234567890, "s":"a \\" {,} [b]", "none":{}, "list":[1,[],{"x":null}]}';
    const shown = indented(text);
    expect(shown).toBe('{\n  "big": 12345678901234567890,\n  "s": "a \\" {,} [b]",\n  "none": {},\n  "list": [\n    1,\n    [],\n    {\n      "x": null\n    }\n  ]\n}');
    expect(JSON.parse(shown)).toEqual(JSON.parse(text));
    expect(isJson('12')).toBe(false);
    expect(isJson('{"a": 1,}')).toBe(false);
  });
});

describe('the end of a lock session', () => {
  const session = { id: 'u', name: '', node: '', ttl_ms: null, behavior: 'release' as const, lock_delay_ms: 15_000, checks: [], create_index: 1, created_at_ms: 1, created_by: 'ada', locks: ['a', 'b'], locks_len: 2 };
  it('is told in words', () => {
    expect(endOf(session)).toBe('Its 2 keys are unlocked. They can be locked again after 15 s.');
    expect(endOf({ ...session, behavior: 'delete', locks: ['a'], locks_len: 1 })).toBe('Its key is deleted, with the value.');
    expect(endOf({ ...session, locks: [], locks_len: 0 })).toBe('It holds no keys.');
  });
});

describe('an event about keys', () => {
  it('has those lists and keys read again that it concerns', async () => {
    const { queries } = show(null);
    scriptFetch({ 'GET /kv': () => ({ items: [], next_cursor: null }), 'GET /kv/app%2Fa': () => entry('app/a') });
    const lists = ['', 'app/', 'other/'];
    for (const prefix of lists) await queries.fetchInfiniteQuery(keysQuery(prefix));
    await queries.fetchQuery(keyQuery('app/a'));
    const live = new LiveCache(queries);
    const stale = () => queries.getQueryCache().findAll({ queryKey: ['kv'], predicate: (q) => q.state.isInvalidated }).map((q) => q.queryKey.slice(1).join(' '));
    live.change({ index: 30, time_ms: 1, type: 'kv_changed', keys: ['app/b'] } as Change);
    await waitFor(() => expect(stale()).toEqual(['list ', 'list app/']));
    live.change({ index: 31, time_ms: 1, type: 'kv_changed', prefixes: ['app/'] } as Change);
    await waitFor(() => expect(stale()).toContain('key app/a'));
    expect(stale()).not.toContain('list other/');
  });
});

describe('the screen of keys', () => {
  const routes = (extra: Record<string, (asked: Asked) => unknown> = {}) => ({
    'GET /kv': () => ({ items: [entry('app/config'), entry('app/db/host')], next_cursor: null }),
    'GET /kv/app%2Fconfig': () => entry('app/config', { text: 'old', revision: 7 }),
    ...extra,
  });

  it('changes a key only if it has the revision that was shown, and says who was first', async () => {
    const user = userEvent.setup();
    let puts = 0;
    const asked = scriptFetch(
      routes({
        'PUT /kv/app%2Fconfig': () => (puts++ === 0 ? problem(412, 'revision-mismatch', 'send its ETag as If-Match') : { index: 9, revision: 9 }),
      }),
    );
    await open('#/keys?prefix=app%2F&key=app%2Fconfig');
    await user.click(await screen.findByRole('button', { name: 'Edit' }));
    const dialog = within(await screen.findByRole('alertdialog'));
    expect(dialog.getByRole('button', { name: 'Change' }).getAttribute('aria-disabled')).toBe('true');
    fireEvent.change(dialog.getByLabelText('Value'), { target: { value: 'new' } });
    expect(await dialog.findByRole('group', { name: /1 added, 1 removed/ })).toBeTruthy();
    await user.click(dialog.getByRole('button', { name: 'Change' }));
    expect(await dialog.findByText(/Someone else changed it meanwhile/)).toBeTruthy();
    await user.click(dialog.getByRole('button', { name: 'Change' }));
    await screen.findByText('app/config is changed (revision 9).');
    const put = asked.filter((a) => a.method === 'PUT');
    expect(put.map((a) => a.headers.get('if-match'))).toEqual(['"7"', '"7"']);
    expect(put[1]?.body).toEqual({ text: 'new', flags: 0 });
  }, 30_000);

  it('offers a viewer nothing, and says why', async () => {
    actAs('viewer');
    scriptFetch(routes());
    await open('#/keys?key=app%2Fconfig');
    const edit = await screen.findByRole('button', { name: 'Edit' });
    expect(edit.getAttribute('aria-disabled')).toBe('true');
    expect(document.getElementById(edit.getAttribute('aria-describedby') ?? '')?.textContent).toMatch(/Needs the role operator/);
  }, 30_000);

  it('does not show a long value as a whole, nor edit what is not text', async () => {
    const long = 'x'.repeat(500_000);
    scriptFetch(
      routes({
        'GET /kv/app%2Fconfig': () => entry('app/config', { text: long, value_len: long.length }),
        'GET /kv/app%2Fdb%2Fhost': () => entry('app/db/host', { base64: '/w==', value_len: 1 }),
      }),
    );
    await open('#/keys?key=app%2Fconfig');
    expect((await screen.findByLabelText('Value', { selector: 'pre' })).textContent?.length).toBeLessThan(40_000);
    expect(screen.getByRole('button', { name: 'Edit' }).getAttribute('aria-disabled')).toBe('true');
    await act(() => router.navigate({ to: '/keys', search: { key: 'app/db/host' } }));
    expect(await screen.findByText('1 B that are not text.')).toBeTruthy();
  }, 30_000);
});
