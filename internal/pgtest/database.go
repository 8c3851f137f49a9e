package pgtest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Variable names the environment variable that holds the URL of the server on
// which Database works, with a role that may create databases. Where it is not
// set, Database starts a server.
const Variable = "AMIEUSAGE_TEST_POSTGRES"

// patience bounds each wait for a server.
const patience = 30 * time.Second

// shared is the server of all tests of this process. It ends with the process.
var shared = sync.OnceValues(func() (*Server, error) {
	return newServer([]string{"fsync=off", "shared_buffers=32MB"})
})

// Database makes an empty database, which is dropped at the end of the test,
// and is its URL. Its server is shared by the tests of the process: settings
// and roles belong to all of them, and a crash of the machine would lose its
// data (fsync is off). Start gives a test a server of its own.
func Database(t testing.TB) string {
	t.Helper()
	if server := os.Getenv(Variable); server != "" {
		return newDatabase(t, server)
	}
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s.Database(t)
}

// newDatabase makes a database on the server of a URL, and is its URL.
func newDatabase(t testing.TB, server string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		t.Fatalf("pgtest: %s must be a URL that begins with postgres://", Variable)
	}
	name := "amieusage_test_" + strings.ToLower(rand.Text())
	if err := execute(server, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("pgtest: creating a database: %v", err)
	}
	t.Cleanup(func() {
		if err := execute(server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("pgtest: dropping a database: %v", err)
		}
	})
	u.Path = "/" + name
	return u.String()
}

// execute runs one statement in a connection of its own.
func execute(server, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}
