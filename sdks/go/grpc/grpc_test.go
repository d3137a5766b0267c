package maxinegrpc

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"maxine/native"
)

// server is a real gRPC server that counts its calls.
type server struct {
	*grpc.Server
	address string
	calls   atomic.Int64
	traces  atomic.Value // those of the last call
}

func newServer(t *testing.T) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{address: "http://" + listener.Addr().String()}
	s.Server = grpc.NewServer(grpc.UnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			s.calls.Add(1)
			sent, _ := metadata.FromIncomingContext(ctx)
			s.traces.Store(sent.Get("traceparent"))
			return next(ctx, request)
		}))
	healthpb.RegisterHealthServer(s.Server, health.NewServer())
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	return s
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

func client(t *testing.T, options native.Options) *native.Client {
	t.Helper()
	servers := os.Getenv("MAXINE_SERVER")
	if servers == "" {
		t.Skip("MAXINE_SERVER names no cluster")
	}
	c, err := native.New(strings.Split(servers, ","), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop(context.Background(), 0) })
	return c
}

func TestCallsFollowTheInstancesOfTheService(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	caller, owner := client(t, native.Options{}), client(t, native.Options{})
	service := fmt.Sprintf("go-grpc-%d", time.Now().UnixNano())
	channel, err := grpc.NewClient("maxine:///"+service,
		grpc.WithResolvers(NewBuilder(caller, "")), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()
	health := healthpb.NewHealthClient(channel)
	call := func() error {
		_, err := health.Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
	if err := call(); status.Code(err) != codes.Unavailable {
		t.Fatal("a call without an instance: ", err)
	}

	light, heavy := newServer(t), newServer(t)
	register := func(name, address string, weight int) *native.Registration {
		r, err := owner.Register(ctx, service, name, native.Body{Address: address, Weight: weight})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	register("light", light.address, 1)
	registration := register("heavy", heavy.address, 3)
	until(t, "a call to both", func() bool { _ = call(); return light.calls.Load() > 0 && heavy.calls.Load() > 0 })

	// In turn by weight, as the nodes choose.
	light.calls.Store(0)
	heavy.calls.Store(0)
	for n := 0; n < 40; n++ {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	if light.calls.Load() != 10 || heavy.calls.Load() != 30 {
		t.Errorf("%d and %d calls, not 10 and 30", light.calls.Load(), heavy.calls.Load())
	}

	// Nobody calls an instance that has deregistered, although its server still runs.
	if err := registration.Stop(ctx, 0); err != nil {
		t.Fatal(err)
	}
	resolver, err := caller.Resolver(ctx, service, "")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the removal", func() bool { return len(resolver.Instances()) == 1 })
	until(t, "a call to the other", func() bool {
		before := light.calls.Load()
		return call() == nil && call() == nil && light.calls.Load() == before+2
	})

	// A server that dies fails no calls for longer than its connection takes to break.
	register("heavy", heavy.address, 3)
	until(t, "a call", func() bool { before := heavy.calls.Load(); return call() == nil && heavy.calls.Load() > before })
	light.Stop()
	until(t, "good calls", func() bool { return call() == nil && call() == nil && call() == nil && call() == nil })
}

// marks gives each use of an instance the same trace, and notes how it has ended.
type marks struct {
	mu    sync.Mutex
	ended []native.Outcome
}

type mark struct {
	ctx context.Context
	of  *marks
}

func (m *marks) Start(ctx context.Context, about native.Traced) native.Span {
	if about.Service == "" {
		return nil
	}
	return mark{ctx, m}
}

func (m mark) Context() context.Context  { return m.ctx }
func (m mark) Inject(header http.Header) { header.Set("Traceparent", "of the call") }

func (m mark) End(outcome native.Outcome) {
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	m.of.ended = append(m.of.ended, outcome)
}

func TestACallPassesTheTraceOnOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m := &marks{}
	caller := client(t, native.Options{Tracer: m})
	service := fmt.Sprintf("go-grpc-trace-%d", time.Now().UnixNano())
	s := newServer(t)
	if _, err := caller.Register(ctx, service, "a", native.Body{Address: s.address}); err != nil {
		t.Fatal(err)
	}
	channel, err := grpc.NewClient("maxine:///"+service,
		grpc.WithResolvers(NewBuilder(caller, "")), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()
	health := healthpb.NewHealthClient(channel)
	for own, expect := range map[string]string{"": "of the call", "of the program": "of the program"} {
		ctx := ctx
		if own != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", own)
		}
		if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		if got := s.traces.Load().([]string); len(got) != 1 || got[0] != expect {
			t.Error(got, expect)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ended) != 2 || m.ended[0] != (native.Outcome{}) {
		t.Error(m.ended)
	}
}
