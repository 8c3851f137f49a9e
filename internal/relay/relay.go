// Package relay is a service that keeps what a site's own scripts send, and delivers it to another: scripts that speak the
// Usage API go on as they are, with another URL.
package relay

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/usageclient"
)

// Config is what a Service is made of. All of it must be set.
type Config struct {
	Site, Key string // what scripts send with, as they would to the service itself
	Agent     *agent.Agent
	Logger    *slog.Logger
	Clock     func() time.Time
}

// A Service keeps records and delivers them. It serves the Usage API by httpapi.
type Service struct {
	config Config
	queue  outbox.Queue
	client *usageclient.Client
	key    [sha256.Size]byte
	wake   chan struct{}
}

// New returns a Service.
func New(c Config) *Service {
	return &Service{config: c, queue: c.Agent.Queue, client: c.Agent.Client, key: sha256.Sum256([]byte(c.Key)), wake: make(chan struct{}, 1)}
}

// who is who has decided what a script has asked for.
const who = "the relay, for a script"

// firstLocal is the number behind which the failed records stand that are here: those of the other service are below it, and
// every number is one that JavaScript and Python read exactly.
const firstLocal = int64(1) << 52

// Authenticate returns who sends a request: the site, with its own key.
func (s *Service) Authenticate(_ context.Context, siteName, key string) (ledger.Caller, map[string]bool, error) {
	sum := sha256.Sum256([]byte(key))
	if subtle.ConstantTimeCompare(sum[:], s.key[:]) != 1 || siteName != s.config.Site {
		return ledger.Caller{}, nil, &amieusage.Error{
			Code:    amieusage.CodeUnauthorized,
			Message: "the site name or the API key is not that of this relay",
			Hint:    "send the headers " + amieusage.HeaderSite + " and " + amieusage.HeaderAPIKey + " that the service itself takes",
		}
	}
	return ledger.Caller{Site: 1, KeyID: 1, Name: siteName}, nil, nil
}

// Accept judges each record by itself, and returns when the valid ones are on stable storage. What was refused or has failed
// before is tried again, as it would be by the service.
func (s *Service) Accept(ctx context.Context, _ ledger.Caller, _ map[string]bool, message []byte) (*amieusage.SendResponse, error) {
	usageType, raws, err := amieusage.DecodeMessage(message)
	if err != nil {
		return nil, err
	}
	answer := &amieusage.SendResponse{}
	var items []outbox.Item
	for _, raw := range raws {
		record, err := amieusage.CheckRecord(usageType, raw)
		if err != nil {
			answer.FailedRecords = append(answer.FailedRecords, amieusage.FailedRecord{UsageType: usageType, Error: err.Error(), Record: record, Problem: err, Raw: raw})
			continue
		}
		items = append(items, outbox.Item{Record: record, Place: "relayed"})
	}
	if len(items) > 0 {
		outcomes, err := s.queue.Enqueue(ctx, items, nil)
		if err == nil {
			err = s.again(ctx, outcomes)
		}
		if err != nil {
			return nil, err
		}
		s.Wake()
	}
	answer.Message = amieusage.QueuedMessage(len(items), len(answer.FailedRecords))
	return answer, nil
}

// again makes pending what was sent again as it was, and is not known to be loaded: it was refused, has failed, or may have
// failed and been cleared without the relay's knowing. To send it twice is to send it once. What a person has decided stands.
func (s *Service) again(ctx context.Context, outcomes []outbox.Outcome) error {
	var retry outbox.Selection
	for _, o := range outcomes {
		if o.Change != outbox.Unchanged {
			continue
		}
		e, err := s.queue.Get(ctx, o.ID)
		if err != nil {
			return err
		}
		switch e.State {
		case outbox.Rejected, outbox.Failed, outbox.Queued, outbox.Accepted:
			retry.IDs = append(retry.IDs, o.ID)
		case outbox.Dropped:
			notes, err := s.queue.Notes(ctx, e.Record.Common().LocalRecordID)
			if err != nil {
				return err
			}
			if len(notes) == 0 || notes[len(notes)-1].Who != who {
				continue
			}
			write := outbox.Release(e, outbox.Note{Who: who, Comment: "sent again"})
			if _, err := s.queue.Apply(ctx, []outbox.Write{write}, nil); err != nil {
				return err
			}
		}
	}
	if len(retry.IDs) == 0 {
		return nil
	}
	_, err := s.queue.Retry(ctx, retry)
	return err
}

// Wake has what is pending delivered at once.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// upstream is the error of a call that the other service has not answered.
func upstream(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*usageclient.Error](err); ok && e.Status != 0 && e.Status < 500 {
		return &amieusage.Error{Code: e.Code, Message: "the service behind this relay says: " + e.Message, Hint: e.Hint}
	}
	return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "the service behind this relay cannot be reached; what was sent is kept, and will be delivered",
		Hint: "ask again later", Err: err}
}

// Failed returns the other service's failed records, and behind them those that it has refused.
func (s *Service) Failed(ctx context.Context, _ ledger.Caller, q ledger.FailedQuery) ([]amieusage.FailedRecord, int64, error) {
	all, err := s.client.ListFailed(ctx)
	if err != nil {
		return nil, 0, upstream(err)
	}
	rejected, err := s.rejected(ctx)
	if err != nil {
		return nil, 0, err
	}
	limit := q.Limit
	if limit <= 0 {
		limit = amieusage.MaxLoadedPage
	}
	var page []amieusage.FailedRecord
	for _, f := range append(all, rejected...) {
		if f.FailedRecordID <= q.After {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].FailedRecordID, nil
		}
		page = append(page, f)
	}
	return page, 0, nil
}

// rejected returns the records that the other service has refused.
func (s *Service) rejected(ctx context.Context) ([]amieusage.FailedRecord, error) {
	var failed []amieusage.FailedRecord
	for e, err := range outbox.All(ctx, s.queue, outbox.Filter{States: []outbox.State{outbox.Rejected}}) {
		if err != nil {
			return nil, err
		}
		failed = append(failed, amieusage.FailedRecord{FailedRecordID: firstLocal + int64(e.ID), UsageType: e.Record.UsageType(), Error: e.Reason, Record: e.Record})
	}
	return failed, nil
}

// Clear clears failed records: here those that are here, and the others at the other service.
func (s *Service) Clear(ctx context.Context, _ ledger.Caller, ids []int64) error {
	var there []int64
	var writes []outbox.Write
	for _, id := range ids {
		if id <= firstLocal {
			there = append(there, id)
			continue
		}
		e, err := s.queue.Get(ctx, outbox.ID(id-firstLocal))
		if err != nil || e.State != outbox.Rejected {
			return &amieusage.Error{Code: amieusage.CodeNotFound, Message: "there is no failed record " + strconv.FormatInt(id, 10) + "; nothing was cleared"}
		}
		writes = append(writes, outbox.Drop(e, false, outbox.Note{Who: who, Comment: "cleared"}))
	}
	if len(there) > 0 {
		// What is cleared is not listed any more: that it has failed is learnt first.
		failed, err := s.client.ListFailed(ctx)
		if err != nil {
			return upstream(err)
		}
		if _, err := s.queue.Failed(ctx, failed); err != nil {
			return err
		}
		if _, err := s.client.ClearFailedIDs(ctx, there...); err != nil {
			return upstream(err)
		}
	}
	_, err := s.queue.Apply(ctx, writes, nil)
	return err
}

// Status returns the other service's status, and with it what that has refused.
func (s *Service) Status(ctx context.Context, _ ledger.Caller, q amieusage.StatusQuery) (amieusage.Status, error) {
	status, err := s.client.Status(ctx, q)
	if err != nil {
		return nil, upstream(err)
	}
	rejected, err := s.rejected(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range rejected {
		resource := f.Record.Common().Resource
		i := slices.IndexFunc(status, func(r amieusage.ResourceStatus) bool { return r.Resource == resource })
		if i < 0 {
			i = len(status)
			status = append(status, amieusage.ResourceStatus{Resource: resource, TotalCharge: amieusage.ChargeOfMillionths(0)})
		}
		r := &status[i]
		r.FailedJobCount++
		at := slices.IndexFunc(r.Errors, func(e amieusage.FailureGroup) bool { return e.Error == f.Error })
		if at < 0 {
			at = len(r.Errors)
			r.Errors = append(r.Errors, amieusage.FailureGroup{Error: f.Error})
		}
		r.Errors[at].Records = append(r.Errors[at].Records, f)
	}
	return status, nil
}

// Loaded returns a page of what the other service has loaded.
func (s *Service) Loaded(ctx context.Context, _ ledger.Caller, q amieusage.LoadedQuery) (ledger.LoadedPage, error) {
	var page ledger.LoadedPage
	if q.PageSize <= 0 || q.PageSize > amieusage.MaxLoadedPage {
		q.PageSize = amieusage.MaxLoadedPage
	}
	skip := q.Offset
	q.Offset = 0
	for r, err := range s.client.AllLoaded(ctx, q) {
		if err != nil {
			return page, upstream(err)
		}
		if skip > 0 {
			skip--
			continue
		}
		if len(page.Records) == q.PageSize {
			break
		}
		page.Records = append(page.Records, r)
	}
	return page, nil
}

// Summary returns the other service's summary.
func (s *Service) Summary(ctx context.Context, _ ledger.Caller, q amieusage.SummaryQuery) (*amieusage.Summary, error) {
	summary, err := s.client.Summary(ctx, q)
	return summary, upstream(err)
}

const (
	// idle is how often the other service is asked what became of what it has, while nothing is sent.
	idle = time.Minute
	// confirmWait is how long one look waits for it to load.
	confirmWait = 10 * time.Second
)

// Run delivers until ctx ends. A service that cannot be reached is tried again, later each time.
func (s *Service) Run(ctx context.Context) error {
	const first, most = time.Second, 2 * time.Minute
	delay := first
	s.Wake() // what an earlier process has left
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		s.config.Agent.Summary = agent.Summary{}
		err := s.config.Agent.Send(ctx)
		if err == nil {
			err = s.config.Agent.Confirm(ctx, confirmWait)
		}
		next := idle
		if err != nil && ctx.Err() == nil {
			s.config.Logger.Warn("the service was not reached: all is kept", "error", err, "again_in", delay.String())
			next, delay = delay, min(2*delay, most)
		} else {
			delay = first
		}
		if sum := &s.config.Agent.Summary; err == nil && sum.Sent+sum.Loaded+sum.Failed+sum.Rejected > 0 {
			s.config.Logger.Info("delivered", "sent", sum.Sent, "loaded", sum.Loaded, "failed", sum.Failed, "rejected", sum.Rejected)
		}
		timer.Reset(next)
	}
}
