/** What the page says: no sentence for API clients, no figure that says more than is known. */
import { screen } from '@testing-library/react';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { forPeople, saying } from '../src/api/problem';
import { FieldChanges } from '../src/parts/field-changes';
import { percent } from '../src/parts/format';
import { ACTIONS, end, PlainTable } from '../src/parts/plain-table';
import { NodeReports } from '../src/screens/cluster/node-reports';
import { SuspendedExpiry } from '../src/screens/cluster/suspended-expiry';
import { actAs, scriptFetch, show } from './fixture';

/** What nobody who uses the page can do. */
const FOR_PROGRAMS = /If-Match|ETag|Idempotency-Key|Retry-After|Content-Type|Authorization|\/api\/|min_index|create=true|\b(GET|PUT|POST|PATCH|DELETE)\b|\brequest\b/;

/** Every text of the server that says what can be done about a problem. */
function actionsOfServer(): string[] {
  const dir = '../crates/api/src';
  const kinds = readFileSync(join(dir, 'problem.rs'), 'utf8');
  const byKind = kinds.slice(kinds.indexOf('pub fn action(self)'), kinds.indexOf('pub fn outcome(self)'));
  const texts = [...byKind.matchAll(/"([^"]+)"/g)].map((m) => m[1] ?? '');
  const files = readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.rs'));
  for (const file of files) texts.push(...[...readFileSync(join(dir, file), 'utf8').matchAll(/\.action =\s+"([^"]+)"/g)].map((m) => m[1] ?? ''));
  return texts;
}

describe('a problem', () => {
  const body = (type: string, detail: string, action: string) => ({ type: `/problems/${type}`, title: 'Unavailable', status: 503, detail, action });
  it('says to people what they can do, and nothing of what the API says to programs', () => {
    const actions = actionsOfServer();
    expect(actions.length).toBeGreaterThan(25);
    for (const kind of ['unavailable', 'outcome-unknown', 'not-found', 'a-kind-of-a-newer-version']) {
      for (const action of actions) {
        const said = forPeople(body(kind, 'there is no leader', action)).action ?? '';
        expect(said, action).not.toMatch(FOR_PROGRAMS);
        expect(said, action).not.toBe('');
      }
    }
  });
  it('keeps what is useful, and leaves the names of the user alone', () => {
    const said = forPeople(body('managed', 'the user ada comes from the environment', 'Change it in the environment of every node and restart them.'));
    expect(said.action).toBe('Change it in the environment of every node and restart them.');
    expect(forPeople(body('limit-exceeded', 'service "request-log" has too many', 'x')).detail).toBe('service "request-log" has too many.');
    expect(forPeople(body('conflict', 'The token exists. Send a new Idempotency-Key.', 'x')).detail).toBe('The token exists.');
  });
  it('reads as a sentence', () => {
    const { head, rest } = saying(forPeople(body('unavailable', 'there is no leader', '')));
    expect(`${head} ${rest}`).toBe('Unavailable: there is no leader.');
    expect(saying({ title: 'Wrong user name or password', detail: 'Upper and lower case matter.' }).head).toBe('Wrong user name or password.');
  });
});

describe('a share', () => {
  it('is 100 % only if it is all, and 0 % only if it is nothing', () => {
    expect([1, 0, 0.5, 0.99999, 0.00001].map((share) => percent(share))).toEqual(['100.0 %', '0.0 %', '50.0 %', '>99.9 %', '<0.1 %']);
    expect([percent(0.999999, 2), percent(0.000001, 2), percent(0.997, 0)]).toEqual(['>99.99 %', '<0.01 %', '>99 %']);
  });
});

describe('a table', () => {
  it('has a name, and a name for each column, also for the one of the buttons', () => {
    show(
      <PlainTable label="Nodes" columns={['Node', end('Term'), ACTIONS]}>
        <tr>
          <th scope="row">n1</th>
        </tr>
      </PlainTable>,
    );
    expect(screen.getByRole('region', { name: 'Nodes' }).tabIndex).toBe(0);
    const heads = screen.getAllByRole('columnheader');
    expect(heads.map((head) => [head.textContent, head.className])).toEqual([['Node', ''], ['Term', 'end'], ['Actions', '']]);
    expect(heads[2]?.firstElementChild?.className).toBe('sr');
  });
});

describe('the fields of a change', () => {
  const of = ['a', 'b', 'c'].map((field) => ({ field, from: '1', to: '2' }));
  it('say how many more there are than those that are shown', () => {
    const { container } = show(<FieldChanges of={of} max={1} />);
    expect(container.textContent).toContain('a 1 →to 2');
    expect(container.textContent).toContain('and 2 more fields');
  });
  it('are all shown if no number is given', () => {
    const { container } = show(<FieldChanges of={of} />);
    expect(container.querySelectorAll('.field-change')).toHaveLength(3);
    expect(container.textContent).not.toContain('more');
  });
});

describe('the cluster', () => {
  const report = { node: 'n1', version: '2.0.0', uptime_ms: 1, index: 5, audit_head: 'ab', staleness_ms: 0, leader: 'n1', is_leader: true, term: 3, log: null, lookups: 0, proxied: 0, failed: 0 };
  it('is said to have one leader only if every node answered', async () => {
    let second: unknown = null;
    scriptFetch({
      'GET /cluster/nodes': () => ({
        items: [{ id: 1, name: 'n1', report, problem: null }, { id: 2, name: 'n2', report: { ...report, node: 'n2', is_leader: false }, problem: null }, { id: 3, name: 'n3', report: second, problem: second ? null : 'no answer' }],
        next_cursor: null,
      }),
    });
    const { queries } = show(<NodeReports />);
    await screen.findByText(/^The 2 nodes that answered do not contradict each other/);
    expect(screen.queryByText(/^No split brain/)).toBeNull();
    second = { ...report, node: 'n3', is_leader: false };
    await queries.invalidateQueries();
    await screen.findByText(/^No split brain/);
  });
  it('keeps silent instances until they are heard or confirmed to be gone, and any node takes the confirmation', () => {
    actAs('operator');
    show(<SuspendedExpiry />);
    expect(document.body.textContent).toContain('No instance is removed until they send heartbeats again');
    expect(screen.getByRole('button', { name: /^Confirm that they are gone/ }).getAttribute('aria-disabled')).not.toBe('true');
  });
});
