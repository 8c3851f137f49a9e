package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/amieusage/amieusage"
)

const (
	// loadRecords is about how many records one transaction loads: few enough
	// that a send never waits long for the writer.
	loadRecords = 4_000
	// idlePoll is how often Run looks for batches that another program, or
	// another replica, has accepted.
	idlePoll = 2 * time.Second
)

// Run loads what is queued, and goes on until ctx ends; it returns nil then. A
// failure of the store is logged and tried again, ever less often.
func (s *Service) Run(ctx context.Context) error {
	retry := backoff.NewExponentialBackOff()
	retry.MaxInterval = 30 * time.Second
	for ctx.Err() == nil {
		report, err := s.LoadSome(ctx)
		wait := idlePoll
		switch {
		case errors.Is(err, context.Canceled):
			return nil
		case err != nil:
			wait = retry.NextBackOff()
			s.log.Error("loading failed; the records stay queued", "error", err, "retry_in", wait)
		case report.Batches > 0:
			retry.Reset()
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.wake:
		}
		timer.Stop()
	}
	return nil
}

// LoadSome loads a few of the oldest queued batches in one transaction. A zero
// report means that nothing is queued.
func (s *Service) LoadSome(ctx context.Context) (LoadReport, error) {
	start := s.clock()
	report, err := s.store.Load(ctx, start, loadRecords, s.judge)
	if err == nil && report.Batches > 0 {
		s.log.Debug("loaded", "batches", report.Batches, "records", report.Loaded,
			"unchanged", report.Unchanged, "failed", report.Failed, "took", s.clock().Sub(start))
	}
	return report, err
}

// judge decides about each record of a batch by the service's policy.
func (s *Service) judge(registry *Registry, batch *Batch) ([]Verdict, error) {
	verdicts := make([]Verdict, len(batch.Records))
	for i, raw := range batch.Records {
		record, err := amieusage.CheckRecord(batch.UsageType, raw)
		if err != nil {
			return nil, fmt.Errorf("record %d of batch %d, which was valid when it was accepted: %w", i, batch.ID, err)
		}
		charge, err := record.Common().Charge.Millionths()
		if err != nil {
			return nil, fmt.Errorf("charge of record %d of batch %d: %w", i, batch.ID, err)
		}
		v := Verdict{Record: record, Digest: amieusage.ContentDigest(record), Charge: charge}
		if a, ok := record.(*amieusage.AdjustmentRecord); ok {
			v.GivesBack = a.AdjustmentType.GivesBack()
		}
		if s.policy == Strict {
			v.Failure = registry.Check(record)
		}
		verdicts[i] = v
	}
	return verdicts, nil
}
