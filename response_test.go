package amieusage

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestSendResponsesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := SendResponse{
			Message:       texts().Draw(t, "message"),
			FailedRecords: rapid.SliceOfN(failedRecords(), 0, 2).Draw(t, "failed"),
		}
		data := mustMarshal(t, want)
		got := mustDecode[SendResponse](t, data)
		mustEqual(t, "response", &want, got, apartFromRaw)
		mustEqual(t, "bytes", string(data), string(mustMarshal(t, got)))

		list := FailedRecords(want.FailedRecords)
		mustEqual(t, "failed records", &list, mustDecode[FailedRecords](t, mustMarshal(t, list)), apartFromRaw)
	})
}

func TestSendResponseLine(t *testing.T) {
	r := SendResponse{Message: QueuedMessage(3, 2), FailedRecords: make([]FailedRecord, 2)}
	for message, want := range map[string]int{QueuedMessage(3, 2): 3, "0 records have been queued for loading.": 0, "4 records have been queued for loading, none failed": 4, "5 records have been queued for loadings": -1,
		"records have been queued for loading.": -1, "many records have been queued for loading.": -1, "thank you": -1, "": -1} {
		n, ok := (&SendResponse{Message: message}).Queued()
		if !ok {
			n = -1
		}
		mustEqual(t, message, want, n)
	}
	mustEqual(t, "line", "3 records have been queued for loading, 2 records failed.", r.String())
}

func TestResponsesThatAreNone(t *testing.T) {
	for _, body := range []string{`[]`, `"x"`, `{"FailedRecords":{}}`, `{"ValidationFailedRecords":"x"}`, `{"Message":1}`} {
		if err := json.Unmarshal([]byte(body), new(SendResponse)); err == nil {
			t.Errorf("SendResponse took %s", body)
		}
	}
	for _, body := range []string{`[]`, `{"FailedRecords":7}`} {
		if err := json.Unmarshal([]byte(body), new(FailedRecords)); err == nil {
			t.Errorf("FailedRecords took %s", body)
		}
	}
}
