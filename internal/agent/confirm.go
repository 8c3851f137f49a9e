package agent

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/usageclient"
)

const (
	// nearSkew is how far the clocks of site and service may be apart for
	// entries to be found at once; beyond it they are found by a search. A busy
	// site has all that was loaded in this time read by each run.
	nearSkew = 10 * time.Second
	// clockSkew is how far they may be apart where the service lists no loaded
	// records.
	clockSkew = 2 * time.Hour
	// statusMargin is how much before the answer to a send was stored its first
	// record may have been loaded.
	statusMargin = time.Minute
	// singleLookups is how many entries a search looks up one by one.
	singleLookups = 100
	confirmChunk  = 2000
	// searchFactor is how many times more looks in vain precede each further
	// search.
	searchFactor = 4
)

// Confirm asks the service what became of the queued entries, again and again
// until all are loaded or failed, or wait is over; the rest stays queued for
// the next run.
func (a *Agent) Confirm(ctx context.Context, wait time.Duration) error {
	c := a.ahead
	if a.ahead = nil; c == nil {
		c = newConfirmation(a)
	}
	deadline := a.Clock().Add(wait)
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, 2*time.Second
	inVain, nextSearch := 0, 2
	for {
		before, err := c.open(ctx)
		if err != nil {
			return err
		}
		if before == 0 {
			// Nothing waits for the service; but what was confirmed may have
			// failed since.
			return c.takeFailed(ctx)
		}
		if err := c.look(ctx); err != nil {
			return err
		}
		left, err := c.open(ctx)
		if err != nil || left == 0 {
			return err
		}
		if c.cannotTell {
			return c.giveUp(ctx)
		}
		if left == before {
			inVain++
		}
		if inVain == nextSearch {
			// Perhaps they were loaded long ago, and this send changed nothing.
			if err := c.search(ctx, left); err != nil {
				return err
			}
			nextSearch *= searchFactor
		}
		delay := pause.NextBackOff()
		if a.Clock().Add(delay).After(deadline) {
			if wait <= 0 {
				return nil // one look says nothing of what the service lists later
			}
			return c.unlisted(ctx)
		}
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// A confirmation is one run of Confirm, or of Deliver and then Confirm.
type confirmation struct {
	*Agent
	unconfirmed []outbox.Unconfirmed
	noLoaded    bool      // the service has no GET usage/loaded
	cannotTell  bool      // nor a GET usage/status
	seenLoaded  time.Time // the newest LoadedTime seen, by the service's clock
	decimals    decimals
	seenFailed  map[int64]bool // by FailedRecordID
}

func newConfirmation(a *Agent) *confirmation {
	return &confirmation{Agent: a, seenFailed: map[int64]bool{}}
}

// open reads what is to be confirmed, and returns how many entries that are.
func (c *confirmation) open(ctx context.Context) (entries int64, err error) {
	c.unconfirmed, err = c.Queue.Unconfirmed(ctx)
	for _, u := range c.unconfirmed {
		entries += u.Entries
	}
	return entries, err
}

func (c *confirmation) firstSent() time.Time {
	first := c.unconfirmed[0].FirstSentAt
	for _, u := range c.unconfirmed {
		if u.FirstSentAt.Before(first) {
			first = u.FirstSentAt
		}
	}
	return first
}

// look takes in what was loaded since the entries were sent, and then what
// failed, which overrules it.
func (c *confirmation) look(ctx context.Context) error {
	if err := c.lookLoaded(ctx); err != nil {
		return err
	}
	if err := c.takeFailed(ctx); err != nil {
		return err
	}
	if c.noLoaded {
		return c.takeStatus(ctx)
	}
	return nil
}

// lookLoaded takes in what was loaded since the entries were sent, or since it
// looked before.
func (c *confirmation) lookLoaded(ctx context.Context) error {
	if c.noLoaded {
		return nil
	}
	since := c.seenLoaded
	if since.IsZero() {
		since = c.firstSent().Add(-nearSkew)
	}
	err := c.takeLoaded(ctx, amieusage.LoadedQuery{MinLoadedTime: since})
	if isMissing(err) {
		c.Log.Info("the service does not list loaded records: confirming by its status")
		c.noLoaded = true
		return nil
	}
	return err
}

// isMissing tells a service that does not have the call.
func isMissing(err error) bool {
	e, ok := errors.AsType[*usageclient.Error](err)
	if !ok {
		return false
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}

// takeLoaded takes in what the query lists. What was not stored was not seen: a
// look that is cut off is gone on with from there.
func (c *confirmation) takeLoaded(ctx context.Context, q amieusage.LoadedQuery) error {
	chunk := make([]amieusage.LoadedRecord, 0, confirmChunk)
	seen := c.seenLoaded
	take := func() error {
		for _, r := range chunk {
			c.decimals.see(r.Charge)
		}
		n, err := c.Queue.Loaded(ctx, chunk, c.decimals.within(c.Client))
		if err != nil {
			return err
		}
		c.Count(func(s *Summary) { s.Loaded += int64(n) })
		c.seenLoaded, chunk = seen, chunk[:0]
		c.progress("confirming")
		return nil
	}
	for r, err := range c.Client.AllLoaded(ctx, q) {
		if err != nil {
			return err
		}
		if r.LoadedTime.After(seen) {
			seen = r.LoadedTime
		}
		if chunk = append(chunk, r); len(chunk) == confirmChunk {
			if err := take(); err != nil {
				return err
			}
		}
	}
	return take()
}

// takeFailed takes in the service's open failed records.
func (c *confirmation) takeFailed(ctx context.Context) error {
	failed, err := c.Client.ListFailed(ctx)
	if err != nil {
		return err
	}
	// Taking one in a second time changes nothing.
	failed = slices.DeleteFunc(failed, func(f amieusage.FailedRecord) bool {
		known := c.seenFailed[f.FailedRecordID]
		c.seenFailed[f.FailedRecordID] = true
		return known || f.Record == nil
	})
	n, err := c.Queue.Failed(ctx, failed)
	if err != nil {
		return err
	}
	c.Count(func(s *Summary) { s.Failed += int64(n) })
	if err := c.tellFailed(ctx, failed, n); err != nil {
		return err
	}
	return c.clearDropped(ctx, failed)
}

// clearDropped takes the failures of dropped records off the service's list: of
// those that were dropped while the service could not be reached, and of jobs
// that are charged on another resource instead.
func (c *confirmation) clearDropped(ctx context.Context, failed []amieusage.FailedRecord) error {
	if len(failed) == 0 {
		return nil
	}
	listed := map[int64]bool{}
	for _, f := range failed {
		listed[f.FailedRecordID] = true
	}
	var ids []int64
	for e, err := range outbox.All(ctx, c.Queue, outbox.Filter{States: []outbox.State{outbox.Dropped}}) {
		if err != nil {
			return err
		}
		if listed[e.FailedRecordID] {
			ids = append(ids, e.FailedRecordID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	if _, err := c.Client.ClearFailedIDs(ctx, ids...); err != nil {
		c.Log.Warn("failed records that are not to be sent again stay on the service's list; the next run tries again", "records", len(ids), "error", err)
	}
	return nil
}

// tellFailed adds the entries that failed now to the summary's problems. There
// are n of them, and they have the highest numbers: the other failed records
// are those of earlier runs and of others.
func (c *confirmation) tellFailed(ctx context.Context, failed []amieusage.FailedRecord, n int) error {
	for _, f := range slices.Backward(failed) {
		if n == 0 || len(c.Summary.Problems) == maxProblems {
			break
		}
		id := f.Record.Identity().LocalRecordID
		if id == "" {
			continue
		}
		entries, err := c.Queue.List(ctx, outbox.Filter{States: []outbox.State{outbox.Failed}, LocalRecordID: id})
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.FailedRecordID == f.FailedRecordID {
				n--
				c.Count(func(s *Summary) {
					s.problem(Problem{Kind: "failed", Place: e.Place, Record: e.Record.String(), Reason: e.Reason})
				})
			}
		}
	}
	return nil
}

// search looks for the remaining entries whenever they were loaded: for some of
// them one by one, and for others where those were found. They are drawn at
// random, as any number may be lost for ever. To read all that was ever loaded
// could take longer than the service takes to load what it has only just
// accepted.
func (c *confirmation) search(ctx context.Context, remaining int64) error {
	if c.noLoaded {
		return nil
	}
	entries, err := c.Queue.Sample(ctx, outbox.Queued, singleLookups)
	if err != nil {
		return err
	}
	seen := c.seenLoaded
	defer func() { c.seenLoaded = seen }()
	var found time.Time // the earliest LoadedTime of what was found
	for _, e := range entries {
		c.seenLoaded = time.Time{}
		before := c.Summary.Loaded
		if err := c.takeLoaded(ctx, amieusage.LoadedQuery{LocalRecordID: e.Record.Identity().LocalRecordID}); err != nil {
			return err
		}
		if c.Summary.Loaded > before && (found.IsZero() || c.seenLoaded.Before(found)) {
			found = c.seenLoaded
		}
	}
	if remaining > singleLookups && !found.IsZero() {
		if err := c.takeLoaded(ctx, amieusage.LoadedQuery{MinLoadedTime: found}); err != nil {
			return err
		}
	}
	return c.takeFailed(ctx)
}

// takeStatus confirms, where the service lists no loaded records, all queued
// entries of a resource once its status counts at least as many loaded since
// the first of them was sent. Those that failed are taken out before. Where
// more is loaded on the same resource, by others or by a run just before, it
// may confirm too early what is still waiting; a failure then overrules it in a
// later run.
//
// What was sent long ago has been loaded or has failed. Then it is enough that
// so many records were ever loaded, as clocks may be apart, and what is sent
// again unchanged is not loaded again.
func (c *confirmation) takeStatus(ctx context.Context) error {
	unconfirmed, err := c.Queue.Unconfirmed(ctx)
	if err != nil {
		return err
	}
	for _, u := range unconfirmed {
		q := amieusage.StatusQuery{From: u.FirstSentAt.Add(-statusMargin)}
		if c.Clock().Sub(u.FirstSentAt) > clockSkew {
			q.From = time.Unix(0, 0)
		}
		status, err := c.Client.Status(ctx, q)
		if isMissing(err) {
			c.cannotTell = true
			return nil
		}
		if err != nil {
			return err
		}
		for _, s := range status {
			if s.Resource == u.Resource && s.LoadedRecordCount >= u.Entries {
				if err := c.confirmAll(ctx, u.Resource); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// confirmAll confirms the queued entries of a resource.
func (c *confirmation) confirmAll(ctx context.Context, resource string) error {
	now := c.Clock()
	var chunk []amieusage.LoadedRecord
	take := func() error {
		n, err := c.Queue.Loaded(ctx, chunk, 0)
		c.Count(func(s *Summary) { s.Loaded += int64(n) })
		chunk = chunk[:0]
		return err
	}
	for e, err := range outbox.All(ctx, c.Queue, outbox.Filter{States: []outbox.State{outbox.Queued}}) {
		if err != nil {
			return err
		}
		id := e.Record.Identity()
		if id.Resource != resource {
			continue
		}
		chunk = append(chunk, amieusage.LoadedRecord{
			UsageType:     id.UsageType,
			LocalRecordID: id.LocalRecordID,
			Resource:      id.Resource,
			SubmitTime:    id.KeyTime,
			LoadedTime:    now,
			Charge:        e.Record.Common().Charge,
		})
		if len(chunk) == confirmChunk {
			if err := take(); err != nil {
				return err
			}
		}
	}
	return take()
}
