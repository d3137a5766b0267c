/** Texts for the values of the API's enumerations. */
import type { Strategy } from '../../api/types';

export const STRATEGIES: Record<Strategy, string> = {
  round_robin: 'Round robin',
  consistent_hash: 'Consistent hash',
  rendezvous: 'Rendezvous',
  least_request: 'Least request',
};

export function strategyName(strategy: string): string {
  return STRATEGIES[strategy as Strategy] ?? strategy;
}

export const PROBE_KINDS = {
  heartbeat: 'Heartbeat only',
  http: 'HTTP',
  tcp: 'TCP connect',
  grpc: 'gRPC health',
} as const;
