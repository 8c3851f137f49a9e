package amieusage

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func validCompute(t *testing.T) *ComputeRecord {
	t.Helper()
	return recordedRecord(t, 0, 0).(*ComputeRecord)
}

// computeJSON returns a compute record with the value of one field replaced;
// no value leaves the field out, and a field of another name is added.
func computeJSON(field, value string) string {
	members := []struct{ name, value string }{
		{"Username", `"alice"`}, {"LocalProjectID", `"p.abc123456.000"`}, {"LocalRecordID", `"4711"`}, {"Resource", `"r"`},
		{"SubmitTime", `"2026-10-01T23:59:00Z"`}, {"StartTime", `"2026-10-02T00:00:00Z"`}, {"EndTime", `"2026-10-02T04:00:00Z"`},
		{"Charge", `"16.25"`}, {"Attributes", `{"NodeCount":4}`},
	}
	var parts []string
	found := field == ""
	for _, m := range members {
		if m.name == field {
			found, m.value = true, value
		}
		if m.value != "" {
			parts = append(parts, `"`+m.name+`":`+m.value)
		}
	}
	if !found {
		parts = append(parts, `"`+field+`":`+value)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func problemFields(t tester, err error) (fields []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	v, ok := errors.AsType[*ValidationError](err)
	if !ok || len(v.Fields) == 0 {
		t.Fatalf("not a list of problems: %v", err)
	}
	for _, f := range v.Fields {
		fields = append(fields, f.Field)
	}
	return fields
}

func TestCheckRecordProblems(t *testing.T) {
	for _, c := range []struct{ field, value, want string }{
		{"", "", ""},
		{"Username", "", "Username is required"},
		{"Username", "null", "Username is required"},
		{"Username", `""`, "Username is required"},
		{"Username", "true", "Username must be text or a number"},
		{"Username", `["alice"]`, "Username must be text or a number"},
		{"Username", `{}`, "Username must be text or a number"},
		{"Username", `"a\u0000"`, "Username must not hold a NUL character"},
		{"Username", `"` + strings.Repeat("a", 1024) + `"`, ""},
		{"Username", `"` + strings.Repeat("é", 512) + `"`, ""},
		{"Username", `"` + strings.Repeat("a", 1025) + `"`, "Username must not be longer than 1024 bytes"},
		{"Username", `"` + strings.Repeat("é", 513) + `"`, "Username must not be longer than 1024 bytes"},
		{"Username", `"` + strings.Repeat("a", 5000) + `"`, "Username must not be longer than 1024 bytes"},
		{"LocalProjectID", "", "LocalProjectID is required"},
		{"LocalRecordID", "", "LocalRecordID is required"},
		{"LocalRecordID", "4711", ""},
		{"Resource", "", "Resource is required"},
		{"SubmitTime", "", "SubmitTime is required"},
		{"SubmitTime", `"yesterday"`, `SubmitTime is not an ISO 8601 time: "yesterday" (write it as in 2026-10-01T23:59:00Z or 2026-10-01T19:59:00-04:00)`},
		{"SubmitTime", `1790899140`, `SubmitTime is not an ISO 8601 time: "1790899140" (write it as in 2026-10-01T23:59:00Z or 2026-10-01T19:59:00-04:00)`},
		{"SubmitTime", `"1969-12-31T23:59:59.999999999Z"`, "SubmitTime must lie between the years 1970 and 2199"},
		{"SubmitTime", `"1970-01-01T00:00:00Z"`, ""},
		{"SubmitTime", `"2200-01-01T00:00:00Z"`, "SubmitTime must lie between the years 1970 and 2199"},
		{"SubmitTime", `"0001-01-01T00:00:00Z"`, "SubmitTime is required"},
		{"SubmitTime", `"2026-10-02T00:00:00.000000001Z"`, "StartTime must not be before SubmitTime"},
		{"SubmitTime", `"2026-10-02T05:00:00Z"`, "StartTime must not be before SubmitTime; EndTime must not be before SubmitTime"},
		{"SubmitTime", `"2026-10-02T02:00:00+02:00"`, ""},
		{"StartTime", "", "StartTime is required"},
		{"StartTime", `"2026-10-01T23:58:59Z"`, "StartTime must not be before SubmitTime"},
		{"StartTime", `"2026-10-02T04:00:00Z"`, ""},
		{"StartTime", `"1960-01-01"`, "StartTime must lie between the years 1970 and 2199"},
		{"EndTime", "", "EndTime is required"},
		{"EndTime", `"2026-10-01T23:59:59Z"`, "EndTime must not be before StartTime"},
		{"EndTime", `"2199-12-31T23:59:59Z"`, ""},
		{"Charge", "", "Charge is required"},
		{"Charge", `"abc"`, `Charge is not a decimal number: "abc"`},
		{"Charge", `"NaN"`, `Charge is not a decimal number: "NaN"`},
		{"Charge", `-1`, "Charge must not be negative"},
		{"Charge", `"-0.0000001"`, "Charge must not be negative"},
		{"Charge", `-0`, ""},
		{"Charge", `0`, ""},
		{"Charge", `1e400`, "Charge must not be beyond nine trillion units"},
		{"Charge", `"-1e400"`, "Charge must not be beyond nine trillion units"},
		{"Charge", `9000000000000`, ""},
		{"Charge", `9000000000000.000001`, "Charge must not be beyond nine trillion units"},
		{"Charge", `1e99999`, "Charge has an exponent out of range: \"1e99999\""},
		{"Charge", strings.Repeat("1", 2000), "Charge must not be longer than 1024 bytes"},
		{"Attributes", "", "Attributes.NodeCount is required"},
		{"Attributes", "null", "Attributes.NodeCount is required"},
		{"Attributes", "{}", "Attributes.NodeCount is required"},
		{"Attributes", `[]`, "Attributes.NodeCount is required; Attributes must be an object"},
		{"Attributes", `{"NodeCount":-1}`, "Attributes.NodeCount must not be negative"},
		{"Attributes", `{"NodeCount":0}`, ""},
		{"Attributes", `{"NodeCount":"four"}`, `Attributes.NodeCount is not a whole number: "four"`},
		{"Attributes", `{"NodeCount":1.5}`, `Attributes.NodeCount is not a whole number: "1.5"`},
		{"Attributes", `{"NodeCount":[1]}`, `Attributes.NodeCount must be text or a number`},
		{"Attributes", `{"NodeCount":1,"CpuCoreCount":-1}`, "Attributes.CpuCoreCount must not be negative"},
		{"Attributes", `{"NodeCount":1,"JobName":"` + strings.Repeat("a", 4096) + `"}`, ""},
		{"Attributes", `{"NodeCount":1,"JobName":"` + strings.Repeat("a", 4097) + `"}`, "Attributes.JobName must not be longer than 4096 bytes"},
		{"Attributes", `{"NodeCount":1,"Queue":"` + strings.Repeat("a", 1025) + `"}`, "Attributes.Queue must not be longer than 1024 bytes"},
		{"Attributes", `{"NodeCount":1,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, ""},
		{"Attributes", `{"NodeCount":1,"x":` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + `}`, "Attributes.x must not be nested deeper than 100 levels"},
		{"x", strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101), "x must not be nested deeper than 100 levels"},
		{"x", `"` + strings.Repeat("[", 1000) + `\"` + strings.Repeat("[", 1000) + `"`, ""},
		{"ParentRecordID", `"` + strings.Repeat("a", 1025) + `"`, "ParentRecordID must not be longer than 1024 bytes"},
		{"LocalReference", `"` + strings.Repeat("a", 1025) + `"`, "LocalReference must not be longer than 1024 bytes"},
		{"UsageType", `"Storage"`, `UsageType is "\"Storage\"" in a record of type Compute`},
	} {
		r, err := CheckRecord(Compute, []byte(computeJSON(c.field, c.value)))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want || r == nil {
			t.Errorf("%s %.60s:\n got %q\nwant %q", c.field, c.value, got, c.want)
		}
	}
}

func TestCheckRecordMalformed(t *testing.T) {
	for data, want := range map[string]string{
		``:                                  "is not well-formed JSON: unexpected EOF",
		`{`:                                 "is not well-formed JSON: unexpected EOF",
		`null`:                              "is not a JSON object",
		`[]`:                                "is not a JSON object",
		`"x"`:                               "is not a JSON object",
		`[`:                                 "is not well-formed JSON: unexpected EOF",
		`nul`:                               "is not well-formed JSON: unexpected EOF",
		`{} x`:                              "is not well-formed JSON: invalid character 'x'",
		`{}{}`:                              "is not well-formed JSON: ",
		`{"a" 1}`:                           `is not well-formed JSON: invalid character '1' after object name (expecting ':') at "/a"`,
		computeJSON("Username", "\"\xff\""): `is not well-formed JSON: invalid UTF-8 at "/Username"`,
		computeJSON("Username", `"\ud800"`): `is not well-formed JSON: invalid surrogate pair`,
		computeJSON("x\xff", "1"):           `is not well-formed JSON: invalid UTF-8`,
		computeJSON("x", `1,"Charge":"17"`): `is not well-formed JSON: duplicate object member name at "/Charge"`,
		computeJSON("x", `1,"x":2`):         `is not well-formed JSON: duplicate object member name at "/x"`,
		computeJSON("x", `1,"\u0078":2`):    `is not well-formed JSON: duplicate object member name at "/x"`,
		computeJSON("x", `{"y":1,"y":2}`):   `is not well-formed JSON: duplicate object member name at "/x/y"`,
		computeJSON("Attributes", `{"x":1},"Attributes":{"y":1}`): `is not well-formed JSON: duplicate object member name at "/Attributes"`,
		computeJSON("x", strings.Repeat("[", 100000)):             `is not well-formed JSON: exceeded max depth`,
		computeJSON("Charge", "01"):                               `is not well-formed JSON: invalid character '1'`,
		computeJSON("Charge", "NaN"):                              `is not well-formed JSON: invalid character 'N'`,
	} {
		r, err := CheckRecord(Compute, []byte(data))
		fields := problemFields(t, err)
		if !slices.Equal(fields, []string{""}) || !strings.Contains(err.Error(), want) || r == nil {
			t.Errorf("CheckRecord(%.80q): %v, want %q", data, err, want)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("CheckRecord(%.80q): an error of %d bytes", data, len(err.Error()))
		}
	}
}

func TestCheckRecordOfNoKind(t *testing.T) {
	for _, kind := range []UsageType{"", "GPU"} {
		r, err := CheckRecord(kind, []byte(computeJSON("", "")))
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeInvalid || r != nil {
			t.Errorf("CheckRecord(%q) = %v, %v", kind, r, err)
		}
	}
}

// All bad fields are listed at once, in the order of the record's fields, each
// once, whether they could not be read or say what cannot be.
func TestAllProblemsAtOnce(t *testing.T) {
	r, err := CheckRecord(Compute, []byte(`{"LocalReference":"ref","Charge":"-1","x":1,`+
		`"Attributes":{"Queue":"q\u0000","NodeCount":"x"},"EndTime":"never","SubmitTime":true,"UsageType":"Storage","Username":7}`))
	mustEqual(t, "problems", []string{"LocalProjectID", "LocalRecordID", "Resource", "SubmitTime", "StartTime", "EndTime", "Charge",
		"Attributes.NodeCount", "Attributes.Queue", "UsageType"}, problemFields(t, err))
	if c := r.Common(); c.Username != "7" || c.LocalReference != "ref" || c.Charge.String() != "-1" {
		t.Errorf("what could be read is %v", c)
	}
}

func TestValidateAdjustment(t *testing.T) {
	const valid = `{"AdjustmentType":"refund","Username":"alice","LocalProjectID":"p","LocalRecordID":"1","Resource":"r",` +
		`"StartTime":"2026-10-01","Charge":1}`
	for replace, want := range map[[2]string]string{
		{"", ""}:                         "",
		{`"refund"`, `"Storage-Credit"`}: "",
		{`"refund"`, `"bonus"`}:          "AdjustmentType must be one of credit, refund, storage-credit, debit, reservation, storage-debit",
		{`"refund"`, `""`}:               "AdjustmentType is required",
		{`"refund"`, `5`}:                "AdjustmentType must be one of credit, refund, storage-credit, debit, reservation, storage-debit",
		{`"2026-10-01"`, `null`}:         "StartTime is required",
		{`:1}`, `:-1}`}:                  "Charge must not be negative",
		{`:1}`, `:1,"Comment":"` + strings.Repeat("c", 4096) + `"}`}: "",
		{`:1}`, `:1,"Comment":"` + strings.Repeat("c", 4097) + `"}`}: "Comment must not be longer than 4096 bytes",
	} {
		_, err := CheckRecord(Adjustment, []byte(strings.Replace(valid, replace[0], replace[1], 1)))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%.60s: got %q, want %q", replace, got, want)
		}
	}
}

// The table of what is required and what is not.
func TestRequiredFields(t *testing.T) {
	for kind, want := range map[UsageType]string{
		Compute:    "Username LocalProjectID LocalRecordID Resource SubmitTime StartTime EndTime Charge Attributes.NodeCount",
		Storage:    "Username LocalProjectID LocalRecordID Resource CollectionTime Charge",
		Adjustment: "AdjustmentType Username LocalProjectID LocalRecordID Resource StartTime Charge",
	} {
		mustEqual(t, string(kind), strings.Fields(want), problemFields(t, NewRecord(kind).Validate()))
	}
}

// Validate lists exactly the fields that were broken.
func TestValidateListsWhatIsBroken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := validRecords(kinds().Draw(t, "kind")).Draw(t, "record")
		if err := r.Validate(); err != nil {
			t.Fatalf("valid at first: %v", err)
		}
		schema := r.schema()
		broken := rapid.SliceOfNDistinct(rapid.IntRange(0, len(schema.fields)-1), 1, len(schema.fields), rapid.ID).Draw(t, "broken")
		slices.Sort(broken)
		var want []string
		for _, i := range broken {
			f := &schema.fields[i]
			breakField(t, f, f.value(r))
			want = append(want, f.path)
		}
		if c, ok := r.(*ComputeRecord); ok && rapid.Bool().Draw(t, "order") && !slices.Contains(want, "SubmitTime") {
			for i, p := range map[int]*time.Time{5: &c.StartTime, 6: &c.EndTime} {
				if slices.Contains(broken, i) {
					*p = c.SubmitTime.Add(-1)
				}
			}
		}
		extra, _ := r.extras()
		if rapid.Bool().Draw(t, "extra") {
			*extra = append(*extra, ExtraField{"one more", json.RawMessage(`{"a"}`)})
			want = append(want, "one more")
		}
		mustEqual(t, "broken fields", want, problemFields(t, r.Validate()))
	})
}

func breakField(t *rapid.T, f *fieldSpec, value any) {
	switch p := value.(type) {
	case *string:
		bad := []string{"\xff", "a\x00", strings.Repeat("a", f.maxBytes+1), strings.Repeat("é", f.maxBytes/2+1)}
		if f.required {
			bad = append(bad, "")
		}
		*p = rapid.SampledFrom(bad).Draw(t, f.name)
	case *AdjustmentType:
		*p = rapid.SampledFrom([]AdjustmentType{"", "bonus", "credit ", "\xff"}).Draw(t, f.name)
	case *time.Time:
		*p = rapid.SampledFrom([]time.Time{{}, earliestTime.Add(-1), latestTime, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}).Draw(t, f.name)
	case *Charge:
		*p = rapid.SampledFrom([]Charge{{}, {"-1"}, {"-1e-900"}, {"9000000000000.000001"}, {"1e13"}, {"1e1000"}}).Draw(t, f.name)
	case *Count:
		bad := []Count{CountOf(-1), CountOf(-1 << 63)}
		if f.required {
			bad = append(bad, Count{})
		}
		*p = rapid.SampledFrom(bad).Draw(t, f.name)
	default:
		t.Fatalf("cannot break %T", p)
	}
}

// CheckRecord lists exactly the members that cannot be read, whatever their
// order.
func TestCheckRecordListsWhatIsUnreadable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := validRecords(kinds().Draw(t, "kind")).Draw(t, "record")
		schema := r.schema()
		var want, members, attributes []string
		for i := range schema.fields {
			f := &schema.fields[i]
			_, isCharge := f.value(r).(*Charge)
			_, isTime := f.value(r).(*time.Time)
			_, isCount := f.value(r).(*Count)
			bad := []string{`true`, `[1,2]`, `{}`, `[true]`}
			if isCharge || isTime || isCount {
				bad = append(bad, `"x"`, `"1e"`)
			}
			member := string(appendField([]byte{'{'}, f, f.value(r), false)[1:])
			if rapid.Bool().Draw(t, "broken") {
				want = append(want, f.path)
				member = fmt.Sprintf("%q:%s", f.name, rapid.SampledFrom(bad).Draw(t, f.name))
			}
			switch {
			case member == "":
			case f.attribute:
				attributes = append(attributes, member)
			default:
				members = append(members, member)
			}
		}
		if schema.hasAttributes {
			attributes = rapid.Permutation(attributes).Draw(t, "order of attributes")
			members = append(members, `"Attributes":{`+strings.Join(attributes, ",")+`}`)
		}
		members = rapid.Permutation(members).Draw(t, "order")
		_, err := CheckRecord(r.UsageType(), []byte("{"+strings.Join(members, ",")+"}"))
		mustEqual(t, "unreadable fields", want, problemFields(t, err))
	})
}
