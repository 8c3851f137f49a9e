package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/storage"
)

// A StorageRun is what is collected of a file system, and how.
type StorageRun struct {
	FileSystem *storage.FileSystem
	Every      time.Duration
	Zone       *time.Location
	Carry      bool
	Plausible  int64
	// Accept takes a reading that cannot be believed, after a person has looked.
	Accept bool
}

// maxCarried bounds how many missed ticks are made up for.
const maxCarried = 400

// errSuspect says that a reading cannot be believed.
var errSuspect = errors.New("nothing was changed; look at it, and take it with --accept where it is right")

// CollectStorage stores the records of a reading: those of the tick overwrite what was read for it before, and missed ticks
// are made up for where the run says so. The reading is stored first, and marked when its records are: a run that ends between
// is gone on with by the next. A reading that cannot be believed stores nothing.
func (a *Agent) CollectStorage(ctx context.Context, run StorageRun, assigned *storage.Assignment, preview func(outbox.Item)) error {
	fs := run.FileSystem
	reading := assigned.Reading
	reading.FileSystem, reading.Tick = fs.Name, storage.TickOf(reading.At, run.Every, run.Zone)
	known, err := a.Queue.Readings(ctx, fs.Name, reading.Tick)
	if err != nil {
		return err
	}
	if preview == nil {
		if err := a.goOnWithStorage(ctx, run, known); err != nil {
			return err
		}
	}
	var last, same *storage.Reading
	for i := range known {
		switch {
		case known[i].Tick.Equal(reading.Tick):
			same = &known[i].Reading
		case last == nil:
			last = &known[i].Reading
		}
	}
	if same != nil && reading.At.Before(same.At) {
		return fmt.Errorf("%s: it was read at %s, and is known as of %s: nothing was changed", fs.Name, reading.At.Format(time.RFC3339), same.At.Format(time.RFC3339))
	}
	believed := last
	if same != nil {
		believed = same
	}
	if why := reading.Suspect(believed, run.Plausible); why != "" && !run.Accept {
		return fmt.Errorf("%s: %s: %w", fs.Name, why, errSuspect)
	}
	if same != nil {
		reading.Overwrite(same)
	}
	if last != nil && run.Carry {
		for _, tick := range storage.Missed(last.Tick, reading.Tick, run.Every, run.Zone, maxCarried) {
			carried := *last
			carried.Tick, carried.Carried, carried.Uses = tick, true, slices.Clone(last.Uses)
			if err := a.storeReading(ctx, run, &carried, last, preview); err != nil {
				return err
			}
		}
	}
	return a.storeReading(ctx, run, &reading, last, preview)
}

// goOnWithStorage stores the records of readings that an earlier run has stored, but not all of their records.
func (a *Agent) goOnWithStorage(ctx context.Context, run StorageRun, known []outbox.StoredReading) error {
	for i := len(known) - 1; i >= 0; i-- {
		if known[i].Done {
			continue
		}
		var last *storage.Reading
		for j := range known {
			if known[j].Tick.Before(known[i].Tick) {
				last = &known[j].Reading
				break
			}
		}
		if err := a.storeRecords(ctx, run, &known[i].Reading, last, nil); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) storeReading(ctx context.Context, run StorageRun, r, last *storage.Reading, preview func(outbox.Item)) error {
	if preview == nil {
		if err := a.Queue.SetReading(ctx, r); err != nil {
			return err
		}
	}
	return a.storeRecords(ctx, run, r, last, preview)
}

// storeRecords stores a reading's records. What a person has decided about one stands.
func (a *Agent) storeRecords(ctx context.Context, run StorageRun, r, last *storage.Reading, preview func(outbox.Item)) error {
	records, err := run.FileSystem.Records(r, last, run.Every)
	if err != nil {
		return err
	}
	items := func(yield func(outbox.Item, error) bool) {
		for _, c := range records {
			decided, err := a.isDecided(ctx, c.Record)
			if err == nil && decided {
				a.Count(func(s *Summary) { s.Unchanged++; s.Decided++ })
				continue
			}
			if !yield(outbox.Item{Record: c.Record, Place: c.How}, err) {
				return
			}
		}
	}
	a.Count(func(s *Summary) { s.Read += int64(len(records)) })
	if err := a.Enqueue(ctx, items, preview); err != nil || preview != nil {
		return err
	}
	return a.Queue.ReadingDone(ctx, r)
}

// isDecided reports whether a person has decided about a record.
func (a *Agent) isDecided(ctx context.Context, record amieusage.Record) (bool, error) {
	id := record.Identity()
	entries, err := a.Queue.List(ctx, outbox.Filter{LocalRecordID: id.LocalRecordID})
	if err != nil {
		return false, err
	}
	for i := range entries {
		if of := entries[i].Record.Identity(); of.Resource == id.Resource && of.KeyTime.Equal(id.KeyTime) && entries[i].Decision.Binds() {
			return true, nil
		}
	}
	return false, nil
}
