package sqlite

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/apd/v3"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// groupColumns are what each key groups by, in the rows of usageRows.
var groupColumns = map[amieusage.GroupKey]string{
	amieusage.ByResource:  `(SELECT name FROM resources n WHERE n.resource_id = u.resource_id)`,
	amieusage.ByProject:   `(SELECT local_project_id FROM projects n WHERE n.project_id = u.project_id)`,
	amieusage.ByUser:      `(SELECT username FROM users n WHERE n.user_id = u.user_id)`,
	amieusage.ByDay:       `date(u.day * 86400, 'unixepoch')`,
	amieusage.ByMonth:     `strftime('%Y-%m', u.day * 86400, 'unixepoch')`,
	amieusage.ByUsageType: `u.usage_type`,
}

// groupInner is what each key groups by before names are looked up.
var groupInner = map[amieusage.GroupKey]string{
	amieusage.ByResource:  `resource_id`,
	amieusage.ByProject:   `project_id`,
	amieusage.ByUser:      `user_id`,
	amieusage.ByDay:       `day`,
	amieusage.ByMonth:     `day`,
	amieusage.ByUsageType: `usage_type`,
}

// usageRows gives usage in [?2, ?3) by day: whole days from the roll-up, what
// is left at both ends from the records. [?4, ?5) are the whole days in it.
const usageRows = `
	SELECT day, resource_id, project_id, user_id, usage_type, records, deducted, given_back
	FROM daily_usage WHERE site_id = ?1 AND day >= ?4 AND day < ?5
	UNION ALL
	SELECT usage_time / 86400000000000, resource_id, project_id, user_id, usage_type, 1,
		CASE gives_back WHEN 0 THEN charge ELSE 0 END, CASE gives_back WHEN 0 THEN 0 ELSE charge END
	FROM records WHERE site_id = ?1 AND (
		usage_time >= ?2 AND usage_time < min(?3, ?4 * 86400000000000)
		OR usage_time >= max(?2, ?5 * 86400000000000) AND usage_time < ?3)`

// Summary sums up usage by time of usage.
func (l *Ledger) Summary(ctx context.Context, site ledger.SiteID, q amieusage.SummaryQuery, maxRows int) (*amieusage.Summary, error) {
	from, to := nanos(q.From), nanos(q.To)
	if q.To.IsZero() {
		to = math.MaxInt64
	}
	firstDay := (from + dayNanos - 1) / dayNanos
	lastDay := to / dayNanos
	if q.To.IsZero() {
		lastDay = math.MaxInt64 / dayNanos
	}
	if firstDay > lastDay {
		// Within one day: all of it from the records.
		firstDay, lastDay = lastDay+1, lastDay+1
	}
	var inner, outer []string
	for _, k := range q.GroupBy {
		inner = append(inner, groupInner[k])
		outer = append(outer, groupColumns[k])
	}
	columns := strings.Join(outer, ", ")
	query := `SELECT ` + columns + `, sum(records), sum(deducted), sum(given_back)
		FROM (SELECT ` + strings.Join(slices.Compact(slices.Sorted(slices.Values(inner))), ", ") + `,
				sum(records) AS records, sum(deducted) AS deducted, sum(given_back) AS given_back
			FROM (` + usageRows + `) GROUP BY ` + strings.Join(inner, ", ") + `) u
		GROUP BY ` + columns + ` HAVING sum(records) > 0 ORDER BY ` + columns + ` LIMIT ?6`
	summary := &amieusage.Summary{GroupBy: q.GroupBy}
	err := l.db.read(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.Execute(conn, query, &sqlitex.ExecOptions{
			Args: []any{int64(site), from, to, firstDay, lastDay, maxRows + 1},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				summary.Rows = append(summary.Rows, scanSummary(stmt, q.GroupBy))
				return nil
			},
		})
		if err != nil {
			return err
		}
		if len(summary.Rows) > maxRows {
			return &amieusage.Error{
				Code:    amieusage.CodeTooLarge,
				Message: "the summary has too many rows",
				Hint:    "group by less, or ask for a shorter time",
			}
		}
		byResource := slices.Contains(q.GroupBy, amieusage.ByResource)
		if slices.Contains(q.GroupBy, amieusage.ByProject) && len(q.GroupBy) == 1+int(asNumber(byResource)) {
			return addBalances(conn, site, byResource, summary.Rows)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return summary, nil
}

func scanSummary(stmt *sqlite.Stmt, keys []amieusage.GroupKey) amieusage.SummaryRow {
	var r amieusage.SummaryRow
	for i, k := range keys {
		switch k {
		case amieusage.ByResource:
			r.Resource = stmt.ColumnText(i)
		case amieusage.ByProject:
			r.LocalProjectID = stmt.ColumnText(i)
		case amieusage.ByUser:
			r.Username = stmt.ColumnText(i)
		case amieusage.ByDay:
			r.Day = stmt.ColumnText(i)
		case amieusage.ByMonth:
			r.Month = stmt.ColumnText(i)
		case amieusage.ByUsageType:
			r.UsageType = usageTypes[stmt.ColumnInt64(i)]
		}
	}
	n := len(keys)
	deducted, givenBack := stmt.ColumnInt64(n+1), stmt.ColumnInt64(n+2)
	r.RecordCount = stmt.ColumnInt64(n)
	r.Deducted = amieusage.ChargeOfMillionths(deducted)
	r.GivenBack = amieusage.ChargeOfMillionths(givenBack)
	r.Charge = amieusage.ChargeOfMillionths(deducted - givenBack)
	return r
}

// addBalances gives each row the balance of its project, or of its project on
// its resource.
func addBalances(conn *sqlite.Conn, site ledger.SiteID, byResource bool, rows []amieusage.SummaryRow) error {
	type key struct{ project, resource string }
	balances := map[key]*amieusage.Balance{}
	resource := `''`
	if byResource {
		resource = `r.name`
	}
	err := sqlitex.Execute(conn, `
		SELECT p.local_project_id, `+resource+`, sum(allocated), sum(used), sum(given_back) FROM (
			SELECT project_id, resource_id, amount AS allocated, 0 AS used, 0 AS given_back
			FROM allocations WHERE site_id = ?1
			UNION ALL
			SELECT project_id, resource_id, 0, used, given_back FROM balances WHERE site_id = ?1) b
		JOIN projects p ON p.project_id = b.project_id
		JOIN resources r ON r.resource_id = b.resource_id
		GROUP BY 1, 2`,
		&sqlitex.ExecOptions{
			Args: []any{int64(site)},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				allocated, used, givenBack := stmt.ColumnInt64(2), stmt.ColumnInt64(3), stmt.ColumnInt64(4)
				balances[key{stmt.ColumnText(0), stmt.ColumnText(1)}] = &amieusage.Balance{
					Allocated: amieusage.ChargeOfMillionths(allocated),
					Used:      amieusage.ChargeOfMillionths(used),
					GivenBack: amieusage.ChargeOfMillionths(givenBack),
					Remaining: remaining(allocated, used, givenBack),
				}
				return nil
			},
		})
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i].Balance = balances[key{rows[i].LocalProjectID, rows[i].Resource}]
	}
	return nil
}

// remaining returns allocated − used + givenBack, which may be beyond an
// int64.
func remaining(allocated, used, givenBack int64) amieusage.Charge {
	var sum apd.BigInt
	sum.Sub(apd.NewBigInt(allocated), apd.NewBigInt(used))
	sum.Add(&sum, apd.NewBigInt(givenBack))
	d := apd.NewWithBigInt(&sum, -6)
	d.Reduce(d)
	return amieusage.ChargeOf(d)
}
