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
	// Reprice charges a reading that was charged before by today's site.yaml.
	Reprice bool
	// Accept takes a reading that cannot be believed, after a person has looked.
	Accept bool
}

// maxCarried bounds how many missed ticks are made up for.
const maxCarried = 400

// errSuspect says that a reading cannot be believed.
var errSuspect = errors.New("nothing was changed; look at it, and take it with --accept where it is right")

// CollectStorage stores the records of a reading: those of the tick overwrite what was read for it before, and missed ticks
// are made up for where the run says so. Rules do not reach back: a tick keeps the rate that charged it, and the same report
// read again changes nothing, unless the run reprices. The reading is stored first, and marked when its records are: a run that ends between
// is gone on with by the next. A reading that cannot be believed stores nothing.
func (a *Agent) CollectStorage(ctx context.Context, run StorageRun, assigned *storage.Assignment, preview func(outbox.Item)) error {
	fs := run.FileSystem
	reading := assigned.Reading
	reading.FileSystem, reading.Tick = fs.Name, storage.TickOf(reading.At, run.Every, run.Zone)
	if reading.At.After(a.Clock().Add(dayAhead)) {
		return fmt.Errorf("%s: the report was made at %s, which has not come yet: nothing was changed", fs.Name, reading.At.Format(time.RFC3339))
	}
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
	reading.Rate = fs.RateAt(reading.Tick) // nil is told where it is charged
	if same != nil {
		reading.Overwrite(same)
		again := reading.At.Equal(same.At) && !run.Reprice
		if again && !reading.SameAs(same) {
			return fmt.Errorf("%s: this report was read before, and today's site.yaml makes other records of it: nothing was changed; to send them: --reprice", fs.Name)
		}
		if !run.Reprice {
			reading.Rate = same.Rate
		}
	}
	if err := a.checkIntegral(ctx, &reading); err != nil {
		return err
	}
	if last != nil && run.Carry {
		for _, tick := range storage.Missed(last.Tick, reading.Tick, run.Every, run.Zone, maxCarried) {
			carried := *last
			carried.Tick, carried.Carried, carried.Uses, carried.Rate = tick, true, slices.Clone(last.Uses), fs.RateAt(tick)
			if carried.Rate != nil && carried.Rate.Integral {
				break // the next reading counts all the time since the last one
			}
			if err := a.storeReading(ctx, run, &carried, last, preview); err != nil {
				return err
			}
		}
	}
	return a.storeReading(ctx, run, &reading, last, preview)
}

// dayAhead is how much later than now a report may have been made: clocks are apart, but not by more.
const dayAhead = 24 * time.Hour

// checkIntegral refuses a reading between others that are charged by the time between them: that time was charged already.
func (a *Agent) checkIntegral(ctx context.Context, r *storage.Reading) error {
	if r.Rate == nil || !r.Rate.Integral {
		return nil
	}
	newest, err := a.Queue.Readings(ctx, r.FileSystem, a.Clock().Add(2*dayAhead))
	if err == nil && len(newest) > 0 && newest[0].Tick.After(r.Tick) {
		err = fmt.Errorf("%s: it was read at %s, and what was read at %s has charged the time until then: nothing was changed",
			r.FileSystem, r.At.Format(time.RFC3339), newest[0].At.Format(time.RFC3339))
	}
	return err
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
