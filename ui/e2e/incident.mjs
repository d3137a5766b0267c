// An incident to practise on: a cluster of three nodes with four faults and traffic, until it is stopped.
//   scripts/incident.sh [MINUTES]
// The bad policy is set MINUTES before the other faults; by default 0.
import { startCluster } from './cluster.mjs';
import { incidentTraffic, seedIncident } from './seed.mjs';

const minutes = Number(process.argv[2] ?? 0);
if (!Number.isFinite(minutes) || minutes < 0) {
  console.error('usage: scripts/incident.sh [MINUTES]');
  process.exit(2);
}
const cluster = await startCluster({ port: Number(process.env.MAXINE_E2E_PORT ?? 18700) });
let over = false;
const ended = new Promise((resolve) => {
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.on(signal, () => {
      over = true;
      resolve();
    });
  }
});
try {
  if (minutes > 0) console.log(`The incident begins in ${minutes} min.`);
  const seeded = await Promise.race([seedIncident(cluster, { policyAgeMs: minutes * 60_000 }), ended]);
  if (seeded) {
    console.log(`Something is wrong. Sign in at ${cluster.nodes[seeded.node].http}/ as admin with the password ${cluster.password}`);
    console.log(`When you have found the dead node, start it again with: kill -USR1 ${cluster.child.pid}`);
    console.log('Ctrl+C ends it.');
    await incidentTraffic(cluster, seeded.node, () => over);
  }
} finally {
  await cluster.stop();
}
process.exit(0);
