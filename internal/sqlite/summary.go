package sqlite

import (
	"context"
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// groupColumns are what each key groups by, in the rows of usageRows: a name, or
// a number.
var groupColumns = map[amieusage.GroupKey]string{
	amieusage.ByResource:  `(SELECT name FROM resources n WHERE n.resource_id = u.resource_id)`,
	amieusage.ByProject:   `(SELECT local_project_id FROM projects n WHERE n.project_id = u.project_id)`,
	amieusage.ByUser:      `(SELECT username FROM users n WHERE n.user_id = u.user_id)`,
	amieusage.ByDay:       `u.day`,
	amieusage.ByMonth:     `unixepoch(u.day * 86400, 'unixepoch', 'start of month') / 86400`,
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
	p := ledger.UsagePeriodsOf(q.From, q.To, slices.Contains(q.GroupBy, amieusage.ByDay))
	args := []any{int64(site)}
	for _, part := range []ledger.Period{p.Months, p.Days[0], p.Days[1], p.Records[0], p.Records[1]} {
		args = append(args, part.From, part.To)
	}
	args = append(args, maxRows+1)
	bytes := 0
	err := l.db.read(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{
			Args: args,
			ResultFunc: func(stmt *sqlite.Stmt) error {
				row := scanSummary(stmt, q.GroupBy)
				summary.Rows = append(summary.Rows, row)
				if bytes += ledger.SummaryBytes(&row); bytes > ledger.MaxSummaryBytes {
					return ledger.ErrManyRows
				}
				return nil
			},
		})
		if err != nil {
			return err
		}
		if has, byResource := ledger.HasBalances(q.GroupBy); has {
			balances, err := readBalances(conn, site, byResource)
			if err != nil {
				return err
			}
			ledger.AddBalances(summary, balances)
		}
		if len(summary.Rows) > maxRows {
			return ledger.ErrManyRows
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return summary, nil
}

func scanSummary(stmt *sqlite.Stmt, keys []amieusage.GroupKey) amieusage.SummaryRow {
	n := len(keys)
	u := &ledger.StoredUsage{Names: make([]string, n), Codes: make([]int64, n)}
	for i := range keys {
		if stmt.ColumnType(i) == sqlite.TypeInteger {
			u.Codes[i] = stmt.ColumnInt64(i)
		} else {
			u.Names[i] = stmt.ColumnText(i)
		}
	}
	u.Usage = ledger.Usage{Records: stmt.ColumnInt64(n), Deducted: stmt.ColumnInt64(n + 1), GivenBack: stmt.ColumnInt64(n + 2)}
	return ledger.SummaryRow(keys, u)
}

// readBalances reads where each project stands, or each on each resource.
func readBalances(conn *sqlite.Conn, site ledger.SiteID, byResource bool) (balances []ledger.StoredBalance, err error) {
	resource := `''`
	if byResource {
		resource = `r.name`
	}
	err = sqlitex.Execute(conn, `
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
				balances = append(balances, ledger.StoredBalance{
					Project:   stmt.ColumnText(0),
					Resource:  stmt.ColumnText(1),
					Allocated: stmt.ColumnInt64(2),
					Used:      stmt.ColumnInt64(3),
					GivenBack: stmt.ColumnInt64(4),
					Granted:   stmt.ColumnBool(5),
				})
				return nil
			},
		})
	return balances, err
}
