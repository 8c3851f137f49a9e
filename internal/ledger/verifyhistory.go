package ledger

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/amieusage/amieusage"
)

// A history is what the rows say about one identity: revisions in order of
// their places in the log, the newest one among them.
type history struct {
	newest    *Entry // nil: there is no record
	revisions []*Entry
}

// A logPlace is the place of a content in the log of a site.
type logPlace struct{ batch, ordinal int64 }

func (e *Entry) place() logPlace { return logPlace{e.Batch, e.Ordinal} }

func (a logPlace) compare(b logPlace) int {
	return cmp.Or(cmp.Compare(a.batch, b.batch), cmp.Compare(a.ordinal, b.ordinal))
}

// verify holds the rows that are about some contents against them.
func (p *contentsPass) verify(ctx context.Context, chunk []*content) error {
	first, last := chunk[0].ID, chunk[len(chunk)-1].ID
	histories, err := p.histories(ctx, chunk, first, last)
	if err != nil {
		return err
	}
	rows, err := p.Failed(ctx, first, last)
	if err != nil {
		return err
	}
	failed := make(map[logPlace]*FailedRow, len(rows))
	for _, f := range rows {
		at := logPlace{f.Batch, f.Ordinal}
		if failed[at] != nil {
			p.find(Finding{Check: "contents of failed records", Text: fmt.Sprintf("failed records %d and %d are of the same content", failed[at].ID, f.ID)})
		}
		failed[at] = f
	}
	repeated := map[EntryKey]*content{}
	for _, c := range chunk {
		at := logPlace{c.ID, c.ordinal}
		if f := p.unproven[c.key]; f != nil && at.compare(logPlace{f.Batch, f.Ordinal}) > 0 {
			delete(p.unproven, c.key)
		}
		h := histories[c.key]
		// The first revision at or behind the content.
		i, isRevision := slices.BinarySearchFunc(h.revisions, at, func(e *Entry, at logPlace) int { return e.place().compare(at) })
		var before *Entry
		if i > 0 {
			before = h.revisions[i-1]
		}
		switch f := failed[at]; {
		case f != nil && isRevision:
			p.different(c, "contents of failed records", "", "failed record %d has failed, and is revision %d as well", f.ID, h.revisions[i].Revision)
		case f != nil:
			p.site.Failed++
			if f.EntryKey != c.key || !bytes.Equal(f.Raw, c.raw) {
				p.different(c, "contents of failed records", "", "failed record %d is another one", f.ID)
			}
		case isRevision:
			err = p.verifyRevision(ctx, c, h, before, h.revisions[i])
		default:
			err = p.verifyRepeated(ctx, c, h, before)
			repeated[c.key] = c
		}
		if err != nil {
			return err
		}
	}
	return p.verifyOpen(ctx, repeated)
}

// histories returns what the rows say about the identities of the contents.
func (p *contentsPass) histories(ctx context.Context, chunk []*content, first, last int64) (map[EntryKey]*history, error) {
	histories := make(map[EntryKey]*history, len(chunk))
	keys := make([]EntryKey, 0, len(chunk))
	for _, c := range chunk {
		if histories[c.key] == nil {
			histories[c.key] = new(history)
			if c.known {
				keys = append(keys, c.key)
			}
		}
	}
	entries, err := p.Entries(ctx, keys)
	if err != nil {
		return nil, err
	}
	byRecord := map[int64]*history{}
	var corrected []int64
	for _, e := range entries {
		h := histories[e.EntryKey]
		h.newest, h.revisions = e, []*Entry{e}
		if e.Revision > 1 {
			byRecord[e.Record] = h
			corrected = append(corrected, e.Record)
		}
	}
	if len(corrected) == 0 {
		return histories, nil
	}
	replaced, err := p.Replaced(ctx, corrected, first, last)
	if err != nil {
		return nil, err
	}
	for _, e := range replaced {
		h := byRecord[e.Record]
		h.revisions = append(h.revisions, e)
	}
	for _, h := range byRecord {
		slices.SortFunc(h.revisions, func(a, b *Entry) int {
			return cmp.Or(a.place().compare(b.place()), cmp.Compare(a.Revision, b.Revision))
		})
	}
	return histories, nil
}

// different finds that something about a content differs.
func (p *contentsPass) different(c *content, check, remedy, format string, args ...any) {
	p.find(Finding{Check: check, Remedy: remedy, Record: fmt.Sprintf("%v (record %d of batch %d)", c.Record, c.ordinal+1, c.ID),
		Text: fmt.Sprintf(format, args...)})
}

// verifyRevision holds a revision that says it is of a content against it.
func (p *contentsPass) verifyRevision(ctx context.Context, c *content, h *history, before, e *Entry) error {
	newest := e == h.newest
	switch {
	case c.Failure != "":
		p.site.Unread++
	case newest:
		p.site.Newest++
		p.addCharge(e)
	default:
		p.site.Replaced++
	}
	if newest {
		p.claimedRecords++
	} else {
		p.claimedRevisions++
	}
	switch {
	case before == nil && e.Revision > 1 && p.archived == 0,
		before != nil && before.Revision >= e.Revision:
		p.different(c, "order of revisions", "", "is revision %d of record %d, which is in no order of acceptance", e.Revision, e.Record)
	}
	if c.Failure != "" {
		return nil // this program cannot say what it holds
	}
	var digest [DigestBytes]byte
	copy(digest[:], c.Digest[:])
	var differs []string
	differ := func(column string, differ bool) {
		if differ {
			differs = append(differs, column)
		}
	}
	differ("charge", e.Charge != c.Charge)
	if newest {
		common := c.Record.Common()
		project := p.registry.Projects[common.LocalProjectID]
		differ("content", e.Digest != digest)
		differ("gives back", e.GivesBack != c.GivesBack)
		differ("time of usage", e.UsageTime != Nanos(c.Record.UsageTime()))
		differ("project", project == nil || project.ID != e.Project)
		user, known := p.registry.Users[common.Username]
		differ("user", !known || user != e.User)
	} else {
		if len(p.digests) >= verifyDigests {
			clear(p.digests)
		}
		p.digests[RevisionKey{e.Record, e.Revision}] = digest
	}
	if len(differs) > 0 {
		p.different(c, "contents of records", "", "revision %d of record %d has another %s", e.Revision, e.Record, strings.Join(differs, ", "))
	}
	if before == nil {
		return nil
	}
	was, known, err := p.digestOf(ctx, h, before)
	if known && was == digest {
		p.different(c, "order of revisions", "", "revision %d of record %d has the content of revision %d", e.Revision, e.Record, before.Revision)
	}
	return err
}

// verifyRepeated verifies that a content that is no revision was loaded already
// when it came.
func (p *contentsPass) verifyRepeated(ctx context.Context, c *content, h *history, standing *Entry) error {
	if standing == nil && (h.newest == nil || p.archived == 0) {
		p.different(c, "accepted contents", sendAgain, "was accepted, and has neither been loaded nor failed")
		return nil
	}
	if standing == nil || c.Failure != "" {
		p.site.Unread++
		return nil
	}
	was, known, err := p.digestOf(ctx, h, standing)
	switch {
	case err != nil:
		return err
	case !known:
		p.site.Unread++
	case was == [DigestBytes]byte(c.Digest[:DigestBytes]):
		p.site.Repeated++
	default:
		p.different(c, "accepted contents", sendAgain, "was accepted after revision %d of record %d, and has not been loaded", standing.Revision, standing.Record)
	}
	return nil
}

// digestOf returns the digest of a revision's content. Where that cannot be
// read, it is not known.
func (p *contentsPass) digestOf(ctx context.Context, h *history, e *Entry) (digest [DigestBytes]byte, known bool, err error) {
	if e == h.newest {
		return e.Digest, true, nil
	}
	if digest, known := p.digests[RevisionKey{e.Record, e.Revision}]; known {
		return digest, true, nil
	}
	if err := p.open(ctx, e.Batch); err != nil {
		return digest, false, err
	}
	if e.Ordinal < 0 || e.Ordinal >= int64(len(p.opened.records)) {
		return digest, false, nil
	}
	v := judge{}.Read(&Batch{UsageType: p.opened.UsageType, Records: p.opened.records[e.Ordinal : e.Ordinal+1]})[0]
	copy(digest[:], v.Digest[:])
	return digest, v.Failure == "", nil
}

// open reads a batch out of turn; one that cannot be read has no records.
func (p *contentsPass) open(ctx context.Context, id int64) error {
	if p.opened.StoredBatch != nil && p.opened.ID == id {
		return nil
	}
	b, err := p.Batch(ctx, id)
	if err != nil {
		return err
	}
	p.opened = openedBatch{StoredBatch: b}
	if b == nil {
		p.opened.StoredBatch = &StoredBatch{Batch: Batch{ID: id}}
	} else if records, err := p.packer.Unpack(b.Packed, b.Count); err == nil && b.UsageType != "" {
		p.opened.records = records
	}
	return nil
}

// verifyOpen looks for open failed records whose identity was loaded later,
// unchanged.
func (p *contentsPass) verifyOpen(ctx context.Context, repeated map[EntryKey]*content) error {
	var keys []EntryKey
	for k, c := range repeated {
		if c.known {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	open, err := p.OpenFailed(ctx, keys)
	for _, f := range open {
		c := repeated[f.EntryKey]
		if (logPlace{f.Batch, f.Ordinal}).compare(logPlace{c.ID, c.ordinal}) < 0 {
			p.different(c, "open failed records", clearFailed, "failed record %d is open, though the record was loaded later", f.ID)
		}
	}
	return err
}

func (p *contentsPass) addCharge(e *Entry) {
	charge := e.Charge
	if e.GivesBack {
		charge = -charge
	}
	// Only a damaged ledger has more than fits.
	if sum := p.site.charge; charge > 0 && sum > math.MaxInt64-charge || charge < 0 && sum < math.MinInt64-charge {
		return
	}
	p.site.charge += charge
}

// findStray finds the records that are of no accepted content, where there are
// more rows than the contents have shown.
func (p *contentsPass) findStray(ctx context.Context) error {
	records, revisions, err := p.Rows(ctx)
	if err != nil {
		return err
	}
	if revisions != p.claimedRevisions {
		p.find(Finding{Check: "revisions without contents",
			Text: fmt.Sprintf("there are %d replaced revisions, of which %d are of an accepted content", revisions, p.claimedRevisions)})
	}
	if records == p.claimedRecords {
		return nil
	}
	for after := (Place{}); ; {
		page, err := p.EntriesBehind(ctx, after, verifyLookUp)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			after = Place{e.LoadedAt, e.Record}
			if err := p.open(ctx, e.Batch); err != nil {
				return err
			}
			if p.opened.Archived || p.opened.Loaded && p.isOf(e) {
				continue
			}
			p.find(Finding{Check: "records without contents",
				Record: fmt.Sprintf("record %d, %s", e.Record, e.LocalRecordID),
				Text:   fmt.Sprintf("it is not record %d of batch %d", e.Ordinal+1, e.Batch)})
		}
	}
}

// isOf reports whether the identity of an entry is that of its content in the
// opened batch.
func (p *contentsPass) isOf(e *Entry) bool {
	if e.Ordinal < 0 || e.Ordinal >= int64(len(p.opened.records)) {
		return false
	}
	record, _ := amieusage.CheckRecord(p.opened.UsageType, p.opened.records[e.Ordinal])
	key, known := KeyOf(p.registry, record)
	return known && key == e.EntryKey
}
