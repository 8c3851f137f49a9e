package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/amieusage/amieusage"
)

// ErrNotNewest means that a revision which was to be undone was replaced meanwhile.
var ErrNotNewest = &amieusage.Error{Code: amieusage.CodeConflict, Message: "a record was changed meanwhile",
	Hint: "run this again: it goes on with what is left"}

// UndoneEvent returns the event of a batch that undoes revisions.
func UndoneEvent(ctx context.Context, b *Batch) Event {
	key := b.Undoes[0].KeyID
	return NewEvent(ctx, b.AcceptedAt, key, "undid", "what key %d had made of %d %s records", key, len(b.Records), b.UsageType)
}

// An UndoStep is what becomes of one record that a key has sent.
type UndoStep struct {
	Site     string
	Identity amieusage.Identity
	Revision int              // the newest one of the key
	Now, Was amieusage.Charge // negative where it is given back
	WasKey   int64            // which had sent what it goes back to
	// Left says why the record stays as it is; "": it goes back to what it was.
	Left LeftReason
	// Added: there was no record before, and its charge becomes 0.
	Added bool

	content []byte // what it becomes
}

// A LeftReason is why undoing leaves a record as it is.
type LeftReason string

// The reasons for which a record is left as it is.
const (
	LeftUndone   LeftReason = "undone already"
	LeftLater    LeftReason = "a later version stands"
	LeftArchived LeftReason = "what it was before is in an archive"
)

// PlanUndo returns what would become of each record of a site that a key has sent since a time, in the
// order of acceptance. It changes nothing.
func PlanUndo(ctx context.Context, store Store, site string, keyID int64, since time.Time) ([]UndoStep, error) {
	rows, err := store.History(ctx, HistoryQuery{Site: site, KeyID: keyID, Since: since})
	if err != nil {
		return nil, err
	}
	authority, err := store.Authority(ctx, site)
	if err != nil {
		return nil, err
	}
	var steps []UndoStep
	seen := map[amieusage.Identity]bool{}
	for _, row := range rows {
		if row.Revision == 0 || seen[row.Identity] {
			continue // it failed, and charges nothing
		}
		seen[row.Identity] = true
		revisions, err := store.Revisions(ctx, authority.Site, row.Identity)
		if err != nil {
			return nil, err
		}
		step, err := undoStep(row.Identity, revisions, keyID, since)
		if err != nil {
			return nil, err
		}
		step.Site = site
		steps = append(steps, step)
	}
	return steps, nil
}

// undoStep decides about one record, of which it is given the revisions that are kept.
func undoStep(id amieusage.Identity, revisions []Revision, keyID int64, since time.Time) (UndoStep, error) {
	step := UndoStep{Identity: id}
	if len(revisions) == 0 {
		step.Left = LeftLater
		return step, nil
	}
	theirs := func(r Revision) bool { return r.KeyID == keyID && !r.AcceptedAt.Before(since) }
	newest := revisions[len(revisions)-1]
	step.Revision, step.Now = newest.Number, newest.signed(id.UsageType)
	step.Was = step.Now
	if !theirs(newest) {
		if step.Left = LeftLater; newest.KeyID == 0 {
			step.Left = LeftUndone
		}
		return step, nil
	}
	before := len(revisions) - 1 // the last that is not theirs; -1: none is
	for before >= 0 && theirs(revisions[before]) {
		before--
	}
	switch {
	case before >= 0 && revisions[before].Record != nil:
		step.content, step.Was = revisions[before].Record, revisions[before].signed(id.UsageType)
		step.WasKey = revisions[before].KeyID
	case before >= 0 || revisions[0].Number > 1 || newest.Record == nil:
		step.Left = LeftArchived
	default:
		record, err := amieusage.CheckRecord(id.UsageType, newest.Record)
		if err != nil {
			return step, fmt.Errorf("record %s: %w", id.LocalRecordID, err)
		}
		switch r := record.(type) {
		case *amieusage.ComputeRecord:
			r.Charge = amieusage.ChargeOf(0)
		case *amieusage.StorageRecord:
			r.Charge = amieusage.ChargeOf(0)
		case *amieusage.AdjustmentRecord:
			r.Charge = amieusage.ChargeOf(0)
		}
		step.content, step.Added, step.Was = record.AppendJSON(nil), true, amieusage.ChargeOf(0)
	}
	return step, nil
}

// undoRecords is how many records one batch of undoing has.
const undoRecords = 1000

// Undo makes the records of one site what they were, as new revisions that the next loading brings. What is
// queued must be loaded before, so that nothing newer is replaced: busy is asked, each time, whether
// to try again. Records that were undone before an error stay so. loaded says whether the new
// revisions stand; if not, they are queued.
func Undo(ctx context.Context, store Store, site string, keyID int64, steps []UndoStep, now time.Time, busy func() bool) (undone int, loaded bool, err error) {
	authority, err := store.Authority(ctx, site)
	if err != nil {
		return 0, false, err
	}
	byType := map[amieusage.UsageType][]UndoStep{}
	for _, s := range steps {
		if s.Left == "" {
			byType[s.Identity.UsageType] = append(byType[s.Identity.UsageType], s)
		}
	}
	for _, usageType := range []amieusage.UsageType{amieusage.Compute, amieusage.Storage, amieusage.Adjustment} {
		for chunk := range slices.Chunk(byType[usageType], undoRecords) {
			batch := &Batch{Site: authority.Site, UsageType: usageType, AcceptedAt: now}
			for _, s := range chunk {
				batch.Records = append(batch.Records, s.content)
				batch.Undoes = append(batch.Undoes, UndoneRevision{s.Identity, s.Revision, keyID})
			}
			for {
				err := store.Accept(ctx, batch, 1) // nothing else may be queued
				if err == nil {
					break
				}
				if !errors.Is(err, ErrQueueFull) || !busy() {
					return undone, false, err
				}
			}
			undone += len(chunk)
		}
	}
	for {
		counts, err := store.Counts(ctx, authority.Site)
		if err != nil || counts.Queued == 0 || !busy() {
			return undone, err == nil && counts.Queued == 0, err
		}
	}
}
