/** Links to the same screen at the other nodes that this browser knows. */
import { knownBases } from '../api/peers';
import { Icon } from '../parts/icons';

export function OtherNodes() {
  const bases = knownBases().filter((base) => base !== '');
  if (bases.length === 0) return null;
  return (
    <ul className="other-nodes">
      {bases.map((base) => (
        <li key={base}>
          <a href={`${base}/${location.hash}`}>
            {new URL(base).host} <Icon name="external" size={12} />
          </a>
        </li>
      ))}
    </ul>
  );
}
