// Package maxine is a client of Maxine with nothing but Go's standard library.
//
// It registers a service and keeps it registered, finds instances of others, calls them through the
// proxy, and watches for changes. If a node cannot be reached, the client uses the next one of the given
// nodes. A Client may be used by several goroutines.
package maxine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	registerPath = "/api/maxine/serviceops/register"
	discoverPath = "/api/maxine/serviceops/discover"
	proxyPath    = "/api/maxine/serviceops/proxy/"
	configPath   = "/api/maxine/control/config"
)

// heartbeatTimeout is the time limit for one heartbeat.
const heartbeatTimeout = 10 * time.Second

// Error is an answer that is an error. Status and Message are those of the server.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Message) }

// Client is a client of the nodes of one cluster. New creates one.
type Client struct {
	nodes []string
	at    atomic.Uint32
	token atomic.Pointer[string]
	http  *http.Client
}

// New creates a client of the nodes at these addresses, such as http://127.0.0.1:8080.
func New(nodes ...string) *Client {
	noRedirects := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client := &Client{http: &http.Client{CheckRedirect: noRedirects}}
	for _, node := range nodes {
		client.nodes = append(client.nodes, strings.TrimRight(node, "/"))
	}
	return client
}

// Send sends a request and returns the answer, whatever its status is. The caller closes its body.
func (c *Client) Send(ctx context.Context, method, path string, body []byte, headers http.Header) (*http.Response, error) {
	for tries := 1; ; tries++ {
		at := c.at.Load()
		node := c.nodes[int(at)%len(c.nodes)]
		request, err := http.NewRequestWithContext(ctx, method, node+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if headers != nil {
			request.Header = headers.Clone()
		}
		if token := c.token.Load(); token != nil && request.Header.Get("Authorization") == "" {
			request.Header.Set("Authorization", "Bearer "+*token)
		}
		answer, err := c.http.Do(request)
		if err == nil || ctx.Err() != nil || tries >= len(c.nodes) {
			return answer, err
		}
		c.at.CompareAndSwap(at, at+1)
	}
}

func (c *Client) json(ctx context.Context, method, path string, sent, got any) error {
	var body []byte
	headers := http.Header{}
	if sent != nil {
		var err error
		if body, err = json.Marshal(sent); err != nil {
			return err
		}
		headers.Set("Content-Type", "application/json")
	}
	answer, err := c.Send(ctx, method, path, body, headers)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		return errorOf(answer)
	}
	return json.NewDecoder(answer.Body).Decode(got)
}

func errorOf(answer *http.Response) error {
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	var body struct{ Message, Detail string }
	if json.Unmarshal(text, &body) != nil {
		body.Message = string(text)
	}
	if body.Message == "" {
		body.Message = body.Detail
	}
	return &Error{answer.StatusCode, body.Message}
}

// SignIn signs in. Later requests are sent with the token. It returns the role.
func (c *Client) SignIn(ctx context.Context, userName, password string) (string, error) {
	var answer struct{ AccessToken, Role string }
	body := map[string]string{"userName": userName, "password": password}
	if err := c.json(ctx, http.MethodPost, "/api/maxine/signin", body, &answer); err != nil {
		return "", err
	}
	c.token.Store(&answer.AccessToken)
	return answer.Role, nil
}

// Registration describes one instance of a service. HostName, NodeName and ServiceName are required.
type Registration struct {
	HostName        string `json:"hostName"`
	NodeName        string `json:"nodeName"`
	ServiceName     string `json:"serviceName"`
	Port            int    `json:"port,omitempty"`
	SSL             bool   `json:"ssl,omitempty"`
	Path            string `json:"path,omitempty"`
	TimeOut         int    `json:"timeOut,omitempty"` // seconds
	Weight          int    `json:"weight,omitempty"`
	HealthCheckPath string `json:"healthCheckPath,omitempty"`
}

// Registered is a registration as it is stored.
type Registered struct {
	HostName, NodeName, ServiceName, Address, HealthCheckPath, RegisteredAt string
	TimeOut, Weight                                                         int
}

// Register registers once.
func (c *Client) Register(ctx context.Context, registration Registration) (Registered, error) {
	var registered Registered
	err := c.json(ctx, http.MethodPost, registerPath, registration, &registered)
	return registered, err
}

// KeepRegistered registers, and repeats the registration twice within each TimeOut until ctx is done. It returns
// after the first registration. It calls beat, which may be nil, with the result of every later one.
func (c *Client) KeepRegistered(ctx context.Context, registration Registration, beat func(error)) (Registered, error) {
	registered, err := c.heartbeat(ctx, registration)
	if err != nil {
		return registered, err
	}
	go func() {
		ticker := time.NewTicker(time.Duration(registered.TimeOut) * time.Second / 2)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if _, err := c.heartbeat(ctx, registration); beat != nil && ctx.Err() == nil {
				beat(err)
			}
		}
	}()
	return registered, nil
}

// heartbeat registers once, within a time limit. If the node gives no usable answer, the next request goes to another
// node.
func (c *Client) heartbeat(ctx context.Context, registration Registration) (Registered, error) {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	registered, err := c.Register(ctx, registration)
	if err == nil && registered.TimeOut <= 0 {
		err = errors.New("the answer is not a registration")
	}
	var refused *Error
	if err != nil && !errors.As(err, &refused) {
		c.at.Add(1)
	}
	return registered, err
}

// Discover returns the URL of an instance, with endPoint appended.
func (c *Client) Discover(ctx context.Context, serviceName, endPoint string) (string, error) {
	query := url.Values{"serviceName": {serviceName}}
	if endPoint != "" {
		query.Set("endPoint", endPoint)
	}
	answer, err := c.Send(ctx, http.MethodGet, discoverPath+"?"+query.Encode(), nil, nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusFound {
		return "", errorOf(answer)
	}
	return answer.Header.Get("Location"), nil
}

// Call sends a request to an instance through Maxine's proxy. The caller closes the answer's body.
func (c *Client) Call(ctx context.Context, serviceName, method, path string, body []byte, headers http.Header) (*http.Response, error) {
	if serviceName == "" || serviceName == "." || serviceName == ".." {
		// In a URL these names mean another path.
		return nil, fmt.Errorf("%q cannot be a service's name", serviceName)
	}
	return c.Send(ctx, method, proxyPath+url.PathEscape(serviceName)+path, body, headers)
}

// Servers returns the whole registry. It needs the role viewer.
func (c *Client) Servers(ctx context.Context) (map[string]any, error) {
	var servers map[string]any
	err := c.json(ctx, http.MethodGet, "/api/maxine/serviceops/servers", nil, &servers)
	return servers, err
}

// Config returns the configuration. It needs the role viewer.
func (c *Client) Config(ctx context.Context) (map[string]any, error) {
	var config map[string]any
	err := c.json(ctx, http.MethodGet, configPath, nil, &config)
	return config, err
}

// ChangeConfig changes fields of the configuration and returns the outcome for each. It needs the role operator.
func (c *Client) ChangeConfig(ctx context.Context, fields map[string]any) (map[string]string, error) {
	var report map[string]string
	err := c.json(ctx, http.MethodPut, configPath, fields, &report)
	return report, err
}

// Change is one change of a service.
type Change struct {
	Index    uint64          `json:"index"`
	TimeMs   uint64          `json:"time_ms"`
	Type     string          `json:"type"`
	Instance string          `json:"instance"`
	Cause    string          `json:"cause"`
	Data     json.RawMessage `json:"data"`
}

// Watch passes the changes of one service to tell, without a gap, after an index (nil: from now on). It ends when
// ctx is done, when tell returns false, or on an error that a retry cannot solve. If changes are no longer available
// without a gap, the last change has the type "compacted": read the present state, and watch again.
func (c *Client) Watch(ctx context.Context, serviceName string, index *uint64, tell func(Change) bool) error {
	last := ""
	if index != nil {
		last = fmt.Sprint(*index)
	}
	for ctx.Err() == nil {
		over, err := c.watchOnce(ctx, serviceName, &last, tell)
		var refused *Error
		if over || errors.As(err, &refused) && refused.Status < 500 && refused.Status != http.StatusTooManyRequests {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
	return nil
}

func (c *Client) watchOnce(ctx context.Context, serviceName string, last *string, tell func(Change) bool) (bool, error) {
	headers := http.Header{}
	if *last != "" {
		headers.Set("Last-Event-ID", *last)
	}
	path := "/api/v1/watch?service=" + url.QueryEscape(serviceName)
	answer, err := c.Send(ctx, http.MethodGet, path, nil, headers)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return false, errorOf(answer)
	}
	fields := map[string]string{}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if line := lines.Text(); line != "" {
			name, value, _ := strings.Cut(line, ": ")
			fields[name] = value
			continue
		}
		if id := fields["id"]; id != "" {
			*last = id
		}
		if event := fields["event"]; event != "" && event != "ready" {
			var change Change
			if err := json.Unmarshal([]byte(fields["data"]), &change); err != nil {
				return true, err
			}
			change.Type = event
			if !tell(change) || event == "compacted" {
				return true, nil
			}
		}
		fields = map[string]string{}
	}
	return false, lines.Err()
}
