package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/postgres"
	"github.com/amieusage/amieusage/usageclient"
)

// A gate passes requests on, and keeps account of how they end.
type gate struct {
	unavailable, refused, cut atomic.Int64
	wrong                     atomic.Pointer[string] // the last answer that should not be
}

func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(r)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		g.refused.Add(1)
	case err != nil:
		g.cut.Add(1)
	case response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") != "":
		g.unavailable.Add(1)
	case response.StatusCode != http.StatusOK:
		wrong := fmt.Sprintf("%s %s: answer %s, Retry-After %q", r.Method, r.URL, response.Status, response.Header.Get("Retry-After"))
		g.wrong.Store(&wrong)
	}
	return response, err
}

// A fleetClient sends records of its own, each message when the one before is
// accepted, and remembers what it was told.
type fleetClient struct {
	fleet             *fleet
	site, key, prefix string
	random            *rand.Rand
	made              int // records, not counting corrections
	sends             atomic.Int64
	accepted          int // records, with those that will fail
	unknown           int // records that were sent in vain, or perhaps not
	faults            []string
	// loaded are the charges in millionths of what was last accepted and will
	// be loaded, failed of what was accepted after that and will fail.
	loaded, failed map[amieusage.Identity]int64
}

// client is a client for one replica, which tries everything once.
func (c *fleetClient) client(i int, options ...usageclient.Option) (*usageclient.Client, error) {
	return usageclient.New(c.site, c.key, append(options, usageclient.WithBaseURL(c.fleet.url(i)), usageclient.WithTimeout(patience))...)
}

func (c *fleetClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.send(c.records())
		c.sends.Add(1)
	}
}

// send sends records to replicas until all are accepted.
func (c *fleetClient) send(records []amieusage.Record) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		client, err := c.client(c.random.IntN(len(c.fleet.replicas)), usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 1}),
			usageclient.WithHTTPClient(&http.Client{Transport: c.fleet.gate}))
		if err != nil {
			c.fault(err.Error())
			return
		}
		result, err := client.Send(ctx, records...)
		records = nil
		for _, o := range result.Outcomes {
			switch o.State {
			case usageclient.Accepted:
				c.note(o.Record)
			case usageclient.Unsent:
				records = append(records, o.Record)
			default:
				c.fault("refused: " + o.Err.Error())
			}
		}
		if err == nil {
			return
		}
		c.unknown += len(records)
		if !errors.Is(err, usageclient.ErrUnavailable) || ctx.Err() != nil {
			c.fault(err.Error())
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

// fault keeps the first few things that should not have happened.
func (c *fleetClient) fault(text string) {
	if len(c.faults) < 5 {
		c.faults = append(c.faults, text)
	}
}

// note remembers that a record was accepted.
func (c *fleetClient) note(r amieusage.Record) {
	charge, err := r.Common().Charge.Millionths()
	if err != nil {
		c.fault(err.Error())
	}
	c.accepted++
	if r.Common().LocalProjectID == "p.none" {
		c.failed[r.Identity()] = charge
		return
	}
	c.loaded[r.Identity()] = charge
	delete(c.failed, r.Identity())
}

// records makes new records, and corrections of earlier ones.
func (c *fleetClient) records() []amieusage.Record {
	var records []amieusage.Record
	corrected := map[int]bool{}
	for range c.random.IntN(20) {
		if n := c.random.IntN(c.made + 1); n < c.made && !corrected[n] {
			corrected[n] = true
			records = append(records, c.record(n))
		}
	}
	for range 1 + c.random.IntN(40) {
		records = append(records, c.record(c.made))
		c.made++
	}
	return records
}

// record makes a content of the nth record.
func (c *fleetClient) record(n int) amieusage.Record {
	at := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * 100 * time.Second)
	id, charge := fmt.Sprint(c.prefix, n), amieusage.ChargeOfMillionths(c.random.Int64N(5_000_000))
	user, project := []string{"alice", "bob"}[c.random.IntN(2)], []string{"p.one", "p.two"}[c.random.IntN(2)]
	if c.random.IntN(10) == 0 {
		project = "p.none"
	}
	switch n % 10 {
	case 0:
		return &amieusage.AdjustmentRecord{AdjustmentType: amieusage.Refund, Username: user, LocalProjectID: project, LocalRecordID: id,
			Resource: "rm", StartTime: at, Charge: charge}
	case 1, 2:
		return &amieusage.StorageRecord{Username: user, LocalProjectID: project, LocalRecordID: id, Resource: "ocean", CollectionTime: at,
			Charge: charge}
	}
	return &amieusage.ComputeRecord{Username: user, LocalProjectID: project, LocalRecordID: id, Resource: "rm", SubmitTime: at, StartTime: at,
		EndTime: at.Add(time.Hour), Charge: charge, NodeCount: amieusage.CountOf(1)}
}

// checkCounts waits until all is loaded, and checks how much that is. What was
// sent again may have been accepted twice.
func (c *fleetClient) checkCounts(t *testing.T, store *postgres.Ledger) {
	t.Helper()
	authority, err := store.Authority(t.Context(), c.site)
	if err != nil {
		t.Fatal(err)
	}
	deadline, tick := time.After(patience), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		counts, err := store.Counts(t.Context(), authority.Site)
		if err != nil {
			t.Fatal(err)
		}
		if least, most := int64(c.accepted), int64(c.accepted+c.unknown); counts.Accepted < least || counts.Accepted > most ||
			counts.Accepted != counts.Loaded+counts.Failed+counts.Queued {
			t.Fatalf("%s: %+v, want from %d to %d accepted, and that it adds up", c.site, counts, least, most)
		}
		if counts.Queued == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: still %d records queued", c.site, counts.Queued)
		}
	}
}

// checkLedger holds each answer about the site against what was told.
func (c *fleetClient) checkLedger(t *testing.T) {
	t.Helper()
	client, err := c.client(c.random.IntN(len(c.fleet.replicas)))
	if err != nil {
		t.Fatal(err)
	}
	loaded, failed := map[amieusage.Identity]int64{}, map[amieusage.Identity]int64{}
	for r, err := range client.Loaded(t.Context(), amieusage.LoadedQuery{Limit: amieusage.MaxLoadedPage}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := loaded[r.Identity()]; twice {
			t.Errorf("%s: the ledger holds %+v twice", c.site, r.Identity())
		}
		loaded[r.Identity()] = millionths(t, r.Charge)
	}
	c.compare(t, "loaded", c.loaded, loaded)
	open, err := client.FailedRecords(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range open {
		if _, twice := failed[r.Record.Identity()]; twice {
			t.Errorf("%s: %+v has failed twice", c.site, r.Record.Identity())
		}
		failed[r.Record.Identity()] = millionths(t, r.Record.Common().Charge)
	}
	c.compare(t, "failed", c.failed, failed)

	type sum struct{ Loaded, Failed, Charge int64 }
	want, status, summary := map[string]sum{}, map[string]sum{}, map[string]sum{}
	for id, charge := range c.loaded {
		s := want[id.Resource]
		s.Loaded++
		if id.UsageType == amieusage.Adjustment {
			charge = -charge // all are refunds
		}
		s.Charge += charge
		want[id.Resource] = s
	}
	for id := range c.failed {
		s := want[id.Resource]
		s.Failed++
		want[id.Resource] = s
	}
	answer, err := client.Status(t.Context(), amieusage.StatusQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range answer {
		status[r.Resource] = sum{r.LoadedRecordCount, r.FailedJobCount, millionths(t, r.TotalCharge)}
	}
	if diff := cmp.Diff(want, status); diff != "" {
		t.Errorf("%s: the status by resource (-want +got):\n%s", c.site, diff)
	}
	rows, err := client.Summary(t.Context(), amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByResource}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows.Rows {
		summary[r.Resource] = sum{r.RecordCount, want[r.Resource].Failed, millionths(t, r.Charge)}
	}
	if diff := cmp.Diff(want, summary); diff != "" {
		t.Errorf("%s: the summary by resource (-want +got):\n%s", c.site, diff)
	}
}

// compare compares charges by identity.
func (c *fleetClient) compare(t *testing.T, what string, want, got map[amieusage.Identity]int64) {
	t.Helper()
	var wrong []string
	for id, charge := range want {
		if is, ok := got[id]; !ok || is != charge {
			wrong = append(wrong, fmt.Sprintf("%+v: %d millionths, want %d", id, is, charge))
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			wrong = append(wrong, fmt.Sprintf("%+v should not be there", id))
		}
	}
	t.Logf("%s: %d records %s", c.site, len(got), what)
	if len(wrong) > 0 {
		t.Errorf("%s: %d records %s are wrong:\n%s", c.site, len(wrong), what, strings.Join(wrong[:min(10, len(wrong))], "\n"))
	}
}
