/** Who may do what: as the server lists it, with the users and tokens of the roles. */
import { screen, within } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import axe from 'axe-core';
import { describe, expect, it } from 'vitest';
import { described, WhoMay } from '../src/screens/access/who-may';
import { problem, scriptFetch, show } from './fixture';

const DRAIN = '/api/v1/services/{namespace}/{service}/instances/{id}/drain';
const rights = [
  { method: 'PUT', path: DRAIN, open: false, roles: ['operator', 'admin'], setting: null },
  { method: 'GET', path: '/api/v1/users', open: false, roles: ['admin'], setting: null },
  { method: 'POST', path: '/api/v1/heartbeats', open: true, roles: ['viewer', 'operator', 'admin'], setting: 'registration_access' },
  { method: 'GET', path: '/api/v1/of-a-newer-version', open: false, roles: ['viewer', 'operator', 'admin'], setting: null },
];
const user = (name: string, role: string) => ({ name, role, credential_version: 1, managed: false });
const token = (note: string, role: string, expires_at_ms: number | null) => ({ id: `id-${note}`, note, role, created_by: 'ada', created_at_ms: 1, expires_at_ms });
const page = (items: unknown[], next_cursor: string | null = null) => ({ items, next_cursor });

function serve() {
  return scriptFetch({
    'GET /access': () => page(rights),
    // The second page counts as well.
    'GET /users': ({ query }) => (query.get('cursor') ? page([user('olga', 'operator')]) : page([user('vera', 'viewer'), user('ada', 'admin')], 'x')),
    'GET /tokens': () => page([token('deploy', 'operator', null), token('old', 'admin', 5), token('read', 'viewer', null)]),
  });
}

describe('who may do what', () => {
  it('names the roles, users and tokens that may, of all pages, and no token that has expired', async () => {
    serve();
    show(<WhoMay named />);
    await userEvent.click(await screen.findByRole('button', { name: 'Drains an instance' }));
    const names = within(await screen.findByRole('region', { name: 'Who may: Drains an instance' }));
    await names.findByText('2 users: ada (admin), olga (operator).');
    await names.findByText('1 API token: deploy (operator).');
    const row = screen.getByRole('row', { name: /^Drains an instance/ });
    expect(within(row).getAllByRole('cell').map((cell) => cell.textContent)).toEqual(['no', 'no', 'yes', 'yes']);
    expect((await axe.run(document.body, { runOnly: ['wcag2a', 'wcag2aa'] })).violations).toEqual([]);
    await userEvent.click(screen.getByRole('button', { name: 'Lists users' }));
    await screen.findByText('1 user: ada (admin).');
    await screen.findByText('No API token.');
  });
  it('says what needs no credential, and which setting decides that', async () => {
    serve();
    show(<WhoMay named />);
    await userEvent.type(await screen.findByLabelText('Find an action'), 'heartbeats');
    const row = await screen.findByRole('row', { name: /^Renews up to 1000 leases/ });
    expect(within(row).getAllByRole('cell')[0]?.textContent).toBe('yesby registration_access');
    expect(screen.queryByRole('row', { name: /^Lists users/ })).toBeNull();
    await userEvent.click(screen.getByRole('button', { name: /^Renews up to 1000 leases/ }));
    await screen.findByText('Anyone who reaches a node, without a credential.');
  });
  it('asks for no names that the user may not read', async () => {
    const asked = serve();
    show(<WhoMay named={false} />);
    await screen.findByRole('row', { name: /^Drains an instance/ });
    expect(asked.map((a) => a.path)).toEqual(['/access']);
    expect(screen.queryByRole('button', { name: 'Drains an instance' })).toBeNull();
  });
  it('is not guessed if it cannot be read', async () => {
    scriptFetch({ 'GET /access': () => problem(503, 'unavailable', 'the node is stopping') });
    show(<WhoMay named />);
    await screen.findByText('the node is stopping.');
    expect(screen.queryByText('yes')).toBeNull();
  });
  it('shows a route that this page does not know by its method and path', () => {
    expect(described(rights as Parameters<typeof described>[0]).at(-1)?.does).toBe('GET /api/v1/of-a-newer-version');
  });
});
