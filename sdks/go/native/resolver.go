package native

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// The nodes send at least a comment every 10 s.
	silenceMax  = 15 * time.Second
	reloadPause = 20 * time.Millisecond
	avoid       = 2 * time.Second
	avoidMax    = 60 * time.Second
)

// Instance is an instance that gets traffic.
type Instance struct {
	ID       string            `json:"id"`
	Address  string            `json:"address"`
	Weight   int               `json:"weight"`
	Zone     string            `json:"zone"`
	Version  string            `json:"version"`
	Node     string            `json:"node"`
	Tags     []string          `json:"tags"`
	Metadata map[string]string `json:"metadata"`
}

// load is what this client knows of an instance by itself.
type load struct {
	inFlight   atomic.Int64
	avoidUntil atomic.Int64 // nanoseconds since the process began
	failures   atomic.Int64
}

var began = time.Now()

type state struct {
	instances []Instance
	loads     []*load
	balancer  *balancer
	policy    policy
}

type policy struct {
	Selection struct {
		HashKey hashKey `json:"hash_key"`
	}
	Traffic struct {
		Split []share
		Zone  *struct {
			LocalInstancesMin int   `json:"local_instances_min"`
			SpillInFlight     int64 `json:"spill_in_flight"`
		}
		Sticky *struct{ Header *struct{ Name string } }
	}
}

// Resolver has the instances of a service that get traffic, as a watch keeps them. It goes on while no node answers.
//
// The strategy and the policy need the role viewer to be read. Without it, instances are chosen in turn by weight.
type Resolver struct {
	client        *Client
	service, zone string
	onCall        func(Call)
	tracer        Tracer
	state         atomic.Pointer[state]
	turns         atomic.Uint64
	currentAt     atomic.Int64
	position      string
	done          context.Context
	end           context.CancelFunc
	mu            sync.Mutex
	changed       chan struct{}
}

// Resolver reads the instances of a service, and keeps them. zone is the zone of this client, or empty.
func (c *Client) Resolver(ctx context.Context, service, zone string) (*Resolver, error) {
	r := &Resolver{client: c, service: service, zone: zone, onCall: c.options.OnCall, tracer: c.options.Tracer, changed: make(chan struct{})}
	r.done, r.end = context.WithCancel(c.done)
	if err := r.load(ctx, ""); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resolvers = append(c.resolvers, r)
	go r.run()
	return r, nil
}

// Instances gives the instances. Do not change them.
func (r *Resolver) Instances() []Instance { return r.state.Load().instances }

// Changed gives a channel that is closed at the next change.
func (r *Resolver) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Age tells how long ago a node has confirmed the instances: up to 10 s while it is reached.
func (r *Resolver) Age() time.Duration { return time.Since(began) - time.Duration(r.currentAt.Load()) }

// Stop ends the watch. The instances stay as they are.
func (r *Resolver) Stop() { r.end() }

// Chosen is an instance that was chosen for a request, which counts as in flight until Done or Failed.
type Chosen struct {
	Instance *Instance
	load     *load
	over     atomic.Bool
	resolver *Resolver
	chosenAt int64 // nanoseconds since the process began
	ctx      context.Context
	span     Span // nil if nothing is recorded
}

// Context is that of the request, with the span of this use of the instance.
func (c *Chosen) Context() context.Context { return c.ctx }

// Inject sets the header fields that pass the trace on, if the client has a Tracer.
func (c *Chosen) Inject(header http.Header) {
	if c.span != nil {
		c.span.Inject(header)
	}
}

func (c *Chosen) report(failed bool) {
	if r := c.resolver; r.onCall != nil {
		duration := time.Since(began) - time.Duration(c.chosenAt)
		r.onCall(Call{Service: r.service, Instance: c.Instance.ID, Duration: duration, Failed: failed})
	}
}

// Done tells that the request is over.
func (c *Chosen) Done() { c.End(Outcome{}) }

// Failed tells that the instance could not be reached: it is avoided for some seconds.
func (c *Chosen) Failed() { c.End(Outcome{Failed: true}) }

// End is Done or Failed, and gives the Tracer what is known of the outcome.
func (c *Chosen) End(outcome Outcome) {
	if c.over.Swap(true) {
		return
	}
	if c.span != nil {
		c.span.End(outcome)
	}
	c.load.inFlight.Add(-1)
	if outcome.Failed {
		pause := avoidMax
		if failures := c.load.failures.Add(1); failures < 6 {
			pause = avoid << (failures - 1)
		}
		c.load.avoidUntil.Store(int64(time.Since(began) + pause))
	} else if c.load.failures.Load() > 0 {
		c.load.failures.Store(0)
		c.load.avoidUntil.Store(0)
	}
	c.report(outcome.Failed)
}

// Choose chooses an instance as a node would; nil if there is none. request may be nil.
func (r *Resolver) Choose(request *Request) *Chosen {
	s := r.state.Load()
	if request == nil {
		request = &Request{}
	}
	now, avoiding := int64(time.Since(began)), false
	d := draw{
		inFlight: func(at int) int64 { return s.loads[at].inFlight.Load() },
		admits: func(at int) bool {
			if request.Skip != nil && request.Skip(&s.instances[at]) {
				return false
			}
			if s.loads[at].avoidUntil.Load() <= now {
				return true
			}
			avoiding = true
			return false
		},
	}
	if s.balancer.hashes() {
		d.caller = request.hash(s.policy.Selection.HashKey)
	}
	if sticky := s.policy.Traffic.Sticky; sticky != nil && sticky.Header != nil {
		if hash, ok := hashOfField(request.Header, sticky.Header.Name); ok {
			d.affinity = &hash
		}
	}
	at := s.balancer.choose(&d)
	if at < 0 && avoiding { // An instance that has failed is better than none.
		d.admits = func(at int) bool { return request.Skip == nil || !request.Skip(&s.instances[at]) }
		at = s.balancer.choose(&d)
	}
	if at < 0 {
		return nil
	}
	s.loads[at].inFlight.Add(1)
	chosen := &Chosen{Instance: &s.instances[at], load: s.loads[at], resolver: r, chosenAt: now, ctx: request.Context}
	if chosen.ctx == nil {
		chosen.ctx = context.Background()
	}
	if r.tracer != nil {
		about := Traced{Service: r.service, Instance: chosen.Instance.ID, Address: chosen.Instance.Address}
		about.Namespace = r.client.options.Namespace
		if chosen.span = start(chosen.ctx, r.tracer, about); chosen.span != nil {
			chosen.ctx = chosen.span.Context()
		}
	}
	return chosen
}

func (r *Resolver) load(ctx context.Context, minIndex string) error {
	path, err := r.client.path(r.service)
	if err != nil {
		return err
	}
	next := &state{}
	position, atLeast, cursor := "", minIndex, ""
	for first := true; first || cursor != ""; first = false {
		query := url.Values{"health": {"routable"}, "limit": {"1000"}}
		if atLeast != "" {
			query.Set("min_index", atLeast)
		}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		var page struct {
			Items      []Instance
			NextCursor string `json:"next_cursor"`
		}
		headers, err := r.client.nodes.json(ctx, 0, http.MethodGet, path+"/instances?"+query.Encode(), nil, &page)
		var refused *Error
		if errors.As(err, &refused) && refused.Status == http.StatusGone && minIndex != "" {
			return r.load(ctx, "") // Another history has begun.
		}
		if errors.As(err, &refused) && refused.Status == http.StatusNotFound && refused.Problem != nil {
			next.instances, position = nil, ""
			break
		}
		if err != nil {
			return err
		}
		if position == "" { // The watch continues from the oldest page.
			position = headers.Get("X-Maxine-History") + "-" + headers.Get("X-Maxine-Index")
		}
		atLeast, cursor = position, page.NextCursor
		next.instances = append(next.instances, page.Items...)
	}
	service := struct {
		Strategy string
		Policy   *policy
	}{Strategy: "round_robin"}
	var refused *Error
	if _, err := r.client.nodes.json(ctx, 0, http.MethodGet, path, nil, &service); err != nil {
		if !errors.As(err, &refused) || refused.Status != 401 && refused.Status != 403 && refused.Status != 404 {
			return err
		}
	}
	if service.Policy != nil {
		next.policy = *service.Policy
	}
	p := plan{strategy: service.Strategy, split: next.policy.Traffic.Split}
	if zone := next.policy.Traffic.Zone; zone != nil {
		p.zone, p.zoneMin, p.spillInFlight = r.zone, zone.LocalInstancesMin, zone.SpillInFlight
	}
	next.balancer = newBalancer(p, next.instances, &r.turns)
	known := map[string]*load{}
	if before := r.state.Load(); before != nil {
		for at, instance := range before.instances {
			known[instance.ID] = before.loads[at]
		}
	}
	for _, instance := range next.instances {
		one := known[instance.ID]
		if one == nil {
			one = &load{}
		}
		next.loads = append(next.loads, one)
	}
	r.state.Store(next)
	r.position = position
	r.currentAt.Store(int64(time.Since(began)))
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

func (r *Resolver) run() {
	for r.done.Err() == nil {
		if err := r.watch(); err != nil && r.done.Err() == nil {
			r.client.report(err)
			sleep(r.done, 500*time.Millisecond)
		}
	}
}

func (r *Resolver) watch() error {
	query := url.Values{"namespace": {r.client.options.Namespace}, "service": {r.service}}
	headers := map[string]string{}
	if r.position != "" {
		headers["Last-Event-ID"] = r.position
	}
	nodes := r.client.nodes
	return nodes.open(r.done, 0, http.MethodGet, "/api/v1/watch?"+query.Encode(), nil, headers, func(answer *http.Response, one *node, keep func()) error {
		keep()
		silence := time.AfterFunc(silenceMax, func() { answer.Body.Close() })
		defer silence.Stop()
		lines := bufio.NewScanner(answer.Body)
		lines.Buffer(nil, 4<<20)
		id, event := "", ""
		for lines.Scan() {
			if line := lines.Text(); line != "" {
				switch name, value, _ := strings.Cut(line, ": "); name {
				case "id":
					id = value
				case "event":
					event = value
				}
				continue
			}
			silence.Reset(silenceMax)
			if over, err := r.take(one, id, event); over || err != nil {
				// An error of another request says nothing about this node.
				return asError(err)
			}
			id, event = "", ""
		}
		if err := lines.Err(); err != nil && r.done.Err() == nil {
			nodes.failed(one, "")
			return asError(err)
		}
		return nil
	})
}

// asError makes every error one that is not tried again at once.
func asError(err error) error {
	var refused *Error
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return &Error{Message: "the watch broke: " + err.Error(), cause: err}
}

// take handles one event. It tells whether the stream is over. A comment that only updates the id has no name.
func (r *Resolver) take(one *node, id, event string) (bool, error) {
	var err error
	switch {
	case event == "ready":
		r.client.nodes.worked(one)
		if r.position == "" { // Something may have changed between the list and this stream.
			err = r.load(r.done, "")
		}
	case event == "compacted":
		r.position = ""
		return true, r.load(r.done, "")
	case event != "" && indexOf(id) > indexOf(r.position):
		sleep(r.done, reloadPause) // Changes that arrive together are read together.
		err = r.load(r.done, id)
	}
	if err != nil {
		return true, err
	}
	if indexOf(id) > indexOf(r.position) {
		r.position = id
	}
	r.currentAt.Store(int64(time.Since(began)))
	return false, nil
}

// indexOf is the index in a position such as 5f3a9c0027e1b4d8-1234; -1 if there is no position.
func indexOf(position string) int64 {
	index, err := strconv.ParseInt(position[strings.LastIndex(position, "-")+1:], 10, 64)
	if err != nil {
		return -1
	}
	return index
}

// refusedConnection tells whether nothing was sent.
func refusedConnection(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
