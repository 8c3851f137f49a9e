package agent

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/decimal"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

// A Period is [Since, Until). A job belongs to the period in which it has ended,
// and any other record to that of its usage.
type Period struct{ Since, Until time.Time }

func (p Period) holds(t time.Time) bool { return !t.Before(p.Since) && t.Before(p.Until) }

// reconcileChunk is how many sides are added in one transaction.
const reconcileChunk = 2000

// Reconcile compares what the accounting, the outbox and the service have of a
// period. It changes nothing but the comparison, which may be empty only, and
// holds as much in memory for any period. Rows of the accounting that cannot be
// used are counted as bad.
//
// The service lists no time of usage: a record that only it has belongs to the
// period in which its job was submitted. A service that lists no loaded records
// at all is left out, which the answer says.
func (a *Agent) Reconcile(ctx context.Context, period Period, sources []scheduler.Source, into outbox.Comparison) (*outbox.Reconciling, error) {
	r := &reconciling{Agent: a, period: period, into: into}
	r.Reports = func(resource string) bool {
		return slices.ContainsFunc(a.Rules.Resources, func(s siterules.Resource) bool { return s.Name == resource })
	}
	// The outbox before the service: what it says to be loaded was loaded before.
	for _, source := range sources {
		if err := r.addAll(ctx, "reading the accounting", r.accounting(ctx, source)); err != nil {
			return nil, err
		}
	}
	if err := r.addAll(ctx, "reading the outbox", r.outbox(ctx)); err != nil {
		return nil, err
	}
	if err := r.service(ctx); err != nil {
		return nil, err
	}
	return &r.Reconciling, nil
}

// A reconciling is one run of Reconcile.
type reconciling struct {
	*Agent
	outbox.Reconciling
	period Period
	into   outbox.Comparison
}

// addAll adds sides, chunk by chunk.
func (r *reconciling) addAll(ctx context.Context, stage string, sides iter.Seq2[outbox.Side, error]) error {
	chunk := make([]outbox.Side, 0, reconcileChunk)
	for s, err := range sides {
		if err != nil {
			return err
		}
		if chunk = append(chunk, s); len(chunk) == reconcileChunk {
			if err := r.into.Add(ctx, chunk); err != nil {
				return err
			}
			chunk = chunk[:0]
			r.progress(stage)
		}
	}
	return r.into.Add(ctx, chunk)
}

// accounting gives the records of all jobs that are to be reported. Those that
// ended outside the period are known, and not compared.
func (r *reconciling) accounting(ctx context.Context, source scheduler.Source) iter.Seq2[outbox.Side, error] {
	return func(yield func(outbox.Side, error) bool) {
		c := r.Agent.collecting(func(outbox.Item) {})
		for job, err := range source.Jobs(ctx) {
			if err == nil {
				err = c.assess(ctx, job)
			}
			if row, ok := errors.AsType[*scheduler.RowError](err); ok {
				r.bad(Problem{Place: row.Place.String(), Reason: row.Error()})
				err = nil
			}
			if err != nil {
				yield(outbox.Side{}, err)
				return
			}
			if len(c.chunk) == enqueueItems && !r.expected(ctx, c, yield) {
				return
			}
		}
		if !r.expected(ctx, c, yield) {
			return
		}
		if err := ctx.Err(); err != nil {
			yield(outbox.Side{}, err)
		}
	}
}

// expected yields what the outbox would have of the jobs of a chunk after they
// were read again: at the rates that have charged them, and as people have
// decided.
func (r *reconciling) expected(ctx context.Context, c *collecting, yield func(outbox.Side, error) bool) bool {
	known, err := r.Queue.Known(ctx, names(c.chunk))
	if err != nil {
		return yield(outbox.Side{}, err)
	}
	for i := range c.chunk {
		plan := c.decider.Decide(known[i], c.chunk[i])
		record := plan.Sent
		if record == nil && plan.Known != nil {
			record = plan.Known.Record
		}
		if today := &c.chunk[i].Today; plan.Effect == outbox.EffectShifted || plan.Effect == outbox.EffectRenamed || plan.Effect == outbox.EffectCluster {
			record = siterules.Record(c.chunk[i].Job, &today.Made)
		}
		if record == nil || plan.Effect == outbox.EffectNone {
			continue
		}
		s, err := sideOf(outbox.FromAccounting, record)
		s.Place, s.Always, s.InPeriod = c.chunk[i].Job.Place.String(), true, r.period.holds(record.UsageTime())
		if !yield(s, err) {
			return false
		}
	}
	c.chunk, c.ids = c.chunk[:0], c.ids[:0]
	return true
}

// sideOf returns what any source says about a record.
func sideOf(source outbox.Source, record amieusage.Record) (outbox.Side, error) {
	s := outbox.Side{Identity: record.Identity(), Source: source, Digest: amieusage.ContentDigest(record)}
	if adjustment, ok := record.(*amieusage.AdjustmentRecord); ok {
		s.GivesBack = adjustment.AdjustmentType.GivesBack()
	}
	var err error
	s.Charge, err = record.Common().Charge.Millionths()
	return s, err
}

// outbox gives the entries of the period, and those of records that another
// source may give.
func (r *reconciling) outbox(ctx context.Context) iter.Seq2[outbox.Side, error] {
	return func(yield func(outbox.Side, error) bool) {
		for e, err := range outbox.All(ctx, r.Queue, outbox.Filter{}) {
			var s outbox.Side
			if err == nil {
				s, err = sideOf(outbox.FromOutbox, e.Record)
				s.InPeriod = r.period.holds(e.Record.UsageTime())
				s.Always = s.InPeriod || r.period.holds(s.Identity.KeyTime)
				s.State, s.Entry, s.Reason, s.Place, s.Superseded = e.State, e.ID, e.Reason, e.Place, e.Superseded
			}
			if !yield(s, err) {
				return
			}
		}
	}
}

// service adds what the service says.
func (r *reconciling) service(ctx context.Context) error {
	since := r.period.Since.Add(-clockSkew)
	err := r.addAll(ctx, "reading the service", r.loaded(ctx, amieusage.LoadedQuery{MinLoadedTime: since}))
	if isMissing(err) {
		r.Log.Warn("the service does not list loaded records: only accounting, outbox and failed records are compared")
	} else if err != nil {
		return err
	} else {
		r.Listed = true
		if err := r.search(ctx); err != nil {
			return err
		}
	}
	return r.addAll(ctx, "reading the service", r.failed(ctx))
}

// search looks for what is not found among all that was ever loaded, as clocks
// may be apart: one by one where they are few.
func (r *reconciling) search(ctx context.Context) error {
	ids, err := r.into.Unloaded(ctx, singleLookups+1)
	if err != nil || len(ids) == 0 {
		return err
	}
	if len(ids) > singleLookups {
		return r.addAll(ctx, "searching the service", r.loaded(ctx, amieusage.LoadedQuery{}))
	}
	for _, id := range ids {
		if err := r.addAll(ctx, "searching the service", r.loaded(ctx, amieusage.LoadedQuery{LocalRecordID: id.LocalRecordID})); err != nil {
			return err
		}
	}
	return nil
}

func (r *reconciling) loaded(ctx context.Context, q amieusage.LoadedQuery) iter.Seq2[outbox.Side, error] {
	return func(yield func(outbox.Side, error) bool) {
		var shown decimals
		for record, err := range r.Client.AllLoaded(ctx, q) {
			shown.see(record.Charge)
			r.Within = shown.within(r.Client)
			s := outbox.Side{Identity: record.Identity(), Source: outbox.FromLoaded}
			if err == nil {
				s.InPeriod = s.Identity.UsageType == amieusage.Compute && r.period.holds(record.SubmitTime)
				s.Always = s.InPeriod && r.Reports(s.Identity.Resource)
				s.Charge, err = record.Charge.Millionths()
			}
			if !yield(s, err) {
				return
			}
		}
	}
}

func (r *reconciling) failed(ctx context.Context) iter.Seq2[outbox.Side, error] {
	return func(yield func(outbox.Side, error) bool) {
		for f, err := range r.Client.AllFailed(ctx) {
			if err == nil && f.Record == nil {
				continue // it is nobody's
			}
			s := outbox.Side{Source: outbox.FromFailed}
			if err == nil {
				// Its charge is in no ledger, and may be none at all.
				s, _ = sideOf(outbox.FromFailed, f.Record)
				s.InPeriod = r.period.holds(f.Record.UsageTime())
				s.Always = s.InPeriod && r.Reports(s.Identity.Resource)
				s.Reason, s.Number = f.Error, f.FailedRecordID
			}
			if !yield(s, err) {
				return
			}
		}
	}
}

// A Reconciled sums up a comparison.
type Reconciled struct {
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
	Listed  bool      `json:"service_listed"` // the service lists what it has loaded
	Bad     int64     `json:"bad"`            // rows of the accounting that could not be used
	Records int64     `json:"records"`        // of the period, in any source
	Lacking int64     `json:"lacking"`        // jobs of the outbox that the accounting does not have
	// Incomplete says that they are so many that the accounting cannot be all
	// there is.
	Incomplete bool                            `json:"incomplete,omitempty"`
	Kinds      map[outbox.DifferenceKind]int64 `json:"differences"`
	Resources  map[string]*ReconciledResource  `json:"resources"`
}

// A ReconciledResource is what each source has of the period on a resource.
type ReconciledResource struct {
	Accounting Total `json:"accounting"`
	Outbox     Total `json:"outbox"`
	Service    Total `json:"service"` // loaded
}

// A Total is a number of records and the sum of their charges, less what is
// given back.
type Total struct {
	Records int64            `json:"records"`
	Charge  amieusage.Charge `json:"charge"`
}

func (t *Total) add(s *outbox.Side, givesBack bool) {
	if s == nil {
		return
	}
	sum, charge := decimal.Of(t.Charge), apd.New(s.Charge, -6)
	if givesBack {
		charge.Neg(charge)
	}
	// Charges of valid records are far within the precision.
	_, _ = sums.Add(sum, sum, charge)
	sum.Reduce(sum)
	*t = Total{t.Records + 1, decimal.Charge(sum)}
}

// Differences sums up a comparison into sum, and yields the records in which
// the sources differ.
func Differences(ctx context.Context, r *outbox.Reconciling, from outbox.Comparison, sum *Reconciled) iter.Seq2[ReconciledRecord, error] {
	sum.Listed = r.Listed
	sum.Kinds = map[outbox.DifferenceKind]int64{}
	sum.Resources = map[string]*ReconciledResource{}
	return func(yield func(ReconciledRecord, error) bool) {
		var has int64
		for c, err := range from.All(ctx) {
			if err != nil {
				yield(ReconciledRecord{}, err)
				return
			}
			lacksJob, hasJob := r.LacksJob(&c)
			if lacksJob {
				sum.Lacking++
			} else if hasJob {
				has++
			}
		}
		r.Incomplete = sum.Lacking > 0 && sum.Lacking*incompleteOf >= sum.Lacking+has
		sum.Incomplete = r.Incomplete
		for c, err := range from.All(ctx) {
			if err != nil {
				yield(ReconciledRecord{}, err)
				return
			}
			if !c.InPeriod() {
				continue
			}
			d := r.Difference(&c)
			sum.Records++
			resource := sum.Resources[c.Identity.Resource]
			if resource == nil {
				zero := Total{Charge: amieusage.ChargeOfMillionths(0)}
				resource = &ReconciledResource{zero, zero, zero}
				sum.Resources[c.Identity.Resource] = resource
			}
			givesBack := c.Outbox != nil && c.Outbox.GivesBack
			resource.Accounting.add(c.Accounting, false)
			resource.Outbox.add(c.Outbox, givesBack)
			resource.Service.add(c.Loaded, givesBack)
			if d == nil {
				continue
			}
			sum.Kinds[d.Kind]++
			if !yield(ReconciledRecord{&c, d}, nil) {
				return
			}
		}
	}
}

// incompleteOf is of how many jobs of a period one may be lacking: with more,
// the accounting looks incomplete.
const incompleteOf = 5

// A ReconciledRecord is a record in which the sources differ.
type ReconciledRecord struct {
	*outbox.Compared
	*outbox.Difference
}
