package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/amieusage/amieusage/internal/ledger"
)

// TestWho has the key in the log and in the ledger's memory, with the address; and the name
// that a wrong key came with.
func TestWho(t *testing.T) {
	b := newBench(t)
	b.failing(t, 2)
	who := b.caller(t)
	if r := b.call(t, "DELETE", "/api/v1/usage/failed/1,2", ""); r.status != http.StatusOK {
		t.Fatalf("status %d", r.status)
	}
	events, err := b.store.Events(t.Context(), ledger.HistoryQuery{KeyID: who.KeyID})
	if err != nil || len(events) == 0 {
		t.Fatalf("%v, %v", events, err)
	}
	e := events[len(events)-1]
	if e.Who != "key 1" || e.From != "127.0.0.1" || e.KeyID != 1 || e.Action+" "+e.What != "cleared failed records 1-2" || e.Site != site {
		t.Errorf("%+v", e)
	}
	b.call(t, "GET", "/api/v1/usage/status", "", "XA-API-KEY", "wrong")
	for _, text := range []string{`"key":1`, `"claimed_site":"` + site + `"`} {
		if !strings.Contains(b.log.String(), text) {
			t.Errorf("the log has no %s", text)
		}
	}
}
