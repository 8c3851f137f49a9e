package sqlite

import (
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage/internal/ledger"
)

// writeTotals writes the roll-ups and the site's counts.
func (t *loadTx) writeTotals(l *ledger.Loading) error {
	site := int64(t.site)
	for k, u := range l.Totals {
		err := sqlitex.Execute(t.conn, `
			INSERT INTO usage_totals
				(site_id, span, day, resource_id, project_id, user_id, usage_type, records, deducted, given_back)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET records = records + excluded.records,
				deducted = deducted + excluded.deducted, given_back = given_back + excluded.given_back`,
			&sqlitex.ExecOptions{Args: []any{
				site, k.Span, k.Day, k.Resource, k.Project, k.User, k.UsageType, u.Records, u.Deducted, u.GivenBack,
			}})
		if err != nil {
			return err
		}
	}
	for k, u := range l.Balances {
		err := sqlitex.Execute(t.conn, `
			INSERT INTO balances (site_id, project_id, resource_id, records, used, given_back)
			VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET records = records + excluded.records,
				used = used + excluded.used, given_back = given_back + excluded.given_back`,
			&sqlitex.ExecOptions{Args: []any{site, k.Project, k.Resource, u.Records, u.Deducted, u.GivenBack}})
		if err != nil {
			return err
		}
	}
	for k, u := range l.Loads {
		records := u.Records
		for _, charge := range u.Nets() {
			err := sqlitex.Execute(t.conn, `
				INSERT INTO loads (site_id, span, resource_id, loaded_at, records, charge)
				VALUES (?, ?, ?, ?, ?, ?)
				ON CONFLICT DO UPDATE SET records = records + excluded.records, charge = charge + excluded.charge`,
				&sqlitex.ExecOptions{Args: []any{site, k.Span, k.Resource, k.LoadedAt, records, charge}})
			if err != nil {
				return err
			}
			records = 0
		}
	}
	return sqlitex.Execute(t.conn, `
		UPDATE sites SET loaded = loaded + ?1, failed = failed + ?2, queued = queued - ?1 - ?2,
			open_failed = ?3, gross_charge = ?4, last_loaded_at = ?5, registry_version = registry_version + min(?7, 1)
		WHERE site_id = ?6`,
		&sqlitex.ExecOptions{Args: []any{
			l.Report.Loaded, l.Report.Failed, t.openFailed, l.GrossCharge, t.loadedAt, site, t.added,
		}})
}
