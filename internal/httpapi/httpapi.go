// Package httpapi serves the Usage API over HTTP: routes, keys, limits, and
// the bodies of answers and errors. What the answers say is package ledger's
// work.
//
// Every answer but the CSV summary is JSON. An error is a problem of RFC 9457
// with the member "error" beside it, which is the one that clients of the API
// read; it bears the request id that the log has too.
package httpapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/failpoint"
	"github.com/amieusage/amieusage/internal/ledger"
)

// Prefix is the path below which the Usage API is served.
const Prefix = "/api/v1"

// Limits of a [Handler] that is told no others.
const (
	DefaultMaxInFlight = 128
	// DefaultRequestTimeout is less than a client waits for its answer
	// (usageclient.DefaultTimeout): a service that is slow, or was stopped,
	// does nothing for those who have given up and sent again.
	DefaultRequestTimeout = 45 * time.Second
)

// A Service is what is served: the ledger's, or one that keeps what it is sent for
// another.
type Service interface {
	Authenticate(ctx context.Context, siteName, key string) (ledger.Caller, map[string]bool, error)
	Accept(ctx context.Context, who ledger.Caller, resources map[string]bool, message []byte) (*amieusage.SendResponse, error)
	Failed(ctx context.Context, who ledger.Caller, q ledger.FailedQuery) ([]amieusage.FailedRecord, int64, error)
	Clear(ctx context.Context, who ledger.Caller, ids []int64) error
	Status(ctx context.Context, who ledger.Caller, q amieusage.StatusQuery) (amieusage.Status, error)
	Loaded(ctx context.Context, who ledger.Caller, q amieusage.LoadedQuery) (ledger.LoadedPage, error)
	Summary(ctx context.Context, who ledger.Caller, q amieusage.SummaryQuery) (*amieusage.Summary, error)
}

// Config is what a [Handler] is made of. Service, Logger, Clock and Random
// must be set.
type Config struct {
	Service Service
	Logger  *slog.Logger
	Clock   func() time.Time
	// Random is the source of request ids; it must be safe for concurrent use.
	Random io.Reader
	// MaxBodyBytes is the largest body of a send, both as it comes and
	// unzipped; 0: [amieusage.MaxRequestBytes].
	MaxBodyBytes int64
	// MaxInFlight is the number of requests that are served at a time; those
	// beyond it are asked to come again. 0: [DefaultMaxInFlight].
	MaxInFlight int
	// RequestTimeout ends the work on a request; 0: [DefaultRequestTimeout].
	RequestTimeout time.Duration
	// GuessDelay is how long one who guesses keys waits for each answer; 0:
	// [DefaultGuessDelay].
	GuessDelay time.Duration
	// TrustedProxies are the addresses of proxies whose X-Forwarded-For is
	// believed.
	TrustedProxies []netip.Prefix
}

// A Handler serves the Usage API under [Prefix], and GET /healthz.
type Handler struct {
	service    Service
	log        *slog.Logger
	clock      func() time.Time
	random     io.Reader
	maxBody    int64
	timeout    time.Duration
	guessDelay time.Duration
	proxies    []netip.Prefix
	mux        *http.ServeMux
	slots      chan struct{} // holds one element for each request in flight
	shares     shares
	guesses    guesses
	stopping   atomic.Bool
	requests   *prometheus.HistogramVec
}

// Metrics returns the durations of requests, and with them their numbers.
func (h *Handler) Metrics() prometheus.Collector { return h.requests }

// New returns the handler of a service.
func New(c Config) *Handler {
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = amieusage.MaxRequestBytes
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = DefaultMaxInFlight
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = DefaultRequestTimeout
	}
	if c.GuessDelay == 0 {
		c.GuessDelay = DefaultGuessDelay
	}
	h := &Handler{
		service:    c.Service,
		log:        c.Logger,
		clock:      c.Clock,
		random:     c.Random,
		maxBody:    c.MaxBodyBytes,
		timeout:    c.RequestTimeout,
		guessDelay: c.GuessDelay,
		proxies:    c.TrustedProxies,
		mux:        http.NewServeMux(),
		slots:      make(chan struct{}, c.MaxInFlight),
		shares:     shares{of: map[ledger.SiteID]*share{}},
		guesses:    guesses{log: c.Logger, by: map[guesser]*spree{}},
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "amieusage_http_request_duration_seconds", Help: "Durations of requests, by route, method and status.",
			Buckets: []float64{0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30},
		}, []string{"route", "method", "status"}),
	}
	h.routes()
	return h
}

// Stop makes the handler refuse new sends, and GET /healthz answer 503.
// Requests in flight, and new ones that only read, go on.
func (h *Handler) Stop() {
	h.stopping.Store(true)
	h.guesses.look(h.clock(), true)
}

// ServeHTTP serves one request. Doubled and trailing slashes in the path mean
// nothing, so that base URLs with and without them are the same.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	location := *r.URL
	location.RawPath = path.Clean("/" + r.URL.EscapedPath())
	if p, err := url.PathUnescape(location.RawPath); err == nil {
		location.Path = p
	}
	cleaned := *r
	cleaned.URL = &location
	cleaned.RemoteAddr = clientAddress(r, h.proxies)
	h.mux.ServeHTTP(w, &cleaned)
}

// An exchange is one request on its way to an answer.
type exchange struct {
	*http.Request
	id        string // the request id
	who       ledger.Caller
	resources map[string]bool // of the caller's site
	share     *share          // of the caller's site
	leave     func()          // gives back what the request holds, once; or nil
	quiet     bool            // it is one of too many to be logged
	noted     []slog.Attr     // what the endpoint adds to the log
}

// An answer is what a request is answered with.
type answer struct {
	status      int
	contentType string
	header      http.Header // further header fields, or nil
	body        []byte
}

// jsonAnswer returns the answer 200 with the JSON of v.
func jsonAnswer(v any) (*answer, error) {
	var body []byte
	var err error
	if m, ok := v.(json.Marshaler); ok {
		body, err = m.MarshalJSON() // which is compact and valid: not to be checked again
	} else {
		body, err = json.Marshal(v)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding an answer: %w", err)
	}
	return &answer{status: http.StatusOK, contentType: "application/json", body: body}, nil
}

// linkNext names the next page in the answer's Link header, relative to the
// URL of the request, so that it holds behind any proxy.
func (a *answer) linkNext(next url.Values) {
	a.header = http.Header{"Link": {"<?" + next.Encode() + `>; rel="next"`}}
}

// An endpoint serves one method of one path.
type endpoint func(x *exchange) (*answer, error)

// serve runs an endpoint, writes what it answers, and logs one line.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, e endpoint) {
	start := h.clock()
	ctx, cancel := context.WithTimeout(r.Context(), h.timeout)
	defer cancel()
	x := &exchange{Request: r.WithContext(ctx), id: h.requestID(r)}
	defer x.release()
	h.guesses.look(start, false)
	a, err := h.run(x, e)
	if err != nil {
		a = h.problem(x, err)
		x.release()
		h.drain(r)
	}
	failpoint.Hit(r.Method, "before answer")
	header := w.Header()
	for name, values := range a.header {
		header[name] = values
	}
	header.Set("Content-Type", a.contentType)
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set(amieusage.HeaderRequestID, x.id)
	header.Set(amieusage.HeaderService, "amieusage")
	w.WriteHeader(a.status)
	_, writeErr := w.Write(a.body)
	failpoint.Hit(r.Method, "answered")
	took := h.clock().Sub(start)
	h.requests.WithLabelValues(routeOf(r.Pattern), methodOf(r.Method), strconv.Itoa(a.status)).Observe(max(took.Seconds(), 0))
	level := slog.LevelInfo
	if r.URL.Path == healthPath || x.quiet || err != nil && r.Context().Err() != nil {
		level = slog.LevelDebug // a probe, a guess, or a client that went away
	}
	attrs := append([]slog.Attr{
		slog.String("request_id", x.id),
		slog.String("method", r.Method),
		slog.String("path", cut(r.URL.Path, 128)),
		slog.Int("status", a.status),
		slog.Int("bytes", len(a.body)),
		slog.Duration("duration", took),
		slog.String("site", x.who.Name),
		slog.String("remote", r.RemoteAddr),
	}, x.noted...)
	if x.who.KeyID != 0 {
		attrs = append(attrs, slog.Int64("key", x.who.KeyID))
	}
	if writeErr != nil {
		attrs = append(attrs, slog.Any("write_error", writeErr))
	}
	h.log.LogAttrs(ctx, level, "request", attrs...)
}

// run calls the endpoint; a panic in it is an error like another.
func (h *Handler) run(x *exchange, e endpoint) (a *answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return e(x)
}

// guarded lets only those requests through that bear a site's key, and limits
// how many are served at a time: of each site, and of all. The body is not read
// before.
func (h *Handler) guarded(e endpoint) endpoint {
	return func(x *exchange) (*answer, error) {
		if err := h.authenticate(x); err != nil {
			return nil, err
		}
		x.share = h.shares.share(x.who.Site)
		if err := x.share.enter(x.Context()); err != nil {
			return nil, err
		}
		select {
		case h.slots <- struct{}{}:
		default:
			x.share.leave()
			return nil, errBusy
		}
		x.leave = func() {
			<-h.slots
			x.share.leave()
		}
		return e(x)
	}
}

// authenticate finds out who the caller is. A refused key is counted, and one
// of too many is answered late.
func (h *Handler) authenticate(x *exchange) (err error) {
	for _, name := range [...]string{amieusage.HeaderSite, amieusage.HeaderAPIKey} {
		if len(x.Header.Values(name)) > 1 {
			return &amieusage.Error{Code: amieusage.CodeInvalid, Message: "the header " + name + " is given more than once"}
		}
	}
	site := x.Header.Get(amieusage.HeaderSite)
	x.who, x.resources, err = h.service.Authenticate(x.Context(), site, x.Header.Get(amieusage.HeaderAPIKey))
	if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeUnauthorized && e.Code != amieusage.CodeForbidden {
		return err
	}
	x.noted = append(x.noted, slog.String("claimed_site", cut(site, 64)))
	if !h.guesses.refused(h.clock(), x.RemoteAddr, site) {
		return err
	}
	x.quiet = true
	delay := time.NewTimer(h.guessDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-x.Context().Done():
	}
	return errGuessing
}

// reading serves an endpoint to few of a site's requests at a time.
func (h *Handler) reading(e endpoint) endpoint {
	return h.guarded(func(x *exchange) (*answer, error) {
		if err := take(x.Context(), x.share.readers); err != nil {
			return nil, err
		}
		leave := x.leave
		x.leave = func() {
			<-x.share.readers
			leave()
		}
		return e(x)
	})
}

// release gives back what the request holds of the service.
func (x *exchange) release() {
	if x.leave != nil {
		x.leave()
		x.leave = nil
	}
}

// drainFactor is how much longer than the limit a refused body may be and
// still be read to its end.
const drainFactor = 4

// drain reads the rest of a refused request's body, within reason: clients
// that write all of it before they read would otherwise meet a broken
// connection in place of the answer. A client that waits for a go-ahead gets
// the answer at once.
func (h *Handler) drain(r *http.Request) {
	limit := drainFactor * h.maxBody
	if r.ContentLength > limit || r.Header.Get("Expect") != "" {
		return
	}
	// An error ends the connection, which is net/http's work.
	_, _ = io.CopyN(io.Discard, r.Body, limit)
}

// maxRequestID is the length of the longest request id that is taken over.
const maxRequestID = 128

// requestID returns the request's own id where it is fit for a log line, or
// else a new one.
func (h *Handler) requestID(r *http.Request) string {
	if id := r.Header.Get(amieusage.HeaderRequestID); id != "" && len(id) <= maxRequestID && printable(id) {
		return id
	}
	var id [16]byte
	if _, err := io.ReadFull(h.random, id[:]); err != nil {
		h.log.Error("no random bytes for a request id", "error", err)
	}
	return hex.EncodeToString(id[:])
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// cut shortens a text that a client has sent.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
