package httpapi_test

import (
	"net/http"
	"regexp"
	"strconv"
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
	key := strconv.FormatInt(who.KeyID, 10)
	if e.Who != "key "+key || e.From != "127.0.0.1" || e.KeyID != who.KeyID || e.Action+" "+e.What != "cleared failed records 1-2" || e.Site != site {
		t.Errorf("%+v", e)
	}
	b.call(t, "GET", "/api/v1/usage/status", "", "XA-API-KEY", "wrong")
	for _, text := range []string{`"key":` + key + `\b`, `"claimed_site":"` + site + `"`} {
		if !regexp.MustCompile(text).MatchString(b.log.String()) {
			t.Errorf("the log has no %s", text)
		}
	}
}
