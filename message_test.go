package amieusage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMessageAppend(t *testing.T) {
	var m Message
	for i := range 2 {
		if err := m.Append(recordedRecord(t, 0, i)); err != nil {
			t.Fatalf("record %d: %v", i+1, err)
		}
	}
	err := m.Append(recordedRecord(t, 1, 0))
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeInvalid {
		t.Errorf("a storage record in a compute message: %v", err)
	}
	mustEqual(t, "message", &m, mustDecode[Message](t, recorded(t)[0]))
	mustEqual(t, "line", "Compute message of 2 records", m.String())
}

func TestNewMessage(t *testing.T) {
	m, err := NewMessage(recordedRecord(t, 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "message", m, mustDecode[Message](t, recorded(t)[1]))
	for _, records := range [][]Record{nil, {recordedRecord(t, 0, 0), recordedRecord(t, 2, 0)}} {
		m, err := NewMessage(records...)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeInvalid || m != nil {
			t.Errorf("message of %v: %v, %v", records, m, err)
		}
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := kinds().Draw(t, "kind")
		want := &Message{UsageType: kind, Records: rapid.SliceOfN(validRecords(kind), 0, 3).Draw(t, "records")}
		data := mustMarshal(t, want)
		got := mustDecode[Message](t, data)
		mustEqual(t, "message", want, got)
		mustEqual(t, "bytes", string(data), string(mustMarshal(t, got)))

		byHand := AppendMessageStart(nil, kind)
		for i, r := range want.Records {
			if i > 0 {
				byHand = append(byHand, ',')
			}
			byHand = r.AppendJSON(byHand)
		}
		mustEqual(t, "record by record", string(data), string(append(byHand, MessageEnd...)))
	})
}

func TestMessageByValue(t *testing.T) {
	m := mustDecode[Message](t, recorded(t)[0])
	byValue, err := json.Marshal(*m)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "bytes", string(mustMarshal(t, m)), string(byValue))
}

func TestMessageUnmarshalNamesTheRecord(t *testing.T) {
	var m Message
	err := json.Unmarshal(bytes.Replace(recorded(t)[0], []byte(`0.0019444444444444444`), []byte(`"free"`), 1), &m)
	const want = `record 2 of the message: Charge is not a decimal number: "free"`
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeInvalid || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, ok := errors.AsType[*ValidationError](err); !ok {
		t.Errorf("%v does not say which field", err)
	}
}

// Each record comes back as the bytes that it came as, whatever they are, and
// in whatever order the message's members stand.
func TestDecodeMessageKeepsBytes(t *testing.T) {
	loosely := rapid.OneOf(jsonValues(2), rapid.SampledFrom([]string{
		`{"a":1,"a":2}`, "\"\xff\"", `"\ud800"`, `{ "a" :	[ 1 , 2 ] }`, `{}`, `null`, `[]`,
		strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
	}))
	space := rapid.SampledFrom([]string{"", " ", "\n\t", "\r\n  "})
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(loosely, 0, 5).Draw(t, "records")
		var list strings.Builder
		for i, raw := range want {
			if i > 0 {
				list.WriteString(",")
			}
			list.WriteString(space.Draw(t, "space") + raw + space.Draw(t, "space"))
		}
		members := rapid.Permutation([]string{
			`"UsageType":"storage"`, `"Records" : [` + list.String() + `]`, `"x":{"UsageType":1,"Records":2}`, `"y":[]`,
		}).Draw(t, "members")
		data := []byte(space.Draw(t, "space") + "{" + strings.Join(members, ",") + "}" + space.Draw(t, "space"))
		before := slices.Clone(data)
		kind, got, err := DecodeMessage(data)
		if err != nil || kind != Storage {
			t.Fatalf("DecodeMessage(%s) = %s, %v", data, kind, err)
		}
		var texts []string
		for _, raw := range got {
			texts = append(texts, string(raw))
			if cap(raw) != len(raw) {
				t.Fatalf("appending to a record would write over the next")
			}
		}
		mustEqual(t, "records", want, texts)
		if !bytes.Equal(before, data) {
			t.Fatalf("the data were changed")
		}
	})
}

func TestDecodeMessageRefuses(t *testing.T) {
	for data, want := range map[string]string{
		``:                                       "the body is not a usage message",
		`null`:                                   "the body is not a usage message",
		`[]`:                                     "the body is not a usage message",
		`"Compute"`:                              "the body is not a usage message",
		`<html>`:                                 "the body is not a usage message",
		`{`:                                      "the body is not well-formed JSON: unexpected EOF",
		`{}`:                                     "the message has no UsageType",
		`{"Records":[]}`:                         "the message has no UsageType",
		`{"UsageType":"Compute"}`:                "the message has no Records",
		`{"usagetype":"Compute"}`:                "the message has no UsageType",
		`{"UsageType":"","Records":[]}`:          `UsageType "" is not one of Compute, Storage, Adjustment`,
		`{"UsageType":null,"Records":[]}`:        `UsageType "" is not one of Compute, Storage, Adjustment`,
		`{"UsageType":5,"Records":[]}`:           `UsageType "5" is not one of Compute, Storage, Adjustment`,
		`{"UsageType":{},"Records":[]}`:          `UsageType "" is not one of Compute, Storage, Adjustment`,
		`{"UsageType":"GPU","Records":[]}`:       `UsageType "GPU" is not one of Compute, Storage, Adjustment`,
		`{"UsageType":"Compute","Records":null}`: "the message's Records is not a list",
		`{"UsageType":"Compute","Records":{}}`:   "the message's Records is not a list",
		`{"UsageType":"Compute","Records":"[]"}`: "the message's Records is not a list",
		`{"UsageType":"Compute","Records":[],"Records":[]}`:          "the message has more than one Records",
		`{"UsageType":"Compute","UsageType":"Storage","Records":[]}`: "the message has more than one UsageType",
		`{"UsageType":"Compute","Records":[{}]`:                      "the body is not well-formed JSON: unexpected EOF",
		`{"UsageType":"Compute","Records":[{},]}`:                    "the body is not well-formed JSON: ",
		`{"UsageType":"Compute","Records":[{}{}]}`:                   "the body is not well-formed JSON: ",
		`{"UsageType":"Compute","Records":[]}}`:                      "the body is not well-formed JSON: ",
		`{"UsageType":"Compute","Records":[]} {}`:                    "the body is not well-formed JSON: ",
		`{"UsageType":"Compute","Records":[],}`:                      "the body is not well-formed JSON: ",
		`{"UsageType":"Compute","x":` + strings.Repeat("[", 100000):  "the body is not well-formed JSON: exceeded max depth",
	} {
		kind, records, err := DecodeMessage([]byte(data))
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != CodeInvalid || !strings.Contains(err.Error(), want) || kind != "" || records != nil {
			t.Errorf("DecodeMessage(%.60q) = %s, %v, %v, want %s", data, kind, records, err, want)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("DecodeMessage(%.60q): an error of %d bytes", data, len(err.Error()))
		}
		if err := new(Message).UnmarshalJSON([]byte(data)); err == nil {
			t.Errorf("Message took %.60q", data)
		}
	}
}

func TestSplitByType(t *testing.T) {
	s1, c1, a1, c2, s2 := recordedRecord(t, 1, 0), recordedRecord(t, 0, 0), recordedRecord(t, 2, 0), recordedRecord(t, 0, 1), new(StorageRecord)
	mustEqual(t, "messages", []*Message{
		{Storage, []Record{s1, s2}}, {Compute, []Record{c1, c2}}, {Adjustment, []Record{a1}},
	}, SplitByType([]Record{s1, c1, a1, c2, s2}))
	mustEqual(t, "messages of nothing", []*Message(nil), SplitByType(nil))
}

func TestMessageOfNil(t *testing.T) {
	for _, r := range []Record{nil, (*ComputeRecord)(nil), (*StorageRecord)(nil), (*AdjustmentRecord)(nil)} {
		if m, err := NewMessage(r); CodeOf(err) != CodeInvalid {
			t.Errorf("%v, %v", m, err)
		}
	}
}

func TestCodeOf(t *testing.T) {
	invalid := (&ComputeRecord{}).Validate()
	for _, test := range []struct {
		err  error
		want Code
	}{
		{nil, ""}, {errors.New("x"), ""}, {invalid, CodeInvalid}, {fmt.Errorf("wrapped: %w", invalid), CodeInvalid},
		{fmt.Errorf("wrapped: %w", &Error{Code: CodeNotFound}), CodeNotFound},
	} {
		if got := CodeOf(test.err); got != test.want {
			t.Errorf("%v: %q", test.err, got)
		}
	}
}

func ExampleRecords() {
	jobs := []*ComputeRecord{{LocalRecordID: "4711"}, {LocalRecordID: "4712"}}
	message, err := NewMessage(Records(jobs)...)
	fmt.Println(message, err)
	// Output:
	// Compute message of 2 records <nil>
}
