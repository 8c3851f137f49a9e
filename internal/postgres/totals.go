package postgres

import (
	"cmp"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/amieusage/amieusage/internal/ledger"
)

// queueTotals queues the moving of the roll-ups, in order of their keys.
func (t *loadTx) queueTotals(b *pgx.Batch, l *ledger.Loading) {
	var totals columns
	for _, k := range slices.SortedFunc(maps.Keys(l.Totals), func(a, b ledger.TotalKey) int {
		return cmp.Or(cmp.Compare(a.Span, b.Span), cmp.Compare(a.Day, b.Day), cmp.Compare(a.Resource, b.Resource),
			cmp.Compare(a.Project, b.Project), cmp.Compare(a.User, b.User), cmp.Compare(a.UsageType, b.UsageType))
	}) {
		u := l.Totals[k]
		totals.add(k.Span, k.Day, k.Resource, k.Project, k.User, k.UsageType, u.Records, u.Deducted, u.GivenBack)
	}
	if len(totals) > 0 {
		b.Queue(`
			INSERT INTO usage_totals AS t
				(site_id, span, day, resource_id, project_id, user_id, usage_type, records, deducted, given_back)
			SELECT $1::bigint, u.* FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
				$8::bigint[], $9::bigint[], $10::bigint[]) AS u
			ON CONFLICT (site_id, span, day, resource_id, project_id, user_id, usage_type) DO UPDATE SET
				records = t.records + excluded.records, deducted = t.deducted + excluded.deducted,
				given_back = t.given_back + excluded.given_back`, totals.args(t.site)...)
	}
	var balances columns
	for _, k := range slices.SortedFunc(maps.Keys(l.Balances), func(a, b ledger.BalanceKey) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.Resource, b.Resource))
	}) {
		u := l.Balances[k]
		balances.add(k.Project, k.Resource, u.Records, u.Deducted, u.GivenBack)
	}
	if len(balances) > 0 {
		b.Queue(`
			INSERT INTO balances AS t (site_id, project_id, resource_id, records, used, given_back)
			SELECT $1::bigint, u.* FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS u
			ON CONFLICT (site_id, project_id, resource_id) DO UPDATE SET records = t.records + excluded.records,
				used = t.used + excluded.used, given_back = t.given_back + excluded.given_back`, balances.args(t.site)...)
	}
	var loads [2]columns // one statement moves a row once
	for _, k := range slices.SortedFunc(maps.Keys(l.Loads), func(a, b ledger.LoadKey) int {
		return cmp.Or(cmp.Compare(a.Span, b.Span), cmp.Compare(a.LoadedAt, b.LoadedAt), cmp.Compare(a.Resource, b.Resource))
	}) {
		u := l.Loads[k]
		records := u.Records
		for i, charge := range u.Nets() {
			loads[i].add(k.Span, k.LoadedAt, k.Resource, records, charge)
			records = 0
		}
	}
	for _, moves := range loads {
		if len(moves) > 0 {
			b.Queue(`
				INSERT INTO loads AS t (site_id, span, loaded_at, resource_id, records, charge)
				SELECT $1::bigint, u.* FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS u
				ON CONFLICT (site_id, span, loaded_at, resource_id) DO UPDATE SET records = t.records + excluded.records,
					charge = t.charge + excluded.charge`, moves.args(t.site)...)
		}
	}
}

// columns are rows of numbers, column by column.
type columns [][]int64

func (c *columns) add(row ...int64) {
	if *c == nil {
		*c = make([][]int64, len(row))
	}
	for i, v := range row {
		(*c)[i] = append((*c)[i], v)
	}
}

// args returns the columns as arguments behind the site.
func (c columns) args(site int64) []any {
	args := []any{site}
	for _, column := range c {
		args = append(args, column)
	}
	return args
}
