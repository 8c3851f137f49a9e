package pgtest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// connect connects as through a bouncer: without named prepared statements.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

func run(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func query[T any](t *testing.T, conn *pgx.Conn, statement string, args ...any) T {
	t.Helper()
	var value T
	if err := conn.QueryRow(t.Context(), statement, args...).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestDatabase(t *testing.T) {
	const tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
	const exists = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
	conn := connect(t, Database(t))
	run(t, conn, "CREATE TABLE kept (id bigint)")

	var name string
	t.Run("another", func(t *testing.T) {
		other := connect(t, Database(t))
		if n := query[int](t, other, tables); n != 0 {
			t.Errorf("a new database has %d tables", n)
		}
		name = query[string](t, other, "SELECT current_database()")
		if !query[bool](t, conn, exists, name) {
			t.Errorf("database %s is not on the same server", name)
		}
	})
	if query[bool](t, conn, exists, name) {
		t.Errorf("database %s is still there after its test", name)
	}
	if n := query[int](t, conn, tables); n != 1 {
		t.Errorf("the first database has %d tables, want 1", n)
	}
}

func TestRestart(t *testing.T) {
	s := Start(t, "work_mem=5MB")
	url := s.Database(t)
	conn := connect(t, url)
	run(t, conn, "CREATE TABLE kept (id bigint)")
	for i, mode := range []string{"immediate", "fast"} {
		run(t, conn, "INSERT INTO kept VALUES (1)")
		s.Restart(mode)
		if err := conn.Ping(t.Context()); err == nil {
			t.Errorf("%s: a session outlived its server", mode)
		}
		conn = connect(t, url)
		if n := query[int](t, conn, "SELECT count(*) FROM kept"); n != i+1 {
			t.Errorf("%s: %d rows are left of %d", mode, n, i+1)
		}
	}
	for name, want := range map[string]string{"work_mem": "5MB", "fsync": "on", "synchronous_commit": "on"} {
		if value := query[string](t, conn, "SELECT current_setting($1)", name); value != want {
			t.Errorf("%s is %s, want %s", name, value, want)
		}
	}
}

func TestBouncer(t *testing.T) {
	url := Bouncer(t, Database(t), "default_pool_size=1")
	a, b := connect(t, url), connect(t, url)
	const backend = "SELECT pg_backend_pid()"
	if x, y := query[int](t, a, backend), query[int](t, b, backend); x != y {
		t.Errorf("two clients had the sessions %d and %d of a pool of one", x, y)
	}
}

// TestKilled kills a process that has started a server: the server and its
// folder go.
func TestKilled(t *testing.T) {
	const child = "PGTEST_CHILD"
	if os.Getenv(child) != "" {
		s := Start(t, "fsync=off")
		fmt.Println(s.dir)
		fmt.Println(s.URL("postgres"))
		select {}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	dir, _ := lines.ReadString('\n')
	url, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err, cmd.Wait())
	}
	dir, url = strings.TrimSpace(dir), strings.TrimSpace(url)
	if err := execute(url, "SELECT 1"); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", dir)
		}
	}
	if err := execute(url, "SELECT 1"); err == nil {
		t.Error("the server still answers")
	}
}
