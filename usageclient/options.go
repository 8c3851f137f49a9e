package usageclient

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
)

// What a client does unless it is told otherwise; [amieusage.DefaultURL] and
// [amieusage.DefaultSendBytes] are the others.
const (
	// DefaultTimeout is the time that one attempt of a request may take.
	DefaultTimeout = 60 * time.Second
	// DefaultMaxRequestRecords is the largest number of records in one request.
	DefaultMaxRequestRecords = 10_000
)

// An Option changes how a [Client] works. Bad values are errors of [New].
type Option func(*settings) error

type settings struct {
	baseURL      string
	insecureHTTP bool
	httpClient   *http.Client
	tls          *tls.Config
	log          *slog.Logger
	userAgent    string
	timeout      time.Duration
	retry        RetryPolicy
	maxBytes     int
	maxRecords   int
	compress     bool
	validate     bool
}

// WithBaseURL sets the base URL of the Usage API, with or without a slash at
// its end, as in "https://usage.example.org/api/v1". It must not hold user
// information, a query or a fragment.
func WithBaseURL(baseURL string) Option {
	return func(s *settings) error {
		s.baseURL = baseURL
		return nil
	}
}

// WithInsecureHTTP allows a base URL with http:// to a host that is not this
// machine. Whoever sees the traffic can then use the API key.
func WithInsecureHTTP() Option {
	return func(s *settings) error {
		s.insecureHTTP = true
		return nil
	}
}

// WithHTTPClient sets the HTTP client, of which a copy is used. Its
// CheckRedirect is replaced: see the package's words on the API key. Where its
// transport speaks HTTP/2, HTTP2.SendPingTimeout should be set: without pings
// every attempt goes over a connection that is dead.
func WithHTTPClient(client *http.Client) Option {
	return func(s *settings) error {
		if client == nil {
			return invalid("WithHTTPClient needs an HTTP client", "leave the option out to use the default one")
		}
		s.httpClient = client
		return nil
	}
}

// WithTLSConfig sets the TLS configuration: a site's own certificate authority
// (RootCAs), a client certificate (Certificates).
func WithTLSConfig(config *tls.Config) Option {
	return func(s *settings) error {
		if config == nil {
			return invalid("WithTLSConfig needs a configuration", "leave the option out to use the system's authorities")
		}
		s.tls = config.Clone()
		return nil
	}
}

// WithTimeout limits the time of one attempt of a request, from connecting to
// the last byte of the answer; [DefaultTimeout] if not given. The whole call,
// with its retries, is limited by its context and by the [RetryPolicy].
func WithTimeout(d time.Duration) Option {
	return func(s *settings) error {
		if d <= 0 {
			return invalid("WithTimeout needs a time above 0, not "+d.String(), "")
		}
		s.timeout = d
		return nil
	}
}

// A RetryPolicy says how often and how patiently a request is made again. A
// field that is 0 has its default.
type RetryPolicy struct {
	// MaxAttempts is the number of attempts of one request, with the first; 1
	// means that nothing is tried again. Default: 6.
	MaxAttempts int
	// FirstDelay is the mean delay before the second attempt; each one doubles
	// it, up to MaxDelay, and all are jittered by half. Defaults: 500 ms, 30 s.
	FirstDelay, MaxDelay time.Duration
	// MaxElapsed is the time from the first attempt after which none begins,
	// whatever the service's Retry-After says. Default: 5 minutes.
	MaxElapsed time.Duration
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	if p.MaxAttempts == 0 {
		p.MaxAttempts = 6
	}
	if p.FirstDelay == 0 {
		p.FirstDelay = 500 * time.Millisecond
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(30*time.Second, p.FirstDelay)
	}
	if p.MaxElapsed == 0 {
		p.MaxElapsed = 5 * time.Minute
	}
	return p
}

// WithRetry sets the retry policy.
func WithRetry(p RetryPolicy) Option {
	return func(s *settings) error {
		if p.MaxAttempts < 0 || p.FirstDelay < 0 || p.MaxDelay < 0 || p.MaxElapsed < 0 {
			return invalid("WithRetry: no field of the policy may be negative", "MaxAttempts: 1 turns retries off")
		}
		s.retry = p
		return nil
	}
}

// WithMaxRequestBytes limits the size of a request's body, before any
// compression; [amieusage.DefaultSendBytes] if not given. The service takes at
// most [amieusage.MaxRequestBytes].
func WithMaxRequestBytes(n int) Option {
	return func(s *settings) error {
		if n <= 0 {
			return invalid("WithMaxRequestBytes needs a number above 0", "")
		}
		s.maxBytes = n
		return nil
	}
}

// WithMaxRequestRecords limits the number of records in one request, for
// services that count; [DefaultMaxRequestRecords] if not given.
func WithMaxRequestRecords(n int) Option {
	return func(s *settings) error {
		if n <= 0 {
			return invalid("WithMaxRequestRecords needs a number above 0", "")
		}
		s.maxRecords = n
		return nil
	}
}

// WithoutValidation sends records without validating them, and leaves it to the
// service to refuse them.
func WithoutValidation() Option {
	return func(s *settings) error {
		s.validate = false
		return nil
	}
}

// WithCompression sends bodies with Content-Encoding: gzip. The service of this
// project takes that; others may answer 415 or 400.
func WithCompression() Option {
	return func(s *settings) error {
		s.compress = true
		return nil
	}
}

// WithUserAgent sets the User-Agent header.
func WithUserAgent(userAgent string) Option {
	return func(s *settings) error {
		s.userAgent = userAgent
		return headerProblem("user agent", userAgent)
	}
}

// WithLogger sets the logger: a line at level Debug for each attempt, Warn for
// what is tried again or split. Without it nothing is logged.
func WithLogger(log *slog.Logger) Option {
	return func(s *settings) error {
		if log == nil {
			return invalid("WithLogger needs a logger", "leave the option out to log nothing")
		}
		s.log = log
		return nil
	}
}

func invalid(message, hint string) error {
	return &amieusage.Error{Code: amieusage.CodeInvalid, Message: message, Hint: hint}
}

// headerProblem says why a value cannot be a header's, and does not show it: it
// may be the key.
func headerProblem(what, value string) error {
	switch {
	case value == "":
		return invalid("the "+what+" is empty", "")
	case value != strings.TrimSpace(value):
		return invalid("the "+what+" has white space or a line break at its beginning or end",
			"trim what is read from a file")
	}
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return invalid("the "+what+" has a character that cannot stand in an HTTP header",
				"only printable ASCII can")
		}
	}
	return nil
}

// parseBaseURL returns the base URL without slashes at its end.
func parseBaseURL(s string, insecureHTTP bool) (string, error) {
	const example = "as in " + amieusage.DefaultURL
	u, err := url.Parse(s)
	switch {
	case err != nil:
		// The cause shows the URL, and with it what should not be in there.
		return "", invalid("the base URL cannot be parsed", example)
	case u.User != nil:
		return "", invalid("the base URL holds a user name or password", "the site name and API key are the credentials")
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", invalid("the base URL must be an absolute http or https URL", example)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", invalid("the base URL has a query or a fragment", example)
	case u.Scheme == "http" && !isLoopback(u.Hostname()) && !insecureHTTP:
		return "", invalid("the base URL http://"+u.Host+" would send the API key in clear text",
			"use https://, or WithInsecureHTTP where the network is trusted")
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// newHTTPClient returns the HTTP client that the settings describe.
func (s *settings) newHTTPClient() *http.Client {
	client := new(http.Client)
	if s.httpClient != nil {
		*client = *s.httpClient
	} else {
		client.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:     s.tls,
			TLSHandshakeTimeout: 15 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 8,
			IdleConnTimeout:     90 * time.Second,
			// A connection of HTTP/2 outlives the attempts that time out on it:
			// one that is dead must be found out before the next attempt.
			HTTP2: &http.HTTP2Config{SendPingTimeout: s.timeout / 4, PingTimeout: s.timeout / 4},
		}
	}
	client.CheckRedirect = checkRedirect
	return client
}
