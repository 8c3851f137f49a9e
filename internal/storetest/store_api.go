package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// API is the service as its sites call it; a *[ledger.Service] is one. What
// cannot be cleared is a *[ledger.UnknownFailedError], or an
// *amieusage.Error of its text with amieusage.CodeNotFound.
type API interface {
	Accept(ctx context.Context, who ledger.Caller, resources map[string]bool, message []byte) (*amieusage.SendResponse, error)
	Status(ctx context.Context, who ledger.Caller, q amieusage.StatusQuery) (amieusage.Status, error)
	Failed(ctx context.Context, who ledger.Caller, q ledger.FailedQuery) ([]amieusage.FailedRecord, int64, error)
	Clear(ctx context.Context, who ledger.Caller, ids []int64) error
	Loaded(ctx context.Context, who ledger.Caller, q amieusage.LoadedQuery) (ledger.LoadedPage, error)
	Summary(ctx context.Context, who ledger.Caller, q amieusage.SummaryQuery) (*amieusage.Summary, error)
}

// Serve puts a service where its sites reach it. secret returns the API key of
// a caller, for as long as the test runs.
type Serve func(service *ledger.Service, secret func(who ledger.Caller) string) API

// TestService holds a service that is reached by serve against the model, step
// by step and with clients that call at the same time. open opens Stores on one
// new database, and closes them at the end of the test.
func TestService(t *testing.T, open func(t *testing.T) (replica func() ledger.Store), serve Serve) {
	t.Run("Model", func(t *testing.T) { testStoreModel(t, open(t), serve) })
	t.Run("Clients", func(t *testing.T) { testStoreClients(t, open(t), serve) })
}

// itself reaches a service without a way in between.
func itself(service *ledger.Service, _ func(ledger.Caller) string) API { return service }

// A tap is a Store that loads a few records at a time, and notes what it
// accepts.
type tap struct {
	ledger.Store
	loads int // about how many records a transaction loads
	log   *acceptLog
}

// An acceptLog is what several taps have accepted.
type acceptLog struct {
	mu       sync.Mutex
	batches  []ledger.Batch
	answered map[ledger.SiteID]int64 // the highest number of an answered send
	early    []int64                 // sends with a number below that of one answered before they began
}

func (t *tap) Load(ctx context.Context, now time.Time, _ int, judge ledger.Judge) (ledger.LoadReport, error) {
	return t.Store.Load(ctx, now, t.loads, judge)
}

func (t *tap) Accept(ctx context.Context, b *ledger.Batch, maxQueued int64) error {
	t.log.mu.Lock()
	before := t.log.answered[b.Site]
	t.log.mu.Unlock()
	if err := t.Store.Accept(ctx, b, maxQueued); err != nil {
		return err
	}
	t.log.mu.Lock()
	defer t.log.mu.Unlock()
	if b.ID <= before {
		t.log.early = append(t.log.early, b.ID)
	}
	t.log.answered[b.Site] = max(t.log.answered[b.Site], b.ID)
	t.log.batches = append(t.log.batches, *b)
	return nil
}

// tapped returns the stores behind taps with one log.
func tapped(stores []ledger.Store, loads int) ([]ledger.Store, *acceptLog) {
	log := &acceptLog{answered: map[ledger.SiteID]int64{}}
	taps := make([]ledger.Store, len(stores))
	for i, store := range stores {
		taps[i] = &tap{Store: store, loads: loads, log: log}
	}
	return taps, log
}
