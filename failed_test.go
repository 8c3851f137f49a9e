package amieusage

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func failedRecords() *rapid.Generator[FailedRecord] {
	return rapid.Custom(func(t *rapid.T) FailedRecord {
		kind := kinds().Draw(t, "kind")
		return FailedRecord{
			UsageType:      kind,
			Error:          texts().Draw(t, "error"),
			FailedRecordID: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64()).Draw(t, "id"),
			Record:         validRecords(kind).Draw(t, "record"),
		}
	})
}

func TestFailedRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := failedRecords().Draw(t, "failed")
		data := mustMarshal(t, want)
		var got FailedRecord
		if err := got.UnmarshalJSON(data); err != nil {
			t.Fatalf("%v", err)
		}
		mustEqual(t, "failed record", want, got, apartFromRaw)
		mustEqual(t, "as it came", string(data), string(got.Raw))
		mustEqual(t, "bytes", string(data), string(mustMarshal(t, got)))
	})
}

// A failed record that names no kind, or one that nobody knows, is read by the
// field that only one kind has.
func TestFailedRecordOfUnnamedKind(t *testing.T) {
	for in, want := range map[string]struct {
		kind    UsageType
		problem string
	}{
		`{"SubmitTime":"2026-10-01","Error":"e"}`:                   {Compute, ""},
		`{"CollectionTime":"2026-10-01","Error":"e"}`:               {Storage, ""},
		`{"AdjustmentType":"refund","Error":"e"}`:                   {Adjustment, ""},
		`{"UsageType":"GPU","SubmitTime":"2026-10-01","Error":"e"}`: {Compute, `UsageType is "\"GPU\"" in a record of type Compute`},
		`{"UsageType":null,"CollectionTime":null,"Error":"e"}`:      {Storage, ""},
		`{"UsageType":"GPU","Error":"e"}`:                           {"GPU", `UsageType "GPU" is not one of Compute, Storage, Adjustment`},
		`{"Error":"e"}`:                                             {"", `UsageType "" is not one of Compute, Storage, Adjustment`},
		`{"UsageType":{"a":1},"Error":"e"}`:                         {"", `UsageType "" is not one of Compute, Storage, Adjustment`},
		`{"UsageType":"storage","FailedRecordID":"x","Error":"e"}`:  {Storage, ""},
		`{"UsageType":"storage","Charge":"free","Error":"e"}`:       {Storage, `Charge is not a decimal number: "free"`},
		`{"UsageType":"storage","x":1,"x":2,"Error":"e"}`:           {Storage, `is not well-formed JSON: duplicate object member name at "/x"`},
	} {
		f := mustDecode[FailedRecord](t, []byte(in))
		problem := ""
		if f.Problem != nil {
			problem = f.Problem.Error()
		}
		if f.UsageType != want.kind || problem != want.problem || f.Error != "e" || f.FailedRecordID != 0 || string(f.Raw) != in {
			t.Errorf("%s was read as %+v", in, f)
		}
		if wantRecord := want.kind == Compute || want.kind == Storage || want.kind == Adjustment; wantRecord != (f.Record != nil) {
			t.Errorf("%s holds the record %v", in, f.Record)
		}
		mustMarshal(t, f)
	}
}

func TestFailedRecordHead(t *testing.T) {
	for in, want := range map[string]FailedRecord{
		`"Error":"no such user","FailedRecordID":17`:      {Error: "no such user", FailedRecordID: 17},
		`"Error":"a\u0062","FailedRecordID":"17"`:         {Error: "ab", FailedRecordID: 17},
		`"Error":{"code":[1]},"FailedRecordID":17.0`:      {Error: `{"code":[1]}`, FailedRecordID: 17},
		`"Error":null,"FailedRecordID":null`:              {},
		`"Error":500,"FailedRecordID":1e99`:               {Error: "500"},
		`"Error":"","FailedRecordID":-1`:                  {FailedRecordID: -1},
		`"FailedRecordID":[1],"Error":false,"Charge":"1"`: {Error: "false"},
	} {
		f := mustDecode[FailedRecord](t, []byte(`{"UsageType":"Compute",`+in+`}`))
		if f.Error != want.Error || f.FailedRecordID != want.FailedRecordID || f.Problem != nil {
			t.Errorf("%s was read as %+v", in, f)
		}
	}
}

// One bad record never hides the others of a list.
func TestBadFailedRecordHidesNoOther(t *testing.T) {
	for _, bad := range []string{`null`, `7`, `"x"`, `[]`, `{}`, `{"UsageType":7,"Error":["x"]}`, `{"UsageType":"Compute","Attributes":7}`,
		`{"UsageType":"Storage","Charge":{}}`, `{"x":{"a":1,"a":2}}`, `{"a":"\ud800"}`, `{"UsageType":"Compute","x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`} {
		body := `{"FailedRecords":[` + bad + `,{"UsageType":"Storage","LocalRecordID":"4","Error":"e"}]}`
		list := *mustDecode[FailedRecords](t, []byte(body))
		if len(list) != 2 || list[0].Problem == nil && bad != `{"UsageType":"Compute"}` {
			t.Errorf("%.60s: %v", bad, list)
			continue
		}
		mustEqual(t, "the other", FailedRecord{UsageType: Storage, Error: "e", Record: &StorageRecord{LocalRecordID: "4"}}, list[1], apartFromRaw)
		mustMarshal(t, list)
	}
}

// What cannot be read is given back as it came as far as every reader can read
// it: no name twice, valid UTF-8, not too deep, Attributes where the reference
// client relies on them.
func TestUnreadableRecordsAreGivenBack(t *testing.T) {
	const deep = 5000
	for _, c := range []struct{ raw, want string }{
		{`{"Username":"alice","Charge":"free","Attributes":{"NodeCount":"x"},"extra":[1, 2]}`,
			`"Username":"alice","Charge":"free","Attributes":{"NodeCount":"x"},"extra":[1,2]`},
		{`{"Username":"alice","UsageType":"x","Error":"old","FailedRecordID":9}`, `"Username":"alice","Attributes":{}`},
		{`{"a":1,"a":2,"b":{"c":1,"c":2,"d":[{"e":1,"e":2}]}}`, `"a":1,"b":{"c":1,"d":[{"e":1}]},"Attributes":{}`},
		{`{"a":1,"\u0061":2}`, `"a":1,"Attributes":{}`},
		{"{\"a\xff\":\"b\xff\",\"a\xfe\":1}", `"a�":"b�","Attributes":{}`},
		{`{"a":"\ud800\u0041","b":"\ud83d\ude00"}`, `"a":"�A","b":"😀","Attributes":{}`},
		{`{"Attributes":null,"b":-0.10e+5}`, `"Attributes":{},"b":-0.10e+5`},
		{`{"Attributes":[1],"b":1}`, `"Attributes":{"Value":[1]},"b":1`},
		{`{"Attributes":"x"}`, `"Attributes":{"Value":"x"}`},
		{`{"Attributes":{},"Attributes":{"a":1}}`, `"Attributes":{}`},
		{`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, `"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `,"Attributes":{}`},
		{`{"a":` + strings.Repeat("[", deep) + `"\u0041"` + strings.Repeat("]", deep) + `}`,
			`"a":` + strings.Repeat("[", 100) + `"` + strings.Repeat("[", deep-100) + `\"\\u0041\"` + strings.Repeat("]", deep-100) + `"` + strings.Repeat("]", 100) + `,"Attributes":{}`},
		{strings.Repeat(`{"a":`, 103) + "1" + strings.Repeat("}", 103),
			strings.Repeat(`"a":{`, 100) + `"a":"{\"a\":{\"a\":1}}"` + strings.Repeat("}", 100) + `,"Attributes":{}`},
		{`{"a":1,"b":`, `"a":1,"Attributes":{}`},
		{`{"a":[1,{"b":2,"c":[3,`, `"a":[1,{"b":2,"c":[3]}],"Attributes":{}`},
		{`{"a":1 "b":2}`, `"a":1,"Attributes":{}`},
		{`{"Attributes":{"NodeCount":1,`, `"Attributes":{"NodeCount":1}`},
		{`null`, `"Value":null,"Attributes":{}`},
		{`[1,{"a":1,"a":2}]`, `"Value":[1,{"a":1}],"Attributes":{}`},
		{` 7 `, `"Value":7,"Attributes":{}`},
		{"garb\xffage", `"Value":"garb�age","Attributes":{}`},
		{`[1,`, `"Value":"[1,","Attributes":{}`},
		{``, `"Attributes":{}`},
	} {
		f := FailedRecord{UsageType: Compute, Error: "bad", Raw: json.RawMessage(c.raw), Problem: errors.New("bad")}
		want := "{" + c.want + `,"UsageType":"Compute","Error":"bad"}`
		if got := string(mustMarshal(t, f)); got != want {
			t.Errorf("%.80q:\n got %.300s\nwant %.300s", c.raw, got, want)
		}
	}
	f := FailedRecord{UsageType: "adjustment", Error: "bad", Raw: json.RawMessage(`{"Attributes":7}`)}
	mustEqual(t, "of a kind without attributes", `{"Attributes":7,"UsageType":"adjustment","Error":"bad"}`, string(mustMarshal(t, f)))
}

// Whatever came, and however it is answered, the answer is JSON that a strict
// reader accepts, and reading it and writing it again changes nothing.
func TestFailedRecordIsAlwaysStrict(t *testing.T) {
	piece := rapid.OneOf(jsonValues(2), rapid.SampledFrom([]string{`{"a":1,"a":{"b":1,"b":2}}`, "\"\xff\"", `"\udc00"`, `01`, `{`, `]`, `,`, "\x00", ""}))
	name := rapid.SampledFrom([]string{`"a"`, `"Attributes"`, `"UsageType"`, `"Charge"`, `"Error"`, "\"\xff\"", `"Value"`, `a`, `"`})
	garbage := rapid.Custom(func(t *rapid.T) []byte {
		if rapid.Bool().Draw(t, "bytes") {
			return rapid.SliceOf(rapid.Byte()).Draw(t, "raw")
		}
		var members []string
		for range rapid.IntRange(0, 5).Draw(t, "members") {
			members = append(members, name.Draw(t, "name")+":"+piece.Draw(t, "value"))
		}
		return []byte("{" + strings.Join(members, ",") + rapid.SampledFrom([]string{"}", "", "}}", `} "x"`}).Draw(t, "end"))
	})
	rapid.Check(t, func(t *rapid.T) {
		raw := garbage.Draw(t, "raw")
		kind := rapid.OneOf(kinds(), rapid.SampledFrom([]UsageType{"", "GPU", "\xff"})).Draw(t, "kind")
		var read FailedRecord
		if err := read.UnmarshalJSON(raw); err != nil {
			t.Fatalf("%v", err)
		}
		r, problem := CheckRecord(kind, raw)
		for _, f := range []FailedRecord{
			read,
			{UsageType: kind, Error: "e\xff", FailedRecordID: 1, Raw: raw},
			{UsageType: kind, Error: "e", Record: r, Problem: problem, Raw: raw},
			{UsageType: kind, Error: "e", Record: r, Raw: raw},
		} {
			mustKeepItsMeaning(t, f)
		}
	})
}

func mustKeepItsMeaning(t tester, f FailedRecord) {
	t.Helper()
	first := mustMarshal(t, f)
	var again FailedRecord
	if err := again.UnmarshalJSON(first); err != nil {
		t.Fatalf("%v", err)
	}
	second := mustMarshal(t, again)
	var third FailedRecord
	if err := third.UnmarshalJSON(second); err != nil {
		t.Fatalf("%v", err)
	}
	mustEqual(t, "what was read again", again, third, apartFromRaw)
	mustEqual(t, "bytes", string(second), string(mustMarshal(t, third)))
	mustMarshal(t, SendResponse{Message: f.Error, FailedRecords: []FailedRecord{f, f}})
	mustMarshal(t, Status{{Errors: []FailureGroup{{Records: []FailedRecord{f}}}}})
}

func TestFailedRecordLine(t *testing.T) {
	r := recordedRecord(t, 2, 0)
	for want, f := range map[string]FailedRecord{
		"failed 17: unknown user: " + r.String(): {UsageType: Adjustment, Error: "unknown user", FailedRecordID: 17, Record: r},
		"failed: \"two\\nlines\": " + r.String(): {UsageType: Adjustment, Error: "two\nlines", Record: r},
		`failed: -: "{\"x\":1}"`:                 {Raw: json.RawMessage(`{"x":1}`)},
	} {
		mustEqual(t, "line", want, f.String())
	}
}

func TestFailedRecordTakesTheKindOfItsRecord(t *testing.T) {
	got := mustMarshal(t, FailedRecord{Error: "e", Record: new(StorageRecord)})
	mustEqual(t, "failed record", `{"Attributes":{},"UsageType":"Storage","Error":"e"}`, string(got))
}
