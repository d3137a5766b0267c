// Keeps itself registered as an instance of worker, and prints the passing instances of web after each change.
//
// Arguments: the address of a node, and a token.
import Consul from "consul";

const [address, token] = process.argv.slice(2);
const [host, port] = address.split(":");
const client = new Consul({ host, port: Number(port), defaults: { token } });

await client.agent.service.register({
  id: "worker-1",
  name: "worker",
  address: "10.0.0.1",
  port: 8080,
  check: { ttl: "20s", status: "passing" },
});
setInterval(() => client.agent.check.pass("service:worker-1").catch((error) => console.error(error.message)), 3000);
const watch = client.watch({ method: client.health.service, options: { service: "web", passing: true } });
watch.on("change", (entries) => console.log(JSON.stringify(entries.map((entry) => entry.Service.ID))));
watch.on("error", (error) => console.error(error.message));
