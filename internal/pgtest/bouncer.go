package pgtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bouncer starts a pgbouncer before the server of a URL, until the end of the
// test, and is the URL to connect through it, to the same database. It pools
// by transaction, in five connections, and lets everyone in. Settings are lines
// of the section pgbouncer of its configuration ("default_pool_size=1"). It is
// ready on return; the server must be running.
func Bouncer(t testing.TB, server string, settings ...string) string {
	t.Helper()
	program, err := findProgram("pgbouncer", "/usr/sbin")
	if err != nil {
		t.Fatal(err)
	}
	to, err := pgx.ParseConfig(server)
	if err != nil {
		t.Fatal(err)
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	quote := func(value string) string { return "'" + strings.ReplaceAll(value, "'", "''") + "'" }
	target := fmt.Sprintf("* = host=%s port=%d user=%s", quote(to.Host), to.Port, quote(to.User))
	if to.Password != "" { // pgbouncer knows no empty values
		target += " password=" + quote(to.Password)
	}
	conf := append([]string{
		"[databases]",
		target,
		"[pgbouncer]",
		"listen_addr = 127.0.0.1",
		"listen_port = " + strconv.Itoa(port),
		"unix_socket_dir =",
		"auth_type = any",
		"pool_mode = transaction",
		"default_pool_size = 5",
		"max_client_conn = 1000",
	}, settings...)
	dir, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, []byte(strings.Join(conf, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := keep(dir, `"$1" "$2" & read -r _; kill -9 $!`, program, ini)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.end)

	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	u.RawQuery = "sslmode=disable"
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := execute(u.String(), "SELECT 1")
		if err == nil {
			return u.String()
		}
		if time.Now().After(deadline) {
			t.Fatalf("pgtest: pgbouncer does not answer: %v\nits log ends:\n%s", err, tail(filepath.Join(dir, "keeper.log")))
		}
	}
}
