package amieusage

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// with returns a recorded message with one piece of its text replaced.
func with(t *testing.T, message int, old, new string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, recorded(t)[message]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b.Bytes(), []byte(old)) {
		t.Fatalf("the recorded message has no %s", old)
	}
	return bytes.Replace(b.Bytes(), []byte(old), []byte(new), 1)
}

// first takes a message apart and returns its first record.
func first(t *testing.T, message []byte) Record {
	t.Helper()
	kind, items, err := DecodeMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	return mustCheck(t, kind, string(items[0]))
}

func firstCompute(t *testing.T, message []byte) *ComputeRecord {
	t.Helper()
	return first(t, message).(*ComputeRecord)
}

func TestRecordedComputeRecord(t *testing.T) {
	mustEqual(t, "record", Record(&ComputeRecord{
		Username:       "alice",
		LocalProjectID: "p.abc123456.000",
		LocalRecordID:  "4711",
		Resource:       "bridges2-rm.psc.access-ci.org",
		SubmitTime:     time.Date(2026, 10, 1, 23, 59, 0, 0, time.UTC),
		StartTime:      time.Date(2026, 10, 2, 0, 0, 0, 0, time.UTC),
		EndTime:        time.Date(2026, 10, 2, 4, 0, 0, 0, time.UTC),
		Charge:         mustCharge(t, "16.25"),
		NodeCount:      CountOf(4),
		CpuCoreCount:   CountOf(512),
		JobName:        "train|resnet 50",
		Memory:         "262144",
		Queue:          "RM",
		LocalReference: "ref-1",
	}), recordedRecord(t, 0, 0))
}

func TestRecordedStorageRecord(t *testing.T) {
	mustEqual(t, "record", Record(&StorageRecord{
		Username:           "alice",
		LocalProjectID:     "p.abc123456.000",
		LocalRecordID:      "st-20261002-alice",
		Resource:           "ocean.psc.access-ci.org",
		CollectionTime:     mustTime(t, "2026-10-02T00:00:00-04:00"),
		Charge:             mustCharge(t, "12.5"),
		BytesRead:          CountOf(1),
		BytesStored:        CountOf(13421772800),
		BytesWritten:       CountOf(2),
		CollectionInterval: CountOf(1),
		FileCount:          CountOf(42),
		FilesRead:          CountOf(3),
		FilesWritten:       CountOf(4),
		MediaType:          "SSD",
		SystemCopies:       CountOf(2),
		UserCopies:         CountOf(1),
		LocalReference:     "row-9",
	}), recordedRecord(t, 1, 0))
}

func TestRecordedAdjustmentRecord(t *testing.T) {
	mustEqual(t, "record", Record(&AdjustmentRecord{
		AdjustmentType: Refund,
		Username:       "alice",
		LocalProjectID: "p.abc123456.000",
		LocalRecordID:  "adj-1",
		Resource:       "bridges2-rm.psc.access-ci.org",
		StartTime:      time.Date(2026, 10, 1, 23, 59, 0, 0, time.UTC),
		Charge:         mustCharge(t, "100"),
		Comment:        "node failure",
		LocalReference: "t-77",
	}), recordedRecord(t, 2, 0))
}

func TestRecordedMessagesRoundTrip(t *testing.T) {
	for _, body := range recorded(t) {
		m := mustDecode[Message](t, body)
		encoded := mustMarshal(t, m)
		again := mustDecode[Message](t, encoded)
		mustEqual(t, "message", m, again)
		mustEqual(t, "bytes", string(encoded), string(mustMarshal(t, again)))
	}
}

func TestAdjustmentTypesInAnyCase(t *testing.T) {
	for _, kind := range AdjustmentTypes {
		for _, text := range []string{string(kind), strings.ToUpper(string(kind)), strings.ToUpper(string(kind)[:1]) + string(kind)[1:]} {
			r := first(t, with(t, 2, `"refund"`, `"`+text+`"`)).(*AdjustmentRecord)
			if r.AdjustmentType != kind {
				t.Errorf("%s was read as %s", text, r.AdjustmentType)
			}
			r.AdjustmentType = AdjustmentType(text)
			if got := string(mustMarshal(t, r)); !strings.HasPrefix(got, `{"AdjustmentType":"`+string(kind)+`"`) {
				t.Errorf("%s was written as %s", text, got)
			}
		}
	}
}

func TestParentRecordID(t *testing.T) {
	for in, want := range map[string]string{
		`[null]`: "", `null`: "", `[]`: "", `""`: "", `[""]`: "", `["4712"]`: "4712", `"4712"`: "4712", `4712`: "4712", `[4712]`: "4712",
		" [ \"4712\" ] ": "4712",
	} {
		r := firstCompute(t, with(t, 0, `[null]`, in))
		if r.ParentRecordID != want {
			t.Errorf("%s was read as %q, want %q", in, r.ParentRecordID, want)
		}
	}
	if got := recordedRecord(t, 0, 1).(*ComputeRecord).ParentRecordID; got != "4712" {
		t.Errorf("the recorded ParentRecordID was read as %q", got)
	}
	for in, problem := range map[string]string{
		`["1","2"]`: "must be one record id, not a list of several",
		`[["1"]]`:   "must be text or a number",
		`{"a":1}`:   "must be text or a number",
		`true`:      "must be text or a number",
	} {
		_, items, err := DecodeMessage(with(t, 0, `[null]`, in))
		if err != nil {
			t.Fatal(err)
		}
		r, err := CheckRecord(Compute, items[0])
		mustEqual(t, in, &ValidationError{[]FieldError{{"ParentRecordID", problem}}}, err)
		if c := r.(*ComputeRecord); c.LocalReference != "ref-1" || c.ParentRecordID != "" {
			t.Errorf("%s was read as %q, and what is behind it as %q", in, c.ParentRecordID, c.LocalReference)
		}
	}
}

func TestChargeAsJSONNumber(t *testing.T) {
	r := recordedRecord(t, 0, 1)
	if got := r.Common().Charge.String(); got != "0.0019444444444444444" {
		t.Errorf("charge %s", got)
	}
	if n, err := r.Common().Charge.Millionths(); n != 1944 || err != nil {
		t.Errorf("%d millionths, %v", n, err)
	}
	for in, want := range map[string]string{
		`1e3`: "1e3", `0`: "0", `"0"`: "0", `1.9e-05`: "1.9e-05", `100.0000000000000000000000000000000000001`: "100.0000000000000000000000000000000000001",
	} {
		if got := firstCompute(t, with(t, 0, `"16.25"`, in)).Charge.String(); got != want {
			t.Errorf("%s was read as %s", in, got)
		}
	}
}

func TestCountsAsNumberOrText(t *testing.T) {
	for _, in := range []string{`4`, `"4"`, `"4.0"`, `4.0`, `4e0`} {
		if got := firstCompute(t, with(t, 0, `"NodeCount":4`, `"NodeCount":`+in)).NodeCount; got != CountOf(4) {
			t.Errorf("%s was read as %s", in, got)
		}
		for _, count := range []string{`"BytesRead":1`, `"BytesWritten":2`, `"CollectionInterval":1`, `"FileCount":42`,
			`"FilesRead":3`, `"FilesWritten":4`, `"SystemCopies":2`, `"UserCopies":1`} {
			name, _, _ := strings.Cut(count, ":")
			r := first(t, with(t, 1, count, name+":"+in))
			if got := string(mustMarshal(t, r)); !strings.Contains(got, name+":4") {
				t.Errorf("%s: %s was written as %s", name, in, got)
			}
		}
	}
	for in, want := range map[string]string{`262144`: "262144", `"4G"`: "4G", `2.5e5`: "2.5e5"} {
		if got := firstCompute(t, with(t, 0, `"262144"`, in)).Memory; got != want {
			t.Errorf("memory %s was read as %s", in, got)
		}
	}
}

func TestTimesAsClientsSendThem(t *testing.T) {
	for in, want := range map[string]string{
		"2026-10-01T23:59:00":        "2026-10-01T23:59:00Z",
		"2026-10-01T23:59:00.123456": "2026-10-01T23:59:00.123456Z",
		"2026-10-01T23:59:00+00:00":  "2026-10-01T23:59:00Z",
		"2026-10-01T19:59:00-04:00":  "2026-10-01T19:59:00-04:00",
		"2026-10-01T23:59:00Z":       "2026-10-01T23:59:00Z",
		"2026-10-01 23:59:00":        "2026-10-01T23:59:00Z",
	} {
		r := firstCompute(t, with(t, 0, `2026-10-01T23:59:00Z`, in))
		if got := string(mustMarshal(t, r)); !strings.Contains(got, `"SubmitTime":"`+want+`"`) {
			t.Errorf("%s was written in %s, want %s", in, got, want)
		}
	}
	naive := recordedRecord(t, 0, 1).(*ComputeRecord)
	mustEqual(t, "naive start", mustTime(t, "2026-10-02T00:00:00Z"), naive.StartTime)
	mustEqual(t, "naive end", mustTime(t, "2026-10-02T04:00:00.123456Z"), naive.EndTime)
}

func TestUsageTypeInAnyCase(t *testing.T) {
	for _, text := range []string{"compute", "COMPUTE", "Compute", "cOmPuTe"} {
		kind, items, err := DecodeMessage(with(t, 0, `"UsageType":"Compute"`, `"UsageType":"`+text+`"`))
		if err != nil || kind != Compute || len(items) != 2 {
			t.Errorf("%s: %s message of %d records, %v", text, kind, len(items), err)
		}
		if r, err := CheckRecord(UsageType(text), items[0]); err != nil || r.UsageType() != Compute {
			t.Errorf("CheckRecord(%s): %v, %v", text, r, err)
		}
	}
}

func TestUnknownFieldsAreKept(t *testing.T) {
	message := with(t, 0, `"JobName"`, `"Error": "in a name", "QOS" : {"b": [ 1, 2.50 ], "a": "\u00e9"}, "JobName"`)
	message = bytes.Replace(message, []byte(`"Username"`), []byte(`"Account": "x", "username":1e2, "Username"`), 1)
	r := firstCompute(t, message)
	mustEqual(t, "of the record", Extra{{"Account", json.RawMessage(`"x"`)}, {"username", json.RawMessage(`1e2`)}}, r.Extra)
	mustEqual(t, "of the attributes", Extra{
		{"Error", json.RawMessage(`"in a name"`)},
		{"QOS", json.RawMessage(`{"b":[1,2.50],"a":"\u00e9"}`)},
	}, r.ExtraAttributes)

	failed := FailedRecord{UsageType: Compute, Error: "unknown user", FailedRecordID: 17, Record: r}
	answer := string(mustMarshal(t, FailedRecords{failed}))
	for _, want := range []string{
		`"Queue":"RM","Error":"in a name","QOS":{"b":[1,2.50],"a":"\u00e9"}}`,
		`"Account":"x","username":1e2,"UsageType":"Compute","Error":"unknown user","FailedRecordID":17}`,
	} {
		if strings.Count(answer, want) != 2 {
			t.Errorf("the answer does not give back %s:\n%s", want, answer)
		}
	}

	a := first(t, with(t, 2, `"Comment"`, `"Attributes":{"x":1},"Comment"`)).(*AdjustmentRecord)
	mustEqual(t, "of an adjustment", Extra{{"Attributes", json.RawMessage(`{"x":1}`)}}, a.Extra)
}

// A failed record that is sent again after repair bears UsageType, Error and
// FailedRecordID; the latter two mean nothing then.
func TestRepairedFailedRecordIsAccepted(t *testing.T) {
	for i, body := range recorded(t) {
		kind, items, err := DecodeMessage(body)
		if err != nil {
			t.Fatal(err)
		}
		want := mustCheck(t, kind, string(items[0]))
		failed := mustMarshal(t, FailedRecord{UsageType: kind, Error: "unknown user", FailedRecordID: 17, Record: want})
		repaired := AppendMessageStart(nil, kind)
		repaired = append(append(repaired, failed...), MessageEnd...)
		got := first(t, repaired)
		mustEqual(t, "record", want, got)
		if ContentDigest(got) != ContentDigest(want) || got.Identity() != want.Identity() {
			t.Errorf("message %d: the repaired record is another one", i)
		}
	}
	for in, ok := range map[string]bool{
		`"Compute"`: true, `"compute"`: true, `null`: true, `""`: true,
		`"Storage"`: false, `5`: false, `{"a":1}`: false,
	} {
		_, items, err := DecodeMessage(with(t, 0, `"Username"`, `"UsageType":`+in+`,"Username"`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CheckRecord(Compute, items[0]); (err == nil) != ok {
			t.Errorf("a UsageType of its own, %s: %v", in, err)
		}
	}
	for _, in := range []string{`"Error":{"a":[1]},"FailedRecordID":"x",`, `"Error":null,"FailedRecordID":null,`} {
		first(t, with(t, 0, `"Username"`, in+`"Username"`))
	}
}

func TestEmptyRecords(t *testing.T) {
	kind, items, err := DecodeMessage([]byte(`{"UsageType":"Compute","Records":[]}`))
	if kind != Compute || items == nil || len(items) != 0 || err != nil {
		t.Errorf("%s, %v, %v", kind, items, err)
	}
	if got := QueuedMessage(0, 1); got != "0 records have been queued for loading, 1 records failed." {
		t.Error(got)
	}
	if got := QueuedMessage(2, 0); got != "2 records have been queued for loading, 0 records failed." {
		t.Error(got)
	}
	mustEqual(t, "empty message", `{"UsageType":"Compute","Records":[]}`, string(mustMarshal(t, Message{UsageType: Compute})))
}

// The service writes the list of failed records under both names; a client
// reads either, and never the same list twice.
func TestBothNamesOfTheFailedList(t *testing.T) {
	want := FailedRecord{UsageType: Storage, Error: "no", FailedRecordID: 3, Record: recordedRecord(t, 1, 0)}
	one := string(mustMarshal(t, want))
	for _, body := range []string{
		`{"Message":"m","FailedRecords":[` + one + `]}`,
		`{"Message":"m","ValidationFailedRecords":[` + one + `]}`,
		`{"Message":"m","FailedRecords":[` + one + `],"ValidationFailedRecords":[` + one + `]}`,
		`{"Message":"m","FailedRecords":[],"ValidationFailedRecords":[` + one + `]}`,
		`{"Message":"m","FailedRecords":null,"ValidationFailedRecords":[` + one + `]}`,
		`{"Message":"m","FailedRecords":[` + one + `],"ValidationFailedRecords":[]}`,
	} {
		mustEqual(t, "send: "+body, &SendResponse{Message: "m", FailedRecords: []FailedRecord{want}},
			mustDecode[SendResponse](t, []byte(body)), apartFromRaw)
		mustEqual(t, "failed: "+body, &FailedRecords{want}, mustDecode[FailedRecords](t, []byte(body)), apartFromRaw)
	}
	mustEqual(t, "send", `{"Message":"m","FailedRecords":[`+one+`],"ValidationFailedRecords":[`+one+`]}`,
		string(mustMarshal(t, SendResponse{Message: "m", FailedRecords: []FailedRecord{want}})))
	mustEqual(t, "failed", `{"FailedRecords":[`+one+`,`+one+`],"ValidationFailedRecords":[`+one+`,`+one+`]}`,
		string(mustMarshal(t, FailedRecords{want, want})))
	mustEqual(t, "nothing failed", `{"Message":"m","FailedRecords":[],"ValidationFailedRecords":[]}`,
		string(mustMarshal(t, SendResponse{Message: "m"})))
	mustEqual(t, "none of the names", &FailedRecords{}, mustDecode[FailedRecords](t, []byte(`{}`)))
}

func TestStatusIsAList(t *testing.T) {
	body := []byte(`[{"Resource":"r","LoadedRecordCount":"2","FailedJobCount":1,"TotalCharge":16.25,"Errors":[` +
		`{"Error":"unknown user","Records":[{"UsageType":"compute","LocalRecordID":"4711","FailedRecordID":"5"},` +
		`{"UsageType":"Storage","CollectionTime":"2026-10-02T00:00:00"}]}]}]`)
	got := mustDecode[Status](t, body)
	mustEqual(t, "status", &Status{{
		Resource: "r", LoadedRecordCount: 2, FailedJobCount: 1, TotalCharge: mustCharge(t, "16.25"),
		Errors: []FailureGroup{{Error: "unknown user", Records: []FailedRecord{
			{UsageType: Compute, FailedRecordID: 5, Record: &ComputeRecord{LocalRecordID: "4711"}},
			{UsageType: Storage, Record: &StorageRecord{CollectionTime: mustTime(t, "2026-10-02T00:00:00Z")}},
		}}},
	}}, got, apartFromRaw)
	mustEqual(t, "as it is written", `[{"Resource":"r","LoadedRecordCount":2,"FailedJobCount":1,"TotalCharge":"16.25",`+
		`"Errors":[{"Error":"unknown user","Records":[`+
		`{"LocalRecordID":"4711","Attributes":{},"UsageType":"Compute","Error":"","FailedRecordID":5},`+
		`{"CollectionTime":"2026-10-02T00:00:00Z","Attributes":{},"UsageType":"Storage","Error":""}]}]}]`,
		string(mustMarshal(t, got)))
	mustEqual(t, "nothing loaded", `[]`, string(mustMarshal(t, Status(nil))))
	mustEqual(t, "nothing failed", `[{"Resource":"r","LoadedRecordCount":0,"FailedJobCount":0,"TotalCharge":null,"Errors":[]}]`,
		string(mustMarshal(t, Status{{Resource: "r"}})))
	mustEqual(t, "no records of an error", `{"Error":"e","Records":[]}`, string(mustMarshal(t, FailureGroup{Error: "e"})))
}

func TestLoadedFields(t *testing.T) {
	body := []byte(`{"AccountingDbRecordID":"12","LocalRecordID":4711,"Resource":"r","SubmitTime":"2026-10-01 23:59:00",` +
		`"LoadedTime":"2026-10-03T00:00:00.5-04:00","Charge":16.25,"Other":1}`)
	got := mustDecode[LoadedRecord](t, body)
	mustEqual(t, "loaded", &LoadedRecord{
		AccountingDbRecordID: 12, LocalRecordID: "4711", Resource: "r", SubmitTime: mustTime(t, "2026-10-01T23:59:00Z"),
		LoadedTime: mustTime(t, "2026-10-03T00:00:00.5-04:00"), Charge: mustCharge(t, "16.25"),
	}, got)
	mustEqual(t, "as it is written", `{"AccountingDbRecordID":12,"LocalRecordID":"4711","Resource":"r",`+
		`"SubmitTime":"2026-10-01T23:59:00Z","LoadedTime":"2026-10-03T00:00:00.5-04:00","Charge":"16.25"}`,
		string(mustMarshal(t, got)))
}

// What the reference client cannot read or make: see the storage record in
// TestBothNamesOfTheFailedList, TestRecordedMessagesRoundTrip for from_dict of
// as_dict, and TestMessageAppend for append.
func TestFailedListOfMixedKinds(t *testing.T) {
	list := FailedRecords{
		{UsageType: Compute, Error: "a", FailedRecordID: 1, Record: recordedRecord(t, 0, 0)},
		{UsageType: Storage, Error: "b", FailedRecordID: 2, Record: recordedRecord(t, 1, 0)},
		{UsageType: Adjustment, Error: "c", FailedRecordID: 3, Record: recordedRecord(t, 2, 0)},
	}
	mustEqual(t, "list", &list, mustDecode[FailedRecords](t, mustMarshal(t, list)), apartFromRaw)
}
