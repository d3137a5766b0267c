import type { Client } from "../index.mjs";

/**
 * Makes channels of `@grpc/grpc-js` find the instances of the target `maxine:///payments`.
 *
 * `grpc` is the module: `import * as grpc from "@grpc/grpc-js"`.
 */
export function registerMaxine(grpc: { experimental: any; status: any; Metadata: any }, client: Client, options?: { zone?: string }): void;
