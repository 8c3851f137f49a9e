package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/httpapi"
	"github.com/amieusage/amieusage/usageclient"
)

// A killedService is the service as a process, which is killed and started
// again on the same file.
type killedService struct {
	program string
	db, key string
	policy  string
	log     io.Writer // of all processes, from when they are ready
	url     string    // of the process that runs; it changes with each start
	cmd     *exec.Cmd
}

// newKilledService starts the service on a new ledger with the site PSC.
func newKilledService(t *testing.T) *killedService {
	t.Helper()
	s := &killedService{program: buildProgram(t), db: filepath.Join(t.TempDir(), "ledger.db"), policy: "open", log: io.Discard}
	s.admin(t, "site", "add", "PSC")
	s.key = strings.TrimSpace(s.admin(t, "key", "create", "--site", "PSC"))
	t.Cleanup(func() {
		if s.cmd != nil {
			s.kill()
		}
	})
	s.start(t)
	return s
}

func (s *killedService) admin(t *testing.T, args ...string) string {
	t.Helper()
	var complaint bytes.Buffer
	cmd := exec.Command(s.program, append(append([]string{"admin"}, args...), "--db", s.db)...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s%s", cmd.Args, err, out, &complaint)
	}
	return string(out)
}

func (s *killedService) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(s.program, "serve", "--db", s.db, "--policy", s.policy, "--listen", "127.0.0.1:0")
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	address := regexp.MustCompile(`url=(\S+)`)
	for lines.Scan() {
		if m := address.FindStringSubmatch(lines.Text()); m != nil {
			s.url = m[1]
			go func() { _, _ = io.Copy(s.log, stderr) }()
			return
		}
		t.Log(lines.Text())
	}
	t.Fatalf("the service did not start: %v", s.cmd.Wait())
}

// kill ends the process with SIGKILL, and returns when it is gone.
func (s *killedService) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// stop ends the process with SIGTERM: what is queued is loaded.
func (s *killedService) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Fatalf("the service did not exit with status 0: %v", err)
	}
	s.cmd = nil
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

// loaded returns the charges in the ledger, in millionths, by LocalRecordID.
func (s *killedService) loaded(t *testing.T) map[string]int64 {
	t.Helper()
	charges := map[string]int64{}
	for r, err := range s.client(t).Loaded(t.Context(), amieusage.LoadedQuery{Limit: amieusage.MaxLoadedPage}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := charges[r.LocalRecordID]; twice {
			t.Errorf("the ledger holds record %s twice", r.LocalRecordID)
		}
		charges[r.LocalRecordID] = millionths(t, r.Charge)
	}
	return charges
}

// wantLoaded waits until the ledger holds the charges.
func (s *killedService) wantLoaded(t *testing.T, want map[string]int64) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		diff := cmp.Diff(want, s.loaded(t))
		if diff == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the ledger's charges by record (-want +got):\n%s", diff)
		}
	}
}

// wantSummary checks the number of records and the total charge on the only
// resource, and that the ledger adds up.
func (s *killedService) wantSummary(t *testing.T, want map[string]int64) {
	t.Helper()
	var total int64
	for _, charge := range want {
		total += charge
	}
	summary, err := s.client(t).Summary(t.Context(), amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByResource}})
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Rows) != 1 {
		t.Fatalf("the summary has %d resources, want 1", len(summary.Rows))
	}
	row := summary.Rows[0]
	if got := millionths(t, row.Charge); row.RecordCount != int64(len(want)) || got != total {
		t.Errorf("the summary has %d records and %d millionths, want %d and %d", row.RecordCount, got, len(want), total)
	}
	s.admin(t, "verify")
}

func millionths(t *testing.T, c amieusage.Charge) int64 {
	t.Helper()
	n, err := c.Millionths()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// post sends a message; written is called when the request is under way, and
// may be nil. The error says that the service did not answer.
func (s *killedService) post(t *testing.T, message []byte, written func()) error {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		if written != nil {
			written()
		}
	}})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/usage/", bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(amieusage.HeaderSite, "PSC")
	request.Header.Set(amieusage.HeaderAPIKey, s.key)
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	var answer amieusage.SendResponse
	if err := json.Unmarshal(body, &answer); err != nil || response.StatusCode != http.StatusOK || len(answer.FailedRecords) > 0 {
		t.Fatalf("status %s, %v: %s", response.Status, err, body)
	}
	return nil
}

// TestKillServiceAfterReply kills the service right behind its answers, and
// while it works on a request. What it acknowledged is in the ledger, once.
func TestKillServiceAfterReply(t *testing.T) {
	const messages, records = 30, 100
	service := newKilledService(t)
	want := map[string]int64{}
	var sent [][]byte
	unanswered := 0
	for i := range messages {
		batch := recordsOf(i*records, records)
		if i > 0 {
			// A correction of a message before: the order must survive too.
			corrected := recordsOf((i-1)*records, 1)[0].(*amieusage.ComputeRecord)
			corrected.Charge = amieusage.ChargeOfMillionths(int64(i) * 1_000_500)
			batch = append(batch, corrected)
		}
		for _, r := range batch {
			want[r.Common().LocalRecordID] = millionths(t, r.Common().Charge)
		}
		message, err := amieusage.NewMessage(batch...)
		if err != nil {
			t.Fatal(err)
		}
		data, err := message.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, data)
		if i%5 == 3 {
			process := service.cmd.Process
			if err := service.post(t, data, func() { _ = process.Kill() }); err == nil {
				service.kill()
				service.start(t)
				continue
			}
			unanswered++
			service.kill()
			service.start(t)
		}
		if err := service.post(t, data, nil); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			service.kill()
			service.start(t)
		}
	}
	t.Logf("%d requests had no answer", unanswered)
	service.wantLoaded(t, want)
	service.wantSummary(t, want)

	for _, data := range sent {
		if err := service.post(t, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	service.stop(t)
	service.start(t)
	if diff := cmp.Diff(want, service.loaded(t)); diff != "" {
		t.Errorf("after all was sent again, the ledger's charges by record (-want +got):\n%s", diff)
	}
	service.wantSummary(t, want)
}

// A tap stands between agent and service, and kills the agent at a request.
type tap struct {
	*httptest.Server
	mu   sync.Mutex
	trap *trap
}

// A trap springs at the nth request of the method: before the service sees it,
// or else before the agent sees the answer.
type trap struct {
	method   string
	nth      int
	answered bool
	kill     func() // returns when the agent is gone
}

func newTap(t *testing.T, service string) *tap {
	t.Helper()
	target, err := url.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	tap := &tap{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host },
		// Connections end with the agents that are killed.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	tap.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sprung := tap.passes(r.Method)
		if sprung == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		if sprung.answered {
			proxy.ServeHTTP(httptest.NewRecorder(), r)
		}
		sprung.kill()
	}))
	t.Cleanup(tap.Close)
	return tap
}

// passes counts a request, and returns the trap that springs at it.
func (p *tap) passes(method string) *trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	trap := p.trap
	if trap == nil || trap.method != method {
		return nil
	}
	if trap.nth--; trap.nth > 0 {
		return nil
	}
	p.trap = nil
	return trap
}

// A killedAgent is the site's agent, of which each run is a process.
type killedAgent struct {
	*tap
	program, folder  string
	killed, survived int
}

// run runs a command until its end, or until it is killed: after a time, where
// it is not 0, or by a trap, where that is not nil.
func (a *killedAgent) run(t *testing.T, after time.Duration, trap *trap, args ...string) (survived bool, out []byte) {
	t.Helper()
	args = append(args, "--config", filepath.Join(a.folder, "site.yaml"), "-o", "json")
	cmd := exec.Command(a.program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	started, gone := make(chan struct{}), make(chan struct{})
	if trap != nil {
		trap.kill = func() {
			<-started
			_ = cmd.Process.Kill()
			<-gone
		}
	}
	a.mu.Lock()
	a.trap = trap
	a.mu.Unlock()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	if after > 0 {
		defer time.AfterFunc(after, func() { _ = cmd.Process.Kill() }).Stop()
	}
	err := cmd.Wait()
	close(gone)
	if !cmd.ProcessState.Exited() {
		a.killed++
		return false, nil
	}
	if err != nil {
		t.Fatalf("%v: %v: %s%s", args, err, &stdout, &stderr)
	}
	a.survived++
	return true, stdout.Bytes()
}

// killLater runs a command again and again and kills it ever later, until it
// comes to its end.
func (a *killedAgent) killLater(t *testing.T, args ...string) {
	t.Helper()
	for delay := 20 * time.Millisecond; ; delay += delay / 2 {
		if survived, _ := a.run(t, delay, nil, args...); survived {
			return
		}
	}
}

// killAt runs a command once for each trap, and then to its end.
func (a *killedAgent) killAt(t *testing.T, traps []trap, args ...string) {
	t.Helper()
	for _, trap := range traps {
		if survived, _ := a.run(t, 0, &trap, args...); survived {
			t.Errorf("%v made %d %s requests too few to be killed", args, trap.nth, trap.method)
		}
	}
	a.run(t, 0, nil, args...)
}

// TestKillAgentBetweenStages kills the agent at any moment of any stage. The
// next run goes on, and in the end each job is in the ledger once.
func TestKillAgentBetweenStages(t *testing.T) {
	const jobs = 3000
	service := newKilledService(t)
	agent := &killedAgent{tap: newTap(t, service.url), program: service.program, folder: t.TempDir()}
	config := fmt.Sprintf("site: PSC\napi_key_file: key\nusage_url: %s\nconfirm_wait: 10s\nmax_request_bytes: 20000\n"+
		"resources: [{resource: rm, charge: {per_hour: {cpu: 450}, decimals: 6}}]\n", agent.URL+httpapi.Prefix)
	var dump bytes.Buffer
	dumpOf(&dump, jobs)
	write := func(name string, data []byte) string {
		path := filepath.Join(agent.folder, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("site.yaml", []byte(config))
	write("key", []byte(service.key+"\n"))
	posts := []trap{
		{method: http.MethodPost, nth: 1}, {method: http.MethodPost, nth: 1, answered: true},
		{method: http.MethodPost, nth: 9, answered: true}, {method: http.MethodPost, nth: 20},
	}
	gets := []trap{
		{method: http.MethodGet, nth: 1}, {method: http.MethodGet, nth: 1, answered: true},
	}
	for _, round := range []struct {
		cores int // each round corrects all jobs of the one before
		run   func(file string)
	}{
		{8, func(file string) {
			agent.killLater(t, "collect", "--from-file", file)
			agent.killAt(t, posts, "send")
			agent.killAt(t, gets, "confirm")
		}},
		{9, func(file string) { agent.killLater(t, "report", "--from-file", file) }},
		{10, func(file string) { agent.killAt(t, append(posts, gets...), "report", "--from-file", file) }},
	} {
		file := write("dump.psv", bytes.ReplaceAll(dump.Bytes(), []byte(",cpu=8,"), fmt.Appendf(nil, ",cpu=%d,", round.cores)))
		round.run(file)

		for _, again := range []bool{false, true} {
			_, out := agent.run(t, 0, nil, "report", "--from-file", file)
			var summary struct {
				Sent   int64
				Outbox map[string]int64
			}
			if err := json.Unmarshal(out, &summary); err != nil {
				t.Fatal(err, string(out))
			}
			if again && summary.Sent != 0 {
				t.Errorf("%d cores: a report of nothing new sent %d records", round.cores, summary.Sent)
			}
			outbox := map[string]int64{"pending": 0, "queued": 0, "loaded": jobs, "failed": 0, "rejected": 0}
			if diff := cmp.Diff(outbox, summary.Outbox); diff != "" {
				t.Errorf("%d cores: the outbox (-want +got):\n%s", round.cores, diff)
			}
		}
		want := map[string]int64{}
		for i := range jobs {
			want[fmt.Sprint(i+1000)] = int64(round.cores) * int64(i%7200+1) * 125_000
		}
		if diff := cmp.Diff(want, service.loaded(t)); diff != "" {
			t.Errorf("%d cores: the ledger's charges by record (-want +got):\n%s", round.cores, diff)
		}
		service.wantSummary(t, want)
	}
	t.Logf("%d runs were killed, %d were not", agent.killed, agent.survived)
}
