// Command conformance runs sdks/spec/cases.json (its path is the argument) with net/http, then the client
// against the same cluster.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maxine"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	eventuallyMax = 30 * time.Second
	// The number of wrong answers of the faulty node that sdks/spec/README.md describes.
	faultyAnswers = 6
)

var (
	nodes        = strings.Split(os.Getenv("MAXINE_SERVER"), ",")
	variables    = map[string]string{}
	variable     = regexp.MustCompile(`\$\{(\w+)\}`)
	plain        = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	upstream     = strings.Split(os.Getenv("MAXINE_UPSTREAM"), ":")
	forTheClient = context.Background()
)

type request struct {
	Node         int
	Method, Path string
	Headers      map[string]string
	JSON         json.RawMessage
	Text         *string
}

type expectation struct {
	Status  int
	Headers map[string]any
	JSON    any
	Text    any
}

type step struct {
	Request    json.RawMessage
	Expect     json.RawMessage
	Save       map[string]string
	Eventually bool
	Tally      *struct {
		Times  int
		Header string
		Counts map[string]int
	}
}

type answer struct {
	status  int
	headers http.Header
	text    string
}

// fill replaces the variables in a JSON text.
func fill(text []byte) []byte {
	return variable.ReplaceAllFunc(text, func(found []byte) []byte {
		value, err := json.Marshal(variables[string(found[2:len(found)-1])])
		if err != nil {
			panic(err)
		}
		return value[1 : len(value)-1]
	})
}

func hasType(name string, value any) (known, fits bool) {
	number, isNumber := value.(float64)
	switch name {
	case "$string":
		_, fits = value.(string)
	case "$number":
		fits = isNumber
	case "$integer":
		fits = isNumber && number == float64(int64(number))
	case "$boolean":
		_, fits = value.(bool)
	case "$array":
		_, fits = value.([]any)
	case "$object":
		_, fits = value.(map[string]any)
	default:
		return false, false
	}
	return true, fits
}

func check(expected, actual any, at string) error {
	wrong := fmt.Errorf("%s is %v, not %v", at, actual, expected)
	switch want := expected.(type) {
	case string:
		if known, fits := hasType(want, actual); known {
			if fits {
				return nil
			}
			return wrong
		}
		if strings.HasPrefix(want, "$re:") {
			pattern := strings.TrimPrefix(want, "$re:")
			if regexp.MustCompile("^(?:" + pattern + ")$").MatchString(fmt.Sprint(actual)) {
				return nil
			}
			return wrong
		}
	case map[string]any:
		got, isObject := actual.(map[string]any)
		if !isObject {
			return wrong
		}
		_, open := want["..."]
		for name, value := range want {
			inner, there := got[name]
			if name == "..." {
				continue
			}
			if !there {
				return fmt.Errorf("%s has no %s", at, name)
			}
			if err := check(value, inner, at+"."+name); err != nil {
				return err
			}
		}
		if !open && len(got) != len(want) {
			return wrong
		}
		return nil
	}
	if !reflect.DeepEqual(expected, actual) {
		return wrong
	}
	return nil
}

func send(asked request) (answer, error) {
	body := []byte(asked.JSON)
	if asked.JSON != nil {
		var compact bytes.Buffer
		if err := json.Compact(&compact, asked.JSON); err != nil {
			return answer{}, err
		}
		body = compact.Bytes()
	} else if asked.Text != nil {
		body = []byte(*asked.Text)
	}
	sent, err := http.NewRequest(asked.Method, nodes[asked.Node%len(nodes)]+asked.Path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if asked.JSON != nil {
		sent.Header.Set("Content-Type", "application/json")
	}
	for name, value := range asked.Headers {
		sent.Header.Set(name, value)
	}
	got, err := plain.Do(sent)
	if err != nil {
		return answer{}, err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	return answer{got.StatusCode, got.Header, string(text)}, err
}

func compare(expect expectation, got answer) error {
	if got.status != expect.Status {
		return fmt.Errorf("status %d, not %d, with %s", got.status, expect.Status, got.text)
	}
	for name, value := range expect.Headers {
		var actual any
		if values := got.headers.Values(name); values != nil {
			actual = strings.Join(values, ", ")
		}
		if err := check(value, actual, name); err != nil {
			return err
		}
	}
	if expect.Text != nil {
		if err := check(expect.Text, got.text, "body"); err != nil {
			return err
		}
	}
	if expect.JSON != nil {
		var body any
		if err := json.Unmarshal([]byte(got.text), &body); err != nil {
			return err
		}
		return check(expect.JSON, body, "body")
	}
	return nil
}

func save(from map[string]string, got answer) error {
	for name, source := range from {
		if strings.HasPrefix(source, "header:") {
			variables[name] = got.headers.Get(strings.TrimPrefix(source, "header:"))
			continue
		}
		var body map[string]any
		if err := json.Unmarshal([]byte(got.text), &body); err != nil {
			return err
		}
		variables[name] = fmt.Sprint(body[source])
	}
	return nil
}

func (s step) run() error {
	var asked request
	var expect expectation
	if err := json.Unmarshal(fill(s.Request), &asked); err != nil {
		return err
	}
	if err := json.Unmarshal(fill(s.Expect), &expect); err != nil {
		return err
	}
	deadline := time.Now().Add(eventuallyMax)
	counts := map[string]int{}
	for sent := 1; ; {
		got, err := send(asked)
		if err == nil {
			err = compare(expect, got)
		}
		if err != nil {
			if !s.Eventually || time.Now().After(deadline) {
				return err
			}
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if err := save(s.Save, got); err != nil || s.Tally == nil {
			return err
		}
		counts[got.headers.Get(s.Tally.Header)]++
		if sent == s.Tally.Times {
			if !reflect.DeepEqual(counts, s.Tally.Counts) {
				return fmt.Errorf("counted %v, not %v", counts, s.Tally.Counts)
			}
			return nil
		}
		sent++
	}
}

func eventually(what string, condition func() bool) error {
	for deadline := time.Now().Add(eventuallyMax); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New(what + " does not come true")
		}
	}
	return nil
}

func statusOf(err error) int {
	var refused *maxine.Error
	if errors.As(err, &refused) {
		return refused.Status
	}
	return 0
}

func client() error {
	ctx, cancel := context.WithTimeout(forTheClient, 2*time.Minute)
	defer cancel()
	client := maxine.New(append([]string{"http://127.0.0.1:1"}, nodes...)...)
	service := variables["unique"] + "-client"
	if role, err := client.SignIn(ctx, variables["viewerUser"], variables["viewerPassword"]); role != "viewer" {
		return fmt.Errorf("signed in as %q: %w", role, err)
	}
	if _, err := client.ChangeConfig(ctx, map[string]any{}); statusOf(err) != http.StatusForbidden {
		return fmt.Errorf("a viewer changes the configuration: %w", err)
	}
	port, err := strconv.Atoi(upstream[1])
	if err != nil {
		return err
	}
	registration := maxine.Registration{HostName: upstream[0], Port: port, NodeName: "a", ServiceName: service, TimeOut: 1}
	var beats atomic.Int32
	kept, stop := context.WithCancel(ctx)
	defer stop()
	if _, err := client.KeepRegistered(kept, registration, func(error) { beats.Add(1) }); err != nil {
		return err
	}
	// Five heartbeats take longer than a registration lives without heartbeats.
	if err := eventually("five beats", func() bool { return beats.Load() >= 5 }); err != nil {
		return err
	}
	found, err := client.Discover(ctx, service, "x?y=1")
	if expected := "http://" + strings.Join(upstream, ":") + "/x?y=1"; found != expected {
		return fmt.Errorf("discovered %q, not %q: %w", found, expected, err)
	}
	called, err := client.Call(ctx, service, http.MethodPost, "/x", []byte("hello"), nil)
	if err != nil {
		return err
	}
	defer called.Body.Close()
	var echoed map[string]any
	if err := json.NewDecoder(called.Body).Decode(&echoed); err != nil || echoed["body"] != "hello" {
		return fmt.Errorf("the upstream got %v: %w", echoed, err)
	}
	if servers, err := client.Servers(ctx); servers[service] == nil {
		return fmt.Errorf("it is not listed: %w", err)
	}
	return watched(ctx, client, registration, stop)
}

func watched(ctx context.Context, client *maxine.Client, registration maxine.Registration, stop func()) error {
	service := registration.ServiceName
	polled, err := client.Send(ctx, http.MethodGet, "/api/v1/changes?service="+service+"&wait_ms=0", nil, nil)
	if err != nil {
		return err
	}
	defer polled.Body.Close()
	var now struct{ Index uint64 }
	if err := json.NewDecoder(polled.Body).Decode(&now); err != nil {
		return err
	}
	registration.NodeName = "b"
	if _, err := client.Register(ctx, registration); err != nil {
		return err
	}
	var seen []string
	err = client.Watch(ctx, service, &now.Index, func(change maxine.Change) bool {
		seen = append(seen, change.Type+" "+change.Instance)
		stop()
		return change.Type != "instance_removed" || change.Instance != "a"
	})
	if err != nil || seen[0] != "instance_registered b" {
		return fmt.Errorf("watched %v: %w", seen, err)
	}
	return eventually("the service's end", func() bool {
		_, err := client.Discover(ctx, service, "")
		return statusOf(err) == http.StatusServiceUnavailable
	})
}

func heartbeats() error {
	ctx, stop := context.WithCancel(forTheClient)
	defer stop()
	client := maxine.New("http://" + os.Getenv("MAXINE_FAULTY"))
	registration := maxine.Registration{HostName: "h", NodeName: "a", ServiceName: variables["unique"]}
	var failed, passed atomic.Int32
	_, err := client.KeepRegistered(ctx, registration, func(err error) {
		if err == nil {
			passed.Add(1)
		} else {
			failed.Add(1)
		}
	})
	if err != nil {
		return err
	}
	err = eventually("two heartbeats after the wrong answers", func() bool {
		return failed.Load() >= faultyAnswers && passed.Load() >= 2
	})
	if err == nil && failed.Load() != faultyAnswers {
		err = fmt.Errorf("%d heartbeats failed", failed.Load())
	}
	return err
}

func prepare() {
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		panic(err)
	}
	variables["unique"] = "go-" + hex.EncodeToString(random)
	variables["upstreamHost"], variables["upstreamPort"] = upstream[0], upstream[1]
	for _, role := range []string{"admin", "operator", "viewer"} {
		variables[role+"User"] = os.Getenv("MAXINE_" + strings.ToUpper(role) + "_USERNAME")
		variables[role+"Password"] = os.Getenv("MAXINE_" + strings.ToUpper(role) + "_PASSWORD")
	}
}

func main() {
	prepare()
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	var spec struct {
		Cases []struct {
			Name  string
			Steps []step
		}
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		panic(err)
	}
	passed, failed := 0, 0
	report := func(name string, at int, err error) {
		if err == nil {
			passed++
			fmt.Println("ok", name)
			return
		}
		failed++
		fmt.Printf("FAILED %s, step %d: %v\n", name, at, err)
	}
	for _, one := range spec.Cases {
		at, err := 0, error(nil)
		for at = 0; at < len(one.Steps) && err == nil; at++ {
			err = one.Steps[at].run()
		}
		report(one.Name, at, err)
	}
	report("the client", 0, client())
	report("heartbeats to a faulty node", 0, heartbeats())
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}
