// What is registered for the tests and the screenshots: a small company's services, or very many.

const ZONES = ['eu-1a', 'eu-1b', 'eu-1c'];
const LONG_TTL_MS = 86_400_000;

/** A dozen services on real upstreams, one unhealthy instance, one drained, traffic through the proxy. */
export async function seedNormal(cluster) {
  await cluster.addUser('olga', 'operator');
  await cluster.addUser('vera', 'viewer');
  const services = [
    ['checkout', 3, '2.8.1'], ['orders', 4, '1.14.0'], ['payments', 3, '5.2.0'], ['inventory', 2, '0.9.4'],
    ['catalogue', 5, '3.1.0'], ['search', 3, '7.0.2'], ['accounts', 2, '1.4.4'], ['notifications', 2, '2.0.0'],
    ['shipping', 2, '1.1.9'], ['recommendations', 4, '4.6.0'], ['pricing', 2, '2.2.2'],
  ];
  const upstreams = {};
  const items = [];
  for (const [service, n, version] of services) {
    for (let i = 1; i <= n; i += 1) {
      const upstream = await cluster.upstream(`${service}-${i}`);
      upstreams[upstream.name] = upstream;
      items.push({
        namespace: 'default', service, id: upstream.name, address: upstream.address, weight: i === 1 ? 2 : 1,
        ttl_ms: LONG_TTL_MS, zone: ZONES[i % 3], version, tags: i === 1 ? ['canary'] : [], metadata: { owner: `${service}-team` },
        probe: { kind: 'http', path: '/healthz', interval_ms: 500, timeout_ms: 400, rise: 1, fall: 2 },
      });
    }
  }
  items.push({ namespace: 'batch', service: 'invoices', id: 'invoices-1', address: 'http://127.0.0.1:9', ttl_ms: LONG_TTL_MS });
  await cluster.register(items);
  await cluster.call('PUT', '/services/default/orders/policy', {
    selection: { strategy: 'least_request', hash_key: { from: 'client_address' } },
    probe: { kind: 'http', path: '/healthz', interval_ms: 1000, timeout_ms: 400, rise: 1, fall: 2 },
  });
  await cluster.call('PUT', '/services/default/catalogue/policy', {
    traffic: { retries: { attempts: 3, statuses: [500], budget_percent: 50 } },
  });
  await cluster.call('PUT', '/services/default/search/instances/search-3/drain', { reason: 'kernel update' });
  upstreams['payments-2'].state.healthy = false;
  upstreams['recommendations-1'].state.failing = 0.3;
  upstreams['catalogue-4'].state.failing = 0.4;
  return upstreams;
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
