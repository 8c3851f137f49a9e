package ledger

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/amieusage/amieusage"
)

// A CopySource is a ledger that sites are copied from. It does not change
// while it is open.
type CopySource interface {
	// Sites returns the names of all sites, in order.
	Sites(ctx context.Context) ([]string, error)
	// Site returns a site. An unknown one is amieusage.CodeNotFound; one whose
	// batches were not loaded in order is amieusage.CodeInternal.
	Site(ctx context.Context, name string) (*CopySite, error)
	// Rows gives the rows of a table of a site behind a key, in order of the
	// key, each in the same slice.
	Rows(ctx context.Context, site SiteID, t *CopyTable, after []int64) iter.Seq2[[]any, error]
	// SetMoved marks sites as served by the ledger that they were copied into, and no longer
	// from here.
	SetMoved(ctx context.Context, names []string) error
}

// A CopyTarget is a ledger that sites are copied into. A site is not served
// before it is whole. What writes is refused with amieusage.CodeConflict where
// the site is served.
type CopyTarget interface {
	// Site returns a site, or nil where there is none of this name.
	Site(ctx context.Context, name string) (*CopySite, error)
	// Rows is as that of a [CopySource].
	Rows(ctx context.Context, site SiteID, t *CopyTable, after []int64) iter.Seq2[[]any, error]
	// Create adds a site that is not served, and returns its number. It is
	// amieusage.CodeConflict where there is one of this name by now.
	Create(ctx context.Context, name string) (SiteID, error)
	// LastKey returns the largest key of a table of a site; [CopyTable.First]
	// where it has no rows.
	LastKey(ctx context.Context, site SiteID, t *CopyTable) ([]int64, error)
	// Append adds rows to a table of a site, in one transaction. It is
	// amieusage.CodeConflict where the largest key there is not after.
	Append(ctx context.Context, site SiteID, t *CopyTable, after []int64, rows [][]any) error
	// Remove removes all rows of a site. Cut off, it leaves of each table what a
	// copy that was cut off leaves.
	Remove(ctx context.Context, site SiteID) error
	// Serve gives sites their counters, and lets them be served, all or none.
	// They have the target's numbers and Changes. It is amieusage.CodeConflict
	// where rows of one were written since.
	Serve(ctx context.Context, sites []*CopySite) error
}

// A CopySite is a site with its counters.
type CopySite struct {
	ID     SiteID // in the ledger that it was read from
	Name   string
	Served bool
	// Changes rises with each write of a copy into the target.
	Changes int64
	CopyCounters
}

// CopyCounters are what a ledger keeps of a site beside its tables.
type CopyCounters struct {
	CopyTotals
	// LoadedBatch is the last batch before the first queued one; those before it
	// are loaded, or damaged and set aside.
	LoadedBatch       int64
	LastLoadedAt      int64
	RegistryVersion   int64
	LastName          int64 // the largest number of a resource, user or project
	LastRecord        int64
	ArchivedRevisions int64
}

// CopyTotals are the counters that the rows of a site add up to.
type CopyTotals struct {
	Counts
	Batches     int64
	GrossCharge int64 // millionths, given back or not
}

// A Copy copies sites from one ledger into another, and shows that both hold
// the same. Cut off at any time, it goes on where it was when it is run again.
type Copy struct {
	From CopySource
	To   CopyTarget
	// Restart removes first what an earlier copy has left of the sites.
	Restart bool
	// Progress is told, again and again, what is being done.
	Progress func(CopyProgress)
}

// CopyProgress says how far a copy is with a table of a site.
type CopyProgress struct {
	Site, Table string
	Rows        int64 // copied or compared in this run
	Verifying   bool
}

// One transaction of a copy writes at most so many rows, and about so many
// bytes; they are held in memory, so that it does not wait for the source.
const (
	copyChunkRows  = 10_000
	copyChunkBytes = 8 << 20
)

// ErrCopyDiffers means that sites do not hold the same in both ledgers.
var ErrCopyDiffers = &amieusage.Error{Code: amieusage.CodeConflict,
	Message: "the copy differs from the ledger that it was made from, and is not served",
	Hint:    "the ledger has changed since the copy was begun: begin anew with --restart"}

// Run copies the sites, compares them, and lets all of them be served in the
// end. The reports are of the sites that were compared, also beside an error:
// [ErrCopyDiffers] where a copy differs. A source whose counters are not what
// its rows add up to is amieusage.CodeInternal.
//
// A site that is served already is not touched. It may be what an earlier run
// has copied: where it still holds the same as the source, all is well; else it
// is amieusage.CodeConflict, at once where its counters tell.
func (c *Copy) Run(ctx context.Context, names []string) ([]CopyReport, error) {
	if c.Progress == nil {
		c.Progress = func(CopyProgress) {}
	}
	pairs := make([]copyPair, len(names))
	for i, name := range names {
		var err error
		if pairs[i].from, err = c.From.Site(ctx, name); err != nil {
			return nil, err
		}
		if pairs[i].to, err = c.To.Site(ctx, name); err != nil {
			return nil, err
		}
		if to := pairs[i].to; to != nil && to.Served && to.CopyCounters != pairs[i].from.CopyCounters {
			return nil, ServedSite(name)
		}
	}
	copied := make([]int64, len(names))
	for i := range pairs {
		if pairs[i].served() {
			continue
		}
		if err := c.copySite(ctx, &pairs[i], &copied[i]); err != nil {
			return nil, err
		}
	}
	var reports []CopyReport
	var whole []*CopySite
	var differs error
	for i := range pairs {
		p := &pairs[i]
		report, err := c.verify(ctx, p)
		if err != nil {
			return reports, err
		}
		report.Copied = copied[i]
		reports = append(reports, *report)
		switch {
		case p.served() && !report.Equal():
			differs = ServedSite(p.from.Name)
		case p.served():
		case !report.Equal():
			differs = cmp.Or(differs, error(ErrCopyDiffers))
		default:
			site := *p.from
			site.ID, site.Changes = p.to.ID, p.to.Changes
			whole = append(whole, &site)
		}
	}
	if differs != nil {
		return reports, differs
	}
	// In this order: cut off in between, no ledger serves the sites until the copy is run again,
	// rather than both.
	if err := c.From.SetMoved(ctx, names); err != nil {
		return reports, err
	}
	return reports, c.To.Serve(ctx, whole)
}

// ServedSite is the error for a site that the target of a copy serves already.
func ServedSite(name string) error {
	return &amieusage.Error{Code: amieusage.CodeConflict,
		Message: fmt.Sprintf("site %s is served already by the ledger to copy to, which holds something else", name),
		Hint: "if an earlier run has copied it, and it has been in use since, there is nothing to do; " +
			"else copy to another database"}
}

// A copyPair is a site in both ledgers.
type copyPair struct{ from, to *CopySite }

func (p *copyPair) served() bool { return p.to != nil && p.to.Served }

// copySite copies what the target does not have yet, and counts it.
func (c *Copy) copySite(ctx context.Context, p *copyPair, copied *int64) error {
	if p.to == nil {
		site, err := c.To.Create(ctx, p.from.Name)
		if err != nil {
			return err
		}
		p.to = &CopySite{ID: site, Name: p.from.Name}
	} else if c.Restart {
		if err := c.To.Remove(ctx, p.to.ID); err != nil {
			return err
		}
	}
	for _, t := range CopyTables {
		if err := c.copyTable(ctx, p, t, copied); err != nil {
			return fmt.Errorf("copying %s of site %s: %w", t.Name, p.from.Name, err)
		}
	}
	// As of now: what is written after this is not what is compared.
	to, err := c.To.Site(ctx, p.from.Name)
	if err == nil && to != nil {
		p.to = to
	}
	return err
}

func (c *Copy) copyTable(ctx context.Context, p *copyPair, t *CopyTable, copied *int64) error {
	last, err := c.To.LastKey(ctx, p.to.ID, t)
	if err != nil {
		return err
	}
	var chunk [][]any
	size, rows := 0, int64(0)
	write := func() error {
		if err := c.To.Append(ctx, p.to.ID, t, last, chunk); err != nil {
			return err
		}
		last = t.key(chunk[len(chunk)-1])
		rows += int64(len(chunk))
		*copied += int64(len(chunk))
		chunk, size = chunk[:0], 0
		c.Progress(CopyProgress{Site: p.from.Name, Table: t.Name, Rows: rows})
		return nil
	}
	for row, err := range c.From.Rows(ctx, p.from.ID, t, last) {
		if err != nil {
			return err
		}
		chunk = append(chunk, slices.Clone(row))
		if size += rowBytes(row); len(chunk) == copyChunkRows || size >= copyChunkBytes {
			if err := write(); err != nil {
				return err
			}
		}
	}
	if len(chunk) == 0 {
		return nil
	}
	return write()
}

// verify compares a site row by row, in both ledgers at the same time.
func (c *Copy) verify(ctx context.Context, p *copyPair) (*CopyReport, error) {
	var from, to *copySums
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		from, err = sumsOf(ctx, c.From.Rows, p.from.ID, p.from.LoadedBatch, func(string, int64) {})
		return err
	})
	group.Go(func() (err error) {
		to, err = sumsOf(ctx, c.To.Rows, p.to.ID, p.from.LoadedBatch, func(table string, rows int64) {
			c.Progress(CopyProgress{Site: p.from.Name, Table: table, Rows: rows, Verifying: true})
		})
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("comparing site %s: %w", p.from.Name, err)
	}
	if from.totals != p.from.CopyTotals {
		return nil, &amieusage.Error{Code: amieusage.CodeInternal,
			Message: "the ledger to copy does not add up: the counters of site " + p.from.Name + " are not what its rows say",
			Hint:    "look closer: amieusage admin verify; or restore it from a backup"}
	}
	return &CopyReport{
		Site:  p.from.Name,
		From:  p.from.CopyTotals,
		To:    to.totals,
		Parts: compareSums(from, to),
	}, nil
}

// A CopyTable is a table of a site as copies read and write it. The number of
// the site, which is each ledger's own, is none of its columns.
type CopyTable struct {
	Name string
	// Key is how many of the columns, which come first, are the key.
	Key     int
	Columns []CopyColumn
}

// A CopyColumn is a column of a [CopyTable].
type CopyColumn struct {
	Name string
	Kind CopyKind
	Null bool // its value may be nil
}

// A CopyKind is what the values of a column are. Those of a key are CopyInt.
type CopyKind int

// The kinds of values: int64, bool, string and []byte.
const (
	CopyInt CopyKind = iota
	CopyBool
	CopyText
	CopyBytes
)

// First returns a key before all others.
func (t *CopyTable) First() []int64 {
	return slices.Repeat([]int64{math.MinInt64}, t.Key)
}

// key returns the key of a row.
func (t *CopyTable) key(row []any) []int64 {
	key := make([]int64, t.Key)
	for i := range key {
		key[i], _ = row[i].(int64)
	}
	return key
}

func ints(names ...string) []CopyColumn {
	columns := make([]CopyColumn, len(names))
	for i, name := range names {
		columns[i] = CopyColumn{Name: name, Kind: CopyInt}
	}
	return columns
}

func column(name string, kind CopyKind) []CopyColumn { return []CopyColumn{{Name: name, Kind: kind}} }

func nullable(name string, kind CopyKind) []CopyColumn {
	return []CopyColumn{{Name: name, Kind: kind, Null: true}}
}

func table(name string, key int, columns ...[]CopyColumn) *CopyTable {
	return &CopyTable{Name: name, Key: key, Columns: slices.Concat(columns...)}
}

var (
	copyBatches = table("batches", 1, ints("batch_id", "key_id", "usage_type", "accepted_at", "record_count"),
		column("damaged", CopyBool), column("records", CopyBytes), nullable("archive", CopyText))
	// In order of loading, which is how they were written first.
	copyRecords = table("records", 2, ints("loaded_at", "record_id", "resource_id", "usage_type"),
		column("local_record_id", CopyText), ints("key_time", "revision", "batch_id", "ordinal"), column("digest", CopyBytes),
		ints("project_id", "user_id", "usage_time", "charge"), column("gives_back", CopyBool))
	copyFailed = table("failed_records", 1, ints("failed_id", "resource_id", "usage_type"),
		column("local_record_id", CopyText), ints("key_time", "batch_id", "ordinal"), column("failure", CopyText),
		ints("failed_at"), column("record", CopyBytes), ints("state"), nullable("closed_at", CopyInt))
)

// CopyTables are all tables of a site. Batches have their numbers within the
// site, from 1 in order of acceptance, wherever they stand; all else has the
// same numbers in every ledger.
var CopyTables = []*CopyTable{
	table("api_keys", 1, ints("key_id"), column("hash", CopyBytes), column("label", CopyText), ints("created_at"),
		nullable("revoked_at", CopyInt)),
	table("events", 1, ints("event_id", "at"), column("who", CopyText), column("origin", CopyText), column("action", CopyText),
		column("what", CopyText), ints("key_id"), column("project", CopyText)),
	table("resources", 1, ints("resource_id"), column("name", CopyText)),
	table("users", 1, ints("user_id"), column("username", CopyText)),
	table("projects", 1, ints("project_id"), column("local_project_id", CopyText)),
	table("project_users", 2, ints("project_id", "user_id")),
	table("allocations", 3, ints("project_id", "resource_id", "start_time", "end_time", "amount")),
	copyBatches,
	copyRecords,
	table("revisions", 2, ints("record_id", "revision", "batch_id", "ordinal", "charge", "loaded_at")),
	copyFailed,
	table("usage_totals", 6, ints("span", "day", "resource_id", "project_id", "user_id", "usage_type", "records", "deducted", "given_back")),
	table("balances", 2, ints("project_id", "resource_id", "records", "used", "given_back")),
	table("loads", 3, ints("span", "loaded_at", "resource_id", "records", "charge")),
}
