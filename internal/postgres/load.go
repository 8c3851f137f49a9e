package postgres

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/amieusage/amieusage/internal/ledger"
)

// Load loads the oldest queued batches of the site whose turn it is, in one
// transaction.
func (l *Ledger) Load(ctx context.Context, now time.Time, maxRecords int, judge ledger.Judge) (report ledger.LoadReport, err error) {
	for sweep := l.turns.due(now); ; sweep = true {
		if sweep {
			if err := l.sweep(ctx); err != nil {
				return report, err
			}
		}
		report, err := l.loadInTurn(ctx, now, maxRecords, judge)
		if report.Busy {
			err = l.free(ctx, now)
		}
		if err != nil || report.Batches > 0 || report.Busy || sweep {
			return report, err
		}
		// The turns there were are over, and others may be due.
	}
}

// loadInTurn loads of the first site that has something queued.
func (l *Ledger) loadInTurn(ctx context.Context, now time.Time, maxRecords int, judge ledger.Judge) (ledger.LoadReport, error) {
	busy := false
	for range max(l.turns.count(), 1) {
		site, ok, loading := l.turns.next()
		if !ok {
			busy = busy || loading
			break
		}
		report, more, err := l.loadSite(ctx, site, now, maxRecords, judge)
		l.turns.over(site, more || report.Busy || err != nil)
		if err != nil || report.Batches > 0 {
			return report, err
		}
		busy = busy || report.Busy
	}
	return ledger.LoadReport{Busy: busy}, nil
}

// maxBatches is how many batches one transaction loads at most.
const maxBatches = 4_000

// loadSite loads the oldest queued batches of a site, and reports whether
// there may be more.
func (l *Ledger) loadSite(ctx context.Context, site ledger.SiteID, now time.Time, maxRecords int, judge ledger.Judge) (report ledger.LoadReport, more bool, err error) {
	var registry *siteRegistry
	err = l.db.write(ctx, "load", func(ctx context.Context, tx pgx.Tx) error {
		t := &loadTx{nameTx: nameTx{tx: tx, site: int64(site)}, ctx: ctx}
		var version, grossCharge, lastLoaded int64
		err := tx.QueryRow(ctx, `
			SELECT batch_id, registry_version, gross_charge, last_loaded_at, name_id, record_id
			FROM loading WHERE site_id = $1 FOR UPDATE SKIP LOCKED`, t.site).
			Scan(&t.batch, &version, &grossCharge, &lastLoaded, &t.nameID, &t.recordID)
		if errors.Is(err, pgx.ErrNoRows) {
			// Another one holds it, or there is no such site.
			return tx.QueryRow(ctx, `
				SELECT EXISTS (SELECT 1 FROM acceptance a JOIN loading l ON l.site_id = a.site_id
					WHERE a.site_id = $1 AND a.batch_id > l.batch_id)`, t.site).Scan(&report.Busy)
		}
		if err != nil {
			return err
		}
		queued, hasMore, err := l.queuedBatches(ctx, tx, site, t.batch, maxRecords)
		if err != nil || len(queued) == 0 {
			return err
		}
		verdicts := make([][]ledger.Verdict, len(queued))
		var reading errgroup.Group
		reading.SetLimit(runtime.GOMAXPROCS(0))
		for i, q := range queued {
			if !q.damaged {
				reading.Go(func() error {
					verdicts[i] = judge.Read(&q.Batch)
					return nil
				})
			}
		}
		_ = reading.Wait() // which is nil
		if registry, err = l.takeRegistry(ctx, tx, site, version); err != nil {
			return err
		}
		t.loadedAt = ledger.LoadingTime(now, lastLoaded)
		if err := t.find(ctx, &registry.Registry, verdicts); err != nil {
			return err
		}
		loading := ledger.NewLoading(t, judge, &registry.Registry, t.loadedAt, grossCharge)
		var damaged []int64
		for i, q := range queued {
			if q.damaged {
				loading.Damaged(&q.Batch)
				damaged = append(damaged, q.ID)
				continue
			}
			if err := loading.Load(&q.Batch, verdicts[i]); err != nil {
				return err
			}
		}
		t.batch = queued[len(queued)-1].ID
		if len(t.names.QueuedQueries) > 0 {
			version++
		}
		if err := t.write(ctx, loading, damaged, version); err != nil {
			return err
		}
		registry.version = version
		report, more = loading.Report, hasMore
		return nil
	})
	if err != nil {
		return ledger.LoadReport{}, false, err
	}
	if registry != nil {
		l.registries.Store(site, registry)
	}
	return report, more, nil
}

// A queuedBatch is a batch as it is in the queue.
type queuedBatch struct {
	ledger.Batch
	damaged bool // it has no Records then
}

// queuedBatches reads the oldest queued batches of a site, up to about
// maxRecords records and ledger.MaxLoadBytes, and reports whether there are
// more.
func (l *Ledger) queuedBatches(ctx context.Context, tx pgx.Tx, site ledger.SiteID, after int64, maxRecords int) (queued []*queuedBatch, more bool, err error) {
	type head struct{ ID, Records, Packed int64 }
	heads, err := rowsOf(ctx, tx, pgx.RowToStructByPos[head], `
		SELECT batch_id, record_count, octet_length(records) FROM batches WHERE site_id = $1 AND batch_id > $2
		ORDER BY batch_id LIMIT $3`, int64(site), after, min(maxRecords, maxBatches)+1)
	if err != nil {
		return nil, false, err
	}
	records, packed, n := int64(0), int64(0), 0
	for n < len(heads) && n < maxBatches && records < int64(maxRecords) && packed < ledger.MaxLoadBytes {
		records += heads[n].Records
		packed += heads[n].Packed
		n++
	}
	if n == 0 {
		return nil, false, nil
	}
	rows, err := tx.Query(ctx, `
		SELECT batch_id, key_id, usage_type, accepted_at, record_count, records FROM batches
		WHERE site_id = $1 AND batch_id > $2 AND batch_id <= $3 ORDER BY batch_id`, int64(site), after, heads[n-1].ID)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	for unpacked := 0; unpacked < ledger.MaxLoadBytes && rows.Next(); {
		q, err := l.queuedBatch(rows, site)
		if err != nil {
			return nil, false, err
		}
		queued = append(queued, q)
		unpacked += q.Bytes()
	}
	rows.Close() // whether or not it has come to the end
	return queued, len(queued) < len(heads), rows.Err()
}

func (l *Ledger) queuedBatch(row pgx.CollectableRow, site ledger.SiteID) (*queuedBatch, error) {
	q := &queuedBatch{Batch: ledger.Batch{Site: site}}
	var usageType, acceptedAt, count int64
	var packed []byte
	if err := row.Scan(&q.ID, &q.KeyID, &usageType, &acceptedAt, &count, &packed); err != nil {
		return nil, err
	}
	q.UsageType = ledger.UsageTypeOf(usageType)
	q.AcceptedAt = ledger.TimeOrZero(acceptedAt)
	var err error
	q.Records, err = l.packer.Unpack(packed, count)
	q.damaged = err != nil || q.UsageType == ""
	return q, nil
}

// A loadTx is one transaction of loading. It knows the entries of all
// identities that it will meet, and writes what has become of them at its end.
type loadTx struct {
	nameTx
	ctx               context.Context // of the transaction
	batch, recordID   int64           // the last numbers given
	loadedAt          int64
	entries           map[ledger.EntryKey]*entryState
	inserted, revised []*entryState
	replaced          []*ledger.Entry // the revisions that corrections replace
	failed            []*failedRow
	openFailed        map[ledger.EntryKey]*failedRow // of those in failed, the open ones
	failedBefore      map[ledger.EntryKey]int64      // the open failed records from before
	superseded        []int64                        // of those, the ones that are not open any more
}

// An entryState is an entry as it will be when the transaction commits.
type entryState struct {
	*ledger.Entry
	inserted, revised bool
}

type failedRow struct {
	*ledger.Entry
	failure ledger.Failure
	raw     []byte
	state   int16
}

var _ ledger.LoadTx = (*loadTx)(nil)

// keyColumns are the columns of an identity, for a statement that joins them as
// rows.
type keyColumns struct {
	resources, keyTimes []int64
	usageTypes          []int16
	localRecordIDs      []string
}

func (c *keyColumns) add(k *ledger.EntryKey) {
	c.resources = append(c.resources, k.Resource)
	c.usageTypes = append(c.usageTypes, int16(k.UsageType))
	c.localRecordIDs = append(c.localRecordIDs, k.LocalRecordID)
	c.keyTimes = append(c.keyTimes, k.KeyTime)
}

// keyRows are the identities as rows, and args the arguments that they are made
// of, behind the site. Each is looked up on its own: a join could come to read
// the whole site.
const keyRows = `unnest($2::bigint[], $3::smallint[], $4::text[], $5::bigint[])
			AS k (resource_id, usage_type, local_record_id, key_time)`

func (c *keyColumns) args(site int64) []any {
	return []any{site, c.resources, c.usageTypes, c.localRecordIDs, c.keyTimes}
}

// find reads the entries of all identities that the verdicts are about.
func (t *loadTx) find(ctx context.Context, registry *ledger.Registry, verdicts [][]ledger.Verdict) error {
	t.entries = map[ledger.EntryKey]*entryState{}
	t.openFailed = map[ledger.EntryKey]*failedRow{}
	var keys keyColumns
	for _, batch := range verdicts {
		for i := range batch {
			k, known := ledger.KeyOf(registry, batch[i].Record)
			if !known {
				continue // nor is anything of it in the ledger
			}
			if _, twice := t.entries[k]; !twice {
				t.entries[k] = nil
				keys.add(&k)
			}
		}
	}
	rows, err := t.tx.Query(ctx, `
		SELECT r.record_id, r.resource_id, r.revision, r.batch_id, r.ordinal, r.project_id, r.user_id, r.key_time, r.usage_time,
			r.charge, r.loaded_at, r.usage_type, r.gives_back, r.local_record_id, r.digest
		FROM `+keyRows+` CROSS JOIN LATERAL (
			SELECT * FROM records r WHERE r.site_id = $1 AND r.resource_id = k.resource_id AND r.usage_type = k.usage_type
				AND r.local_record_id = k.local_record_id AND r.key_time = k.key_time LIMIT 1) r`, keys.args(t.site)...)
	if err != nil {
		return err
	}
	var digest []byte
	e := new(ledger.Entry)
	_, err = pgx.ForEachRow(rows, []any{&e.Record, &e.Resource, &e.Revision, &e.Batch, &e.Ordinal, &e.Project, &e.User, &e.KeyTime,
		&e.UsageTime, &e.Charge, &e.LoadedAt, &e.UsageType, &e.GivesBack, &e.LocalRecordID, &digest}, func() error {
		found := *e
		copy(found.Digest[:], digest)
		t.entries[found.EntryKey] = &entryState{Entry: &found}
		return nil
	})
	if err != nil {
		return err
	}
	return t.findFailed(ctx, &keys)
}

// findFailed reads the open failed records of the identities.
func (t *loadTx) findFailed(ctx context.Context, keys *keyColumns) error {
	// In order, and so by its index: where open ones are common, but not at this
	// site, all of the table would be searched for any.
	var open bool
	err := t.tx.QueryRow(ctx, `
		SELECT coalesce((SELECT true FROM failed_records WHERE site_id = $1 AND state = 0 ORDER BY failed_id LIMIT 1), false)`,
		t.site).Scan(&open)
	if err != nil || !open {
		return err
	}
	rows, err := t.tx.Query(ctx, `
		SELECT f.failed_id, k.resource_id, k.usage_type, k.local_record_id, k.key_time
		FROM `+keyRows+` CROSS JOIN LATERAL (
			SELECT failed_id FROM failed_records f WHERE f.site_id = $1 AND f.resource_id = k.resource_id
				AND f.usage_type = k.usage_type AND f.local_record_id = k.local_record_id AND f.key_time = k.key_time
				AND f.state = 0 LIMIT 1) f`, keys.args(t.site)...)
	if err != nil {
		return err
	}
	t.failedBefore = map[ledger.EntryKey]int64{}
	var id int64
	var k ledger.EntryKey
	_, err = pgx.ForEachRow(rows, []any{&id, &k.Resource, &k.UsageType, &k.LocalRecordID, &k.KeyTime}, func() error {
		t.failedBefore[k] = id
		return nil
	})
	return err
}

// Insert stores e where its identity is new, and reports whether it is.
func (t *loadTx) Insert(e *ledger.Entry) (bool, error) {
	if t.entries[e.EntryKey] != nil {
		return false, nil
	}
	t.recordID++
	e.Record = t.recordID
	s := &entryState{Entry: e, inserted: true}
	t.entries[e.EntryKey] = s
	t.inserted = append(t.inserted, s)
	return true, nil
}

// Find returns the entry of an identity, or nil.
func (t *loadTx) Find(k *ledger.EntryKey) (*ledger.Entry, error) {
	if s := t.entries[*k]; s != nil {
		return s.Entry, nil
	}
	return nil, nil
}

// Revise puts e in the place of old, which is kept among the revisions.
func (t *loadTx) Revise(old, e *ledger.Entry) error {
	t.replaced = append(t.replaced, old)
	s := t.entries[e.EntryKey]
	s.Entry = e
	if !s.inserted && !s.revised {
		s.revised = true
		t.revised = append(t.revised, s)
	}
	return nil
}

// Fail keeps the record among the failed ones.
func (t *loadTx) Fail(e *ledger.Entry, failure ledger.Failure, raw []byte) error {
	row := &failedRow{Entry: e, failure: failure, raw: raw, state: ledger.FailedOpen}
	t.failed = append(t.failed, row)
	t.openFailed[e.EntryKey] = row
	return nil
}

// Balance returns what was loaded of a project on a resource.
func (t *loadTx) Balance(k ledger.BalanceKey) (u ledger.Usage, err error) {
	err = t.tx.QueryRow(t.ctx, `
		SELECT records, used, given_back FROM balances WHERE site_id = $1 AND project_id = $2 AND resource_id = $3`,
		t.site, k.Project, k.Resource).Scan(&u.Records, &u.Deducted, &u.GivenBack)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return u, err
}

// Supersede closes the open failed record of an identity.
func (t *loadTx) Supersede(k *ledger.EntryKey) error {
	if row := t.openFailed[*k]; row != nil {
		row.state = ledger.FailedSuperseded
		delete(t.openFailed, *k)
	} else if id, open := t.failedBefore[*k]; open {
		t.superseded = append(t.superseded, id)
		delete(t.failedBefore, *k)
	}
	return nil
}

// write writes what has become of all records, moves the roll-ups, and moves
// the site's place in the log.
func (t *loadTx) write(ctx context.Context, l *ledger.Loading, damaged []int64, registryVersion int64) error {
	// Names first: they were given their numbers when they were met.
	b := &t.names
	t.queueRows(b)
	if len(t.superseded) > 0 {
		b.Queue(`
			UPDATE failed_records SET state = $3, closed_at = $4
			WHERE site_id = $1 AND failed_id = ANY ($2) AND state = 0`, t.site, t.superseded, ledger.FailedSuperseded, t.loadedAt)
	}
	t.queueTotals(b, l)
	if len(damaged) > 0 {
		b.Queue(`UPDATE batches SET damaged = true WHERE site_id = $1 AND batch_id = ANY ($2)`, t.site, damaged)
	}
	b.Queue(`
		UPDATE loading SET batch_id = $2, loaded = loaded + $3, failed = failed + $4, gross_charge = $5, last_loaded_at = $6,
			registry_version = $7, name_id = $8, record_id = $9
		WHERE site_id = $1`,
		t.site, t.batch, int64(l.Report.Loaded), int64(l.Report.Failed), l.GrossCharge, t.loadedAt,
		registryVersion, t.nameID, t.recordID)
	return t.tx.SendBatch(ctx, b).Close()
}

// queueRows queues the rows of records: those that are new and those that are
// corrected, in their places. Nothing joins, and nothing waits for the client in
// the middle of a statement, as a COPY would, where no time-out of the server
// ends it.
func (t *loadTx) queueRows(b *pgx.Batch) {
	t.queueEntries(b, t.inserted, "")
	t.queueEntries(b, t.revised, `
		ON CONFLICT (site_id, resource_id, usage_type, local_record_id, key_time) DO UPDATE SET revision = excluded.revision,
			batch_id = excluded.batch_id, ordinal = excluded.ordinal, project_id = excluded.project_id, user_id = excluded.user_id,
			usage_time = excluded.usage_time, charge = excluded.charge, loaded_at = excluded.loaded_at, digest = excluded.digest,
			gives_back = excluded.gives_back`)
	if len(t.replaced) > 0 {
		var replaced columns
		for _, e := range t.replaced {
			replaced.add(e.Record, e.Revision, e.Batch, e.Ordinal, e.Charge, e.LoadedAt)
		}
		b.Queue(`
			INSERT INTO revisions (site_id, record_id, revision, batch_id, ordinal, charge, loaded_at)
			SELECT $1::bigint, u.* FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) AS u`,
			replaced.args(t.site)...)
	}
	if len(t.failed) > 0 {
		var keys keyColumns
		var numbers columns
		n := len(t.failed)
		states, failures, raws := make([]int16, n), make([]string, n), make([][]byte, n)
		for i, row := range t.failed {
			keys.add(&row.EntryKey)
			numbers.add(row.Batch, row.Ordinal)
			states[i], failures[i], raws[i] = row.state, string(row.failure), row.raw
		}
		b.Queue(`
			INSERT INTO failed_records (site_id, failed_id, resource_id, usage_type, local_record_id, key_time, batch_id, ordinal,
				state, failure, record, failed_at, closed_at)
			SELECT $1::bigint, nextval('failed_ids'), u.*, $11::bigint, CASE state WHEN 0 THEN NULL ELSE $11::bigint END
			FROM unnest($2::bigint[], $3::smallint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::smallint[], $9::text[],
				$10::bytea[]) AS u (resource_id, usage_type, local_record_id, key_time, batch_id, ordinal, state, failure, record)`,
			append(append(keys.args(t.site), numbers[0], numbers[1]), states, failures, raws, t.loadedAt)...)
	}
}

// queueEntries queues the writing of entries.
func (t *loadTx) queueEntries(b *pgx.Batch, entries []*entryState, onConflict string) {
	if len(entries) == 0 {
		return
	}
	var keys keyColumns
	var numbers columns
	n := len(entries)
	digests, givesBack := make([][]byte, n), make([]bool, n)
	for i, s := range entries {
		keys.add(&s.EntryKey)
		numbers.add(s.Record, s.Revision, s.Batch, s.Ordinal, s.Project, s.User, s.UsageTime, s.Charge, s.LoadedAt)
		digests[i], givesBack[i] = s.Digest[:], s.GivesBack
	}
	args := keys.args(t.site)
	for _, column := range numbers {
		args = append(args, column)
	}
	b.Queue(`
		INSERT INTO records (site_id, resource_id, usage_type, local_record_id, key_time, record_id, revision, batch_id, ordinal,
			project_id, user_id, usage_time, charge, loaded_at, digest, gives_back)
		SELECT $1::bigint, u.* FROM unnest($2::bigint[], $3::smallint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
			$8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bytea[],
			$16::boolean[]) AS u`+onConflict, append(args, digests, givesBack)...)
}
