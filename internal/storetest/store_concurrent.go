package storetest

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// onlyKnown lets pass what the registry knows.
type onlyKnown struct{ readAll }

func (onlyKnown) Check(registry *ledger.Registry, r amieusage.Record) ledger.Failure {
	return registry.Check(r)
}

// batch returns records of one kind as one send of the site.
func (m *storeModel) batch(s *modelSite, records ...amieusage.Record) *ledger.Batch {
	b := &ledger.Batch{Site: s.who.Site, KeyID: s.who.KeyID, UsageType: records[0].UsageType(), AcceptedAt: m.now}
	for _, r := range records {
		b.Records = append(b.Records, r.AppendJSON(nil))
	}
	return b
}

// loadWhile loads on all stores at once while send runs, and on until nothing
// is queued. The counts of the site add up and never fall at any moment, and
// whoever is told that nothing is queued finds it so.
func (m *storeModel) loadWhile(stores []ledger.Store, s *modelSite, maxRecords int, judge ledger.Judge, send func()) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var sent atomic.Bool
	var group sync.WaitGroup
	for _, store := range stores {
		group.Go(func() {
			var last ledger.Counts
			wrong := 0
			for {
				over := sent.Load()
				report, err := store.Load(ctx, m.now, maxRecords, judge)
				if err != nil {
					m.t.Errorf("load: %v", err)
					return
				}
				c, err := store.Counts(ctx, s.who.Site)
				if err != nil || c.Accepted != c.Loaded+c.Failed+c.Queued || c.Queued < 0 ||
					c.Accepted < last.Accepted || c.Loaded < last.Loaded || c.Failed < last.Failed {
					m.t.Errorf("counts %+v, %v; before %+v", c, err, last)
					return
				}
				last = c
				if report.Batches > 0 || report.Busy || !over {
					continue
				}
				if c.Queued == 0 {
					break
				}
				wrong++
			}
			if wrong > 0 {
				m.t.Errorf("%d reports said that nothing is queued when there was something", wrong)
			}
		})
	}
	send()
	sent.Store(true)
	group.Wait()
}

// testConcurrent sends the same records from several sides at once, while
// others load: each counts once, and none vanishes at any moment.
func testConcurrent(m *storeModel, replicas int) {
	const senders, messages, perMessage = 4, 6, 20
	s := m.site("PSC")
	stores := m.replicas(replicas)
	loaders := slices.Concat(stores, stores) // two on each
	m.loadWhile(loaders, s, 2*perMessage, onlyKnown{}, func() {
		var group sync.WaitGroup
		for sender := range senders {
			service := m.serviceOf(stores[sender%replicas])
			group.Go(func() {
				for n := range messages {
					var records []amieusage.Record
					for i := range perMessage {
						records = append(records, job(fmt.Sprint(n*perMessage+i), "1.25", named(fmt.Sprint("by ", sender))))
					}
					if _, err := service.Accept(context.Background(), s.who, s.resources, recordsMessage(records...)); err != nil {
						m.t.Errorf("accept: %v", err)
					}
				}
			})
		}
		group.Wait()
	})
	for _, store := range stores {
		m.use(store)
		counts, err := m.service.Counts(context.Background(), s.who)
		m.noError(err)
		m.equal("counts", ledger.Counts{Accepted: senders * messages * perMessage, Loaded: senders * messages * perMessage}, counts)
		status, err := m.service.Status(context.Background(), s.who, amieusage.StatusQuery{})
		m.noError(err)
		m.equal("status", amieusage.Status{{Resource: bulk, LoadedRecordCount: messages * perMessage, TotalCharge: chargeOf("150")}}, status)
		m.equal("loaded records", messages*perMessage, len(m.loaded(s, amieusage.LoadedQuery{PageSize: 50})))
	}
	m.verify()
	m.sites = nil // the model has nothing of it
}

// A placed content is one that was accepted, with its place in the order of
// acceptance.
type placed struct {
	batch   int64
	ordinal int
	raw     string
	charge  int64
	fails   bool
}

// testLastAccepted corrects the same records from several sides at once, while
// others load; one of failing contents fails (0: none does). In the end the
// content accepted last stands for each record, and a record is among the
// failed ones where the content accepted last has failed. A send that begins
// when another has been answered is accepted after it.
func testLastAccepted(m *storeModel, failing int) {
	const senders, messages, perMessage, identities = 4, 15, 5, 6
	s := m.site("PSC")
	stores := m.replicas(3)
	var lock sync.Mutex
	var answered int64 // the highest number of a send that was answered
	batches := map[int64]bool{}
	contents := map[amieusage.Identity][]placed{}
	send := func(store ledger.Store, records []amieusage.Record) {
		lock.Lock()
		before := answered
		lock.Unlock()
		b := m.batch(s, records...)
		if err := store.Accept(context.Background(), b, math.MaxInt64); err != nil {
			m.t.Errorf("accept: %v", err)
			return
		}
		lock.Lock()
		defer lock.Unlock()
		if b.ID <= before || batches[b.ID] {
			m.t.Errorf("a send has the number %d; %d was answered before it began", b.ID, before)
		}
		answered = max(answered, b.ID)
		batches[b.ID] = true
		for i, r := range records {
			id := r.Identity()
			contents[id] = append(contents[id], placed{b.ID, i, string(b.Records[i]), millionths(r), r.Common().Username == "eve"})
		}
	}
	m.loadWhile(stores, s, perMessage, onlyKnown{}, func() {
		var group sync.WaitGroup
		for sender := range senders {
			random := rand.New(rand.NewPCG(3, uint64(sender)))
			group.Go(func() {
				for n := range messages {
					records := make([]amieusage.Record, perMessage)
					for i := range records {
						charge := fmt.Sprint((sender*messages+n)*perMessage + i) // each of its own
						records[i] = job(fmt.Sprint(random.IntN(identities)), charge, func(r *amieusage.ComputeRecord) {
							if failing > 0 && random.IntN(failing) == 0 {
								r.Username = "eve"
							}
						})
					}
					send(stores[(sender+n)%len(stores)], records)
				}
			})
		}
		group.Wait()
	})
	m.checkPlaced(s, contents)
	m.verify()
	m.sites = nil // the model has nothing of it
}

// checkPlaced compares what became of contents with their order of acceptance.
func (m *storeModel) checkPlaced(s *modelSite, contents map[amieusage.Identity][]placed) {
	m.t.Helper()
	want := ledger.Counts{}
	var sum, records int64
	open := map[amieusage.Identity]string{}
	for id, all := range contents {
		slices.SortFunc(all, func(a, b placed) int {
			return cmp.Or(cmp.Compare(a.batch, b.batch), cmp.Compare(a.ordinal, b.ordinal))
		})
		var passed []string
		var charge int64
		for _, c := range all {
			want.Accepted++
			if c.fails {
				want.Failed++
				open[id] = c.raw
				continue
			}
			want.Loaded++
			delete(open, id)
			passed, charge = append(passed, c.raw), c.charge
		}
		revisions, err := m.store.Revisions(context.Background(), s.who.Site, id)
		m.noError(err)
		var got []string
		for _, r := range revisions {
			got = append(got, string(r.Record))
		}
		m.equal("contents of "+id.LocalRecordID+" in order of acceptance", passed, got)
		sum += charge
		records += int64(min(len(passed), 1))
	}
	counts, err := m.service.Counts(context.Background(), s.who)
	m.noError(err)
	m.equal("counts", want, counts)
	gotOpen := map[amieusage.Identity]string{}
	for _, f := range m.failed(s) {
		gotOpen[f.Record.Identity()] = string(f.Raw)
	}
	m.equal("open failed records", open, gotOpen)
	status, err := m.service.Status(context.Background(), s.who, amieusage.StatusQuery{})
	m.noError(err)
	m.equal("records", records, status[0].LoadedRecordCount)
	m.equal("sum of charges", amieusage.ChargeOfMillionths(sum), status[0].TotalCharge)
}

// testReplicasClear clears failed records on one replica while another loads
// what supersedes them: only what has failed anew is open.
func testReplicasClear(m *storeModel) {
	const rounds, records = 6, 20
	s := m.site("PSC")
	stores := m.replicas(3)
	eve := func(r *amieusage.ComputeRecord) { r.Username = "eve" }
	for round := range rounds {
		charge := fmt.Sprint(round + 1)
		for i := range records {
			m.send(s, job(fmt.Sprint(i), charge, eve))
		}
		m.loadOn(stores[0])
		m.checkFailed(s)
		var ids []int64
		for _, f := range s.failed {
			ids = append(ids, f.id)
		}
		var want []string
		for i := range records {
			change := eve
			if i%2 == 0 {
				change = named("passes")
			} else {
				want = append(want, fmt.Sprint(i))
			}
			m.noError(stores[2].Accept(context.Background(), m.batch(s, job(fmt.Sprint(i), charge+"0", change)), math.MaxInt64))
		}
		m.loadWhile(stores[:2], s, 3, onlyKnown{}, func() {
			for n := 3; n < len(ids)+3; n += 3 { // with those before once more
				if err := stores[2].Clear(context.Background(), s.who.Site, ids[:min(n, len(ids))], m.now); err != nil {
					m.t.Errorf("clear: %v", err)
				}
			}
		})
		var got []string
		for _, f := range m.failed(s) {
			got = append(got, f.Record.Common().LocalRecordID)
		}
		m.equal("open failed records", want, got)
		m.verify()
		m.forget(s)
	}
	m.sites = nil // the model has nothing of it
}

// forget clears what has failed, and has the model start from the counts as
// they are.
func (m *storeModel) forget(s *modelSite) {
	m.t.Helper()
	var ids []int64
	for _, f := range m.failed(s) {
		ids = append(ids, f.FailedRecordID)
	}
	m.noError(m.service.Clear(context.Background(), s.who, ids))
	var err error
	s.counts, err = m.service.Counts(context.Background(), s.who)
	m.noError(err)
	s.failed, s.entries = nil, map[amieusage.Identity]*modelEntry{}
}

// testReplicasCursor follows the cursor on one replica while others load and
// correct, by pages of three, and goes on at the end: by the last cursor, or
// from the last time. Neither way misses a record in its newest revision.
func testReplicasCursor(m *storeModel) {
	const senders, messages, perMessage, identities = 3, 20, 4, 30
	s := m.site("PSC")
	stores := m.replicas(3)
	var sent atomic.Bool
	var readers sync.WaitGroup
	seen := make([]map[string]string, 2)
	for i, goOn := range []func(q *amieusage.LoadedQuery, last time.Time){
		func(*amieusage.LoadedQuery, time.Time) {},
		func(q *amieusage.LoadedQuery, last time.Time) { q.Cursor, q.MinLoadedTime = "", last },
	} {
		seen[i] = map[string]string{}
		readers.Go(func() {
			q := amieusage.LoadedQuery{PageSize: 3}
			var last time.Time
			for end := time.Now().Add(patience); time.Now().Before(end); {
				over := sent.Load()
				page, err := stores[2].Loaded(context.Background(), s.who.Site, q)
				if err != nil {
					m.t.Errorf("loaded: %v", err)
					return
				}
				for n, r := range page.Records {
					if n > 0 && r.LoadedTime.Before(page.Records[n-1].LoadedTime) {
						m.t.Errorf("%s comes behind %s", r, page.Records[n-1])
					}
					seen[i][r.LocalRecordID] = r.Charge.String()
					last = r.LoadedTime
				}
				switch {
				case page.Next != "":
					q.Cursor = page.Next
				case over:
					return
				default:
					goOn(&q, last)
				}
			}
			m.t.Errorf("reader %d comes to no end", i)
		})
	}
	m.loadWhile(stores[:2], s, perMessage, onlyKnown{}, func() {
		var group sync.WaitGroup
		for sender := range senders {
			random := rand.New(rand.NewPCG(5, uint64(sender)))
			group.Go(func() {
				for n := range messages {
					var records []amieusage.Record
					for i := range perMessage {
						records = append(records, job(fmt.Sprint(random.IntN(identities)), fmt.Sprint((sender*messages+n)*perMessage+i)))
					}
					if err := stores[sender].Accept(context.Background(), m.batch(s, records...), math.MaxInt64); err != nil {
						m.t.Errorf("accept: %v", err)
					}
				}
			})
		}
		group.Wait()
	})
	sent.Store(true)
	readers.Wait()
	want := map[string]string{}
	for _, r := range m.loaded(s, amieusage.LoadedQuery{PageSize: 100}) {
		want[r.LocalRecordID] = r.Charge.String()
	}
	m.equal("what was seen by the last cursor", want, seen[0])
	m.equal("what was seen from the last time", want, seen[1])
	m.verify()
	m.sites = nil // the model has nothing of it
}
