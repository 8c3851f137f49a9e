package storetest

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// TestVerifyOnline verifies a ledger again and again while replicas accept
// records of two sites, load them, clear failed ones, change the registry and
// archive. Each verification is held in its middle until all that work has gone
// on. Then a row is damaged: that is found. open opens one more replica, and
// execute executes a statement behind the ledger's back.
func TestVerifyOnline(t *testing.T, open func() ledger.Store, execute func(statement string)) {
	const verifications = 4 // of each site, held
	m := newStoreModel(t, open, ledger.Strict)
	m.replicas(3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m.site("PSC")
	m.site("SDSC")
	w := newWork(ctx, m)
	verifier := m.stores[2].(FullVerifier)

	w.start(t.TempDir)
	held := map[string]int{}
	var all ledger.VerifiedSite // of all verifications
	for !w.isOver() && (held["PSC"] < verifications || held["SDSC"] < verifications) {
		for _, s := range w.verify(verifier, held) {
			all.Newest += s.Newest
			all.Replaced += s.Replaced
			all.Repeated += s.Repeated
			all.Failed += s.Failed
			all.Archived += s.Archived
		}
	}
	w.stop()
	if t.Failed() {
		return
	}
	if all.Newest == 0 || all.Replaced == 0 || all.Repeated == 0 || all.Failed == 0 || all.Archived == 0 {
		t.Errorf("not everything has happened: %+v", all)
	}

	m.noError(m.store.Accept(ctx, m.batch(m.sites[0], job("last", "1")), math.MaxInt64))
	for m.whenFree(m.service.LoadSome).Batches > 0 {
	}
	v, err := verifier.VerifyAll(ctx, func(*ledger.VerifiedSite) {})
	if err != nil || v.Err() != nil {
		t.Fatalf("%v, %v", err, v.Err())
	}
	for i, s := range m.sites {
		counts, err := m.store.Counts(ctx, s.who.Site)
		m.noError(err)
		m.equal("records of "+s.name, []int64{counts.Accepted, 0}, []int64{v.Sites[i].Records, v.Sites[i].Queued})
	}
	execute(`UPDATE records SET charge = charge + 1 WHERE site_id = 1 AND local_record_id = 'last'`)
	err = verifier.Verify(ctx)
	m.hasCode(err, amieusage.CodeInternal)
	for _, finding := range []string{"balances: PSC: ", "contents of records: PSC: Compute last of alice"} {
		if !strings.Contains(fmt.Sprint(err), finding) {
			t.Errorf("nothing says %q in %v", finding, err)
		}
	}
}

// A step is a kind of work, for one site or, where that is "", for all.
type step struct{ what, site string }

// work is what goes on while a ledger is verified. Nobody runs ahead of the
// others.
type work struct {
	*storeModel
	ctx     context.Context
	group   sync.WaitGroup
	changed *sync.Cond
	// Under the lock of changed.
	over  bool
	steps map[step]int64 // how much was done
	turns map[step]int64 // how often, also where there was nothing to do
}

const (
	workQueued = 30 // how many sends loading may be behind
	workRecent = 60 // how many sends are too new to be archived
	workEvery  = 5  // how many sends of a site come before other work at it has a turn again
)

// byTurns is the work that comes in turn.
var byTurns = []string{"clear", "import", "archive"}

func newWork(ctx context.Context, m *storeModel) *work {
	w := &work{storeModel: m, ctx: ctx, changed: sync.NewCond(new(sync.Mutex)), steps: map[step]int64{}, turns: map[step]int64{}}
	context.AfterFunc(ctx, w.end)
	return w
}

// clock moves with what is sent.
func (w *work) clock() time.Time { return w.timeOf(w.count(step{"send", ""})) }

func (w *work) timeOf(sends int64) time.Time { return w.now.Add(time.Duration(sends) * time.Minute) }

func (w *work) service(store ledger.Store) *ledger.Service {
	return ledger.New(ledger.Config{Store: store, Clock: w.clock, Logger: discard()})
}

func (w *work) count(s step) int64 {
	w.changed.L.Lock()
	defer w.changed.L.Unlock()
	return w.steps[s]
}

// did counts a step, which has done n of something.
func (w *work) did(what, site string, n int64) {
	w.changed.L.Lock()
	defer w.changed.L.Unlock()
	w.steps[step{what, site}] += n
	w.turns[step{what, site}]++
	w.changed.Broadcast()
}

// reached says how much was done of a step in all.
func (w *work) reached(what, site string, n int64) {
	w.changed.L.Lock()
	defer w.changed.L.Unlock()
	w.steps[step{what, site}] = max(w.steps[step{what, site}], n)
	w.changed.Broadcast()
}

// await waits until the steps are as they should be, or, with false, until the
// work is over.
func (w *work) await(done func() bool) bool {
	w.changed.L.Lock()
	defer w.changed.L.Unlock()
	for !w.over && !done() {
		w.changed.Wait()
	}
	return !w.over
}

func (w *work) isOver() bool { return !w.await(func() bool { return true }) }

func (w *work) end() {
	w.changed.L.Lock()
	defer w.changed.L.Unlock()
	w.over = true
	w.changed.Broadcast()
}

func (w *work) stop() {
	w.end()
	w.group.Wait()
	w.noError(w.ctx.Err())
}

// check ends the work where something went wrong.
func (w *work) check(what string, err error) {
	if err != nil {
		w.t.Errorf("%s: %v", what, err)
		w.end()
	}
}

func (w *work) start(folder func() string) {
	for i, s := range w.sites {
		w.group.Go(func() { w.send(s, w.stores[i], rand.New(rand.NewPCG(11, uint64(i)))) })
		w.inTurn(s, "clear", w.clearing(s, w.service(w.stores[i])))
		w.inTurn(s, "import", w.importing(s, w.stores[1-i]))
		w.inTurn(s, "archive", w.archiving(s, w.stores[2].(ledger.Archivable), folder()))
	}
	for _, store := range w.stores[:2] {
		w.group.Go(func() { w.loading(w.service(store)) })
	}
}

// verify verifies once, and waits in the middle of each site's verification until
// each kind of work was done again for each site. What is verified is what the
// ledger held at one moment meanwhile.
func (w *work) verify(store FullVerifier, held map[string]int) []*ledger.VerifiedSite {
	accepted := func() (n []int64) {
		for _, s := range w.sites {
			counts, err := store.(ledger.Store).Counts(w.ctx, s.who.Site)
			w.check("counts", err)
			n = append(n, counts.Accepted)
		}
		return n
	}
	before := accepted()
	seen := map[string]bool{}
	v, err := store.VerifyAll(w.ctx, func(site *ledger.VerifiedSite) {
		if seen[site.Site] {
			return
		}
		seen[site.Site] = true
		if w.goesOn() {
			held[site.Site]++
		}
	})
	if err == nil {
		err = v.Err()
	}
	if w.check("verification", err); err != nil {
		return nil
	}
	for i, after := range accepted() {
		if n := v.Sites[i].Records; n < before[i] || n > after {
			w.t.Errorf("%d records of %s were verified; accepted were %d before, and %d behind", n, v.Sites[i].Site, before[i], after)
		}
	}
	return v.Sites
}

// goesOn waits until each step was done once more.
func (w *work) goesOn() bool {
	var before, now map[step]int64
	more := w.await(func() bool {
		if now = maps.Clone(w.steps); before == nil {
			before = now
		}
		for _, s := range w.sites {
			for _, what := range append([]string{"send", "load"}, byTurns...) {
				if at := (step{what, s.name}); now[at] == before[at] {
					return false
				}
			}
		}
		return true
	})
	if err := w.ctx.Err(); err != nil {
		w.t.Errorf("work stands still during a verification: %v before it, now %v", before, now)
	}
	return more
}

// send sends new records, corrections and repeated ones; some fail, whatever
// the registry says or until it is changed.
func (w *work) send(s *modelSite, store ledger.Store, random *rand.Rand) {
	const identities = 40
	service := w.service(store)
	for n := 0; w.await(func() bool { return w.maySend(s) }); n++ {
		var records []amieusage.Record
		if n%10 == 9 {
			kind := []amieusage.AdjustmentType{amieusage.Refund, amieusage.Debit}[random.IntN(2)]
			records = append(records, adjustment(kind, fmt.Sprint(random.IntN(identities)), fmt.Sprint(n)))
		} else {
			for range 3 {
				records = append(records, job(fmt.Sprint(random.IntN(identities)), fmt.Sprint(random.IntN(3)+1), w.variant(random)))
			}
			records = append(records, records[2], job(fmt.Sprint("new", n), "1.5"))
		}
		answer, err := service.Accept(w.ctx, s.who, s.resources, recordsMessage(records...))
		if err == nil && len(answer.FailedRecords) > 0 {
			err = answer.FailedRecords[0].Problem
		}
		w.check("send", err)
		w.did("send", s.name, 1)
		w.did("send", "", 1)
	}
}

// variant changes what decides whether a record fails.
func (w *work) variant(random *rand.Rand) func(r *amieusage.ComputeRecord) {
	return func(r *amieusage.ComputeRecord) {
		switch random.IntN(6) {
		case 0:
			r.Username = "eve"
		case 1:
			r.Resource = gpus
		case 2:
			r.LocalProjectID = "p.new"
		case 3:
			r.LocalProjectID = "p.unknown"
		}
	}
}

// loading loads what was sent. It tells for which sites by their counts, which
// add up at every moment.
func (w *work) loading(service *ledger.Service) {
	for w.await(func() bool { return w.steps[step{"send", ""}] > w.steps[step{"load", ""}] }) {
		report, err := service.LoadSome(w.ctx)
		w.check("load", err)
		for _, s := range w.sites {
			c, err := service.Counts(w.ctx, s.who)
			if err == nil && c.Accepted != c.Loaded+c.Failed+c.Queued {
				err = fmt.Errorf("%+v do not add up", c)
			}
			w.check("counts", err)
			w.reached("load", s.name, c.Loaded+c.Failed)
		}
		w.did("load", "", int64(report.Batches))
	}
}

// inTurn does other work at a site behind so many of its sends; do returns how
// much it has changed.
func (w *work) inTurn(s *modelSite, what string, do func(n int) (int64, error)) {
	w.group.Go(func() {
		for n := 0; w.await(func() bool { return w.steps[step{"send", s.name}] >= int64(n+1)*workEvery }); n++ {
			done, err := do(n)
			w.check(what+" of "+s.name, err)
			w.did(what, s.name, done)
		}
	})
}

// maySend reports whether no other work is far behind the sends of a site.
func (w *work) maySend(s *modelSite) bool {
	for _, what := range byTurns {
		if w.steps[step{"send", s.name}] >= (w.turns[step{what, s.name}]+2)*workEvery {
			return false
		}
	}
	return w.steps[step{"send", ""}]-w.steps[step{"load", ""}] < workQueued
}

// clearing clears the oldest half of what has failed.
func (w *work) clearing(s *modelSite, service *ledger.Service) func(int) (int64, error) {
	return func(int) (int64, error) {
		failed, _, err := service.Failed(w.ctx, s.who, ledger.FailedQuery{})
		var ids []int64
		for _, f := range failed[:(len(failed)+1)/2] {
			ids = append(ids, f.FailedRecordID)
		}
		if err != nil || len(ids) == 0 {
			return 0, err
		}
		return int64(len(ids)), service.Clear(w.ctx, s.who, ids)
	}
}

// importing lets in what fails, and out again; each time there are names that
// are new.
func (w *work) importing(s *modelSite, store ledger.Store) func(int) (int64, error) {
	return func(n int) (int64, error) {
		spec := standard(s.name)
		site := &spec.Sites[0]
		site.Resources = append(site.Resources, fmt.Sprint("rm", n))
		one := ledger.ProjectSpec{ID: "p.new", Users: []string{fmt.Sprint("user", n)}, Allocations: []ledger.AllocationSpec{}}
		if n%2 == 0 {
			site.Projects[0].Users = append(site.Projects[0].Users, "eve")
			one.Users = append(one.Users, "alice")
			one.Allocations = slices.Clone(site.Projects[0].Allocations)
		} else {
			site.Projects[0].Allocations = site.Projects[0].Allocations[:1]
		}
		site.Projects = append(site.Projects, one)
		changes, err := store.Import(w.ctx, spec)
		return int64(len(changes)), err
	}
}

// archiving archives all but what was sent lately.
func (w *work) archiving(s *modelSite, store ledger.Archivable, folder string) func(int) (int64, error) {
	return func(int) (archived int64, err error) {
		sends := w.count(step{"send", ""})
		err = ledger.Archive(w.ctx, store, ledger.Archiving{Folder: folder, Before: w.timeOf(sends - workRecent), Site: s.name,
			Done: func(ledger.Archived) { archived++ }}, w.timeOf(sends))
		return archived, err
	}
}
