import type { Tracer } from "../index.mjs";

/**
 * A tracer for `new Client(nodes, { tracer: openTelemetry() })`. The providers are those of `@opentelemetry/api`, by default the
 * global ones; their types are not used here, so that they need not be installed.
 *
 * Without `calls`, uses of instances are neither traced nor measured: for programs whose HTTP client is instrumented by itself.
 */
export function openTelemetry(options?: { tracerProvider?: any; meterProvider?: any; calls?: boolean }): Tracer;
