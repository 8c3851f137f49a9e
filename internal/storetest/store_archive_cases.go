package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// sendVariety sends six batches with all outcomes, and loads them.
func (m *archiveModel) sendVariety(s *modelSite) {
	m.t.Helper()
	eve := func(r *amieusage.ComputeRecord) { r.Username = "eve" }
	m.send(s, job("1", "10"), job("2", "2.5"), job("3", "1", eve))
	m.send(s, job("1", "11"), job("1", "11"), job("2", "2.50"), job("1", "12"))
	m.load()
	m.send(s, adjustment(amieusage.Refund, "a", "0.25"), adjustment(amieusage.Refund, "a", "0.5"))
	m.send(s, job("3", "1", eve), job("4", "4"))
	m.send(s, job("4", "5", named(`<&> "\`)))
	m.send(s, job("1", "13"))
	m.load()
}

// testArchiveTotals archives in two steps: all that can be seen stays as it
// was, what is sent again counts once, and corrections go on.
func testArchiveTotals(m *archiveModel) {
	s, other := m.site("PSC"), m.site("SDSC")
	m.sendVariety(s)
	m.sendVariety(other)
	h := m.histories[s]
	m.equal("archives", 0, len(m.archive(s, h.sent[0][0].acceptedAt)))
	first := m.archive(s, h.sent[4][0].acceptedAt)
	m.check()
	m.equal("archives", 2, len(first))
	for i, a := range first {
		if !strings.HasPrefix(a.File, "PSC-") || !strings.HasSuffix(a.File, ".jsonl.gz") || i > 0 && a.File <= first[i-1].File {
			m.t.Errorf("archive %d is %q", i, a.File)
		}
	}
	// Of job 1 three, of the adjustment and of job 4 one.
	m.equal("revisions removed", int64(5), first[0].Revisions+first[1].Revisions)
	m.send(s, job("5", "1")) // queued: not archived
	m.archive(s, m.now)
	m.check()
	m.equal("archived batches", 6, h.archived)
	m.equal("archives of what is archived", 0, len(m.archive(s, m.now)))
	m.load()

	m.send(s, job("1", "13"), job("2", "2.5"), job("4", "5", named(`<&> "\`)))
	m.equal("unchanged", 3, m.loadSome().Unchanged)
	m.check()
	m.send(s, job("1", "14"), job("2", "3"))
	m.send(s, job("1", "15"))
	m.load()
	m.check()
	m.checkArchives(s)
	m.archive(s, m.now)
	m.check()
	m.archive(other, m.now)
}

// testArchiveSites has names of sites that files cannot have.
func testArchiveSites(m *archiveModel) {
	long := strings.Repeat("x/", 120)
	for _, name := range []string{"PSC", "..", "a/b", "_hidden", ".hidden", "-option", "two words", "é%41", long + "1", long + "2"} {
		s := m.site(name)
		m.send(s, job("1", "1"), job("1", "2"))
	}
	m.load()
	m.archive(m.sites[2], m.now)
	m.equal("archives of one site", 1, len(m.files()))
	for _, s := range m.sites {
		if s != m.sites[2] {
			m.expect(s, m.now)
		}
	}
	// The first site cannot be archived, which holds up no other.
	archived, err := m.run(&faulty{m.store.(ledger.Archivable), 1, false}, "", m.now)
	m.equal("stopped by what was injected", true, errors.Is(err, errInjected))
	m.equal("archives", len(m.sites)-2, len(archived))
	archived, err = m.run(m.store.(ledger.Archivable), "", m.now)
	m.noError(err)
	m.equal("archives of the rest", 1, len(archived))
	m.equal("files that can be seen", len(m.sites), len(m.files()))
	for _, s := range m.sites {
		m.checkArchives(s)
	}
	_, err = m.run(m.store.(ledger.Archivable), "nowhere", m.now)
	m.hasCode(err, amieusage.CodeNotFound)
}

// testArchiveInterrupted fails at each call of the store, before it and behind
// it. What is in the ledger and in files is whole at each moment; the next run
// goes on.
func testArchiveInterrupted(m *archiveModel) {
	s := m.site("PSC")
	for nth := 1; ; nth++ {
		survived := 0
		for _, behind := range []bool{false, true} {
			m.sendVariety(s)
			m.send(s, job("1", fmt.Sprint(nth)), job("2", fmt.Sprint(nth, ".", 5)))
			m.load()
			_, err := m.run(&faulty{m.store.(ledger.Archivable), nth, behind}, "PSC", m.now)
			if err == nil {
				survived++
			} else if !errors.Is(err, errInjected) {
				m.t.Fatal(err)
			}
			m.verify()
			m.noTemporary()
			m.archiveRest(s)
		}
		if survived == 2 {
			m.equal("interrupted", true, nth > 5)
			return
		}
	}
}

// archiveRest goes on after an archive that was interrupted.
func (m *archiveModel) archiveRest(s *modelSite) {
	m.t.Helper()
	m.expect(s, m.now)
	_, err := m.run(m.store.(ledger.Archivable), s.name, m.now)
	m.noError(err)
	m.checkArchives(s)
}

// noTemporary checks that no unfinished file is left.
func (m *archiveModel) noTemporary() {
	m.t.Helper()
	left, err := filepath.Glob(filepath.Join(m.folder, ".*.tmp"))
	m.noError(err)
	m.equal("temporary files", 0, len(left))
}

// testArchiveRefused refuses what would not go well; nothing changes.
func testArchiveRefused(m *archiveModel) {
	s := m.site("PSC")
	m.sendVariety(s)
	folder := m.folder
	_, err := m.run(m.store.(ledger.Archivable), "", m.now.Add(1))
	m.hasCode(err, amieusage.CodeInvalid)
	m.folder = filepath.Join(folder, "missing")
	_, err = m.run(m.store.(ledger.Archivable), "", m.now)
	m.hasCode(err, amieusage.CodeInvalid)
	m.folder = filepath.Join(folder, "file")
	m.noError(os.WriteFile(m.folder, nil, 0o600))
	_, err = m.run(m.store.(ledger.Archivable), "", m.now)
	m.hasCode(err, amieusage.CodeInvalid)
	m.noError(os.Remove(m.folder))
	m.folder = folder
	m.equal("files", 0, len(m.files()))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = ledger.Archive(ctx, m.store.(ledger.Archivable), ledger.Archiving{Folder: folder, Before: m.now}, m.now)
	if !errors.Is(err, context.Canceled) {
		m.t.Errorf("with an ended context: %v", err)
	}
	busy := 0
	err = ledger.Archive(context.Background(), m.store.(ledger.Archivable), ledger.Archiving{
		Folder: folder, Before: m.now, MaxRecords: archiveRecords,
		Done: func(ledger.Archived) {
			_, err := m.run(m.stores[1].(ledger.Archivable), "", m.now)
			m.hasCode(err, amieusage.CodeConflict)
			busy++
		},
	}, m.now)
	m.noError(err)
	m.equal("archives", 3, busy)
	m.expect(s, m.now)
	m.checkArchives(s)
}

// testArchiveOtherFiles finds files in the way.
func testArchiveOtherFiles(m *archiveModel) {
	s := m.site("PSC")
	m.sendVariety(s)
	h := m.histories[s]
	store := m.store.(ledger.Archivable)
	early := h.sent[1][0].acceptedAt
	// A run with a later date was interrupted: its file holds more.
	_, err := m.run(&faulty{Archivable: store, nth: 2}, "PSC", m.now)
	if !errors.Is(err, errInjected) {
		m.t.Fatal(err)
	}
	var name string
	for name = range m.files() {
	}
	path := filepath.Join(m.folder, name)
	before, err := os.ReadFile(path)
	m.noError(err)
	_, err = m.run(store, "PSC", early)
	m.hasCode(err, amieusage.CodeConflict)
	after, err := os.ReadFile(path)
	m.noError(err)
	m.equal("the file", true, bytes.Equal(before, after))
	m.noTemporary()

	// What is no archive, and what is one that was cut off.
	for _, content := range [][]byte{[]byte("precious"), before[:len(before)-9], nil} {
		m.noError(os.WriteFile(path, content, 0o600))
		_, err = m.run(store, "PSC", m.now)
		m.hasCode(err, amieusage.CodeConflict)
		after, err := os.ReadFile(path)
		m.noError(err)
		m.equal("the file", string(content), string(after))
	}
	m.noTemporary()
	m.noError(os.Remove(path))

	// A folder where the temporary file would be, and where the final one would.
	for _, folder := range []string{filepath.Join(m.folder, "."+name+".tmp"), path} {
		m.noError(os.Mkdir(folder, 0o700))
		if _, err = m.run(store, "PSC", m.now); err == nil {
			m.t.Errorf("archived over the folder %s", folder)
		}
		m.noError(os.Remove(folder))
	}
	// A temporary file of a run that was killed.
	m.noError(os.WriteFile(filepath.Join(m.folder, "."+name+".tmp"), before[:20], 0o600))
	m.archive(s, m.now)
	m.noTemporary()
	info, err := os.Stat(path)
	m.noError(err)
	m.equal("mode", os.FileMode(0o600), info.Mode())
}

// testArchiveRestored archives again what was archived before the ledger was
// restored from a backup: no two files hold the same record.
func testArchiveRestored(m *archiveModel) {
	s := m.site("PSC")
	m.sendVariety(s)
	h := m.histories[s]
	files := m.folder
	var names []string
	// What is not recorded in the ledger is as good as restored.
	forgetful := &forgetful{Archivable: m.store.(ledger.Archivable)}
	err := ledger.Archive(context.Background(), forgetful, ledger.Archiving{
		Folder: files, Before: h.sent[4][0].acceptedAt, MaxRecords: archiveRecords,
		Done: func(a ledger.Archived) { names = append(names, a.File) },
	}, m.now)
	m.noError(err)
	m.equal("archives", 2, len(names))
	archived := m.archive(s, m.now)
	for i, name := range names {
		m.equal("archive", name, archived[i].File)
	}
}

// testArchiveTwice has another program archive the same at the same time, into
// another folder: it changes nothing in the ledger.
func testArchiveTwice(m *archiveModel) {
	s := m.site("PSC")
	m.sendVariety(s)
	folder := m.folder
	store := m.stores[0].(ledger.Archivable)
	m.noError(os.Mkdir(filepath.Join(folder, ".other"), 0o700))
	m.folder = filepath.Join(folder, ".other")
	_, err := m.run(&overtaken{store, func() {
		m.folder = folder
		m.archive(s, m.histories[s].sent[2][0].acceptedAt)
	}}, "PSC", m.now)
	m.hasCode(err, amieusage.CodeConflict)
	m.folder = folder
	m.check()
	m.checkArchives(s)
	m.archive(s, m.now)
}

// testArchiveRawRecords archives records as they were sent: in the words of
// who sent them, but for white space; and what is no JSON.
func testArchiveRawRecords(m *archiveModel) {
	s := m.site("PSC")
	pretty := "{\n  \"Charge\": 1.50e0,\r\n\t\"LocalRecordID\": \"<1>\"}"
	m.noError(m.store.Accept(context.Background(), &ledger.Batch{
		Site: s.who.Site, KeyID: s.who.KeyID, UsageType: amieusage.Compute, AcceptedAt: m.now,
		Records: [][]byte{[]byte(pretty), []byte("[\n"), job("1", "1").AppendJSON(nil)},
	}, 1000))
	m.tick()
	m.whenFree(m.service.LoadSome)
	archived, err := m.run(m.store.(ledger.Archivable), "", m.now)
	m.noError(err)
	m.equal("archives", 1, len(archived))
	lines := m.files()[archived[0].File]
	for i, want := range []struct{ outcome, record string }{
		{"failed", `{"Charge":1.50e0,"LocalRecordID":"<1>"}`},
		{"failed", `"[\n"`},
		{"loaded", string(job("1", "1").AppendJSON(nil))},
	} {
		m.equal("outcome", want.outcome, lines[i].Outcome)
		m.equal("record", json.RawMessage(want.record), lines[i].Record, asText)
	}
	m.verify()
	m.sites = nil // the model has nothing of it
}

// testArchiveConcurrent archives again and again while other replicas accept,
// correct and load. In the end every record that was accepted is in the
// archives, once, and each revision once.
func testArchiveConcurrent(m *archiveModel) {
	const senders, messages, perMessage, identities = 2, 25, 4, 20
	s := m.site("PSC")
	stores := m.replicas(2)
	var over sync.WaitGroup
	done := make(chan struct{})
	m.tick()
	now := m.now.Add(time.Hour)
	archive := func() {
		err := ledger.Archive(context.Background(), stores[1].(ledger.Archivable), ledger.Archiving{
			Folder: m.folder, Before: now, MaxRecords: 20, Done: func(ledger.Archived) {},
		}, now)
		if err != nil {
			m.t.Errorf("archive: %v", err)
		}
	}
	over.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				archive()
			}
		}
	})
	m.loadWhile(stores, s, 10, onlyKnown{}, func() {
		var group sync.WaitGroup
		for sender := range senders {
			group.Go(func() {
				for i := range messages {
					var records []amieusage.Record
					for n := range perMessage {
						id := fmt.Sprint((i*perMessage + n*sender) % identities)
						records = append(records, job(id, fmt.Sprint(sender*messages+i+1)))
					}
					if err := stores[sender%2].Accept(context.Background(), m.batch(s, records...), 1_000_000); err != nil {
						m.t.Errorf("accept: %v", err)
					}
				}
			})
		}
		group.Wait()
	})
	close(done)
	over.Wait()
	archive()
	m.verify()

	type place struct {
		batch   int64
		ordinal int
	}
	type revision struct {
		id string
		n  int64
	}
	places, revisions := map[place]bool{}, map[revision]bool{}
	for _, lines := range m.files() {
		for _, l := range lines {
			at := place{l.Batch, l.Ordinal}
			if places[at] {
				m.t.Errorf("record %v is archived twice", at)
			}
			places[at] = true
			if l.Outcome == "loaded" {
				var r struct{ LocalRecordID string }
				m.noError(json.Unmarshal(l.Record, &r))
				revisions[revision{r.LocalRecordID, *l.Revision}] = true
			}
		}
	}
	m.equal("records", senders*messages*perMessage, len(places))
	want := 0
	for id := range identities {
		got, err := m.store.Revisions(context.Background(), s.who.Site, job(fmt.Sprint(id), "1").Identity())
		m.noError(err)
		want += got[len(got)-1].Number
	}
	m.equal("revisions", want, len(revisions))
	m.sites = nil // the model has nothing of it
}

// testArchiveModel sends, loads, clears and archives in any order, cut off or
// not, and compares what is in archives and what is left.
func testArchiveModel(t *testing.T, open func() ledger.Store) {
	stores := []ledger.Store{open(), open()}
	now := storeEpoch
	CheckModel(t, 30, func(rt *rapid.T, check int) {
		folder, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		m := newArchiveModel(newStoreModel(rt, func() ledger.Store { return stores[0] }, ledger.Strict), folder)
		m.stores = stores
		m.now = now // the stores remember when they last looked for what is queued
		defer func() { now = m.now }()
		m.pick = func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "pick") }
		for m.whenFree(m.service.LoadSome).Batches > 0 { // what a check that failed has left
		}
		for _, name := range []string{"PSC", "SDSC"} {
			m.send(m.site(fmt.Sprint(name, check)), job("0", "1"))
		}
		steps := map[string]func(*rapid.T){
			"": func(*rapid.T) {
				m.glance()
			},
			"send": func(*rapid.T) {
				s := m.someSite()
				kind, items := m.someItems(s)
				m.sendItems(s, kind, items)
			},
			"send again": func(*rapid.T) {
				s := m.someSite()
				var records []amieusage.Record
				for _, r := range m.histories[s].sent[m.pick(len(m.histories[s].sent))] {
					records = append(records, r.Record)
				}
				m.send(s, records...)
			},
			"load":  func(*rapid.T) { m.loadSome() },
			"clear": func(*rapid.T) { m.clearSome(m.someSite()) },
			"archive": func(*rapid.T) {
				s := m.someSite()
				m.archive(s, m.someDate(s))
			},
			"archive, cut off": func(*rapid.T) {
				s := m.someSite()
				before := m.someDate(s)
				_, err := m.run(&faulty{m.store.(ledger.Archivable), 1 + m.pick(6), m.pick(2) == 0}, s.name, before)
				if err != nil && !errors.Is(err, errInjected) {
					m.noError(err)
				}
				m.expect(s, before)
				_, err = m.run(m.store.(ledger.Archivable), s.name, before)
				m.noError(err)
				m.checkArchives(s)
			},
		}
		for name, step := range steps {
			steps[name] = func(rt *rapid.T) {
				m.move()
				step(rt)
			}
		}
		rt.Repeat(steps)
		m.load()
		for _, s := range m.sites {
			m.archive(s, m.now)
		}
		m.compare()
		if check%10 == 0 {
			m.verify()
		}
	})
}

// someDate picks a time before which something was sent, or now.
func (m *archiveModel) someDate(s *modelSite) time.Time {
	sent := m.histories[s].sent
	i := m.pick(len(sent) + 1)
	if i == len(sent) {
		return m.now
	}
	return sent[i][0].acceptedAt
}
