/** Short messages about finished actions, with an undo if there is one. Announced to screen readers. */
import { Toast } from '@base-ui/react/toast';
import { asProblem, forPeople } from '../api/problem';
import { Mark, type Tone } from './status';

const manager = Toast.createToastManager();

interface ToastData {
  tone: Tone;
}

export interface Undo {
  label?: string;
  act: () => Promise<unknown>;
  done: string;
}

const UNDO_MS = 12_000;

export function say(text: string, options: { tone?: Tone; detail?: string; undo?: Undo } = {}): void {
  const { undo } = options;
  const id = manager.add<ToastData>({
    title: text,
    description: options.detail,
    timeout: undo ? UNDO_MS : 6_000,
    priority: options.tone === 'bad' ? 'high' : 'low',
    data: { tone: options.tone ?? 'good' },
    actionProps: undo
      ? {
          children: undo.label ?? 'Undo',
          onClick: () => {
            manager.close(id);
            undo.act().then(
              () => say(undo.done),
              (error: unknown) => fail('The change could not be undone', error),
            );
          },
        }
      : undefined,
  });
}

export function fail(text: string, error: unknown): void {
  const { detail, action } = forPeople(asProblem(error).body);
  say(text, { tone: 'bad', detail: `${detail} ${action}`.trim() });
}

export function Toasts() {
  return (
    <Toast.Provider toastManager={manager} limit={4}>
      <Toast.Portal>
        <Toast.Viewport className="toasts">
          <List />
        </Toast.Viewport>
      </Toast.Portal>
    </Toast.Provider>
  );
}

function List() {
  const { toasts } = Toast.useToastManager<ToastData>();
  return toasts.map((toast) => (
    <Toast.Root key={toast.id} toast={toast} className="toast">
      <Toast.Content className="toast-content">
        <Mark tone={toast.data?.tone ?? 'good'} size={14} />
        <div className="toast-text">
          <Toast.Title className="toast-title" />
          <Toast.Description className="toast-detail" />
        </div>
        {toast.actionProps ? <Toast.Action className="button" /> : null}
        <Toast.Close className="button quiet only-icon" aria-label="Dismiss">
          ×
        </Toast.Close>
      </Toast.Content>
    </Toast.Root>
  ));
}
