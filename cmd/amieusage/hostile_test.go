package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
)

const (
	// maxAttackedMemory bounds the service's memory under any attack, in MiB.
	maxAttackedMemory = 300
	// bystanderPatience is how long the other site waits for an answer.
	bystanderPatience = 20 * time.Second
	// attackerAddress is where attacks come from, bystanderAddress where the
	// other site is.
	attackerAddress, bystanderAddress = "127.0.0.2", "127.0.0.3"
)

// An attacked service is one that somebody means ill, while another site, the
// bystander, goes on with its work.
type attacked struct {
	*killedService
	lines     *logLines
	host      string // and port
	bystander *http.Client
	otherKey  string
	sent      int // records of the bystander
}

// logLines keeps what a process logs.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newAttacked(t *testing.T, engine string) *attacked {
	t.Helper()
	s := &attacked{lines: &logLines{}}
	s.killedService = newKilledService(t, engine)
	s.kill()
	s.policy, s.log = "strict", s.lines
	s.admin(t, "policy", "strict")
	s.admin(t, "site", "add", "SDSC")
	s.otherKey = strings.TrimSpace(s.admin(t, "key", "create", "--site", "SDSC"))
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	if err := os.WriteFile(registry, []byte(attackedRegistry), 0o600); err != nil {
		t.Fatal(err)
	}
	s.admin(t, "import", registry)
	s.start(t)
	address, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	s.host = address.Host
	s.bystander = clientFrom(bystanderAddress)
	t.Cleanup(s.bystander.CloseIdleConnections)
	return s
}

// attackedRegistry is what the service knows. The attacker's users are
// alice and one whose name a spreadsheet would run.
const attackedRegistry = `sites:
  - name: PSC
    resources: [{name: rm}]
    projects: [{id: p, users: [alice, "=1+1"], allocations: [{resource: rm, amount: 1000000000, start: 2020-01-01, end: 2030-01-01}]}]
  - name: SDSC
    resources: [{name: rm}]
    projects: [{id: p, users: [bob], allocations: [{resource: rm, amount: 1000000000, start: 2020-01-01, end: 2030-01-01}]}]
`

// clientFrom returns a client whose connections come from an address.
func clientFrom(address string) *http.Client {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &http.Client{
		Timeout:   bystanderPatience,
		Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 64, DisableCompression: true},
	}
}

// computeJSON returns the JSON of a record; more are further members.
func computeJSON(user, id, more string) string {
	return fmt.Sprintf(`{"Username":%q,"LocalProjectID":"p","LocalRecordID":%q,"Resource":"rm","SubmitTime":"2026-10-01T10:00:00Z",`+
		`"StartTime":"2026-10-01T11:00:00Z","EndTime":"2026-10-01T12:00:00Z","Charge":"1","Attributes":{"NodeCount":1}%s}`, user, id, more)
}

func messageJSON(records ...string) string {
	return `{"UsageType":"Compute","Records":[` + strings.Join(records, ",") + `]}`
}

// bystand makes the two requests of the bystander's round, and returns how long
// they took together.
func (s *attacked) bystand(t *testing.T) time.Duration {
	t.Helper()
	s.sent++
	start := time.Now()
	for _, r := range []struct{ method, path, body string }{
		{http.MethodPost, "/usage/", messageJSON(computeJSON("bob", fmt.Sprint("b", s.sent), ""))},
		{http.MethodGet, "/usage/status", ""},
	} {
		request, err := http.NewRequestWithContext(t.Context(), r.method, s.url+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set(amieusage.HeaderSite, "SDSC")
		request.Header.Set(amieusage.HeaderAPIKey, s.otherKey)
		response, err := s.bystander.Do(request)
		if err != nil {
			t.Errorf("the other site's %s: %v", r.method, err)
			continue
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("the other site's %s: %s, %v: %.300s", r.method, response.Status, err, answer)
		}
	}
	return time.Since(start)
}

// rounds returns the median of n rounds of the bystander, and goes on until
// done is closed.
func (s *attacked) rounds(t *testing.T, n int, done <-chan struct{}) time.Duration {
	t.Helper()
	var took []time.Duration
	for ended := done == nil; len(took) < n || !ended; {
		took = append(took, s.bystand(t))
		if !ended {
			select {
			case <-done:
				ended = true
			default:
			}
		}
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// withstand runs an attack while the bystander works: it is answered, in time
// that is not of another order, and the service's memory stays within its
// bound. The figures are logged.
func (s *attacked) withstand(t *testing.T, attack func()) (slowdown float64, memory int) {
	t.Helper()
	s.forgetPeak(t)
	before := s.rounds(t, 15, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		attack()
	}()
	during := s.rounds(t, 15, done)
	<-done
	memory = s.peak(t)
	slowdown = float64(during) / float64(before)
	t.Logf("the other site's round took %v, under attack %v (%.1f times); the service's memory %d MiB",
		before.Round(10*time.Microsecond), during.Round(10*time.Microsecond), slowdown, memory)
	// Clients and service share the machine, and others use it too.
	if limit := max(30*before, 3*time.Second); during > limit {
		t.Errorf("the other site's round took %v, want at most %v", during, limit)
	}
	if memory > maxAttackedMemory {
		t.Errorf("the service's memory came to %d MiB, want at most %d", memory, maxAttackedMemory)
	}
	return slowdown, memory
}

// forgetPeak makes the kernel forget how much memory the service once had.
func (s *attacked) forgetPeak(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.cmd.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// peak returns the most memory that the service had since, in MiB.
func (s *attacked) peak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no peak in %s", status)
	}
	kib, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// An answered attack is what the attacker was told: of the body no more than
// its beginning.
type answered struct {
	status int
	header http.Header
	body   string
}

// ask makes a request of the attacker. The headers are pairs; a name without
// a key of its own has the attacker's.
func (s *attacked) ask(t *testing.T, client *http.Client, method, path string, body io.Reader, headers ...string) answered {
	t.Helper()
	request, err := http.NewRequest(method, "http://"+s.host+path, body)
	if err != nil {
		t.Error(err)
		return answered{}
	}
	request.Header.Set(amieusage.HeaderSite, "PSC")
	request.Header.Set(amieusage.HeaderAPIKey, s.key)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Errorf("%s %.80s: %v", method, path, err)
		return answered{}
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
	}
	if err != nil {
		t.Errorf("%s %.80s: %v", method, path, err)
	}
	return answered{response.StatusCode, response.Header, string(answer)}
}

// problem checks that an answer is an error as the description has it.
func (a answered) problem(t *testing.T, what string, status int) {
	t.Helper()
	var body struct{ Error, Code string }
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || a.status != status || body.Error == "" ||
		amieusage.Code(body.Code).HTTPStatus() != status {
		t.Errorf("%s: answer %d, want %d: %.300s", what, a.status, status, a.body)
	}
}

// dial opens a connection of the attacker, which is closed at the end of the
// test. It returns nil where the service takes no more.
func (s *attacked) dial(t *testing.T, address string) net.Conn {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: bystanderPatience}
	conn, err := dialer.Dial("tcp", s.host)
	if err != nil {
		t.Errorf("connecting: %v", err)
		return nil
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// manyDials opens connections, and writes text on each.
func (s *attacked) manyDials(t *testing.T, n int, text string) []net.Conn {
	var conns []net.Conn
	for range n {
		conn := s.dial(t, attackerAddress)
		if conn == nil {
			break
		}
		// The service may have closed it.
		_ = conn.SetWriteDeadline(time.Now().Add(bystanderPatience))
		_, _ = io.WriteString(conn, text)
		conns = append(conns, conn)
	}
	return conns
}

// everyOne calls f n times, from several goroutines.
func everyOne(n, at int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range at {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}
