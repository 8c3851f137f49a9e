package sqlite

import (
	"maps"

	"zombiezen.com/go/sqlite/sqlitex"
)

type (
	totalKey   struct{ span, day, resource, project, user, usageType int64 }
	balanceKey struct{ project, resource int64 }
	loadKey    struct{ span, resource, loadedAt int64 }
	usage      struct{ records, deducted, givenBack int64 }
)

// count moves the roll-ups by an entry, up (+1) or down (−1).
func (t *loadTransaction) count(e *ledgerEntry, sign int64) {
	t.grossCharge += sign * e.charge
	delta := usage{records: sign}
	if e.givesBack {
		delta.givenBack = sign * e.charge
	} else {
		delta.deducted = sign * e.charge
	}
	addUsage(t.totals, totalKey{spanDay, e.usageTime / dayNanos, e.resource, e.project, e.user, e.usageType}, delta)
	addUsage(t.balances, balanceKey{e.project, e.resource}, delta)
	addUsage(t.loads, loadKey{spanTransaction, e.resource, e.loadedAt}, delta)
	addUsage(t.loads, loadKey{spanHour, e.resource, e.loadedAt - e.loadedAt%hourNanos}, delta)
}

func addUsage[K comparable](totals map[K]*usage, key K, delta usage) {
	u := totals[key]
	if u == nil {
		u = new(usage)
		totals[key] = u
	}
	u.records += delta.records
	u.deducted += delta.deducted
	u.givenBack += delta.givenBack
}

// writeTotals writes the roll-ups and the site's counts.
func (t *loadTransaction) writeTotals() error {
	site := int64(t.site)
	for k, u := range maps.Clone(t.totals) {
		k.span, k.day = spanMonth, firstOfMonth(k.day)
		addUsage(t.totals, k, *u)
	}
	for k, u := range t.totals {
		err := sqlitex.Execute(t.conn, `
			INSERT INTO usage_totals
				(site_id, span, day, resource_id, project_id, user_id, usage_type, records, deducted, given_back)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET records = records + excluded.records,
				deducted = deducted + excluded.deducted, given_back = given_back + excluded.given_back`,
			&sqlitex.ExecOptions{Args: []any{
				site, k.span, k.day, k.resource, k.project, k.user, k.usageType, u.records, u.deducted, u.givenBack,
			}})
		if err != nil {
			return err
		}
	}
	for k, u := range t.balances {
		err := sqlitex.Execute(t.conn, `
			INSERT INTO balances (site_id, project_id, resource_id, records, used, given_back)
			VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET records = records + excluded.records,
				used = used + excluded.used, given_back = given_back + excluded.given_back`,
			&sqlitex.ExecOptions{Args: []any{site, k.project, k.resource, u.records, u.deducted, u.givenBack}})
		if err != nil {
			return err
		}
	}
	for k, u := range t.loads {
		err := sqlitex.Execute(t.conn, `
			INSERT INTO loads (site_id, span, resource_id, loaded_at, records, charge)
			VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET records = records + excluded.records, charge = charge + excluded.charge`,
			&sqlitex.ExecOptions{Args: []any{site, k.span, k.resource, k.loadedAt, u.records, u.deducted - u.givenBack}})
		if err != nil {
			return err
		}
	}
	return sqlitex.Execute(t.conn, `
		UPDATE sites SET loaded = loaded + ?1, failed = failed + ?2, queued = queued - ?1 - ?2,
			open_failed = ?3, gross_charge = ?4, last_loaded_at = ?5
		WHERE site_id = ?6`,
		&sqlitex.ExecOptions{Args: []any{
			t.report.Loaded, t.report.Failed, t.openFailed, t.grossCharge, t.loadedAt, site,
		}})
}

// firstOfMonth returns the first day of a day's month.
func firstOfMonth(day int64) int64 {
	return day - int64(timeOf(day*dayNanos).Day()) + 1
}
