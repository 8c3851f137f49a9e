package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/usageclient"
)

// newRelay starts a relay to a service, which is killed and started again as the
// service itself is.
func newRelay(t *testing.T, upstream *killedService, policyOf string) *killedService {
	t.Helper()
	folder := t.TempDir()
	noError(t, os.WriteFile(filepath.Join(folder, "psc.key"), []byte(upstream.key), 0o600))
	site := filepath.Join(folder, "site.yaml")
	noError(t, os.WriteFile(site, fmt.Appendf(nil, "site: PSC\napi_key_file: psc.key\nusage_url: http://%s/api/v1\nretry_for: 1s\n", policyOf), 0o644))
	relay := &killedService{program: upstream.program, key: upstream.key, log: io.Discard,
		arguments: []string{"relay", "--config", site, "--listen", freeAddress(t)}}
	t.Cleanup(relay.kill)
	relay.start(t)
	return relay
}

func relayed(id string, charge int64) *amieusage.ComputeRecord {
	at := time.Date(2026, 10, 1, 8, 0, 0, 0, time.UTC)
	return &amieusage.ComputeRecord{
		Username: "alice", LocalProjectID: "p", LocalRecordID: id, Resource: "rm", SubmitTime: at, StartTime: at, EndTime: at.Add(time.Hour),
		Charge: amieusage.ChargeOfMillionths(charge * 1_000_000), NodeCount: amieusage.CountOf(1), CpuCoreCount: amieusage.CountOf(1), Queue: "q",
	}
}

// chargesAt returns the charges that a service, or the one behind a relay, has
// loaded.
func chargesAt(t *testing.T, c *usageclient.Client) (map[string]string, error) {
	charges := map[string]string{}
	for r, err := range c.AllLoaded(t.Context(), amieusage.LoadedQuery{PageSize: 7}) {
		if err != nil {
			return charges, err
		}
		charges[r.LocalRecordID] = r.Charge.String()
	}
	return charges, nil
}

// TestRelay has a relay take records while the service is down, kills it between
// its answers and their delivery, and starts both again: all is there, once.
func TestRelay(t *testing.T) {
	s := &killedService{program: buildProgram(t), db: filepath.Join(t.TempDir(), "ledger.db"), policy: "open", log: io.Discard, listen: freeAddress(t)}
	s.admin(t, "site", "add", "PSC")
	s.key = strings.TrimSpace(s.admin(t, "key", "create", "--site", "PSC"))
	t.Cleanup(s.kill)
	relay := newRelay(t, s, s.listen)
	const rounds, each = 5, 20
	for round := range rounds {
		client := relay.client(t)
		var records []amieusage.Record
		for i := range each {
			records = append(records, relayed(fmt.Sprintf("%d.%d", round, i), int64(i)))
		}
		result, err := client.Send(t.Context(), records...)
		if err != nil || len(result.Accepted()) != each {
			t.Fatalf("%v, %v", result, err)
		}
		if round == 2 {
			s.start(t) // what is delivered from now on may be cut off
		}
		relay.kill()
		relay.start(t)
	}
	client := relay.client(t)
	// What is not valid is refused at once, and named.
	wrong := relayed("wrong", 1)
	wrong.Username = ""
	result, err := client.Send(t.Context(), wrong, relayed("0.0", 77))
	if err != nil || len(result.Refused()) != 1 || len(result.Accepted()) != 1 {
		t.Fatalf("%v, %v", result, err)
	}
	var got map[string]string
	deadline := time.Now().Add(time.Minute)
	for {
		if got, err = chargesAt(t, client); err == nil && len(got) == rounds*each && got["0.0"] == "77" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d records, %v", len(got), rounds*each, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for round := range rounds {
		for i := 1; i < each; i++ {
			if id := fmt.Sprintf("%d.%d", round, i); got[id] != fmt.Sprint(i) {
				t.Errorf("record %s: %s", id, got[id])
			}
		}
	}
	direct, err := chargesAt(t, s.client(t))
	if err != nil || len(direct) != len(got) {
		t.Errorf("the service has %d records, %v", len(direct), err)
	}
	status, err := client.Status(t.Context(), amieusage.StatusQuery{From: time.Unix(0, 0)})
	if err != nil || len(status) != 1 || status[0].Resource != "rm" {
		t.Errorf("%+v, %v", status, err)
	}
	// Down again: what only the service knows is answered with 503.
	s.stop(t)
	once := must[*usageclient.Client](t)(usageclient.New("PSC", s.key, usageclient.WithBaseURL(relay.url), usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 1})))
	defer once.CloseIdleConnections()
	if _, err := once.ListFailed(t.Context()); !errors.Is(err, usageclient.ErrUnavailable) {
		t.Errorf("the failed records of a service that is down: %v", err)
	}
}

// TestRelayRefusals relays what the service refuses and what fails there: both are
// listed, cleared and sent again, as by the service itself.
func TestRelayRefusals(t *testing.T) {
	s := &killedService{program: buildProgram(t), db: filepath.Join(t.TempDir(), "ledger.db"), policy: "strict", log: io.Discard, listen: freeAddress(t)}
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	known := "sites:\n  - {name: PSC, resources: [{name: rm}], projects: [{id: p, users: [alice], allocations: [{resource: rm, amount: 1000, start: 2026-01-01, end: 2027-01-01}]}]}\n"
	noError(t, os.WriteFile(registry, []byte(known), 0o644))
	s.admin(t, "import", registry)
	s.key = strings.TrimSpace(s.admin(t, "key", "create", "--site", "PSC"))
	t.Cleanup(s.kill)
	s.start(t)
	relay := newRelay(t, s, s.listen)
	client := relay.client(t)
	elsewhere, nobody := relayed("elsewhere", 1), relayed("nobody", 1)
	elsewhere.Resource, nobody.Username = "other", "eve"
	if result, err := client.Send(t.Context(), relayed("good", 3), elsewhere, nobody); err != nil || len(result.Accepted()) != 3 {
		t.Fatalf("%v, %v", result, err)
	}
	failed := map[string]amieusage.FailedRecord{}
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in a minute: %s: %v", what, failed)
			}
		}
	}
	look := func(n int) func() bool {
		return func() bool {
			clear(failed)
			list, err := client.ListFailed(t.Context())
			noError(t, err)
			for _, f := range list {
				failed[f.Record.Common().LocalRecordID] = f
			}
			return len(failed) == n
		}
	}
	until("both are listed", look(2))
	if id := failed["elsewhere"].FailedRecordID; id <= 1<<52 || id >= 1<<53 || !strings.Contains(failed["elsewhere"].Error, "not a resource") {
		t.Errorf("%+v", failed["elsewhere"])
	}
	status, err := client.Status(t.Context(), amieusage.StatusQuery{From: time.Unix(0, 0)})
	noError(t, err)
	counts := map[string]int64{}
	for _, r := range status {
		counts[r.Resource] = r.FailedJobCount
	}
	if counts["rm"] != 1 || counts["other"] != 1 {
		t.Errorf("%+v", status)
	}
	// Cleared, and sent again as it was: it is refused again, and listed again.
	if _, err := client.ClearFailedIDs(t.Context(), failed["elsewhere"].FailedRecordID, failed["nobody"].FailedRecordID); err != nil {
		t.Fatal(err)
	}
	until("both are cleared", look(0))
	if _, err := client.Send(t.Context(), elsewhere, nobody); err != nil {
		t.Fatal(err)
	}
	until("both are listed again", look(2))
	// The cause is mended, and they are sent again as they were.
	noError(t, os.WriteFile(registry, []byte(strings.NewReplacer("[alice]", "[alice, eve]", "resources: [{name: rm}]", "resources: [{name: rm}, {name: other}]",
		"allocations: [", "allocations: [{resource: other, amount: 1000, start: 2026-01-01, end: 2027-01-01}, ").Replace(known)), 0o644))
	s.admin(t, "import", registry)
	if _, err := client.Send(t.Context(), elsewhere, nobody); err != nil {
		t.Fatal(err)
	}
	until("all are loaded", func() bool {
		got, err := chargesAt(t, client)
		noError(t, err)
		return len(got) == 3
	})
	until("none is listed", look(0))
	// A wrong key is nobody's.
	request := must[*http.Request](t)(http.NewRequest(http.MethodGet, relay.url+"/usage/failed", nil))
	request.Header.Set(amieusage.HeaderSite, "PSC")
	request.Header.Set(amieusage.HeaderAPIKey, "guess")
	answer := must[*http.Response](t)(http.DefaultClient.Do(request))
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong key is answered with %s", answer.Status)
	}
	if out, err := exec.Command(s.program, "relay", "--config", relay.arguments[2], "--listen", "0.0.0.0:0").CombinedOutput(); err == nil || !strings.Contains(string(out), "refusing to listen") {
		t.Errorf("%v: %s", err, out)
	}
}
