/** A value: text as it is stored, JSON on several lines, or only the size of what is not text. */
import { useMemo, useState } from 'react';
import type { KvKey } from '../../api/types';
import { Button } from '../../parts/button';
import { CopyButton } from '../../parts/copy';
import { saveFile } from '../../parts/download';
import { Choice } from '../../parts/field';
import { bytes } from '../../parts/format';
import { indented, isJson } from './tree';

/** More text is not shown, so that the largest value does not slow the page down. */
const SHOWN_CHARS_MAX = 32_768;

type Form = 'stored' | 'json';

export function StoredValue({ entry }: { entry: KvKey }) {
  const { text, value_len: size } = entry;
  const [form, setForm] = useState<Form>('json');
  const json = useMemo(() => text !== null && text.length <= SHOWN_CHARS_MAX && isJson(text), [text]);
  const shown = useMemo(() => {
    if (text === null) return '';
    return json && form === 'json' ? indented(text) : text.slice(0, SHOWN_CHARS_MAX);
  }, [text, json, form]);
  const save = (
    <Button icon="download" onClick={() => saveFile(new Blob([bytesOf(entry)]), entry.key.split('/').at(-1) || 'value')}>
      Save as a file
    </Button>
  );
  if (text === null) {
    return (
      <>
        <p>{bytes(size)} that are not text.</p>
        <p className="value-foot">{save}</p>
      </>
    );
  }
  if (text === '') return <p className="muted">The value is empty.</p>;
  return (
    <>
      {json ? (
        <Choice
          label="How the value is shown"
          value={form}
          onChange={setForm}
          options={[
            { value: 'json', label: 'JSON' },
            { value: 'stored', label: 'As stored' },
          ]}
        />
      ) : null}
      <pre className="value" tabIndex={0} aria-label="Value">
        {shown}
      </pre>
      {text.length > SHOWN_CHARS_MAX ? <p className="muted">Only the beginning is shown. The whole value has {bytes(size)}.</p> : null}
      <p className="value-foot">
        {save}
        <CopyButton text={text} label="Copy the value" />
      </p>
    </>
  );
}

function bytesOf({ text, base64 }: KvKey): BlobPart {
  return text ?? Uint8Array.from(atob(base64 ?? ''), (char) => char.charCodeAt(0));
}
