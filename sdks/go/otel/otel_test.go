package maxineotel

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"maxine/native"
)

// traced answers each request, and notes its trace.
type traced struct {
	*httptest.Server
	mu     sync.Mutex
	traces []string
}

func serve(t *testing.T, answer http.HandlerFunc) *traced {
	t.Helper()
	s := &traced{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(to http.ResponseWriter, request *http.Request) {
		s.mu.Lock()
		s.traces = append(s.traces, request.Header.Get("Traceparent"))
		s.mu.Unlock()
		answer(to, request)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *traced) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.traces...)
}

func (s *traced) port() int {
	at, _ := url.Parse(s.URL)
	port, _ := strconv.Atoi(at.Port())
	return port
}

// nodeOf is a node that knows one instance.
func nodeOf(t *testing.T, instance string) *traced {
	t.Helper()
	return serve(t, func(to http.ResponseWriter, request *http.Request) {
		switch {
		case strings.Contains(request.URL.Path, "/watch"):
			to.WriteHeader(404)
		case strings.Contains(request.URL.Path, "/instances"):
			to.Header().Set("X-Maxine-History", "h")
			to.Header().Set("X-Maxine-Index", "1")
			fmt.Fprintf(to, `{"items": [{"id": "a", "address": %q, "weight": 1}], "next_cursor": null}`, instance)
		default:
			fmt.Fprint(to, `{"strategy": "round_robin"}`)
		}
	})
}

func traceOf(span sdktrace.ReadOnlySpan) string {
	return fmt.Sprintf("00-%s-%s-01", span.SpanContext().TraceID(), span.SpanContext().SpanID())
}

func attributesOf(set []attribute.KeyValue) string {
	all := attribute.NewSet(set...)
	return all.Encoded(attribute.DefaultEncoder())
}

func TestRequestsToNodesAndUsesOfInstancesAreTracedAndMeasured(t *testing.T) {
	recorder, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	spans := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	options := Options{
		TracerProvider: spans, Propagator: propagation.TraceContext{},
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
	}
	tracer, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	target := serve(t, func(to http.ResponseWriter, request *http.Request) {
		if request.URL.Path == "/bad" {
			to.WriteHeader(503)
		}
	})
	node := nodeOf(t, target.URL)
	client, err := native.New([]string{node.URL}, native.Options{Tracer: tracer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Stop(context.Background(), 0) })
	ctx, parent := spans.Tracer("test").Start(context.Background(), "parent")
	resolver, err := client.Resolver(ctx, "payments", "")
	if err != nil {
		t.Fatal(err)
	}
	parent.End()

	list := recorder.Ended()[0]
	expect := attributesOf([]attribute.KeyValue{
		attribute.String("http.request.method", "GET"), attribute.String("server.address", "127.0.0.1"),
		attribute.Int("server.port", node.port()), attribute.Int("http.response.status_code", 200),
		attribute.String("url.full", node.URL+"/api/v1/services/default/payments/instances?health=routable&limit=1000"),
	})
	if list.Name() != "GET" || list.SpanKind() != trace.SpanKindClient || attributesOf(list.Attributes()) != expect {
		t.Error(list.Name(), list.SpanKind(), list.Attributes())
	}
	if list.Parent().SpanID() != parent.SpanContext().SpanID() || node.seen()[0] != traceOf(list) {
		t.Error(list.Parent(), node.seen())
	}

	calls := &http.Client{Transport: client.Transport(nil)}
	for _, path := range []string{"good", "bad"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "maxine://payments/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Traceparent", "00-11111111111111111111111111111111-2222222222222222-01")
		answer, err := calls.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	resolver.Choose(nil).End(native.Outcome{Err: fmt.Errorf("call: %w", context.DeadlineExceeded), Failed: true})
	var found []sdktrace.ReadOnlySpan
	for _, span := range recorder.Ended() {
		if span.Name() == "payments" {
			found = append(found, span)
		}
	}
	call := []attribute.KeyValue{
		attribute.String("service.peer.name", "payments"), attribute.String("service.peer.namespace", "default"),
		attribute.String("server.address", "127.0.0.1"), attribute.Int("server.port", target.port()),
		attribute.String("maxine.instance", "a"),
	}
	for at, more := range [][]attribute.KeyValue{
		{attribute.Int("http.response.status_code", 200)},
		{attribute.Int("http.response.status_code", 503), attribute.String("error.type", "503")},
		{attribute.String("error.type", "context.deadlineExceededError")},
	} {
		if attributesOf(found[at].Attributes()) != attributesOf(append(more, call...)) {
			t.Error(found[at].Attributes())
		}
	}
	if found[0].Status().Code != codes.Unset || found[2].Status() != (sdktrace.Status{Code: codes.Error, Description: "call: context deadline exceeded"}) {
		t.Error(found[0].Status(), found[2].Status())
	}
	if found[0].Parent().SpanID() != parent.SpanContext().SpanID() {
		t.Error(found[0].Parent())
	}
	if strings.Join(target.seen(), " ") != traceOf(found[0])+" "+traceOf(found[1]) {
		t.Error(target.seen())
	}

	// The watch goes on in the background: it is measured only.
	for deadline := time.Now().Add(30 * time.Second); pointsOf(t, reader, "http.client.request.duration")["404"] < 2; {
		if time.Now().After(deadline) {
			t.Fatal("the watch was not measured")
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, span := range recorder.Ended() {
		if strings.Contains(attributesOf(span.Attributes()), "/watch") {
			t.Error(span.Attributes())
		}
	}
	counts := pointsOf(t, reader, "maxine.client.call.duration")
	if counts["200"] != 1 || counts["503"] != 1 || counts["unknown"] != 1 {
		t.Error(counts)
	}
}

// pointsOf has the numbers of values of a histogram by status.
func pointsOf(t *testing.T, reader *sdkmetric.ManualReader, name string) map[string]uint64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, metric := range all.ScopeMetrics[0].Metrics {
		if metric.Name != name {
			continue
		}
		for _, point := range metric.Data.(metricdata.Histogram[float64]).DataPoints {
			status, _ := point.Attributes.Value("http.response.status_code")
			counts[status.Emit()] += point.Count
		}
	}
	return counts
}

func TestCallsHaveNoSpanIfTheyAreLeftOut(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	tracer, err := New(Options{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)), WithoutCalls: true})
	if err != nil {
		t.Fatal(err)
	}
	client, err := native.New([]string{nodeOf(t, "http://10.0.0.1").URL}, native.Options{Tracer: tracer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Stop(context.Background(), 0) })
	resolver, err := client.Resolver(context.Background(), "payments", "")
	if err != nil {
		t.Fatal(err)
	}
	resolver.Choose(nil).Done()
	if spans := recorder.Started(); len(spans) > 0 {
		t.Error(spans)
	}
}
