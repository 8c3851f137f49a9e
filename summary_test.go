package amieusage

import (
	"bytes"
	"encoding/csv"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func summaries() *rapid.Generator[Summary] {
	return rapid.Custom(func(t *rapid.T) Summary {
		charges := rapid.OneOf(rapid.Just(Charge{}), rapid.Map(rapid.Int64(), ChargeOfMillionths))
		row := rapid.Custom(func(t *rapid.T) SummaryRow {
			r := SummaryRow{
				Resource:       texts().Draw(t, "resource"),
				LocalProjectID: texts().Draw(t, "project"),
				Username:       texts().Draw(t, "user"),
				Day:            rapid.SampledFrom([]string{"", "2026-10-01"}).Draw(t, "day"),
				Month:          rapid.SampledFrom([]string{"", "2026-10"}).Draw(t, "month"),
				UsageType:      rapid.OneOf(kinds(), rapid.Just(UsageType(""))).Draw(t, "kind"),
				RecordCount:    rapid.Int64Min(0).Draw(t, "records"),
				Deducted:       charges.Draw(t, "deducted"),
				GivenBack:      charges.Draw(t, "given back"),
				Charge:         charges.Draw(t, "charge"),
			}
			if rapid.Bool().Draw(t, "balance") {
				r.Balance = &Balance{charges.Draw(t, "allocated"), charges.Draw(t, "used"), charges.Draw(t, "back"), charges.Draw(t, "remaining")}
			}
			return r
		})
		return Summary{
			GroupBy: rapid.SliceOfN(rapid.SampledFrom(GroupKeys), 0, 3).Draw(t, "keys"),
			Rows:    rapid.SliceOfN(row, 0, 3).Draw(t, "rows"),
		}
	})
}

func TestSummariesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := summaries().Draw(t, "summary")
		data := mustMarshal(t, want)
		got := mustDecode[Summary](t, data)
		mustEqual(t, "summary", &want, got)
		mustEqual(t, "bytes", string(data), string(mustMarshal(t, got)))

		table, err := want.CSV()
		if err != nil {
			t.Fatalf("%v", err)
		}
		lines, err := csv.NewReader(strings.NewReader(string(table))).ReadAll()
		if err != nil || len(lines) != 1+len(want.Rows) || !slices.Equal(lines[0], SummaryColumns) {
			t.Fatalf("as CSV: %v\n%s", err, table)
		}
		for i, row := range want.Rows {
			if len(row.Cells()) != len(SummaryColumns) || len(lines[i+1]) != len(SummaryColumns) {
				t.Fatalf("%d cells for %d columns", len(row.Cells()), len(SummaryColumns))
			}
		}
	})
}

func TestSummaryJSON(t *testing.T) {
	mustEqual(t, "empty", `{"GroupBy":["resource"],"Rows":[]}`, string(mustMarshal(t, Summary{GroupBy: []GroupKey{ByResource}})))
	mustEqual(t, "a row", `{"GroupBy":["project"],"Rows":[{"LocalProjectID":"p","RecordCount":2,"Deducted":"3","GivenBack":"1","Charge":"2",`+
		`"Balance":{"Allocated":"100","Used":"3","GivenBack":"1","Remaining":"98"}}]}`, string(mustMarshal(t, summaryOfOne(t))))
}

func summaryOfOne(t *testing.T) Summary {
	charge := func(s string) Charge { return mustCharge(t, s) }
	return Summary{
		GroupBy: []GroupKey{ByProject},
		Rows: []SummaryRow{{
			LocalProjectID: "p", RecordCount: 2, Deducted: charge("3"), GivenBack: charge("1"), Charge: charge("2"),
			Balance: &Balance{charge("100"), charge("3"), charge("1"), charge("98")},
		}},
	}
}

func TestSummaryLineAndCSV(t *testing.T) {
	s := summaryOfOne(t)
	mustEqual(t, "line", "p: 2 records, charge 2", s.Rows[0].String())
	s.Rows[0].Resource, s.Rows[0].Username, s.Rows[0].Month = "r", "=1+1", "2026-10"
	mustEqual(t, "line", "r p =1+1 2026-10: 2 records, charge 2", s.Rows[0].String())
	mustEqual(t, "empty line", "-: 0 records, charge -", SummaryRow{}.String())
	table, err := s.CSV()
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "CSV", "Resource,LocalProjectID,Username,Day,Month,UsageType,RecordCount,Deducted,GivenBack,Charge,"+
		"ProjectAllocated,ProjectUsed,ProjectGivenBack,ProjectRemaining\n"+
		"r,p,'=1+1,,2026-10,,2,3,1,2,100,3,1,98\n", string(table))
}

// What a spreadsheet would run is a text to it; a negative charge is a number.
func TestCSVIsNoFormula(t *testing.T) {
	charge := func(s string) Charge { return mustCharge(t, s) }
	for name, cell := range map[string]string{
		"=1+1": "'=1+1", "+1": "'+1", "-12.5": "'-12.5", "@SUM(A1)": "'@SUM(A1)",
		"\t=1": "'\t=1", "\r=1": "'\r=1", "\n=1": "'\n=1", "＝1": "'＝1", "＋1": "'＋1", "－1": "'－1", "＠1": "'＠1",
		"": "", "alice": "alice", " =1": " =1", "a=1": "a=1", "'=1": "'=1", "\xff=": "\xff=", "12.5": "12.5", "a\r\n=1,\"b\"": "a\r\n=1,\"b\"",
	} {
		s := Summary{Rows: []SummaryRow{{
			Resource: name, LocalProjectID: name, Username: name, Deducted: charge("0"), GivenBack: charge("12.5"), Charge: charge("-12.5"),
		}}}
		table, err := s.CSV()
		if err != nil {
			t.Fatal(err)
		}
		// The standard reader takes CR LF inside a cell for LF.
		cell = strings.ReplaceAll(cell, "\r\n", "\n")
		rows, err := csv.NewReader(bytes.NewReader(table)).ReadAll()
		if err != nil || len(rows) != 2 {
			t.Fatalf("%q: %d rows, %v", name, len(rows), err)
		}
		mustEqual(t, "row", []string{cell, cell, cell, "", "", "", "0", "0", "12.5", "-12.5", "", "", "", ""}, rows[1])
	}
}

func TestSummaryRowGroup(t *testing.T) {
	row := SummaryRow{Resource: "r", LocalProjectID: "p", Username: "u", Day: "d", Month: "m", UsageType: Storage}
	mustEqual(t, "all keys", []string{"r", "p", "u", "d", "m", "Storage"}, row.Group(GroupKeys))
	mustEqual(t, "two keys", []string{"u", "r"}, row.Group([]GroupKey{ByUser, ByResource}))
}

func TestSummaryQueriesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := periods().Draw(t, "period")
		want := SummaryQuery{rapid.SliceOfNDistinct(rapid.SampledFrom(GroupKeys), 1, 6, rapid.ID).Draw(t, "keys"), p[0], p[1]}
		got, err := ParseSummaryQuery(overTheWire(t, want.Values()))
		if err != nil {
			t.Fatalf("%v", err)
		}
		mustEqual(t, "query", want, got)
	})
	got, err := ParseSummaryQuery(SummaryQuery{}.Values())
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "empty query", SummaryQuery{GroupBy: []GroupKey{ByResource}}, got)
}

func TestParseGroupKeys(t *testing.T) {
	keys, err := ParseGroupKeys(" Project, day ,USAGE-TYPE,project")
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "keys", []GroupKey{ByProject, ByDay, ByUsageType}, keys)
	for _, s := range []string{",", "project,", "colour", "resource;day"} {
		keys, err := ParseGroupKeys(s)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeInvalid || e.Hint == "" {
			t.Errorf("ParseGroupKeys(%q) = %v, %v", s, keys, err)
		}
	}
	for _, v := range []map[string][]string{{"GroupBy": {"colour"}}, {"FromTime": {"x"}}, {"ToTime": {"x"}},
		{"FromTime": {"2026-10-02"}, "ToTime": {"2026-10-01"}}} {
		if q, err := ParseSummaryQuery(v); err == nil {
			t.Errorf("%v was read as %v", v, q)
		}
	}
}
