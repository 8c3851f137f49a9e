package main

import (
	"bufio"
	"bytes"
	"cmp"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amieusage/amieusage/internal/pgtest"
	"github.com/amieusage/amieusage/usageclient"
)

// A killedService is the service as a process, which is killed and started
// again on the same ledger.
type killedService struct {
	program   string
	db, key   string
	policy    string
	listen    string        // "": any port
	env       []string      // besides that of the test
	limit     int           // of descriptors; 0: that of the test
	log       io.Writer     // of all processes, from when they are ready
	arguments []string      // of the command, where it is not serve
	url       string        // of the process that runs
	cmd       *exec.Cmd     // nil: none runs
	gone      chan struct{} // is closed when it has ended
}

// newLedger returns a place for a new ledger on an engine, and how many replicas
// may serve it in a test.
func newLedger(t *testing.T, engine string) (db string, replicas int) {
	t.Helper()
	if engine == "postgres" {
		return pgtest.Database(t), 2
	}
	return filepath.Join(t.TempDir(), "ledger.db"), 1
}

// newKilledService starts the service on a new ledger with the site PSC.
func newKilledService(t *testing.T, engine string) *killedService {
	t.Helper()
	db, _ := newLedger(t, engine)
	s := &killedService{program: buildProgram(t), db: db, policy: "open", log: io.Discard}
	s.admin(t, "site", "add", "PSC")
	s.key = strings.TrimSpace(s.admin(t, "key", "create", "--site", "PSC"))
	t.Cleanup(s.kill)
	s.start(t)
	return s
}

// adminCommand is an administrator's command on the ledger.
func (s *killedService) adminCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(s.program, append(append([]string{"admin"}, args...), "--db", s.db)...)
	cmd.Env = append(os.Environ(), s.env...)
	return cmd
}

func (s *killedService) admin(t *testing.T, args ...string) string {
	t.Helper()
	var complaint bytes.Buffer
	cmd := s.adminCommand(args...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s%s", cmd.Args, err, out, &complaint)
	}
	return string(out)
}

// command is what starts the service.
func (s *killedService) command() *exec.Cmd {
	if s.arguments != nil {
		cmd := exec.Command(s.program, s.arguments...)
		cmd.Env = append(os.Environ(), s.env...)
		return cmd
	}
	cmd := exec.Command(s.program, "serve", "--db", s.db, "--policy", s.policy, "--listen", cmp.Or(s.listen, "127.0.0.1:0"))
	cmd.Env = append(os.Environ(), s.env...)
	if s.limit > 0 {
		limitDescriptors(cmd, s.limit)
	}
	return cmd
}

// begin begins to start the service: its output is returned.
func (s *killedService) begin(t *testing.T) io.Reader {
	t.Helper()
	cmd := s.command()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.cmd, s.gone = cmd, make(chan struct{})
	return stderr
}

// follow reads what the process has to say, and notes its end.
func (s *killedService) follow(stderr io.Reader) {
	go func(cmd *exec.Cmd, gone chan<- struct{}) {
		_, _ = io.Copy(s.log, stderr)
		_ = cmd.Wait()
		close(gone)
	}(s.cmd, s.gone)
}

func (s *killedService) start(t *testing.T) {
	t.Helper()
	stderr := s.begin(t)
	lines := bufio.NewReader(stderr)
	address := regexp.MustCompile(`url=(\S+)`)
	var said strings.Builder
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if m := address.FindStringSubmatch(line); m != nil {
			if s.url != m[1] { // clients read it, where it stays the same
				s.url = m[1]
			}
			s.follow(lines)
			return
		}
		if err != nil {
			_ = s.cmd.Wait()
			state := s.cmd.ProcessState
			s.cmd = nil
			t.Fatalf("the service did not start: %v: %s", state, &said)
		}
	}
}

// kill ends the process with SIGKILL, where one runs, and returns when it is
// gone.
func (s *killedService) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		s.wait()
	}
}

func (s *killedService) wait() *os.ProcessState {
	<-s.gone
	state := s.cmd.ProcessState
	s.cmd = nil
	return state
}

// died reports whether the process has ended before a time is over.
func (s *killedService) died(within time.Duration) bool {
	select {
	case <-s.gone:
		return true
	case <-time.After(within):
		return false
	}
}

// stop ends the process with SIGTERM: what is queued is loaded.
func (s *killedService) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if state := s.wait(); !state.Success() {
		t.Fatalf("the service did not exit with status 0: %v", state)
	}
}

func (s *killedService) client(t *testing.T) *usageclient.Client {
	t.Helper()
	client, err := usageclient.New("PSC", s.key, usageclient.WithBaseURL(s.url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client
}
