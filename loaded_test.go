package amieusage

import (
	"encoding/json"
	"errors"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLoadedRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := LoadedRecord{
			AccountingDbRecordID: rapid.Int64().Draw(t, "number"),
			UsageType:            rapid.OneOf(kinds(), rapid.Just(UsageType(""))).Draw(t, "kind"),
			LocalRecordID:        texts().Draw(t, "id"),
			Resource:             texts().Draw(t, "resource"),
			SubmitTime:           rapid.OneOf(rapid.Just(time.Time{}), timesFrom(1)).Draw(t, "submitted"),
			LoadedTime:           timesFrom(1970).Draw(t, "loaded"),
			Charge:               rapid.OneOf(rapid.Just(Charge{}), rapid.Map(rapid.Int64(), ChargeOfMillionths)).Draw(t, "charge"),
		}
		data := mustMarshal(t, want)
		got := mustDecode[LoadedRecord](t, data)
		mustEqual(t, "loaded record", &want, got)
		mustEqual(t, "bytes", string(data), string(mustMarshal(t, got)))
		list := LoadedRecords{want, {}, want}
		data = mustMarshal(t, list)
		mustEqual(t, "list", list, *mustDecode[LoadedRecords](t, data))
	})
}

// The identity of a loaded record is that of the record that was sent.
func TestLoadedIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := kinds().Draw(t, "kind")
		sent := validRecords(kind).Draw(t, "record")
		loaded := LoadedRecord{
			UsageType:     kind,
			LocalRecordID: sent.Common().LocalRecordID,
			Resource:      sent.Common().Resource,
			SubmitTime:    sent.AllocationTime().In(zones().Draw(t, "zone")),
		}
		if loaded.Identity() != sent.Identity() {
			t.Fatalf("%v is not %v", loaded.Identity(), sent.Identity())
		}
		loaded.UsageType = ""
		if (loaded.Identity() == sent.Identity()) != (kind == Compute) {
			t.Fatalf("without a usage type: %v, and %v", loaded.Identity(), sent.Identity())
		}
	})
}

func TestLoadedRecordsThatAreNone(t *testing.T) {
	for _, body := range []string{`[]`, `{"AccountingDbRecordID":"x"}`, `{"LocalRecordID":{}}`, `{"Resource":7}`, `{"SubmitTime":"yesterday"}`,
		`{"LoadedTime":7}`, `{"Charge":"free"}`, `{"UsageType":"GPU"}`} {
		if err := json.Unmarshal([]byte(body), new(LoadedRecord)); err == nil {
			t.Errorf("LoadedRecord took %s", body)
		}
	}
	mustEqual(t, "of any letter case", Storage, mustDecode[LoadedRecord](t, []byte(`{"UsageType":"storage"}`)).UsageType)
	for _, body := range []string{`{}`, `null`, `[7]`, `[{}`, `[{}]]`, `[{"Charge":"free"}]`} {
		if err := new(LoadedRecords).UnmarshalJSON([]byte(body)); err == nil {
			t.Errorf("LoadedRecords took %s", body)
		}
	}
}

func TestLoadedRecordLine(t *testing.T) {
	r := LoadedRecord{
		AccountingDbRecordID: 12, LocalRecordID: "4711", Resource: "r", SubmitTime: mustTime(t, "2026-10-01T23:59:00Z"),
		LoadedTime: mustTime(t, "2026-10-03T00:00:00Z"), Charge: mustCharge(t, "16.25"),
	}
	mustEqual(t, "line", "12: 4711 on r submitted 2026-10-01T23:59:00Z loaded 2026-10-03T00:00:00Z: charge 16.25", r.String())
	mustEqual(t, "empty line", "0: - on - submitted - loaded -: charge -", LoadedRecord{}.String())
}

func TestLoadedQueriesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := LoadedQuery{
			MinLoadedTime: rapid.OneOf(rapid.Just(time.Time{}), timesFrom(1970)).Draw(t, "time"),
			LocalRecordID: texts().Draw(t, "id"),
			PageSize:      rapid.IntRange(0, MaxLoadedPage).Draw(t, "limit"),
			Offset:        rapid.Int64Min(0).Draw(t, "offset"),
			Cursor:        texts().Draw(t, "cursor"),
		}
		if want.Cursor != "" {
			want.Offset = 0
		}
		got, err := ParseLoadedQuery(overTheWire(t, want.Values()))
		if err != nil {
			t.Fatalf("%v", err)
		}
		mustEqual(t, "query", want, got)
	})
}

func TestParseLoadedQuery(t *testing.T) {
	for query, want := range map[string]LoadedQuery{
		"":                         {},
		"Limit=25000":              {PageSize: MaxLoadedPage},
		"Limit=1&Offset=0":         {PageSize: 1},
		"Limit=&Offset=":           {},
		"MinLoadedTime=2026-10-01": {MinLoadedTime: mustTime(t, "2026-10-01T00:00:00Z")},
		"Offset=9223372036854775807&LocalRecordID=4712_3": {Offset: math.MaxInt64, LocalRecordID: "4712_3"},
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseLoadedQuery(v)
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
		mustEqual(t, query, want, got)
	}
	for query, want := range map[string]string{
		"Limit=0":                    `parameter Limit must be a whole number from 1 to 25000, not "0"`,
		"Limit=25001":                `parameter Limit must be a whole number from 1 to 25000, not "25001"`,
		"Limit=ten":                  `parameter Limit must be a whole number from 1 to 25000, not "ten"`,
		"Offset=-1":                  `parameter Offset must be a whole number from 0 to 9223372036854775807, not "-1"`,
		"Offset=9223372036854775808": `parameter Offset must be a whole number from 0`,
		"MinLoadedTime=x":            `parameter MinLoadedTime is not an ISO 8601 time: "x"`,
		"Cursor=c&Offset=1":          "parameters Cursor and Offset exclude each other",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseLoadedQuery(v)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeInvalid || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
}
