package usageclient

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
)

// member returns a copy of a JSON object with one member set, or taken away
// where value is "".
func member(object, name, value string) string {
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &m); err != nil {
		panic(err)
	}
	delete(m, name)
	if value != "" {
		m[name] = json.RawMessage(value)
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func recharged(r *amieusage.ComputeRecord, charge string) *amieusage.ComputeRecord {
	other := *r
	var err error
	if other.Charge, err = amieusage.ParseCharge(charge); err != nil {
		panic(err)
	}
	return &other
}

func TestJudged(t *testing.T) {
	a, b, c := compute(1), compute(2), compute(3)
	b2 := recharged(b, "17")
	requeued := *b // the same job id, submitted again
	requeued.SubmitTime, requeued.LocalReference = c.SubmitTime, "ref-requeued"
	echo := func(r amieusage.Record, reason string) string {
		return string(amieusage.FailedRecord{UsageType: amieusage.Compute, Error: reason, Record: r}.AppendJSON(nil))
	}
	for _, test := range []struct {
		name      string
		records   []amieusage.Record
		failed    []string
		want      string // states; ? where it is not exact
		reasons   string // of the refused
		unmatched int
	}{
		{"none", []amieusage.Record{a, b}, nil, "aa", "", 0},
		{"as it was", []amieusage.Record{a, b, c}, []string{echo(b, "x")}, "ara", "x", 0},
		{"in another order", []amieusage.Record{a, b, c}, []string{echo(c, "y"), echo(a, "x")}, "rar", "x y", 0},
		{"without a reason", []amieusage.Record{a, b}, []string{echo(b, "")}, "ar", "the service gives no reason", 0},
		{"without its kind", []amieusage.Record{a, b}, []string{member(echo(b, "x"), "UsageType", "")}, "ar", "x", 0},
		{"with further fields", []amieusage.Record{a, b}, []string{member(echo(b, "x"), "Line", "7")}, "ar", "x", 0},
		{"with a charge written in another way", []amieusage.Record{a, b, c}, []string{member(echo(b, "x"), "Charge", "16.250000001")}, "ara", "x", 0},
		{"without attributes", []amieusage.Record{a, b}, []string{member(echo(b, "x"), "Attributes", "")}, "ar", "x", 0},
		{"with an unreadable time", []amieusage.Record{a, b, c}, []string{member(echo(b, "x"), "SubmitTime", `"yesterday"`)}, "ara", "x", 0},
		{"without a time, and the job was requeued", []amieusage.Record{a, b, &requeued}, []string{member(echo(b, "x"), "SubmitTime", "")}, "?", "", 0},
		{"only the site's key", []amieusage.Record{a, b}, []string{`{"LocalReference": "ref-2", "Error": "x"}`}, "ar", "x", 0},
		{"only the id", []amieusage.Record{a, b}, []string{`{"LocalRecordID": "4713", "Error": "x"}`}, "ar", "x", 0},
		{"id as a number", []amieusage.Record{a, b}, []string{`{"LocalRecordID": 4713, "Error": "x"}`}, "ar", "x", 0},
		{"only the id, of two", []amieusage.Record{a, b, b2}, []string{`{"LocalRecordID": "4713", "Error": "x"}`}, "?", "", 0},
		{"only the id, both of two", []amieusage.Record{a, b, b2},
			[]string{`{"LocalRecordID": "4713", "Error": "x"}`, `{"LocalRecordID": "4713", "Error": "y"}`}, "arr", "x y", 0},
		{"the first of two revisions", []amieusage.Record{a, b, b2}, []string{echo(b, "x")}, "ara", "x", 0},
		{"the second of two revisions", []amieusage.Record{a, b, b2}, []string{echo(b2, "x")}, "aar", "x", 0},
		{"both revisions, the other way round", []amieusage.Record{b, b2}, []string{echo(b2, "y"), echo(b, "x")}, "rr", "x y", 0},
		{"one revision as it was, one not", []amieusage.Record{b, b2},
			[]string{member(echo(b, "x"), "Charge", "16.3"), echo(b2, "y")}, "rr", "x y", 0},
		{"one of two revisions, not as it was", []amieusage.Record{b, b2}, []string{member(echo(b, "x"), "Charge", "16.3")}, "?", "", 0},
		{"equal content, listed twice", []amieusage.Record{b, a, b}, []string{echo(b, "x"), echo(b, "y")}, "rar", "x y", 0},
		{"equal content, listed once", []amieusage.Record{b, a, b}, []string{echo(b, "x")}, "rar", "x x", 0},
		{"listed twice", []amieusage.Record{a, b}, []string{echo(b, "x"), echo(b, "x")}, "ar", "x", 0},
		{"an earlier failed record", []amieusage.Record{a, b}, []string{member(echo(c, "x"), "FailedRecordID", "7")}, "aa", "", 1},
		{"an earlier failed record, one sent", []amieusage.Record{a}, []string{member(echo(c, "x"), "FailedRecordID", "7")}, "a", "", 1},
		{"one sent, with an id at once", []amieusage.Record{a, b}, []string{member(echo(b, "x"), "FailedRecordID", "7")}, "ar", "x", 0},
		{"unlike all", []amieusage.Record{a, b}, []string{echo(c, "x")}, "?", "", 0},
		{"unreadable", []amieusage.Record{a, b}, []string{`"record 2 is bad"`}, "?", "", 0},
		{"unreadable, one sent", []amieusage.Record{b}, []string{`"record 1 is bad"`}, "r", "the service gives no reason", 0},
		{"unlike it, one sent", []amieusage.Record{b}, []string{`{"Error": "bad"}`}, "r", "bad", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			batch := newBatch(amieusage.Compute, 0)
			for i, r := range test.records {
				batch.append(i, r, r.AppendJSON(nil))
			}
			var response amieusage.SendResponse
			body := `{"Message": "m", "FailedRecords": [` + strings.Join(test.failed, ",") + `]}`
			if err := json.Unmarshal([]byte(body), &response); err != nil {
				t.Fatal(err)
			}
			result, exact := batch.judged(response.FailedRecords, strings.TrimSpace)
			if exact != (test.want != "?") {
				t.Fatalf("exact is %t: %s", exact, states(result))
			}
			if !exact {
				return
			}
			var reasons []string
			for _, o := range result.Refused() {
				reasons = append(reasons, o.Err.Error())
			}
			if states(result) != test.want || strings.Join(reasons, " ") != test.reasons || len(result.Unmatched) != test.unmatched {
				t.Errorf("%s for %q, %d unmatched", states(result), reasons, len(result.Unmatched))
			}
		})
	}
}

// TestRefusalsInDoubt sends to services that hardly say which records they
// refuse: what is sent again in halves settles it.
func TestRefusalsInDoubt(t *testing.T) {
	bad := map[string]bool{"16.00": true, "17.00": true}
	var records []amieusage.Record
	var want strings.Builder
	for i := range 200 {
		for rev := range 1 + i%3 { // the revisions of one identity
			charge := fmt.Sprintf("%d.00", i%40+rev)
			records = append(records, recharged(compute(i), charge))
			if bad[charge] {
				want.WriteByte('r')
			} else {
				want.WriteByte('a')
			}
		}
	}
	for name, echo := range map[string]func(f amieusage.FailedRecord) string{
		"only the reason": func(f amieusage.FailedRecord) string { return fmt.Sprintf(`{"Error": %q}`, f.Error) },
		"only the id": func(f amieusage.FailedRecord) string {
			return fmt.Sprintf(`{"LocalRecordID": %q, "Error": %q}`, f.Record.Common().LocalRecordID, f.Error)
		},
		"charge rewritten": func(f amieusage.FailedRecord) string { return member(string(f.AppendJSON(nil)), "Charge", `"0"`) },
		"text":             func(f amieusage.FailedRecord) string { return `"bad record"` },
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{t: t, echo: echo, refuse: func(r amieusage.Record) string {
				if charge := r.Common().Charge.String(); bad[charge] {
					return "bad charge"
				}
				return ""
			}}
			c := serve(t, s)
			result, err := c.Send(context.Background(), records...)
			if err != nil || states(result) != want.String() {
				t.Fatalf("%s\nwant %s, error %v", states(result), want.String(), err)
			}
			if diff := cmp.Diff(lastRevisions(acceptedOf(result)), lastRevisions(s.accepted)); diff != "" {
				t.Errorf("last revisions (-client +service):\n%s", diff)
			}
			if s.requests > 2*len(records) {
				t.Errorf("%d requests for %d records", s.requests, len(records))
			}
		})
	}
}

func acceptedOf(result *SendResult) []amieusage.Record {
	var records []amieusage.Record
	for _, o := range result.Accepted() {
		records = append(records, o.Record)
	}
	return records
}

// lastRevisions returns the content that a ledger ends with: the last accepted
// wins.
func lastRevisions(records []amieusage.Record) map[amieusage.Identity]amieusage.Digest {
	last := map[amieusage.Identity]amieusage.Digest{}
	for _, r := range records {
		last[r.Identity()] = amieusage.ContentDigest(r)
	}
	return last
}
