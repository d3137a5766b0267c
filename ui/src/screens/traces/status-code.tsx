/** An HTTP status, whose class is shown by shape and colour. */
import { Status, type Tone } from '../../parts/status';

export function StatusCode({ status }: { status: number }) {
  const tone: Tone = status >= 500 ? 'bad' : status >= 400 ? 'warn' : status >= 300 ? 'info' : 'good';
  return (
    <span className="status-code num">
      <Status tone={tone}>{status}</Status>
    </span>
  );
}
