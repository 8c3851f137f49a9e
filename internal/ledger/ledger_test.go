package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/sqlite"
)

const message = `{"UsageType":"Compute","Records":[{"Username":"alice","LocalProjectID":"p.abc123456.000","LocalRecordID":"1",` +
	`"Resource":"rm.example.org","SubmitTime":"2026-10-01","StartTime":"2026-10-01","EndTime":"2026-10-02","Charge":"1","Attributes":{"NodeCount":1}}]}`

// testLog is a log that may be read while it is written.
type testLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// open returns a service with the open policy on a real store, wrapped by wrap.
func open(t *testing.T, wrap func(ledger.Store) ledger.Store) (*ledger.Service, ledger.Caller, *testLog) {
	t.Helper()
	ctx := context.Background()
	store, err := sqlite.OpenLedger(ctx, filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := store.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC"}}}); err != nil {
		t.Fatal(err)
	}
	log := &testLog{}
	service := ledger.New(ledger.Config{Store: wrap(store), Policy: ledger.Open, Clock: time.Now,
		Logger: slog.New(slog.NewTextHandler(log, nil))})
	key, _, err := ledger.CreateKey(ctx, store, "PSC", "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	who, _, err := service.Authenticate(ctx, "PSC", key)
	if err != nil {
		t.Fatal(err)
	}
	return service, who, log
}

// waitFor polls until the condition holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after 20 seconds: %s", what)
		}
	}
}

func loaded(t *testing.T, service *ledger.Service, who ledger.Caller) int64 {
	t.Helper()
	counts, err := service.Counts(context.Background(), who)
	if err != nil {
		t.Fatal(err)
	}
	return counts.Loaded
}

// TestRun loads what was there before, and at once what comes.
func TestRun(t *testing.T) {
	service, who, log := open(t, func(s ledger.Store) ledger.Store { return s })
	accept := func() {
		t.Helper()
		if _, err := service.Accept(context.Background(), who, nil, []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	accept()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- service.Run(ctx) }()
	waitFor(t, "the first record is not loaded", func() bool { return loaded(t, service, who) == 1 })
	for n := int64(2); n < 10; n++ {
		accept()
		waitFor(t, "the next record is not loaded", func() bool { return loaded(t, service, who) == n })
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run ended with %v", err)
	}
	if log.String() != "" {
		t.Errorf("the log says %s", log)
	}
}

// failingStore fails to load, a number of times.
type failingStore struct {
	ledger.Store
	mu    sync.Mutex
	times int
}

var errStore = errors.New("out of order")

func (s *failingStore) Load(ctx context.Context, now time.Time, maxRecords int, judge ledger.Judge) (ledger.LoadReport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times > 0 {
		s.times--
		return ledger.LoadReport{}, errStore
	}
	return s.Store.Load(ctx, now, maxRecords, judge)
}

// TestRunStoreFails goes on when loading fails; that records keep coming makes
// it try no sooner.
func TestRunStoreFails(t *testing.T) {
	service, who, log := open(t, func(s ledger.Store) ledger.Store { return &failingStore{Store: s, times: 2} })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- service.Run(ctx) }()
	accepted := int64(0)
	waitFor(t, "nothing is loaded", func() bool {
		if accepted < 20 {
			if _, err := service.Accept(context.Background(), who, nil, []byte(message)); err != nil {
				t.Fatal(err)
			}
			accepted++
		}
		return loaded(t, service, who) == accepted
	})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run ended with %v", err)
	}
	if text := log.String(); strings.Count(text, "the records stay queued") != 2 || !strings.Contains(text, errStore.Error()) {
		t.Errorf("the log says %s, want two failures", text)
	}
}

func TestNewKey(t *testing.T) {
	random := bytes.NewReader(bytes.Repeat([]byte{0xfb}, 32))
	key, hash, err := ledger.NewKey(random)
	if err != nil {
		t.Fatal(err)
	}
	if want := "amu_-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s"; key != want || hash != ledger.HashKey(want) {
		t.Errorf("key %s, want %s", key, want)
	}
	if _, _, err := ledger.NewKey(random); err == nil {
		t.Error("a key without randomness")
	}
}

func TestUnknownFailedError(t *testing.T) {
	few := &ledger.UnknownFailedError{IDs: []int64{7, 12}}
	many := &ledger.UnknownFailedError{}
	for i := range 23 {
		many.IDs = append(many.IDs, int64(i))
	}
	want := []string{
		"no failed record of this site has the id 7, 12; nothing was cleared",
		"no failed record of this site has the id 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, and 3 more; nothing was cleared",
	}
	if diff := cmp.Diff(want, []string{few.Error(), many.Error()}); diff != "" {
		t.Errorf("texts differ (-want +got):\n%s", diff)
	}
}

// TestFailureTexts keeps the texts as they are: status groups by them, and
// sites search for them.
func TestFailureTexts(t *testing.T) {
	want := []ledger.Failure{
		"The project is not known at this site",
		"The user is not known on the project",
		"The project has no allocation on the resource",
		"The allocation on the resource is not valid at the record's time",
		"The charge would take the site's total beyond what the ledger can hold",
		"The record was accepted, but is not valid for the program that loads it",
	}
	got := []ledger.Failure{ledger.UnknownProject, ledger.UnknownUser, ledger.NoAllocation, ledger.AllocationInvalid,
		ledger.TotalTooLarge, ledger.Unreadable}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("texts differ (-want +got):\n%s", diff)
	}
	if _, _, err := new(ledger.Service).Authenticate(context.Background(), "", ""); err == nil {
		t.Error("no site and no key are let in")
	} else if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeUnauthorized {
		t.Errorf("error %v", err)
	}
}
