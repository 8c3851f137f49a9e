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

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// exactly compares all that this package holds: charges and counts to the
// letter, times with their offsets, errors by their texts.
var exactly = cmp.Options{
	cmp.AllowUnexported(Charge{}, Count{}),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) && FormatTime(a) == FormatTime(b) }),
	cmp.FilterValues(func(a, b error) bool { return a != nil || b != nil },
		cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })),
	cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) }),
	cmpopts.EquateEmpty(),
}

// apartFromRaw leaves out what a failed record came as.
var apartFromRaw = cmp.Options{exactly, cmpopts.IgnoreFields(FailedRecord{}, "Raw")}

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

func mustEqual(t tester, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if len(opts) == 0 {
		opts = []cmp.Option{exactly}
	}
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// mustBeStrict fails where a strict reader would refuse the data.
func mustBeStrict(t tester, data []byte) {
	t.Helper()
	if !utf8.Valid(data) {
		t.Fatalf("not valid UTF-8: %q", data)
	}
	if !jsontext.Value(data).IsValid() {
		t.Fatalf("not JSON that a strict reader accepts: %s", data)
	}
}

func mustMarshal(t tester, v json.Marshaler) []byte {
	t.Helper()
	data, err := v.MarshalJSON()
	if err != nil {
		t.Fatalf("marshal: %v", err)
	}
	mustBeStrict(t, data)
	return data
}

func mustDecode[T any](t tester, data []byte) *T {
	t.Helper()
	v := new(T)
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("unmarshal %s: %v", data, err)
	}
	return v
}

func mustCheck(t tester, kind UsageType, data string) Record {
	t.Helper()
	r, err := CheckRecord(kind, []byte(data))
	if err != nil {
		t.Fatalf("CheckRecord(%s): %v", data, err)
	}
	return r
}

// recorded returns the bodies of the messages that the reference client was
// seen to send.
func recorded(t *testing.T) (messages [][]byte) {
	t.Helper()
	data, err := os.ReadFile("testdata/wire/amieclient-0.6.1-requests.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range *mustDecode[[]struct {
		Method string
		Body   json.RawMessage
	}](t, data) {
		if request.Method == "POST" {
			messages = append(messages, request.Body)
		}
	}
	if len(messages) != 3 {
		t.Fatalf("%d recorded messages, want 3", len(messages))
	}
	return messages
}

// recordedRecord returns a record of a recorded message.
func recordedRecord(t *testing.T, message, index int) Record {
	t.Helper()
	kind, items, err := DecodeMessage(recorded(t)[message])
	if err != nil {
		t.Fatal(err)
	}
	return mustCheck(t, kind, string(items[index]))
}

// mustTime reads a time in RFC 3339 by other means than this package's.
func mustTime(t tester, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return v
}

func mustCharge(t tester, s string) Charge {
	t.Helper()
	c, err := ParseCharge(s)
	if err != nil {
		t.Fatalf("ParseCharge(%q): %v", s, err)
	}
	return c
}

// rational returns the exact value of a decimal text by other means than this
// package's.
func rational(t tester, s string) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("big.Rat cannot read %q", s)
	}
	return r
}

// Generators.

func kinds() *rapid.Generator[UsageType] {
	return rapid.SampledFrom([]UsageType{Compute, Storage, Adjustment})
}

// texts draws texts with everything that JSON must escape, but without NUL.
func texts() *rapid.Generator[string] {
	char := rapid.OneOf(
		rapid.SampledFrom([]rune("ab1.-_| \"\\/<>&'{}[],:\n\t\x01\x7fé€\u2028\ufffd😀")),
		rapid.Rune().Filter(func(r rune) bool { return r != 0 }),
	)
	return rapid.StringOfN(char, 0, 20, 1024)
}

func requiredTexts() *rapid.Generator[string] {
	return texts().Filter(func(s string) bool { return s != "" })
}

func zones() *rapid.Generator[*time.Location] {
	return rapid.Custom(func(t *rapid.T) *time.Location {
		minutes := rapid.OneOf(
			rapid.SampledFrom([]int{0, 0, -240, -300, 330, 345, 60, 840}),
			rapid.IntRange(-23*60-59, 23*60+59)).Draw(t, "offset")
		if minutes == 0 {
			return time.UTC
		}
		return time.FixedZone("", minutes*60)
	})
}

// timesFrom draws times of records, with any offset, from one year on.
func timesFrom(year int) *rapid.Generator[time.Time] {
	low := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	return rapid.Custom(func(t *rapid.T) time.Time {
		seconds := rapid.Int64Range(low, latestTime.Unix()-1).Draw(t, "seconds")
		nanos := rapid.OneOf(rapid.Just(int64(0)), rapid.Just(int64(123456000)),
			rapid.Int64Range(0, 999_999_999)).Draw(t, "nanoseconds")
		return time.Unix(seconds, nanos).In(zones().Draw(t, "zone"))
	})
}

// chargeTexts draws texts of every form of a charge.
func chargeTexts() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringMatching(`[0-9]{1,14}(\.[0-9]{1,20})?`),
		rapid.StringMatching(`[0-9]{1,12}\.[0-9]{5}(5|50|500|4999|5001|6)`),
		rapid.StringMatching(`[+-]?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?`),
		rapid.StringMatching(`-?[0-9]{1,3}\.[0-9]{1,400}e-?[0-9]{1,2}`),
		rapid.SampledFrom([]string{"0", "-0", "0e500", "-0.0", "+5", ".5", "5.", "1e3", "0.0000005", "0.0000015",
			"9000000000000", "9000000000000.0000005", "9000000000000.00000051", "1.9e-05", "1e-1000", "1e1000"}),
	)
}

// validCharges draws charges that no ledger refuses.
func validCharges() *rapid.Generator[Charge] {
	return rapid.Custom(func(t *rapid.T) Charge {
		text := chargeTexts().Filter(func(s string) bool {
			return s[0] != '-' && rational(t, s).Cmp(new(big.Rat).SetInt64(MaxCharge)) <= 0
		}).Draw(t, "charge")
		return mustCharge(t, text)
	})
}

func counts() *rapid.Generator[Count] {
	return rapid.OneOf(rapid.Just(Count{}), rapid.Map(rapid.OneOf(rapid.Int64Range(0, 10), rapid.Int64Min(0)), CountOf))
}

// jsonValues draws compact JSON values.
func jsonValues(depth int) *rapid.Generator[string] {
	scalar := rapid.OneOf(
		rapid.SampledFrom([]string{"null", "true", "false", `""`, `"\u0041\ud83d\ude00\u0000"`, "1e999", "-0", `"<&>"`}),
		rapid.Map(texts(), func(s string) string { return string(appendString(nil, s)) }),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?`),
	)
	if depth == 0 {
		return scalar
	}
	element := jsonValues(depth - 1)
	return rapid.OneOf(scalar, scalar,
		rapid.Map(rapid.SliceOfN(element, 0, 3), func(l []string) string { return "[" + strings.Join(l, ",") + "]" }),
		rapid.Custom(func(t *rapid.T) string {
			var members []string
			for i := range rapid.IntRange(0, 3).Draw(t, "members") {
				members = append(members, fmt.Sprintf(`"m%d":%s`, i, element.Draw(t, "member")))
			}
			return "{" + strings.Join(members, ",") + "}"
		}))
}

// extras draws unknown fields that no record of the kind knows.
func extras(kind UsageType, attributes bool) *rapid.Generator[Extra] {
	schema := NewRecord(kind).schema()
	name := rapid.OneOf(texts(), rapid.SampledFrom([]string{"x", "Error", "username", "Attributes", "QOS"})).
		Filter(func(s string) bool { return !schema.taken(s, attributes) })
	return rapid.Custom(func(t *rapid.T) Extra {
		var extra Extra
		if rapid.IntRange(0, 2).Draw(t, "extra") > 0 {
			return nil
		}
		for _, n := range rapid.SliceOfNDistinct(name, 0, 4, rapid.ID).Draw(t, "names") {
			extra = append(extra, ExtraField{n, json.RawMessage(jsonValues(2).Draw(t, "value"))})
		}
		return extra
	})
}

// validRecords draws records of a kind that Validate passes.
func validRecords(kind UsageType) *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		r := NewRecord(kind)
		schema := r.schema()
		for i := range schema.fields {
			f := &schema.fields[i]
			switch p := f.value(r).(type) {
			case *string:
				*p = texts().Draw(t, f.name)
				if f.required {
					*p = requiredTexts().Draw(t, f.name)
				}
			case *AdjustmentType:
				*p = rapid.SampledFrom(AdjustmentTypes).Draw(t, f.name)
			case *time.Time:
				*p = timesFrom(1971).Draw(t, f.name)
			case *Charge:
				*p = validCharges().Draw(t, f.name)
			case *Count:
				*p = counts().Draw(t, f.name)
				if f.required && !p.IsSet() {
					*p = CountOf(1)
				}
			default:
				t.Fatalf("no generator for %T", p)
			}
		}
		if c, ok := r.(*ComputeRecord); ok {
			c.StartTime = c.SubmitTime.Add(time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "wait"))).In(zones().Draw(t, "zone"))
			c.EndTime = c.StartTime.Add(time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "run"))).In(zones().Draw(t, "zone"))
			if !c.EndTime.Before(latestTime) {
				c.SubmitTime, c.StartTime, c.EndTime = earliestTime, earliestTime, earliestTime
			}
		}
		extra, extraAttributes := r.extras()
		*extra = extras(kind, false).Draw(t, "extra")
		if schema.hasAttributes {
			*extraAttributes = extras(kind, true).Draw(t, "extra attributes")
		}
		return r
	})
}
