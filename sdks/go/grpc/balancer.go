package maxinegrpc

import (
	"net/http"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"maxine/native"
)

func init() {
	balancer.Register(base.NewBalancerBuilder(Scheme, pickers{}, base.Config{HealthCheck: true}))
}

type pickers struct{}

func (pickers) Build(info base.PickerBuildInfo) balancer.Picker {
	p := &picker{connections: map[string]balancer.SubConn{}}
	for connection, about := range info.ReadySCs {
		if one, ok := about.Address.BalancerAttributes.Value(key{}).(known); ok {
			p.resolver = one.resolver
			p.connections[one.instance] = connection
		}
	}
	if p.resolver == nil {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	return p
}

// picker chooses among the instances to which there is a connection.
type picker struct {
	resolver    *native.Resolver
	connections map[string]balancer.SubConn
}

// Pick gives the instance and the connection of a call. The metadata of the call can identify the caller.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	sent, _ := metadata.FromOutgoingContext(info.Ctx)
	chosen := p.resolver.Choose(&native.Request{
		Context: info.Ctx,
		Header:  http.Header(sent),
		Skip:    func(instance *native.Instance) bool { return p.connections[instance.ID] == nil },
	})
	if chosen == nil { // The channel asks again when there is another connection.
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	done := func(call balancer.DoneInfo) {
		failed := status.Code(call.Err) == codes.Unavailable && !call.BytesReceived
		chosen.End(native.Outcome{Err: call.Err, Failed: failed})
	}
	return balancer.PickResult{SubConn: p.connections[chosen.Instance.ID], Done: done, Metadata: traceOf(chosen, sent)}, nil
}

// traceOf is the metadata that passes the trace on, unless the call has such metadata already.
func traceOf(chosen *native.Chosen, sent metadata.MD) metadata.MD {
	header := http.Header{}
	chosen.Inject(header)
	added := metadata.MD{}
	for name, values := range header {
		if len(sent.Get(name)) == 0 {
			added.Append(name, values...)
		}
	}
	return added
}
