/** The screens, in the order of the sidebar and the palette. */
import type { IconName } from '../parts/icons';

export interface Place {
  to: string;
  name: string;
  icon: IconName;
  words: string;
}

export const PLACES: readonly Place[] = [
  { to: '/', name: 'Overview', icon: 'overview', words: 'home health traffic slo' },
  { to: '/cluster', name: 'Cluster', icon: 'cluster', words: 'nodes raft leader term members backup lag' },
  { to: '/services', name: 'Services', icon: 'services', words: 'instances registry discovery' },
  { to: '/dependencies', name: 'Dependencies', icon: 'graph', words: 'graph proxy upstream' },
  { to: '/traces', name: 'Traces', icon: 'traces', words: 'requests latency waterfall' },
  { to: '/alerts', name: 'Alerts', icon: 'alerts', words: 'silence acknowledge' },
  { to: '/keys', name: 'Keys', icon: 'keys', words: 'kv values locks lock sessions holder' },
  { to: '/audit', name: 'Audit', icon: 'audit', words: 'log history who verify chain' },
  { to: '/config', name: 'Configuration', icon: 'config', words: 'settings strategy rollback' },
  { to: '/access', name: 'Access', icon: 'access', words: 'users tokens keys roles passwords' },
];
