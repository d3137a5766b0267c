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

/** What the API says to programs, for those kinds of problems in which it means nothing to a person. */
const FOR_PEOPLE: Record<string, Partial<ProblemBody>> = {
  'revision-mismatch': {
    title: 'Someone else changed it meanwhile',
    detail: 'Nothing was changed.',
    action: 'Close this dialog, look at the present version, and try again.',
  },
};

/** A problem in the words of the page. Its kind stays. */
export function forPeople(body: ProblemBody): ProblemBody {
  return { ...body, ...FOR_PEOPLE[body.type.split('/').at(-1) ?? ''] };
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
