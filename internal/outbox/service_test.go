package outbox_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// service is what the real one does with one identity: it loads what it
// accepted in order, keeps the LoadedTime of equal content, and refuses the
// contents that are broken.
type service struct {
	accepted   []amieusage.Record
	broken     map[amieusage.Digest]bool
	supersedes bool // a success closes the open failures of the identity
	now        time.Time
	failures   int64

	loaded   amieusage.Record
	loadedAt time.Time
	failed   []amieusage.FailedRecord
}

func (s *service) load() {
	if len(s.accepted) == 0 {
		return
	}
	r := s.accepted[0]
	s.accepted = s.accepted[1:]
	s.now = s.now.Add(time.Second)
	if s.broken[amieusage.ContentDigest(r)] {
		s.failures++
		s.failed = append(s.failed, failedRecord(r, s.failures, "unknown user"))
		return
	}
	if s.supersedes {
		s.failed = nil
	}
	if !s.holds(r) {
		s.loaded, s.loadedAt = r, s.now
	}
}

func (s *service) holds(r amieusage.Record) bool {
	return s.loaded != nil && amieusage.ContentDigest(s.loaded) == amieusage.ContentDigest(r)
}

// site is one entry, its newest content, and the service that it goes to.
type site struct {
	service
	entry    outbox.Progress
	record   amieusage.Record
	underWay []outbox.Delivery // answers that have not come yet
}

// begin sends the newest content; its answer comes later.
func (s *site) begin() {
	if s.entry.State == outbox.Pending {
		s.accepted = append(s.accepted, s.record)
		s.underWay = append(s.underWay, outbox.Delivery{Revision: s.entry.Revision})
	}
}

// answer takes in the oldest answer.
func (s *site) answer() {
	if len(s.underWay) > 0 {
		s.entry.Sent(s.underWay[0], siteTime)
		s.underWay = s.underWay[1:]
	}
}

func (s *site) send() {
	if s.entry.State == outbox.Pending {
		s.accepted = append(s.accepted, s.record)
		s.entry.Sent(outbox.Delivery{Revision: s.entry.Revision}, siteTime)
	}
}

// look reads the service's lists and takes them in; meanwhile the service
// loads up to n more.
func (s *site) look(meanwhile int) {
	loaded, loadedAt := s.loaded, s.loadedAt
	for range meanwhile {
		s.load()
	}
	if loaded != nil {
		s.entry.Confirm(loadedRecord(loaded, loadedAt), 0)
	}
	for _, f := range s.failed {
		s.entry.Fail(f)
	}
}

func (s *site) settle() {
	s.send()
	for len(s.accepted) > 0 {
		s.load()
	}
	s.look(0)
}

// TestProgressTellsTheTruth plays one identity against a model of the service,
// in any order of reading, sending with and without an answer, loading,
// failing, looking and retrying. When all has come to rest, an entry that is
// loaded is what the service holds; and when nothing is broken any more, all
// is loaded after what a person would do: retry what is not.
func TestProgressTellsTheTruth(t *testing.T) {
	contents := []amieusage.Record{job(t, "a", "10"), job(t, "b", "10"), job(t, "c", "20")}
	rapid.Check(t, func(rt *rapid.T) {
		content := rapid.SampledFrom(contents)
		first := content.Draw(rt, "first")
		s := &site{entry: read(t, first), record: first, service: service{
			broken:     map[amieusage.Digest]bool{},
			supersedes: rapid.Bool().Draw(rt, "supersedes"),
			now:        serviceTime,
		}}
		rt.Repeat(map[string]func(*rapid.T){
			"read": func(rt *rapid.T) {
				s.record = content.Draw(rt, "content")
				s.entry.Revise(read(t, s.record))
			},
			"send":        func(*rapid.T) { s.send() },
			"begin":       func(*rapid.T) { s.begin() },
			"answer":      func(*rapid.T) { s.answer() },
			"send, reset": func(*rapid.T) { s.accepted = append(s.accepted, s.record) },
			"reject": func(*rapid.T) {
				s.entry.Sent(outbox.Delivery{Revision: s.entry.Revision, Rejected: true, Reason: "not now"}, siteTime)
			},
			"load": func(*rapid.T) { s.load() },
			"look": func(rt *rapid.T) {
				// The agent looks when all that it has sent is answered.
				if n := rapid.IntRange(0, 3).Draw(rt, "meanwhile"); len(s.underWay) == 0 {
					s.look(n)
				}
			},
			"retry": func(*rapid.T) { s.entry.Retry() },
			"clear": func(*rapid.T) {
				// Of a failure that is cleared before the site saw it nothing
				// can be known.
				s.failed = slices.DeleteFunc(s.failed, func(f amieusage.FailedRecord) bool {
					return f.FailedRecordID <= s.entry.FailedRecordID
				})
			},
			"break": func(rt *rapid.T) {
				d := amieusage.ContentDigest(content.Draw(rt, "content"))
				s.broken[d] = !s.broken[d]
			},
			"": func(rt *rapid.T) {
				if s.entry.Digest != amieusage.ContentDigest(s.record) {
					rt.Fatal("the entry is not of the newest content")
				}
			},
		})
		for len(s.underWay) > 0 {
			s.answer()
		}
		s.settle()
		if s.entry.State == outbox.Pending {
			rt.Fatal("nothing was sent")
		}
		if s.entry.State == outbox.Loaded && !s.holds(s.record) {
			rt.Fatalf("loaded, but the service holds %v", s.loaded)
		}
		clear(s.broken)
		for range 2 {
			if s.entry.State != outbox.Loaded {
				s.entry.Retry()
			}
			s.settle()
		}
		if s.entry.State != outbox.Loaded || !s.holds(s.record) {
			rt.Fatalf("%s after retry, and the service holds %v", s.entry.State, s.loaded)
		}
	})
}

// TestServiceModel holds the model to what it is to do.
func TestServiceModel(t *testing.T) {
	a, b := job(t, "a", "10"), job(t, "b", "10")
	s := service{broken: map[amieusage.Digest]bool{amieusage.ContentDigest(b): true}, now: serviceTime, supersedes: true}
	s.accepted = slices.Repeat([]amieusage.Record{a, b}, 2)
	for range 2 {
		s.load()
	}
	if !s.holds(a) || len(s.failed) != 1 {
		t.Fatalf("holds %v, failed %v", s.loaded, s.failed)
	}
	at := s.loadedAt
	s.load()
	if !s.loadedAt.Equal(at) || len(s.failed) != 0 {
		t.Errorf("equal content was loaded again at %v, failed %v", s.loadedAt, s.failed)
	}
}
