package agent

import (
	"context"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/usageclient"
)

// decimals are the most that a service has listed a charge with.
type decimals int

func (d *decimals) see(charge amieusage.Charge) {
	_, fraction, _ := strings.Cut(charge.String(), ".")
	*d = max(*d, decimals(len(fraction)))
}

// within returns how far apart, in millionths, the service's charges may be from
// the site's: amieusage's own are exact, and another service may round them to
// the decimals that it shows.
func (d decimals) within(client *usageclient.Client) int64 {
	if client.IsAmieusage() {
		return 0
	}
	within := int64(1_000_000)
	for range min(d, 6) {
		within /= 10
	}
	return within
}

// unlisted ends the wait for records of kinds that the service never lists, as
// some list Compute records only: it has accepted them, and cannot say more.
// Where it is only slow it lists none of the jobs, or nothing at all, and they
// go on waiting.
func (c *confirmation) unlisted(ctx context.Context) error {
	if c.noLoaded || c.Client.IsAmieusage() {
		return nil
	}
	var first time.Time
	for e, err := range outbox.All(ctx, c.Queue, outbox.Filter{States: []outbox.State{outbox.Queued}}) {
		if err != nil {
			return err
		}
		if e.Record.UsageType() == amieusage.Compute {
			return nil
		}
		if first.IsZero() || e.SentAt.Before(first) {
			first = e.SentAt
		}
	}
	if lists, err := c.listsAny(ctx); err != nil || !lists {
		return err
	}
	// Those that it does list are found one by one.
	if err := c.search(ctx, 0); err != nil {
		return err
	}
	if err := c.countedBy(ctx, first); err != nil {
		return err
	}
	return c.giveUp(ctx)
}

// listsAny reports whether the service lists anything.
func (c *confirmation) listsAny(ctx context.Context) (bool, error) {
	for _, err := range c.Client.AllLoaded(ctx, amieusage.LoadedQuery{PageSize: 1}) {
		return err == nil, err
	}
	return false, nil
}

// maxCounted is how many loaded entries are read to hold the service's counts
// against.
const maxCounted = 200_000

// countedBy confirms what the service does not list, where its status counts as
// many records since they were sent as were sent since.
func (c *confirmation) countedBy(ctx context.Context, since time.Time) error {
	counts, err := c.Queue.Counts(ctx)
	if err != nil {
		return err
	}
	var loaded int64
	for _, n := range counts {
		if n.State == outbox.Loaded {
			loaded += n.Entries
		}
	}
	if loaded > maxCounted {
		return nil
	}
	status, err := c.Client.Status(ctx, amieusage.StatusQuery{From: since.Add(-statusMargin)})
	if err != nil {
		if isMissing(err) {
			err = nil
		}
		return err
	}
	sent := map[string]int64{}
	for e, err := range outbox.All(ctx, c.Queue, outbox.Filter{States: []outbox.State{outbox.Loaded, outbox.Queued, outbox.Accepted}}) {
		if err != nil {
			return err
		}
		if !e.SentAt.Before(since.Add(-statusMargin)) {
			sent[e.Record.Common().Resource]++
		}
	}
	for _, s := range status {
		if n := sent[s.Resource]; n > 0 && s.LoadedRecordCount >= n {
			if err := c.confirmAll(ctx, s.Resource); err != nil {
				return err
			}
		}
	}
	return nil
}

// cannotConfirm is what is said of what the service has accepted, and says no
// more of.
const cannotConfirm = "accepted; this service cannot confirm it"

// giveUp ends the wait for what is queued. What waits until a charge of 0 is
// confirmed is sent then, as it would wait for ever.
func (c *confirmation) giveUp(ctx context.Context) error {
	var writes []outbox.Write
	apply := func() error {
		_, err := c.Queue.Apply(ctx, writes, nil)
		writes = writes[:0]
		return err
	}
	for e, err := range outbox.All(ctx, c.Queue, outbox.Filter{States: []outbox.State{outbox.Queued}}) {
		if err != nil {
			return err
		}
		w := outbox.Write{ID: e.ID, Was: e.Version(), Entry: e}
		w.Entry.State, w.Entry.Reason = outbox.Accepted, cannotConfirm
		if writes = append(writes, w); len(writes) == confirmChunk {
			if err := apply(); err != nil {
				return err
			}
		}
	}
	return apply()
}
