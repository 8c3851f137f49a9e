package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// groupColumns are what each key groups by, in the rows of usageRows: a number,
// and the name that it stands for.
var groupColumns = map[amieusage.GroupKey]struct{ number, name string }{
	amieusage.ByResource:  {`resource_id`, `(SELECT name FROM resources n WHERE n.site_id = $1 AND n.resource_id = u.resource_id)`},
	amieusage.ByProject:   {`project_id`, `(SELECT local_project_id FROM projects n WHERE n.site_id = $1 AND n.project_id = u.project_id)`},
	amieusage.ByUser:      {`user_id`, `(SELECT username FROM users n WHERE n.site_id = $1 AND n.user_id = u.user_id)`},
	amieusage.ByDay:       {number: `day`},
	amieusage.ByMonth:     {number: monthOf(`day`)},
	amieusage.ByUsageType: {number: `usage_type`},
}

// monthOf is the first day of the month of a day.
func monthOf(day string) string {
	return `date_trunc('month', date '1970-01-01' + (` + day + `)::integer)::date - date '1970-01-01'`
}

// usageRows gives the usage of whole months, [$2, $3), and of whole days beside
// them, [$4, $5) and [$6, $7), from the roll-ups, and what is left at both
// ends, [$8, $9) and [$10, $11), from the records.
const usageRows = `
	SELECT day, ` + totalColumns + ` FROM usage_totals WHERE site_id = $1 AND span = 1 AND day >= $2 AND day < $3
	UNION ALL
	SELECT day, ` + totalColumns + ` FROM usage_totals WHERE site_id = $1 AND span = 0 AND day >= $4 AND day < $5
	UNION ALL
	SELECT day, ` + totalColumns + ` FROM usage_totals WHERE site_id = $1 AND span = 0 AND day >= $6 AND day < $7
	UNION ALL
	SELECT usage_time / 86400000000000, ` + recordColumns + ` FROM records WHERE site_id = $1 AND usage_time >= $8 AND usage_time < $9
	UNION ALL
	SELECT usage_time / 86400000000000, ` + recordColumns + ` FROM records WHERE site_id = $1 AND usage_time >= $10 AND usage_time < $11`

// totalColumns are columns of usage_totals, and recordColumns the same of one
// record.
const (
	totalColumns  = `resource_id, project_id, user_id, usage_type, records, deducted, given_back`
	recordColumns = `resource_id, project_id, user_id, usage_type, 1 AS records,
	CASE WHEN gives_back THEN 0 ELSE charge END AS deducted, CASE WHEN gives_back THEN charge ELSE 0 END AS given_back`
)

// summaryQuery returns the query of a summary: for each key a number and a
// name, then the sums.
func summaryQuery(keys []amieusage.GroupKey) string {
	var numbers, inner, outer, order []string
	for i, k := range keys {
		c := groupColumns[k]
		column := "g" + string(rune('0'+i))
		numbers = append(numbers, c.number+" AS "+column)
		inner = append(inner, column)
		name := `''`
		if c.name != "" {
			// One name for each number, so the names can be looked up last.
			name = strings.ReplaceAll(c.name, "u."+c.number, "u."+column)
			order = append(order, "n"+column)
		} else {
			order = append(order, column)
		}
		outer = append(outer, column+"::bigint", name+" AS n"+column)
	}
	groups := strings.Join(inner, ", ")
	return `SELECT ` + strings.Join(outer, ", ") + `, records, deducted, given_back
		FROM (SELECT ` + groups + `, sum(records)::bigint AS records, sum(deducted)::bigint AS deducted, sum(given_back)::bigint AS given_back
			FROM (SELECT ` + strings.Join(numbers, ", ") + `, records, deducted, given_back FROM (` + usageRows + `) AS usage) AS numbered
			GROUP BY ` + groups + ` HAVING sum(records) > 0) AS u
		ORDER BY ` + strings.Join(order, ", ") + ` LIMIT $12`
}

// Summary sums up usage by time of usage.
func (l *Ledger) Summary(ctx context.Context, site ledger.SiteID, q amieusage.SummaryQuery, maxRows int) (*amieusage.Summary, error) {
	summary := &amieusage.Summary{GroupBy: q.GroupBy}
	p := ledger.UsagePeriodsOf(q.From, q.To, slices.Contains(q.GroupBy, amieusage.ByDay))
	args := []any{int64(site)}
	for _, part := range []ledger.Period{p.Months, p.Days[0], p.Days[1], p.Records[0], p.Records[1]} {
		args = append(args, part.From, part.To)
	}
	args = append(args, maxRows+1)
	bytes := 0
	err := l.db.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, summaryQuery(q.GroupBy), args...)
		if err != nil {
			return err
		}
		n := len(q.GroupBy)
		u := &ledger.StoredUsage{Names: make([]string, n), Codes: make([]int64, n)}
		var into []any
		for i := range n {
			into = append(into, &u.Codes[i], &u.Names[i])
		}
		into = append(into, &u.Records, &u.Deducted, &u.GivenBack)
		if _, err := pgx.ForEachRow(rows, into, func() error {
			row := ledger.SummaryRow(q.GroupBy, u)
			summary.Rows = append(summary.Rows, row)
			if bytes += ledger.SummaryBytes(&row); bytes > ledger.MaxSummaryBytes {
				return ledger.ErrManyRows
			}
			return nil
		}); err != nil {
			return err
		}
		if has, byResource := ledger.HasBalances(q.GroupBy); has {
			balances, err := readBalances(ctx, tx, site, byResource)
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

// readBalances reads where each project stands, or each on each resource.
func readBalances(ctx context.Context, tx pgx.Tx, site ledger.SiteID, byResource bool) ([]ledger.StoredBalance, error) {
	resource := `''`
	if byResource {
		resource = `r.name`
	}
	return rowsOf(ctx, tx, pgx.RowToStructByPos[ledger.StoredBalance], `
		SELECT p.local_project_id, `+resource+`, sum(allocated)::bigint, sum(used)::bigint, sum(given_back)::bigint, bool_or(granted) FROM (
			SELECT project_id, resource_id, amount AS allocated, 0 AS used, 0 AS given_back, true AS granted
			FROM allocations WHERE site_id = $1
			UNION ALL
			SELECT project_id, resource_id, 0, used, given_back, false FROM balances WHERE site_id = $1) b
		JOIN projects p ON p.site_id = $1 AND p.project_id = b.project_id
		JOIN resources r ON r.site_id = $1 AND r.resource_id = b.resource_id
		GROUP BY 1, 2`, int64(site))
}
