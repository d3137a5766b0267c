/** Shown while nothing is registered: the command that registers an instance, and the next step. */
import { Command } from '../../parts/copy';
import { Status } from '../../parts/status';

export function FirstRun({ namespace }: { namespace: string }) {
  const command = `curl -X PUT ${location.origin}/api/v1/services/${namespace}/hello/instances/hello-1 \\
  -H 'content-type: application/json' \\
  -d '{"address": "http://127.0.0.1:9000", "ttl_ms": 60000}'`;
  return (
    <section className="first-run">
      <h2>Nothing is registered yet</h2>
      <p>
        A service appears here when one of its instances registers. This registers an instance of{' '}
        <code>hello</code> for one minute:
      </p>
      <Command text={command} label="Register an instance" />
      <p className="muted">
        If registration needs a token, add <code>-H "authorization: Bearer …"</code>; create tokens under Access.
        Repeat the request, or send heartbeats, within the minute to keep it. Callers find it with:
      </p>
      <Command text={`curl ${location.origin}/api/v1/resolve/${namespace}/hello`} label="Resolve the service" />
      <p role="status">
        <Status tone="muted">This page updates by itself.</Status>
      </p>
    </section>
  );
}
