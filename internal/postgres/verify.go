package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/ledger"
)

// siteChecks are what must hold for each site, which is $1.
var siteChecks = append([]ledger.Check{
	{What: "the site's numbers of records", Query: `
		SELECT $1::bigint, concat('accepted ', accepted, ', loaded ', loaded, ', failed ', failed,
			'; the batches hold ', in_batches, ', of which ', queued, ' queued; failed records: ', failed_records)
		FROM (SELECT (SELECT accepted FROM acceptance WHERE site_id = $1) AS accepted,
				(SELECT loaded FROM loading WHERE site_id = $1) AS loaded,
				(SELECT failed FROM loading WHERE site_id = $1) AS failed,
				(SELECT coalesce(sum(record_count), 0) FROM batches WHERE site_id = $1) AS in_batches,
				(SELECT coalesce(sum(record_count), 0) FROM batches
					WHERE site_id = $1 AND (damaged OR batch_id > (SELECT batch_id FROM loading WHERE site_id = $1))) AS queued,
				(SELECT count(*) FROM failed_records WHERE site_id = $1) AS failed_records) AS n
		WHERE accepted IS DISTINCT FROM in_batches OR failed IS DISTINCT FROM failed_records
			OR accepted IS DISTINCT FROM loaded + failed + queued`},
	{What: "the site's numbers of batches", Query: `
		SELECT $1::bigint, concat('accepted up to ', accepted, ', loaded up to ', loaded, '; there are ', n, ', from ', first, ' to ', last)
		FROM (SELECT (SELECT batch_id FROM acceptance WHERE site_id = $1) AS accepted,
				(SELECT batch_id FROM loading WHERE site_id = $1) AS loaded,
				(SELECT count(*) FROM batches WHERE site_id = $1) AS n,
				(SELECT min(batch_id) FROM batches WHERE site_id = $1) AS first,
				(SELECT max(batch_id) FROM batches WHERE site_id = $1) AS last) AS n
		WHERE accepted IS NULL OR loaded IS NULL OR loaded > accepted OR n <> accepted OR first <> 1 OR last <> accepted`},
	{What: "the last numbers given", Query: `
		SELECT $1::bigint, concat('name ', name_id, ', record ', record_id, '; there are name ', last_name, ', record ', last_record)
		FROM (SELECT name_id, record_id,
				(SELECT coalesce(max(record_id), 0) FROM records WHERE site_id = $1) AS last_record,
				greatest((SELECT max(resource_id) FROM resources WHERE site_id = $1),
					(SELECT max(project_id) FROM projects WHERE site_id = $1),
					(SELECT max(user_id) FROM users WHERE site_id = $1)) AS last_name
			FROM loading WHERE site_id = $1) AS n
		WHERE record_id < last_record OR name_id < last_name`},
}, ledger.Checks(ledger.SQL{
	Rows:     "site_id = $1",
	Counters: "loading",
	Month:    monthOf("usage_time / 86400000000000"),
	LoadedBy: loadedBatch,
	FailedBy: loadedBatch,
})...)

// loadedBatch is the condition that batch b is loaded.
const loadedBatch = `NOT b.damaged AND b.batch_id <= (SELECT batch_id FROM loading WHERE site_id = $1)`

// Verify is [Ledger.VerifyAll] for whoever wants to know only whether the
// ledger adds up. The error names what differs.
func (l *Ledger) Verify(ctx context.Context) error {
	v, err := l.VerifyAll(ctx, func(*ledger.VerifiedSite) {})
	if err != nil {
		return err
	}
	return v.Err()
}

// VerifyAll verifies that roll-ups and counts are what the records add up to,
// and that all rows are what was accepted. It reads everything, each site in a
// snapshot of its own, for a long one keeps the rows from being cleared away
// that every send and every loading leaves behind; the ledger may be in use.
func (l *Ledger) VerifyAll(ctx context.Context, progress func(*ledger.VerifiedSite)) (*ledger.Verification, error) {
	v := &ledger.Verification{Ledger: l.db.name}
	type site struct {
		ID     int64
		Name   string
		Served bool
	}
	var sites []site
	err := l.db.long(ctx, beginSnapshot, func(ctx context.Context, tx pgx.Tx) (err error) {
		if err := verifyOwners(ctx, tx, v); err != nil {
			return err
		}
		sites, err = rowsOf(ctx, tx, pgx.RowToStructByPos[site], `SELECT site_id, name, served FROM sites ORDER BY name`)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, s := range sites {
		if !s.Served {
			v.Unserved = append(v.Unserved, s.Name)
			continue
		}
		verified := &ledger.VerifiedSite{Site: s.Name}
		v.Sites = append(v.Sites, verified)
		err := l.db.long(ctx, beginSnapshot, func(ctx context.Context, tx pgx.Tx) error {
			if err := verifySite(ctx, tx, s.ID, s.Name, v); err != nil {
				return err
			}
			return ledger.VerifyContents(ctx, &contentsTx{tx, s.ID}, l.packer, v, verified, func() { progress(verified) })
		})
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

const beginSnapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

// long runs f in one transaction that may take hours: only ctx ends it, and a
// lock that others do not let go of.
func (db *database) long(ctx context.Context, begin string, f func(ctx context.Context, tx pgx.Tx) error) error {
	conn, err := db.connection(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	begin += fmt.Sprintf("; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = %d", lockTimeout.Milliseconds())
	err = pgx.BeginTxFunc(ctx, conn.Conn(), pgx.TxOptions{BeginQuery: begin}, func(tx pgx.Tx) error { return f(ctx, tx) })
	if err != nil && ctx.Err() == nil && conn.Conn().IsClosed() {
		return db.unavailable(err)
	}
	return db.failure(err)
}

// verifyOwners looks for rows of sites that are not there.
func verifyOwners(ctx context.Context, tx pgx.Tx, v *ledger.Verification) error {
	tables, err := tablesOf(ctx, tx)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.shared {
			continue
		}
		orphans, err := rowsOf(ctx, tx, pgx.RowTo[int64], `
			SELECT t.site_id FROM `+t.name+` t LEFT JOIN sites s ON s.site_id = t.site_id
			WHERE s.site_id IS NULL AND NOT (t.site_id = 0 AND $1) GROUP BY t.site_id ORDER BY t.site_id`, t.name == "events")
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		for _, id := range orphans {
			v.Add(ledger.NoSite(id, t.name))
		}
	}
	return nil
}

// verifySite runs the checks of one site.
func verifySite(ctx context.Context, tx pgx.Tx, site int64, name string, v *ledger.Verification) error {
	for _, check := range siteChecks {
		rows, err := tx.Query(ctx, check.Query, site)
		if err != nil {
			return fmt.Errorf("%s: %w", check.What, err)
		}
		var text string
		if _, err := pgx.ForEachRow(rows, []any{nil, &text}, func() error {
			v.Add(ledger.Finding{Check: check.What, Site: name, Text: text})
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", check.What, err)
		}
	}
	// The sequence is read behind the snapshot, which has no later number.
	var failed, lastFailed int64
	err := tx.QueryRow(ctx, `
		SELECT (SELECT coalesce(max(failed_id), 0) FROM failed_records WHERE site_id = $1), last_value FROM failed_ids`, site).
		Scan(&failed, &lastFailed)
	if err == nil && failed > lastFailed {
		v.Add(ledger.Finding{Check: "the last number given to a failed record", Site: name, Text: fmt.Sprintf("%d, there is %d", lastFailed, failed)})
	}
	return err
}
