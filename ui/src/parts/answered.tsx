/** Says how many of the nodes that were asked have answered, and which ones did not or were not asked. */
import { useQuery } from '@tanstack/react-query';
import { clusterQuery } from '../api/queries';
import type { AskedNode } from '../api/types';
import { Status } from './status';

export interface Missing {
  /** The nodes that did not answer, and those that could not be asked. */
  names: readonly string[];
  /** Whether no node is missing. */
  none: boolean;
}

/** The nodes of which an answer knows nothing. Nodes that share a store can ask only the leader. */
export function useMissing(nodes: readonly AskedNode[]): Missing {
  const status = useQuery(clusterQuery()).data;
  const silent = nodes.filter((node) => node.problem !== null).map((node) => node.name);
  const unasked = (status?.nodes ?? []).map((node) => node.name).filter((name) => nodes.every((asked) => asked.name !== name));
  const names = [...silent, ...unasked];
  // Without an answer of the store, it is not known which nodes share it.
  const known = status !== undefined && (status.nodes !== null || !['redis', 'shared-file'].includes(status.backend));
  return { names, none: known && names.length === 0 };
}

/** A list of names as text, such as "a, b and c". */
export function names(of: readonly string[]): string {
  return of.length < 2 ? (of[0] ?? '') : `${of.slice(0, -1).join(', ')} and ${of.at(-1) ?? ''}`;
}

export function Answered({ nodes }: { nodes: readonly AskedNode[] }) {
  const missing = useMissing(nodes).names;
  const answered = nodes.filter((node) => node.problem === null).length;
  const all = answered + missing.length;
  const text = `${answered} of ${all} ${all === 1 ? 'node' : 'nodes'} answered`;
  if (missing.length === 0) return <span className="muted">{text}</span>;
  return (
    <Status tone="warn">
      {text}: without {names(missing)}
    </Status>
  );
}
