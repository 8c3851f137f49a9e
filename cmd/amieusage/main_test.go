package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
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

	"github.com/amieusage/amieusage/internal/pgtest"
)

var update = flag.Bool("update", false, "write the expected outputs of the scripts anew")

func TestMain(m *testing.M) {
	testscript.Main(cleanTests{m}, map[string]func(){"amieusage": func() { os.Exit(run()) }})
}

// TestScripts runs the program as a process, as its users do. Scripts in the
// folder ledger run on each engine: their ledger is $DB.
func TestScripts(t *testing.T) {
	inFile := func(testing.TB) string { return "ledger.db" }
	runScripts(t, "script", inFile)
	t.Run("sqlite", func(t *testing.T) { runScripts(t, "script/ledger", inFile) })
	t.Run("postgres", func(t *testing.T) {
		runScripts(t, "script/ledger", pgtest.Database)
		runScripts(t, "script/postgres", func(t testing.TB) string {
			// A server of its own, which lets everyone in, with any password.
			return strings.Replace(pgtest.Start(t).Database(t), "postgres@", "postgres:s3cret@", 1)
		})
	})
}

// runScripts runs the scripts in a folder, each with a ledger of its own.
func runScripts(t *testing.T, folder string, newDB func(t testing.TB) string) {
	fixtures, err := filepath.Abs("../../testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", folder),
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("FIXTURES", fixtures)
			env.Setenv("DB", newDB(env.T().(testing.TB)))
			s := &servers{}
			env.Values[serversKey{}] = s
			env.Defer(func() {
				for _, cmd := range *s {
					_ = cmd.Process.Kill()
					_ = cmd.Wait()
				}
			})
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "sqlite", "postgres":
				return name == filepath.Base(t.Name()), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":        exits,
			"serve":        serve,
			"sigterm":      sigterm,
			"newkey":       newKey,
			"certificates": certificates,
			"sql":          execSQL,
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

// serve starts a service on a free port, waits until it is ready, and sets
// URL; what it logged until then is in serve.log: serve --db ledger.db …
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
	cmd.Env = append(os.Environ(), dbVariable+"="+ts.Getenv(dbVariable))
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	lines := bufio.NewScanner(stderr)
	url := regexp.MustCompile(`url=(\S+)`)
	var log strings.Builder
	for lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if m := url.FindStringSubmatch(lines.Text()); m != nil {
			ts.Setenv("URL", m[1])
			ts.Check(os.WriteFile(ts.MkAbs("serve.log"), []byte(log.String()), 0o600))
			go func() {
				for lines.Scan() {
				}
			}()
			s := ts.Value(serversKey{}).(*servers)
			*s = append(*s, cmd)
			return
		}
	}
	ts.Fatalf("the service did not start: %v\n%s", cmd.Wait(), &log)
}

// sigterm ends the service that started last with SIGTERM; it must exit with
// status 0.
func sigterm(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(serversKey{}).(*servers)
	cmd := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
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

type serversKey struct{}

// servers are the services that a script has started.
type servers []*exec.Cmd

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
