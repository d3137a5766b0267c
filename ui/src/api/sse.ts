/**
 * Reads server-sent events from a `fetch` body. Unlike `EventSource`, it can send a bearer token to another
 * node, returns the status of a refusal, and lets the caller decide when to try again.
 */

export interface SseMessage {
  event: string;
  data: string;
  id: string | null;
}

/**
 * Maximum length of an unfinished line, in characters. A line without an end would otherwise fill the memory of
 * the tab.
 */
const BUFFER_LEN_MAX = 4 * 1024 * 1024;

/** Splits text as it arrives into messages. A comment line is a message with the event `comment`. */
export class SseParser {
  private rest = '';
  private event = '';
  private data: string[] = [];
  private id: string | null = null;

  push(text: string): SseMessage[] {
    this.rest += text;
    if (this.rest.length > BUFFER_LEN_MAX) throw new Error('a stream message is too long');
    const out: SseMessage[] = [];
    for (;;) {
      const end = this.rest.search(/\r\n|\n|\r/);
      // A CR at the very end may be the first half of CRLF, so wait for the next text.
      if (end < 0 || (this.rest[end] === '\r' && end === this.rest.length - 1)) return out;
      const line = this.rest.slice(0, end);
      this.rest = this.rest.slice(end + (this.rest.startsWith('\r\n', end) ? 2 : 1));
      const message = this.line(line);
      if (message) out.push(message);
    }
  }

  private line(line: string): SseMessage | null {
    if (line === '') {
      if (this.data.length === 0) {
        this.event = '';
        return null;
      }
      const message = { event: this.event || 'message', data: this.data.join('\n'), id: this.id };
      this.event = '';
      this.data = [];
      return message;
    }
    if (line.startsWith(':')) return { event: 'comment', data: line.slice(1).trim(), id: this.id };
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') this.event = value;
    else if (field === 'data') this.data.push(value);
    else if (field === 'id' && !value.includes('\0')) this.id = value;
    return null;
  }
}

/** Reads messages until the stream ends, `signal` aborts, or nothing came for `silenceMs`. */
export async function* readSse(
  response: Response,
  signal: AbortSignal,
  silenceMs: number,
): AsyncGenerator<SseMessage> {
  if (!response.body) throw new Error('the stream has no body');
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new SseParser();
  try {
    for (;;) {
      const chunk = await withLimit(reader.read(), silenceMs, signal);
      if (chunk.done) return;
      yield* parser.push(chunk.value);
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

function withLimit<T>(promise: Promise<T>, limitMs: number, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => done(() => reject(new Error('the stream fell silent'))), limitMs);
    const abort = () => done(() => reject(new DOMException('aborted', 'AbortError')));
    function done(then: () => void) {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
      then();
    }
    if (signal.aborted) return abort();
    signal.addEventListener('abort', abort);
    promise.then(
      (value) => done(() => resolve(value)),
      (error: unknown) => done(() => reject(error instanceof Error ? error : new Error(String(error)))),
    );
  });
}
