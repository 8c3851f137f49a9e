package usageclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amieusage/amieusage"
)

// A script answers each request by the next of its steps, and the last one for
// ever.
type script struct {
	mu    sync.Mutex
	steps []http.HandlerFunc
	times []time.Time
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	s.times = append(s.times, time.Now())
	step := s.steps[0]
	if len(s.steps) > 1 {
		s.steps = s.steps[1:]
	}
	s.mu.Unlock()
	step(w, r)
}

// attempts returns when the requests came.
func (s *script) attempts() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times
}

func status(code int, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, `{"error": "not now"}`)
	}
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// hang leaves the client without an answer until it goes away.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// halfAnswer begins an answer and never ends it.
func halfAnswer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, `[{"Resource":`)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func TestRetryDelays(t *testing.T) {
	type between struct{ least, most time.Duration }
	backoffs := []between{ // 500 ms, doubled, jittered by half
		{250 * time.Millisecond, 750 * time.Millisecond},
		{500 * time.Millisecond, 1500 * time.Millisecond},
		{time.Second, 3 * time.Second},
		{2 * time.Second, 6 * time.Second},
		{4 * time.Second, 12 * time.Second},
	}
	exactly := func(d time.Duration) between { return between{d, d + time.Second/2} }
	date := func(d time.Duration) string { // synctest's clock begins then
		return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(d).Format(http.TimeFormat)
	}
	for _, test := range []struct {
		name    string
		steps   []http.HandlerFunc
		opts    []Option
		delays  []between
		wantErr bool
	}{
		{name: "backoff until retries are used up", steps: []http.HandlerFunc{status(503, "")}, delays: backoffs, wantErr: true},
		{name: "hang-ups", steps: []http.HandlerFunc{hangUp, hangUp, text("[]")}, delays: backoffs[:2]},
		{name: "all kinds that pass", steps: []http.HandlerFunc{status(408, ""), status(429, ""), status(502, ""), status(503, ""), status(504, ""), text("[]")},
			delays: backoffs[:5]},
		{name: "one kind that does not", steps: []http.HandlerFunc{status(503, ""), status(403, "1")}, delays: backoffs[:1], wantErr: true},
		{name: "Retry-After in seconds", steps: []http.HandlerFunc{status(429, "17"), text("[]")}, delays: []between{exactly(17 * time.Second)}},
		{name: "Retry-After as a date", steps: []http.HandlerFunc{status(503, date(40*time.Second)), text("[]")},
			delays: []between{exactly(40 * time.Second)}},
		{name: "Retry-After in the past", steps: []http.HandlerFunc{status(503, date(-time.Hour)), text("[]")}, delays: backoffs[:1]},
		{name: "Retry-After negative", steps: []http.HandlerFunc{status(503, "-5"), text("[]")}, delays: backoffs[:1]},
		{name: "Retry-After unreadable", steps: []http.HandlerFunc{status(503, "soon"), text("[]")}, delays: backoffs[:1]},
		{name: "Retry-After beyond all patience", steps: []http.HandlerFunc{status(503, "99999999999"), text("[]")}, wantErr: true},
		{name: "one attempt", steps: []http.HandlerFunc{status(503, "")}, opts: []Option{WithRetry(RetryPolicy{MaxAttempts: 1})}, wantErr: true},
		{name: "MaxElapsed", steps: []http.HandlerFunc{status(503, "20")},
			opts:   []Option{WithRetry(RetryPolicy{MaxElapsed: 50 * time.Second})},
			delays: []between{exactly(20 * time.Second), exactly(20 * time.Second)}, wantErr: true},
		{name: "MaxDelay", steps: []http.HandlerFunc{status(503, "")},
			opts:   []Option{WithRetry(RetryPolicy{MaxAttempts: 3, FirstDelay: time.Minute, MaxDelay: time.Minute})},
			delays: []between{{30 * time.Second, 90 * time.Second}, {30 * time.Second, 90 * time.Second}}, wantErr: true},
		{name: "time-out of an attempt", steps: []http.HandlerFunc{hang, text("[]")},
			delays: []between{{60250 * time.Millisecond, 60750 * time.Millisecond}}},
		{name: "time-out in the middle of an answer", steps: []http.HandlerFunc{halfAnswer, text("[]")},
			opts: []Option{WithTimeout(10 * time.Second)}, delays: []between{{10250 * time.Millisecond, 10750 * time.Millisecond}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: test.steps}
				c := serveInMemory(t, s, test.opts...)
				_, err := c.Status(t.Context(), amieusage.StatusQuery{})
				if (err != nil) != test.wantErr {
					t.Errorf("error %v", err)
				}
				times := s.attempts()
				if len(times) != len(test.delays)+1 {
					t.Fatalf("attempts at %v", times)
				}
				for i, want := range test.delays {
					if d := times[i+1].Sub(times[i]); d < want.least || d > want.most {
						t.Errorf("delay %d is %v, want %v to %v", i, d, want.least, want.most)
					}
				}
				if e, ok := errors.AsType[*Error](err); ok && e.Attempts != len(times) {
					t.Errorf("the error speaks of %d attempts", e.Attempts)
				}
			})
		})
	}
}

func TestContextEndsRetries(t *testing.T) {
	errQuit := errors.New("somebody pressed Ctrl-C")
	for _, test := range []struct {
		name   string
		step   http.HandlerFunc
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		want   []error
		status int
	}{
		{"deadline during an attempt", hang, func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 7*time.Second)
		}, []error{context.DeadlineExceeded, ErrUnavailable}, 0},
		{"deadline before the Retry-After", status(503, "30"), func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 7*time.Second)
		}, []error{context.DeadlineExceeded, ErrUnavailable}, 503},
		{"deadline between two attempts", hangUp, func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 7*time.Second)
		}, []error{context.DeadlineExceeded, ErrUnavailable, io.EOF}, 0},
		{"cancelled with a cause", hang, func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(7*time.Second, func() { cancel(errQuit) })
			return ctx, func() { cancel(nil) }
		}, []error{context.Canceled, errQuit}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: []http.HandlerFunc{test.step}}
				c := serveInMemory(t, s, WithRetry(RetryPolicy{FirstDelay: time.Minute, MaxDelay: time.Minute}))
				ctx, cancel := test.ctx(t.Context())
				defer cancel()
				begin := time.Now()
				result, err := c.Send(ctx, compute(1), compute(2))
				if took := time.Since(begin); took != 7*time.Second {
					t.Errorf("ended after %v", took)
				}
				for _, want := range test.want {
					if !errors.Is(err, want) {
						t.Errorf("error %v is no %v", err, want)
					}
				}
				if e, ok := errors.AsType[*Error](err); !ok || e.Status != test.status || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %#v", err)
				}
				if len(s.attempts()) != 1 || len(result.Unsent()) != 2 {
					t.Errorf("%d attempts, %v", len(s.attempts()), result)
				}
			})
		})
	}
	t.Run("ended before it began", func(t *testing.T) {
		server := &answerer{status: 200, body: queued(1)}
		c := serve(t, server)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		result, err := c.Send(ctx, compute(1))
		if !errors.Is(err, context.Canceled) || server.requests() != 0 || len(result.Unsent()) != 1 {
			t.Errorf("%d requests, %v, error %v", server.requests(), result, err)
		}
	})
}

func TestRetriesAreLogged(t *testing.T) {
	var log bytes.Buffer
	s := &script{steps: []http.HandlerFunc{status(503, ""), text("[]")}}
	c := serve(t, s, WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	if _, err := c.Status(context.Background(), amieusage.StatusQuery{}); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "not now") {
		t.Errorf("log:\n%s", got)
	}
}
