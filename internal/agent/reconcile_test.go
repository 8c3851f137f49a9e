package agent_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/sqlite"
)

// day is the period of the day on which jobs run.
var day = agent.Period{Since: begin.Truncate(24 * time.Hour), Until: begin.Truncate(24 * time.Hour).Add(24 * time.Hour)}

// deliver reports jobs, and loads them.
func (s *site) deliver(t testing.TB, service *service, rows ...any) {
	t.Helper()
	s.collect(t, rows...)
	s.send(t)
	service.load(t)
	s.confirm(t, 10*time.Second)
}

// reconcile returns the differences of a day, as record, kind and text.
func (s *site) reconcile(t testing.TB, rows ...any) (differences []string, sum *agent.Reconciled) {
	t.Helper()
	comparison, err := sqlite.OpenComparison()
	if err != nil {
		t.Fatal(err)
	}
	defer comparison.Close()
	how, err := s.agent.Reconcile(t.Context(), day, []scheduler.Source{source(rows)}, comparison)
	if err != nil {
		t.Fatal(err)
	}
	sum = &agent.Reconciled{}
	for d, err := range agent.Differences(t.Context(), how, comparison, sum) {
		if err != nil {
			t.Fatal(err)
		}
		differences = append(differences, d.Identity.LocalRecordID+" "+string(d.Kind)+": "+d.Text)
	}
	return differences, sum
}

func wantDifferences(t testing.TB, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differences (-want +got)\n%s", diff)
	}
}

// TestReconcileClocks finds what the service loaded, by its clock, long before
// the period: one by one, and among all that it has.
func TestReconcileClocks(t *testing.T) {
	for _, jobs := range []int{3, 150} {
		service := newService(t, ledger.Strict)
		service.skew = -1000 * 24 * time.Hour
		s := service.site(t)
		var rows []any
		for i := range jobs {
			rows = append(rows, job(strconv.Itoa(i)))
		}
		s.deliver(t, service, rows...)
		got, sum := s.reconcile(t, rows...)
		wantDifferences(t, got)
		if sum.Records != int64(jobs) || !sum.Listed || sum.Resources[rm].Service.Charge.String() != strconv.Itoa(8*jobs) {
			t.Errorf("%+v", sum)
		}
	}
}

// TestReconcileNotListed compares with a service that does not list what it has
// loaded.
func TestReconcileNotListed(t *testing.T) {
	service := newService(t, ledger.Strict)
	service.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/usage/loaded") {
				http.NotFound(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	s := service.site(t)
	s.deliver(t, service, job("1"), job("2", by("eve")))
	got, sum := s.reconcile(t, job("1"), job("2", by("eve")), job("3"))
	wantDifferences(t, got, "2 failed: The user is not known on the project", "3 missing: not in the outbox")
	if sum.Listed {
		t.Error("the service lists nothing")
	}
}

// TestReconcileOthers compares with a service to which another program reports,
// too.
func TestReconcileOthers(t *testing.T) {
	service := newService(t, ledger.Strict)
	s, other := service.site(t), service.site(t)
	late := job("4", ran(40)) // it ends on another day
	s.deliver(t, service, job("1"))
	other.deliver(t, service, job("2"), job("3", by("eve")), late, job("5", onGPU), job("6", submitted(begin.AddDate(0, 0, -3))))
	s.agent.Rules.Resources = s.agent.Rules.Resources[1:] // the GPUs are somebody else's
	got, sum := s.reconcile(t, job("1"), late, &scheduler.RowError{Problem: "cannot be read"})
	wantDifferences(t, got, "2 extra: only the service has it",
		"3 extra: only the service has it, as a failed record: The user is not known on the project")
	if sum.Records != 3 || s.agent.Summary.Bad != 1 {
		t.Errorf("%+v, %d bad", sum, s.agent.Summary.Bad)
	}
}

// TestReconcileMoved compares jobs that have come into the period, or left it,
// by a correction of their ends.
func TestReconcileMoved(t *testing.T) {
	service := newService(t, ledger.Strict)
	s := service.site(t)
	s.deliver(t, service, job("1"), job("2", ran(40)), job("3", ran(40)))
	got, sum := s.reconcile(t, job("1", ran(40)), job("2"), job("3", ran(41)))
	wantDifferences(t, got, "1 different: the accounting has another charge", "2 different: the accounting has another charge")
	if sum.Records != 2 {
		t.Errorf("%+v", sum)
	}
}

// TestReconcileCutOff reads an accounting that ends in the middle, and asks a
// service that is not there.
func TestReconcileCutOff(t *testing.T) {
	service := newService(t, ledger.Strict)
	s := service.site(t)
	s.deliver(t, service, job("1"))
	comparison, err := sqlite.OpenComparison()
	if err != nil {
		t.Fatal(err)
	}
	defer comparison.Close()
	cut := errors.New("slurmdbd is away")
	if _, err := s.agent.Reconcile(t.Context(), day, []scheduler.Source{source{job("1"), cut}}, comparison); !errors.Is(err, cut) {
		t.Errorf("cut off: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.agent.Reconcile(ended, day, []scheduler.Source{source{job("1")}}, comparison); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	s.agent.Client = clientAt(t, "http://127.0.0.1:1")
	if _, err := s.agent.Reconcile(t.Context(), day, []scheduler.Source{source{job("1")}}, comparison); err == nil {
		t.Error("no service is no error")
	}
}

// TestReconcileAdds holds the comparison to its order and its last sides.
func TestReconcileAdds(t *testing.T) {
	service := newService(t, ledger.Strict)
	s := service.site(t)
	s.deliver(t, service, job("1"), job("2", ran(2)), job("1", submitted(begin.Add(time.Second))))
	got, sum := s.reconcile(t, job("2"), job("1"), job("2", ran(2)), job("1", submitted(begin.Add(time.Second))))
	wantDifferences(t, got)
	total := sum.Resources[rm]
	for _, side := range []agent.Total{total.Accounting, total.Outbox, total.Service} {
		if side.Records != 3 || side.Charge.String() != "32" {
			t.Errorf("%+v", total)
		}
	}
	if _, err := s.queue.Retry(t.Context(), outbox.Selection{States: []outbox.State{outbox.Loaded}}); err != nil {
		t.Fatal(err)
	}
	got, _ = s.reconcile(t, job("1"), job("2", ran(2)), job("1", submitted(begin.Add(time.Second))))
	wantDifferences(t, got, "1 pending: not sent yet", "1 pending: not sent yet", "2 pending: not sent yet")
}
