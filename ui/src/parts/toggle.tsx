/** A switch with its label. Apart from the other fields, so that the sign-in loads without it. */
import { Switch } from '@base-ui/react/switch';
import { useId } from 'react';

export function Toggle({
  label,
  hint,
  checked,
  onChange,
  disabled,
}: {
  label: string;
  hint?: string;
  checked: boolean;
  onChange: (next: boolean) => void;
  disabled?: boolean;
}) {
  const id = useId();
  return (
    <div className="toggle">
      <div>
        <span className="field-label" id={id}>
          {label}
        </span>
        {hint ? <p className="field-hint">{hint}</p> : null}
      </div>
      <Switch.Root
        className="switch"
        checked={checked}
        disabled={disabled}
        onCheckedChange={onChange}
        aria-labelledby={id}
        nativeButton
        render={<button type="button" />}
      >
        <Switch.Thumb className="switch-thumb" />
      </Switch.Root>
    </div>
  );
}
