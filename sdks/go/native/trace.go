package native

import (
	"context"
	"net/http"
)

// Tracer begins spans, for example those of the module maxine/otel. Its functions must return soon.
type Tracer interface {
	// Start begins a span; nil if nothing is recorded. ctx is that of the caller, or of the work in the background.
	Start(ctx context.Context, about Traced) Span
}

// Span is one span of a Tracer.
type Span interface {
	// Context is that of the caller with this span.
	Context() context.Context
	// Inject sets the header fields that pass the trace on.
	Inject(header http.Header)
	// End ends the span.
	End(outcome Outcome)
}

// Traced is what a span is about: a request to a node until its answer begins, or the use of an instance from its choice
// to the end of the request.
type Traced struct {
	// Node, Method and Path are those of a request to a node.
	Node, Method, Path string
	// Namespace, Service, Instance and Address are those of an instance. They are empty for a request to a node.
	Namespace, Service, Instance, Address string
}

// Outcome is how it has ended.
type Outcome struct {
	// Status is that of an HTTP answer, or 0.
	Status int
	// Err is why there was no good answer, or nil.
	Err error
	// Failed tells that the instance could not be reached: it is avoided for some seconds.
	Failed bool
}

// start begins a span; nil if there is no tracer.
func start(ctx context.Context, tracer Tracer, about Traced) Span {
	if tracer == nil {
		return nil
	}
	return tracer.Start(ctx, about)
}
