package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

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

// Verify checks that every batch can be read back, and that roll-ups and
// counts are what the records add up to. It reads everything, in one snapshot;
// the ledger may be in use. The error names what differs.
func (l *Ledger) Verify(ctx context.Context) error {
	var findings ledger.Findings
	err := l.db.long(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", func(ctx context.Context, tx pgx.Tx) error {
		if err := verifyOwners(ctx, tx, &findings); err != nil {
			return err
		}
		// Site by site: each is looked at where its rows are.
		type site struct {
			ID   int64
			Name string
		}
		sites, err := rowsOf(ctx, tx, pgx.RowToStructByPos[site], `SELECT site_id, name FROM sites WHERE served ORDER BY name`)
		if err != nil {
			return err
		}
		var lastFailed int64
		if err := tx.QueryRow(ctx, `SELECT last_value FROM failed_ids`).Scan(&lastFailed); err != nil {
			return err
		}
		for _, s := range sites {
			if err := l.verifySite(ctx, tx, s.ID, s.Name, lastFailed, &findings); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return findings.Err(l.db.name)
}

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
func verifyOwners(ctx context.Context, tx pgx.Tx, findings *ledger.Findings) error {
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
			WHERE s.site_id IS NULL GROUP BY t.site_id ORDER BY t.site_id`)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		for _, id := range orphans {
			findings.Add("sites", fmt.Sprintf("there is no site %d, which %s has rows of", id, t.name))
		}
	}
	return nil
}

func (l *Ledger) verifySite(ctx context.Context, tx pgx.Tx, site int64, name string, lastFailed int64, findings *ledger.Findings) error {
	for _, check := range siteChecks {
		rows, err := tx.Query(ctx, check.Query, site)
		if err != nil {
			return fmt.Errorf("%s: %w", check.What, err)
		}
		var text string
		if _, err := pgx.ForEachRow(rows, []any{nil, &text}, func() error {
			findings.Add(check.What, name+": "+text)
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", check.What, err)
		}
	}
	var failed int64
	err := tx.QueryRow(ctx, `SELECT coalesce(max(failed_id), 0) FROM failed_records WHERE site_id = $1`, site).Scan(&failed)
	if err != nil {
		return err
	}
	if failed > lastFailed {
		findings.Add("the last number given to a failed record", fmt.Sprintf("%s: %d, there is %d", name, lastFailed, failed))
	}
	rows, err := tx.Query(ctx, `SELECT batch_id, record_count, records, archive IS NOT NULL FROM batches WHERE site_id = $1`, site)
	if err != nil {
		return err
	}
	var batch, count int64
	var packed pgtype.DriverBytes // in the connection's buffer
	var archived bool
	_, err = pgx.ForEachRow(rows, []any{&batch, &count, &packed, &archived}, func() error {
		if text := l.packer.Check(packed, count, archived); text != "" {
			findings.Add("batches", fmt.Sprintf("%s: batch %d %s", name, batch, text))
		}
		return nil
	})
	return err
}
