/** Text with a button that copies it. */
import { useEffect, useState } from 'react';
import { Button } from './button';

export function CopyButton({ text, label }: { text: string; label: string }) {
  const [state, setState] = useState<'idle' | 'done' | 'failed'>('idle');
  useEffect(() => {
    if (state === 'idle') return;
    const timer = setTimeout(() => setState('idle'), 2_000);
    return () => clearTimeout(timer);
  }, [state]);
  const copy = () =>
    // `navigator.clipboard` is missing if the page was loaded over plain HTTP from another machine.
    (navigator.clipboard?.writeText(text) ?? Promise.reject(new Error('no clipboard'))).then(
      () => setState('done'),
      () => setState('failed'),
    );
  return (
    <>
      <Button kind="quiet" icon={state === 'done' ? 'check' : 'copy'} aria-label={label} onClick={() => void copy()} />
      <span className="sr" role="status">
        {state === 'done' ? 'Copied' : state === 'failed' ? 'Copying does not work here: select the text' : ''}
      </span>
    </>
  );
}

export function Command({ text, label }: { text: string; label: string }) {
  return (
    <div className="command">
      <pre tabIndex={0} aria-label={label}>
        {text}
      </pre>
      <CopyButton text={text} label={`Copy: ${label}`} />
    </div>
  );
}
