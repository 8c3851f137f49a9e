package amieusage

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Queries that are read and written again are the same queries.
func FuzzQuery(f *testing.F) {
	for _, raw := range []string{"", "MinLoadedTime=2026-10-01T00:00:00%2B05:30&LocalRecordID=%00%ff&Limit=10000&Cursor=a.1", "Offset=9223372036854775807",
		"Limit=0", "Limit=10001", "Limit=%2B7", "Limit=0x7", "Offset=-1", "Cursor=a&Offset=1", "Offset=0&Cursor=a", "FromTime=2026-10-01&ToTime=2026-09-01",
		"FromTime=0001-01-01T05:00:00%2B05:00", "GroupBy=day,User,%20month,day&FromTime=2026-10-01T00:00:00.123456789Z&ToTime=9999-12-31",
		"GroupBy=", "GroupBy=,", "a;b", "%zz"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		v, _ := url.ParseQuery(raw) // what is wrong in it is left out
		written := func(v url.Values) url.Values {
			again, err := url.ParseQuery(v.Encode())
			if err != nil {
				t.Fatal(err)
			}
			return again
		}
		loaded, err := ParseLoadedQuery(v)
		limit, limitOK := slowParameter(v.Get("Limit"), 1, MaxLoadedPage)
		offset, offsetOK := slowParameter(v.Get("Offset"), 0, 1<<63-1)
		since, sinceOK := slowTimeParameter(v.Get("MinLoadedTime"))
		usedFrom, usedFromOK := slowTimeParameter(v.Get("FromTime"))
		usedTo, usedToOK := slowTimeParameter(v.Get("ToTime"))
		usedOK := usedFromOK && usedToOK && (usedFrom.IsZero() || usedTo.IsZero() || !usedTo.Before(usedFrom))
		if ok := limitOK && offsetOK && sinceOK && usedOK && (offset == 0 || v.Get("Cursor") == ""); ok != (err == nil) {
			t.Fatalf("%q: %v", raw, err)
		}
		if err == nil {
			mustBeSame(t, LoadedQuery{since, v.Get("LocalRecordID"), v.Get("LocalProjectID"), v.Get("Username"), usedFrom, usedTo,
				int(limit), offset, v.Get("Cursor")}, loaded)
			again, err := ParseLoadedQuery(written(loaded.Values()))
			if err != nil {
				t.Fatal(err)
			}
			mustBeSame(t, loaded, again)
		}
		from, fromOK := slowTimeParameter(v.Get("FromTime"))
		to, toOK := slowTimeParameter(v.Get("ToTime"))
		periodOK := fromOK && toOK && (from.IsZero() || to.IsZero() || !to.Before(from))
		status, err := ParseStatusQuery(v)
		if periodOK != (err == nil) {
			t.Fatalf("%q: %v", raw, err)
		}
		if err == nil {
			mustBeSame(t, StatusQuery{from, to}, status)
			again, err := ParseStatusQuery(written(status.Values()))
			if err != nil {
				t.Fatal(err)
			}
			mustBeSame(t, status, again)
		}
		summary, err := ParseSummaryQuery(v)
		if err != nil {
			return
		}
		if !periodOK || len(summary.GroupBy) == 0 || len(summary.GroupBy) > len(GroupKeys) {
			t.Fatalf("%q: %+v", raw, summary)
		}
		for _, k := range GroupKeys {
			asked := slices.ContainsFunc(strings.Split(v.Get("GroupBy"), ","), func(s string) bool {
				return strings.EqualFold(strings.TrimSpace(s), string(k))
			})
			if slices.Contains(summary.GroupBy, k) != (asked || v.Get("GroupBy") == "" && k == ByResource) {
				t.Fatalf("%q: grouped by %v", raw, summary.GroupBy)
			}
		}
		again, err := ParseSummaryQuery(written(summary.Values()))
		if err != nil {
			t.Fatal(err)
		}
		mustBeSame(t, summary, again)
	})
}

// mustBeSame compares times as instants.
func mustBeSame(t *testing.T, want, got any) {
	t.Helper()
	mustEqual(t, "query", want, got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }))
}

func slowParameter(s string, low, high int64) (int64, bool) {
	if s == "" {
		return 0, true
	}
	if strings.Trim(s, "+-0123456789") != "" {
		return 0, false
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok || n.Cmp(big.NewInt(low)) < 0 || n.Cmp(big.NewInt(high)) > 0 {
		return 0, false
	}
	return n.Int64(), true
}

func slowTimeParameter(s string) (time.Time, bool) {
	if s == "" {
		return time.Time{}, true
	}
	return slowTime(s)
}

// What a client understood of an answer is the same when it is written and read
// again.
func FuzzAnswer(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add([]byte(`{"Message":"m","FailedRecords":[` + string(data) + `]}`))
		f.Add([]byte(`[{"Resource":"r","LoadedRecordCount":"2","TotalCharge":-1.50,"Errors":[{"Error":"e","Records":[` + string(data) + `]}]}]`))
	}
	for _, s := range []string{
		`{"ValidationFailedRecords":[{"UsageType":"compute","Error":"e"}],"FailedRecords":[]}`, `{"failedrecords":null}`, `[null]`, `[{"Errors":[null]}]`,
		`[{"AccountingDbRecordID":"7","LocalRecordID":4711,"Resource":"r","SubmitTime":"2026-10-01","LoadedTime":"2026-10-02T00:00:00+00:00","Charge":1.50,"UsageType":"Storage"}]`,
		`{"GroupBy":["project"],"Rows":[{"LocalProjectID":"p","RecordCount":3,"Charge":"4.5","Balance":{"Remaining":-1}}]}`, `{"Rows":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var lists struct{ FailedRecords, ValidationFailedRecords []json.RawMessage }
		count := -1
		if json.Unmarshal(data, &lists) == nil {
			if count = len(lists.FailedRecords); count == 0 {
				count = len(lists.ValidationFailedRecords)
			}
		}
		if r, ok := mustKeepAnswer[SendResponse](t, data); ok && len(r.FailedRecords) != count {
			t.Fatalf("%d failed records, and not %d", len(r.FailedRecords), count)
		}
		if r, ok := mustKeepAnswer[FailedRecords](t, data); ok != (count >= 0) || ok && len(r) != count {
			t.Fatalf("%d failed records, and not %d", len(r), count)
		}
		mustKeepAnswer[Status](t, data)
		mustKeepAnswer[Summary](t, data)
		mustKeepAnswer[[]LoadedRecord](t, data)
	})
}

func mustKeepAnswer[T any](t *testing.T, data []byte) (first T, ok bool) {
	if json.Unmarshal(data, &first) != nil {
		return first, false
	}
	write := func(v T) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		mustBeStrict(t, data)
		return data
	}
	second := *mustDecode[T](t, write(first))
	third := *mustDecode[T](t, write(second))
	mustEqual(t, "what was read again", second, third, apartFromRaw)
	if !bytes.Equal(write(second), write(third)) {
		t.Fatalf("%s is not stable", write(second))
	}
	return first, true
}

// What a summary writes as CSV, encoding/csv reads back: names as they are, or
// behind an apostrophe where a spreadsheet might take them for a formula.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{"", "a,b", `"`, "two\nlines", "\r\n", "=1+1", "+1", "-1", "@x", "\t=x", "\rx", "'x", " ", "é名", "\xff", "\\.", "#x", ";x"} {
		f.Add(s, "p.abc123456.000", "alice", "2026-10-01", "Compute", int64(1), "1.5")
		f.Add("bridges2-rm.psc.access-ci.org", s, s, s, s, int64(-1), "-0.000001")
	}
	f.Fuzz(func(t *testing.T, resource, project, user, day, kind string, n int64, charge string) {
		c, _ := ParseCharge(charge)
		row := SummaryRow{Resource: resource, LocalProjectID: project, Username: user, Day: day, Month: day, UsageType: UsageType(kind),
			RecordCount: n, Deducted: c, GivenBack: c, Charge: c, Balance: &Balance{Allocated: c, Used: c, GivenBack: c, Remaining: c}}
		data, err := (&Summary{Rows: []SummaryRow{row, {}}}).CSV()
		if err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
		if err != nil || len(rows) != 3 {
			t.Fatalf("%d rows, error %v, of %q", len(rows), err, data)
		}
		mustEqual(t, "header", SummaryColumns, rows[0])
		names := []string{resource, project, user, day, day, kind}
		for i, cell := range rows[1] {
			if i >= len(names) {
				want := charge
				if i == len(names) {
					want = strconv.FormatInt(n, 10)
				} else if !c.IsSet() {
					want = ""
				}
				mustEqual(t, SummaryColumns[i], want, cell)
				continue
			}
			want := strings.ReplaceAll(names[i], "\r\n", "\n") // which encoding/csv makes one of
			formula := want != "" && strings.Contains("=+-@\t\r", want[:1])
			if cell != "'"+want && (formula || cell != want) {
				t.Fatalf("%s: %q became %q", SummaryColumns[i], want, cell)
			}
		}
	})
}
