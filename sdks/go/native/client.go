// Package native is a client of Maxine on its native API, with nothing but Go's standard library: it keeps instances
// registered, and chooses instances of other services from a cache that a watch keeps, without a request to a node.
package native

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Options are the settings of a Client. The zero value is ready to use.
type Options struct {
	// Namespace of all services of this client; by default "default".
	Namespace string
	// Token is a session token or an API token.
	Token string
	// TokenFile has the token, and is read for each request.
	TokenFile string
	// Credentials fetch tokens from an OpenID provider. They replace Token and TokenFile.
	Credentials *ClientCredentials
	// CAFile has the certificates that https nodes are checked with; by default those of the system.
	CAFile string
	// Timeout limits a call with all its attempts; by default 10 s.
	Timeout time.Duration
	// AttemptTimeout limits one attempt; by default 3 s.
	AttemptTimeout time.Duration
	// OnError gets the errors of the work in the background.
	OnError func(error)
	// OnAttempt gets each request to a node, when its answer has begun or it has failed. It must return soon.
	OnAttempt func(Attempt)
	// OnCall gets each choice of an instance, at the end of its request. It must return soon.
	OnCall func(Call)
	// Tracer begins and ends spans; nil for none.
	Tracer Tracer
}

// Attempt is one request to a node.
type Attempt struct {
	Node, Method, Path string
	// Status of the answer; 0 if there was none.
	Status   int
	Duration time.Duration
	Err      error
}

// Call is the use of an instance from its choice until Done or Failed.
type Call struct {
	Service, Instance string
	Duration          time.Duration
	Failed            bool
}

// Client is a client of the nodes of one cluster. Several goroutines may use it.
type Client struct {
	nodes     *nodes
	options   Options
	mu        sync.Mutex
	kept      []*Registration
	resolvers []*Resolver
	beating   bool
	done      context.Context
	end       context.CancelFunc
}

// New creates a client of the nodes at these addresses, such as http://10.0.0.1:8080.
func New(addresses []string, options Options) (*Client, error) {
	if options.Namespace == "" {
		options.Namespace = "default"
	}
	if options.Timeout == 0 {
		options.Timeout = 10 * time.Second
	}
	if options.AttemptTimeout == 0 {
		options.AttemptTimeout = 3 * time.Second
	}
	nodes, err := newNodes(addresses, options)
	if err != nil {
		return nil, err
	}
	c := &Client{nodes: nodes, options: options}
	c.done, c.end = context.WithCancel(context.Background())
	return c, nil
}

func (c *Client) report(err error) {
	if c.options.OnError != nil && err != nil {
		c.options.OnError(err)
	}
}

func (c *Client) path(service string, rest ...string) (string, error) {
	path := "/api/v1/services"
	for _, part := range append([]string{c.options.Namespace, service}, rest...) {
		if part == "" || part == "." || part == ".." { // In a URL these names mean another path.
			return "", fmt.Errorf("%q cannot be a name", part)
		}
		path += "/" + url.PathEscape(part)
	}
	return path, nil
}

// Body is what is registered. Address is required; TTLMs is 10,000 by default.
type Body struct {
	Address  string            `json:"address"`
	TTLMs    int               `json:"ttl_ms"`
	Weight   int               `json:"weight,omitempty"`
	Zone     string            `json:"zone,omitempty"`
	Version  string            `json:"version,omitempty"`
	Node     string            `json:"node,omitempty"`
	Tags     []string          `json:"tags,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Probe    map[string]any    `json:"probe,omitempty"`
	Checks   []map[string]any  `json:"checks,omitempty"`
}

// Registration is an instance that is kept registered.
type Registration struct {
	client            *Client
	service, instance string
	body              Body
	mu                sync.Mutex
	leaseEpoch        uint64
	beats, renewals   int
	stopped           bool
}

// Register registers an instance, and keeps it registered until Stop of it, or of the client.
func (c *Client) Register(ctx context.Context, service, instance string, body Body) (*Registration, error) {
	if body.TTLMs == 0 {
		body.TTLMs = 10_000
	}
	r := &Registration{client: c, service: service, instance: instance, body: body}
	if err := r.renew(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, r)
	if !c.beating {
		c.beating = true
		go c.beat()
	}
	return r, nil
}

func (c *Client) registrations() ([]*Registration, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ttlMs := 10_000
	for _, r := range c.kept {
		if r.body.TTLMs < ttlMs {
			ttlMs = r.body.TTLMs
		}
	}
	return append([]*Registration(nil), c.kept...), time.Duration(ttlMs) * time.Millisecond / 3
}

func (c *Client) beat() {
	for {
		_, interval := c.registrations()
		if !sleep(c.done, interval) {
			return
		}
		kept, _ := c.registrations()
		for at := 0; at < len(kept); at += 1000 {
			end := at + 1000
			if end > len(kept) {
				end = len(kept)
			}
			if err := c.beatOnce(kept[at:end], interval); err != nil && c.done.Err() == nil {
				c.report(err)
			}
		}
	}
}

// beatOnce sends the heartbeats of registrations together, and registers again what the cluster has lost.
func (c *Client) beatOnce(kept []*Registration, interval time.Duration) error {
	type item struct {
		Namespace string `json:"namespace"`
		Service   string `json:"service"`
		ID        string `json:"id"`
	}
	var items []item
	for _, r := range kept {
		items = append(items, item{c.options.Namespace, r.service, r.instance})
	}
	timeout := 2 * interval
	if timeout < time.Second {
		timeout = time.Second
	}
	var answer struct{ Unknown []int }
	if _, err := c.nodes.json(c.done, timeout, http.MethodPost, "/api/v1/heartbeats", map[string]any{"items": items}, &answer); err != nil {
		return err
	}
	for _, r := range kept {
		r.count(1, 0)
	}
	for _, at := range answer.Unknown {
		if at < 0 || at >= len(kept) || kept[at].isStopped() {
			continue
		}
		if err := kept[at].renew(c.done); err != nil {
			return err
		}
		kept[at].count(0, 1)
	}
	return nil
}

func (r *Registration) count(beats, renewals int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beats += beats
	r.renewals += renewals
}

func (r *Registration) isStopped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

// Counts tells how many heartbeats were answered, and how often the cluster had lost the instance.
func (r *Registration) Counts() (beats, renewals int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.beats, r.renewals
}

func (r *Registration) renew(ctx context.Context) error {
	path, err := r.client.path(r.service, "instances", r.instance)
	if err != nil {
		return err
	}
	var answer struct {
		LeaseEpoch uint64 `json:"lease_epoch"`
	}
	if _, err := r.client.nodes.json(ctx, 0, http.MethodPut, path, r.body, &answer); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaseEpoch = answer.LeaseEpoch
	return nil
}

// Stop deregisters, so that callers choose other instances, and waits drain for those that still have it.
func (r *Registration) Stop(ctx context.Context, drain time.Duration) error {
	r.mu.Lock()
	stopped, epoch := r.stopped, r.leaseEpoch
	r.stopped = true
	r.mu.Unlock()
	if stopped {
		return nil
	}
	r.client.mu.Lock()
	for at, one := range r.client.kept {
		if one == r {
			r.client.kept = append(r.client.kept[:at], r.client.kept[at+1:]...)
			break
		}
	}
	r.client.mu.Unlock()
	path, err := r.client.path(r.service, "instances", r.instance)
	if err != nil {
		return err
	}
	// A successor with the same name has another epoch, and stays.
	_, err = r.client.nodes.json(ctx, 0, http.MethodDelete, fmt.Sprintf("%s?lease_epoch=%d", path, epoch), nil, nil)
	sleep(ctx, drain)
	return err
}

// Stop deregisters all instances, waits drain for the callers that still have them, and ends. Call it when the
// process is asked to end, for example after signal.NotifyContext.
func (c *Client) Stop(ctx context.Context, drain time.Duration) error {
	kept, _ := c.registrations()
	var first error
	for _, r := range kept {
		if err := r.Stop(ctx, 0); err != nil && first == nil {
			first = err
		}
	}
	if len(kept) > 0 {
		sleep(ctx, drain)
	}
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.resolvers {
		r.Stop()
	}
	c.nodes.http.CloseIdleConnections()
	return first
}

// Transport gives an http.RoundTripper for URLs such as maxine://orders/path, whose host is a service: each request
// goes to an instance that is chosen for it. If an instance refuses the connection, another one is tried. Other URLs
// go to base, which is http.DefaultTransport if it is nil. Services whose names are not valid hosts need a Resolver.
func (c *Client) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{client: c, base: base, resolvers: map[string]*Resolver{}}
}

type transport struct {
	client    *Client
	base      http.RoundTripper
	mu        sync.Mutex
	resolvers map[string]*Resolver
}

func (t *transport) resolver(ctx context.Context, service string) (*Resolver, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.resolvers[service]; r != nil {
		return r, nil
	}
	r, err := t.client.Resolver(ctx, service, "")
	if err == nil {
		t.resolvers[service] = r
	}
	return r, err
}

const triesMax = 3

func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "maxine" {
		return t.base.RoundTrip(request)
	}
	resolver, err := t.resolver(request.Context(), request.URL.Hostname())
	if err != nil {
		return nil, err
	}
	input := Request{Context: request.Context(), Header: request.Header, Queries: []string{request.URL.RawQuery}}
	for try := 1; ; try++ {
		chosen := resolver.Choose(&input)
		if chosen == nil {
			return nil, &Error{Message: "no instance of " + resolver.service + " gets traffic"}
		}
		to, err := chosen.rewritten(request)
		if err != nil {
			chosen.End(Outcome{Err: err})
			return nil, err
		}
		if request.Body != nil && request.GetBody != nil {
			if to.Body, err = request.GetBody(); err != nil {
				chosen.End(Outcome{Err: err})
				return nil, err
			}
		}
		answer, err := t.base.RoundTrip(to)
		if err == nil {
			chosen.End(Outcome{Status: answer.StatusCode})
			return answer, nil
		}
		if request.Context().Err() != nil {
			chosen.End(Outcome{Err: err})
			return nil, err
		}
		chosen.End(Outcome{Err: err, Failed: true})
		safe := request.Method == "" || request.Method == http.MethodGet || request.Method == http.MethodHead
		repeatable := request.Body == nil || request.Body == http.NoBody || request.GetBody != nil
		if try >= triesMax || !repeatable || !safe && !refusedConnection(err) {
			return nil, err
		}
	}
}

// rewritten is the request as it is sent to the instance.
func (c *Chosen) rewritten(request *http.Request) (*http.Request, error) {
	address, err := url.Parse(c.Instance.Address)
	if err != nil {
		return nil, err
	}
	to := request.Clone(c.Context())
	c.Inject(to.Header)
	to.URL.Scheme, to.URL.Host, to.Host = address.Scheme, address.Host, ""
	if base := strings.TrimRight(address.Path, "/"); base != "" {
		to.URL.Path = base + to.URL.Path
		if to.URL.RawPath != "" {
			to.URL.RawPath = strings.TrimRight(address.EscapedPath(), "/") + to.URL.RawPath
		}
	}
	return to, nil
}
