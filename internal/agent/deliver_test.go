package agent_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/usageclient"
)

// The first jobs are so many that they are sent before the others are read.
const firstJobs, allJobs = 10_000, 12_000

// jobs are all of them, of which each is made by its number; between is called
// behind the first.
type jobs struct {
	of      func(i int) *scheduler.Job
	between func()
}

func (s jobs) Jobs(context.Context) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		for i := range allJobs {
			if i == firstJobs {
				s.between()
			}
			j := s.of(i)
			j.Place = scheduler.Place{File: "sacct", Line: i + 2}
			if !yield(j, nil) {
				return
			}
		}
	}
}

func numbered(i int) *scheduler.Job { return job(strconv.Itoa(i)) }

// report is what the command does.
func (s *site) report(source scheduler.Source) error {
	ctx := context.Background()
	err, unreached := s.agent.Deliver(ctx, func() error { return s.agent.Collect(ctx, source, nil, nil) })
	if err == nil {
		err = unreached
	}
	if err == nil {
		err = s.agent.Send(ctx)
	}
	if err == nil {
		err = s.agent.Confirm(ctx, time.Minute)
	}
	return err
}

// What is collected is sent and confirmed while collecting goes on; one message
// is on its way at a time, and none holds a record that another one holds.
func TestDeliverWhileCollecting(t *testing.T) {
	service := newService(t, ledger.Open)
	service.run(t)
	s := service.site(t)
	var underWay atomic.Int64
	confirming := make(chan struct{})
	service.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPost:
				if underWay.Add(1) > 1 {
					t.Error("two messages are on their way")
				}
				defer underWay.Add(-1)
			case strings.HasSuffix(r.URL.Path, "/usage/loaded"):
				select {
				case <-confirming:
				default:
					close(confirming)
				}
			}
			next.ServeHTTP(w, r)
		})
	})
	// The others correct some of the first.
	corrected := 0
	source := jobs{between: func() { <-confirming }, of: func(i int) *scheduler.Job {
		if i >= firstJobs && i%100 == 0 {
			corrected++
			return job(strconv.Itoa(i-firstJobs), ran(2))
		}
		return numbered(i)
	}}
	if err := s.report(source); err != nil {
		t.Fatal(err)
	}
	total := int64(allJobs - corrected)
	s.wantStates(t, map[outbox.State]int64{outbox.Loaded: total})
	sum := s.agent.Summary
	if sum.Read != allJobs || sum.New != total || sum.Bad != int64(corrected) || sum.Sent < total || sum.Loaded < total || sum.Failed+sum.Rejected > 0 {
		t.Errorf("%+v", sum)
	}
	if records, charge := service.inLedger(t); int64(records) != total || charge != (total+int64(corrected))*8_000_000 {
		t.Errorf("%d records of %d, %d millionths", records, total, charge)
	}
}

// A service that is not there keeps nothing from being collected.
func TestDeliverWithoutService(t *testing.T) {
	var requests atomic.Int64
	tried := make(chan struct{}, 100)
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		tried <- struct{}{}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer down.Close()
	s := newSite(t)
	s.agent.Client = clientAt(t, down.URL)
	if err := s.report(jobs{between: func() { <-tried }, of: numbered}); !errors.Is(err, usageclient.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	s.wantStates(t, map[outbox.State]int64{outbox.Pending: allJobs})
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests; want one until all was collected, and one then", n)
	}
}

// What a look has read and not stored when it was cut off is looked at again.
func TestDeliverAfterACutLook(t *testing.T) {
	service := newService(t, ledger.Open)
	s := service.site(t, usageclient.WithMaxRequestRecords(500))
	cut := make(chan struct{})
	var pages, searched atomic.Int64
	service.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/usage/loaded") {
				query := r.URL.Query()
				if query.Has("LocalRecordID") {
					searched.Add(1)
				}
				switch pages.Add(1) {
				case 1:
					query.Set("Limit", "700")
					r.URL.RawQuery = query.Encode()
				case 2:
					w.WriteHeader(http.StatusServiceUnavailable)
					close(cut)
					return
				}
			}
			next.ServeHTTP(w, r)
			if r.Method == http.MethodPost {
				service.load(t) // so that each message has a LoadedTime of its own
			}
		})
	})
	if err := s.report(jobs{between: func() { <-cut }, of: numbered}); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, map[outbox.State]int64{outbox.Loaded: allJobs})
	if n := searched.Load(); n > 0 {
		t.Errorf("%d records were searched for", n)
	}
}

// A service that keeps everybody waiting is waited for once when all is
// collected.
func TestDeliverToASlowService(t *testing.T) {
	var requests atomic.Int64
	begun, collected := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			close(begun)
		}
		<-collected
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer slow.Close()
	s := newSite(t)
	s.agent.Client = clientAt(t, slow.URL)
	ctx := context.Background()
	err, unreached := s.agent.Deliver(ctx, func() error {
		// What a test can wait for is one step before what Deliver sees.
		defer time.AfterFunc(100*time.Millisecond, func() { close(collected) })
		return s.agent.Collect(ctx, jobs{between: func() { <-begun }, of: numbered}, nil, nil)
	})
	if err != nil || !errors.Is(unreached, usageclient.ErrUnavailable) || requests.Load() != 1 {
		t.Errorf("errors %v and %v, %d requests", err, unreached, requests.Load())
	}
	s.wantStates(t, map[outbox.State]int64{outbox.Pending: allJobs})
}

// Problems come in the order of the stages, whenever they are found.
func TestProblemsInOrder(t *testing.T) {
	service := newService(t, ledger.Strict)
	service.run(t)
	s := service.site(t)
	s.agent.Rules.Resources[0].Name = "unknown.example.org" // which the service refuses at once
	rejected := make(chan struct{})
	s.agent.Progress = func(_ string, sum *agent.Summary) {
		if sum.Rejected == 1 {
			select {
			case <-rejected:
			default:
				close(rejected)
			}
		}
	}
	err := s.report(jobs{between: func() { <-rejected }, of: func(i int) *scheduler.Job {
		switch i {
		case 5:
			return job("5", onGPU)
		case 6:
			return job("6", by("nobody")) // who fails when loaded
		case allJobs - 1:
			return job("last", by("")) // which is no record
		}
		return numbered(i)
	}})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, p := range s.agent.Summary.Problems {
		kinds = append(kinds, p.Kind)
	}
	if got := strings.Join(kinds, " "); got != "bad rejected failed" {
		t.Errorf("problems %s: %+v", got, s.agent.Summary.Problems)
	}
}

// An interrupt ends both collecting and sending; what was read is kept.
func TestDeliverInterrupted(t *testing.T) {
	hanging := make(chan struct{}, 100)
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		hanging <- struct{}{}
		<-r.Context().Done()
	}))
	defer slow.Close()
	s := newSite(t)
	s.agent.Client = clientAt(t, slow.URL)
	ctx, cancel := context.WithCancel(context.Background())
	source := jobs{of: numbered, between: func() { <-hanging; cancel() }}
	err, _ := s.agent.Deliver(ctx, func() error { return s.agent.Collect(ctx, source, &outbox.Cursor{Source: "sacct", At: begin}, nil) })
	if !errors.Is(err, context.Canceled) || s.states(t)[outbox.Pending] < firstJobs || !s.cursor(t).IsZero() {
		t.Errorf("error %v, states %v, cursor %s", err, s.states(t), s.cursor(t))
	}
}
