package native

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func spec(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "spec", name))
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func hexadecimal(t *testing.T, text string) uint64 {
	t.Helper()
	number, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func TestXXH3(t *testing.T) {
	var file struct {
		Hashes []struct {
			Len          int
			Seed, Expect string
		}
	}
	spec(t, "xxh3.json", &file)
	for _, one := range file.Hashes {
		data := make([]byte, one.Len)
		for i := range data {
			data[i] = byte(i*i + 7*i)
		}
		if got := xxh3(data, hexadecimal(t, one.Seed)); got != hexadecimal(t, one.Expect) {
			t.Errorf("%d octets, seed %s: %x, not %s", one.Len, one.Seed, got, one.Expect)
		}
	}
	if len(file.Hashes) < 100 {
		t.Error("too few vectors")
	}
}

func TestHashesOfCallers(t *testing.T) {
	var file struct {
		Hashes []struct {
			Name, Address, Key, Query, Expect string
			HashKey                           hashKey `json:"hash_key"`
			InstanceQuery                     string  `json:"instance_query"`
			Headers                           [][2]string
		}
	}
	spec(t, "balance.json", &file)
	for _, one := range file.Hashes {
		request := Request{
			Key: one.Key, Address: netip.MustParseAddr(one.Address), Queries: []string{one.InstanceQuery, one.Query},
			Header: http.Header{},
		}
		for _, header := range one.Headers {
			request.Header.Add(header[0], header[1])
		}
		if got := request.hash(one.HashKey); got != hexadecimal(t, one.Expect) {
			t.Errorf("%s: %x, not %s", one.Name, got, one.Expect)
		}
	}
	if len(file.Hashes) < 10 {
		t.Error("too few vectors")
	}
}

func TestChoices(t *testing.T) {
	var file struct {
		Choices []struct {
			Name, Strategy, Zone string
			Instances            []Instance
			Split                []share
			LeftOut              []string `json:"left_out"`
			Keys                 []string
			Turns                int
			Expect               json.RawMessage
		}
	}
	spec(t, "balance.json", &file)
	checked := 0
	for _, one := range file.Choices {
		b := newBalancer(plan{strategy: one.Strategy, split: one.Split, zone: one.Zone}, one.Instances, &atomic.Uint64{})
		d := draw{
			admits: func(at int) bool {
				return !strings.Contains(strings.Join(one.LeftOut, " "), one.Instances[at].ID)
			},
			inFlight: func(int) int64 { return 0 },
		}
		if one.Turns > 0 {
			var expect []string
			if err := json.Unmarshal(one.Expect, &expect); err != nil {
				t.Fatal(err)
			}
			for turn := 0; turn < one.Turns; turn++ {
				if got := one.Instances[b.choose(&d)].ID; got != expect[turn] {
					t.Errorf("%s, turn %d: %s, not %s", one.Name, turn, got, expect[turn])
				}
				checked++
			}
			continue
		}
		var expect map[string]string
		if err := json.Unmarshal(one.Expect, &expect); err != nil {
			t.Fatal(err)
		}
		for _, key := range one.Keys {
			d.caller = xxh3([]byte(key), 0)
			if got := one.Instances[b.choose(&d)].ID; got != expect[key] {
				t.Errorf("%s, %q: %s, not %s", one.Name, key, got, expect[key])
			}
			checked++
		}
	}
	if checked < 90 {
		t.Error("too few vectors")
	}
}

func TestLeastRequestPrefersTheIdleOne(t *testing.T) {
	instances := []Instance{{ID: "a", Weight: 1}, {ID: "b", Weight: 1}}
	b := newBalancer(plan{strategy: "least_request"}, instances, &atomic.Uint64{})
	d := draw{admits: func(int) bool { return true }, inFlight: func(at int) int64 { return int64(1 - at) }}
	for n := 0; n < 50; n++ {
		if b.choose(&d) != 1 {
			t.Fatal("the busy one was chosen")
		}
	}
	for _, strategy := range []string{"least_request", "rendezvous", "consistent_hash", "round_robin"} {
		if got := newBalancer(plan{strategy: strategy}, nil, &atomic.Uint64{}).choose(&d); got != -1 {
			t.Errorf("%s: %d", strategy, got)
		}
	}
}

// fakeNode answers each request with what answer returns: a status, Retry-After and JSON.
type fakeNode struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

func newFakeNode(t *testing.T, answer func(method string) (int, string, string)) *fakeNode {
	n := &fakeNode{}
	n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.seen = append(n.seen, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization"))
		status, retryAfter, body := answer(r.Method)
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(n.Close)
	return n
}

func closedPort(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return "http://" + listener.Addr().String()
}

func client(t *testing.T, options Options, nodes ...string) *Client {
	t.Helper()
	c, err := New(nodes, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop(context.Background(), 0) })
	return c
}

func get(c *Client) error {
	_, err := c.nodes.json(context.Background(), 0, http.MethodGet, "/x", nil, nil)
	return err
}

// once asks the only node once, whatever the answer is.
func once(c *Client) error {
	use := func(*http.Response, *node, func()) error { return nil }
	_, err := c.nodes.attempt(context.Background(), time.Minute, c.nodes.list[0], "", http.MethodGet, "/x", nil, nil, use)
	return err
}

func TestNodesThatFailArePassedOver(t *testing.T) {
	good := newFakeNode(t, func(string) (int, string, string) { return 200, "", `{}` })
	bad := newFakeNode(t, func(string) (int, string, string) { return 503, "30", `{"detail": "no state"}` })
	c := client(t, Options{}, closedPort(t), bad.URL, good.URL)
	for n := 0; n < 10; n++ {
		if err := get(c); err != nil {
			t.Fatal(err)
		}
	}
	// After its first answer the node is left alone for as long as it has asked.
	if len(bad.seen) > 1 {
		t.Error(bad.seen)
	}
}

func TestTheDeadlineEndsTheAttempts(t *testing.T) {
	// The node asks for more time than there is.
	bad := newFakeNode(t, func(string) (int, string, string) { return 503, "30", `{"detail": "no leader"}` })
	if err := get(client(t, Options{}, bad.URL)); err == nil || err.Error() != "503: no leader" {
		t.Error(err)
	}
	var unreachable *Error
	err := once(client(t, Options{}, closedPort(t)))
	if !errors.As(err, &unreachable) || unreachable.Status != 0 || !refusedConnection(err) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := client(t, Options{}, bad.URL).nodes.json(ctx, 0, http.MethodGet, "/x", nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestARefusalIsNotRepeated(t *testing.T) {
	node := newFakeNode(t, func(string) (int, string, string) { return 422, "", `{"detail": "weight"}` })
	var refused *Error
	err := get(client(t, Options{}, node.URL, node.URL))
	if !errors.As(err, &refused) || refused.Problem["detail"] != "weight" || len(node.seen) != 1 {
		t.Error(err, node.seen)
	}
}

func TestAReplacedTokenFileIsUsedAtOnce(t *testing.T) {
	node := newFakeNode(t, func(string) (int, string, string) { return 200, "", `{}` })
	file := filepath.Join(t.TempDir(), "token")
	c := client(t, Options{TokenFile: file}, node.URL)
	for _, token := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := get(c); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Join(node.seen, ",") != "GET /x Bearer one,GET /x Bearer two" {
		t.Error(node.seen)
	}
}

func TestTheCertificateOfANodeIsChecked(t *testing.T) {
	node := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }))
	defer node.Close()
	node.Config.ErrorLog = log.New(io.Discard, "", 0)
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: node.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get(client(t, Options{CAFile: file}, node.URL)); err != nil {
		t.Error(err)
	}
	if err := once(client(t, Options{}, node.URL)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestWhatTheClusterHasLostIsRegisteredAgain(t *testing.T) {
	beats := []string{`{"unknown": []}`, `wrong`, `{"unknown": [0]}`}
	node := newFakeNode(t, func(method string) (int, string, string) {
		if method != http.MethodPost {
			return 200, "", `{"lease_epoch": 7}`
		}
		if len(beats) == 0 {
			return 200, "", `{"unknown": []}`
		}
		beat := beats[0]
		beats = beats[1:]
		return 200, "", beat
	})
	c := client(t, Options{}, node.URL)
	r, err := c.Register(context.Background(), "orders", "a b/c", Body{Address: "http://10.0.0.9:3000", TTLMs: 90})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the renewal", func() bool { beats, renewals := r.Counts(); return renewals == 1 && beats >= 3 })
	if err := c.Stop(context.Background(), 0); err != nil {
		t.Error(err)
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	var others []string
	for _, seen := range node.seen {
		if !strings.HasPrefix(seen, "POST") {
			others = append(others, strings.TrimSpace(seen))
		}
	}
	path := "/api/v1/services/default/orders/instances/a%20b%2Fc"
	if got := strings.Join(others, ","); got != fmt.Sprintf("PUT %s,PUT %s,DELETE %s?lease_epoch=7", path, path, path) {
		t.Error(got)
	}
	if _, err := c.Register(context.Background(), "..", "a", Body{}); err == nil {
		t.Error("the name was not refused")
	}
}

func TestAResolverFollowsRegistrationsAndGoesOnWithoutANode(t *testing.T) {
	servers := os.Getenv("MAXINE_SERVER")
	if servers == "" {
		t.Skip("MAXINE_SERVER names no cluster")
	}
	ctx := context.Background()
	service := fmt.Sprintf("go-%d", time.Now().UnixNano())
	upstream := newFakeNode(t, func(string) (int, string, string) { return 200, "", "hello" })
	var calls [2]atomic.Int64 // good ones, and those that have failed
	var attempts atomic.Int64
	observed := Options{
		OnAttempt: func(one Attempt) {
			if one.Status == 200 && one.Method == http.MethodGet && one.Node != "" && strings.Contains(one.Path, service) {
				attempts.Add(1)
			}
		},
		OnCall: func(one Call) {
			if one.Service == service && one.Failed == (one.Instance == "a") && one.Duration > 0 {
				calls[map[bool]int{true: 1}[one.Failed]].Add(1)
			}
		},
	}
	c, other := client(t, observed, strings.Split(servers, ",")...), client(t, Options{}, strings.Split(servers, ",")...)
	r, err := c.Resolver(ctx, service, "")
	if err != nil || r.Choose(nil) != nil {
		t.Fatal(err, "an instance of nothing")
	}
	a, err := other.Register(ctx, service, "a", Body{Address: closedPort(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Register(ctx, service, "b", Body{Address: upstream.URL + "/base/", Weight: 3}); err != nil {
		t.Fatal(err)
	}
	until(t, "both instances", func() bool { return len(r.Instances()) == 2 })
	counts := map[string]int{}
	for n := 0; n < 8; n++ {
		chosen := r.Choose(nil)
		counts[chosen.Instance.ID]++
		chosen.Done()
	}
	if counts["a"] != 2 || counts["b"] != 6 {
		t.Error(counts)
	}
	// The instance that refuses connections is tried, avoided, and does not fail a request.
	calls[0].Store(0)
	through := &http.Client{Transport: c.Transport(nil)}
	for n := 0; n < 8; n++ {
		answer, err := through.Post("maxine://"+service+"/x?y=1", "text/plain", bytes.NewReader([]byte("body")))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	if len(upstream.seen) != 8 || strings.TrimSpace(upstream.seen[0]) != "POST /base/x?y=1" {
		t.Error(upstream.seen)
	}
	if calls[0].Load() != 8 || calls[1].Load() == 0 || attempts.Load() == 0 {
		t.Error("reported: ", calls[0].Load(), " good calls, ", calls[1].Load(), " failed ones, ", attempts.Load(), " answers")
	}
	if err := a.Stop(ctx, 0); err != nil {
		t.Error(err)
	}
	until(t, "the removal", func() bool { return len(r.Instances()) == 1 })
	if r.Age() > 15*time.Second {
		t.Error(r.Age())
	}
	_ = c.Stop(ctx, 0)
	if chosen := r.Choose(nil); chosen == nil || chosen.Instance.ID != "b" {
		t.Error(chosen)
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, strategy := range []string{"round_robin", "least_request", "rendezvous", "consistent_hash"} {
		b.Run(strategy, func(b *testing.B) {
			r := &Resolver{}
			s := &state{}
			for n := 0; n < 10; n++ {
				s.instances = append(s.instances, Instance{ID: fmt.Sprint("instance-", n), Weight: 1})
				s.loads = append(s.loads, &load{})
			}
			s.balancer = newBalancer(plan{strategy: strategy}, s.instances, &r.turns)
			r.state.Store(s)
			request := Request{Key: "customer-4711"}
			b.ReportAllocs()
			for n := 0; n < b.N; n++ {
				r.Choose(&request).Done()
			}
		})
	}
}
