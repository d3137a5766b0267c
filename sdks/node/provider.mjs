// An OpenID provider for the tests of the clients in all languages: oidc-provider, which is certified by the OpenID Foundation.
// It prints its issuer. `scripts/sdks.py test` starts it, and gives its issuer to the nodes and to the tests.

import { once } from "node:events";
import { createServer } from "node:http";
import Provider from "oidc-provider";

// The name and the secret have characters that are encoded in a form.
const client = (client_id, more) => ({
  client_id,
  client_secret: "s3cret: with % signs +",
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  ...more,
});

const server = createServer();
await once(server.listen(0, "127.0.0.1"), "listening");
const issuer = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  clients: [client("orders: a+b"), client("brief"), client("worker"), client("stranger")],
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({ audience: resource, scope: "register", accessTokenFormat: "jwt" }),
    },
  },
  ttl: { ClientCredentials: (_, __, { clientId }) => ({ brief: 5, worker: 10 })[clientId] ?? 600 },
});
server.on("request", provider.callback());
console.log(issuer);
