import type { Client } from "../index.mjs";

/** What `compose` of undici's dispatchers takes. Its types are not used here, so that they need not be installed. */
export type Interceptor = (dispatch: (options: any, handler: any) => boolean) => (options: any, handler: any) => boolean;

/**
 * An interceptor for `new Agent().compose(maxine(client))` of undici. The host of an origin such as `http://payments.maxine`
 * is a service. Other origins go where they name.
 *
 * `suffix` is the end of the host names that are services; by default `.maxine`.
 */
export function maxine(client: Client, options?: { zone?: string; suffix?: string }): Interceptor;
