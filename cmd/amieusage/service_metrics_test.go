package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
)

// said returns the first match of an expression in what a process says, and goes on
// reading.
func said(t *testing.T, output io.Reader, pattern string) string {
	t.Helper()
	expression := regexp.MustCompile(pattern)
	found := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); {
			if m := expression.FindStringSubmatch(lines.Text()); m != nil {
				found <- m[1]
				break
			}
		}
		_, _ = io.Copy(io.Discard, output)
		close(found)
	}()
	select {
	case text := <-found:
		if text != "" {
			return text
		}
	case <-time.After(time.Minute):
	}
	t.Fatalf("a process does not say %s", pattern)
	return ""
}

// get returns what is at a URL.
func get(t *testing.T, at string) (status int, body string) {
	t.Helper()
	answer, err := http.Get(at)
	noError(t, err)
	defer answer.Body.Close()
	return answer.StatusCode, string(must[[]byte](t)(io.ReadAll(answer.Body)))
}

// TestServiceMetrics has a real Prometheus scrape the service, and every panel of the
// board in contrib/grafana ask it.
func TestServiceMetrics(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			db, _ := newLedger(t, engine)
			output, log := io.Pipe()
			s := &killedService{program: buildProgram(t), db: db, log: log}
			s.arguments = []string{"serve", "--db", db, "--policy", "open", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--pprof"}
			for _, site := range []string{"PSC", "SDSC"} {
				s.admin(t, "site", "add", site)
			}
			s.key = strings.TrimSpace(s.admin(t, "key", "create", "--site", "PSC"))
			t.Cleanup(s.kill)
			s.start(t)
			address := said(t, output, `serving metrics.* address=(\S+)`)

			// A record of each fate: new, unchanged, corrected, and refused at once.
			c := s.client(t)
			at := time.Date(2026, 10, 1, 8, 0, 0, 0, time.UTC)
			record := func(charge int64) *amieusage.ComputeRecord {
				return &amieusage.ComputeRecord{Username: "alice", LocalProjectID: "p.abc", LocalRecordID: "1", Resource: "rm", SubmitTime: at,
					StartTime: at, EndTime: at.Add(time.Hour), Charge: amieusage.ChargeOf(charge), NodeCount: amieusage.CountOf(1)}
			}
			for _, charge := range []int64{16, 16, 8} {
				_, err := c.Send(t.Context(), record(charge))
				noError(t, err)
			}
			request := must[*http.Request](t)(http.NewRequest(http.MethodPost, s.url+"/usage", strings.NewReader(`{"UsageType": "compute", "Records": [{}]}`)))
			request.Header.Set(amieusage.HeaderSite, "PSC")
			request.Header.Set(amieusage.HeaderAPIKey, s.key)
			answer := must[*http.Response](t)(http.DefaultClient.Do(request))
			noError(t, answer.Body.Close())
			for ctx, cancel := context.WithTimeout(t.Context(), time.Minute); ; {
				loaded, _, err := c.ListLoaded(ctx, amieusage.LoadedQuery{})
				noError(t, err)
				if len(loaded) == 1 && loaded[0].Charge.Cmp(amieusage.ChargeOf(8)) == 0 {
					cancel()
					break
				}
			}
			if status, _ := get(t, s.url+"/nothing"); status != http.StatusNotFound {
				t.Errorf("nothing is answered %d", status)
			}

			status, text := get(t, address)
			if status != http.StatusOK {
				t.Fatalf("%d: %s", status, text)
			}
			promtool(t, []byte(text), "check", "metrics")
			for _, want := range []string{
				`amieusage_ledger_up 1`,
				`amieusage_load_records_total{outcome="corrected"} 1`,
				`amieusage_load_records_total{outcome="new"} 1`,
				`amieusage_load_records_total{outcome="unchanged"} 1`,
				`amieusage_send_records_total{outcome="accepted"} 3`,
				`amieusage_send_records_total{outcome="refused"} 1`,
				`amieusage_site_accepted_records_total{site="PSC"} 3`,
				`amieusage_site_accepted_records_total{site="SDSC"} 0`,
				`amieusage_site_loaded_records_total{site="PSC"} 3`,
				`amieusage_site_queued_records{site="PSC"} 0`,
				`amieusage_site_queue_age_seconds{site="PSC"} 0`,
				`amieusage_site_charge_units{resource="rm",site="PSC"} 8`,
				`amieusage_http_request_duration_seconds_count{method="POST",route="/api/v1/usage",status="200"} 4`,
				`amieusage_http_request_duration_seconds_count{method="GET",route="/",status="404"} 1`,
			} {
				if !strings.Contains(text, "\n"+want+"\n") {
					t.Errorf("%s is not there", want)
				}
			}
			if !strings.Contains(text, `amieusage_site_last_send_age_seconds{site="PSC"} `) || strings.Contains(text, `age_seconds{site="SDSC"} 1`) ||
				strings.Contains(text, s.key) || (engine == "postgres") != strings.Contains(text, "amieusage_db_connections_max ") {
				t.Errorf("the metrics are\n%s", text)
			}
			if status, text := get(t, strings.TrimSuffix(address, "/metrics")+"/debug/pprof/goroutine?debug=1"); status != http.StatusOK || !strings.Contains(text, "goroutine profile") {
				t.Errorf("%d: %s", status, text)
			}
			askBoard(t, engine, strings.TrimSuffix(strings.TrimPrefix(address, "http://"), "/metrics"))
			s.stop(t)
		})
	}
	promtool(t, nil, "check", "rules", "amieusage-service.rules.yml")
	promtool(t, nil, "test", "rules", "amieusage-service.test.yml")
}

// askBoard has Prometheus scrape a target, and asks it what each panel asks.
func askBoard(t *testing.T, engine, target string) {
	folder := t.TempDir()
	rules := must[string](t)(filepath.Abs("../../contrib/prometheus/amieusage-service.rules.yml"))
	noError(t, os.WriteFile(filepath.Join(folder, "prometheus.yml"), fmt.Appendf(nil, `
global: {scrape_interval: 100ms, evaluation_interval: 100ms}
rule_files: [%s]
scrape_configs: [{job_name: amieusage, scrape_timeout: 100ms, static_configs: [{targets: ["%s"]}]}]
`, rules, target), 0o600))
	cmd := exec.Command("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0")
	cmd.Dir = folder
	output := must[io.ReadCloser](t)(cmd.StderrPipe())
	noError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	prometheus := "http://" + said(t, output, `msg="Listening on" address=(\S+)`)
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	noError(t, json.Unmarshal(must[[]byte](t)(os.ReadFile("../../contrib/grafana/amieusage.json")), &board))
	if len(board.Panels) < 10 {
		t.Errorf("the board has %d panels", len(board.Panels))
	}
	deadline := time.Now().Add(time.Minute)
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			ask := prometheus + "/api/v1/query?query=" + url.QueryEscape(strings.ReplaceAll(target.Expr, "$site", ".*"))
			wantNone := engine == "sqlite" && strings.Contains(target.Expr, "amieusage_db_")
			for {
				status, text := get(t, ask)
				var answer struct {
					Status string
					Data   struct{ Result []json.RawMessage }
				}
				if status == http.StatusOK {
					noError(t, json.Unmarshal([]byte(text), &answer))
				} else if status != http.StatusServiceUnavailable { // it is starting
					t.Fatalf("%s: %s: %d: %s", panel.Title, target.Expr, status, text)
				}
				if status == http.StatusOK && (len(answer.Data.Result) > 0 || wantNone) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: %s has no value: %s", panel.Title, target.Expr, text)
				}
			}
		}
	}
}
