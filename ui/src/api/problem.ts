/**
 * Errors of the API (RFC 9457), and those of the browser: a node that cannot be reached, or an answer
 * that is not from Maxine. Screens show `title`, `detail` and `action`.
 */

export interface ProblemBody {
  type: string;
  title: string;
  status: number;
  detail: string;
  action: string;
  field?: string | null;
  limit?: string | null;
  value?: string | null;
  retry_after_s?: number | null;
  trace_id?: string | null;
}

export class Problem extends Error {
  readonly body: ProblemBody;

  constructor(body: ProblemBody) {
    super(body.detail || body.title);
    this.name = 'Problem';
    this.body = body;
  }

  get status(): number {
    return this.body.status;
  }

  /** Whether the last part of `type` is `kind`, such as `revision-mismatch`. */
  is(kind: string): boolean {
    return this.body.type === `/problems/${kind}`;
  }
}

/** The node did not answer at all. */
export function unreachable(node: string, cause: unknown): Problem {
  return new Problem({
    type: '/problems/unreachable',
    title: 'The node cannot be reached',
    status: 0,
    detail: `${node} did not answer${cause instanceof Error && cause.name === 'TimeoutError' ? ' in time' : ''}.`,
    action: 'The page keeps trying, here and at the other nodes it knows.',
  });
}

/** Reads the body of an answer that is not 2xx. */
export async function problemOf(response: Response): Promise<Problem> {
  const text = await response.text().catch(() => '');
  try {
    const body: unknown = JSON.parse(text);
    if (isProblemBody(body)) return new Problem({ ...body, action: body.action ?? '' });
    const message = (body as { message?: unknown } | null)?.message;
    if (typeof message === 'string') return plain(response.status, message);
  } catch {
    // Not JSON: only the status is shown below, because the body may come from a proxy in between.
  }
  return plain(response.status, `The node answered ${response.status} ${response.statusText}`.trim());
}

function plain(status: number, detail: string): Problem {
  if (status === 404) {
    return new Problem({
      type: '/problems/not-found',
      title: 'Not found',
      status,
      detail,
      action: 'It may have been removed, or this node runs a version that does not have it.',
    });
  }
  return new Problem({
    type: '/problems/other',
    title: 'The request failed',
    status,
    detail,
    action: 'Try again. If it fails again, look at the log of the node.',
  });
}

function isProblemBody(body: unknown): body is ProblemBody {
  const it = body as ProblemBody | null;
  return typeof it?.type === 'string' && typeof it.title === 'string' && typeof it.status === 'number';
}

/** Sentences that the API says to programs: about headers, methods, routes, and how to send a request. */
const TO_PROGRAMS =
  /If-Match|ETag|Idempotency-Key|Retry-After|Content-Type|Authorization|min_index|x-maxine|create=|\/api\/|\b(GET|PUT|POST|PATCH|DELETE)\b|\brequest\b|\broute\b|\bpath\b|heartbeats? for it/i;
/** A detail names things of the user, which may contain common words. So only what is certainly for programs is left out. */
const DETAIL_TO_PROGRAMS = /If-Match|ETag|Idempotency-Key|Retry-After|min_index|x-maxine-|create=true|\/api\/v1/;

/** What a person can do, by the kind of the problem. */
const ACTIONS: Record<string, string> = {
  'invalid-request': 'Correct the value, and try again.',
  'unknown-field': 'Remove the field, or correct its name.',
  unauthorized: 'Sign in again.',
  forbidden: 'Ask an administrator for the role.',
  'not-found': 'It may have been removed meanwhile.',
  'request-timeout': 'Nothing was changed. Try again.',
  conflict: 'Look at the present state, and decide whether the change is still needed.',
  'limit-exceeded': 'Correct the value, and try again.',
  'too-many-requests': 'Wait a few seconds, and try again.',
  internal: 'Look at the present state before you try again. Report the problem with the trace id.',
  unavailable: 'Nothing was changed. Try again in a few seconds.',
  'outcome-unknown': 'It may have taken effect. Look at the present state before you try again.',
};
const OTHER_ACTION = 'Reload the page, and try again. If it happens again, report it with the text above.';

const REVISION_MISMATCH = {
  title: 'Someone else changed it meanwhile',
  detail: 'Nothing was changed.',
  action: 'Close this dialog, look at the present version, and try again.',
};

function without(text: string, sentences: RegExp): string {
  return text
    .split(/(?<=\.) /)
    .filter((sentence) => !sentences.test(sentence))
    .join(' ');
}

/** A problem in the words of the page. Its kind stays. What the API says to programs is left out. */
export function forPeople(body: ProblemBody): ProblemBody {
  const kind = body.type.split('/').at(-1) ?? '';
  if (kind === 'revision-mismatch') return { ...body, ...REVISION_MISMATCH };
  const detail = without(body.detail, DETAIL_TO_PROGRAMS);
  const said = without(body.action ?? '', TO_PROGRAMS);
  const action = said || (body.action ? (ACTIONS[kind] ?? OTHER_ACTION) : '');
  return { ...body, detail: detail === '' || /[.!?…”]$/.test(detail) ? detail : `${detail}.`, action };
}

/** The title and the detail as one text. The details of the API begin with a lower-case letter. */
export function saying({ title, detail }: Pick<ProblemBody, 'title' | 'detail'>): { head: string; rest: string } {
  return { head: /^[a-z]/.test(detail) ? `${title}:` : `${title}.`, rest: detail };
}

/** Converts any thrown value to a problem for display. */
export function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  const detail = error instanceof Error ? error.message : String(error);
  return new Problem({
    type: '/problems/page',
    title: 'The page failed',
    status: 0,
    detail,
    action: 'Reload the page. If it happens again, please report it with the text above.',
  });
}
