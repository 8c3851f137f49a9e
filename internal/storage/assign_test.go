package storage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage/internal/storage"
)

func same(_, user string) (string, bool) { return user, user != "1005" }

func scratch() *storage.FileSystem {
	return &storage.FileSystem{
		Name: "scratch", Resource: "ocean", Rates: []storage.Rate{{Per: apd.New(1, 0), Unit: "GB"}},
		Map:    map[string]storage.Target{"a": {Project: "p.a"}, "b": {Project: "p.a", Lead: "carol"}, "c": {Project: "p.c", Resource: "other", Lead: "dan"}, "/x": {Project: "p.x"}, "/x/y": {Project: "p.y"}},
		Leads:  map[string]string{"p.a": "alice", "p.x": "erin", "p.y": "erin"},
		Ignore: map[string]bool{"root": true},
	}
}

func uses(a storage.Assignment) string {
	var all []string
	for _, u := range a.Uses {
		all = append(all, fmt.Sprintf("%s:%s:%s:%d", u.Mount, u.Project, u.User, u.Bytes))
	}
	return strings.Join(all, " ")
}

func TestAssign(t *testing.T) {
	for _, test := range []struct {
		what string
		from storage.From
		rows []storage.Row
		want string
	}{
		{"a tree without users is its lead's", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 7}}, "scratch:p.c:dan:7"},
		{"the rest is the lead's", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 7}, {Fileset: "c", User: "bob", Bytes: 5}}, "scratch:p.c:bob:5 scratch:p.c:dan:2"},
		{"the lead's own and the rest are one record", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 7}, {Fileset: "c", User: "dan", Bytes: 5}}, "scratch:p.c:dan:7"},
		{"no rest, no record", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 5}, {Fileset: "c", User: "bob", Bytes: 5}}, "scratch:p.c:bob:5"},
		{"two trees of a project", storage.FromFileset, []storage.Row{{Fileset: "a", Bytes: 7}, {Fileset: "b", Bytes: 8}, {Fileset: "b", User: "bob", Bytes: 5}}, "scratch:p.a:alice:10 scratch:p.a:bob:5"},
		{"users who hold more than their tree", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 7}, {Fileset: "c", User: "bob", Bytes: 5}, {Fileset: "c", User: "eve", Bytes: 4}}, "scratch:p.c:bob:3 scratch:p.c:eve:4"},
		{"a number without a name", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 9}, {Fileset: "c", User: "1005", Bytes: 5}}, "scratch:p.c:dan:9"},
		{"a user who is ignored is no part of the tree", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 9}, {Fileset: "c", User: "root", Bytes: 5}}, "scratch:p.c:dan:4"},
		{"other totals do not count", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 9}, {Group: "phys", Bytes: 5}, {User: "bob", Bytes: 3}}, "scratch:p.c:dan:9"},
		{"a row of nothing is one", storage.FromFileset, []storage.Row{{Fileset: "c", Bytes: 0}, {Fileset: "c", User: "bob", Bytes: 0}}, "scratch:p.c:bob:0"},
		{"the longest path", storage.FromPath, []storage.Row{{Path: "/x/1", User: "u", Bytes: 1}, {Path: "/x/y", User: "u", Bytes: 2}, {Path: "/x/y/z", User: "u", Bytes: 3}, {Path: "/xy", User: "u", Bytes: 4}}, "scratch:p.x:u:1 scratch:p.y:u:5"},
		{"mount points", storage.FromFileset, []storage.Row{{FileSystem: "m1", Fileset: "c", Bytes: 1}, {FileSystem: "m2", Fileset: "c", Bytes: 2}}, "m1:p.c:dan:1 m2:p.c:dan:2"},
	} {
		t.Run(test.what, func(t *testing.T) {
			if got := uses(scratch().Assign(test.rows, test.from, same)); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
	lead := scratch()
	lead.Leads = nil
	if a := lead.Assign([]storage.Row{{Fileset: "a", Bytes: 7}}, storage.FromFileset, same); len(a.Problems) != 1 || len(a.Uses) != 0 {
		t.Errorf("a project without a lead: %+v", a)
	}
}

// TestAddsUp assigns trees and users of any size: the records of a project are its trees, to the byte.
func TestAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rows []storage.Row
		want := map[string]int64{}
		for _, tree := range []string{"a", "b", "c"} {
			total := rapid.Int64Range(0, 1<<50).Draw(t, "total")
			rows = append(rows, storage.Row{Fileset: tree, Bytes: total})
			project := "p." + strings.ReplaceAll(tree, "b", "a")
			want[project] += total
			for range rapid.IntRange(0, 4).Draw(t, "users") {
				user := rapid.SampledFrom([]string{"alice", "bob", "1005", "carol", "dan"}).Draw(t, "user")
				rows = append(rows, storage.Row{Fileset: tree, User: user, Bytes: rapid.Int64Range(0, 1<<49).Draw(t, "bytes")})
			}
		}
		rows = rapid.Permutation(rows).Draw(t, "rows")
		a := scratch().Assign(rows, storage.FromFileset, same)
		got := map[string]int64{}
		for _, u := range a.Uses {
			if u.Bytes < 0 || u.User == "" {
				t.Fatalf("%+v", u)
			}
			got[u.Project] += u.Bytes
		}
		for project, total := range want {
			if got[project] != total {
				t.Fatalf("%s: %d, and its trees hold %d: %+v", project, got[project], total, a)
			}
		}
	})
}

func TestCharge(t *testing.T) {
	at := time.Date(2026, 10, 2, 10, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	reading := func(bytes int64, at time.Time, zone *time.Location) *storage.Reading {
		return &storage.Reading{At: at, Tick: storage.TickOf(at, day, zone), Uses: []storage.Use{{Mount: "m", Project: "p", User: "u", Resource: "r", Bytes: bytes}}}
	}
	for _, test := range []struct {
		what string
		rate storage.Rate
		last *storage.Reading
		want string
	}{
		{"GB", storage.Rate{Per: apd.New(1, 0), Unit: "GB"}, nil, "3298.534883"},
		{"TB", storage.Rate{Per: apd.New(1, 0), Unit: "TB"}, nil, "3.298535"},
		{"TiB", storage.Rate{Per: apd.New(1, 0), Unit: "TiB"}, nil, "3"},
		{"the first of an integral", storage.Rate{Per: apd.New(1, 0), Unit: "TiB", Integral: true}, nil, "0"},
		{"an integral", storage.Rate{Per: apd.New(1, -2), Unit: "TiB", Integral: true}, reading(2<<40, at.Add(-36*time.Hour), time.UTC), "0.03"},
	} {
		fs := &storage.FileSystem{Name: "scratch", Rates: []storage.Rate{test.rate}}
		records, err := fs.Records(reading(3<<40, at, time.UTC), test.last, day)
		if err != nil || len(records) != 1 || records[0].Record.Charge.String() != test.want {
			t.Errorf("%s: %+v, %v; want %s", test.what, records, err, test.want)
		}
	}
	dated := &storage.FileSystem{Name: "scratch", Rates: []storage.Rate{{From: at, Per: apd.New(1, 0), Unit: "GB"}}}
	if _, err := dated.Records(reading(1, at.Add(-day), time.UTC), nil, day); err == nil || !strings.Contains(err.Error(), "no rate has begun") {
		t.Errorf("before the first rate: %v", err)
	}
	// Whoever held something until now is charged for it, though it is gone.
	gone := &storage.FileSystem{Name: "scratch", Rates: []storage.Rate{{Per: apd.New(1, 0), Unit: "TiB", Integral: true}}}
	now := &storage.Reading{At: at, Tick: storage.TickOf(at, day, time.UTC)}
	if records, err := gone.Records(now, reading(1<<40, at.Add(-day), time.UTC), day); err != nil || len(records) != 1 || records[0].Record.Charge.String() != "1" {
		t.Errorf("gone: %+v, %v", records, err)
	}
}

func TestTicks(t *testing.T) {
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 2, 3, 0, 0, 0, time.UTC) // behind the end of summer time
	if got := storage.TickOf(at, 24*time.Hour, zone); !got.Equal(time.Date(2026, 11, 1, 4, 0, 0, 0, time.UTC)) {
		t.Errorf("a day begins at %s", got)
	}
	if got := storage.TickOf(at, time.Hour, zone); !got.Equal(at) {
		t.Errorf("an hour begins at %s", got)
	}
	ticks := storage.Missed(time.Date(2026, 10, 30, 4, 0, 0, 0, time.UTC), time.Date(2026, 11, 3, 5, 0, 0, 0, time.UTC), 24*time.Hour, zone, 10)
	if len(ticks) != 3 || !ticks[0].Equal(time.Date(2026, 10, 31, 4, 0, 0, 0, time.UTC)) || !ticks[2].Equal(time.Date(2026, 11, 2, 5, 0, 0, 0, time.UTC)) {
		t.Errorf("missed %v", ticks)
	}
}

func TestSuspect(t *testing.T) {
	hold := func(mount string, bytes int64) *storage.Reading {
		return &storage.Reading{Total: bytes, Uses: []storage.Use{{Mount: mount, Bytes: bytes}}}
	}
	for _, test := range []struct {
		what      string
		now, last *storage.Reading
		want      string
	}{
		{"the first", hold("m", 5), nil, ""},
		{"as before", hold("m", 100), hold("m", 100), ""},
		{"half", hold("m", 50), hold("m", 100), ""},
		{"less than half", hold("m", 49), hold("m", 100), "a change of more than 50%"},
		{"more", hold("m", 151), hold("m", 100), "a change of more than 50%"},
		{"nothing", &storage.Reading{}, hold("m", 100), "holds nothing"},
		{"vanished", hold("n", 100), hold("m", 100), "m is not in the report any more"},
	} {
		if got := test.now.Suspect(test.last, 50); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

func TestByTick(t *testing.T) {
	at := func(day, hour int) time.Time { return time.Date(2026, 10, day, hour, 0, 0, 0, time.UTC) }
	row := func(user string, bytes int64, at time.Time) storage.Row {
		return storage.Row{FileSystem: "/home", PI: "pi", User: user, Bytes: bytes, At: at}
	}
	ticks := storage.ByTick([]storage.Row{
		row("alice", 1, at(2, 5)), row("alice", 2, at(1, 5)), row("bob", 3, at(1, 6)), row("alice", 4, at(1, 7)), row("alice", 9, at(1, 4)),
	}, at(20, 0), 24*time.Hour, time.UTC)
	if len(ticks) != 2 || !ticks[0].At.Equal(at(1, 7)) || len(ticks[0].Rows) != 2 || ticks[0].Rows[0].Bytes != 4 || len(ticks[1].Rows) != 1 {
		t.Errorf("%+v", ticks)
	}
	ticks = storage.ByTick([]storage.Row{row("alice", 1, time.Time{}), row("alice", 2, time.Time{})}, at(20, 3), 24*time.Hour, time.UTC)
	if len(ticks) != 1 || !ticks[0].At.Equal(at(20, 3)) || len(ticks[0].Rows) != 2 {
		t.Errorf("rows that do not say when: %+v", ticks)
	}
}
