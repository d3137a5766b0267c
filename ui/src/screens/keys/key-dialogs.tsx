/** Changes of keys. A key is changed or deleted only if it still has the revision that the reader has seen. */
import { useQueryClient } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useDeferredValue, useMemo, useState } from 'react';
import { deleteKey, deleteKeys, putKey, type Value } from '../../api/kv';
import type { KvKey } from '../../api/types';
import { Button } from '../../parts/button';
import { Confirm } from '../../parts/dialog';
import { Diff } from '../../parts/diff';
import { AreaField, TextField } from '../../parts/field';
import { count, plural } from '../../parts/format';
import { Note } from '../../parts/states';
import { say } from '../../parts/toast';
import { isJson } from './tree';

const KEY_LEN_MAX = 1024;
const VALUE_LEN_MAX = 524_288;
/** A difference of longer texts is not shown while they are edited. */
const COMPARED_CHARS_MAX = 16_384;

const utf8Len = (text: string) => new TextEncoder().encode(text).length;
const tooLong = (text: string) => (utf8Len(text) > VALUE_LEN_MAX ? 'A value has at most 512 KiB.' : null);
const valueOf = ({ text, base64 }: KvKey): Value => (text === null ? { base64: base64 ?? '' } : { text });

function useRefresh() {
  const queries = useQueryClient();
  return () => Promise.all(['kv', 'locks', 'lock-sessions'].map((topic) => queries.invalidateQueries({ queryKey: [topic] })));
}

/** `now` is the key as it is at present; null if it was deleted. */
export function EditKey({ entry, now, onClose }: { entry: KvKey; now: KvKey | null | undefined; onClose: () => void }) {
  const [base, setBase] = useState(entry);
  const [text, setText] = useState(entry.text ?? '');
  const refresh = useRefresh();
  const before = base.text ?? '';
  const compared = useDeferredValue(text);
  const wasJson = useMemo(() => isJson(before), [before]);
  const changed = now && now.revision !== base.revision ? now : null;
  return (
    <Confirm
      open
      onClose={onClose}
      title={`Change ${entry.key}`}
      verb="Change"
      blocked={text === before ? 'There are no changes.' : tooLong(text)}
      effect={<p>The value changes on every node at once, and programs that wait for this key get it.</p>}
      act={async () => {
        const { data } = await putKey(entry.key, { text }, base.flags, base.revision);
        say(`${entry.key} is changed (revision ${data.revision}).`, {
          undo: { act: () => putKey(entry.key, valueOf(base), base.flags, data.revision).finally(refresh), done: 'The earlier value is back.' },
        });
        await refresh();
      }}
    >
      {base.session === null ? null : <Note tone="warn">A lock session holds this key. Locks are advisory: the change is made all the same.</Note>}
      {changed ? (
        <Note tone="warn">
          {changed.modified_by} has changed this key meanwhile.{' '}
          {changed.text === null ? 'It is no longer text.' : <Button onClick={() => setBase(changed)}>Compare with the new value</Button>}
        </Note>
      ) : null}
      {now === null ? <Note tone="warn">This key was deleted meanwhile.</Note> : null}
      <div className="code-area">
        <AreaField label="Value" rows={10} value={text} onChange={(e) => setText(e.target.value)} />
      </div>
      {wasJson && !isJson(compared) ? <Note tone="warn">The present value is JSON, and the new one is not.</Note> : null}
      {before.length + compared.length <= COMPARED_CHARS_MAX && compared !== before ? <Diff label="Change of the value" before={before} after={compared} /> : null}
    </Confirm>
  );
}

export function AddKey({ open, onClose, prefix }: { open: boolean; onClose: () => void; prefix: string }) {
  return open ? <NewKey onClose={onClose} prefix={prefix} /> : null;
}

function NewKey({ onClose, prefix }: { onClose: () => void; prefix: string }) {
  const [key, setKey] = useState(prefix);
  const [text, setText] = useState('');
  const refresh = useRefresh();
  const navigate = useNavigate();
  return (
    <Confirm
      open
      onClose={onClose}
      title="Add a key"
      verb="Add"
      blocked={whyNotAKey(key) ?? tooLong(text)}
      effect={<p>Every viewer can read the value, and it is stored unencrypted. Do not store passwords here.</p>}
      act={async () => {
        await putKey(key, { text }, 0, null);
        say(`${key} is added.`);
        await refresh();
        void navigate({ to: '/keys', search: { prefix: key.slice(0, key.lastIndexOf('/') + 1) || undefined } });
      }}
    >
      <TextField label="Key" hint="Slashes make folders." value={key} maxLength={KEY_LEN_MAX} autoComplete="off" spellCheck={false} onChange={(e) => setKey(e.target.value)} />
      <div className="code-area">
        <AreaField label="Value" rows={6} value={text} onChange={(e) => setText(e.target.value)} />
      </div>
    </Confirm>
  );
}

function whyNotAKey(key: string): string | null {
  if (key === '') return 'Enter a key.';
  if (utf8Len(key) > KEY_LEN_MAX) return 'A key has at most 1024 bytes.';
  // Nothing could open such a key by its URL.
  return key === '.' || key === '..' ? `“${key}” cannot be a key.` : null;
}

export function DeleteKey({ entry, onClose }: { entry: KvKey; onClose: () => void }) {
  const refresh = useRefresh();
  return (
    <Confirm
      open
      onClose={onClose}
      title={`Delete ${entry.key}?`}
      verb="Delete"
      danger
      effect={
        <>
          <p>The key and its value are deleted on every node at once.</p>
          {entry.session === null ? null : <Note tone="bad">A lock session holds this key, and loses the lock.</Note>}
        </>
      }
      act={async () => {
        await deleteKey(entry.key, entry.revision);
        say(`${entry.key} is deleted.`, {
          undo: { act: () => putKey(entry.key, valueOf(entry), entry.flags, null).finally(refresh), done: `${entry.key} has its value again.` },
        });
        await refresh();
      }}
    />
  );
}

export function DeleteKeys({ open, onClose, prefix, keys, more }: { open: boolean; onClose: () => void; prefix: string; keys: number; more: boolean }) {
  const refresh = useRefresh();
  return (
    <Confirm
      open={open}
      onClose={onClose}
      title={`Delete all keys that begin with ${prefix}?`}
      verb="Delete all"
      danger
      typed={prefix}
      effect={
        <p>
          <b>{more ? `More than ${count(keys)} keys` : plural(keys, 'key')}</b> and their values are deleted on every node at once. Lock sessions lose the locks on them. This
          cannot be undone.
        </p>
      }
      act={async () => {
        await deleteKeys(prefix);
        say(`All keys that begin with ${prefix} are deleted.`);
        await refresh();
      }}
    />
  );
}
