/** What a recorded change of a policy or of the configuration changed, with a link to the history. */
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import { configHistoryQuery, policyHistoryQuery } from '../../api/queries';
import type { AuditRecord } from '../../api/types';
import { Diff, stable } from '../../parts/diff';
import { Loaded } from '../../parts/states';
import { policyOf } from '../service/policy-changes';

/** The service whose policy the record is about; null if it is about something else. */
export function serviceOf(record: Pick<AuditRecord, 'action' | 'object'>): { namespace: string; service: string } | null {
  const slash = record.object.indexOf('/');
  if (record.action !== 'policy.put' || slash < 1) return null;
  return { namespace: record.object.slice(0, slash), service: record.object.slice(slash + 1) };
}

export function RecordedChange({ record }: { record: AuditRecord }) {
  if (record.outcome !== 'success') return null;
  const of = serviceOf(record);
  if (of) return <PolicyChange record={record} {...of} />;
  return record.action === 'config.put' && record.object === 'config' ? <ConfigChange record={record} /> : null;
}

function Part({ link, children }: { link: ReactNode; children: ReactNode }) {
  return (
    <section className="sheet-part" aria-label="What changed">
      <h3>What changed</h3>
      {children}
      <p>{link}</p>
    </section>
  );
}

function PolicyChange({ record, namespace, service }: { record: AuditRecord; namespace: string; service: string }) {
  const query = useQuery(policyHistoryQuery(namespace, service));
  return (
    <Part
      link={
        <Link to="/services/$namespace/$service" params={{ namespace, service }} search={{ tab: 'policy', rev: String(record.index) }}>
          History of the policy of {service}
        </Link>
      }
    >
      <Loaded query={query} what="the history of the policy" rows={3}>
        {(revisions) => {
          const at = revisions.findIndex((r) => r.revision === record.index);
          const [before, after] = [policyOf(revisions[at + 1]), policyOf(revisions[at])];
          if (at < 0 || before === null || after === null) {
            return <p className="muted">The node that serves this page does not know the policies before and after this change.</p>;
          }
          return <Diff label="Change of the policy" before={stable(before)} after={stable(after)} />;
        }}
      </Loaded>
    </Part>
  );
}

function ConfigChange({ record }: { record: AuditRecord }) {
  const query = useQuery(configHistoryQuery());
  return (
    <Part link={<Link to="/config">History of the configuration</Link>}>
      <Loaded query={query} what="the history of the configuration" rows={3}>
        {(revisions) => {
          const at = revisions.findIndex((r) => r.revision === record.index);
          const [before, after] = [revisions[at + 1], revisions[at]];
          if (at < 0 || !before || !after) return <p className="muted">The cluster no longer has the configurations before and after this change.</p>;
          return <Diff label="Change of the configuration" before={stable(before.config)} after={stable(after.config)} />;
        }}
      </Loaded>
    </Part>
  );
}
