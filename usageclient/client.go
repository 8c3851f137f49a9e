package usageclient

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/amieusage/amieusage"
)

// A Client speaks to one Usage API on behalf of one site. It is safe for
// concurrent use, keeps connections open between calls, and needs no closing.
type Client struct {
	site string
	// key returns the API key. It is a function so that no way of printing the
	// client, not even by reflection, shows the key.
	key        func() string
	base       string // without a slash at its end
	http       *http.Client
	log        *slog.Logger
	userAgent  string
	timeout    time.Duration
	retry      RetryPolicy
	maxBytes   int
	maxRecords int
	compress   bool
	validate   bool
	met        *met
}

// met is what is known of the service by its answers.
type met struct {
	ours         atomic.Bool  // an answer was that of amieusage's own service
	foreign      atomic.Bool  // an answer was that of another one
	loadedParams atomic.Int32 // which parameters it takes for loaded records: a paramSet
	bytes        atomic.Int64 // the size of a request that it has been found to want; 0: the client's own limit
}

// RequestBytes returns the size of a send that the service has been found to
// want, in bytes; 0: it has taken all that was sent. A program keeps it for
// [Client.SetRequestBytes] when it runs again.
func (c *Client) RequestBytes() int { return int(c.met.bytes.Load()) }

// SetRequestBytes makes sends of at most so many bytes from now on, until the
// service is found to want less; [WithMaxRequestBytes] still limits them.
func (c *Client) SetRequestBytes(n int) { c.met.bytes.Store(int64(max(n, 0))) }

// IsAmieusage reports whether an answer so far was that of amieusage's own
// service, which lists all that it has loaded, with exact charges; what other
// services list is known in part.
func (c *Client) IsAmieusage() bool { return c.met.ours.Load() }

// New returns a client for the site, which authenticates by the API key; white
// space around the key is left out. Without [WithBaseURL] the service is the
// production one, [amieusage.DefaultURL]. Nothing is sent yet.
//
// The error lists everything that is wrong with the arguments and options; each
// is an [*amieusage.Error] with [amieusage.CodeInvalid].
func New(site, key string, opts ...Option) (*Client, error) {
	s := settings{
		baseURL:    amieusage.DefaultURL,
		log:        slog.New(slog.DiscardHandler),
		userAgent:  "amieusage-usageclient",
		timeout:    DefaultTimeout,
		maxBytes:   amieusage.DefaultSendBytes,
		maxRecords: DefaultMaxRequestRecords,
		validate:   true,
	}
	key = strings.TrimSpace(key) // as it comes from a file
	problems := []error{headerProblem("site name", site), headerProblem("API key", key)}
	for _, opt := range opts {
		if opt != nil {
			problems = append(problems, opt(&s))
		}
	}
	base, err := parseBaseURL(s.baseURL, s.insecureHTTP)
	problems = append(problems, err)
	if s.httpClient != nil && s.tls != nil {
		problems = append(problems, invalid("WithHTTPClient and WithTLSConfig exclude each other",
			"set the TLS configuration in the HTTP client's own transport"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return &Client{
		site:       site,
		key:        func() string { return key },
		base:       base,
		http:       s.newHTTPClient(),
		log:        s.log,
		userAgent:  s.userAgent,
		timeout:    s.timeout,
		retry:      s.retry.withDefaults(),
		maxBytes:   s.maxBytes,
		maxRecords: s.maxRecords,
		compress:   s.compress,
		validate:   s.validate,
		met:        new(met),
	}, nil
}

// String names the site and the service.
func (c *Client) String() string { return "usage client of site " + c.site + " at " + c.base }

// GoString returns what String returns.
func (c *Client) GoString() string { return c.String() }

// CloseIdleConnections closes the connections that are open for later calls.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }
