package storetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// TestArchive holds a Store that is a [ledger.Archivable] to its contract; open
// is as that of [TestStore].
func TestArchive(t *testing.T, open func(t *testing.T) (replica func() ledger.Store)) {
	for name, test := range map[string]func(m *archiveModel){
		"Totals":      testArchiveTotals,
		"Sites":       testArchiveSites,
		"Interrupted": testArchiveInterrupted,
		"Refused":     testArchiveRefused,
		"OtherFiles":  testArchiveOtherFiles,
		"Restored":    testArchiveRestored,
		"Twice":       testArchiveTwice,
		"RawRecords":  testArchiveRawRecords,
		"Large":       testArchiveLarge,
		"Concurrent":  testArchiveConcurrent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newArchiveModel(newStoreModel(t, open(t), ledger.Strict), t.TempDir())
			m.storeModel.replicas(2)
			test(m)
			m.storeModel.check()
		})
	}
	t.Run("Model", func(t *testing.T) {
		t.Parallel()
		testArchiveModel(t, open(t))
	})
}

// An archiveModel is a storeModel that knows what archives hold.
type archiveModel struct {
	*storeModel
	folder    string
	histories map[*modelSite]*archiveHistory
}

// An archiveHistory is what a site has sent, and what is archived of it.
type archiveHistory struct {
	sent     [][]modelRecord
	archived int                  // the first so many batches
	lines    []ledger.ArchiveLine // of these, with the batches numbered from 0
	removed  map[amieusage.Identity]int
}

// archiveRecords is about how many records the tests' archives hold.
const archiveRecords = 5

func newArchiveModel(m *storeModel, folder string) *archiveModel {
	return &archiveModel{storeModel: m, folder: folder, histories: map[*modelSite]*archiveHistory{}}
}

// send sends records of one kind, and notes them.
func (m *archiveModel) send(s *modelSite, records ...amieusage.Record) {
	m.t.Helper()
	m.sendItems(s, records[0].UsageType(), itemsOf(records))
}

func (m *archiveModel) sendItems(s *modelSite, kind amieusage.UsageType, items []json.RawMessage) {
	m.t.Helper()
	if m.histories[s] == nil {
		m.histories[s] = &archiveHistory{removed: map[amieusage.Identity]int{}}
	}
	queued := len(s.queue)
	m.storeModel.sendItems(s, kind, items)
	m.histories[s].sent = append(m.histories[s].sent, s.queue[queued:]...)
}

// expect notes that the site's batches from before a time are archived now.
func (m *archiveModel) expect(s *modelSite, before time.Time) {
	h := m.histories[s]
	loaded := h.sent[:len(h.sent)-len(s.queue)]
	revisions, failed := map[amieusage.Identity]int{}, 0
	until := h.archived
	for batch, records := range loaded {
		if batch == until && records[0].acceptedAt.Before(before) {
			until++
		}
		for ordinal, r := range records {
			line := ledger.ArchiveLine{
				Site: s.name, Batch: int64(batch), Ordinal: ordinal, AcceptedAt: r.acceptedAt, KeyID: r.keyID,
				UsageType: r.UsageType(), Outcome: "unchanged", Record: r.raw,
			}
			id := r.Identity()
			n := revisions[id]
			if e := s.entries[id]; e != nil && n < len(e.revisions) && e.revisions[n].Record == r.Record {
				n++
				revisions[id] = n
				charge := amieusage.ChargeOfMillionths(millionths(r)).String()
				line.Outcome, line.Revision, line.Newest = "loaded", new(int64(n)), new(n == len(e.revisions))
				line.LoadedAt, line.Charge = &e.revisions[n-1].loadedAt, &charge
			} else if failed < len(s.failed) && s.failed[failed].record.Record == r.Record {
				line.Outcome, line.FailedID, line.Reason = "failed", new(int64(0)), new(string(s.failed[failed].failure))
				failed++
			}
			if batch < h.archived || batch >= until {
				continue
			}
			h.lines = append(h.lines, line)
			if line.Outcome == "loaded" && !*line.Newest {
				h.removed[id] = n
			}
		}
	}
	h.archived = until
}

// archive archives what the site has sent before a time, on any replica, and
// checks that the ledger is as before and all archives are what they should be.
func (m *archiveModel) archive(s *modelSite, before time.Time) []ledger.Archived {
	m.t.Helper()
	h := m.histories[s]
	batches, records := h.archived, len(h.lines)
	m.expect(s, before)
	m.move()
	archived, err := m.run(m.store.(ledger.Archivable), s.name, before)
	m.noError(err)
	var sum ledger.Archived
	for _, a := range archived {
		sum.Batches += a.Batches
		sum.Records += a.Records
		info, err := os.Stat(filepath.Join(m.folder, a.File))
		m.noError(err)
		m.equal("bytes", info.Size(), a.Bytes)
	}
	m.equal("archived", ledger.Archived{Batches: int64(h.archived - batches), Records: int64(len(h.lines) - records)}, sum)
	m.checkArchives(s)
	return archived
}

// run archives, and returns what it was told.
func (m *archiveModel) run(store ledger.Archivable, site string, before time.Time) (archived []ledger.Archived, err error) {
	err = ledger.Archive(context.Background(), store, ledger.Archiving{
		Folder: m.folder, Before: before, Site: site, MaxRecords: archiveRecords,
		Done: func(a ledger.Archived) { archived = append(archived, a) },
	}, m.now)
	return archived, err
}

// testArchiveLarge has few records that take much: they are not all read at
// once, and all are archived.
func testArchiveLarge(m *archiveModel) {
	const size, batches = 1_000_000, 20
	s := m.site("PSC")
	for range batches {
		m.noError(m.store.Accept(context.Background(), &ledger.Batch{
			Site: s.who.Site, KeyID: s.who.KeyID, UsageType: amieusage.Compute, AcceptedAt: m.now,
			Records: [][]byte{bytes.Repeat([]byte("x"), size)},
		}, 1000))
	}
	for m.tick(); m.whenFree(m.service.LoadSome).Batches > 0; m.tick() {
	}
	store := m.store.(ledger.Archivable)
	old, err := store.OldBatches(context.Background(), s.who.Site, 0, m.now, 4000)
	m.noError(err)
	if len(old) == 0 || len(old) > ledger.MaxLoadBytes/size+1 {
		m.t.Errorf("%d batches of %d bytes were read at once", len(old), size)
	}
	sum := int64(0)
	m.noError(ledger.Archive(context.Background(), store, ledger.Archiving{
		Folder: m.folder, Before: m.now, Done: func(a ledger.Archived) { sum += a.Records },
	}, m.now))
	m.equal("records archived", int64(batches), sum)
	m.verify()
	m.sites = nil // the model has nothing of it
}

// checkArchives compares the archives of a site, and what is left of its
// records in the ledger.
func (m *archiveModel) checkArchives(s *modelSite) {
	m.t.Helper()
	h := m.histories[s]
	files := map[int64]string{}
	var lines []ledger.ArchiveLine
	for name, inFile := range m.files() {
		for _, l := range inFile {
			if l.Site == s.name {
				lines = append(lines, l)
				files[l.Batch] = name
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b ledger.ArchiveLine) int {
		return cmp.Or(cmp.Compare(a.Batch, b.Batch), cmp.Compare(a.Ordinal, b.Ordinal))
	})
	number, last := int64(-1), int64(0)
	archiveOf := map[time.Time]string{}
	for i := range lines {
		l := &lines[i]
		if l.Batch > last {
			number, last = number+1, l.Batch
		}
		archiveOf[l.AcceptedAt] = files[l.Batch]
		l.Batch = number
		if l.FailedID != nil {
			if *l.FailedID <= 0 {
				m.t.Errorf("FailedRecordID %d", *l.FailedID)
			}
			l.FailedID = new(int64(0))
		}
	}
	m.equal("lines of "+s.name, h.lines, lines, asText)
	for id, e := range s.entries {
		got, err := m.store.Revisions(context.Background(), s.who.Site, id)
		m.noError(err)
		var want []ledger.Revision
		for i, r := range e.revisions {
			if i < h.removed[id] {
				continue
			}
			v := ledger.Revision{
				Number: i + 1, Charge: amieusage.ChargeOfMillionths(millionths(r)), AcceptedAt: r.acceptedAt, LoadedAt: r.loadedAt,
				KeyID: r.keyID, Archive: archiveOf[r.acceptedAt],
			}
			if v.Archive == "" {
				v.Record = r.AppendJSON(nil)
			}
			want = append(want, v)
		}
		m.equal("revisions of "+identityText(e.newest()), want, got, asText)
	}
}

// files reads all archives in the folder.
func (m *archiveModel) files() map[string][]ledger.ArchiveLine {
	m.t.Helper()
	names, err := filepath.Glob(filepath.Join(m.folder, "*"))
	m.noError(err)
	files := map[string][]ledger.ArchiveLine{}
	for _, name := range names {
		if base := filepath.Base(name); base[0] != '.' {
			files[base] = m.readFile(name)
		}
	}
	return files
}

// readFile reads an archive as any program would: every line is a JSON object
// of all the members.
func (m *archiveModel) readFile(name string) (lines []ledger.ArchiveLine) {
	m.t.Helper()
	file, err := os.Open(name)
	m.noError(err)
	defer file.Close()
	plain, err := gzip.NewReader(file)
	m.noError(err)
	data, err := io.ReadAll(plain)
	m.noError(err)
	for line := range slices.Values(splitLines(data)) {
		var members map[string]json.RawMessage
		m.noError(json.Unmarshal(line, &members))
		m.equal("members", 14, len(members))
		var l ledger.ArchiveLine
		m.noError(json.Unmarshal(line, &l))
		lines = append(lines, l)
	}
	return lines
}

// splitLines returns the lines of data; the last one, too, must have its end.
func splitLines(data []byte) (lines [][]byte) {
	for len(data) > 0 {
		end := slices.Index(data, '\n')
		lines = append(lines, data[:end])
		data = data[end+1:]
	}
	return lines
}

// errInjected is what a faulty store fails with.
var errInjected = errors.New("injected")

// A faulty store fails at one of the calls of an archive, before it or behind.
type faulty struct {
	ledger.Archivable
	nth    int // from 1
	behind bool
}

func (f *faulty) fails(call func() error) error {
	f.nth--
	if f.nth == 0 && !f.behind {
		return errInjected
	}
	if err := call(); err != nil || f.nth != 0 {
		return err
	}
	return errInjected
}

func (f *faulty) OldBatches(ctx context.Context, site ledger.SiteID, after int64, before time.Time, maxRecords int) (old ledger.OldBatches, err error) {
	return old, f.fails(func() error {
		old, err = f.Archivable.OldBatches(ctx, site, after, before, maxRecords)
		return err
	})
}

func (f *faulty) SetArchived(ctx context.Context, site ledger.SiteID, file string, batches []int64, replaced []ledger.RevisionKey) (removed int64, err error) {
	return removed, f.fails(func() error {
		removed, err = f.Archivable.SetArchived(ctx, site, file, batches, replaced)
		return err
	})
}

// A forgetful store does not record what is archived.
type forgetful struct{ ledger.Archivable }

func (*forgetful) SetArchived(context.Context, ledger.SiteID, string, []int64, []ledger.RevisionKey) (int64, error) {
	return 0, nil
}

// An overtaken store has something else done before it records an archive.
type overtaken struct {
	ledger.Archivable
	before func()
}

func (o *overtaken) SetArchived(ctx context.Context, site ledger.SiteID, file string, batches []int64, replaced []ledger.RevisionKey) (int64, error) {
	o.before()
	return o.Archivable.SetArchived(ctx, site, file, batches, replaced)
}
