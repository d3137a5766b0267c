package native

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Tokens by client credentials: against a provider that fails in a chosen way, and against a real provider and a cluster
// that accepts its tokens, if MAXINE_TEST_ISSUER names one.

const secretOfTest = "s3cret: with % signs +"

var pairOfTest = base64.StdEncoding.EncodeToString([]byte("orders%3A+a%2Bb:s3cret%3A+with+%25+signs+%2B"))

type reply struct {
	status int
	header map[string]string
	body   any
}

func granted(token string, lifetime int) reply {
	return reply{200, nil, map[string]any{"access_token": token, "token_type": "bearer", "expires_in": lifetime}}
}

type asked struct {
	path, authorization string
	form                url.Values
}

// fake answers each request with what answer gives for its number, from 1.
type fake struct {
	*httptest.Server
	mu   sync.Mutex
	seen []asked
}

func (f *fake) requests() []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]asked(nil), f.seen...)
}

func newFake(t *testing.T, answer func(nth int, request *http.Request) reply) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(to http.ResponseWriter, request *http.Request) {
		_ = request.ParseForm()
		f.mu.Lock()
		f.seen = append(f.seen, asked{request.URL.Path, request.Header.Get("Authorization"), request.PostForm})
		nth := len(f.seen)
		f.mu.Unlock()
		given := answer(nth, request)
		for name, value := range given.header {
			to.Header().Set(name, value)
		}
		to.WriteHeader(given.status)
		_ = json.NewEncoder(to).Encode(given.body)
	}))
	t.Cleanup(f.Close)
	return f
}

func fixed(given reply) func(int, *http.Request) reply {
	return func(int, *http.Request) reply { return given }
}

func secretFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secretOfTest+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func sourceOf(t *testing.T, tokenURL string, change func(*ClientCredentialsOptions)) *ClientCredentials {
	t.Helper()
	options := ClientCredentialsOptions{ClientID: "orders: a+b", TokenURL: tokenURL, ClientSecretFile: secretFile(t)}
	if change != nil {
		change(&options)
	}
	source, err := NewClientCredentials(options)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func mustToken(t *testing.T, source *ClientCredentials) string {
	t.Helper()
	token, err := source.Token(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func refuses(t *testing.T, source *ClientCredentials, limit time.Duration, message string) {
	t.Helper()
	if _, err := source.Token(within(t, limit)); err == nil || !strings.Contains(err.Error(), message) {
		t.Errorf("%v, not %s", err, message)
	}
}

func TestOneFetchServesAllCallersWithTheFormOfRFC6749(t *testing.T) {
	server := newFake(t, fixed(granted("one", 600)))
	source := sourceOf(t, server.URL+"/token", func(o *ClientCredentialsOptions) {
		o.Scope, o.Audience, o.Resource = "a b", "maxine", "https://maxine.test/"
	})
	var all sync.WaitGroup
	for n := 0; n < 20; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			if token, err := source.Token(context.Background()); token != "one" {
				t.Error(token, err)
			}
		}()
	}
	all.Wait()
	seen := server.requests()
	if len(seen) != 1 || seen[0].authorization != "Basic "+pairOfTest {
		t.Fatal(seen)
	}
	expect := "audience=maxine&grant_type=client_credentials&resource=https%3A%2F%2Fmaxine.test%2F&scope=a+b"
	if form := seen[0].form.Encode(); form != expect {
		t.Error(form)
	}
}

func TestATokenIsRenewedBeforeItExpiresAndUsedWhileTheProviderFails(t *testing.T) {
	server := newFake(t, func(nth int, _ *http.Request) reply {
		if nth == 2 {
			return reply{status: 503}
		}
		return granted(fmt.Sprint("token-", nth), 8)
	})
	reported := make(chan error, 10)
	source := sourceOf(t, server.URL, func(o *ClientCredentialsOptions) { o.OnError = func(err error) { reported <- err } })
	begun := time.Now()
	for last := ""; last != "token-3"; time.Sleep(5 * time.Millisecond) {
		last = mustToken(t, source)
		if last != "token-1" && last != "token-3" || time.Since(begun) > 8*time.Second {
			t.Fatal(last, time.Since(begun))
		}
	}
	if err := <-reported; !strings.Contains(err.Error(), "answers 503") {
		t.Error(err)
	}
}

func TestAProviderThatFailsIsAskedAgainAfterAPause(t *testing.T) {
	server := newFake(t, func(nth int, _ *http.Request) reply {
		if nth < 3 {
			return reply{status: 503}
		}
		return granted("late", 600)
	})
	begun := time.Now()
	if token := mustToken(t, sourceOf(t, server.URL, nil)); token != "late" || time.Since(begun) < 700*time.Millisecond {
		t.Error(token, time.Since(begun))
	}
	down := newFake(t, fixed(reply{503, map[string]string{"Retry-After": "30"}, nil}))
	refuses(t, sourceOf(t, down.URL, nil), 300*time.Millisecond, "answers 503")
	ended := make(chan struct{})
	silent := newFake(t, func(int, *http.Request) reply { <-ended; return granted("never", 1) })
	t.Cleanup(func() { close(ended) })
	refuses(t, sourceOf(t, silent.URL, nil), 300*time.Millisecond, "no token: the provider has not answered in time")
}

func TestARefusalEndsTheCallAtOnceAndItsErrorDoesNotTellTheSecret(t *testing.T) {
	description := fmt.Sprintf("no client with %s and %s", secretOfTest, pairOfTest)
	server := newFake(t, fixed(reply{401, nil, map[string]any{"error": "invalid_client", "error_description": description}}))
	source := sourceOf(t, server.URL, nil)
	for n := 0; n < 3; n++ {
		_, err := source.Token(within(t, 10*time.Second))
		if err == nil || err.Error() != "no token: "+server.URL+" answers 401: invalid_client: no client with *** and ***" {
			t.Error(err)
		}
	}
	if seen := server.requests(); len(seen) != 1 {
		t.Error(seen)
	}
}

func TestWithoutATokenNoNodeIsAsked(t *testing.T) {
	node := newFake(t, fixed(reply{200, nil, map[string]any{}}))
	server := newFake(t, fixed(reply{400, nil, map[string]any{"error": "invalid_scope"}}))
	client, err := New([]string{node.URL}, Options{Credentials: sourceOf(t, server.URL, nil)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Register(context.Background(), "orders", "a", Body{Address: "http://h"})
	var failed *Error
	if !errors.As(err, &failed) || failed.Status != 0 || !strings.HasSuffix(err.Error(), "invalid_scope") || len(node.requests()) > 0 {
		t.Error(err, node.requests())
	}
}

func TestATokenThatANodeRefusesIsReplacedUnlessItIsNew(t *testing.T) {
	server := newFake(t, func(nth int, _ *http.Request) reply { return granted(fmt.Sprint("token-", nth), 600) })
	node := newFake(t, func(_ int, request *http.Request) reply {
		if request.Header.Get("Authorization") == "Bearer token-1" {
			return reply{401, nil, map[string]any{"detail": "no"}}
		}
		return reply{200, nil, map[string]any{}}
	})
	nodes, err := newNodes([]string{node.URL}, Options{
		Credentials: sourceOf(t, server.URL, nil), Timeout: 10 * time.Second, AttemptTimeout: 3 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := nodes.json(context.Background(), 0, http.MethodGet, "/x", nil, nil)
		return err
	}
	var failed *Error
	if err := ask(); !errors.As(err, &failed) || failed.Status != 401 {
		t.Error(err)
	}
	before := refusedAfter
	refusedAfter = 0
	defer func() { refusedAfter = before }()
	if err := ask(); err != nil {
		t.Error(err)
	}
	if seen := node.requests(); seen[len(seen)-1].authorization != "Bearer token-2" {
		t.Error(seen)
	}
}

func TestTheIssuerNamesTheEndpointAndTheMethodAndOnlyItself(t *testing.T) {
	var server *fake
	var mu sync.Mutex
	found := map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_post"}}
	set := func(name, value string) {
		mu.Lock()
		defer mu.Unlock()
		found[name] = value
	}
	server = newFake(t, func(_ int, request *http.Request) reply {
		if request.URL.Path == "/token" {
			return granted("posted", 600)
		}
		mu.Lock()
		defer mu.Unlock()
		text, _ := json.Marshal(found)
		return reply{200, nil, json.RawMessage(text)}
	})
	issuer := func() *ClientCredentials {
		return sourceOf(t, "", func(o *ClientCredentialsOptions) { o.Issuer = server.URL })
	}
	set("issuer", server.URL)
	set("token_endpoint", server.URL+"/token")
	token := mustToken(t, issuer())
	if seen := server.requests(); token != "posted" || seen[1].authorization != "" || seen[1].form.Get("client_secret") != secretOfTest {
		t.Error(token, seen)
	}
	set("token_endpoint", "http://10.0.0.1/token")
	refuses(t, issuer(), 10*time.Second, "the token_endpoint must be an https URL")
	set("issuer", "https://another.test")
	refuses(t, issuer(), 10*time.Second, "another one")
}

func TestAnswersAndSettingsThatAreNotSafeAreRefused(t *testing.T) {
	for _, one := range [][3]string{
		{"a b", "bearer", "no access_token"}, {"a\nb", "bearer", "no access_token"}, {"a", "mac", "token_type"},
	} {
		server := newFake(t, fixed(reply{200, nil, map[string]any{"access_token": one[0], "token_type": one[1]}}))
		refuses(t, sourceOf(t, server.URL, nil), 10*time.Second, one[2])
	}
	elsewhere := newFake(t, fixed(granted("stolen", 600)))
	redirecting := newFake(t, fixed(reply{307, map[string]string{"Location": elsewhere.URL}, nil}))
	refuses(t, sourceOf(t, redirecting.URL, nil), 10*time.Second, "answers 307")
	if seen := elsewhere.requests(); len(seen) > 0 {
		t.Error(seen)
	}
	for _, options := range []ClientCredentialsOptions{
		{TokenURL: "http://10.0.0.1/token"}, {TokenURL: "http://localhost.example/token"}, {TokenURL: "https://u:p@h/token"},
		{TokenURL: "ftp://localhost/"}, {TokenURL: "token"}, {Issuer: "http://10.0.0.1"}, {TokenURL: "https://h", Issuer: "https://h"},
		{}, {TokenURL: "https://h", ClientSecretEnv: "E"}, {TokenURL: "https://h", CAFile: "/nowhere"},
	} {
		options.ClientID, options.ClientSecretFile = "a", "file"
		if _, err := NewClientCredentials(options); err == nil {
			t.Errorf("%+v is accepted", options)
		}
	}
	if _, err := New([]string{"http://127.0.0.1:1"}, Options{Token: "t", Credentials: sourceOf(t, "https://h", nil)}); err == nil {
		t.Error("a token and credentials are accepted")
	}
	for message, change := range map[string]func(*ClientCredentialsOptions){
		"the client secret cannot be read": func(o *ClientCredentialsOptions) { o.ClientSecretFile = "/nowhere" },
		"MAXINE_TEST_NO_SECRET has no client secret": func(o *ClientCredentialsOptions) {
			o.ClientSecretFile, o.ClientSecretEnv = "", "MAXINE_TEST_NO_SECRET"
		},
	} {
		refuses(t, sourceOf(t, "https://127.0.0.1:1", change), 10*time.Second, message)
	}
}

type caller struct{ User, Role, Via string }

// meAs asks a node who the caller is, with tokens of a real provider.
func meAs(t *testing.T, clientID string) (*ClientCredentials, func() (caller, error)) {
	t.Helper()
	issuer, servers := os.Getenv("MAXINE_TEST_ISSUER"), os.Getenv("MAXINE_SERVER")
	if issuer == "" || servers == "" {
		t.Skip("MAXINE_TEST_ISSUER names no provider")
	}
	t.Setenv("MAXINE_TEST_SECRET", secretOfTest)
	source, err := NewClientCredentials(ClientCredentialsOptions{
		ClientID: clientID, Issuer: issuer, ClientSecretEnv: "MAXINE_TEST_SECRET", Resource: "https://maxine.test/", Scope: "register",
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := New(strings.Split(servers, ","), Options{Credentials: source})
	if err != nil {
		t.Fatal(err)
	}
	return source, func() (who caller, err error) {
		_, err = client.nodes.json(context.Background(), 0, http.MethodGet, "/api/v1/me", nil, &who)
		return who, err
	}
}

func TestTheNodesAcceptTheTokenOfARealProvider(t *testing.T) {
	_, me := meAs(t, "orders: a+b")
	if who, err := me(); err != nil || who != (caller{"jwt:corp/orders: a+b", "operator", "jwt"}) {
		t.Error(who, err)
	}
	var failed *Error
	_, me = meAs(t, "stranger")
	if _, err := me(); !errors.As(err, &failed) || failed.Status != 403 {
		t.Error(err)
	}
	_, me = meAs(t, "nobody")
	if _, err := me(); !errors.As(err, &failed) || failed.Status != 0 || !strings.Contains(err.Error(), "answers 401: invalid_client") {
		t.Error(err)
	}
}

func TestCallsGoOnBeyondTheLifeOfAToken(t *testing.T) {
	source, me := meAs(t, "brief")
	used := map[string]bool{}
	for deadline := time.Now().Add(30 * time.Second); len(used) < 3; time.Sleep(10 * time.Millisecond) {
		if who, err := me(); err != nil || who.Role != "viewer" || time.Now().After(deadline) {
			t.Fatal(who, err, len(used))
		}
		used[mustToken(t, source)] = true
	}
}
