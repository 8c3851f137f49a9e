package sqlite_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// TestOutboxUpgrade opens an outbox of the first schema, which named its
// states: every entry, count and cursor is what it was.
func TestOutboxUpgrade(t *testing.T) {
	ctx := context.Background()
	folder := t.TempDir()
	q := openOutbox(t, filepath.Join(folder, "new.db"))
	check := func(_ int, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	items := outboxItems(0, 50)
	items[49].Record.(*amieusage.ComputeRecord).Resource = "gpu.example.org"
	_, err := q.Enqueue(ctx, items, &outbox.Cursor{Source: "sacct", At: time.Unix(1_790_000_000, 0)})
	check(0, err)
	for id := outbox.ID(11); id <= 50; id++ {
		check(q.Sent(ctx, []outbox.Delivery{{ID: id, Revision: 1, Rejected: id <= 20, Reason: "no such resource"}}))
	}
	for i := 30; i < 50; i++ {
		r := items[i].Record
		if i < 40 {
			check(q.Failed(ctx, []amieusage.FailedRecord{{UsageType: amieusage.Compute, Record: r, FailedRecordID: int64(i), Error: "no such user"}}))
			continue
		}
		id := r.Identity()
		check(q.Loaded(ctx, []amieusage.LoadedRecord{{LocalRecordID: id.LocalRecordID, Resource: id.Resource, SubmitTime: id.KeyTime,
			LoadedTime: id.KeyTime, Charge: r.Common().Charge}}))
	}
	want := contentOf(t, q)

	old := filepath.Join(folder, "old.db")
	db, err := sql.Open("sqlite", "file:"+old)
	check(0, err)
	files := os.DirFS("migrations/outbox")
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	check(0, err)
	_, err = provider.UpTo(ctx, 1)
	check(0, err)
	check(0, db.Close())
	const names = `CASE state WHEN 0 THEN 'failed' WHEN 1 THEN 'loaded' WHEN 2 THEN 'pending' WHEN 3 THEN 'queued' WHEN 4 THEN 'rejected' END`
	execute(t, old, `
		ATTACH '`+filepath.Join(folder, "new.db")+`' AS new;
		INSERT INTO resources SELECT * FROM new.resources;
		INSERT INTO cursors SELECT * FROM new.cursors;
		INSERT INTO entries SELECT entry_id, resource_id, usage_type, local_record_id, key_time, `+names+`, reason, revision, digest,
			charge, attempts, failed_record_id, enqueued_at, sent_at, loaded_at, loaded_digest, loaded_charge FROM new.entries;
		INSERT INTO records SELECT * FROM new.records;
		INSERT INTO counts SELECT resource_id, `+names+`, entries FROM new.counts;`)
	upgraded := openOutbox(t, old)
	if diff := cmp.Diff(want, contentOf(t, upgraded)); diff != "" {
		t.Errorf("upgraded (-want +got):\n%s", diff)
	}
	if _, err := upgraded.Enqueue(ctx, outboxItems(50, 60), nil); err != nil {
		t.Error(err)
	}
	if n, err := upgraded.Retry(ctx, outbox.Selection{States: outbox.States}); n != 40 || err != nil {
		t.Errorf("%d entries retried, error %v", n, err)
	}
}

// contentOf returns all that an outbox tells of itself.
func contentOf(t *testing.T, q outbox.Queue) (all []any) {
	t.Helper()
	ctx := context.Background()
	entries, err := q.List(ctx, outbox.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.ID, string(e.Record.AppendJSON(nil)), e.Place, e.Progress)
	}
	for _, state := range outbox.States {
		entries, err := q.List(ctx, outbox.Filter{States: []outbox.State{state}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, state, len(entries))
	}
	counts, err := q.Counts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	unconfirmed, err := q.Unconfirmed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cursor, err := q.Cursor(ctx, "sacct")
	if err != nil {
		t.Fatal(err)
	}
	return append(all, counts, unconfirmed, cursor)
}
