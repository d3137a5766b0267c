// Package maxinegrpc lets gRPC channels find the instances of a service in Maxine. A channel to maxine:///payments has
// a connection to each instance that gets traffic, and the instance of each call is chosen as the nodes of Maxine do.
package maxinegrpc

import (
	"context"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"

	"maxine/native"
)

// Scheme is that of the targets, such as maxine:///payments.
const Scheme = "maxine"

const retryPause = time.Second

// NewBuilder gives what grpc.WithResolvers needs. zone is the zone of this client, or empty.
func NewBuilder(client *native.Client, zone string) resolver.Builder { return &builder{client, zone} }

type builder struct {
	client *native.Client
	zone   string
}

func (b *builder) Scheme() string { return Scheme }

func (b *builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	w := &watcher{cc: cc}
	w.ctx, w.end = context.WithCancel(context.Background())
	go w.run(b.client, target.Endpoint(), b.zone)
	return w, nil
}

// watcher gives a channel the instances of its service, after each change.
type watcher struct {
	cc  resolver.ClientConn
	ctx context.Context
	end context.CancelFunc
}

// ResolveNow does nothing: the watch reports every change.
func (w *watcher) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the watch.
func (w *watcher) Close() { w.end() }

func (w *watcher) run(client *native.Client, service, zone string) {
	r, err := client.Resolver(w.ctx, service, zone)
	for err != nil {
		if w.ctx.Err() != nil {
			return
		}
		w.cc.ReportError(err)
		select {
		case <-w.ctx.Done():
			return
		case <-time.After(retryPause):
		}
		r, err = client.Resolver(w.ctx, service, zone)
	}
	defer r.Stop()
	config := w.cc.ParseServiceConfig(`{"loadBalancingConfig": [{"` + Scheme + `": {}}]}`)
	for {
		// The next change is asked for first, so that none between here and the wait is lost.
		changed := r.Changed()
		state := resolver.State{ServiceConfig: config}
		for _, instance := range r.Instances() {
			if address, ok := addressOf(&instance, r); ok {
				state.Addresses = append(state.Addresses, address)
			}
		}
		_ = w.cc.UpdateState(state) // The error asks for another resolution, and the watch reports every change.
		select {
		case <-w.ctx.Done():
			return
		case <-changed:
		}
	}
}

type key struct{}

// known is what the balancer needs to know of an address.
type known struct {
	resolver *native.Resolver
	instance string
}

// addressOf is the address of an instance. A certificate is checked against the host of the instance.
func addressOf(instance *native.Instance, r *native.Resolver) (resolver.Address, bool) {
	at, err := url.Parse(instance.Address)
	if err != nil || at.Hostname() == "" {
		return resolver.Address{}, false
	}
	port := at.Port()
	if port == "" && at.Scheme == "https" {
		port = "443"
	} else if port == "" {
		port = "80"
	}
	return resolver.Address{
		Addr:               net.JoinHostPort(at.Hostname(), port),
		ServerName:         at.Hostname(),
		BalancerAttributes: attributes.New(key{}, known{r, instance.ID}),
	}, true
}
