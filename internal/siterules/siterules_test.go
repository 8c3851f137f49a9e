package siterules_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

func TestResourceOfAJob(t *testing.T) {
	tests := []struct {
		cluster, partition, qos string
		want                    string // "": none
	}{
		{"testc", "RM-shared", "normal", rm},
		{"testc", "RM", "normal", rm},
		{"testc", "debug", "normal", rm},
		{"testc", "debug2", "normal", ""}, // a name without a star matches only itself
		{"testc", "rm", "normal", ""},     // letter case counts
		{"testc", "GPU-small", "normal", gpu},
		{"testc", "GPU", "em", gpu}, // the first match wins
		{"testc", "RM", "em", large},
		{"testc", "", "em-long", large},
		{"ocean2", "GPU", "em", ocean},
		{"", "", "", ""},
	}
	for _, tt := range tests {
		job := ranJob()
		job.Cluster, job.Partition, job.QOS = tt.cluster, tt.partition, tt.qos
		r, skip, err := siteRules(t).Convert(job)
		switch {
		case err != nil:
			t.Errorf("%+v: %v", tt, err)
		case tt.want == "" && skip != siterules.SkipNoResource || tt.want != "" && (r == nil || r.Resource != tt.want):
			t.Errorf("%+v: record %v, skip %q", tt, r, skip)
		}
	}
	none := siterules.Rules{}
	if _, skip, err := none.Convert(ranJob()); skip != siterules.SkipNoResource || err != nil {
		t.Errorf("without resources: skip %q, error %v", skip, err)
	}
}

func TestAllPatternsOfAResourceMustMatch(t *testing.T) {
	rules := siteRules(t)
	rules.Resources = rules.Resources[3:]
	rules.Resources[0].Match.Clusters, rules.Resources[0].Match.QOS = []string{"test?"}, []string{"n*", "high"}
	for _, tt := range []struct {
		cluster, partition, qos string
		matches                 bool
	}{
		{"testc", "RM", "normal", true},
		{"testc", "RM", "high", true},
		{"test", "RM", "normal", false},
		{"testc", "GPU", "normal", false},
		{"testc", "RM", "low", false},
	} {
		job := ranJob()
		job.Cluster, job.Partition, job.QOS = tt.cluster, tt.partition, tt.qos
		if r, _, err := rules.Convert(job); err != nil || (r != nil) != tt.matches {
			t.Errorf("%+v: record %v, error %v", tt, r, err)
		}
	}
}

func TestProjectOfAnAccount(t *testing.T) {
	mapped := map[string]string{"local": "p.map000000.000", "tg-phy090012": "TG-Phy090012"}
	tests := []struct {
		what     string
		projects siterules.Projects
		account  string
		want     string // "": not included
	}{
		{"all", siterules.Projects{}, "p.Abc", "p.Abc"},
		{"included", siterules.Projects{Include: []string{"p.*", "tg-*"}}, "tg-phy090012", "tg-phy090012"},
		{"not included", siterules.Projects{Include: []string{"p.*", "tg-*"}}, "local", ""},
		{"a pattern is for the whole name", siterules.Projects{Include: []string{"p.?"}}, "p.abc", ""},
		{"kept", siterules.Projects{Case: siterules.CaseKeep}, "p.Abc", "p.Abc"},
		{"upper", siterules.Projects{Case: siterules.CaseUpper}, "tg-phy090012", "TG-PHY090012"},
		{"lower", siterules.Projects{Case: siterules.CaseLower}, "TG-PHY090012", "tg-phy090012"},
		{"patterns are for the account, not the project id", siterules.Projects{Include: []string{"TG-*"}, Case: siterules.CaseUpper}, "tg-x", ""},
		{"the map goes before the case", siterules.Projects{Case: siterules.CaseUpper, Map: mapped}, "tg-phy090012", "TG-Phy090012"},
		{"the map includes", siterules.Projects{Include: []string{"p.*"}, Map: mapped}, "local", "p.map000000.000"},
		{"the map does not leave out others", siterules.Projects{Map: mapped}, "p.abc", "p.abc"},
		{"no account", siterules.Projects{Include: []string{"*"}}, "", ""},
	}
	for _, tt := range tests {
		rules := siteRules(t)
		rules.Projects = tt.projects
		if err := rules.Check(); err != nil {
			t.Fatal(err)
		}
		job := ranJob()
		job.Account = tt.account
		r, skip, err := rules.Convert(job)
		switch {
		case err != nil:
			t.Errorf("%s: %v", tt.what, err)
		case tt.want == "" && skip != siterules.SkipAccount || tt.want != "" && (r == nil || r.LocalProjectID != tt.want):
			t.Errorf("%s: record %v, skip %q", tt.what, r, skip)
		}
	}
}

func TestUsersAreMapped(t *testing.T) {
	rules := siteRules(t)
	rules.Users.Map = map[string]string{"alice": "alice7"}
	if got := mustConvert(t, rules, ranJob()).Username; got != "alice7" {
		t.Errorf("alice is %s", got)
	}
	job := ranJob()
	job.User = "bob"
	if got := mustConvert(t, rules, job).Username; got != "bob" {
		t.Errorf("bob is %s", got)
	}
}

// TestWhyAJobIsSkipped: of several reasons the one that says most of the job
// itself is given.
func TestWhyAJobIsSkipped(t *testing.T) {
	unfinished := func(j *scheduler.Job) { j.End = time.Time{} }
	neverStarted := func(j *scheduler.Job) { j.ElapsedSeconds, j.TRES = 0, nil }
	noStart := func(j *scheduler.Job) { j.ElapsedSeconds, j.Start = 0, time.Time{} }
	zero := func(j *scheduler.Job) { j.ElapsedSeconds = 0 }
	account := func(j *scheduler.Job) { j.Account = "local" }
	resource := func(j *scheduler.Job) { j.Partition = "other" }
	nothing := func(j *scheduler.Job) { j.TRES = nil }
	tests := []struct {
		what    string
		changes []func(*scheduler.Job)
		want    siterules.Skip
	}{
		{"unfinished before all", []func(*scheduler.Job){unfinished, neverStarted, account, resource}, siterules.SkipUnfinished},
		{"never started before 0 s", []func(*scheduler.Job){neverStarted, account, resource}, siterules.SkipNeverStarted},
		{"cancelled without a start", []func(*scheduler.Job){noStart, account}, siterules.SkipNeverStarted},
		{"0 s before account", []func(*scheduler.Job){zero, account, resource}, siterules.SkipZeroElapsed},
		{"account before resource", []func(*scheduler.Job){account, resource, nothing}, siterules.SkipAccount},
		{"resource", []func(*scheduler.Job){resource, nothing}, siterules.SkipNoResource},
	}
	for _, tt := range tests {
		rules := siteRules(t)
		rules.Projects.Include = []string{"p.*"}
		job := ranJob()
		for _, change := range tt.changes {
			change(job)
		}
		if r, skip, err := rules.Convert(job); r != nil || skip != tt.want || err != nil {
			t.Errorf("%s: record %v, skip %q, error %v; want %q", tt.what, r, skip, err, tt.want)
		}
	}
}

func TestResizedJobIsARecordForEachSize(t *testing.T) {
	rules := siteRules(t)
	first, second, last := ranJob(), ranJob(), ranJob()
	first.State, second.State = "RESIZING", "RESIZING"
	first.End = first.Start.Add(10 * time.Minute)
	first.ElapsedSeconds = 300 // suspended for the rest
	second.Start = first.End
	last.Start = second.End
	last.End = last.Start.Add(time.Hour)
	last.TRES = []scheduler.TRES{{Name: "cpu", Count: 16}}
	seen := map[amieusage.Identity]bool{}
	var charges []string
	for _, job := range []*scheduler.Job{first, second, last} {
		r := mustConvert(t, rules, job)
		seen[r.Identity()] = true
		charges = append(charges, r.Charge.String())
	}
	if len(seen) != 3 {
		t.Errorf("identities %v, want three", seen)
	}
	if got := strings.Join(charges, " "); got != "0.666667 8 16" {
		t.Errorf("charges %s", got)
	}
	if r := mustConvert(t, rules, last); r.LocalRecordID != "42" {
		t.Errorf("the last size is record %s", r.LocalRecordID)
	}
	if a, b := mustConvert(t, rules, first), mustConvert(t, rules, first); a.Identity() != b.Identity() {
		t.Error("the identity changes when it is read again")
	}
}

func TestFieldsOfARecord(t *testing.T) {
	job := ranJob()
	job.ID, job.DisplayID, job.ParentID = "15", "3_7", "3"
	r := mustConvert(t, siteRules(t), job)
	want := `{"Username":"alice","LocalProjectID":"p.abc123456.000","LocalRecordID":"15","Resource":"bridges2-rm.psc.access-ci.org",` +
		`"SubmitTime":"2026-10-01T08:00:00Z","StartTime":"2026-10-01T08:01:00Z","EndTime":"2026-10-01T09:01:00Z","Charge":"8",` +
		`"Attributes":{"NodeCount":1,"CpuCoreCount":8,"JobName":"run","Memory":"800M","Queue":"RM"},"ParentRecordID":"3","LocalReference":"3_7"}`
	if got := string(r.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLongNamesAreClippedBetweenCharacters(t *testing.T) {
	for _, tt := range []struct {
		name string
		want int // bytes
	}{
		{strings.Repeat("x", 4096), 4096},
		{strings.Repeat("x", 4097), 4096},
		{strings.Repeat("x", 4095) + "é", 4095},
		{strings.Repeat("x", 4094) + "名", 4094},
		{strings.Repeat("名", 3000), 4095},
	} {
		job := ranJob()
		job.Name = tt.name
		got := mustConvert(t, siteRules(t), job).JobName
		if len(got) != tt.want || !utf8.ValidString(got) || !strings.HasPrefix(tt.name, got) {
			t.Errorf("a name of %d bytes becomes one of %d, want %d", len(tt.name), len(got), tt.want)
		}
	}
}

func TestBadJobs(t *testing.T) {
	tests := []struct {
		what   string
		change func(*scheduler.Job)
		want   string // part of the error
	}{
		{"no user", func(j *scheduler.Job) { j.User = "" }, "User: the job's user is not known"},
		{"no start", func(j *scheduler.Job) { j.Start = time.Time{} }, "StartTime"},
		{"no submit", func(j *scheduler.Job) { j.Submit = time.Time{} }, "SubmitTime"},
		{"ended before it started", func(j *scheduler.Job) { j.End = j.Start.Add(-time.Second) }, "EndTime"},
		{"no id", func(j *scheduler.Job) { j.ID = "" }, "LocalRecordID"},
		{"a name that is no text", func(j *scheduler.Job) { j.Name = "\xff" }, "JobName"},
		{"nothing but continuation bytes", func(j *scheduler.Job) { j.Account = strings.Repeat("\x80", 5000) }, "LocalProjectID"},
		{"negative run time", func(j *scheduler.Job) { j.ElapsedSeconds = -1 }, "Charge"},
		{"a charge that nothing can hold", func(j *scheduler.Job) { j.ElapsedSeconds, j.TRES[0].Count = 1<<62, 1<<62 }, "nine trillion"},
		{"nothing allocated", func(j *scheduler.Job) { j.TRES = nil }, "AllocTRES"},
	}
	for _, tt := range tests {
		job := ranJob()
		tt.change(job)
		r, skip, err := siteRules(t).Convert(job)
		row := rowError(t, err)
		if r != nil || skip != "" || row.Place != job.Place || row.JobID != "42" || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: record %v, skip %q, error %v; want one with %q", tt.what, r, skip, err, tt.want)
		}
	}
}

// TestConvertNeverPanics gives it jobs of any content.
func TestConvertNeverPanics(t *testing.T) {
	rules := siteRules(t)
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "RM", "cpu", "\xff\xfe", strings.Repeat("\xbf", 4200)}))
		at := rapid.Custom(func(rt *rapid.T) time.Time {
			return time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(rt, "seconds"), 0)
		})
		job := ranJob()
		job.ID, job.DisplayID, job.User = text.Draw(rt, "id"), text.Draw(rt, "display"), text.Draw(rt, "user")
		job.Account, job.Partition, job.Name = text.Draw(rt, "account"), text.Draw(rt, "partition"), text.Draw(rt, "name")
		job.State = rapid.SampledFrom([]string{"COMPLETED", "RESIZING", ""}).Draw(rt, "state")
		job.Submit, job.Start, job.End = at.Draw(rt, "submit"), at.Draw(rt, "start"), at.Draw(rt, "end")
		job.ElapsedSeconds, job.TRES[0].Count = rapid.Int64().Draw(rt, "elapsed"), rapid.Int64().Draw(rt, "count")
		r, skip, err := rules.Convert(job)
		given := 0
		for _, is := range []bool{r != nil, skip != "", err != nil} {
			if is {
				given++
			}
		}
		if given != 1 {
			rt.Fatalf("record %v, skip %q, error %v", r, skip, err)
		}
		if r != nil && r.Validate() != nil {
			rt.Fatalf("invalid record %s", r)
		}
	})
}

func TestCheckRules(t *testing.T) {
	tests := []struct {
		what   string
		change func(*siterules.Rules)
		want   string
	}{
		{"no name", func(r *siterules.Rules) { r.Resources[1].Name = "" }, "resource 2 has no name"},
		{"partitions", func(r *siterules.Rules) { r.Resources[0].Match.Partitions = []string{"RM", "[a"} }, `"[a" is not a pattern`},
		{"clusters", func(r *siterules.Rules) { r.Resources[0].Match.Clusters = []string{"a["} }, "is not a pattern"},
		{"qos", func(r *siterules.Rules) { r.Resources[0].Match.QOS = []string{"x[]"} }, "is not a pattern"},
		{"include", func(r *siterules.Rules) { r.Projects.Include = []string{`a\`} }, "projects: "},
		{"case", func(r *siterules.Rules) { r.Projects.Case = "Upper" }, "keep, upper, lower"},
		{"combine", func(r *siterules.Rules) { r.Resources[0].Rates[0].Combine = "min" }, "sum, max"},
		{"no rates", func(r *siterules.Rules) { r.Resources[0].Rates[0].PerHour = nil }, "per_hour"},
		{"nil rate", func(r *siterules.Rules) { r.Resources[0].Rates[0].PerHour["cpu"] = nil }, "rate of cpu"},
		{"negative rate", func(r *siterules.Rules) { r.Resources[0].Rates[0].PerHour = rates(t, "cpu", "-1") }, "rate of cpu"},
		{"NaN", func(r *siterules.Rules) { r.Resources[0].Rates[0].PerHour = rates(t, "cpu", "NaN") }, "rate of cpu"},
		{"infinite", func(r *siterules.Rules) { r.Resources[0].Rates[0].PerHour = rates(t, "cpu", "Infinity") }, "rate of cpu"},
		{"too many digits", func(r *siterules.Rules) { r.Resources[0].Rates[0].PerHour = rates(t, "cpu", "1.234567890123456789") }, "18 digits"},
		{"too small", func(r *siterules.Rules) { r.Resources[0].Rates[0].PerHour = rates(t, "cpu", "1e-19") }, "rate of cpu"},
		{"too large", func(r *siterules.Rules) { r.Resources[0].Rates[0].PerHour = rates(t, "cpu", "1e19") }, "rate of cpu"},
		{"decimals", func(r *siterules.Rules) { r.Resources[0].Rates[0].Decimals = 7 }, "from 0 to 6"},
		{"negative decimals", func(r *siterules.Rules) { r.Resources[0].Rates[0].Decimals = -1 }, "from 0 to 6"},
	}
	for _, tt := range tests {
		rules := siteRules(t)
		tt.change(rules)
		if err := rules.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.what, err, tt.want)
		}
	}
	rules := siteRules(t)
	rules.Resources[0].Rates[0] = siterules.Rate{PerHour: rates(t, "cpu", "0", "mem", "1e-18", "node", "123456789012345678"),
		Combine: siterules.CombineSum}
	rules.Projects.Case = siterules.CaseKeep
	if err := rules.Check(); err != nil {
		t.Error(err)
	}
}
