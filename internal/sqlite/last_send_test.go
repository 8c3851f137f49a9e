package sqlite_test

import (
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/sqlite"
)

// TestLastSendOfOldLedger brings a ledger up to date that did not note when a site has
// last sent something.
func TestLastSendOfOldLedger(t *testing.T) {
	path := fullLedger(t)
	last := func() time.Time {
		t.Helper()
		l, err := sqlite.OpenLedger(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		sites, err := l.Sites(t.Context())
		if err == nil {
			err = l.Close()
		}
		if err != nil || len(sites) != 1 {
			t.Fatalf("%v, %v", sites, err)
		}
		return sites[0].LastAccepted
	}
	want := last()
	if want.IsZero() {
		t.Fatal("nothing was sent")
	}
	execute(t, path, `DROP TABLE ledger; DROP TABLE events; ALTER TABLE sites DROP COLUMN last_accepted_at; ALTER TABLE sites DROP COLUMN moved_at; DELETE FROM goose_db_version WHERE version_id >= 3`)
	if got := last(); !got.Equal(want) {
		t.Errorf("the last send was at %s, not at %s", got, want)
	}
}
