package agent_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/usageclient"
)

func (s *site) wantStates(t *testing.T, want map[outbox.State]int64) {
	t.Helper()
	if diff := cmp.Diff(want, s.states(t)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

func TestSend(t *testing.T) {
	service := newService(t, ledger.Strict)
	s := service.site(t, usageclient.WithMaxRequestRecords(3))
	s.agent.Rules.Resources[0].Name = "unknown.example.org" // which the service refuses at once
	s.collect(t, job("1"), job("2", onGPU), job("3"), job("4"), job("5"))
	s.send(t)
	s.wantStates(t, map[outbox.State]int64{outbox.Queued: 4, outbox.Rejected: 1})
	if s.agent.Summary.Sent != 4 || s.agent.Summary.Rejected != 1 || len(s.agent.Summary.Problems) != 1 || s.agent.Summary.OK() {
		t.Errorf("%+v", s.agent.Summary)
	}
	entry, err := s.queue.Get(context.Background(), 2)
	if err != nil || entry.Reason == "" || entry.Reason != s.agent.Summary.Problems[0].Reason {
		t.Errorf("entry %+v, error %v, problems %+v", entry, err, s.agent.Summary.Problems)
	}
	// Nothing is pending any more.
	requests := service.count(http.MethodPost)
	s.again().send(t)
	if s.agent.Summary.Sent != 0 || requests.Load() != 0 {
		t.Errorf("%d records sent again in %d requests", s.agent.Summary.Sent, requests.Load())
	}
}

// count counts the requests of a method from now on.
func (s *service) count(method string) *atomic.Int64 {
	n := new(atomic.Int64)
	s.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == method {
				n.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	return n
}

func TestServiceIsDown(t *testing.T) {
	service := newService(t, ledger.Strict)
	service.run(t)
	s := service.site(t)
	s.collect(t, job("1"), job("2"))
	service.through(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	})
	for _, down := range []func(){func() {}, func() {
		gone := httptest.NewServer(nil)
		gone.Close()
		s.agent.Client = clientAt(t, gone.URL)
	}} {
		down()
		if err := s.agent.Send(context.Background()); !errors.Is(err, usageclient.ErrUnavailable) {
			t.Errorf("error %v, want %v", err, usageclient.ErrUnavailable)
		}
		s.wantStates(t, map[outbox.State]int64{outbox.Pending: 2})
	}
	service.through(nil)
	s.agent.Client = service.client(t)
	s.send(t)
	s.confirm(t, time.Minute)
	s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 2})

	// While the service is down, confirming fails too, and keeps what is queued.
	s.collect(t, job("3"))
	s.send(t)
	service.through(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	})
	if err := s.agent.Confirm(context.Background(), time.Minute); !errors.Is(err, usageclient.ErrUnavailable) {
		t.Errorf("error %v, want %v", err, usageclient.ErrUnavailable)
	}
	s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 2, outbox.Queued: 1})
}

func TestOversizedRequestsAreSplit(t *testing.T) {
	service := newService(t, ledger.Strict)
	service.run(t)
	service.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength > 4000 {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	s := service.site(t)
	s.collect(t, manyJobs(100)...)
	s.collect(t, job("long", func(j *scheduler.Job) { j.Name = strings.Repeat("x", 4096) }))
	s.send(t)
	s.confirm(t, time.Minute)
	s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 100, outbox.Rejected: 1})
}

// TestSendIsCutOff ends a send between and within requests: what the service
// has is known to the outbox or sent again, and counts once.
// What is corrected while it is under way is sent again: the answer is that to
// its former content.
func TestCorrectedUnderWay(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		service := newService(t, ledger.Open)
		s := service.site(t)
		s.collect(t, job("1"), job("2"))
		service.through(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := s.agent.Collect(r.Context(), source{job("1", ran(2))}, nil, nil); err != nil {
					t.Error(err)
				}
				answer := httptest.NewRecorder()
				next.ServeHTTP(answer, r)
				if w.WriteHeader(status); status == http.StatusOK {
					_, _ = w.Write(answer.Body.Bytes())
				}
			})
		})
		_ = s.agent.Send(context.Background())
		service.through(nil)
		if status == http.StatusOK {
			s.wantStates(t, map[outbox.State]int64{outbox.Pending: 1, outbox.Queued: 1})
		} else {
			s.wantStates(t, map[outbox.State]int64{outbox.Pending: 2})
		}
		s.send(t)
		service.load(t)
		s.confirm(t, long)
		s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 2})
		if records, charge := service.inLedger(t); records != 2 || charge != 24_000_000 {
			t.Errorf("the ledger holds %d records and %d millionths", records, charge)
		}
	}
}

func TestSendIsCutOff(t *testing.T) {
	for _, tt := range []struct {
		what string
		// cut serves the third request, and those behind it.
		cut func(cancel func(), next http.Handler, r *http.Request)
	}{
		{"before the service has them", func(cancel func(), _ http.Handler, r *http.Request) {
			cancel()
			_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection is not noticed
			<-r.Context().Done()
		}},
		{"when the service has them", func(cancel func(), next http.Handler, r *http.Request) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			cancel()
			<-r.Context().Done()
		}},
		{"and the answer is lost", func(_ func(), next http.Handler, r *http.Request) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			service := newService(t, ledger.Open)
			service.run(t)
			s := service.site(t, usageclient.WithMaxRequestRecords(10))
			s.collect(t, manyJobs(60)...)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var posts atomic.Int64
			var healed atomic.Bool
			service.through(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost && !healed.Load() && posts.Add(1) >= 3 {
						tt.cut(cancel, next, r)
						return
					}
					next.ServeHTTP(w, r)
				})
			})
			if err := s.agent.Send(ctx); err == nil {
				t.Error("no error")
			}
			healed.Store(true)
			s.wantStates(t, map[outbox.State]int64{outbox.Queued: 20, outbox.Pending: 40})
			s.again().send(t)
			if s.agent.Summary.Sent != 40 {
				t.Errorf("%d sent", s.agent.Summary.Sent)
			}
			s.confirm(t, time.Minute)
			s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 60})
			if records, charge := service.inLedger(t); records != 60 || charge != 60*8_000_000 {
				t.Errorf("the ledger holds %d records and %d millionths", records, charge)
			}
		})
	}
}
