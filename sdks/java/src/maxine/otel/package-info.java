/** Metrics and traces with OpenTelemetry, for programs that have it. */
package maxine.otel;
