package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/internal/postgres"
)

const secret = "s3cr3t/w:rd@x"

// opened opens a ledger with options until the end of the test.
func opened(t testing.TB, url string, o postgres.Options) *postgres.Ledger {
	t.Helper()
	l, err := postgres.Open(context.Background(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// changed returns the URL with another user, password, host and database, each
// where it is not "".
func changed(t testing.TB, from, user, password, host, database string) string {
	t.Helper()
	u, err := url.Parse(from)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case password != "":
		u.User = url.UserPassword(user, password)
	case user != "":
		u.User = url.User(user)
	}
	if host != "" {
		u.Host = host
	}
	if database != "" {
		u.Path = "/" + database
	}
	return u.String()
}

// closedAddress is an address that nobody listens on.
func closedAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func checkRefused(t *testing.T, err error, code amieusage.Code, texts ...string) {
	t.Helper()
	e, ok := errors.AsType[*amieusage.Error](err)
	if !ok || e.Code != code || e.Hint == "" {
		t.Fatalf("error %v (%#v), want one with code %s and a hint", err, err, code)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q says nothing of %q", err, text)
		}
	}
	for _, part := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), "s3cr3t", "w:rd"} {
		if strings.Contains(err.Error(), part) {
			t.Errorf("error %q tells the password", err)
		}
	}
}

// TestOpenRefuses opens what cannot hold a ledger.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "fsync=off")
	admin := server.URL("postgres")
	execute(t, admin, `CREATE DATABASE latin ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`,
		`CREATE DATABASE ascii ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`,
		`CREATE DATABASE readonly`, `ALTER DATABASE readonly SET default_transaction_read_only = on`,
		`CREATE DATABASE early`, `ALTER DATABASE early SET synchronous_commit = off`,
		`CREATE DATABASE closed`, `REVOKE CONNECT ON DATABASE closed FROM public`, `CREATE DATABASE foreign_tables`, `CREATE DATABASE batches`,
		`SET password_encryption = 'scram-sha-256'`, `CREATE USER amie PASSWORD '`+secret+`'`)
	execute(t, server.URL("foreign_tables"), `CREATE TABLE goose_db_version (id integer, version_id bigint, is_applied boolean)`,
		`INSERT INTO goose_db_version VALUES (1, 1, true)`)
	execute(t, server.URL("batches"), `CREATE TABLE batches ()`)
	hba := "host all amie 127.0.0.1/32 scram-sha-256\nhost all nobody 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 trust\n"
	if err := os.WriteFile(filepath.Join(server.Data, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	execute(t, admin, `SELECT pg_reload_conf()`)
	closed := closedAddress(t)
	with := func(user, password, host, database string) string {
		return changed(t, admin, user, password, host, database)
	}
	for name, c := range map[string]struct {
		url   string
		code  amieusage.Code
		texts []string
	}{
		"closed port":       {with("amie", secret, closed, ""), amieusage.CodeUnavailable, []string{closed, "is the server running"}},
		"unknown host":      {with("amie", secret, "db.invalid:5432", ""), amieusage.CodeUnavailable, []string{"db.invalid", "is the server running"}},
		"wrong password":    {with("amie", secret+"s3cr3t", "", ""), amieusage.CodeForbidden, []string{"PGPASSWORD"}},
		"no password":       {with("amie", "", "", ""), amieusage.CodeForbidden, []string{"PGPASSWORD"}},
		"rejected user":     {with("nobody", secret, "", ""), amieusage.CodeForbidden, []string{"check the user"}},
		"no database":       {with("amie", secret, "", "missing"), amieusage.CodeNotFound, []string{"missing", "createdb"}},
		"no right":          {with("amie", secret, "", "closed"), amieusage.CodeForbidden, []string{"GRANT CONNECT"}},
		"no tables":         {with("amie", secret, "", ""), amieusage.CodeForbidden, []string{"GRANT CREATE ON SCHEMA public"}},
		"read-only":         {with("", "", "", "readonly"), amieusage.CodeUnavailable, []string{"is read-only", "primary"}},
		"any server":        {with("", "", "", "readonly") + "&target_session_attrs=any", amieusage.CodeUnavailable, []string{"is read-only"}},
		"early":             {with("", "", "", "early"), amieusage.CodeInvalid, []string{"synchronous_commit", "ALTER DATABASE"}},
		"LATIN1":            {with("", "", "", "latin"), amieusage.CodeInvalid, []string{"LATIN1", "--encoding=UTF8"}},
		"SQL_ASCII":         {with("", "", "", "ascii"), amieusage.CodeInvalid, []string{"SQL_ASCII", "--encoding=UTF8"}},
		"another program":   {with("", "", "", "foreign_tables"), amieusage.CodeInvalid, []string{"another program", "of its own"}},
		"tables in the way": {with("", "", "", "batches"), amieusage.CodeInvalid, []string{"batches", "of its own"}},
		"raw password":      {"postgres://amie:" + secret + "@127.0.0.1/db", amieusage.CodeInvalid, []string{"cannot be read", "%40"}},
		"digits":            {"postgres://amie:1/s3cr3t@127.0.0.1/db", amieusage.CodeInvalid, []string{"cannot be read", "%40"}},
		"port":              {"postgres://amie:s3cr3t@127.0.0.1:port/db", amieusage.CodeInvalid, []string{"cannot be read"}},
		"query":             {"postgres://127.0.0.1/db?password=s3cr3t&sslmode=odd", amieusage.CodeInvalid, []string{"cannot be read"}},
		"sslmode":           {"postgres://amie@127.0.0.1/db?sslmode=odd", amieusage.CodeInvalid, []string{"cannot be read", "sslmode"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := postgres.Open(context.Background(), c.url, postgres.Options{})
			if err == nil {
				l.Close()
			}
			checkRefused(t, err, c.code, c.texts...)
			if name := postgres.Redacted(c.url); strings.Contains(name, "s3cr3t") {
				t.Errorf("the name %s tells the password", name)
			}
		})
	}
	t.Run("listening URL", func(t *testing.T) {
		_, err := postgres.Open(context.Background(), admin, postgres.Options{ListenURL: "postgres://amie:" + secret + "@127.0.0.1/db"})
		checkRefused(t, err, amieusage.CodeInvalid, "cannot be read")
	})
}

func TestOldServer(t *testing.T) {
	t.Parallel()
	checkRefused(t, postgres.CheckServer(120_022), amieusage.CodeInvalid, "PostgreSQL 12", "upgrade", "13")
	if err := postgres.CheckServer(130_000); err != nil {
		t.Error(err)
	}
}

// TestOpenTogether opens an empty database through many replicas at once,
// directly and through a pooler that has one connection.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	for name, through := range map[string]func(url string) string{
		"server": func(url string) string { return url },
		"pooler": func(url string) string { return pgtest.Bouncer(t, url, "default_pool_size=1") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := pgtest.Database(t)
			url := through(direct)
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					l, err := postgres.Open(context.Background(), url, postgres.Options{MaxConns: 1})
					if err != nil {
						t.Error(err)
						return
					}
					if err := l.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			const twice = `SELECT count(*) FROM (SELECT version_id FROM goose_db_version GROUP BY version_id HAVING count(*) > 1) v`
			if n := queried[int](t, direct, twice); n != 0 {
				t.Errorf("%d migrations ran more than once", n)
			}
		})
	}
}

// TestOpenInterrupted interrupts migrations at their lock and ends them from
// the server's side; the next Open completes them.
func TestOpenInterrupted(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	// The last migration cannot go on while another holds its table's name.
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `CREATE TABLE loads ()`); err != nil {
		t.Fatal(err)
	}
	const waiting = `SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
	pid := func() (pid int) {
		until(t, "a migration waits", func() bool {
			pid = queried[int](t, url, waiting)
			return pid != 0
		})
		return pid
	}
	cancelled, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	start := func(ctx context.Context) {
		l, err := postgres.Open(ctx, url, postgres.Options{})
		if err == nil {
			l.Close()
		}
		ended <- err
	}
	go start(cancelled)
	pid()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the context was cancelled", err)
	}
	go start(ctx)
	execute(t, url, fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, pid()))
	checkRefused(t, <-ended, amieusage.CodeUnavailable, "try again")
	go start(ctx)
	pid()
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	history(t, open(t, url), "PSC")
}

// until waits until something is so.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func codeOf(err error) amieusage.Code {
	if e, ok := errors.AsType[*amieusage.Error](err); ok {
		return e.Code
	}
	return ""
}
