package ledger

import (
	"context"
	"fmt"

	"github.com/amieusage/amieusage"
)

// A ContentsTx is one snapshot of one site, as [VerifyContents] reads it.
type ContentsTx interface {
	// Registry returns the numbers of the site's names.
	Registry(ctx context.Context) (*Registry, error)
	// Batches returns batches behind the batch after, in order, up to about
	// maxRecords records and maxBytes as they are stored; none behind the last.
	Batches(ctx context.Context, after int64, maxRecords, maxBytes int) ([]*StoredBatch, error)
	// Batch returns one batch, or nil.
	Batch(ctx context.Context, id int64) (*StoredBatch, error)
	// Entries returns the newest revisions of the identities that have one.
	Entries(ctx context.Context, keys []EntryKey) ([]*Entry, error)
	// Replaced returns, of these records, the replaced revisions from the batches
	// first to last and the last one before them: Record, Revision, Batch,
	// Ordinal and Charge.
	Replaced(ctx context.Context, records []int64, first, last int64) ([]*Entry, error)
	// Failed returns the failed records from the batches first to last.
	Failed(ctx context.Context, first, last int64) ([]*FailedRow, error)
	// OpenFailed returns the open failed records of the identities, without
	// their contents.
	OpenFailed(ctx context.Context, keys []EntryKey) ([]*FailedRow, error)
	// Unproven returns what [SQL.UnprovenSuperseded] selects, at most so many.
	Unproven(ctx context.Context, limit int) ([]*FailedRow, error)
	// Rows returns the number of records, and of replaced revisions, that come
	// from batches that are in no archive.
	Rows(ctx context.Context) (records, revisions int64, err error)
	// EntriesBehind returns newest revisions in order of loading.
	EntriesBehind(ctx context.Context, after Place, limit int) ([]*Entry, error)
}

// A StoredBatch is a batch as it is stored.
type StoredBatch struct {
	Batch            // without Records
	Count            int64
	Packed           []byte
	Loaded, Archived bool
}

// A FailedRow is a failed record as it is stored.
type FailedRow struct {
	EntryKey
	ID, Batch, Ordinal int64
	Raw                []byte
}

// Limits of what is held in memory at once.
const (
	verifyPageRecords = 8_000
	verifyPageBytes   = 4 << 20
	verifyDigests     = 4_000 // of replaced revisions
	verifyUnproven    = 100_000
	verifyLookUp      = 2_000
)

// A contentsPass holds the rows of one site against its accepted contents.
type contentsPass struct {
	ContentsTx
	packer   *Packer
	all      *Verification
	site     *VerifiedSite
	registry *Registry
	digests  map[RevisionKey][DigestBytes]byte // of replaced revisions that were read
	unproven map[EntryKey]*FailedRow
	archived int64 // the last batch that is in an archive; 0: none
	opened   openedBatch
	// How many rows were found to be of a content.
	claimedRecords, claimedRevisions int64
}

// An openedBatch is a batch that was read out of turn.
type openedBatch struct {
	*StoredBatch
	records [][]byte
}

// A content is one accepted record, and what loading makes of it.
type content struct {
	*StoredBatch
	ordinal int64
	raw     []byte
	Verdict
	key   EntryKey
	known bool // its resource is registered
}

// VerifyContents reads all accepted contents of a site in order of acceptance,
// judges them anew, and holds every row of the site against them: each content
// must be a record's newest one, a replaced one, a failed record, or what was
// loaded already, and each row what its content says. It adds what it has read
// to site and what differs to all, holds a bounded part of it in memory, and
// calls progress now and then.
func VerifyContents(ctx context.Context, tx ContentsTx, packer *Packer, all *Verification, site *VerifiedSite, progress func()) (err error) {
	p := &contentsPass{ContentsTx: tx, packer: packer, all: all, site: site,
		digests: map[RevisionKey][DigestBytes]byte{}, unproven: map[EntryKey]*FailedRow{}}
	if p.registry, err = tx.Registry(ctx); err != nil {
		return err
	}
	unproven, err := tx.Unproven(ctx, verifyUnproven)
	if err != nil {
		return err
	}
	for _, f := range unproven {
		p.unproven[f.EntryKey] = f
	}
	for after := int64(0); ; {
		page, err := tx.Batches(ctx, after, verifyPageRecords, verifyPageBytes)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].ID
		if err := p.readPage(ctx, page, progress); err != nil {
			return err
		}
	}
	for _, f := range p.unproven {
		if f.Batch > p.archived {
			p.find(Finding{Check: "superseded failed records", Remedy: sendAgain,
				Text: fmt.Sprintf("failed record %d is superseded, and nothing was judged in its place", f.ID)})
		}
	}
	site.Charge = amieusage.ChargeOfMillionths(site.charge)
	return p.findStray(ctx)
}

func (p *contentsPass) find(f Finding) {
	f.Site = p.site.Site
	p.all.Add(f)
}

// readPage verifies the contents of batches. They are read ahead, on another
// core.
func (p *contentsPass) readPage(ctx context.Context, page []*StoredBatch, progress func()) error {
	ctx, cancel := context.WithCancel(ctx)
	chunks := make(chan []*content, 1)
	defer func() {
		cancel()
		for range chunks { // the packer is not used any more behind this
		}
	}()
	var problems []Finding
	var counts VerifiedSite
	go func() {
		defer close(chunks)
		var chunk []*content
		bytes := 0
		for _, b := range page {
			if ctx.Err() != nil {
				return
			}
			contents, size := p.read(b, &counts, &problems)
			chunk = append(chunk, contents...)
			if bytes += size; len(chunk) >= verifyLookUp || bytes >= MaxLoadBytes {
				select {
				case chunks <- chunk:
				case <-ctx.Done():
					return
				}
				chunk, bytes = nil, 0
			}
		}
		if len(chunk) > 0 {
			select {
			case chunks <- chunk:
			case <-ctx.Done():
			}
		}
	}()
	for _, b := range page {
		if b.Archived {
			p.archived = b.ID
		}
	}
	for chunk := range chunks {
		if err := p.verify(ctx, chunk); err != nil {
			return err
		}
		progress()
	}
	for _, f := range problems {
		p.find(f)
	}
	p.site.Batches += counts.Batches
	p.site.Records += counts.Records
	p.site.Archived += counts.Archived
	p.site.Queued += counts.Queued
	p.site.Unread += counts.Unread
	return ctx.Err()
}

// read returns the contents of a loaded batch, and how many bytes they take;
// what cannot be read is a problem.
func (p *contentsPass) read(b *StoredBatch, counts *VerifiedSite, problems *[]Finding) ([]*content, int) {
	damaged := func(what string) {
		*problems = append(*problems, Finding{Check: "batches", Text: fmt.Sprintf("batch %d %s", b.ID, what)})
	}
	counts.Batches++
	counts.Records += b.Count
	if b.Archived {
		counts.Archived += b.Count
		if len(b.Packed) > 0 {
			damaged("is in an archive and has records here, too")
		}
		return nil, 0
	}
	records, err := p.packer.Unpack(b.Packed, b.Count)
	switch {
	case err != nil:
		damaged("cannot be read back")
	case b.UsageType == "":
		damaged("is of no usage type")
	case b.Loaded:
		b.Records = records
		verdicts := judge{}.Read(&b.Batch)
		contents := make([]*content, len(verdicts))
		for i := range verdicts {
			c := &content{StoredBatch: b, ordinal: int64(i), raw: records[i], Verdict: verdicts[i]}
			c.key, c.known = KeyOf(p.registry, c.Record)
			contents[i] = c
		}
		return contents, b.Bytes()
	}
	if b.Loaded {
		counts.Unread += b.Count
	} else {
		counts.Queued += b.Count
	}
	return nil, 0
}
