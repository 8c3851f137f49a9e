package amieusage

import (
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := kinds().Draw(t, "kind")
		want := validRecords(kind).Draw(t, "record")
		data := want.AppendJSON(nil)
		mustBeStrict(t, data)
		got, err := CheckRecord(kind, data)
		if err != nil {
			t.Fatalf("CheckRecord(%s): %v", data, err)
		}
		mustEqual(t, "record", want, got)
		mustEqual(t, "bytes", string(data), string(got.AppendJSON(nil)))
		mustEqual(t, "behind what is there", "x"+string(data), string(got.AppendJSON([]byte("x"))))

		viaStandardLibrary, err := json.Marshal(want)
		if err != nil {
			t.Fatalf("%v", err)
		}
		again := NewRecord(kind)
		if err := json.Unmarshal(viaStandardLibrary, again); err != nil {
			t.Fatalf("%v", err)
		}
		// encoding/json escapes for HTML, also inside unknown fields.
		mustEqual(t, "digest of the fields", withoutExtra(t, want), withoutExtra(t, again))
	})
}

func withoutExtra(t tester, r Record) Record {
	c := NewRecord(r.UsageType())
	if err := c.UnmarshalJSON(r.AppendJSON(nil)); err != nil {
		t.Fatalf("%v", err)
	}
	extra, extraAttributes := c.extras()
	*extra = nil
	if extraAttributes != nil {
		*extraAttributes = nil
	}
	return c
}

// A record by value is written as one by pointer.
func TestRecordsByValue(t *testing.T) {
	c, s, a := recordedRecord(t, 0, 0).(*ComputeRecord), recordedRecord(t, 1, 0).(*StorageRecord), recordedRecord(t, 2, 0).(*AdjustmentRecord)
	for _, pair := range [][2]any{{*c, c}, {*s, s}, {*a, a}} {
		byValue, err := json.Marshal(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		byPointer, err := json.Marshal(pair[1])
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "bytes", string(byPointer), string(byValue))
	}
}

// Reading replaces all that a record held.
func TestUnmarshalReplaces(t *testing.T) {
	for message := range 3 {
		r := recordedRecord(t, message, 0)
		if err := json.Unmarshal([]byte(`{"Username":"bob"}`), r); err != nil {
			t.Fatal(err)
		}
		want := NewRecord(r.UsageType())
		if err := json.Unmarshal([]byte(`{"Username":"bob"}`), want); err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "record", want, r)
	}
}

func TestNewRecordOfNoKind(t *testing.T) {
	for _, kind := range []UsageType{"", "compute", "GPU"} {
		if r := NewRecord(kind); r != nil {
			t.Errorf("NewRecord(%q) = %v", kind, r)
		}
	}
}

func TestIdentity(t *testing.T) {
	naive := mustCheck(t, Compute, computeJSON("SubmitTime", `"2026-10-01T23:59:00"`))
	for _, spelling := range []string{`"2026-10-01T23:59:00Z"`, `"2026-10-01T19:59:00-04:00"`, `"2026-10-02 05:29:00.000+0530"`} {
		r := mustCheck(t, Compute, computeJSON("SubmitTime", spelling))
		if r.Identity() != naive.Identity() {
			t.Errorf("%s: %v is another identity than %v", spelling, r.Identity(), naive.Identity())
		}
		if m := map[Identity]int{naive.Identity(): 1}; m[r.Identity()] != 1 {
			t.Errorf("%s: another key of a map", spelling)
		}
	}
	c := naive.(*ComputeRecord)
	c.SubmitTime = time.Now() // with a monotonic reading
	wall := *c
	wall.SubmitTime = c.SubmitTime.Round(0).In(time.FixedZone("", 3600))
	if c.Identity() != wall.Identity() {
		t.Errorf("%v is another identity than %v", c.Identity(), wall.Identity())
	}

	for _, other := range []string{
		computeJSON("SubmitTime", `"2026-10-01T23:58:59.999999999Z"`),
		computeJSON("LocalRecordID", `"4711.0"`),
		computeJSON("Resource", `"other"`),
	} {
		if r := mustCheck(t, Compute, other); r.Identity() == mustCheck(t, Compute, computeJSON("", "")).Identity() {
			t.Errorf("%s has the same identity", other)
		}
	}
	same := mustCheck(t, Compute, computeJSON("LocalRecordID", `4711`))
	if same.Identity() != mustCheck(t, Compute, computeJSON("Charge", `"1"`)).Identity() {
		t.Error("a LocalRecordID as a number, or another charge, is another identity")
	}

	mustEqual(t, "of storage", Identity{"ocean.psc.access-ci.org", Storage, "st-20261002-alice", mustTime(t, "2026-10-02T04:00:00Z")},
		recordedRecord(t, 1, 0).Identity())
	mustEqual(t, "of an adjustment", Identity{"bridges2-rm.psc.access-ci.org", Adjustment, "adj-1", time.Time{}},
		recordedRecord(t, 2, 0).Identity())
}

func TestRecordTimes(t *testing.T) {
	for message, want := range map[int][2]string{
		0: {"2026-10-01T23:59:00Z", "2026-10-02T04:00:00Z"},
		1: {"2026-10-02T00:00:00-04:00", "2026-10-02T00:00:00-04:00"},
		2: {"2026-10-01T23:59:00Z", "2026-10-01T23:59:00Z"},
	} {
		r := recordedRecord(t, message, 0)
		mustEqual(t, "allocation and usage time", want, [2]string{FormatTime(r.AllocationTime()), FormatTime(r.UsageTime())})
	}
}

func TestCommon(t *testing.T) {
	for message, want := range []Common{
		{"alice", "p.abc123456.000", "4711", "bridges2-rm.psc.access-ci.org", mustCharge(t, "16.25"), "ref-1"},
		{"alice", "p.abc123456.000", "st-20261002-alice", "ocean.psc.access-ci.org", mustCharge(t, "12.5"), "row-9"},
		{"alice", "p.abc123456.000", "adj-1", "bridges2-rm.psc.access-ci.org", mustCharge(t, "100"), "t-77"},
	} {
		mustEqual(t, "common fields", want, recordedRecord(t, message, 0).Common())
	}
}

func TestGivesBack(t *testing.T) {
	want := map[AdjustmentType]bool{Credit: true, Refund: true, StorageCredit: true, Debit: false, Reservation: false, StorageDebit: false}
	if len(AdjustmentTypes) != len(want) {
		t.Errorf("%d adjustment types", len(AdjustmentTypes))
	}
	for _, kind := range AdjustmentTypes {
		if kind.GivesBack() != want[kind] {
			t.Errorf("%s gives back: %t", kind, kind.GivesBack())
		}
	}
}

// Another spelling of the same content has the same digest.
func TestDigestIgnoresSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := kinds().Draw(t, "kind")
		r := validRecords(kind).Draw(t, "record")
		want := ContentDigest(r)
		again := mustCheck(t, kind, string(r.AppendJSON(nil)))
		if ContentDigest(again) != want {
			t.Fatalf("reading changed the digest of %s", r.AppendJSON(nil))
		}
		schema := again.schema()
		for i := range schema.fields {
			switch p := schema.fields[i].value(again).(type) {
			case *time.Time:
				*p = p.In(zones().Draw(t, "zone"))
			case *Charge:
				*p = mustCharge(t, respelled(p.String()).Draw(t, "charge"))
			case *AdjustmentType:
				*p = AdjustmentType(strings.ToUpper(string(*p)))
			}
		}
		extra, extraAttributes := again.extras()
		*extra = rapid.Permutation(*extra).Draw(t, "order")
		if extraAttributes != nil {
			*extraAttributes = rapid.Permutation(*extraAttributes).Draw(t, "order of attributes")
		}
		if ContentDigest(again) != want || again.Identity() != r.Identity() {
			t.Fatalf("%s\nand\n%s\nare different content", r.AppendJSON(nil), again.AppendJSON(nil))
		}
	})
}

// Any change of meaning changes the digest.
func TestDigestTellsMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := kinds().Draw(t, "kind")
		r := validRecords(kind).Draw(t, "record")
		before := ContentDigest(r)
		schema := r.schema()
		extra, extraAttributes := r.extras()
		places := len(schema.fields) + 1
		if schema.hasAttributes {
			places++
		}
		switch i := rapid.IntRange(0, places-1).Draw(t, "place"); i {
		case len(schema.fields):
			changeExtra(t, extra)
		case len(schema.fields) + 1:
			changeExtra(t, extraAttributes)
		default:
			switch p := schema.fields[i].value(r).(type) {
			case *string:
				*p = texts().Filter(func(s string) bool { return s != *p }).Draw(t, "text")
			case *AdjustmentType:
				*p = rapid.SampledFrom(AdjustmentTypes).Filter(func(k AdjustmentType) bool { return k != *p }).Draw(t, "type")
			case *time.Time:
				*p = p.Add(time.Duration(rapid.SampledFrom([]int{1, -1, 1000, 3600e9, -14400e9}).Draw(t, "change")))
			case *Charge:
				old := rational(t, p.String())
				*p = validCharges().Filter(func(c Charge) bool { return rational(t, c.String()).Cmp(old) != 0 }).Draw(t, "charge")
			case *Count:
				*p = counts().Filter(func(c Count) bool { return c != *p }).Draw(t, "count")
			}
		}
		if ContentDigest(r) == before {
			t.Fatalf("the digest of %s did not change", r.AppendJSON(nil))
		}
	})
}

func changeExtra(t *rapid.T, extra *Extra) {
	if len(*extra) == 0 || rapid.Bool().Draw(t, "add") {
		*extra = append(slices.Clone(*extra), ExtraField{"one more", json.RawMessage("null")})
		return
	}
	changed := slices.Clone(*extra)
	e := &changed[rapid.IntRange(0, len(changed)-1).Draw(t, "changed")]
	e.Value = json.RawMessage("[" + string(e.Value) + "]")
	*extra = changed
}

func TestDigestTellsKindsApart(t *testing.T) {
	seen := map[Digest]UsageType{}
	for _, kind := range []UsageType{Compute, Storage, Adjustment} {
		if other, ok := seen[ContentDigest(NewRecord(kind))]; ok {
			t.Errorf("%s and %s have the same digest", kind, other)
		}
		seen[ContentDigest(NewRecord(kind))] = kind
	}
}

// The digests are kept by sites and services: changing them makes all that was
// ever sent look changed.
func TestDigestIsStable(t *testing.T) {
	var got []string
	for message := range 3 {
		d := ContentDigest(recordedRecord(t, message, 0))
		got = append(got, hex.EncodeToString(d[:8]))
	}
	mustEqual(t, "digests", []string{"6a699479e3884195", "51dcace862f78331", "56d0cd02de5cfda6"}, got)
}

func TestReadableLines(t *testing.T) {
	for message, want := range []string{
		"Compute 4711 of alice for p.abc123456.000 on bridges2-rm.psc.access-ci.org at 2026-10-01T23:59:00Z: charge 16.25",
		"Storage st-20261002-alice of alice for p.abc123456.000 on ocean.psc.access-ci.org at 2026-10-02T00:00:00-04:00: charge 12.5",
		"Adjustment refund adj-1 of alice for p.abc123456.000 on bridges2-rm.psc.access-ci.org at 2026-10-01T23:59:00Z: charge 100",
	} {
		mustEqual(t, "line", want, recordedRecord(t, message, 0).String())
	}
	mustEqual(t, "empty", "Adjustment - - of - for - on - at -: charge -", new(AdjustmentRecord).String())
	broken := &ComputeRecord{LocalRecordID: "4711\n4712", Username: "é"}
	mustEqual(t, "broken", `Compute "4711\n4712" of é for - on - at -: charge -`, broken.String())
	rapid.Check(t, func(t *rapid.T) {
		r := validRecords(kinds().Draw(t, "kind")).Draw(t, "record")
		if line := r.String(); strings.ContainsAny(line, "\n\r\x01\u2028") {
			t.Fatalf("not one line: %q", line)
		}
	})
}

func TestUnknownFieldsNeverDoubleOthers(t *testing.T) {
	r := validCompute(t)
	r.Extra = Extra{
		{"Username", json.RawMessage(`"mallory"`)}, {"Attributes", json.RawMessage(`{}`)}, {"Error", json.RawMessage(`1`)},
		{"UsageType", json.RawMessage(`"Storage"`)}, {"FailedRecordID", json.RawMessage(`1`)},
		{"a", json.RawMessage(" [ 1 ,\n2 ] ")}, {"a", json.RawMessage(`2`)}, {"b\xff", json.RawMessage(`3`)}, {"b\xfe", json.RawMessage(`4`)},
		{"c", json.RawMessage(`{`)}, {"d", nil}, {"e", json.RawMessage(`{"x":1,"x":2}`)}, {"f", json.RawMessage("\"\xff\"")},
		{"NodeCount", json.RawMessage(`"kept"`)},
	}
	r.ExtraAttributes = Extra{{"NodeCount", json.RawMessage(`7`)}, {"Username", json.RawMessage(`"kept"`)}}
	data := r.AppendJSON(nil)
	mustBeStrict(t, data)
	for _, want := range []string{
		`"Username":"kept"},`,
		`,"a":[1,2],"b�":3,"c":null,"d":null,"e":null,"f":null,"NodeCount":"kept"}`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s is not in %s", want, data)
		}
	}
	mustEqual(t, "problems", []string{"Username", "Attributes.NodeCount", "Attributes", "Error", "UsageType", "FailedRecordID",
		"a", "b\xff", "b\xfe", "c", "d", "e", "f"}, problemFields(t, r.Validate()))
}

func TestRationalHelperAgrees(t *testing.T) {
	if roundHalfEven(big.NewRat(-5, 2)).Int64() != -2 || roundHalfEven(big.NewRat(-7, 2)).Int64() != -4 || roundHalfEven(big.NewRat(8, 3)).Int64() != 3 {
		t.Error("the test's own rounding is wrong")
	}
}

func TestUnknownFields(t *testing.T) {
	for kind, want := range map[UsageType][]string{Compute: {"Comments", "Attributes.Cpus"}, Storage: {"Comments", "Attributes.Cpus"}, Adjustment: {"Comments", "Attributes"}} {
		r := NewRecord(kind)
		if err := json.Unmarshal([]byte(`{"Username":"alice","Comments":"x","Attributes":{"Cpus":4}}`), r); err != nil {
			t.Fatal(err)
		}
		mustEqual(t, string(kind), want, UnknownFields(r))
	}
	if names := UnknownFields(validCompute(t)); names != nil {
		t.Errorf("a record without any has %q", names)
	}
}
