// The package: the client on the native API, and `Maxine`, the one on the compatible API.

export { Chosen, Client, Registration, Resolver } from "./lib/client.mjs";
export { ClientCredentials } from "./lib/credentials.mjs";
export { MaxineClientError } from "./lib/nodes.mjs";
export { Maxine, MaxineError } from "./maxine.mjs";
