// What is registered for the tests and the screenshots: a small company's services, or very many.

const ZONES = ['eu-1a', 'eu-1b', 'eu-1c'];
const LONG_TTL_MS = 86_400_000;

/** A dozen services on real upstreams. Without `healthy`, one instance is unhealthy, one is drained, and two fail calls. */
export async function seedNormal(cluster, { healthy = false } = {}) {
  await cluster.addUser('olga', 'operator');
  await cluster.addUser('vera', 'viewer');
  const services = [
    ['checkout', 3, '2.8.1'], ['orders', 4, '1.14.0'], ['payments', 3, '5.2.0'], ['inventory', 2, '0.9.4'],
    ['catalogue', 5, '3.1.0'], ['search', 3, '7.0.2'], ['accounts', 2, '1.4.4'], ['notifications', 2, '2.0.0'],
    ['shipping', 2, '1.1.9'], ['recommendations', 4, '4.6.0'], ['pricing', 2, '2.2.2'],
  ];
  const upstreams = {};
  const items = [];
  // What is healthy stays so on a busy machine, too.
  const probe = healthy ? { interval_ms: 3_000, timeout_ms: 2_500, rise: 1, fall: 3 } : { interval_ms: 500, timeout_ms: 400, rise: 1, fall: 2 };
  for (const [service, n, version] of services) {
    for (let i = 1; i <= n; i += 1) {
      const upstream = await cluster.upstream(`${service}-${i}`);
      upstreams[upstream.name] = upstream;
      items.push({
        namespace: 'default', service, id: upstream.name, address: upstream.address, weight: i === 1 ? 2 : 1,
        ttl_ms: LONG_TTL_MS, zone: ZONES[i % 3], version, tags: i === 1 ? ['canary'] : [], metadata: { owner: `${service}-team` },
        probe: { kind: 'http', path: '/healthz', ...probe },
      });
    }
  }
  items.push({ namespace: 'batch', service: 'invoices', id: 'invoices-1', address: 'http://127.0.0.1:9', ttl_ms: LONG_TTL_MS });
  await cluster.register(items);
  await cluster.call('PUT', '/services/default/orders/policy', {
    selection: { strategy: 'least_request', hash_key: { from: 'client_address' } },
    probe: { kind: 'http', path: '/healthz', ...probe, interval_ms: Math.max(1_000, probe.interval_ms) },
  });
  await cluster.call('PUT', '/services/default/catalogue/policy', {
    traffic: { retries: { attempts: 3, statuses: [500], budget_percent: 50 } },
  });
  await seedKeys(cluster);
  if (healthy) return upstreams;
  await cluster.call('PUT', '/services/default/search/instances/search-3/drain', { reason: 'kernel update' });
  upstreams['payments-2'].state.healthy = false;
  upstreams['recommendations-1'].state.failing = 0.3;
  upstreams['catalogue-4'].state.failing = 0.4;
  return upstreams;
}

/** Keys in folders. A session holds one of them as a lock. */
async function seedKeys(cluster) {
  const features = { checkout: { newBasket: true, percent: 25 }, search: { synonyms: ['sofa', 'couch'] } };
  const values = {
    'app/features': { text: JSON.stringify(features) },
    'app/db/host': { text: '10.0.0.5' },
    'app/db/port': { text: '5432' },
    'app/logo': { base64: Buffer.from([0x89, 0x50, 0x4e, 0x47, 0xff, 0x00]).toString('base64') },
    'jobs/nightly': { text: '' },
    motd: { text: 'Maintenance on Sunday' },
  };
  for (const [key, value] of Object.entries(values)) await cluster.call('PUT', `/kv/${encodeURIComponent(key)}`, value);
  const { id } = await cluster.call('POST', '/sessions', { name: 'nightly report', node: 'batch-1', ttl_ms: LONG_TTL_MS });
  await cluster.call('PUT', '/locks/jobs%2Fnightly', { session: id });
}

/** The answer of pricing takes longer than its bad policy allows, and much less than its good one. */
const PRICING_MS = 60;
const GOOD_MS = 2_000;
const BAD_MS = 10;

/**
 * An incident with four faults: one instance of checkout fails every call, although its probe is good; a new version of
 * search is slow; olga has set a policy of pricing with a timeout that is too short; a node is dead.
 * `policyAgeMs` is how long before the other faults the policy is set.
 */
export async function seedIncident(cluster, { policyAgeMs = 0 } = {}) {
  const upstreams = await seedNormal(cluster, { healthy: true });
  for (const name of ['pricing-1', 'pricing-2']) upstreams[name].state.delayMs = PRICING_MS;
  const pricing = (response_ms, headers) =>
    cluster.call('PUT', '/services/default/pricing/policy', { traffic: { timeouts: { response_ms } } }, { headers });
  await pricing(GOOD_MS);
  const olga = await cluster.call('POST', '/session', { user: 'olga', password: 'olga-has-a-long-password' });
  await pricing(BAD_MS, { authorization: `Bearer ${olga.access_token}` });
  await new Promise((resolve) => setTimeout(resolve, policyAgeMs));
  const slow = await cluster.upstream('search-next');
  slow.state.delayMs = 700;
  await cluster.call('PUT', '/services/default/search/instances/search-next', {
    address: slow.address, ttl_ms: LONG_TTL_MS, zone: ZONES[0], version: '7.1.0', weight: 2,
  });
  upstreams['checkout-2'].state.failing = 1;
  const leader = await cluster.leader();
  const dead = (leader + 2) % 3;
  cluster.kill(dead);
  return { upstreams: { ...upstreams, [slow.name]: slow }, dead, node: (leader + 1) % 3 };
}

/** Calls to the services of the incident through one node, four at a time, until `stopped()`. */
export async function incidentTraffic(cluster, node, stopped) {
  const names = ['checkout', 'search', 'pricing', 'checkout', 'orders', 'accounts'];
  const caller = async (first) => {
    for (let n = first; !stopped(); n += 1) {
      const route = `/api/maxine/serviceops/proxy/${names[n % names.length]}/v1/items/${n % 50}`;
      await cluster.call('GET', route, undefined, { node, okay: false }).catch(() => null);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await Promise.all([0, 1, 2, 3].map(caller));
}

/** Calls through the proxy and the redirect for a while, so that there are traces and rates. */
export async function traffic(cluster, ms) {
  const names = ['orders', 'checkout', 'catalogue', 'search', 'payments', 'recommendations', 'accounts'];
  const end = Date.now() + ms;
  for (let n = 0; Date.now() < end; n += 1) {
    const name = names[Math.floor(Math.random() ** 2 * names.length)];
    const route =
      n % 4 === 0
        ? `/api/maxine/serviceops/discover?serviceName=${name}`
        : n % 4 === 1
          ? `/api/v1/resolve/default/${name}`
          : `/api/maxine/serviceops/proxy/${name}/v1/items/${n % 50}`;
    await cluster.call('GET', route, undefined, { okay: false }).catch(() => null);
    await new Promise((resolve) => setTimeout(resolve, 8));
  }
}

/** 5,000 services with 50,000 instances; one of them has 5,000. */
export async function seedLarge(cluster, { services = 5_000, instances = 50_000, biggest = 5_000 } = {}) {
  const items = [];
  const item = (service, i) => ({
    namespace: `team-${service.length % 3 === 0 ? 'a' : 'b'}`, service, id: `${service}-${i}`,
    address: `http://10.${(i >> 8) & 255}.${i & 255}.1:8080`, ttl_ms: LONG_TTL_MS, zone: ZONES[i % 3], version: `1.${i % 9}.0`,
  });
  for (let i = 0; i < biggest; i += 1) items.push({ ...item('biggest', i), namespace: 'default' });
  const rest = instances - biggest;
  for (let i = 0; i < rest; i += 1) items.push(item(`service-${String(i % (services - 1)).padStart(4, '0')}`, Math.floor(i / (services - 1))));
  await cluster.register(items);
}
