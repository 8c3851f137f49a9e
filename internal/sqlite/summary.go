package sqlite

import (
	"context"
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

// usageRows gives the usage of whole months, [?2, ?3), and of whole days beside
// them, [?4, ?5) and [?6, ?7), from the roll-ups, and what is left at both
// ends, [?8, ?9) and [?10, ?11), from the records.
const usageRows = `
	SELECT day, ` + totalColumns + ` FROM usage_totals WHERE site_id = ?1 AND span = 1 AND day >= ?2 AND day < ?3
	UNION ALL
	SELECT day, ` + totalColumns + ` FROM usage_totals WHERE site_id = ?1 AND span = 0 AND day >= ?4 AND day < ?5
	UNION ALL
	SELECT day, ` + totalColumns + ` FROM usage_totals WHERE site_id = ?1 AND span = 0 AND day >= ?6 AND day < ?7
	UNION ALL
	SELECT usage_time / 86400000000000, ` + recordColumns + ` FROM records WHERE site_id = ?1 AND usage_time >= ?8 AND usage_time < ?9
	UNION ALL
	SELECT usage_time / 86400000000000, ` + recordColumns + ` FROM records WHERE site_id = ?1 AND usage_time >= ?10 AND usage_time < ?11`

// totalColumns are columns of usage_totals, and recordColumns the same of one
// record.
const (
	totalColumns  = `resource_id, project_id, user_id, usage_type, records, deducted, given_back`
	recordColumns = `resource_id, project_id, user_id, usage_type, 1 AS records,
	CASE gives_back WHEN 0 THEN charge ELSE 0 END AS deducted, CASE gives_back WHEN 0 THEN 0 ELSE charge END AS given_back`
)

// usageBounds returns the parameters ?2 to ?11 of usageRows for the times
// [from, to); by day, nothing comes from whole months.
func usageBounds(from, to int64, byDay bool) []any {
	firstDay, lastDay := (from+dayNanos-1)/dayNanos, to/dayNanos
	if firstDay > lastDay {
		// Within one day: all of it from the records.
		return []any{0, 0, 0, 0, 0, 0, from, to, 0, 0}
	}
	firstMonth, lastMonth := firstOfMonth(firstDay), firstOfMonth(lastDay)
	if firstMonth < firstDay {
		firstMonth = firstOfMonth(firstMonth + 31)
	}
	if byDay || firstMonth >= lastMonth {
		firstMonth, lastMonth = lastDay, lastDay
	}
	return []any{
		firstMonth, lastMonth, firstDay, firstMonth, lastMonth, lastDay,
		from, firstDay * dayNanos, lastDay * dayNanos, to,
	}
}

// Summary sums up usage by time of usage.
func (l *Ledger) Summary(ctx context.Context, site ledger.SiteID, q amieusage.SummaryQuery, maxRows int) (*amieusage.Summary, error) {
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
		GROUP BY ` + columns + ` HAVING sum(records) > 0 ORDER BY ` + columns + ` LIMIT ?12`
	summary := &amieusage.Summary{GroupBy: q.GroupBy}
	args := append([]any{int64(site)}, usageBounds(nanos(q.From), endNanos(q.To), slices.Contains(q.GroupBy, amieusage.ByDay))...)
	args = append(args, maxRows+1)
	err := l.db.read(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{
			Args: args,
			ResultFunc: func(stmt *sqlite.Stmt) error {
				summary.Rows = append(summary.Rows, scanSummary(stmt, q.GroupBy))
				return nil
			},
		})
		if err != nil {
			return err
		}
		byResource := slices.Contains(q.GroupBy, amieusage.ByResource)
		if slices.Contains(q.GroupBy, amieusage.ByProject) && len(q.GroupBy) == 1+int(asNumber(byResource)) {
			if err := addBalances(conn, site, byResource, summary); err != nil {
				return err
			}
		}
		if len(summary.Rows) > maxRows {
			return &amieusage.Error{
				Code:    amieusage.CodeTooLarge,
				Message: "the summary has too many rows",
				Hint:    "group by less, or ask for a shorter time",
			}
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
// its resource, and adds a row for each that has an allocation but no usage in
// the time asked for.
func addBalances(conn *sqlite.Conn, site ledger.SiteID, byResource bool, summary *amieusage.Summary) error {
	type key struct{ project, resource string }
	rows := map[key]int{}
	for i, r := range summary.Rows {
		rows[key{r.LocalProjectID, r.Resource}] = i
	}
	resource := `''`
	if byResource {
		resource = `r.name`
	}
	err := sqlitex.Execute(conn, `
		SELECT p.local_project_id, `+resource+`, sum(allocated), sum(used), sum(given_back), max(granted) FROM (
			SELECT project_id, resource_id, amount AS allocated, 0 AS used, 0 AS given_back, 1 AS granted
			FROM allocations WHERE site_id = ?1
			UNION ALL
			SELECT project_id, resource_id, 0, used, given_back, 0 FROM balances WHERE site_id = ?1) b
		JOIN projects p ON p.project_id = b.project_id
		JOIN resources r ON r.resource_id = b.resource_id
		GROUP BY 1, 2`,
		&sqlitex.ExecOptions{
			Args: []any{int64(site)},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				k := key{stmt.ColumnText(0), stmt.ColumnText(1)}
				i, ok := rows[k]
				if !ok {
					if !stmt.ColumnBool(5) {
						return nil
					}
					none := amieusage.ChargeOfMillionths(0)
					i = len(summary.Rows)
					summary.Rows = append(summary.Rows, amieusage.SummaryRow{
						LocalProjectID: k.project, Resource: k.resource, Deducted: none, GivenBack: none, Charge: none,
					})
				}
				allocated, used, givenBack := stmt.ColumnInt64(2), stmt.ColumnInt64(3), stmt.ColumnInt64(4)
				summary.Rows[i].Balance = &amieusage.Balance{
					Allocated: amieusage.ChargeOfMillionths(allocated),
					Used:      amieusage.ChargeOfMillionths(used),
					GivenBack: amieusage.ChargeOfMillionths(givenBack),
					Remaining: remaining(allocated, used, givenBack),
				}
				return nil
			},
		})
	slices.SortFunc(summary.Rows, func(a, b amieusage.SummaryRow) int {
		return slices.Compare(a.Group(summary.GroupBy), b.Group(summary.GroupBy))
	})
	return err
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
