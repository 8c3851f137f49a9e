package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/storetest"
	"github.com/amieusage/amieusage/usageclient"
)

// A fate is what becomes of a request on its way.
type fate string

const (
	arrives    fate = "arrives"
	isLost     fate = "is lost"
	answerLost fate = "its answer is lost"
	comesTwice fate = "comes twice"
	badGateway fate = "meets a bad gateway"
	whileRead  fate = "is on its way while the site reads"
	afterLoad  fate = "comes after some loading"
	cutOff     fate = "comes, and then the agent is cut off"
)

// patience is how long the agent may look for what is loaded.
const patience = time.Minute

// A way is what lies between the site and the service. Its requests meet their
// fates in order; behind the last one all arrive.
type way struct {
	mu     sync.Mutex
	fates  []fate
	cancel context.CancelFunc
	load   func()
	read   func()
}

func (w *way) next() fate {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.fates) == 0 {
		return arrives
	}
	f := w.fates[0]
	w.fates = w.fates[1:]
	return f
}

// to returns the way to a service.
func (w *way) to(service http.Handler) http.Handler {
	return http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		serve := func(answer http.ResponseWriter) {
			r.Body = io.NopCloser(bytes.NewReader(body))
			service.ServeHTTP(answer, r)
		}
		switch w.next() {
		case isLost:
			panic(http.ErrAbortHandler)
		case answerLost:
			serve(httptest.NewRecorder())
			panic(http.ErrAbortHandler)
		case comesTwice:
			serve(httptest.NewRecorder())
		case badGateway:
			http.Error(answer, "<html>bad gateway</html>", http.StatusBadGateway)
			return
		case afterLoad:
			w.load()
		case whileRead:
			w.read()
		case cutOff:
			defer w.cancel()
		}
		serve(answer)
	})
}

// modelSite is a site, what it has read last of each record, and its service.
type modelSite struct {
	*site
	t       *testing.T
	service *service
	way     *way
	newest  map[amieusage.Identity]amieusage.Record
	check   int
}

// TestModel has a site read, correct, send, confirm and retry over a way on
// which requests and answers are lost and doubled, while the service's registry
// loses users and finds them again. At rest every entry is loaded, and the
// service holds its content, or is there with its reason; once the registry is
// right, everything is loaded, each charge once.
func TestModel(t *testing.T) {
	service := newService(t, ledger.Strict)
	w := &way{load: func() {
		if _, err := service.LoadSome(context.Background()); err != nil {
			t.Error(err)
		}
	}}
	service.through(w.to)
	site := service.site(t, usageclient.WithMaxRequestRecords(2), usageclient.WithRetry(usageclient.RetryPolicy{
		MaxAttempts: 2, FirstDelay: time.Nanosecond, MaxDelay: time.Nanosecond,
	}))
	storetest.CheckModel(t, 30, func(rt *rapid.T, check int) {
		m := &modelSite{site: site, t: t, service: service, way: w, newest: map[amieusage.Identity]amieusage.Record{}, check: check}
		rt.Repeat(map[string]func(*rapid.T){
			"read":     m.read,
			"send":     func(rt *rapid.T) { m.run(rt, m.again().agent.Send) },
			"confirm":  func(rt *rapid.T) { m.run(rt, m.look) },
			"load":     func(*rapid.T) { w.load() },
			"retry":    func(rt *rapid.T) { m.retry(rt, rapid.SampledFrom(outbox.States).Draw(rt, "state")) },
			"registry": func(rt *rapid.T) { m.service.register(m.t, users(rt)...) },
		})
		m.settle(rt)
		m.atRest(rt)
		m.service.register(m.t, "alice", "bob")
		for range 2 {
			m.retry(rt, outbox.Failed)
			m.retry(rt, outbox.Queued)
			m.settle(rt)
		}
		m.allLoaded(rt)
	})
}

func users(rt *rapid.T) []string {
	return rapid.SampledFrom([][]string{{"alice", "bob"}, {"alice"}, {"bob"}, {}}).Draw(rt, "users")
}

// read enqueues a few records.
func (m *modelSite) read(rt *rapid.T) { m.enqueue(m.items(rt)) }

func (m *modelSite) enqueue(items []outbox.Item) {
	for _, i := range items {
		m.newest[i.Record.Identity()] = i.Record
	}
	if _, err := m.queue.Enqueue(context.Background(), items, nil); err != nil {
		m.t.Error(err)
	}
}

// items draws records, some of them known, with few contents.
func (m *modelSite) items(rt *rapid.T) (items []outbox.Item) {
	for range rapid.IntRange(1, 5).Draw(rt, "records") {
		charge, err := amieusage.ParseCharge(rapid.SampledFrom([]string{"1", "1", "2.5"}).Draw(rt, "charge"))
		if err != nil {
			rt.Fatal(err)
		}
		r := &amieusage.ComputeRecord{
			Username:       rapid.SampledFrom([]string{"alice", "bob"}).Draw(rt, "user"),
			LocalProjectID: project, Resource: rm, NodeCount: amieusage.CountOf(1), Charge: charge,
			LocalRecordID: fmt.Sprintf("%d.%d", m.check, rapid.IntRange(1, 5).Draw(rt, "id")),
			JobName:       rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "name"),
			SubmitTime:    begin, StartTime: begin, EndTime: begin.Add(time.Hour),
		}
		items = append(items, outbox.Item{Record: r, Place: "dump"})
	}
	return items
}

// run does a part of the agent's work over a way on which much goes wrong: it
// may end with any error.
func (m *modelSite) run(rt *rapid.T, do func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	items := m.items(rt)
	m.way.mu.Lock()
	m.way.cancel = cancel
	m.way.read = func() { m.enqueue(items) }
	m.way.fates = rapid.SliceOfN(rapid.SampledFrom(
		[]fate{arrives, isLost, answerLost, comesTwice, badGateway, whileRead, afterLoad, cutOff}), 0, 6).Draw(rt, "fates")
	m.way.mu.Unlock()
	_ = do(ctx)
	m.way.mu.Lock()
	m.way.fates = nil
	m.way.mu.Unlock()
}

// look looks once; what was loaded long ago may take a few looks.
func (m *modelSite) look(ctx context.Context) error { return m.agent.Confirm(ctx, 0) }

func (m *modelSite) retry(rt *rapid.T, state outbox.State) {
	if _, err := m.queue.Retry(context.Background(), outbox.Selection{States: []outbox.State{state}}); err != nil {
		rt.Fatal(err)
	}
}

// settle sends, loads and confirms without a fault.
func (m *modelSite) settle(rt *rapid.T) {
	ctx := context.Background()
	m.again()
	if err := m.agent.Send(ctx); err != nil {
		rt.Fatal(err)
	}
	m.service.load(m.t)
	if err := m.agent.Confirm(ctx, patience); err != nil {
		rt.Fatal(err)
	}
}

// entries returns the entries of this check, which must be of what was read
// last.
func (m *modelSite) entries(rt *rapid.T) (entries []outbox.Entry) {
	for e, err := range outbox.All(context.Background(), m.queue, outbox.Filter{}) {
		if err != nil {
			rt.Fatal(err)
		}
		if newest := m.newest[e.Record.Identity()]; newest != nil {
			if e.Digest != amieusage.ContentDigest(newest) {
				rt.Fatalf("%s is not what was read last", e.Record)
			}
			entries = append(entries, e)
		}
	}
	if len(entries) != len(m.newest) {
		rt.Fatalf("%d entries of %d records", len(entries), len(m.newest))
	}
	return entries
}

// held returns the content that the service holds of a record, or nil.
func (m *modelSite) held(rt *rapid.T, id amieusage.Identity) amieusage.Record {
	ctx := context.Background()
	who, _, err := m.service.Authenticate(ctx, siteName, key)
	if err != nil {
		rt.Fatal(err)
	}
	revisions, err := m.service.file.Revisions(ctx, who.Site, id)
	if err != nil {
		rt.Fatal(err)
	}
	if len(revisions) == 0 {
		return nil
	}
	r, err := amieusage.CheckRecord(id.UsageType, revisions[len(revisions)-1].Record)
	if err != nil {
		rt.Fatal(err)
	}
	return r
}

// atRest checks what the outbox says when all that was sent is loaded or has
// failed.
func (m *modelSite) atRest(rt *rapid.T) {
	for _, e := range m.entries(rt) {
		held := m.held(rt, e.Record.Identity())
		switch {
		case e.State == outbox.Loaded && held != nil && amieusage.ContentDigest(held) == e.Digest:
		case e.State == outbox.Failed && e.Reason != "":
		default:
			rt.Fatalf("entry %d %s is %s (%q), and the service holds %v", e.ID, e.Record, e.State, e.Reason, held)
		}
	}
}

// allLoaded checks that all is loaded, and each charge once.
func (m *modelSite) allLoaded(rt *rapid.T) {
	want := map[string]string{}
	for _, e := range m.entries(rt) {
		held := m.held(rt, e.Record.Identity())
		if e.State != outbox.Loaded || held == nil || amieusage.ContentDigest(held) != e.Digest {
			rt.Fatalf("entry %d %s is %s (%q), and the service holds %v", e.ID, e.Record, e.State, e.Reason, held)
		}
		want[e.Record.Identity().LocalRecordID] = e.Record.Common().Charge.String()
	}
	for _, r := range m.service.loaded(m.t) {
		if r.Charge.String() == want[r.LocalRecordID] {
			delete(want, r.LocalRecordID)
		}
	}
	if len(want) > 0 {
		rt.Fatalf("%v are not among the loaded records", want)
	}
	if err := m.service.file.Verify(context.Background()); err != nil {
		rt.Fatal(err)
	}
}
