package postgres_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

// rowsSource is a source of one site, PSC, with the rows of some tables.
type rowsSource map[string][][]any

// SetMoved does nothing.
func (s rowsSource) SetMoved(context.Context, []string) error { return nil }

func (s rowsSource) Sites(context.Context) ([]string, error) { return []string{"PSC"}, nil }

func (s rowsSource) Site(context.Context, string) (*ledger.CopySite, error) {
	site := &ledger.CopySite{ID: 9, Name: "PSC"}
	site.RegistryVersion, site.LastName = 7, 3
	site.Failed = int64(len(s["failed_records"]))
	site.Loaded = -site.Failed
	return site, nil
}

func (s rowsSource) Rows(_ context.Context, _ ledger.SiteID, t *ledger.CopyTable, after []int64) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		for _, row := range s[t.Name] {
			if key, _ := row[0].(int64); key > after[0] && !yield(row, nil) {
				return
			}
		}
	}
}

func failedRow(id int64) []any {
	return []any{id, int64(1), int64(1), "1", int64(5), int64(1), int64(0), "no", int64(6), []byte("{}"), int64(0), nil}
}

func usersOf(n int) (rows [][]any) {
	for i := range n {
		rows = append(rows, []any{int64(i + 1), "user" + strings.Repeat("é", i%3) + string(rune('a'+i%26)) + time.Unix(int64(i), 0).UTC().String()})
	}
	return rows
}

func tableOf(name string) *ledger.CopyTable {
	return ledger.CopyTables[slices.IndexFunc(ledger.CopyTables, func(t *ledger.CopyTable) bool { return t.Name == name })]
}

func wantCode(t *testing.T, err error, code amieusage.Code, text string) {
	t.Helper()
	if e, ok := errors.AsType[*amieusage.Error](err); !ok || e.Code != code || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one of code %s with %q", err, code, text)
	}
}

// TestCopyTarget walks through what a copy does, and is stopped at each step
// where it must be.
func TestCopyTarget(t *testing.T) {
	ctx := t.Context()
	url := pgtest.Database(t)
	l := open(t, url)
	c := l.CopyTarget()
	if s, err := c.Site(ctx, "PSC"); s != nil || err != nil {
		t.Fatal(s, err)
	}
	if _, err := l.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "NCSA", Resources: []string{"r"}}}}); err != nil {
		t.Fatal(err)
	}
	site, err := c.Create(ctx, "PSC")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Create(ctx, "PSC")
	wantCode(t, err, amieusage.CodeConflict, "another program copies")
	_, err = l.Authority(ctx, "PSC")
	wantCode(t, err, amieusage.CodeUnavailable, "is being copied")
	_, err = l.Import(ctx, &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC", Resources: []string{"r"}}}})
	wantCode(t, err, amieusage.CodeUnavailable, "is being copied")

	users := tableOf("users")
	appendUser := func(after, id int64, name string) error {
		return c.Append(ctx, site, users, []int64{after}, [][]any{{id, name}})
	}
	if err := appendUser(users.First()[0], 1, "alice"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, appendUser(users.First()[0], 2, "bob"), amieusage.CodeConflict, "another program copies")
	wantCode(t, appendUser(1, 2, "alice"), amieusage.CodeConflict, "--restart")
	wantCode(t, appendUser(1, 2, "b\x00b"), amieusage.CodeInvalid, "valid UTF-8")
	if key, err := c.LastKey(ctx, site, users); err != nil || key[0] != 1 {
		t.Error(key, err)
	}

	served, err := c.Site(ctx, "NCSA")
	if err != nil || !served.Served {
		t.Fatal(served, err)
	}
	wantCode(t, c.Append(ctx, served.ID, users, users.First(), [][]any{{int64(1), "eve"}}), amieusage.CodeConflict, "served already")
	wantCode(t, c.Remove(ctx, served.ID), amieusage.CodeConflict, "served already")
	copied, err := c.Site(ctx, "PSC")
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, c.Serve(ctx, []*ledger.CopySite{copied, served}), amieusage.CodeConflict, "served already")
	if s, err := c.Site(ctx, "PSC"); err != nil || s.Served {
		t.Error("all or none are served", s, err)
	}
}

// TestCopyRun copies twice over what is left of a removal that was cut off, and
// moves the counter of failed records past those of the copy, and never back.
func TestCopyRun(t *testing.T) {
	ctx := t.Context()
	url := pgtest.Database(t)
	target := open(t, url).CopyTarget()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	number := func(query string) (n int64) {
		t.Helper()
		if err := conn.QueryRow(ctx, query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	from := rowsSource{"users": usersOf(25_000), "failed_records": {failedRow(3), failedRow(2_000_000)}}
	run := func(c ledger.Copy) ([]ledger.CopyReport, error) {
		c.From, c.To = from, target
		return c.Run(ctx, []string{"PSC"})
	}
	reports, err := run(ledger.Copy{})
	if err != nil || !reports[0].Equal() || reports[0].Copied != 25_002 {
		t.Fatal(err, cmp.Diff(reports, nil))
	}
	if n := number(`SELECT nextval('failed_ids')`); n <= 2_000_000 {
		t.Errorf("the next failed record has the number %d", n)
	}
	before := number(`SELECT setval('failed_ids', 5000000)`)
	for _, c := range []struct {
		statement string
		rows      int64 // that are copied then
		restart   bool
	}{
		{`DELETE FROM users WHERE user_id > 20000`, 5_000, false},
		{`DELETE FROM users WHERE user_id > 5000; DELETE FROM failed_records`, 20_002, false},
		{`DELETE FROM users WHERE user_id = 7`, 25_002, true},
	} {
		if _, err := conn.Exec(ctx, `UPDATE sites SET served = false; `+c.statement); err != nil {
			t.Fatal(err)
		}
		if c.restart {
			_, err := run(ledger.Copy{})
			if !errors.Is(err, ledger.ErrCopyDiffers) {
				t.Errorf("after %s: %v", c.statement, err)
			}
		}
		reports, err := run(ledger.Copy{Restart: c.restart})
		if err != nil || !reports[0].Equal() || reports[0].Copied != c.rows {
			t.Errorf("after %s: %v, %+v", c.statement, err, reports)
		}
	}
	if n := number(`SELECT nextval('failed_ids')`); n != before+1 {
		t.Errorf("the counter of failed records went from %d to %d", before, n)
	}
	// It is served: the same is all right, something else is not.
	if reports, err := run(ledger.Copy{Restart: true}); err != nil || reports[0].Copied != 0 {
		t.Error(reports, err)
	}
	from["failed_records"] = append(from["failed_records"], failedRow(3_000_000))
	reports, err = run(ledger.Copy{Restart: true})
	wantCode(t, err, amieusage.CodeConflict, "another database")
	if n := number(`SELECT count(*) FROM users`); n != 25_000 || reports != nil {
		t.Errorf("%d users, %v", n, reports)
	}
}

// TestCopyMeanwhile has another program write what was compared already.
func TestCopyMeanwhile(t *testing.T) {
	ctx := t.Context()
	target := open(t, pgtest.Database(t)).CopyTarget()
	keys := tableOf("api_keys")
	written := false
	c := ledger.Copy{From: rowsSource{"users": usersOf(10_000)}, To: target, Progress: func(p ledger.CopyProgress) {
		if !p.Verifying || written {
			return
		}
		written = true
		site, err := target.Site(ctx, "PSC")
		if err == nil {
			err = target.Append(ctx, site.ID, keys, keys.First(), [][]any{{int64(1), []byte("hash"), "", int64(5), nil}})
		}
		if err != nil {
			t.Error(err)
		}
	}}
	_, err := c.Run(ctx, []string{"PSC"})
	wantCode(t, err, amieusage.CodeConflict, "another program copies")
	if !written {
		t.Error("nothing was written")
	}
	if _, err := c.Run(ctx, []string{"PSC"}); !errors.Is(err, ledger.ErrCopyDiffers) {
		t.Errorf("again: %v", err)
	}
	c.Restart = true
	if _, err := c.Run(ctx, []string{"PSC"}); err != nil {
		t.Errorf("from the beginning: %v", err)
	}
}

// TestCopyCrash has the server crash while it is copied into, and while both
// are compared.
func TestCopyCrash(t *testing.T) {
	server := pgtest.Start(t)
	target := open(t, server.Database(t)).CopyTarget()
	copied := int64(0)
	for _, verifying := range []bool{false, true} {
		crashed := false
		c := ledger.Copy{From: rowsSource{"users": usersOf(25_000)}, To: target, Progress: func(p ledger.CopyProgress) {
			if !p.Verifying {
				copied++
			}
			if p.Verifying == verifying && !crashed {
				crashed = true
				server.Restart("immediate")
			}
		}}
		// Between two transactions it may go unnoticed.
		if _, err := c.Run(t.Context(), []string{"PSC"}); err != nil || verifying {
			wantCode(t, err, amieusage.CodeUnavailable, "at the moment")
		}
		if !crashed {
			t.Error("there was no crash")
		}
	}
	c := ledger.Copy{From: rowsSource{"users": usersOf(25_000)}, To: target}
	reports, err := c.Run(t.Context(), []string{"PSC"})
	if err != nil || !reports[0].Equal() || copied != 3 {
		t.Errorf("%v, %+v; %d transactions, want 3", err, reports, copied)
	}
}

// TestCopyRights has a user that may read only.
func TestCopyRights(t *testing.T) {
	ctx := t.Context()
	server := pgtest.Start(t)
	url := server.Database(t)
	open(t, url)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
		GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader`); err != nil {
		t.Fatal(err)
	}
	l, err := postgres.Open(ctx, strings.Replace(url, "postgres@", "reader@", 1), postgres.Options{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := ledger.Copy{From: rowsSource{}, To: l.CopyTarget()}
	_, err = c.Run(ctx, []string{"PSC"})
	wantCode(t, err, amieusage.CodeForbidden, "connect as the owner")
}
