package storetest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A Verifier is a store that can check its own tables: that all roll-ups are
// what the records add up to.
type Verifier interface {
	Verify(ctx context.Context) error
}

// TestStore holds a Store to its contract. open prepares a new, empty database
// and returns what opens one more Store on it, a replica of the others, and
// closes that at the end of the test.
func TestStore(t *testing.T, open func(t *testing.T) (replica func() ledger.Store)) {
	for name, test := range map[string]func(m *storeModel){
		"Accept":               testAccept,
		"AcceptLimit":          testAcceptLimit,
		"LoadFailures":         testLoadFailures,
		"LoadLessens":          testLoadLessens,
		"LoadUnreadable":       testLoadUnreadable,
		"LoadTooLarge":         testLoadTooLarge,
		"LoadTurned":           testLoadTurned,
		"LoadOpen":             testLoadOpen,
		"LoadCorrections":      testLoadCorrections,
		"LoadIdentities":       testLoadIdentities,
		"LoadAdjustments":      testLoadAdjustments,
		"LoadTurns":            testLoadTurns,
		"LoadLarge":            testLoadLarge,
		"LoadConcurrent":       func(m *storeModel) { testConcurrent(m, 1) },
		"Supersede":            testSupersede,
		"Status":               testStatus,
		"StatusRecords":        testStatusRecords,
		"Failed":               testFailed,
		"Clear":                testClear,
		"Loaded":               testLoaded,
		"LoadedBy":             testLoadedBy,
		"Sites":                testSites,
		"Events":               testEvents,
		"History":              testHistory,
		"Policy":               testPolicy,
		"Undo":                 testUndo,
		"RevokedMeanwhile":     testRevokedMeanwhile,
		"Export":               testExport,
		"LoadedCursor":         testLoadedCursor,
		"Revisions":            testRevisions,
		"Summary":              testSummary,
		"SummaryBalances":      testSummaryBalances,
		"SummaryRows":          testSummaryRows,
		"Import":               testImport,
		"ImportRefused":        testImportRefused,
		"ImportConcurrent":     testImportWhileLoading,
		"Keys":                 testKeys,
		"Walls":                testWalls,
		"TimesOutOfRange":      testTimesOutOfRange,
		"EndedContext":         testEndedContext,
		"AcceptTooLate":        testAcceptTooLate,
		"LoadedTimeNeverFalls": testLoadedTimeNeverFalls,
		"Nothing":              testNothing,
		"QueryEdges":           testQueryEdges,
		"Pages":                testPages,
		"Texts":                testTexts,
		"TextsOfFailures":      testTextsOfFailures,
		"TextsRefused":         testTextsRefused,
		"TextsInRegistry":      testTextsInRegistry,
		"RawRecords":           testRawRecords,
		"LargestRecords":       testLargestRecords,
		"ReplicasConcurrent":   func(m *storeModel) { testConcurrent(m, 3) },
		"ReplicasLastAccepted": func(m *storeModel) { testLastAccepted(m, 0) },
		"ReplicasLastJudged":   func(m *storeModel) { testLastAccepted(m, 3) },
		"ReplicasTurns":        testReplicasTurns,
		"ReplicasFind":         testReplicasFind,
		"ReplicasRegistry":     testReplicasRegistry,
		"ReplicasOpen":         testReplicasOpen,
		"ReplicasImport":       testReplicasImport,
		"ReplicasKeys":         testReplicasKeys,
		"ReplicasClear":        testReplicasClear,
		"ReplicasCursor":       testReplicasCursor,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newStoreModel(t, open(t), ledger.Strict)
			m.replicas(2)
			test(m)
			m.check()
		})
	}
	t.Run("Clients", func(t *testing.T) {
		t.Parallel()
		testStoreClients(t, open(t), itself)
	})
	t.Run("Model", func(t *testing.T) {
		t.Parallel()
		testStoreModel(t, open(t), itself)
	})
}

// Names that the tests use.
const (
	bulk  = "bridges2-rm.psc.access-ci.org"
	gpus  = "bridges2-gpu.psc.access-ci.org"
	alpha = "p.abc123456.000"
	beta  = "p.bcd234567.000"
)

// storeEpoch is when the tests' clock starts: not on the hour.
var storeEpoch = time.Date(2026, 10, 2, 8, 11, 7, 0, time.UTC)

// testReporter is what the tests need of a *testing.T and of a *rapid.T.
type testReporter interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Fatal(args ...any)
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// standard is the registry that the tests start from: two resources, and two
// projects; beta has an allocation on one of them.
func standard(site string) *ledger.RegistrySpec {
	year := func(resource string, amount int64) ledger.AllocationSpec {
		return ledger.AllocationSpec{Resource: resource, Amount: amount * 1_000_000,
			Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
	}
	return &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{
		Name:      site,
		Resources: []string{bulk, gpus},
		Projects: []ledger.ProjectSpec{
			{ID: alpha, Users: []string{"alice", "bob"}, Allocations: []ledger.AllocationSpec{year(bulk, 1000), year(gpus, 10)}},
			{ID: beta, Users: []string{"bob"}, Allocations: []ledger.AllocationSpec{year(bulk, 5)}},
		},
	}}}
}

// job returns a compute record that the standard registry lets pass, changed
// by change.
func job(id string, charge string, change ...func(r *amieusage.ComputeRecord)) *amieusage.ComputeRecord {
	submit := time.Date(2026, 10, 1, 20, 0, 0, 0, time.UTC)
	r := &amieusage.ComputeRecord{
		Username: "alice", LocalProjectID: alpha, LocalRecordID: id, Resource: bulk,
		SubmitTime: submit, StartTime: submit.Add(time.Minute), EndTime: submit.Add(2 * time.Hour),
		Charge: chargeOf(charge), NodeCount: amieusage.CountOf(4), JobName: "train",
	}
	for _, f := range change {
		f(r)
	}
	return r
}

func adjustment(t amieusage.AdjustmentType, id, charge string) *amieusage.AdjustmentRecord {
	return &amieusage.AdjustmentRecord{
		AdjustmentType: t, Username: "alice", LocalProjectID: alpha, LocalRecordID: id, Resource: bulk,
		StartTime: time.Date(2026, 10, 1, 20, 0, 0, 0, time.UTC), Charge: chargeOf(charge), Comment: "node failure",
	}
}

// chargeOf reads a charge; what is none is left absent, and not valid.
func chargeOf(text string) amieusage.Charge {
	c, _ := amieusage.ParseCharge(text)
	return c
}

// hasCode checks that err is a *amieusage.Error of the code.
func (m *storeModel) hasCode(err error, want amieusage.Code) {
	m.t.Helper()
	if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != want {
		m.t.Errorf("error %v, want one with code %s", err, want)
	}
}

func (m *storeModel) noError(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *storeModel) equal(what string, want, got any, opts ...cmp.Option) {
	m.t.Helper()
	if diff := cmp.Diff(want, got, append(opts, byText)...); diff != "" {
		m.t.Errorf("%s differs (-want +got):\n%s", what, diff)
	}
}

// byText compares charges by the text in which they are shown, and failed
// records by their JSON.
var byText = cmp.Options{
	cmp.Transformer("charge", func(c amieusage.Charge) string { return c.String() }),
	cmp.Transformer("failed", func(f amieusage.FailedRecord) string { return string(f.AppendJSON(nil)) }),
}
