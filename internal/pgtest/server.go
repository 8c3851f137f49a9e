// Package pgtest gives tests and benchmarks real PostgreSQL servers, and a
// real pgbouncer. What it starts, it also ends and removes, however the test's
// process ends. Nothing is skipped: a program that is missing fails the test.
package pgtest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Server is a PostgreSQL server of a test's own: on 127.0.0.1, where it trusts
// everyone, with the superuser postgres. Its methods fail the test on errors.
type Server struct {
	// Data is the data folder.
	Data string
	// Port stays the same when the server is stopped and started.
	Port int

	t      testing.TB
	dir    string // holds the data folder and the log
	bin    string // the folder of initdb and pg_ctl
	keeper *keeper
}

// Start makes and starts a server, which is removed at the end of the test.
// Settings are lines of postgresql.conf ("shared_buffers=1GB"); fsync is on
// unless they say otherwise. It is ready for connections on return.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := newServer(settings)
	if err != nil {
		t.Fatal(err)
	}
	s.t = t
	t.Cleanup(s.keeper.end)
	return s
}

// stopScript is what a keeper of a server does.
const stopScript = `read -r _; "$1" -D "$2" -m immediate stop`

// newServer makes a server that lives until its keeper ends, or this process.
func newServer(settings []string) (*Server, error) {
	bin, err := serverPrograms()
	if err != nil {
		return nil, err
	}
	dir, err := newFolder()
	if err != nil {
		return nil, err
	}
	s := &Server{Data: filepath.Join(dir, "data"), dir: dir, bin: bin}
	s.keeper, err = keep(dir, stopScript, filepath.Join(bin, "pg_ctl"), s.Data)
	if err != nil {
		return nil, err
	}
	if err := s.create(settings); err != nil {
		s.keeper.end()
		return nil, err
	}
	return s, nil
}

// create makes the data folder and starts the server for the first time.
func (s *Server) create(settings []string) error {
	err := s.run("initdb", "-D", s.Data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	if err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(s.Data, "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	lines := append([]string{"", "listen_addresses='127.0.0.1'", "unix_socket_directories=''", "max_connections=200"}, settings...)
	_, err = conf.WriteString(strings.Join(lines, "\n") + "\n")
	if err := errors.Join(err, conf.Close()); err != nil {
		return err
	}
	return s.startFirst()
}

// startFirst starts the server for the first time.
func (s *Server) startFirst() (err error) {
	for range 3 { // another process may take the port first
		if s.Port, err = freePort(); err != nil {
			return err
		}
		if err = s.start(); err == nil {
			return nil
		}
	}
	return err
}

// Standby starts a hot standby of the server, which is removed at the end of
// the test. It follows what the server commits, without making it wait.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	dir, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	standby := &Server{Data: filepath.Join(dir, "data"), t: t, dir: dir, bin: s.bin}
	standby.keeper, err = keep(dir, stopScript, filepath.Join(s.bin, "pg_ctl"), standby.Data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standby.keeper.end)
	if err := standby.run("pg_basebackup", "-D", standby.Data, "-R", "-c", "fast", "--no-sync",
		"-h", "127.0.0.1", "-p", strconv.Itoa(s.Port), "-U", "postgres"); err != nil {
		t.Fatal(err)
	}
	if err := standby.startFirst(); err != nil {
		t.Fatal(err)
	}
	return standby
}

// Promote makes a primary of a standby, and waits until it is one.
func (s *Server) Promote() {
	s.t.Helper()
	if err := s.run("pg_ctl", "-D", s.Data, "promote"); err != nil {
		s.t.Fatal(err)
	}
}

// URL is the address of a database of the server, with its superuser.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User("postgres"),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Database makes an empty database, which is dropped at the end of the test,
// and is its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	return newDatabase(t, s.URL("postgres"))
}

// Start starts a stopped server again, on the same data and port, and waits
// until it is ready.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Stop stops the server and waits for its end. The mode is pg_ctl's: "fast"
// ends the sessions and shuts down in order; "immediate" is a crash: the next
// start recovers.
func (s *Server) Stop(mode string) {
	s.t.Helper()
	if err := s.run("pg_ctl", "-D", s.Data, "-m", mode, "stop"); err != nil {
		s.t.Fatal(err)
	}
}

// Restart is Stop and Start.
func (s *Server) Restart(mode string) {
	s.t.Helper()
	s.Stop(mode)
	s.Start()
}

func (s *Server) start() error {
	log := filepath.Join(s.dir, "log")
	err := s.run("pg_ctl", "-D", s.Data, "-l", log, "-o", "-p "+strconv.Itoa(s.Port), "-t", "60", "start")
	if err != nil {
		return fmt.Errorf("%w\nits log ends:\n%s", err, tail(log))
	}
	return nil
}

// run runs one of the server's programs to its end.
func (s *Server) run(program string, args ...string) error {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	if err := demote(cmd, s.dir); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: %s: %w\n%s", program, err, out)
	}
	return nil
}
