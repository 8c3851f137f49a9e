package amieusage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// bombs are inputs that cost a careless reader time, memory or its stack.
var bombs = map[string]string{
	"exponent":          computeJSON("Charge", "1e999999999"),
	"small exponent":    computeJSON("Charge", `"1e-999999999"`),
	"exponent of count": computeJSON("Attributes", `{"NodeCount":1e999999999}`),
	"digits":            computeJSON("Charge", strings.Repeat("9", 1<<20)),
	"digits of count":   computeJSON("Attributes", `{"NodeCount":`+strings.Repeat("9", 1<<20)+`}`),
	"fraction of time":  computeJSON("SubmitTime", `"2026-10-01T00:00:00.`+strings.Repeat("0", 1<<20)+`"`),
	"depth":             computeJSON("x", strings.Repeat("[", 1<<20)+strings.Repeat("]", 1<<20)),
	"depth of objects":  computeJSON("x", strings.Repeat(`{"a":`, 9000)+"1"+strings.Repeat("}", 9000)),
	"open brackets":     strings.Repeat("[", 1<<20),
	"same names":        "{" + strings.Repeat(`"a":1,`, 1<<17) + `"a":1}`,
	"nested same names": computeJSON("x", strings.Repeat(`{"b":1,"a":`, 90)+"1"+strings.Repeat(`,"a":2}`, 90)),
	"other names":       manyNames(100_000),
	"spaces":            strings.Repeat(" ", 1<<20) + "{}",
	"escapes":           computeJSON("Username", `"`+strings.Repeat(`\u0041`, 1<<17)+`"`),
	"parents":           computeJSON("ParentRecordID", "["+strings.Repeat("null,", 1<<17)+"null]"),
}

func manyNames(n int) string {
	var b strings.Builder
	b.WriteString("{")
	for i := range n {
		fmt.Fprintf(&b, `"n%d":1,`, i)
	}
	b.WriteString(`"end":1}`)
	return b.String()
}

// Nothing that a client sends in one request keeps the service busy for long.
func TestBombs(t *testing.T) {
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			r, err := CheckRecord(Compute, []byte(bomb))
			mustBeStrict(t, FailedRecord{UsageType: Compute, Error: fmt.Sprint(err), Record: r, Problem: err, Raw: []byte(bomb)}.AppendJSON(nil))
			mustBeStrict(t, r.AppendJSON(nil))
			if _, _, err := DecodeMessage([]byte(`{"UsageType":"Compute","Records":[` + bomb + `]}`)); err == nil && name == "open brackets" {
				t.Error("open brackets are a message")
			}
			var failed FailedRecord
			if err := failed.UnmarshalJSON([]byte(bomb)); err != nil {
				t.Error(err)
			}
			mustMarshal(t, failed)
			if took := time.Since(start); took > 20*time.Second { // of a busy machine, with the race detector; what grows with the square takes minutes
				t.Errorf("took %s", took)
			}
		})
	}
}

func seeds(f *testing.F) [][]byte {
	all := [][]byte{nil, []byte("null"), []byte("{}"), []byte("[]"), []byte(`"x"`), []byte("\xff"), []byte("{")}
	data, err := os.ReadFile("testdata/wire/amieclient-0.6.1-requests.json")
	if err != nil {
		f.Fatal(err)
	}
	var requests []struct {
		Body struct{ Records []json.RawMessage }
	}
	if err := json.Unmarshal(data, &requests); err != nil {
		f.Fatal(err)
	}
	for _, request := range requests {
		for _, raw := range request.Body.Records {
			all = append(all, raw)
		}
	}
	for _, field := range [][2]string{
		{"x", `{"a":[1,2.50,"\u00e9"]}`}, {"x", `{"y":1,"y":2}`}, {"UsageType", `"compute"`}, {"FailedRecordID", `"17"`},
		{"Error", `{"a":1}`}, {"Charge", "1e-7"}, {"Charge", `"+.5"`}, {"Charge", "-0"}, {"SubmitTime", `"2026-10-01 00:00:00,5+0530"`},
		{"Attributes", `{"NodeCount":"4.0","Error":1}`}, {"Attributes", "7"}, {"Username", `"\ud800"`}, {"Username", "\"\xff\""},
		{"ParentRecordID", `["4712",null]`}, {"LocalRecordID", "4711.0"}, {"x", strings.Repeat("[", 101) + strings.Repeat("]", 101)},
	} {
		all = append(all, []byte(computeJSON(field[0], field[1])))
	}
	return all
}

func FuzzCheckRecord(f *testing.F) {
	for _, kind := range []UsageType{Compute, Storage, Adjustment} {
		for _, data := range seeds(f) {
			f.Add(string(kind), data)
		}
	}
	f.Fuzz(func(t *testing.T, kind string, data []byte) { checkRecordHolds(t, UsageType(kind), data) })
}

// checkRecordHolds asserts what holds for whatever is sent as a record.
func checkRecordHolds(t *testing.T, kind UsageType, data []byte) {
	before := bytes.Clone(data)
	r, err := CheckRecord(kind, data)
	if !bytes.Equal(before, data) {
		t.Fatal("the data were changed")
	}
	if r == nil {
		if _, err := ParseUsageType(string(kind)); err == nil {
			t.Fatalf("no record of kind %q", kind)
		}
		return
	}
	mustKeepItsMeaning(t, FailedRecord{UsageType: kind, Error: fmt.Sprint(err), Record: r, Problem: err, Raw: data})
	mustKeepItsMeaning(t, FailedRecord{UsageType: kind, Error: fmt.Sprint(err), Record: r})
	encoded := r.AppendJSON(nil)
	mustBeStrict(t, encoded)
	if strings.ContainsAny(r.String(), "\n\r") {
		t.Fatalf("not one line: %q", r)
	}
	if err != nil {
		if len(problemFields(t, err)) == 0 {
			t.Fatal("an error without a problem")
		}
		return
	}
	again, err := CheckRecord(kind, encoded)
	if err != nil {
		t.Fatalf("%s became %s: %v", data, encoded, err)
	}
	if diff := cmp.Diff(r, again, exactly); diff != "" {
		t.Fatalf("%s became %s:\n%s", data, encoded, diff)
	}
	if !bytes.Equal(encoded, again.AppendJSON(nil)) || ContentDigest(r) != ContentDigest(again) || r.Identity() != again.Identity() {
		t.Fatalf("%s is not stable", encoded)
	}
	if err := r.Validate(); err != nil {
		t.Fatalf("valid when it was read: %v", err)
	}
	mustAgreeWithStandard(t, r, data)
	if n, err := r.Common().Charge.Millionths(); err != nil || n < 0 {
		t.Fatalf("charge %s: %d, %v", r.Common().Charge, n, err)
	}
}

// mustAgreeWithStandard asserts that a valid record says what encoding/json and
// plain arithmetic make of the data.
func mustAgreeWithStandard(t *testing.T, r Record, data []byte) {
	members := *mustDecode[map[string]json.RawMessage](t, data)
	var attributes map[string]json.RawMessage
	schema := r.schema()
	if schema.hasAttributes && members["Attributes"] != nil {
		attributes = *mustDecode[map[string]json.RawMessage](t, members["Attributes"])
	}
	for i := range schema.fields {
		f := &schema.fields[i]
		raw := members[f.name]
		if f.attribute {
			raw = attributes[f.name]
		}
		if list := []json.RawMessage{}; f.listed && json.Unmarshal(raw, &list) == nil && len(list) > 0 {
			raw = list[0]
		}
		text := string(raw)
		if s := ""; text == "null" || json.Unmarshal(raw, &s) == nil {
			text = s
		}
		if text == "[]" && f.listed {
			text = ""
		}
		switch got := f.value(r).(type) {
		case *string:
			mustEqual(t, f.path, text, *got)
		case *AdjustmentType:
			mustEqual(t, f.path, strings.ToLower(text), string(*got))
		case *Charge:
			mustEqual(t, f.path, text, got.String())
		case *time.Time:
			want, ok := slowTime(text)
			if ok != (text != "") || !want.Equal(*got) {
				t.Fatalf("%s is %q and became %s", f.path, text, got)
			}
		case *Count:
			n, set := got.Get()
			if want, ok := slowNumber(text); set != (text != "") || set && (!ok || want.Cmp(new(big.Rat).SetInt64(n)) != 0) {
				t.Fatalf("%s is %q and became %s", f.path, text, got)
			}
		}
	}
	extra, extraAttributes := r.extras()
	mustHoldTheRest(t, schema, false, members, *extra)
	if extraAttributes != nil {
		mustHoldTheRest(t, schema, true, attributes, *extraAttributes)
	}
}

// mustHoldTheRest asserts that extra holds the members that the schema does not
// know, and nothing else.
func mustHoldTheRest(t *testing.T, schema *recordSchema, attributes bool, members map[string]json.RawMessage, extra Extra) {
	got := map[string]string{}
	for _, e := range extra {
		got[e.Name] = string(e.Value)
	}
	want := map[string]string{}
	for name, raw := range members {
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			t.Fatal(err)
		}
		if !schema.taken(name, attributes) {
			want[name] = compact.String()
		}
	}
	mustEqual(t, "unknown fields", want, got)
}

func FuzzDecodeMessage(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add([]byte(`{"UsageType":"Compute","Records":[` + string(data) + `]}`))
		f.Add([]byte(`{"Records":[` + string(data) + `,{}],"UsageType":"storage"}`))
	}
	f.Add([]byte(`{"UsageType":"Adjustment","x":{"Records":1},"Records":[ ]} `))
	f.Fuzz(decodeMessageHolds)
}

func decodeMessageHolds(t *testing.T, data []byte) {
	kind, records, err := DecodeMessage(data)
	if err != nil {
		if kind != "" || records != nil || !utf8.ValidString(err.Error()) {
			t.Fatalf("%q, %d records, %v", kind, len(records), err)
		}
		return
	}
	mustHoldTheRecords(t, records, data)
	again := AppendMessageStart(nil, kind)
	for i, raw := range records {
		if i > 0 {
			again = append(again, ',')
		}
		again = append(again, raw...)
		checkRecordHolds(t, kind, raw)
	}
	sameKind, same, err := DecodeMessage(append(again, MessageEnd...))
	if err != nil || sameKind != kind {
		t.Fatalf("%s: %q, %v", again, sameKind, err)
	}
	mustEqual(t, "records", records, same)

	var m Message
	if m.UnmarshalJSON(data) != nil {
		return
	}
	var other Message
	if err := other.UnmarshalJSON(mustMarshal(t, m)); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "message", m, other)
}

// mustHoldTheRecords asserts that the records are those that encoding/json
// finds.
func mustHoldTheRecords(t *testing.T, records [][]byte, data []byte) {
	members := *mustDecode[map[string]json.RawMessage](t, data)
	want := *mustDecode[[]json.RawMessage](t, members["Records"])
	if len(records) != len(want) {
		t.Fatalf("%d records, and not %d", len(records), len(want))
	}
	for i, raw := range records {
		if !bytes.Equal(raw, want[i]) {
			t.Fatalf("record %d is %s, and not %s", i, raw, want[i])
		}
	}
}

func FuzzFailedRecord(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add(data)
		f.Add(bytes.Replace(data, []byte("}"), []byte(`,"UsageType":"Storage","Error":"e","FailedRecordID":7}`), 1))
	}
	f.Fuzz(failedRecordHolds)
}

func failedRecordHolds(t *testing.T, data []byte) {
	var failed FailedRecord
	if err := failed.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(failed.Raw, data) {
		t.Fatal("it is not kept as it came")
	}
	mustKeepItsMeaning(t, failed)
}
