package storetest

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A FullVerifier is a store that can also say what it has verified.
type FullVerifier interface {
	Verifier
	ledger.Archivable
	VerifyAll(ctx context.Context, progress func(*ledger.VerifiedSite)) (*ledger.Verification, error)
}

// Damaged returns a copy of a ledger in which statements were executed behind
// its back.
type Damaged func(t *testing.T, statements ...string) FullVerifier

// A verifyHistory lets everything happen that an accepted content can come to.
type verifyHistory struct {
	t       testing.TB
	store   ledger.Store
	service *ledger.Service
	who     map[string]ledger.Caller
}

var verifyResources = map[string]bool{"rm.example.org": true}

func (h *verifyHistory) register() {
	spec := &ledger.RegistrySpec{}
	for _, site := range []string{"PSC", "SDSC"} {
		s := ledger.SiteSpec{Name: site, Resources: []string{"rm.example.org"}}
		for _, project := range []string{"p.abc123456.000", "p.other"} {
			s.Projects = append(s.Projects, ledger.ProjectSpec{ID: project, Users: []string{"alice", "bob"}, Allocations: []ledger.AllocationSpec{{
				Resource: "rm.example.org", Amount: 1, Start: time.Unix(0, 0), End: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}}})
		}
		spec.Sites = append(spec.Sites, s)
	}
	if _, err := h.store.Import(context.Background(), spec); err != nil {
		h.t.Fatal(err)
	}
	for _, s := range spec.Sites {
		authority, err := h.store.Authority(context.Background(), s.Name)
		if err != nil {
			h.t.Fatal(err)
		}
		h.who[s.Name] = ledger.Caller{Site: authority.Site, Name: s.Name}
	}
}

// accept sends records of one kind as one batch.
func (h *verifyHistory) accept(site string, records ...amieusage.Record) {
	h.t.Helper()
	data, err := (&amieusage.Message{UsageType: records[0].UsageType(), Records: records}).MarshalJSON()
	if err != nil {
		h.t.Fatal(err)
	}
	if answer, err := h.service.Accept(context.Background(), h.who[site], verifyResources, data); err != nil || len(answer.FailedRecords) > 0 {
		h.t.Fatalf("accept: %v, %v", answer, err)
	}
}

func (h *verifyHistory) load() {
	h.t.Helper()
	for {
		report, err := h.service.LoadSome(context.Background())
		if err != nil {
			h.t.Fatal(err)
		}
		if report.Batches == 0 {
			return
		}
	}
}

var verifySubmit = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

// version returns a version of a compute record of alice's, by its charge.
func version(id string, n int) *amieusage.ComputeRecord {
	charge, _ := amieusage.ParseCharge(strconv.Itoa(n) + ".25")
	return &amieusage.ComputeRecord{Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: id, Resource: "rm.example.org",
		SubmitTime: verifySubmit, StartTime: verifySubmit, EndTime: verifySubmit.Add(time.Hour), Charge: charge, NodeCount: amieusage.CountOf(1)}
}

// badVersion returns a record that loading refuses.
func badVersion(id string) *amieusage.ComputeRecord {
	r := version(id, 1)
	r.Username = "eve"
	return r
}

func refund(id string) *amieusage.AdjustmentRecord {
	return &amieusage.AdjustmentRecord{Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: id, Resource: "rm.example.org",
		StartTime: verifySubmit, Charge: version("", 1).Charge, AdjustmentType: amieusage.Refund}
}

func newVerifyHistory(t testing.TB, store ledger.Store) *verifyHistory {
	h := &verifyHistory{t: t, store: store, who: map[string]ledger.Caller{},
		service: ledger.New(ledger.Config{Store: store, Clock: time.Now, Logger: discard()})}
	h.register()
	return h
}

// all lets it happen. The records of PSC are A (1), B (2), C (3), H (4) and the
// refund Z (5), its failed records F (1, and 2 in its place), A (3), G (4) and
// H (5).
func (h *verifyHistory) all() {
	for _, batch := range [][]amieusage.Record{
		{version("A", 1), version("B", 1), version("C", 1), badVersion("F")}, // 1
		{version("A", 1), version("B", 2), version("C", 2)},                  // 2
		{version("B", 2), version("C", 3), version("A", 1)},                  // 3
		{version("C", 3), badVersion("F")},                                   // 4
		{badVersion("A")},                                                    // 5
		{version("A", 1), version("B", 3)},                                   // 6
		{badVersion("G")},                                                    // 7
		{badVersion("H")},                                                    // 8
		{version("H", 1)},                                                    // 9
		{refund("Z")},                                                        // 10
	} {
		h.accept("PSC", batch...)
		h.load()
	}
	if err := h.store.Clear(context.Background(), h.who["PSC"].Site, []int64{4}, time.Now()); err != nil {
		h.t.Fatal(err)
	}
	h.accept("SDSC", version("C", 9), badVersion("F"))
	h.load()
	h.accept("PSC", version("Q", 1))
}

// A damage is a statement, and what is found behind it.
type damage struct{ statement, finding string }

// verifyDamages are done to one ledger each; those of one concern different
// rows.
var verifyDamages = map[string][]damage{
	"rows": {
		{`DELETE FROM records WHERE site_id = 1 AND record_id = 1`,
			"accepted contents: PSC: Compute A of alice for p.abc123456.000 on rm.example.org at 2026-10-01T00:00:00Z: charge 1.25 " +
				"(record 1 of batch 1): was accepted, and has neither been loaded nor failed"},
		{`UPDATE records SET charge = charge + 1 WHERE site_id = 1 AND record_id = 2`,
			"(record 2 of batch 6): revision 3 of record 2 has another charge"},
		{`UPDATE records SET digest = (SELECT digest FROM records WHERE site_id = 1 AND record_id = 3) WHERE site_id = 1 AND record_id = 4`,
			"revision 1 of record 4 has another content"},
		{`UPDATE records SET gives_back = NOT gives_back WHERE site_id = 1 AND record_id = 5`, "revision 1 of record 5 has another gives back"},
		{`UPDATE revisions SET charge = charge + 1 WHERE site_id = 1 AND record_id = 3 AND revision = 2`, "revision 2 of record 3 has another charge"},
	},
	"columns": {
		{`UPDATE records SET usage_time = usage_time + 1 WHERE site_id = 1 AND record_id = 1`, "revision 1 of record 1 has another time of usage"},
		{`UPDATE records SET project_id = (SELECT project_id FROM projects WHERE site_id = 1 AND local_project_id = 'p.other')
			WHERE site_id = 1 AND record_id = 2`, "revision 3 of record 2 has another project"},
		{`UPDATE records SET user_id = (SELECT user_id FROM users WHERE site_id = 1 AND username = 'bob') WHERE site_id = 1 AND record_id = 3`,
			"revision 3 of record 3 has another user"},
		{`UPDATE records SET local_record_id = 'stray' WHERE site_id = 1 AND record_id = 4`,
			"records without contents: PSC: record 4, stray: it is not record 1 of batch 9"},
	},
	"contents": {
		{`UPDATE batches SET records = (SELECT records FROM batches WHERE site_id = 2) WHERE site_id = 1 AND batch_id = 4`,
			"charge 9.25 (record 1 of batch 4): was accepted after revision 3 of record 3, and has not been loaded"},
		{`UPDATE batches SET usage_type = 9 WHERE site_id = 1 AND batch_id = 7`, "batches: PSC: batch 7 is of no usage type"},
		{`UPDATE batches SET batch_id = 99 WHERE site_id = 1 AND batch_id = 9`, "records without contents: PSC: record 4, H: it is not record 1 of batch 9"},
	},
	"places of revisions": {
		{`UPDATE revisions SET ordinal = 0 WHERE site_id = 1 AND record_id = 3 AND revision = 2`,
			"(record 3 of batch 2): was accepted after revision 2 of record 3, and has not been loaded"},
		{`SELECT 1`, "revisions without contents: PSC: there are 4 replaced revisions, of which 3 are of an accepted content"},
	},
	"order of revisions": {
		{`UPDATE revisions SET batch_id = 3 - batch_id WHERE site_id = 1 AND record_id = 3`,
			"order of revisions: PSC: Compute C of alice for p.abc123456.000 on rm.example.org at 2026-10-01T00:00:00Z: charge 2.25 " +
				"(record 3 of batch 2): is revision 1 of record 3, which is in no order of acceptance"},
		{`DELETE FROM revisions WHERE site_id = 1 AND record_id = 2 AND revision = 1`,
			"is revision 2 of record 2, which is in no order of acceptance"},
		{`UPDATE records SET revision = 2, batch_id = 2, ordinal = 0 WHERE site_id = 1 AND record_id = 1`,
			"the site's number of revisions: PSC: its records have replaced 5; 4 are here, 0 in archives"},
		{`INSERT INTO revisions (site_id, record_id, revision, batch_id, ordinal, charge, loaded_at) VALUES (1, 1, 1, 1, 0, 1250000, 1)`,
			"revision 2 of record 1 has the content of revision 1"},
	},
	"states": {
		{`UPDATE failed_records SET state = 2, closed_at = 1 WHERE failed_id = 2`,
			"superseded failed records: PSC: failed record 2 is superseded, and nothing was judged in its place"},
		{`UPDATE failed_records SET state = 0, closed_at = NULL WHERE failed_id = 1`,
			"open failed records: PSC: failed record 1 is open, though the record was judged again later"},
		{`UPDATE failed_records SET state = 0, closed_at = NULL WHERE failed_id = 5`,
			"open failed records: PSC: failed record 5 is open, though the record was judged again later"},
		{`UPDATE failed_records SET state = 0, closed_at = NULL WHERE failed_id = 3`, "failed record 3 is open, though the record was loaded later"},
		{`UPDATE failed_records SET record = (SELECT record FROM failed_records WHERE failed_id = 4) WHERE failed_id = 1`,
			"(record 4 of batch 1): failed record 1 is another one"},
		{`UPDATE failed_records SET state = 3 WHERE failed_id = 4`, "states of failed records: PSC: failed record 4 has state 3 and is closed"},
	},
	"closed": {
		{`UPDATE failed_records SET closed_at = NULL WHERE failed_id = 1`,
			"states of failed records: PSC: failed record 1 has state 2 and is not closed"},
		{`UPDATE failed_records SET local_record_id = 'x' WHERE failed_id = 4`, "(record 1 of batch 7): failed record 4 is another one"},
		{`UPDATE failed_records SET batch_id = 1, ordinal = 3 WHERE failed_id = 2`, "are of the same content"},
	},
	"registry": {
		{`UPDATE allocations SET resource_id = 99 WHERE site_id = 1`, "what an allocation refers to: PSC: the allocation of resource 99 to project "},
		{`UPDATE allocations SET end_time = start_time WHERE site_id = 2`, "what an allocation refers to: SDSC: "},
		{`UPDATE project_users SET user_id = 99 WHERE site_id = 1 AND user_id = (SELECT user_id FROM users WHERE site_id = 1 AND username = 'bob')`,
			"the users of projects: PSC: project "},
	},
	"sites": {
		{`DELETE FROM sites WHERE site_id = 2`, "sites: there is no site 2, which batches has rows of"},
	},
	"users": {
		{`INSERT INTO users (user_id, site_id, username) VALUES (99, 77, 'alice')`, "sites: there is no site 77, which users has rows of"},
	},
	"both": {
		{`UPDATE failed_records SET ordinal = 1 WHERE failed_id = 1`, "failed record 1 has failed, and is revision 1 as well"},
		{`SELECT 1`, "Compute F of eve for p.abc123456.000 on rm.example.org at 2026-10-01T00:00:00Z: charge 1.25 (record 4 of batch 1): " +
			"was accepted, and has neither"},
	},
}

// TestVerify damages ledgers, and holds the store to what it must find. prepare
// makes a ledger with a history.
func TestVerify(t *testing.T, prepare func(t *testing.T, history func(store ledger.Store)) Damaged) {
	damaged := prepare(t, func(store ledger.Store) { newVerifyHistory(t, store).all() })
	charge := func(s string) amieusage.Charge {
		c, _ := amieusage.ParseCharge(s)
		return c
	}
	t.Run("whole", func(t *testing.T) {
		v, err := damaged(t).VerifyAll(t.Context(), func(*ledger.VerifiedSite) {})
		if err != nil {
			t.Fatal(err)
		}
		want := []*ledger.VerifiedSite{
			{Site: "PSC", Batches: 11, Records: 20, Newest: 5, Replaced: 4, Repeated: 5, Failed: 5, Queued: 1, Charge: charge("7.75")},
			{Site: "SDSC", Batches: 1, Records: 2, Newest: 1, Failed: 1, Charge: charge("9.25")},
		}
		if diff := cmp.Diff(want, v.Sites, cmpopts.IgnoreUnexported(ledger.VerifiedSite{}, amieusage.Charge{})); diff != "" || v.Differences != 0 {
			t.Errorf("(-want +got)\n%s\n%v", diff, v.Err())
		}
		for i, s := range v.Sites {
			if s.Charge.String() != want[i].Charge.String() {
				t.Errorf("%s: charge %s, want %s", s.Site, s.Charge, want[i].Charge)
			}
		}
	})
	for name, damages := range verifyDamages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var statements []string
			for _, d := range damages {
				statements = append(statements, d.statement)
			}
			err := damaged(t, statements...).Verify(context.Background())
			if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != amieusage.CodeInternal {
				t.Fatalf("%v is no internal error", err)
			}
			for _, d := range damages {
				if !strings.Contains(err.Error(), d.finding) {
					t.Errorf("%s: nothing says\n%s\nin %v", d.statement, d.finding, err)
				}
			}
		})
	}
	t.Run("archived", func(t *testing.T) {
		store := damaged(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first := ledger.Archiving{Folder: t.TempDir(), Before: time.Now(), Site: "PSC", MaxRecords: 7, Done: func(ledger.Archived) { cancel() }}
		if err := ledger.Archive(ctx, store, first, time.Now()); !errors.Is(err, context.Canceled) {
			t.Fatalf("archived: %v", err)
		}
		v, err := store.VerifyAll(t.Context(), func(*ledger.VerifiedSite) {})
		if err != nil || v.Err() != nil {
			t.Fatalf("%v, %v", err, v.Err())
		}
		want := &ledger.VerifiedSite{Site: "PSC", Batches: 11, Records: 20, Newest: 4, Repeated: 3, Failed: 4, Queued: 1, Archived: 7, Unread: 1}
		v.Sites[0].Charge = amieusage.Charge{}
		if diff := cmp.Diff(want, v.Sites[0], cmpopts.IgnoreUnexported(ledger.VerifiedSite{}, amieusage.Charge{})); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
	t.Run("many corrections", func(t *testing.T) {
		// More than are kept in memory: what was replaced is read again.
		store := damaged(t)
		h := newVerifyHistory(t, store.(ledger.Store))
		const records, each = 4_500, 1_500
		for _, charge := range []int{1, 2, 2, 1, 3} {
			for n := 0; n < records; n += each {
				batch := make([]amieusage.Record, each)
				for i := range batch {
					batch[i] = version(strconv.Itoa(n+i), charge)
				}
				h.accept("SDSC", batch...)
			}
			h.load()
		}
		v, err := store.VerifyAll(t.Context(), func(*ledger.VerifiedSite) {})
		if err != nil || v.Err() != nil {
			t.Fatalf("%v, %v", err, v.Err())
		}
		if got := *v.Sites[1]; got.Newest != records+1 || got.Replaced != 3*records || got.Repeated != records || got.Unread != 0 {
			t.Errorf("%+v", got)
		}
	})
}
