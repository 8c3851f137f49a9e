package usageclient

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/amieusage/amieusage"
)

// Most bytes that are read of an answer.
const (
	maxAnswerBytes = 64 << 20
	maxErrorBytes  = 64 << 10
)

// ownIDs begins the ids that clients give to their requests: one for each
// attempt. The service answers with the request's id.
const ownIDs = "amieusage-"

// maxRedirects is the number of redirects, within the service, that a request
// follows.
const maxRedirects = 5

// A request is one call of the API, which may be attempted several times.
type request struct {
	method string
	path   string // below the base URL
	query  url.Values
	body   []byte // JSON, not changed any more; nil: none
	gzip   bool   // body is compressed
	once   bool   // it is not tried again
}

// An answer is what the service answered, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do makes a request, again where that may help, and returns the successful
// answer. The error is an *Error.
func (c *Client) do(ctx context.Context, r *request) (*answer, error) {
	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval = c.retry.FirstDelay
	delays.MaxInterval = c.retry.MaxDelay
	delays.Multiplier = 2
	var last *Error
	attempts, uncertain := 0, false
	attempt := func() (*answer, error) {
		attempts++
		a, retryAfter, err := c.attempt(ctx, r)
		if err == nil {
			return a, nil
		}
		uncertain = uncertain || err.uncertain
		err.Attempts, err.uncertain = attempts, uncertain
		last = err
		switch {
		case !err.retry:
			return nil, backoff.Permanent(err)
		case retryAfter > 0:
			return nil, &backoff.RetryAfterError{Duration: retryAfter}
		}
		return nil, err
	}
	tries := c.retry.MaxAttempts
	if r.once {
		tries = 1
	}
	a, err := backoff.Retry(ctx, attempt,
		backoff.WithBackOff(delays),
		backoff.WithMaxTries(uint(tries)),
		backoff.WithMaxElapsedTime(c.retry.MaxElapsed),
		backoff.WithNotify(func(_ error, delay time.Duration) {
			c.log.WarnContext(ctx, "usage request is tried again",
				"error", last.Error(), "attempt", attempts, "delay", delay)
		}))
	if err == nil {
		return a, nil
	}
	if ctx.Err() != nil && !errors.Is(last, ctx.Err()) {
		// The context ended while the request waited for its next attempt.
		if last.Err == nil {
			last.Err = ended(ctx)
		} else {
			last.Err = fmt.Errorf("%w, then %w", last.Err, ended(ctx))
		}
	}
	return nil, last
}

// ended returns the error of a context that has ended, with its cause.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != ctx.Err() {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}

// attempt makes a request once. A failed one may come with the time after which
// the service wants to be asked again.
func (c *Client) attempt(ctx context.Context, r *request) (*answer, time.Duration, *Error) {
	begin := time.Now()
	a, err := c.exchange(ctx, r)
	var retryAfter time.Duration
	if err == nil && (a.status < 200 || a.status > 299) {
		err = c.failure(r, a)
		retryAfter = parseRetryAfter(a.header.Get("Retry-After"))
	}
	attrs := []slog.Attr{
		slog.String("method", r.method),
		slog.String("path", r.path),
		slog.Int("sent_bytes", len(r.body)),
		slog.Duration("duration", time.Since(begin)),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	} else {
		attrs = append(attrs, slog.Int("status", a.status), slog.Int("received_bytes", len(a.body)),
			slog.String("request_id", c.redact(a.header.Get(amieusage.HeaderRequestID))))
	}
	c.log.LogAttrs(ctx, slog.LevelDebug, "usage request", attrs...)
	return a, retryAfter, err
}

// exchange sends a request and reads the answer, whatever its status.
func (c *Client) exchange(ctx context.Context, r *request) (*answer, *Error) {
	attemptCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	address := c.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	hr, err := http.NewRequestWithContext(attemptCtx, r.method, address, body)
	if err != nil {
		return nil, c.noAnswer(ctx, attemptCtx, r, 0, err)
	}
	hr.Header.Set(amieusage.HeaderSite, c.site)
	hr.Header.Set(amieusage.HeaderAPIKey, c.key())
	hr.Header.Set("Accept", "application/json")
	hr.Header.Set("User-Agent", c.userAgent)
	id := ownIDs + rand.Text()
	hr.Header.Set(amieusage.HeaderRequestID, id)
	if r.body != nil {
		hr.Header.Set("Content-Type", "application/json")
	}
	if r.gzip {
		hr.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := c.http.Do(hr)
	if err != nil {
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		return nil, c.noAnswer(ctx, attemptCtx, r, status, err)
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode, header: resp.Header}
	if resp.Header.Get(amieusage.HeaderService) == "amieusage" {
		c.met.ours.Store(true)
	} else if a.status < http.StatusInternalServerError { // and not what a proxy says in its place
		c.met.foreign.Store(true)
	}
	if isAnothers(resp.Header.Get(amieusage.HeaderRequestID), id) {
		return nil, c.astray(r, a)
	}
	if a.status < 200 || a.status > 299 {
		// The status says enough where its text cannot be read to the end.
		a.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
		return a, nil
	}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err != nil {
		return nil, c.noAnswer(ctx, attemptCtx, r, 0, err)
	}
	if len(a.body) > maxAnswerBytes {
		return nil, c.unusable(r, a, errors.New("it is longer than "+strconv.Itoa(maxAnswerBytes)+" bytes"))
	}
	return a, nil
}

// isAnothers reports whether an answer's id is that of another attempt, and not
// this one's in the form that a service or a proxy has given it.
func isAnothers(got, id string) bool {
	return len(got) == len(id) && strings.HasPrefix(got, ownIDs) && !strings.EqualFold(got, id)
}

// noAnswer returns the error of an attempt that brought no answer, or only part
// of one.
func (c *Client) noAnswer(ctx, attemptCtx context.Context, r *request, status int, err error) *Error {
	e := c.newError(r, amieusage.CodeUnavailable)
	e.uncertain = true
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // its text repeats the method and the URL
	}
	e.Err = c.redactError(err)
	if refused, ok := errors.AsType[*redirectError](err); ok {
		e.Status, e.Code, e.Err = status, amieusage.CodeBadGateway, nil
		e.Message, e.Hint = c.redact(refused.Error()), refused.hint
		return e
	}
	if ctx.Err() != nil {
		e.Message, e.Err = "stopped before the service answered", ended(ctx)
		return e
	}
	if attemptCtx.Err() != nil {
		e.Message, e.Err, e.retry = "no answer within "+c.timeout.String(), context.DeadlineExceeded, true
		return e
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		e.Message = "the service's certificate is not trusted"
		e.Hint = "WithTLSConfig sets the authorities that are"
		return e
	}
	e.Message, e.retry = "no answer", true
	return e
}

// A redirectError is the refusal to follow a redirect.
type redirectError struct{ text, hint string }

func (e *redirectError) Error() string { return e.text }

// checkRedirect follows redirects only where they can neither carry the API key
// to another origin nor turn a send into something else.
func checkRedirect(next *http.Request, via []*http.Request) error {
	from := via[0]
	to := next.URL.Scheme + "://" + next.URL.Host + next.URL.Path
	switch {
	case origin(next.URL) != origin(from.URL):
		return &redirectError{
			"the service redirects to another origin: " + to,
			"the API key is not sent there; if the address is right, make it the base URL",
		}
	case next.Method != from.Method:
		return &redirectError{
			"the service redirects a " + from.Method + " to " + to + " in a way that makes it a " + next.Method,
			"make the address that it redirects to the base URL",
		}
	case len(via) > maxRedirects:
		return &redirectError{"the service redirects in a circle", "check the base URL"}
	}
	return nil
}

type originKey struct{ scheme, host, port string }

func origin(u *url.URL) originKey {
	port := u.Port()
	if port == "" && u.Scheme == "http" {
		port = "80"
	} else if port == "" {
		port = "443"
	}
	return originKey{u.Scheme, strings.ToLower(u.Hostname()), port}
}

// parseRetryAfter reads a Retry-After header, in seconds or as a date; 0 where
// there is none or it is past, and a day where it is further away.
func parseRetryAfter(s string) time.Duration {
	const most = 24 * time.Hour
	if s != "" && strings.Trim(s, "0123456789") == "" {
		seconds, err := strconv.Atoi(s)
		if err != nil || seconds > int(most/time.Second) {
			return most
		}
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, min(time.Until(at), most))
	}
	return 0
}

// decode reads the JSON of an answer, which begins with the opening character (0:
// any), into v. The error is an *Error.
func (c *Client) decode(r *request, a *answer, opening byte, v any) error {
	body := bytes.TrimSpace(a.body)
	if len(body) == 0 || opening != 0 && body[0] != opening {
		return c.unusable(r, a, nil)
	}
	var err error
	if u, ok := v.(json.Unmarshaler); ok {
		err = u.UnmarshalJSON(body) // which reads all of it: it is not to be checked before
	} else {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		return c.unusable(r, a, err)
	}
	return nil
}

// get makes a GET request and reads the JSON of the answer into v.
func (c *Client) get(ctx context.Context, path string, query url.Values, opening byte, v any) error {
	r := &request{method: http.MethodGet, path: path, query: query}
	a, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	return c.decode(r, a, opening, v)
}
