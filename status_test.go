package amieusage

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func statuses() *rapid.Generator[Status] {
	return rapid.Custom(func(t *rapid.T) Status {
		reason := rapid.Custom(func(t *rapid.T) FailureGroup {
			return FailureGroup{texts().Draw(t, "error"), rapid.SliceOfN(failedRecords(), 0, 2).Draw(t, "records")}
		})
		row := rapid.Custom(func(t *rapid.T) ResourceStatus {
			return ResourceStatus{
				Resource:          texts().Draw(t, "resource"),
				LoadedRecordCount: rapid.Int64Min(0).Draw(t, "loaded"),
				FailedJobCount:    rapid.Int64Min(0).Draw(t, "failed"),
				TotalCharge:       rapid.OneOf(rapid.Just(Charge{}), rapid.Map(rapid.Int64(), ChargeOfMillionths)).Draw(t, "charge"),
				Errors:            rapid.SliceOfN(reason, 0, 2).Draw(t, "errors"),
			}
		})
		return rapid.SliceOfN(row, 0, 2).Draw(t, "rows")
	})
}

func TestStatusesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := statuses().Draw(t, "status")
		data := mustMarshal(t, want)
		got := mustDecode[Status](t, data)
		mustEqual(t, "status", &want, got, apartFromRaw)
		mustEqual(t, "bytes", string(data), string(mustMarshal(t, got)))
		for _, row := range want {
			mustEqual(t, "row", &row, mustDecode[ResourceStatus](t, mustMarshal(t, row)), apartFromRaw)
		}
	})
}

func TestStatusesThatAreNone(t *testing.T) {
	for _, body := range []string{`{}`, `[7]`, `[{"LoadedRecordCount":"many"}]`, `[{"TotalCharge":"free"}]`, `[{"Errors":{}}]`} {
		if err := json.Unmarshal([]byte(body), new(Status)); err == nil {
			t.Errorf("Status took %s", body)
		}
	}
}

func TestResourceStatusLine(t *testing.T) {
	r := ResourceStatus{Resource: "r", LoadedRecordCount: 2, FailedJobCount: 1, TotalCharge: mustCharge(t, "-3.5")}
	mustEqual(t, "line", "r: 2 loaded, 1 failed, total charge -3.5", r.String())
	mustEqual(t, "empty line", "-: 0 loaded, 0 failed, total charge -", ResourceStatus{}.String())
}

func periods() *rapid.Generator[[2]time.Time] {
	return rapid.Custom(func(t *rapid.T) [2]time.Time {
		point := rapid.OneOf(rapid.Just(time.Time{}), timesFrom(1970))
		p := [2]time.Time{point.Draw(t, "from"), point.Draw(t, "to")}
		if !p[0].IsZero() && !p[1].IsZero() && p[1].Before(p[0]) {
			p[0], p[1] = p[1], p[0]
		}
		return p
	})
}

func TestStatusQueriesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := periods().Draw(t, "period")
		want := StatusQuery{p[0], p[1]}
		got, err := ParseStatusQuery(overTheWire(t, want.Values()))
		if err != nil {
			t.Fatalf("%v", err)
		}
		mustEqual(t, "query", want, got)
	})
}

// overTheWire takes parameters through the text of a URL.
func overTheWire(t tester, v url.Values) url.Values {
	t.Helper()
	parsed, err := url.ParseQuery(v.Encode())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return parsed
}

func TestParseStatusQuery(t *testing.T) {
	for query, want := range map[string]StatusQuery{
		"": {},
		"FromTime=2026-10-01T00%3A00%3A00%2B00%3A00&ToTime=2026-10-03T00%3A00%3A00%2B00%3A00": {
			From: mustTime(t, "2026-10-01T00:00:00Z"), To: mustTime(t, "2026-10-03T00:00:00Z")},
		"FromTime=2026-10-01":                     {From: mustTime(t, "2026-10-01T00:00:00Z")},
		"ToTime=2026-10-01T00:00:00-04:00&From=x": {To: mustTime(t, "2026-10-01T00:00:00-04:00")},
		"FromTime=2026-10-01&ToTime=2026-10-01":   {mustTime(t, "2026-10-01T00:00:00Z"), mustTime(t, "2026-10-01T00:00:00Z")},
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseStatusQuery(v)
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
		mustEqual(t, query, want, got)
	}
	for query, want := range map[string]string{
		"FromTime=yesterday":                    `parameter FromTime is not an ISO 8601 time: "yesterday"`,
		"ToTime=2026-10-01T00:00:00+00:00":      `parameter ToTime is not an ISO 8601 time: "2026-10-01T00:00:00 00:00" (as in 2026-10-01 or 2026-10-01T12:00:00%2B00:00`,
		"FromTime=2026-10-02&ToTime=2026-10-01": "parameter ToTime must not be before FromTime",
		"FromTime=2026-02-30":                   `parameter FromTime is not an ISO 8601 time: "2026-02-30"`,
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseStatusQuery(v)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeInvalid || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
}
