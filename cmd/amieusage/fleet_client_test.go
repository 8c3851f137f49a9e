package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/usageclient"
)

// A gate passes requests on, and keeps account of how they end.
type gate struct {
	unavailable, refused, cut atomic.Int64
	wrong                     atomic.Pointer[string] // the last answer that should not be
	// answered, where it is set, is called with each answer to a send.
	answered atomic.Pointer[func(host string)]
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
	case r.Method == http.MethodPost:
		if f := g.answered.Load(); f != nil {
			(*f)(r.URL.Host)
		}
	}
	return response, err
}

// A content is what a record was last.
type content struct {
	charge  int64 // millionths
	project string
	record  amieusage.Record // nil: another one has it
}

func contentOf(r amieusage.Record) (content, error) {
	charge, err := r.Common().Charge.Millionths()
	return content{charge, r.Common().LocalProjectID, r}, err
}

// A fleetClient sends records of its own, each message when the one before is
// accepted, and remembers what it was told.
type fleetClient struct {
	fleet             *fleet
	site, key, prefix string
	registry          string     // the file of the site's registry
	random            *rand.Rand // of what is sent
	routes            *rand.Rand // of where to
	made              int        // records, not counting corrections
	sends             atomic.Int64
	accepted          int // records, with those that will fail
	unknown           int // records that were sent in vain, or perhaps not
	cleared           int // failed records
	faults            []string
	// loaded is what was last accepted and will be loaded, failed what was
	// accepted after that and will fail. What was sent more than once may fail
	// more than once: it is doubtful.
	loaded, failed map[amieusage.Identity]content
	doubtful       map[amieusage.Identity]bool
}

// client is a client for one replica, which tries everything once.
func (c *fleetClient) client() (*usageclient.Client, error) {
	return usageclient.New(c.site, c.key, usageclient.WithBaseURL(c.fleet.replicas[c.routes.IntN(len(c.fleet.replicas))].url),
		usageclient.WithTimeout(c.fleet.timeout), usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 1}),
		usageclient.WithHTTPClient(&http.Client{Transport: c.fleet.gate}))
}

func (c *fleetClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.send(c.records())
		c.sends.Add(1)
		if c.random.IntN(8) == 0 {
			c.clear()
		}
	}
}

// insist does something with replicas until one has answered, or patience is
// over.
func (c *fleetClient) insist(do func(ctx context.Context, client *usageclient.Client) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		client, err := c.client()
		if err == nil {
			err = do(ctx, client)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, usageclient.ErrUnavailable) || ctx.Err() != nil {
			c.fault(err.Error())
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

// send sends records to replicas until all are accepted, or refused.
func (c *fleetClient) send(records []amieusage.Record) {
	c.insist(func(ctx context.Context, client *usageclient.Client) error {
		result, err := client.Send(ctx, records...)
		records = nil
		for _, o := range result.Outcomes {
			switch o.State {
			case usageclient.Accepted:
				c.note(o.Record)
			case usageclient.Unsent:
				records = append(records, o.Record)
				c.doubtful[o.Record.Identity()] = true
			case usageclient.Refused:
				if o.Record.Common().Resource != noResource {
					c.fault("refused: " + o.Err.Error())
				}
			}
		}
		if err != nil {
			c.unknown += len(records)
		}
		return err
	})
}

// clear clears all that has failed, and of which it is known that it fails
// once.
func (c *fleetClient) clear() {
	var ids []int64
	var cleared []amieusage.Identity
	c.insist(func(ctx context.Context, client *usageclient.Client) error {
		if ids == nil {
			open, err := client.ListFailed(ctx)
			if err != nil {
				return err
			}
			for _, f := range open {
				id := f.Record.Identity()
				charge, err := f.Record.Common().Charge.Millionths()
				if last, ok := c.failed[id]; ok && err == nil && last.charge == charge && !c.doubtful[id] {
					ids, cleared = append(ids, f.FailedRecordID), append(cleared, id)
				}
			}
		}
		_, err := client.ClearFailedIDs(ctx, ids...)
		return err
	})
	for _, id := range cleared {
		delete(c.failed, id)
	}
	c.cleared += len(cleared)
}

// sendAgain sends all that is loaded once more: it changes nothing.
func (c *fleetClient) sendAgain() {
	var records []amieusage.Record
	for id, last := range c.loaded {
		if _, open := c.failed[id]; !open && last.record != nil {
			records = append(records, last.record)
		}
	}
	for part := range slices.Chunk(records, 10_000) {
		c.send(part)
	}
}

// join takes over what another client of the same site knows.
func (c *fleetClient) join(other *fleetClient) {
	maps.Copy(c.loaded, other.loaded)
	maps.Copy(c.failed, other.failed)
	c.accepted += other.accepted
	c.unknown += other.unknown
}

// fault keeps the first few things that should not have happened.
func (c *fleetClient) fault(text string) {
	if len(c.faults) < 5 {
		c.faults = append(c.faults, text)
	}
}

// note remembers that a record was accepted.
func (c *fleetClient) note(r amieusage.Record) {
	last, err := contentOf(r)
	if err != nil {
		c.fault(err.Error())
	}
	if r.Common().Resource == noResource {
		c.fault("accepted on " + noResource)
	}
	c.accepted++
	if last.project == noProject {
		c.failed[r.Identity()] = last
		return
	}
	c.loaded[r.Identity()] = last
	delete(c.failed, r.Identity())
}

// What is not in the registry.
const (
	noProject  = "p.none"
	noResource = "ghost"
)

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
	if c.random.IntN(10) == 0 {
		refused := c.record(9)
		refused.(*amieusage.ComputeRecord).Resource = noResource
		records = append(records, refused)
	}
	return records
}

// record makes a content of the nth record.
func (c *fleetClient) record(n int) amieusage.Record {
	at := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * 100 * time.Second)
	id, charge := fmt.Sprint(c.prefix, n), amieusage.ChargeOfMillionths(c.random.Int64N(5_000_000))
	user, project := []string{"alice", "bob"}[c.random.IntN(2)], []string{"p.one", "p.two"}[c.random.IntN(2)]
	if c.random.IntN(20) == 0 {
		project = noProject
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
func (c *fleetClient) checkCounts(t *testing.T, store ledger.Store) {
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
	client, err := c.client()
	if err != nil {
		t.Fatal(err)
	}
	loaded, failed := map[amieusage.Identity]int64{}, map[amieusage.Identity]int64{}
	for r, err := range client.AllLoaded(t.Context(), amieusage.LoadedQuery{PageSize: amieusage.MaxLoadedPage}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := loaded[r.Identity()]; twice {
			t.Errorf("%s: the ledger holds %+v twice", c.site, r.Identity())
		}
		loaded[r.Identity()] = millionths(t, r.Charge)
	}
	c.compare(t, "loaded", c.loaded, loaded)
	open, err := client.ListFailed(t.Context())
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
	for id, last := range c.loaded {
		charge := last.charge
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
func (c *fleetClient) compare(t *testing.T, what string, want map[amieusage.Identity]content, got map[amieusage.Identity]int64) {
	t.Helper()
	var wrong []string
	for id, last := range want {
		if is, ok := got[id]; !ok || is != last.charge {
			wrong = append(wrong, fmt.Sprintf("%+v: %d millionths, want %d", id, is, last.charge))
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

func millionths(t *testing.T, c amieusage.Charge) int64 {
	t.Helper()
	n, err := c.Millionths()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
