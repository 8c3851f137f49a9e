package ledger

import (
	"cmp"
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/amieusage/amieusage"
)

const (
	// loadRecords is about how many records one transaction loads: many, so that
	// its commit and its sums weigh little, and few enough that a send never
	// waits long for the writer.
	loadRecords = 8_000
	// busyPoll is how soon Run tries again to load what another replica is
	// loading.
	busyPoll = 100 * time.Millisecond
	// maxRetry is the longest that Run waits after a failure: a database that
	// comes back is noticed soon.
	maxRetry = 5 * time.Second
)

// Run loads what is queued, and goes on until ctx ends; it returns nil then. A
// failure of the store is logged and tried again, ever less often.
func (s *Service) Run(ctx context.Context) error {
	retry := backoff.NewExponentialBackOff()
	retry.MaxInterval = maxRetry
	for ctx.Err() == nil {
		report, err := s.LoadSome(ctx)
		wait, wake := s.idlePoll, s.wake
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			wait, wake = retry.NextBackOff(), nil
			s.log.Error("loading failed; the records stay queued", "error", err, "retry_in", wait)
		default:
			retry.Reset()
			if report.Batches > 0 {
				continue
			}
			if report.Busy {
				// Every send would wake it, to find the same.
				wait, wake = busyPoll, nil
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-wake:
		}
		timer.Stop()
	}
	return nil
}

// LoadSome loads a few of the oldest queued batches in one transaction. A zero
// report means that nothing is queued.
func (s *Service) LoadSome(ctx context.Context) (LoadReport, error) {
	start := s.clock()
	policy, err := s.store.Policy(ctx) // it may have been changed
	if err != nil {
		return LoadReport{}, err
	}
	report, err := s.store.Load(ctx, start, loadRecords, judge{cmp.Or(policy, s.policy)})
	for _, id := range report.Damaged {
		s.log.Error("a batch is damaged and stays queued, set aside; restore the ledger from a backup", "batch", id)
	}
	if err == nil {
		s.stats.new.Add(int64(report.Loaded - report.Unchanged - report.Corrected))
		s.stats.corrected.Add(int64(report.Corrected))
		s.stats.unchanged.Add(int64(report.Unchanged))
		s.stats.failed.Add(int64(report.Failed))
	}
	if err == nil && report.Batches > 0 {
		s.log.Debug("loaded", "batches", report.Batches, "records", report.Loaded,
			"unchanged", report.Unchanged, "failed", report.Failed, "took", s.clock().Sub(start))
	}
	return report, err
}

// judge decides by the service's policy.
type judge struct{ policy Policy }

// Read reads the records of a batch. They were valid when they were accepted;
// should one not be so any more, it fails and holds up no other.
func (judge) Read(batch *Batch) []Verdict {
	verdicts := make([]Verdict, len(batch.Records))
	for i, raw := range batch.Records {
		v := &verdicts[i]
		record, err := amieusage.CheckRecord(batch.UsageType, raw)
		v.Record = record
		if err != nil {
			v.Failure = Unreadable
			continue
		}
		if v.Charge, err = record.Common().Charge.Millionths(); err != nil {
			v.Failure = Unreadable
			continue
		}
		v.Digest = amieusage.ContentDigest(record)
		if a, ok := record.(*amieusage.AdjustmentRecord); ok {
			v.GivesBack = a.AdjustmentType.GivesBack()
		}
	}
	return verdicts
}

// Check holds the record against the registry where the policy is strict.
func (j judge) Check(registry *Registry, record amieusage.Record) Failure {
	if j.policy == Open {
		return ""
	}
	return registry.Check(record)
}
