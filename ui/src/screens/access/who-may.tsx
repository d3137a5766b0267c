/** Who may do what: the roles, the users and the API tokens that may use a route of the API. */
import { useQuery } from '@tanstack/react-query';
import { Fragment, useMemo, useState } from 'react';
import { rightsQuery, tokensQuery, usersQuery } from '../../api/queries';
import type { ApiToken, Role, RouteRights, User } from '../../api/types';
import { Search } from '../../parts/field';
import { plural } from '../../parts/format';
import { Panel } from '../../parts/layout';
import { PlainTable } from '../../parts/plain-table';
import { Empty, Loaded } from '../../parts/states';
import { Status } from '../../parts/status';
import { useNow } from '../../parts/time';
import operations from './operations.json';

const ROLES: readonly Role[] = ['viewer', 'operator', 'admin'];
const keyOf = ({ method, path }: { method: string; path: string }) => `${method} ${path}`;
const KNOWN: ReadonlyMap<string, { subject: string; does: string }> = new Map(operations.map((o) => [keyOf(o), o]));

interface Right extends RouteRights {
  key: string;
  /** What the route does; its method and path if this page does not know it. */
  does: string;
  subject: string;
}

/** The rights with what their routes do. */
export function described(rights: readonly RouteRights[]): Right[] {
  return rights.map((right) => {
    const key = keyOf(right);
    const known = KNOWN.get(key);
    return { ...right, key, does: known?.does ?? key, subject: known?.subject ?? 'other' };
  });
}

/** Those that have every word of `text`. */
export function matching(rights: readonly Right[], text: string): Right[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return rights.filter((r) => words.every((word) => `${r.does} ${r.subject} ${r.key}`.toLowerCase().includes(word)));
}

/** `named`: whether the page may read users and tokens. */
export function WhoMay({ named }: { named: boolean }) {
  const query = useQuery(rightsQuery());
  const [text, setText] = useState('');
  const [chosen, setChosen] = useState<string | null>(null);
  const all = useMemo(() => described(query.data ?? []), [query.data]);
  const found = matching(all, text);
  return (
    <Panel title="Who may?" aside="by the settings of the node that serves this page" flush>
      <div className="pad">
        <Search label="Find an action" placeholder="Find an action, such as drain, policy or backup" value={text} onChange={setText} />
      </div>
      <Loaded query={query} what="the rights" rows={8}>
        {() =>
          found.length === 0 ? (
            <Empty title="No action matches." />
          ) : (
            <>
              {named ? <p className="pad muted">Choose an action to see which users and tokens may do it.</p> : null}
              <PlainTable label="Rights" columns={['Action', 'No credential', ...ROLES]}>
                {found.map((r) => (
                  <Fragment key={r.key}>
                    <tr>
                      <th scope="row" className="break">
                        {named ? (
                          <button type="button" className="text-button" aria-expanded={r.key === chosen} onClick={() => setChosen(r.key === chosen ? null : r.key)}>
                            {r.does}
                          </button>
                        ) : (
                          r.does
                        )}
                        <div className="muted mono">{r.key.replace('/api/v1', '')}</div>
                      </th>
                      <td>
                        <May yes={r.open} />
                        {r.setting === null ? null : <div className="muted">by {r.setting}</div>}
                      </td>
                      {ROLES.map((role) => (
                        <td key={role}>
                          <May yes={r.roles.includes(role)} />
                        </td>
                      ))}
                    </tr>
                    {named && r.key === chosen ? (
                      <tr>
                        <td colSpan={2 + ROLES.length} className="break">
                          <Names right={r} />
                        </td>
                      </tr>
                    ) : null}
                  </Fragment>
                ))}
              </PlainTable>
              <p className="pad muted">
                Some actions are checked further: a watch of more than one service needs a viewer, only operators see the header values of probes and policies, and
                a lock is given back by its lock session. The other APIs (compatible, Consul, DNS) have their own routes.
              </p>
            </>
          )
        }
      </Loaded>
    </Panel>
  );
}

function May({ yes }: { yes: boolean }) {
  return yes ? <Status tone="good">yes</Status> : <span className="faint">no</span>;
}

/** The users and tokens that may use a route. */
function Names({ right }: { right: Right }) {
  const users = useQuery(usersQuery());
  const tokens = useQuery(tokensQuery());
  const now = useNow();
  const mayBe = (role: Role) => right.roles.includes(role);
  return (
    <section className="who-may" aria-label={`Who may: ${right.does}`} aria-live="polite">
      {right.open ? <p>Anyone who reaches a node, without a credential.</p> : null}
      <Loaded query={users} what="users" rows={1}>
        {(all) => <People what="user" items={all.filter((u) => mayBe(u.role)).map(userName)} />}
      </Loaded>
      <Loaded query={tokens} what="tokens" rows={1}>
        {(all) => <People what="API token" items={all.filter((t) => mayBe(t.role) && !(t.expires_at_ms !== null && t.expires_at_ms <= now)).map(tokenName)} />}
      </Loaded>
      <p className="muted">
        The break-glass token of a node may do everything. People who sign in at a provider, and tokens of outside issuers, may do what the roles may that they
        get there. They are not listed here.
      </p>
    </section>
  );
}

const userName = (user: User): string => `${user.name} (${user.role})`;
const tokenName = (token: ApiToken): string => `${token.note || token.id} (${token.role})`;

function People({ what, items }: { what: string; items: readonly string[] }) {
  return (
    <p>
      {items.length === 0 ? `No ${what}.` : `${plural(items.length, what)}: ${items.join(', ')}.`}
    </p>
  );
}
