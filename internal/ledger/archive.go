package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/amieusage/amieusage"
)

// An Archivable is a store whose old batches can be moved into archives, which
// are files. What is moved is what was accepted, as it was sent, and the
// revisions that corrections have replaced. The newest revision of each record
// stays, without what was sent, and so do failed records: no total changes,
// what is sent again still counts once, and corrections go on.
type Archivable interface {
	// SiteNames returns the names of all sites by their numbers.
	SiteNames(ctx context.Context) (map[SiteID]string, error)
	// OldBatches returns, in order of acceptance, batches of a site behind the
	// batch after that are not archived, up to about maxRecords records and
	// [MaxLoadBytes]. It ends before the first one that is not loaded or was not accepted before
	// the time; damaged ones that loading has set aside are left out. Any other
	// that cannot be read back is amieusage.CodeInternal.
	OldBatches(ctx context.Context, site SiteID, after int64, before time.Time, maxRecords int) (OldBatches, error)
	// SetArchived records, in one transaction, that a file holds the batches:
	// their records go, and of each record with a replaced revision among
	// them that revision and all before it. It returns how many revisions went.
	// Where one of the batches is archived already, it is ErrArchived, and
	// nothing changes.
	SetArchived(ctx context.Context, site SiteID, file string, batches []int64, replaced []RevisionKey) (int64, error)
}

// ErrArchived means that another program has archived the same batches.
var ErrArchived = &amieusage.Error{Code: amieusage.CodeConflict, Message: "the same batches were archived by another program meanwhile",
	Hint: "let one program archive at a time"}

// A RevisionKey names a revision of a record within its site.
type RevisionKey struct{ Record, Revision int64 }

// OldBatches are batches of one site in order of acceptance.
type OldBatches []*OldBatch

// An OldBatch is a loaded batch, and what has become of its records.
type OldBatch struct {
	Batch
	Outcomes []Outcome
}

// An Outcome is what has become of one record of a batch. The zero Outcome is
// that of a record whose content was loaded already.
type Outcome struct {
	// Of a revision, which has replaced nothing or an earlier one.
	RevisionKey
	LoadedAt, Charge int64
	Newest           bool // no other has replaced it
	// Of a record that failed.
	FailedID int64
	Failure  Failure
}

// NewOldBatches returns the batches, with an outcome for each record.
func NewOldBatches(batches []*Batch) OldBatches {
	old := make(OldBatches, len(batches))
	for i, b := range batches {
		old[i] = &OldBatch{*b, make([]Outcome, len(b.Records))}
	}
	return old
}

// Span returns the numbers of the first and the last batch.
func (o OldBatches) Span() (first, last int64) { return o[0].ID, o[len(o)-1].ID }

// Keys returns the identities of all records, each once; resources are the
// numbers of the site's resources.
func (o OldBatches) Keys(resources map[string]int64) []EntryKey {
	registry := &Registry{Resources: resources}
	seen := map[EntryKey]bool{}
	var keys []EntryKey
	for _, b := range o {
		for _, raw := range b.Records {
			// One that is not valid any more may have been when it was loaded.
			record, _ := amieusage.CheckRecord(b.UsageType, raw)
			if key, known := KeyOf(registry, record); known && !seen[key] {
				seen[key] = true
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// SetOutcome sets what has become of a record, where it is one of these.
func (o OldBatches) SetOutcome(batch, ordinal int64, outcome Outcome) {
	i, found := slices.BinarySearchFunc(o, batch, func(b *OldBatch, id int64) int { return cmp.Compare(b.ID, id) })
	if found && ordinal < int64(len(o[i].Outcomes)) {
		o[i].Outcomes[ordinal] = outcome
	}
}

// Limits of one archive, so that neither it nor the transaction that removes
// its batches from the ledger grows with the ledger; and about how many records
// are held in memory.
const (
	archiveRecords = 200_000
	archiveBatches = 20_000
	archiveChunk   = 4_000
)

// Archiving says what [Archive] is to do.
type Archiving struct {
	Folder string    // where the archives go; it must be there
	Before time.Time // archives what was accepted before
	Site   string    // only this site; "": all
	// MaxRecords is about how many records one archive holds; 0: 200,000.
	MaxRecords int
	// Done is told of each archive, once its batches are out of the ledger.
	Done func(Archived)
}

// Archived says what one archive holds.
type Archived struct {
	Site             string
	File             string // its name in the folder
	Batches, Records int64
	Revisions        int64 // that are not in the ledger any more
	Bytes            int64
}

// lockName is the file that is locked by whoever writes into a folder.
const lockName = ".amieusage-archive.lock"

// Archive moves old batches into archives: site by site, oldest first, one file
// at a time. A file is on stable storage under its final name before the
// batches that it holds are removed from the ledger, in one transaction. It can
// be interrupted at any instant: the next run writes the file again that was
// not recorded.
//
// A folder that cannot be used, an unknown site and a Before in the future,
// measured by now, are *amieusage.Error with [amieusage.CodeInvalid] or
// [amieusage.CodeNotFound].
func Archive(ctx context.Context, store Archivable, a Archiving, now time.Time) error {
	if a.Before.After(now) {
		return &amieusage.Error{Code: amieusage.CodeInvalid, Message: "cannot archive what is accepted before " + amieusage.FormatTime(a.Before) +
			": that is in the future"}
	}
	if a.MaxRecords == 0 {
		a.MaxRecords = archiveRecords
	}
	sites, err := a.sites(ctx, store)
	if err != nil {
		return err
	}
	lock := flock.New(filepath.Join(a.Folder, lockName), flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	switch {
	case err != nil:
		return folderError(a.Folder, err)
	case !locked:
		return &amieusage.Error{Code: amieusage.CodeConflict, Message: "another program is archiving into " + a.Folder,
			Hint: "wait until it has ended"}
	}
	defer lock.Unlock()
	var failed []error
	for _, site := range sites {
		if err := a.archiveSite(ctx, store, site); err != nil {
			failed = append(failed, fmt.Errorf("archiving site %s: %w", site.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// archiveSite writes the archives of a site; a site that cannot be archived
// holds up no other.
func (a *Archiving) archiveSite(ctx context.Context, store Archivable, site namedSite) error {
	for after := int64(0); ; {
		run := &archiveRun{Archiving: *a, store: store, site: site, after: after}
		archived, err := run.archive(ctx)
		if err != nil || archived.Batches == 0 {
			return err
		}
		after = run.after
		a.Done(archived)
	}
}

func folderError(folder string, err error) error {
	return &amieusage.Error{Code: amieusage.CodeInvalid, Message: "cannot write into the folder " + folder, Err: err,
		Hint: "make it, and let who runs this write there"}
}

// A namedSite is a site and its name.
type namedSite struct {
	id   SiteID
	name string
}

// sites returns the sites whose batches are to be archived, in order of their
// names.
func (a *Archiving) sites(ctx context.Context, store Archivable) (sites []namedSite, err error) {
	names, err := store.SiteNames(ctx)
	if err != nil {
		return nil, err
	}
	for id, name := range names {
		if a.Site == "" || a.Site == name {
			sites = append(sites, namedSite{id, name})
		}
	}
	if a.Site != "" && len(sites) == 0 {
		return nil, UnknownSite(a.Site)
	}
	slices.SortFunc(sites, func(x, y namedSite) int { return cmp.Compare(x.name, y.name) })
	return sites, nil
}

// An archiveRun writes one archive.
type archiveRun struct {
	Archiving
	store    Archivable
	site     namedSite
	after    int64 // the last batch before those to come
	file     *archiveFile
	batches  []int64
	replaced []RevisionKey
}

// archive writes the next archive and removes from the ledger what it holds. A
// zero answer means that there was nothing.
func (r *archiveRun) archive(ctx context.Context) (archived Archived, err error) {
	defer func() {
		if r.file != nil {
			err = errors.Join(err, r.file.discard())
		}
	}()
	for more := true; more; {
		if more, err = r.addSome(ctx); err != nil {
			return archived, err
		}
	}
	if r.file == nil {
		return archived, nil
	}
	archived = Archived{Site: r.site.name, File: r.file.name, Batches: int64(len(r.batches)), Records: r.file.records}
	if archived.Bytes, err = r.file.publish(); err != nil {
		return Archived{}, err
	}
	archived.Revisions, err = r.store.SetArchived(ctx, r.site.id, archived.File, r.batches, r.replaced)
	return archived, err
}

// addSome adds batches to the archive, and reports whether there may be more.
func (r *archiveRun) addSome(ctx context.Context) (more bool, err error) {
	records := 0
	if r.file != nil {
		records = int(r.file.records)
	}
	if records >= r.MaxRecords || len(r.batches) >= archiveBatches {
		return false, nil
	}
	old, err := r.store.OldBatches(ctx, r.site.id, r.after, r.Before, min(archiveChunk, r.MaxRecords-records))
	if err != nil || len(old) == 0 {
		return false, err
	}
	for _, b := range old {
		name := archiveName(r.site.name, b.ID)
		if r.file == nil {
			if r.file, err = createArchive(r.Folder, name); err != nil {
				return false, err
			}
		} else if _, err := os.Lstat(filepath.Join(r.Folder, name)); err == nil {
			// A file of this batch is there: it is the next one to be written, so
			// that no two hold the same.
			return false, nil
		}
		if err := r.file.add(r.site.name, b); err != nil {
			return false, err
		}
		for i := range b.Outcomes {
			if o := &b.Outcomes[i]; o.Revision > 0 && !o.Newest {
				r.replaced = append(r.replaced, o.RevisionKey)
			}
		}
		r.batches = append(r.batches, b.ID)
		r.after = b.ID
	}
	return true, nil
}
