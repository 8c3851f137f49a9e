package agent_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/apd/v3"
	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/internal/storetest"
	"github.com/amieusage/amieusage/usageclient"
)

// A chargedJob is what the model knows of a job.
type chargedJob struct {
	hours int64 // as the accounting has it now

	known    bool  // by the outbox
	left     bool  // for the service
	read     int64 // the hours that the outbox knows
	rate     int64 // that charges it; 0: none, its charge was given
	charge   int64
	resource string
	decision outbox.Decision

	refund         int64 // percent
	refunded, lost bool  // lost: the outbox that knew of the refund is
	givenBack      int64 // in hundredths, where it is lost
}

// cores is what each job has.
const cores = 8

// A chargesModel is a site whose rules are edited, whose accounting is partial,
// whose administrator decides, and whose outbox is lost; and what each job
// costs then, computed apart from the program.
type chargesModel struct {
	t        *testing.T
	rt       *rapid.T
	service  *service
	client   *usageclient.Client
	folder   string
	site     *site
	check    int
	rate     int64 // today's
	resource string
	jobs     []*chargedJob
	outboxes int
}

// TestChargesModel edits rules, reads parts of the accounting, decides, and loses
// outboxes. Whatever the order, each job is charged once, on one resource, what
// its first rate, its facts and what was decided come to.
func TestChargesModel(t *testing.T) {
	service := newService(t, ledger.Strict)
	client, folder := service.client(t), t.TempDir()
	storetest.CheckModel(t, 25, func(rt *rapid.T, check int) {
		m := &chargesModel{t: t, rt: rt, service: service, client: client, folder: folder, check: check, rate: 1, resource: rm}
		for range 3 {
			m.jobs = append(m.jobs, &chargedJob{hours: 1})
		}
		m.open()
		defer m.close()
		rt.Repeat(map[string]func(*rapid.T){
			"read": m.read,
			"send": func(*rapid.T) { m.send() },
			"load": func(*rapid.T) { m.service.load(m.t) },
			"confirm": func(*rapid.T) {
				if err := m.site.agent.Confirm(context.Background(), 0); err != nil {
					rt.Fatal(err)
				}
			},
			"facts":   func(rt *rapid.T) { m.any(rt).hours = rapid.Int64Range(1, 3).Draw(rt, "hours") },
			"rules":   m.edit,
			"reprice": m.reprice,
			"decide":  m.decide,
			"refund":  m.giveBack,
			"lose":    func(*rapid.T) { m.lose() },
			"":        func(*rapid.T) {},
		})
		m.settle()
	})
}

func (m *chargesModel) any(rt *rapid.T) *chargedJob {
	return m.jobs[rapid.IntRange(0, len(m.jobs)-1).Draw(rt, "job")]
}

func (m *chargesModel) id(i int) string { return fmt.Sprintf("c%d.%d", m.check, i) }

func (m *chargesModel) close() {
	if m.site != nil {
		if err := m.site.queue.Close(); err != nil {
			m.rt.Fatal(err)
		}
	}
}

// open opens a new outbox.
func (m *chargesModel) open() {
	m.close()
	m.outboxes++
	queue, err := sqlite.OpenOutbox(context.Background(), filepath.Join(m.folder, fmt.Sprintf("outbox%d.%d.db", m.check, m.outboxes)), time.Now)
	if err != nil {
		m.rt.Fatal(err)
	}
	m.site = &site{queue: queue, agent: &agent.Agent{Queue: queue, Client: m.client, Clock: time.Now, Log: quiet}}
	m.setRules()
}

func (m *chargesModel) setRules() {
	rules := &siterules.Rules{Resources: []siterules.Resource{{
		Name: m.resource, Rates: []siterules.Rate{{PerHour: map[string]*apd.Decimal{"cpu": apd.New(m.rate, 0)}, Decimals: 6}},
	}}}
	if err := rules.Check(); err != nil {
		m.rt.Fatal(err)
	}
	m.site.agent.Rules = rules
}

func (m *chargesModel) edit(rt *rapid.T) {
	m.rate, m.resource = rapid.Int64Range(1, 3).Draw(rt, "rate"), rapid.SampledFrom([]string{rm, gpu}).Draw(rt, "resource")
	m.setRules()
}

// read reads a part of the accounting, which may lack AllocTRES.
func (m *chargesModel) read(rt *rapid.T) {
	which, lacks := rapid.IntRange(1, 1<<len(m.jobs)-1).Draw(rt, "which"), rapid.Bool().Draw(rt, "lacks TRES")
	m.collect(which, lacks, false)
}

// reprice charges all that is known anew.
func (m *chargesModel) reprice(*rapid.T) {
	m.settle()
	m.collect(1<<len(m.jobs)-1, false, true)
	m.settle()
}

func (m *chargesModel) collect(which int, lacks, reprice bool) {
	var rows []any
	moves := false
	for i, j := range m.jobs {
		if which>>i&1 == 0 {
			continue
		}
		row := job(m.id(i), ran(j.hours))
		row.TRES = []scheduler.TRES{{Name: "cpu", Count: cores}}
		if lacks {
			row.Lacks = scheduler.FactTRES
		} else {
			row.TRES = append(row.TRES, scheduler.TRES{Name: "gres/gpu", Count: 2})
		}
		rows = append(rows, row)
		moves = m.reads(j, reprice) || moves
	}
	m.site.agent.Reprice = reprice
	m.site.collect(m.t, rows...)
	m.site.agent.Reprice = false
	if moves {
		m.settle() // a record at 0 is confirmed before the next is sent
	}
}

// reads is what reading a job comes to. It reports whether the job may move.
func (m *chargesModel) reads(j *chargedJob, reprice bool) (moves bool) {
	today := func() {
		moves = j.left && j.resource != m.resource
		j.rate, j.resource, j.charge = m.rate, m.resource, m.rate*cores*j.hours
	}
	switch {
	case !j.known:
		j.known, j.read = true, j.hours
		today()
	case j.decision.Binds():
	case !j.left:
		j.read = j.hours
		today()
	default:
		if j.read != j.hours {
			if j.read = j.hours; j.rate > 0 {
				j.charge = j.rate * cores * j.hours
			}
		}
		if reprice || j.rate == 0 && j.decision == outbox.DecidedRelease {
			today()
		}
	}
	return moves
}

func (m *chargesModel) send() {
	m.site.send(m.t)
	for _, j := range m.jobs {
		j.left = j.left || j.known && j.decision != outbox.DecidedHold && j.decision != outbox.DecidedDrop
	}
}

// settle brings all to the service, as some runs do, and compares.
func (m *chargesModel) settle() {
	defer m.compare()
	for range 4 {
		if err := m.site.agent.FollowRefunds(context.Background()); err != nil {
			m.rt.Fatal(err)
		}
		m.send()
		m.service.load(m.t)
		m.site.confirm(m.t, 10*time.Second)
	}
}

// entry returns the entry by which a job is charged now.
func (m *chargesModel) entry(i int) outbox.Entry {
	entries, err := m.site.queue.List(context.Background(), outbox.Filter{LocalRecordID: m.id(i)})
	if err != nil {
		m.rt.Fatal(err)
	}
	for _, e := range entries {
		if !e.Superseded {
			return e
		}
	}
	m.rt.Fatalf("there is no entry of job %d among %v", i, entries)
	return outbox.Entry{}
}

// decide holds, drops, withdraws, sets and releases.
func (m *chargesModel) decide(rt *rapid.T) {
	m.settle()
	i := rapid.IntRange(0, len(m.jobs)-1).Draw(rt, "job")
	j := m.jobs[i]
	if !j.known {
		return
	}
	e, note := m.entry(i), outbox.Note{Who: "the model"}
	var w outbox.Write
	switch what := rapid.SampledFrom([]string{"hold", "drop", "withdraw", "set", "release", "release"}).Draw(rt, "what"); what {
	case "hold":
		w, j.decision = outbox.Hold(e, note), outbox.DecidedHold
	case "drop":
		w, j.decision = outbox.Drop(e, false, note), outbox.DecidedDrop
	case "withdraw":
		w, j.decision = outbox.Drop(e, true, note), outbox.DecidedDrop
		if j.left {
			j.charge, j.rate = 0, 0
		}
	case "set":
		j.charge, j.rate, j.decision = rapid.Int64Range(0, 100).Draw(rt, "charge"), 0, outbox.DecidedSet
		var err error
		if w, err = outbox.SetCharge(e, amieusage.ChargeOfMillionths(j.charge*1_000_000), note); err != nil {
			rt.Fatal(err)
		}
	case "release":
		w, j.decision = outbox.Release(e, note), outbox.DecidedRelease
	}
	if _, err := m.site.queue.Apply(context.Background(), []outbox.Write{w}, nil); err != nil {
		rt.Fatal(err)
	}
	m.settle()
}

// giveBack refunds a part of a job, or takes that back.
func (m *chargesModel) giveBack(rt *rapid.T) {
	m.settle()
	i := rapid.IntRange(0, len(m.jobs)-1).Draw(rt, "job")
	j, percent := m.jobs[i], rapid.Int64Range(0, 100).Draw(rt, "percent")
	if !j.known || !j.left {
		return
	}
	r := outbox.Refund{Job: m.entry(i).ID, Percent: fmt.Sprint(percent), Undone: percent == 0}
	if err := m.site.queue.Refund(context.Background(), []outbox.Refund{r}, outbox.Note{Kind: "refund", Who: "the model"}); err != nil {
		rt.Fatal(err)
	}
	if percent == 0 && !j.refunded {
		return // nothing was given back
	}
	j.refund, j.refunded, j.lost = percent, true, false
	m.settle()
}

// lose loses the outbox, with all that was decided. A new one adopts what the
// service has.
func (m *chargesModel) lose() {
	m.settle()
	for _, j := range m.jobs {
		if j.refunded && !j.lost {
			j.lost, j.givenBack = true, j.charge*j.refund
		}
	}
	m.open()
	if err := m.site.agent.Adopt(context.Background(), outbox.Note{Who: "the model"}); err != nil {
		m.rt.Fatal(err)
	}
	if _, err := m.site.queue.Home(context.Background(), "testc"); err != nil {
		m.rt.Fatal(err)
	}
	for _, j := range m.jobs {
		j.decision = ""
		if !j.left {
			j.known = false
			continue
		}
		// It is known again once it is read; its charge stays until it is repriced.
		j.known = true
	}
	var rows []any
	for i, j := range m.jobs {
		if j.left {
			row := job(m.id(i), ran(j.hours))
			row.TRES = []scheduler.TRES{{Name: "cpu", Count: cores}}
			rows = append(rows, row)
			if j.read = j.hours; j.resource != m.resource || j.charge != m.rate*cores*j.hours {
				j.rate = 0
			} else {
				j.rate = m.rate
			}
		}
	}
	m.site.collect(m.t, rows...)
	m.settle()
}

// compare holds the ledger against the model.
func (m *chargesModel) compare() {
	type total struct{ charge, resources, givenBack int64 }
	got := map[string]total{}
	ids := map[string]string{}
	for i := range m.jobs {
		ids[m.id(i)] = m.id(i)
		ids[fmt.Sprintf("refund-testc-%s-%d", m.id(i), begin.Unix())] = m.id(i)
	}
	for _, r := range m.service.loaded(m.t) {
		id, ok := ids[r.LocalRecordID]
		if !ok {
			continue
		}
		n, err := r.Charge.Millionths()
		if err != nil {
			m.rt.Fatal(err)
		}
		sum := got[id]
		if r.UsageType == amieusage.Adjustment {
			sum.givenBack += n / 10_000
		} else {
			sum.charge += n / 1_000_000
			if n > 0 {
				sum.resources++
			}
		}
		got[id] = sum
	}
	for i, j := range m.jobs {
		var want total
		if j.left {
			want.charge = j.charge
			if j.charge > 0 {
				want.resources = 1
			}
		}
		switch {
		case j.lost:
			want.givenBack = j.givenBack
		case j.refunded:
			want.givenBack = j.charge * j.refund
		}
		if got[m.id(i)] != want {
			m.rt.Fatalf("job %d: in the ledger %+v, want %+v; the model has %+v", i, got[m.id(i)], want, *j)
		}
	}
}
