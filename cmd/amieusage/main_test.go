package main

import (
	"bufio"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the expected outputs of the scripts anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"amieusage": func() { os.Exit(run()) }})
}

// TestScripts runs the program as a process, as its users do.
func TestScripts(t *testing.T) {
	fixtures, err := filepath.Abs("../../testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("FIXTURES", fixtures)
			s := &server{}
			env.Values[serverKey{}] = s
			env.Defer(func() {
				if s.cmd != nil {
					_ = s.cmd.Process.Kill()
					_ = s.cmd.Wait()
				}
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":        exits,
			"serve":        serve,
			"sigterm":      sigterm,
			"newkey":       newKey,
			"certificates": certificates,
		},
	})
}

// exits runs a command that must exit with the status: exits 2 amieusage …
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// serve starts the service on a free port, waits until it is ready, and sets
// URL: serve --db ledger.db …
func serve(ts *testscript.TestScript, neg bool, args []string) {
	path := ""
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), string(os.PathListSeparator)) {
		name := filepath.Join(dir, "amieusage")
		if _, err := os.Stat(name); err == nil {
			path = name
			break
		}
	}
	cmd := exec.Command(path, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	log, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	lines := bufio.NewScanner(log)
	url := regexp.MustCompile(`url=(\S+)`)
	for lines.Scan() {
		if m := url.FindStringSubmatch(lines.Text()); m != nil {
			ts.Setenv("URL", m[1])
			go func() {
				for lines.Scan() {
				}
			}()
			ts.Value(serverKey{}).(*server).cmd = cmd
			return
		}
		ts.Logf("%s", lines.Text())
	}
	ts.Fatalf("the service did not start: %v", cmd.Wait())
}

// sigterm ends the service with SIGTERM; it must exit with status 0.
func sigterm(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(serverKey{}).(*server)
	ts.Check(s.cmd.Process.Signal(syscall.SIGTERM))
	err := s.cmd.Wait()
	s.cmd = nil
	if err != nil {
		ts.Fatalf("the service did not exit with status 0: %v", err)
	}
}

// newKey makes a key and puts it into a private file: newkey SITE DB FILE
func newKey(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: newkey SITE DB FILE")
	}
	ts.Check(ts.Exec("amieusage", "admin", "key", "create", "--site", args[0], "--db", args[1]))
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(ts.ReadFile("stdout")), 0o600))
}

type serverKey struct{}

type server struct{ cmd *exec.Cmd }

// TestHelp holds every command to a help text with an example.
func TestHelp(t *testing.T) {
	p := &program{}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("%s has no help text", cmd.CommandPath())
		}
		if cmd.HasParent() && !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("the help of %s has no example of it", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(p.rootCommand())
}

// TestLoopback tells addresses that only this machine reaches.
func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:8642": true, "localhost:1": true, "[::1]:1": true, "127.9.9.9:80": true,
		":8642": false, "0.0.0.0:8642": false, "[::]:1": false, "192.0.2.1:1": false, "example.org:1": false, "nonsense": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("isLoopback(%q) = %v, want %v", address, got, want)
		}
	}
}
