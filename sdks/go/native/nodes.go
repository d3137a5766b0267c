package native

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	backoff    = 50 * time.Millisecond
	backoffMax = 5 * time.Second
)

// Error is an answer that is an error. Status is 0 if no node has answered in time, or there is no token.
type Error struct {
	Status  int
	Message string
	// Problem is the application/problem+json of the answer, if it was that.
	Problem map[string]any
	cause   error
}

func (e *Error) Error() string {
	if e.Status == 0 {
		return e.Message
	}
	return fmt.Sprintf("%d: %s", e.Status, e.Message)
}

func (e *Error) Unwrap() error { return e.cause }

type node struct {
	url       string
	failures  int
	notBefore time.Time
}

// nodes sends a request to one node after another, until one gives an answer that is not only a matter of the node.
type nodes struct {
	options Options
	http    *http.Client
	mu      sync.Mutex
	list    []*node
	at      int
}

func newNodes(addresses []string, options Options) (*nodes, error) {
	if len(addresses) == 0 {
		return nil, errors.New("at least one node is needed")
	}
	if options.Credentials != nil && (options.Token != "" || options.TokenFile != "") {
		return nil, errors.New("either Token, TokenFile or Credentials: not two of them")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if options.CAFile != "" {
		pool, err := poolOf(options.CAFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	n := &nodes{options: options, http: &http.Client{Transport: transport}}
	for _, address := range addresses {
		n.list = append(n.list, &node{url: strings.TrimRight(address, "/")})
	}
	// Clients that start together do not all begin with the same node.
	n.at = randomBelow(len(n.list))
	return n, nil
}

// poolOf has the certificates of a file.
func poolOf(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", file)
	}
	return pool, nil
}

// pick gives the node to ask, and the time to wait before.
func (n *nodes) pick() (*node, time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var best *node
	for i := range n.list {
		if next := n.list[(n.at+i)%len(n.list)]; best == nil || wait(next) < wait(best) {
			best = next
		}
	}
	return best, wait(best)
}

func wait(n *node) time.Duration {
	if left := time.Until(n.notBefore); left > 0 {
		return left
	}
	return 0
}

// worked notes that the node has answered: it is asked first from now on.
func (n *nodes) worked(one *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	one.failures, one.notBefore = 0, time.Time{}
	for at := range n.list {
		if n.list[at] == one {
			n.at = at
		}
	}
}

// failed notes that the node is not asked again before a pause: that of Retry-After, or a random one that grows.
func (n *nodes) failed(one *node, retryAfter string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pause := backoffMax
	if one.failures < 7 {
		pause = backoff << one.failures
	}
	pause = time.Duration(float64(pause) * (0.5 + randomShare()/2))
	if seconds, err := strconv.ParseUint(retryAfter, 10, 31); err == nil {
		pause = time.Duration(float64(seconds) * (1 + randomShare()/10) * float64(time.Second))
	}
	one.failures++
	one.notBefore = time.Now().Add(pause)
	for at := range n.list {
		if n.list[at] == one {
			n.at = (at + 1) % len(n.list)
		}
	}
}

func (n *nodes) send(ctx context.Context, one *node, token, method, path string, body []byte, headers map[string]string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, one.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token == "" {
		token = n.options.Token
	}
	if n.options.TokenFile != "" { // Read each time, so that a replaced token is used at once.
		text, err := os.ReadFile(n.options.TokenFile)
		if err != nil {
			return nil, err
		}
		token = strings.TrimSpace(string(text))
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	span := start(ctx, n.options.Tracer, Traced{Node: one.url, Method: method, Path: path})
	if span != nil {
		span.Inject(request.Header)
		request = request.WithContext(span.Context())
	}
	begun := time.Now()
	answer, err := n.http.Do(request)
	about := Attempt{Node: one.url, Method: method, Path: path, Duration: time.Since(begun), Err: err}
	if err == nil {
		about.Status = answer.StatusCode
	}
	if span != nil {
		span.End(Outcome{Status: about.Status, Err: err})
	}
	if n.options.OnAttempt != nil {
		n.options.OnAttempt(about)
	}
	return answer, err
}

// open gives an answer below 300 to use, which reads it. keep says that the time of the attempt does not limit it.
func (n *nodes) open(ctx context.Context, timeout time.Duration, method, path string, body []byte, headers map[string]string, use func(answer *http.Response, one *node, keep func()) error) error {
	if timeout == 0 {
		timeout = n.options.Timeout
	}
	deadline := time.Now().Add(timeout)
	// One node that does not answer may not use up the time in which another one would.
	attempt := timeout / 2
	if attempt > n.options.AttemptTimeout {
		attempt = n.options.AttemptTimeout
	}
	late := error(&Error{Message: "no node has answered in time"})
	last := late
	for {
		token, err := n.token(ctx, deadline)
		if err != nil {
			return err
		}
		one, pause := n.pick()
		left := time.Until(deadline) - pause
		if left <= 0 {
			return last
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
		if left > attempt {
			left = attempt
		}
		again, err := n.attempt(ctx, left, one, token, method, path, body, headers, use)
		if err == nil || !again {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// That the time is over says less than the error before.
		if last == late || !errors.Is(err, context.Canceled) {
			last = err
		}
	}
}

// token is that of the credentials, if there are any. That there is none is no failure of a node.
func (n *nodes) token(ctx context.Context, deadline time.Time) (string, error) {
	if n.options.Credentials == nil {
		return "", nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	token, err := n.options.Credentials.Token(ctx)
	if err != nil {
		return "", &Error{Message: err.Error(), cause: err}
	}
	return token, nil
}

// attempt asks one node. It tells whether another attempt may help.
func (n *nodes) attempt(ctx context.Context, left time.Duration, one *node, token, method, path string, body []byte, headers map[string]string, use func(*http.Response, *node, func()) error) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(left, cancel)
	defer timer.Stop()
	answer, err := n.send(ctx, one, token, method, path, body, headers)
	if err == nil && answer.StatusCode < 300 {
		defer answer.Body.Close()
		if err = use(answer, one, func() { timer.Stop() }); err == nil {
			return false, nil
		}
		var refused *Error
		if errors.As(err, &refused) {
			return false, err
		}
	} else if err == nil {
		defer answer.Body.Close()
		var text []byte
		if text, err = io.ReadAll(answer.Body); err == nil {
			refused := errorOf(answer.StatusCode, text)
			if answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests {
				n.worked(one)
				return refused.Status == http.StatusUnauthorized && token != "" && n.options.Credentials.Refused(token), refused
			}
			n.failed(one, answer.Header.Get("Retry-After"))
			return true, refused
		}
	}
	n.failed(one, "")
	return true, &Error{Message: fmt.Sprintf("%s: %s", one.url, err), cause: err}
}

// json reads the JSON of an answer into got, which may be nil, and gives the answer's headers.
func (n *nodes) json(ctx context.Context, timeout time.Duration, method, path string, sent, got any) (http.Header, error) {
	var body []byte
	if sent != nil {
		var err error
		if body, err = json.Marshal(sent); err != nil {
			return nil, err
		}
	}
	var headers http.Header
	err := n.open(ctx, timeout, method, path, body, nil, func(answer *http.Response, one *node, _ func()) error {
		headers = answer.Header
		if got != nil {
			if err := json.NewDecoder(answer.Body).Decode(got); err != nil {
				return err
			}
		}
		_, err := io.Copy(io.Discard, answer.Body)
		if err == nil {
			n.worked(one)
		}
		return err
	})
	return headers, err
}

func errorOf(status int, text []byte) *Error {
	var problem map[string]any
	if json.Unmarshal(text, &problem) == nil {
		if detail, ok := problem["detail"].(string); ok {
			return &Error{Status: status, Message: detail, Problem: problem}
		}
	}
	return &Error{Status: status, Message: string(text)}
}

// sleep waits, and tells whether ctx is not done.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
