/** Says how many of the nodes that were asked have answered, and which ones did not. */
import type { AskedNode } from '../api/types';
import { Status } from './status';

export const silentNodes = (nodes: readonly AskedNode[]): string[] =>
  nodes.filter((node) => node.problem !== null).map((node) => node.name);

/** A list of names as text, such as "a, b and c". */
export function names(of: readonly string[]): string {
  return of.length < 2 ? (of[0] ?? '') : `${of.slice(0, -1).join(', ')} and ${of.at(-1) ?? ''}`;
}

export function Answered({ nodes }: { nodes: readonly AskedNode[] }) {
  const silent = silentNodes(nodes);
  const text = `${nodes.length - silent.length} of ${nodes.length} ${nodes.length === 1 ? 'node' : 'nodes'} answered`;
  if (silent.length === 0) return <span className="muted">{text}</span>;
  return (
    <Status tone="warn">
      {text}: without {names(silent)}
    </Status>
  );
}
