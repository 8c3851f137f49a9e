package agent_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/usageclient"
)

// long is a wait that no test that passes comes to the end of.
const long = 20 * time.Second

// answering answers requests to a path of the API with a status.
func (s *service) answering(path string, status int) {
	s.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, path) {
				w.WriteHeader(status)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
}

func TestConfirm(t *testing.T) {
	for _, without := range []int{0, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		t.Run(fmt.Sprint(without), func(t *testing.T) {
			service := newService(t, ledger.Strict)
			s := service.site(t)
			if without != 0 {
				service.answering("/usage/loaded", without)
			}
			s.collect(t, job("1"), job("2", onGPU), job("3", by("bob")), job("4", onGPU, by("bob")), job("102"),
				job("102", submitted(begin.Add(time.Hour))))
			if err := s.agent.Enqueue(context.Background(), itemsOf(storageOf("1"), adjustment("1", amieusage.Refund)), nil); err != nil {
				t.Fatal(err)
			}
			s.send(t)
			service.load(t)
			s.confirm(t, long)
			s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 6, outbox.Failed: 2})
			if sum := s.agent.Summary; sum.Loaded != 6 || sum.Failed != 2 || len(sum.Problems) != 2 || sum.OK() {
				t.Errorf("%+v", sum)
			}
			for _, p := range s.agent.Summary.Problems {
				if p.Kind != "failed" || p.Reason != string(ledger.UnknownUser) || p.Place == "" || !strings.Contains(p.Record, "bob") {
					t.Errorf("problem %+v", p)
				}
			}
			// Another failure is told alone: those of before are known.
			s.again().collect(t, job("5", by("bob")), job("6"))
			s.send(t)
			service.load(t)
			s.confirm(t, long)
			if sum := s.agent.Summary; sum.Loaded != 1 || sum.Failed != 1 || len(sum.Problems) != 1 || sum.Problems[0].Place != "sacct:2" {
				t.Errorf("second run: %+v", sum)
			}
			// The registry is repaired, and what failed is retried.
			service.register(t, "alice", "bob")
			if n, err := s.queue.Retry(context.Background(), outbox.Selection{States: []outbox.State{outbox.Failed}}); n != 3 || err != nil {
				t.Fatalf("%d retried, error %v", n, err)
			}
			s.again().send(t)
			service.load(t)
			s.confirm(t, long)
			s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 10})
			service.through(nil)
			if records, charge := service.inLedger(t); records != 10 || charge != (6*8+2*2)*1_000_000+3_500_000 {
				t.Errorf("the ledger holds %d records and %d millionths", records, charge)
			}
		})
	}
}

// Where nothing is queued, what was confirmed may have failed since: who cannot
// ask is told so.
func TestConfirmNothing(t *testing.T) {
	s := newSite(t)
	s.agent.Client = clientAt(t, "http://127.0.0.1:1/api/v1") // where nobody answers
	if err := s.agent.Confirm(t.Context(), long); !errors.Is(err, usageclient.ErrUnavailable) {
		t.Errorf("error %v, want that the service is not reached", err)
	}
}

func TestWaitingEnds(t *testing.T) {
	service := newService(t, ledger.Strict)
	s := service.site(t)
	s.collect(t, job("1"), job("2"))
	s.send(t)
	for _, wait := range []time.Duration{0, 200 * time.Millisecond} {
		s.confirm(t, wait)
		s.wantStates(t, map[outbox.State]int64{outbox.Queued: 2})
	}
	ctx, cancel := context.WithCancel(context.Background())
	service.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			cancel()
		})
	})
	if err := s.agent.Confirm(ctx, long); err == nil {
		t.Error("no error though the run was cut off")
	}
	service.through(nil)
	service.load(t)
	s.confirm(t, 0)
	s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 2})
}

func TestCorrections(t *testing.T) {
	service := newService(t, ledger.Strict)
	service.run(t)
	s := service.site(t)
	for _, change := range []func(*scheduler.Job){
		func(*scheduler.Job) {},
		ran(2),
		func(j *scheduler.Job) { ran(2)(j); j.Name = "an equal charge" },
		func(j *scheduler.Job) { ran(2)(j); j.Name = "and again" },
		ran(2), // a content of before comes back
	} {
		s.collect(t, job("1", change))
		s.send(t)
		s.confirm(t, long)
		s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 1})
	}
	if records, charge := service.inLedger(t); records != 1 || charge != 16_000_000 {
		t.Errorf("the ledger holds %d records and %d millionths", records, charge)
	}
}

// A correction of equal charge that fails must not pass for loaded because the
// record of before is.
func TestFailureOverrulesALoadedRecordOfBefore(t *testing.T) {
	for _, confirmed := range []bool{true, false} {
		t.Run(fmt.Sprintf("confirmed %t", confirmed), func(t *testing.T) {
			service := newService(t, ledger.Strict)
			s := service.site(t)
			s.collect(t, job("1"))
			s.send(t)
			service.load(t)
			if confirmed {
				s.confirm(t, 0)
				s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 1})
			}
			s.again().collect(t, job("1", by("bob")))
			s.send(t)
			service.load(t)
			s.confirm(t, 0)
			s.wantStates(t, map[outbox.State]int64{outbox.Failed: 1})
			if s.agent.Summary.Failed != 1 {
				t.Errorf("%+v", s.agent.Summary)
			}
		})
	}
}

// What is sent again unchanged keeps its old LoadedTime.
func TestLostOutbox(t *testing.T) {
	for _, jobs := range []int{3, 120} { // looked up one by one, and all at once
		t.Run(fmt.Sprint(jobs), func(t *testing.T) {
			service := newService(t, ledger.Open)
			service.skew = -30 * 24 * time.Hour
			first := service.site(t)
			first.collect(t, manyJobs(jobs)...)
			first.send(t)
			service.load(t)
			service.mu.Lock()
			service.skew = 0
			service.mu.Unlock()

			s := service.site(t)
			s.collect(t, append(manyJobs(jobs), job("new"))...)
			s.send(t)
			service.load(t)
			s.confirm(t, long)
			s.wantStates(t, map[outbox.State]int64{outbox.Loaded: int64(jobs) + 1})
			if records, charge := service.inLedger(t); records != jobs+1 || charge != int64(jobs+1)*8_000_000 {
				t.Errorf("the ledger holds %d records and %d millionths", records, charge)
			}
		})
	}
}

// However many entries wait for what will never be loaded, the others are found.
func TestLostAtTheService(t *testing.T) {
	const lost, old = 150, 50
	service := newService(t, ledger.Open)
	service.skew = -30 * 24 * time.Hour
	first := service.site(t)
	first.collect(t, manyJobs(old)...)
	first.send(t)
	service.load(t)
	service.mu.Lock()
	service.skew = 0
	service.mu.Unlock()

	s := service.site(t)
	var vanishing []any
	for i := range lost {
		vanishing = append(vanishing, job(fmt.Sprint("lost", i)))
	}
	s.collect(t, vanishing...)
	service.through(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, `{"Message": "%d records have been queued for loading."}`, lost)
		})
	})
	s.send(t)
	service.through(nil)
	s.collect(t, manyJobs(old)...)
	s.send(t)
	for deadline := time.Now().Add(long); s.states(t)[outbox.Loaded] == 0 && time.Now().Before(deadline); {
		s.confirm(t, 300*time.Millisecond)
	}
	s.wantStates(t, map[outbox.State]int64{outbox.Loaded: old, outbox.Queued: lost})
}

// A run does not read again what was loaded long before, not even while it
// waits for a service that is slow to load.
func TestConfirmReadsNothingOld(t *testing.T) {
	for _, tt := range []struct {
		jobs int
		late int64 // looks in vain before the service loads
	}{{3, 0}, {110, 0}, {3, 4}, {110, 4}} {
		t.Run(fmt.Sprint(tt.jobs, tt.late), func(t *testing.T) {
			t.Parallel()
			service := newService(t, ledger.Open)
			service.skew = -time.Hour
			first := service.site(t)
			first.collect(t, job("old1"), job("old2"))
			first.send(t)
			service.load(t)
			service.mu.Lock()
			service.skew = 0
			service.mu.Unlock()

			s := service.site(t)
			s.collect(t, manyJobs(tt.jobs)...)
			s.send(t)
			if tt.late == 0 {
				service.load(t)
			}
			var looks, old atomic.Int64
			service.through(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					answer := httptest.NewRecorder()
					r.Header.Del("Accept-Encoding")
					next.ServeHTTP(answer, r)
					old.Add(int64(strings.Count(answer.Body.String(), `"old`)))
					maps.Copy(w.Header(), answer.Header())
					w.WriteHeader(answer.Code)
					_, _ = w.Write(answer.Body.Bytes())
					if strings.HasSuffix(r.URL.Path, "/usage/failed") && looks.Add(1) == tt.late {
						service.load(t)
					}
				})
			})
			s.confirm(t, long)
			s.wantStates(t, map[outbox.State]int64{outbox.Loaded: int64(tt.jobs)})
			if n := old.Load(); n > 0 {
				t.Errorf("%d old records were read", n)
			}
		})
	}
}

func TestLostOutboxWithoutListOfLoaded(t *testing.T) {
	service := newService(t, ledger.Open)
	service.skew = -24 * time.Hour
	first := service.site(t)
	first.collect(t, job("1"), job("2"))
	first.send(t)
	service.load(t)
	service.answering("/usage/loaded", http.StatusNotFound)
	s := service.site(t)
	s.collect(t, job("1"), job("2"))
	s.send(t)
	service.load(t)
	s.confirm(t, 0)
	s.wantStates(t, map[outbox.State]int64{outbox.Queued: 2})
	s.agent.Clock = func() time.Time { return time.Now().Add(3 * time.Hour) } // a later run
	s.confirm(t, 0)
	s.wantStates(t, map[outbox.State]int64{outbox.Loaded: 2})
}

func TestClocksApart(t *testing.T) {
	for _, tt := range []struct {
		skew time.Duration
		jobs int
	}{{-time.Hour, 3}, {time.Hour, 110}, {-40 * time.Hour, 3}, {-40 * time.Hour, 110}, {40 * time.Hour, 110}} {
		t.Run(fmt.Sprint(tt.skew, tt.jobs), func(t *testing.T) {
			t.Parallel()
			service := newService(t, ledger.Open)
			service.skew = tt.skew
			// Loading begins only after the agent has looked for it in vain.
			var looks atomic.Int64
			service.through(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					next.ServeHTTP(w, r)
					if strings.HasSuffix(r.URL.Path, "/usage/failed") && looks.Add(1) == 3 {
						service.load(t)
					}
				})
			})
			s := service.site(t, usageclient.WithMaxRequestRecords(40))
			s.collect(t, manyJobs(tt.jobs)...)
			s.send(t)
			s.confirm(t, long)
			s.wantStates(t, map[outbox.State]int64{outbox.Loaded: int64(tt.jobs)})
		})
	}
}
