package siterules_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/internal/slurm"
)

var update = flag.Bool("update", false, "write the golden file")

// fixtureRules are those of the cluster that the fixtures come from: a unit is
// a core-hour, and sixteen a GPU-hour.
func fixtureRules(t testing.TB) *siterules.Rules {
	t.Helper()
	rules := &siterules.Rules{
		Resources: []siterules.Resource{
			{Name: gpu, Match: siterules.Match{Partitions: []string{"gpu*"}}, Rates: []siterules.Rate{{PerHour: rates(t, "gres/gpu", "16"), Decimals: 6}}},
			{Name: rm, Match: siterules.Match{Partitions: []string{"*"}}, Rates: []siterules.Rate{{PerHour: rates(t, "cpu", "1"), Decimals: 6}}},
		},
		Projects: siterules.Projects{Map: map[string]string{"tg-phy090012": "TG-PHY090012"}},
	}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	return rules
}

// A converted fixture: the records by job, the skips in words.
type converted struct {
	records []*amieusage.ComputeRecord
	skips   []string
}

func (c *converted) of(t *testing.T, jobID string) (found []*amieusage.ComputeRecord) {
	t.Helper()
	for _, r := range c.records {
		if r.LocalRecordID == jobID {
			found = append(found, r)
		}
	}
	return found
}

func (c *converted) one(t *testing.T, jobID string) *amieusage.ComputeRecord {
	t.Helper()
	found := c.of(t, jobID)
	if len(found) != 1 {
		t.Fatalf("%d records of job %s, want 1", len(found), jobID)
	}
	return found[0]
}

func (c *converted) total(t *testing.T) int64 {
	t.Helper()
	var sum int64
	for _, r := range c.records {
		sum += millionths(t, r.Charge)
	}
	return sum
}

func millionths(t *testing.T, c amieusage.Charge) int64 {
	t.Helper()
	n, err := c.Millionths()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func convertFixture(t *testing.T, name string, rules *siterules.Rules) *converted {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "slurm", name))
	if err != nil {
		t.Fatal(err)
	}
	zone := time.UTC
	if strings.Contains(name, "newyork") {
		if zone, err = time.LoadLocation("America/New_York"); err != nil {
			t.Fatal(err)
		}
	}
	c := &converted{}
	for job, err := range slurm.NewReader(bytes.NewReader(data), name, slurm.Options{Zone: zone}).Jobs(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		record, skip, err := rules.Convert(job)
		switch {
		case err != nil:
			t.Errorf("%s: %v", job.DisplayID, err)
		case (record == nil) == (skip == ""):
			t.Errorf("%s: record %v and skip %q", job.DisplayID, record, skip)
		case record != nil:
			c.records = append(c.records, record)
		default:
			c.skips = append(c.skips, job.DisplayID+" "+string(skip))
		}
	}
	return c
}

func TestTrapNamesHoldAnything(t *testing.T) {
	c := convertFixture(t, "sacct-epoch.psv", fixtureRules(t))
	for id, want := range map[string]string{"2": "train|resnet 50", "4": "naïve—ünïcode名", "212": "quote`comma, tab\tx"} {
		if got := c.one(t, id).JobName; got != want {
			t.Errorf("job %s is called %q, want %q", id, got, want)
		}
	}
}

func TestTrapTimesAreInstants(t *testing.T) {
	want := convertFixture(t, "sacct-epoch.psv", fixtureRules(t))
	if diff := cmp.Diff(want.records, convertFixture(t, "sacct-utc.psv", fixtureRules(t)).records, byJSON); diff != "" {
		t.Errorf("seconds since the epoch and UTC differ (-epoch +utc):\n%s", diff)
	}
	newYork := convertFixture(t, "sacct-newyork-naive.psv", fixtureRules(t))
	for _, got := range newYork.records {
		same := slices.ContainsFunc(want.records, func(r *amieusage.ComputeRecord) bool {
			return cmp.Equal(r, got, byJSON)
		})
		if !same {
			t.Errorf("%s differs when its times come in New York's zone", got)
		}
	}
	if len(newYork.records) == 0 {
		t.Error("no records")
	}
}

// byJSON compares records as they go over the wire.
var byJSON = cmp.Transformer("JSON", func(r *amieusage.ComputeRecord) string { return string(r.AppendJSON(nil)) })

func TestTrapCancelledAfterItRanIsCharged(t *testing.T) {
	r := convertFixture(t, "sacct-epoch.psv", fixtureRules(t)).one(t, "213")
	if r.Charge.String() != "0.053333" { // 32 CPUs for 6 s
		t.Errorf("charge %s", r.Charge)
	}
}

func TestTrapRequeuedJobIsTwoRecords(t *testing.T) {
	found := convertFixture(t, "sacct-epoch.psv", fixtureRules(t)).of(t, "102")
	if len(found) != 2 || found[0].Identity() == found[1].Identity() {
		t.Fatalf("%v; want two records of different identities", found)
	}
	if found[0].Charge.String() != "0.008333" || found[1].Charge.String() != "0.011111" { // 2 CPUs for 15 s and 20 s
		t.Errorf("charges %s and %s", found[0].Charge, found[1].Charge)
	}
}

func TestTrapJobIDsComeRoundAgain(t *testing.T) {
	rules := siteRules(t)
	first, later := ranJob(), ranJob()
	years := func(at time.Time) time.Time { return at.AddDate(4, 0, 0) }
	later.Submit, later.Start, later.End = years(later.Submit), years(later.Start), years(later.End)
	if a, b := mustConvert(t, rules, first), mustConvert(t, rules, later); a.Identity() == b.Identity() {
		t.Errorf("both are %v", a.Identity())
	}
}

func TestTrapArraysAndHeterogeneousJobs(t *testing.T) {
	c := convertFixture(t, "sacct-epoch.psv", fixtureRules(t))
	type ids struct{ Parent, Reference string }
	got := map[string]ids{}
	for _, id := range []string{"1", "8", "15", "104", "105"} {
		r := c.one(t, id)
		got[id] = ids{r.ParentRecordID, r.LocalReference}
	}
	want := map[string]ids{"1": {}, "8": {"3", "3_0"}, "15": {"3", "3_7"}, "104": {"", "104+0"}, "105": {"104", "104+1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parents and references (-want +got):\n%s", diff)
	}
}

func TestTrapStepsAreNotCounted(t *testing.T) {
	all := convertFixture(t, "sacct-epoch.psv", fixtureRules(t))
	steps := convertFixture(t, "sacct-with-steps.psv", fixtureRules(t))
	var want []*amieusage.ComputeRecord
	for _, r := range all.records {
		if slices.Contains([]string{"1", "2", "102", "104", "105"}, r.LocalRecordID) {
			want = append(want, r)
		}
	}
	if diff := cmp.Diff(want, steps.records, byJSON); diff != "" {
		t.Errorf("with steps (-want +got):\n%s", diff)
	}
}

func TestTrapNothingRan(t *testing.T) {
	rules := fixtureRules(t)
	want := []string{"7 never started", "3_1 ran for 0 s", "3_2 ran for 0 s"}
	if diff := cmp.Diff(want, convertFixture(t, "sacct-epoch.psv", rules).skips); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	rules.ReportZeroElapsed = true
	c := convertFixture(t, "sacct-epoch.psv", rules)
	if diff := cmp.Diff(want[:1], c.skips); diff != "" {
		t.Errorf("skipped when 0 s are reported (-want +got):\n%s", diff)
	}
	if r := c.one(t, "9"); r.Charge.String() != "0" {
		t.Errorf("0 s cost %s", r.Charge)
	}
}

func TestTrapUnfinished(t *testing.T) {
	c := convertFixture(t, "sacct-unfinished.psv", fixtureRules(t))
	want := []string{"2218 unfinished", "2217_0 unfinished", "2217_[1-300%1] unfinished"}
	if diff := cmp.Diff(want, c.skips); diff != "" || len(c.records) > 0 {
		t.Errorf("%d records; skipped (-want +got):\n%s", len(c.records), diff)
	}
}

func TestTrapCaseOfAccountsIsRestored(t *testing.T) {
	rules := fixtureRules(t)
	if got := convertFixture(t, "sacct-epoch.psv", rules).one(t, "5").LocalProjectID; got != "TG-PHY090012" {
		t.Errorf("by the map: %s", got)
	}
	rules.Projects = siterules.Projects{Include: []string{"tg-*"}, Case: siterules.CaseUpper}
	if got := convertFixture(t, "sacct-epoch.psv", rules).one(t, "5").LocalProjectID; got != "TG-PHY090012" {
		t.Errorf("by the case: %s", got)
	}
}

func TestTrapSuspendedTimeIsNotCharged(t *testing.T) {
	job := ranJob()
	job.End = job.End.Add(time.Hour) // of two hours, it was suspended for one
	r := mustConvert(t, siteRules(t), job)
	if r.Charge.String() != "8" || r.EndTime.Sub(r.StartTime) != 2*time.Hour {
		t.Errorf("charge %s from %s to %s", r.Charge, r.StartTime, r.EndTime)
	}
}

func TestTrapTotalsAndTypesOfGPUs(t *testing.T) {
	c := convertFixture(t, "sacct-epoch.psv", fixtureRules(t))
	if got := c.one(t, "2").Charge.String(); got != "0.071111" { // 2 GPUs for 8 s at 16
		t.Errorf("charge %s", got)
	}
}

func TestTrapExclusiveJobIsChargedForWhatItHeld(t *testing.T) {
	rules := fixtureRules(t)
	r := convertFixture(t, "sacct-epoch.psv", rules).one(t, "106")
	if cores, _ := r.CpuCoreCount.Get(); cores != 32 || r.Charge.String() != "0.026667" { // 32 CPUs for 3 s
		t.Errorf("%d cores, charge %s", cores, r.Charge)
	}
	rules.Resources[1].Rates[0].PerHour = rates(t, "gres/gpu", "16")
	mustCheck(t, rules)
	if got := convertFixture(t, "sacct-epoch.psv", rules).one(t, "106").Charge.String(); got != "0.053333" { // 4 GPUs for 3 s
		t.Errorf("charge of its GPUs %s", got)
	}
}

func TestTrapMemoryHasUnits(t *testing.T) {
	rules := fixtureRules(t)
	rules.Resources[1].Rates[0].PerHour = rates(t, "mem", "3600")
	mustCheck(t, rules)
	c := convertFixture(t, "sacct-epoch.psv", rules)
	for id, want := range map[string]string{"1": "5.46875", "103": "8", "106": "9.375"} { // 800M for 7 s, 2G for 4 s, 3200M for 3 s
		if got := c.one(t, id).Charge.String(); got != want {
			t.Errorf("job %s costs %s, want %s", id, got, want)
		}
	}
}

func TestTrapJSONGivesTheSameRecords(t *testing.T) {
	key := func(c *converted) map[string]*amieusage.ComputeRecord {
		byIdentity := map[string]*amieusage.ComputeRecord{}
		for _, r := range c.records {
			same := *r
			same.Memory = "" // asked for in other words
			same.JobName = strings.ReplaceAll(r.JobName, `"`, "`")
			byIdentity[fmt.Sprint(r.LocalRecordID, r.SubmitTime)] = &same
		}
		return byIdentity
	}
	text := key(convertFixture(t, "sacct-epoch.psv", fixtureRules(t)))
	fromJSON := key(convertFixture(t, "sacct-22.05.json", fixtureRules(t)))
	if len(fromJSON) == 0 {
		t.Fatal("no records")
	}
	for id, got := range fromJSON {
		if want := text[id]; want != nil {
			if diff := cmp.Diff(want, got, byJSON); diff != "" {
				t.Errorf("%s (-text +json):\n%s", id, diff)
			}
		}
	}
}

func TestFixturesTotal(t *testing.T) {
	// Counted by hand from AllocTRES and ElapsedRaw: core-seconds of the
	// partitions cpu and debug, GPU-seconds of gpu-shared.
	const coreSeconds = 8*7 + 4*4 + 2*1 + 2*64 + 1 + 1 + 1 + 2*15 + 32*4 + 1*4 + 32*3 + 2*20 + 1 + 32*6
	const gpuSeconds = 2*8 + 1*4
	c := convertFixture(t, "sacct-epoch.psv", fixtureRules(t))
	want := int64(coreSeconds*1_000_000/3600 + gpuSeconds*16*1_000_000/3600)
	if diff := c.total(t) - want; diff < -10 || diff > 10 { // each of 17 records is rounded
		t.Errorf("the total is %d millionths, want about %d", c.total(t), want)
	}
}

func TestGolden(t *testing.T) {
	var got bytes.Buffer
	for _, name := range []string{"sacct-epoch.psv", "sacct-utc.psv", "sacct-newyork-naive.psv", "sacct-with-steps.psv",
		"sacct-unfinished.psv", "sacct-22.05.json"} {
		c := convertFixture(t, name, fixtureRules(t))
		fmt.Fprintf(&got, "# %s\n", name)
		for _, r := range c.records {
			fmt.Fprintf(&got, "%s\n", r.AppendJSON(nil))
		}
		for _, skip := range c.skips {
			fmt.Fprintf(&got, "skipped: %s\n", skip)
		}
	}
	golden := filepath.Join("testdata", "records.golden")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("records (-want +got), -update writes them:\n%s", diff)
	}
}

func mustConvert(t *testing.T, rules *siterules.Rules, job *scheduler.Job) *amieusage.ComputeRecord {
	t.Helper()
	r, skip, err := rules.Convert(job)
	if err != nil || r == nil {
		t.Fatalf("record %v, skip %q, error %v", r, skip, err)
	}
	return r
}

func rowError(t *testing.T, err error) *scheduler.RowError {
	t.Helper()
	row, ok := errors.AsType[*scheduler.RowError](err)
	if !ok {
		t.Fatalf("error %v is no *scheduler.RowError", err)
	}
	return row
}
