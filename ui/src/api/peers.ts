/**
 * The addresses of the other nodes. They are stored so that the page can continue when its node is
 * unreachable. Addresses are not secret, and survive a reload. Tokens are never stored here.
 */
import type { Member } from './types';

const KEY = 'maxine.peers';
const PEERS_MAX = 15;

export function rememberPeers(members: readonly Member[]): void {
  const urls = members
    .map((m) => peerUrl(m.http_addr))
    .filter((url): url is string => url !== null)
    .slice(0, PEERS_MAX);
  if (urls.length > 0) localStorage.setItem(KEY, JSON.stringify(urls));
}

/** Base URLs of all known nodes. The first one is '', which means the node that served this page. */
export function knownBases(): string[] {
  const bases = [''];
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    if (Array.isArray(stored)) {
      for (const url of stored.slice(0, PEERS_MAX)) {
        if (typeof url === 'string' && peerUrl(url) && url !== location.origin) bases.push(url);
      }
    }
  } catch {
    // The stored value is not from this page. The node that served the page is still known.
  }
  return bases;
}

/** The origin of a `host:port` or of a URL; null if the text is neither. */
export function peerUrl(address: string): string | null {
  if (!address) return null;
  try {
    const url = new URL(address.includes('://') ? address : `${location.protocol}//${address}`);
    return url.protocol === 'http:' || url.protocol === 'https:' ? url.origin : null;
  } catch {
    return null;
  }
}
