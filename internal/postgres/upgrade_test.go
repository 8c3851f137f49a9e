package postgres_test

import (
	"context"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

// migrationsOf returns the migrations in folders, those up to the name last.
func migrationsOf(t *testing.T, last string, folders ...string) fs.FS {
	t.Helper()
	all := fstest.MapFS{}
	for _, folder := range folders {
		files, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f.Name() > last {
				continue
			}
			data, err := os.ReadFile(folder + "/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			all[f.Name()] = &fstest.MapFile{Data: data}
		}
	}
	return all
}

// TestUpgradeRolling starts a next version beside replicas that accept and
// load, and then one that they cannot work with.
func TestUpgradeRolling(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var replicas []*replica
	for range 2 {
		r := serveHTTP(t, opened(t, url, postgres.Options{MaxConns: 4}))
		r.run(t)
		replicas = append(replicas, r)
	}
	var sent, resent atomic.Int64
	stop := make(chan struct{})
	var group sync.WaitGroup
	for i, r := range replicas {
		group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				resent.Add(int64(r.insist(t, strconv.Itoa(i)+"."+strconv.Itoa(n)) - 1))
				sent.Add(1)
			}
		})
	}
	more := func() {
		t.Helper()
		before := sent.Load()
		until(t, "records are accepted", func() bool { return sent.Load() > before+20 })
	}
	more()
	next := postgres.Options{MaxConns: 4}.WithMigrations(migrationsOf(t, "9", "migrations", "testdata/next"))
	var start sync.WaitGroup
	for range 2 {
		start.Go(func() {
			l, err := postgres.Open(context.Background(), url, next)
			if err != nil {
				t.Error(err)
				return
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	start.Wait()
	more()
	again := serveHTTP(t, open(t, url)) // the old program
	again.insist(t, "again")
	newer := serveHTTP(t, opened(t, url, next))
	newer.run(t)
	newer.insist(t, "newer")
	more()
	close(stop)
	group.Wait()
	t.Logf("%d sends accepted, %d answered 503", sent.Load(), resent.Load())
	again.account(t, int(sent.Load())+2)

	latest := migrationsOf(t, "9", "migrations", "testdata/next", "testdata/breaking")
	opened(t, url, postgres.Options{}.WithMigrations(latest))
	for _, old := range []postgres.Options{{}, next} {
		_, err := postgres.Open(context.Background(), url, old)
		checkRefused(t, err, amieusage.CodeInvalid, "has schema 100", "newer amieusage")
	}
	// Those that run get errors, and change nothing.
	service := serve(t, again.ledger, "SDSC")
	data := message(t, "late")
	if _, err := service.Accept(context.Background(), service.who, service.resources, data); err == nil {
		t.Error("a send was accepted into a schema that the program does not know")
	}
}

// TestUpgradeFirst opens a ledger of the first version, with records of every state in it.
func TestUpgradeFirst(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	first := opened(t, url, postgres.Options{})
	c := serve(t, first, "PSC")
	for n := range 3 {
		c.send(t, compute("same", "alice", n), compute(strconv.Itoa(n), "alice", 1), compute(strconv.Itoa(n)+".failed", "eve", 1))
		if n < 2 {
			c.loadAll(t)
		}
	}
	newKey := func(l *postgres.Ledger) int64 {
		t.Helper()
		_, key, err := ledger.CreateKey(context.Background(), l, "PSC", "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return key.ID
	}
	newKey(first)
	// What later versions have added is taken away.
	for _, statement := range []string{
		`DROP TABLE ledger, events`, `DROP SEQUENCE event_ids`,
		`DROP INDEX failed_batch`, `ALTER TABLE batches DROP COLUMN archive`, `ALTER TABLE loading DROP COLUMN archived_revisions`,
		`DELETE FROM goose_db_version WHERE version_id > 1`,
	} {
		execute(t, url, statement)
	}
	l := open(t, url)
	if got, want := queried[int64](t, url, `SELECT max(version_id) FROM goose_db_version`), lastMigration(t); got != want {
		t.Errorf("schema %d, want %d", got, want)
	}
	upgraded := serve(t, l, "PSC")
	upgraded.loadAll(t)
	if got, err := l.Counts(context.Background(), upgraded.who.Site); err != nil || got != (ledger.Counts{Accepted: 9, Loaded: 6, Failed: 3}) {
		t.Errorf("counts %+v, %v", got, err)
	}
	revisions, err := l.Revisions(context.Background(), upgraded.who.Site, compute("same", "alice", 0).Identity())
	if err != nil || len(revisions) != 3 {
		t.Errorf("%d revisions, %v; want 3", len(revisions), err)
	}
	if id := newKey(l); id != 2 {
		t.Errorf("the next key is %d, not 2", id)
	}
	if err := l.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}

func lastMigration(t *testing.T) int64 {
	t.Helper()
	files, err := os.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	last, err := strconv.ParseInt(files[len(files)-1].Name()[:5], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return last
}
