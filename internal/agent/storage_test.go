package agent_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/internal/storage"
)

func storageSite(t *testing.T) (*agent.Agent, agent.StorageRun) {
	t.Helper()
	queue, err := sqlite.OpenOutbox(context.Background(), filepath.Join(t.TempDir(), "outbox.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := queue.Close(); err != nil {
			t.Error(err)
		}
	})
	fs := &storage.FileSystem{Name: "scratch", Resource: "ocean", Rates: []storage.Rate{{Per: apd.New(1, 0), Unit: "GB"}}}
	return &agent.Agent{Queue: queue, Clock: time.Now, Log: quiet}, agent.StorageRun{FileSystem: fs, Every: 24 * time.Hour, Zone: time.UTC, Plausible: 50}
}

func held(day int, users ...storage.Use) *storage.Assignment {
	a := &storage.Assignment{Reading: storage.Reading{At: time.Date(2026, 10, day, 10, 0, 0, 0, time.UTC), Uses: users}}
	for _, u := range users {
		a.Total += u.Bytes
	}
	return a
}

func use(user string, gigabytes int64) storage.Use {
	return storage.Use{Mount: "scratch", Project: "p", User: user, Resource: "ocean", Bytes: gigabytes * 1e9}
}

// charges returns the charges of the records by their days and users.
func storageCharges(t *testing.T, q outbox.Queue) map[string]string {
	t.Helper()
	charges := map[string]string{}
	for e, err := range outbox.All(context.Background(), q, outbox.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		r := e.Record.(*amieusage.StorageRecord)
		charges[r.CollectionTime.Format("2 ")+r.Username] = r.Charge.String()
	}
	return charges
}

// TestStorageGoesOn ends a run behind the storing of a reading, before that of its
// records: the next one stores them, though it reads another day.
func TestStorageGoesOn(t *testing.T) {
	a, run := storageSite(t)
	ctx := context.Background()
	if err := a.CollectStorage(ctx, run, held(1, use("alice", 100)), nil); err != nil {
		t.Fatal(err)
	}
	cut := held(2, use("alice", 110), use("bob", 1)).Reading
	cut.FileSystem, cut.Tick = "scratch", storage.TickOf(cut.At, run.Every, run.Zone)
	if err := a.Queue.SetReading(ctx, &cut); err != nil {
		t.Fatal(err)
	}
	for day := 3; day <= 6; day++ { // more than are looked at
		if err := a.CollectStorage(ctx, run, held(day, use("alice", 120)), nil); err != nil {
			t.Fatal(err)
		}
	}
	got := storageCharges(t, a.Queue)
	if got["1 alice"] != "100" || got["2 alice"] != "110" || got["2 bob"] != "1" || got["6 alice"] != "120" || len(got) != 7 {
		t.Errorf("%v", got)
	}
}

// TestStorageOverwrites reads a day again: users who are gone go to 0, and what a
// person has decided stands.
func TestStorageOverwrites(t *testing.T) {
	a, run := storageSite(t)
	ctx := context.Background()
	if err := a.CollectStorage(ctx, run, held(1, use("alice", 100), use("bob", 5)), nil); err != nil {
		t.Fatal(err)
	}
	entry, err := a.Queue.Get(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Queue.Apply(ctx, []outbox.Write{outbox.Hold(entry, outbox.Note{Who: "root"})}, nil); err != nil {
		t.Fatal(err)
	}
	later := held(1, use("alice", 110))
	later.At = later.At.Add(time.Hour)
	if err := a.CollectStorage(ctx, run, later, nil); err != nil {
		t.Fatal(err)
	}
	if got := storageCharges(t, a.Queue); got["1 alice"] != "100" || got["1 bob"] != "0" {
		t.Errorf("%v", got)
	}
	if err := a.CollectStorage(ctx, run, held(1, use("alice", 100)), nil); err == nil {
		t.Error("an older reading of the day overwrites a newer one")
	}
	if err := a.CollectStorage(ctx, run, held(2, use("alice", 10)), nil); err == nil {
		t.Error("a fall by nine tenths is believed")
	}
	run.Accept = true
	if err := a.CollectStorage(ctx, run, held(2, use("alice", 10)), nil); err != nil {
		t.Error(err)
	}
}

// TestStorageRulesDoNotReachBack edits the rate, and reads again.
func TestStorageRulesDoNotReachBack(t *testing.T) {
	a, run := storageSite(t)
	ctx := context.Background()
	if err := a.CollectStorage(ctx, run, held(1, use("alice", 100)), nil); err != nil {
		t.Fatal(err)
	}
	dearer := *run.FileSystem
	dearer.Rates = []storage.Rate{{Per: apd.New(3, 0), Unit: "GB"}}
	run.FileSystem = &dearer
	want := func(what, charge string) {
		t.Helper()
		if got := storageCharges(t, a.Queue)["1 alice"]; got != charge {
			t.Errorf("%s: %s, want %s", what, got, charge)
		}
	}
	if err := a.CollectStorage(ctx, run, held(1, use("alice", 100)), nil); err == nil {
		t.Error("the same report would cost otherwise by today's rules, and nothing is said")
	}
	want("the same report", "100")
	if err := a.CollectStorage(ctx, run, held(1, use("bob", 100)), nil); err == nil {
		t.Error("the same report comes to other records by today's rules, and nothing is said")
	}
	want("the same report, of another user by now", "100")
	later := held(1, use("alice", 110))
	later.At = later.At.Add(time.Hour)
	if err := a.CollectStorage(ctx, run, later, nil); err != nil {
		t.Error(err)
	}
	want("a later report of the same day", "110")
	if err := a.CollectStorage(ctx, run, held(2, use("alice", 100)), nil); err != nil {
		t.Error(err)
	}
	if got := storageCharges(t, a.Queue)["2 alice"]; got != "300" {
		t.Errorf("the next day is charged %s, want 300", got)
	}
	run.Reprice = true
	if err := a.CollectStorage(ctx, run, later, nil); err != nil {
		t.Error(err)
	}
	want("repriced", "330")
	run.Reprice = false
	future := held(1, use("alice", 110))
	future.At = time.Now().Add(48 * time.Hour)
	if err := a.CollectStorage(ctx, run, future, nil); err == nil {
		t.Error("a report of the day after tomorrow is taken")
	}
}

// TestIntegralInOrder reads a day between two that were charged by the time between
// them.
func TestIntegralInOrder(t *testing.T) {
	a, run := storageSite(t)
	run.FileSystem.Rates[0].Integral = true
	for _, day := range []int{1, 3} {
		if err := a.CollectStorage(context.Background(), run, held(day, use("alice", 100)), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.CollectStorage(context.Background(), run, held(2, use("alice", 100)), nil); err == nil {
		t.Error("the time between two readings is charged twice")
	}
	if got := storageCharges(t, a.Queue); got["1 alice"] != "0" || got["3 alice"] != "200" || len(got) != 2 {
		t.Errorf("%v", got)
	}
}
