// The script of scripts/interop.sh consul-node: what each client of Consul does, with the package consul.
//
// Arguments: the port of the node, and a token.
import Consul from "consul";

const [port, token] = process.argv.slice(2);
const client = new Consul({ host: "127.0.0.1", port: Number(port), defaults: { token } });

function expect(isSo, what) {
  if (!isSo) {
    console.error(`not as expected: ${what}`);
    process.exit(1);
  }
  console.log(`  ${what}`);
}

await client.agent.service.register({
  id: "node-1",
  name: "node",
  address: "10.0.0.1",
  port: 8080,
  tags: ["v1", "blue"],
  meta: { team: "a" },
  check: { ttl: "60s" },
});
expect((await client.health.service({ service: "node", passing: true })).length === 0, "registered: critical until the first report");

let change;
const watch = client.watch({ method: client.health.service, options: { service: "node", passing: true } });
watch.on("change", (data) => change?.(data));
watch.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
const next = (isWanted) =>
  new Promise((resolve) => {
    change = (data) => isWanted(data) && resolve(data);
  });
await new Promise((resolve) => setTimeout(resolve, 300));
const reported = performance.now();
const seen = next((data) => data.length === 1);
await client.agent.check.pass("service:node-1");
const [entry] = await seen;
expect(entry.Service.Meta.team === "a", "passing: the watch was woken");
console.log(`  woken ${Math.round(performance.now() - reported)} ms after the report`);
expect((await client.catalog.service.nodes("node"))[0].ServiceTags.join() === "v1,blue", "the catalog");
expect("node" in (await client.catalog.service.list()), "all services with their tags");
expect("node-1" in (await client.agent.service.list()), "the services of the agent");
const failed = next((data) => data.length === 0);
await client.agent.check.fail({ id: "service:node-1", note: "disk is full" });
await failed;
const entries = await client.health.service("node");
expect(entries[0].Checks[1].Status === "critical", "failed: it stays listed, and the watch was woken");
await client.agent.service.deregister("node-1");
expect((await client.health.service("node")).length === 0, "deregistered");
const refused = await client.agent.check.pass("service:node-1").catch((error) => error);
expect(refused?.statusCode === 404, "a report about it is refused");
watch.end();
process.exit(0);
