package native

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Tokens of an OpenID provider by the grant client_credentials (RFC 6749, section 4.4). Nothing here writes the client's
// secret or a token into an error.

const (
	providerTimeout = 5 * time.Second
	providerMax     = 1 << 20
	fetchBackoff    = 500 * time.Millisecond
	fetchBackoffMax = 30 * time.Second
	// A token whose answer does not say how long it is valid.
	lifetimeUnknown = time.Minute
	renewBeforeMax  = time.Minute
)

// A younger token that a node refuses is not replaced: the next one would be refused too.
var refusedAfter = 5 * time.Second

// ClientCredentialsOptions are the settings of ClientCredentials.
type ClientCredentialsOptions struct {
	// ClientID is the name of this client at the provider.
	ClientID string
	// Issuer is the URL of the provider, whose /.well-known/openid-configuration names the token endpoint.
	Issuer string
	// TokenURL is the token endpoint itself, instead of Issuer.
	TokenURL string
	// ClientSecretFile has the client's secret, and is read for each fetch.
	ClientSecretFile string
	// ClientSecretEnv names the environment variable with the client's secret, instead of ClientSecretFile.
	ClientSecretEnv string
	// Scope has the scopes, separated by spaces.
	Scope string
	// Audience tells for whom the token is, for providers that read "audience".
	Audience string
	// Resource tells for whom the token is, for providers that read "resource" (RFC 8707).
	Resource string
	// CAFile has the certificates that the provider is checked with; by default those of the system.
	CAFile string
	// OnError gets the errors of fetches while the former token is still valid.
	OnError func(error)
}

// ClientCredentials fetches tokens, and keeps each until it is about to expire. Several clients and goroutines may share it.
type ClientCredentials struct {
	options  ClientCredentialsOptions
	http     *http.Client
	mu       sync.Mutex
	held     *heldToken
	fetching chan struct{} // closed at the end of the fetch; nil if there is none
	endpoint *tokenEndpoint
	failures int
	notUntil time.Time
	last     *tokenError
}

type heldToken struct {
	value                       string
	fetchedAt, renewAt, expires time.Time
}

type tokenEndpoint struct {
	url  string
	post bool
}

// tokenError says why there is no token. Unless it is final, another attempt may succeed soon.
type tokenError struct {
	message    string
	cause      error
	final      bool
	retryAfter time.Duration
}

func (e *tokenError) Error() string { return "no token: " + e.message }
func (e *tokenError) Unwrap() error { return e.cause }

func refusal(format string, values ...any) *tokenError {
	return &tokenError{message: fmt.Sprintf(format, values...), final: true}
}

// NewClientCredentials checks the settings. Nothing is fetched before the first token is needed.
func NewClientCredentials(options ClientCredentialsOptions) (*ClientCredentials, error) {
	where, what := options.Issuer, "Issuer"
	if where == "" {
		where, what = options.TokenURL, "TokenURL"
	}
	switch {
	case options.ClientID == "":
		return nil, errors.New("ClientID is needed")
	case (options.Issuer == "") == (options.TokenURL == ""):
		return nil, errors.New("either Issuer or TokenURL is needed")
	case (options.ClientSecretFile == "") == (options.ClientSecretEnv == ""):
		return nil, errors.New("either ClientSecretFile or ClientSecretEnv is needed")
	case !isSafe(where, true):
		return nil, fmt.Errorf("%s must be an https URL, or http on a loopback address", what)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if options.CAFile != "" {
		pool, err := poolOf(options.CAFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	// A redirect could take the secret elsewhere.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &ClientCredentials{options: options, http: &http.Client{Transport: transport, CheckRedirect: stay}}, nil
}

// Token gives a token that is valid now. It is fetched if none is held; ctx limits the time for that.
func (c *ClientCredentials) Token(ctx context.Context) (string, error) {
	for {
		c.mu.Lock()
		now := time.Now()
		if c.held != nil && now.Before(c.held.expires) {
			// The old token is good while the new one is on its way.
			if !now.Before(c.held.renewAt) && !now.Before(c.notUntil) {
				c.renew()
			}
			token := c.held.value
			c.mu.Unlock()
			return token, nil
		}
		last, wait := c.last, c.notUntil.Sub(now)
		if c.fetching != nil || wait <= 0 {
			c.renew()
			wait = 0
		}
		fetched := c.fetching
		c.mu.Unlock()
		if wait > 0 {
			if deadline, ok := ctx.Deadline(); last.final || ok && now.Add(wait).After(deadline) || !sleep(ctx, wait) {
				return "", last
			}
			continue
		}
		select {
		case <-fetched:
		case <-ctx.Done():
			if last != nil {
				return "", last
			}
			return "", &tokenError{message: "the provider has not answered in time", cause: ctx.Err()}
		}
	}
}

// Refused notes that a node has refused this token. It tells whether to ask again, with a new one.
func (c *ClientCredentials) Refused(token string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil || c.held.value != token {
		return true
	}
	if time.Since(c.held.fetchedAt) < refusedAfter {
		return false
	}
	c.held = nil
	return true
}

// renew begins a fetch if there is none. The caller has the lock.
func (c *ClientCredentials) renew() {
	if c.fetching != nil {
		return
	}
	done := make(chan struct{})
	c.fetching = done
	go func() {
		held, failed := c.fetch()
		c.mu.Lock()
		c.fetching, c.last = nil, failed
		if failed == nil {
			c.held, c.failures, c.notUntil = held, 0, time.Time{}
		} else {
			pause := fetchBackoffMax
			if c.failures < 6 {
				pause = fetchBackoff << c.failures
			}
			pause = time.Duration(float64(pause) * (0.5 + randomShare()/2))
			if pause < failed.retryAfter {
				pause = failed.retryAfter
			}
			c.failures++
			c.notUntil = time.Now().Add(pause)
			c.endpoint = nil // The provider may have moved.
		}
		hasToken := c.held != nil && time.Now().Before(c.held.expires)
		c.mu.Unlock()
		close(done)
		if failed != nil && hasToken && c.options.OnError != nil {
			c.options.OnError(failed)
		}
	}()
}

func (c *ClientCredentials) fetch() (*heldToken, *tokenError) {
	secret, failed := c.secret()
	if failed != nil {
		return nil, failed
	}
	c.mu.Lock()
	endpoint := c.endpoint
	c.mu.Unlock()
	if endpoint == nil {
		if endpoint, failed = c.discover(); failed != nil {
			return nil, failed
		}
		c.mu.Lock()
		c.endpoint = endpoint
		c.mu.Unlock()
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	for name, value := range map[string]string{"scope": c.options.Scope, "audience": c.options.Audience, "resource": c.options.Resource} {
		if value != "" {
			form.Set(name, value)
		}
	}
	if endpoint.post {
		form.Set("client_id", c.options.ClientID)
		form.Set("client_secret", secret)
	}
	fetchedAt := time.Now()
	request, err := http.NewRequest(http.MethodPost, endpoint.url, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, refusal("%s is not a URL", endpoint.url)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// As a form has it, which RFC 6749 asks for in section 2.3.1.
	request.SetBasicAuth(url.QueryEscape(c.options.ClientID), url.QueryEscape(secret))
	basic := strings.TrimPrefix(request.Header.Get("Authorization"), "Basic ")
	if endpoint.post {
		request.Header.Del("Authorization")
	}
	var answer struct {
		AccessToken string          `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if failed := c.ask(request, &answer, secret, url.QueryEscape(secret), basic); failed != nil {
		return nil, failed
	}
	if !isVisible(answer.AccessToken) {
		return nil, refusal("%s: the answer has no access_token", endpoint.url)
	}
	if !strings.EqualFold(answer.TokenType, "bearer") {
		return nil, refusal("%s: the token_type is not Bearer", endpoint.url)
	}
	lifetime := lifetimeUnknown
	if seconds, err := strconv.ParseFloat(strings.Trim(string(answer.ExpiresIn), `"`), 64); err == nil && seconds > 0 && seconds < 1e9 {
		lifetime = time.Duration(seconds * float64(time.Second))
	}
	margin := lifetime / 5
	if margin > renewBeforeMax {
		margin = renewBeforeMax
	}
	// Clients that start together do not renew together.
	margin = time.Duration(float64(margin) * (1 + randomShare()/2))
	expires := fetchedAt.Add(lifetime)
	return &heldToken{value: answer.AccessToken, fetchedAt: fetchedAt, renewAt: expires.Add(-margin), expires: expires}, nil
}

// secret is read for each fetch, so that a replaced secret is used at once.
func (c *ClientCredentials) secret() (string, *tokenError) {
	if name := c.options.ClientSecretEnv; name != "" {
		if secret := os.Getenv(name); secret != "" {
			return secret, nil
		}
		return "", refusal("the environment variable %s has no client secret", name)
	}
	text, err := os.ReadFile(c.options.ClientSecretFile)
	if err != nil {
		return "", &tokenError{message: fmt.Sprintf("the client secret cannot be read: %s", err), cause: err, final: true}
	}
	if secret := strings.TrimSpace(string(text)); secret != "" {
		return secret, nil
	}
	return "", refusal("%s has no client secret", c.options.ClientSecretFile)
}

func (c *ClientCredentials) discover() (*tokenEndpoint, *tokenError) {
	issuer := c.options.Issuer
	if issuer == "" {
		return &tokenEndpoint{url: c.options.TokenURL}, nil
	}
	where := strings.TrimRight(issuer, "/") + "/.well-known/openid-configuration"
	request, err := http.NewRequest(http.MethodGet, where, nil)
	if err != nil {
		return nil, refusal("%s is not a URL", where)
	}
	var found struct {
		Issuer   string   `json:"issuer"`
		Endpoint string   `json:"token_endpoint"`
		Methods  []string `json:"token_endpoint_auth_methods_supported"`
	}
	if failed := c.ask(request, &found); failed != nil {
		return nil, failed
	}
	if found.Issuer != issuer {
		return nil, refusal("%s: the issuer in the answer is another one", where)
	}
	if !isSafe(found.Endpoint, isLoopback(issuer)) {
		return nil, refusal("%s: the token_endpoint must be an https URL", where)
	}
	has := map[string]bool{}
	for _, method := range found.Methods {
		has[method] = true
	}
	return &tokenEndpoint{found.Endpoint, has["client_secret_post"] && !has["client_secret_basic"]}, nil
}

// ask reads the JSON of an answer with status 200 into got. secrets are what an error may not have.
func (c *ClientCredentials) ask(request *http.Request, got any, secrets ...string) *tokenError {
	where := request.URL.String()
	ctx, cancel := context.WithTimeout(context.Background(), providerTimeout)
	defer cancel()
	request.Header.Set("Accept", "application/json")
	answer, err := c.http.Do(request.WithContext(ctx))
	var text []byte
	if err == nil {
		defer answer.Body.Close()
		text, err = io.ReadAll(io.LimitReader(answer.Body, providerMax+1))
	}
	if err != nil {
		var about *url.Error
		if errors.As(err, &about) {
			err = about.Err
		}
		if ctx.Err() != nil {
			return &tokenError{message: where + ": no answer in time", cause: err}
		}
		return &tokenError{message: fmt.Sprintf("%s: %s", where, err), cause: err}
	}
	if answer.StatusCode == http.StatusOK && len(text) <= providerMax && json.Unmarshal(text, got) == nil {
		return nil
	}
	var problem struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	said := ""
	if json.Unmarshal(text, &problem) == nil {
		said = problem.Error
		if said != "" && problem.Description != "" {
			said += ": "
		}
		said += problem.Description
	}
	for _, secret := range secrets { // A provider may repeat what was sent to it.
		said = strings.ReplaceAll(said, secret, "***")
	}
	said = strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return ' '
		}
		return r
	}, said)
	if len(said) > 300 {
		said = said[:300]
	}
	if said == "" {
		said = "the answer is not what a provider answers"
	}
	status := answer.StatusCode
	failed := refusal("%s answers %d: %s", where, status, said)
	failed.final = status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
	if seconds, err := strconv.ParseUint(answer.Header.Get("Retry-After"), 10, 13); err == nil {
		failed.retryAfter = time.Duration(seconds) * time.Second
	}
	return failed
}

func isVisible(token string) bool {
	for _, r := range token {
		if r < 0x21 || r > 0x7e {
			return false
		}
	}
	return token != ""
}

func isLoopback(where string) bool {
	at, err := url.Parse(where)
	if err != nil {
		return false
	}
	ip := net.ParseIP(at.Hostname())
	return at.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// isSafe tells whether a secret may be sent to this URL.
func isSafe(where string, plainOnLoopback bool) bool {
	at, err := url.Parse(where)
	if err != nil || at.Host == "" || at.User != nil {
		return false
	}
	return at.Scheme == "https" || at.Scheme == "http" && plainOnLoopback && isLoopback(where)
}
