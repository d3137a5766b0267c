// Package maxineotel traces and measures the client of Maxine with OpenTelemetry. It is a module of its own, so that only
// programs that use it load OpenTelemetry.
package maxineotel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"maxine/native"
)

const name = "maxine-client"

// Options are the settings of a Tracer. The zero value uses the global providers and the global propagator.
type Options struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	Propagator     propagation.TextMapPropagator
	// WithoutCalls leaves out the uses of instances, for programs whose HTTP client is instrumented by itself.
	WithoutCalls bool
}

// Tracer is for native.Options.Tracer.
type Tracer struct {
	tracer          trace.Tracer
	propagator      propagation.TextMapPropagator
	requests, calls metric.Float64Histogram
	withoutCalls    bool
}

// New gives a tracer for a client.
func New(options Options) (*Tracer, error) {
	if options.TracerProvider == nil {
		options.TracerProvider = otel.GetTracerProvider()
	}
	if options.MeterProvider == nil {
		options.MeterProvider = otel.GetMeterProvider()
	}
	if options.Propagator == nil {
		options.Propagator = otel.GetTextMapPropagator()
	}
	// The boundaries of the semantic conventions for HTTP, in seconds.
	boundaries := metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
	meter := options.MeterProvider.Meter(name)
	requests, err := meter.Float64Histogram("http.client.request.duration", boundaries, metric.WithUnit("s"),
		metric.WithDescription("Duration of requests to nodes of Maxine."))
	if err != nil {
		return nil, err
	}
	calls, err := meter.Float64Histogram("maxine.client.call.duration", boundaries, metric.WithUnit("s"),
		metric.WithDescription("Time from the choice of an instance to the end of the request."))
	if err != nil {
		return nil, err
	}
	return &Tracer{options.TracerProvider.Tracer(name), options.Propagator, requests, calls, options.WithoutCalls}, nil
}

// Start begins a span. Requests in the background are measured only: each would be a trace of its own.
func (t *Tracer) Start(ctx context.Context, about native.Traced) native.Span {
	s := &span{tracer: t, ctx: ctx, begun: time.Now()}
	if about.Service != "" {
		if t.withoutCalls {
			return nil
		}
		s.duration = t.calls
		s.common = []attribute.KeyValue{
			attribute.String("service.peer.name", about.Service), attribute.String("service.peer.namespace", about.Namespace),
		}
		more := append(server(about.Address), attribute.String("maxine.instance", about.Instance))
		s.begin(about.Service, more)
		return s
	}
	s.duration = t.requests
	s.common = append(server(about.Node), attribute.String("http.request.method", about.Method))
	if trace.SpanContextFromContext(ctx).IsValid() {
		s.begin(about.Method, []attribute.KeyValue{attribute.String("url.full", about.Node+about.Path)})
	}
	return s
}

type span struct {
	tracer   *Tracer
	ctx      context.Context
	span     trace.Span // nil if it is only measured
	begun    time.Time
	duration metric.Float64Histogram
	common   []attribute.KeyValue
}

func (s *span) begin(name string, more []attribute.KeyValue) {
	attributes := append(append([]attribute.KeyValue{}, s.common...), more...)
	s.ctx, s.span = s.tracer.tracer.Start(s.ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
}

func (s *span) Context() context.Context { return s.ctx }

func (s *span) Inject(header http.Header) {
	if s.span != nil {
		s.tracer.propagator.Inject(s.ctx, propagation.HeaderCarrier(header))
	}
}

func (s *span) End(outcome native.Outcome) {
	var ended []attribute.KeyValue
	if outcome.Status > 0 {
		ended = append(ended, attribute.Int("http.response.status_code", outcome.Status))
	}
	kind := kindOf(outcome)
	if kind != "" {
		ended = append(ended, attribute.String("error.type", kind))
	}
	attributes := append(append([]attribute.KeyValue{}, s.common...), ended...)
	s.duration.Record(s.ctx, time.Since(s.begun).Seconds(), metric.WithAttributes(attributes...))
	if s.span == nil {
		return
	}
	s.span.SetAttributes(ended...)
	if outcome.Err != nil {
		s.span.SetStatus(codes.Error, outcome.Err.Error())
	} else if kind != "" {
		s.span.SetStatus(codes.Error, "")
	}
	s.span.End()
}

// kindOf is the type of an error; empty if there was none.
func kindOf(outcome native.Outcome) string {
	if err := outcome.Err; err != nil {
		for cause := errors.Unwrap(err); cause != nil; cause = errors.Unwrap(cause) {
			err = cause
		}
		return fmt.Sprintf("%T", err)
	}
	if outcome.Failed {
		return "_OTHER"
	}
	if outcome.Status >= http.StatusBadRequest {
		return strconv.Itoa(outcome.Status)
	}
	return ""
}

func server(address string) []attribute.KeyValue {
	at, err := url.Parse(address)
	if err != nil {
		return nil
	}
	port, err := strconv.Atoi(at.Port())
	if err != nil {
		port = 80
		if at.Scheme == "https" {
			port = 443
		}
	}
	return []attribute.KeyValue{attribute.String("server.address", at.Hostname()), attribute.Int("server.port", port)}
}
