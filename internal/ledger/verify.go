package ledger

import "strings"

// A Check is something that must hold in a ledger. Its query gives a row for
// everything that does not: the site's number, and a text.
type Check struct{ What, Query string }

// An SQL is how an engine says what its checks need.
type SQL struct {
	Rows     string // the condition that chooses the rows to check, by site_id
	Counters string // the table of the sites' counters
	Month    string // the first day of the month of usage_time
	// LoadedBy is the condition that batch b was loaded when the record was,
	// and FailedBy that it was when the failed record was: both are r.
	LoadedBy, FailedBy string
}

// perHour and perDay cut times in SQL.
const (
	perHour = "3600000000000"
	perDay  = "86400000000000"
)

// Checks returns what must hold in the tables that every engine has: roll-ups,
// counters and references are what the records say.
func Checks(q SQL) []Check {
	usage := []string{"records", "deducted", "given_back"}
	usageOf := func(deducted string) string {
		return "1 AS records, CASE WHEN gives_back THEN 0 ELSE charge END AS " + deducted +
			", CASE WHEN gives_back THEN charge ELSE 0 END AS given_back"
	}
	const loads = "1 AS records, CASE WHEN gives_back THEN -charge ELSE charge END AS charge"
	return []Check{
		{"usage by day", q.compared("usage_totals WHERE span = 0 AND ", "day, resource_id, project_id, user_id, usage_type", usage,
			"usage_time / "+perDay+" AS day, resource_id, project_id, user_id, usage_type, "+usageOf("deducted"))},
		{"usage by month", q.compared("usage_totals WHERE span = 1 AND ", "day, resource_id, project_id, user_id, usage_type", usage,
			q.Month+" AS day, resource_id, project_id, user_id, usage_type, "+usageOf("deducted"))},
		{"balances", q.compared("balances WHERE ", "project_id, resource_id", []string{"records", "used", "given_back"},
			"project_id, resource_id, "+usageOf("used"))},
		{"loads by transaction", q.compared("loads WHERE span = 0 AND ", "resource_id, loaded_at", []string{"records", "charge"},
			"resource_id, loaded_at, "+loads)},
		{"loads by hour", q.compared("loads WHERE span = 1 AND ", "resource_id, loaded_at", []string{"records", "charge"},
			"resource_id, loaded_at - loaded_at % "+perHour+" AS loaded_at, "+loads)},
		{"the site's total of all charges", `
			SELECT site_id, gross_charge || ' millionths, its records have ' || charge
			FROM (SELECT site_id, gross_charge, coalesce((SELECT sum(charge) FROM records r WHERE r.site_id = c.site_id), 0) AS charge
				FROM ` + q.Counters + ` c WHERE ` + q.Rows + `) AS site
			WHERE gross_charge <> charge`},
		{"the site's last time of loading", `
			SELECT site_id, last_loaded_at || ' is before that of a record or of a failed one, ' || latest
			FROM (SELECT site_id, last_loaded_at, (SELECT max(at) FROM (
					SELECT max(loaded_at) AS at FROM records r WHERE r.site_id = c.site_id
					UNION ALL
					SELECT max(failed_at) FROM failed_records f WHERE f.site_id = c.site_id) AS times) AS latest
				FROM ` + q.Counters + ` c WHERE ` + q.Rows + `) AS site
			WHERE last_loaded_at < latest`},
		{"the site's number of revisions", `
			SELECT site_id, 'its records have replaced ' || replaced || '; ' || kept || ' are here, '
				|| archived_revisions || ' in archives'
			FROM (SELECT site_id, archived_revisions,
					coalesce((SELECT sum(revision - 1) FROM records r WHERE r.site_id = c.site_id), 0) AS replaced,
					(SELECT count(*) FROM revisions v WHERE v.site_id = c.site_id) AS kept
				FROM ` + q.Counters + ` c WHERE ` + q.Rows + `) AS site
			WHERE replaced <> kept + archived_revisions`},
		// Archives take a record's first revisions.
		{"revisions", `
			SELECT r.site_id, 'record ' || r.record_id || ' has ' || count(*) || ' from revision ' || min(v.revision)
				|| ' before revision ' || r.revision
			FROM (SELECT * FROM records WHERE ` + q.Rows + `) AS r
			JOIN revisions v ON v.site_id = r.site_id AND v.record_id = r.record_id
			GROUP BY r.site_id, r.record_id, r.revision
			HAVING count(*) <> r.revision - min(v.revision) OR max(v.revision) >= r.revision OR min(v.revision) < 1`},
		{"numbers of records", `
			SELECT site_id, 'record ' || record_id || ' is there ' || count(*) || ' times' FROM records WHERE ` + q.Rows + `
			GROUP BY site_id, record_id HAVING count(*) > 1`},
		{"open failed records of one identity", `
			SELECT site_id, 'resource ' || resource_id || ', ' || local_record_id || ': ' || count(*)
			FROM failed_records WHERE state = 0 AND ` + q.Rows + `
			GROUP BY site_id, resource_id, usage_type, local_record_id, key_time HAVING count(*) > 1`},
		{"states of failed records", `
			SELECT site_id, 'failed record ' || failed_id || ' has state ' || state || ' and is '
				|| CASE WHEN closed_at IS NULL THEN 'not closed' ELSE 'closed' END
			FROM failed_records WHERE ` + q.Rows + ` AND (state NOT IN (0, 1, 2) OR (state = 0) <> (closed_at IS NULL))`},
		{"open failed records", `
			SELECT site_id, 'failed record ' || failed_id || ' is open, though the record was judged again later'
			FROM (` + q.judgedAgain() + `) AS judged WHERE state = 0 AND (later IS NOT NULL OR record_id IS NOT NULL)`},
		{"what a record refers to", `
			SELECT r.site_id, 'record ' || r.record_id
			FROM (SELECT * FROM records WHERE ` + q.Rows + `) AS r
			LEFT JOIN resources n ON n.site_id = r.site_id AND n.resource_id = r.resource_id
			LEFT JOIN projects p ON p.site_id = r.site_id AND p.project_id = r.project_id
			LEFT JOIN users u ON u.site_id = r.site_id AND u.user_id = r.user_id
			LEFT JOIN batches b ON b.site_id = r.site_id AND b.batch_id = r.batch_id AND r.ordinal < b.record_count AND ` + q.LoadedBy + `
			WHERE n.site_id IS NULL OR p.site_id IS NULL OR u.site_id IS NULL OR b.site_id IS NULL`},
		{"what a revision refers to", `
			SELECT r.site_id, 'revision ' || r.revision || ' of record ' || r.record_id
			FROM (SELECT * FROM revisions WHERE ` + q.Rows + `) AS r
			LEFT JOIN batches b ON b.site_id = r.site_id AND b.batch_id = r.batch_id AND r.ordinal < b.record_count AND ` + q.LoadedBy + `
			WHERE b.site_id IS NULL`},
		{"what a failed record refers to", `
			SELECT r.site_id, 'failed record ' || r.failed_id
			FROM (SELECT * FROM failed_records WHERE ` + q.Rows + `) AS r
			LEFT JOIN resources n ON n.site_id = r.site_id AND n.resource_id = r.resource_id
			LEFT JOIN batches b ON b.site_id = r.site_id AND b.batch_id = r.batch_id AND r.ordinal < b.record_count AND ` + q.FailedBy + `
			WHERE n.site_id IS NULL OR b.site_id IS NULL`},
		{"what an allocation refers to", `
			SELECT r.site_id, 'the allocation of resource ' || r.resource_id || ' to project ' || r.project_id || ' from ' || r.start_time
			FROM (SELECT * FROM allocations WHERE ` + q.Rows + `) AS r
			LEFT JOIN resources n ON n.site_id = r.site_id AND n.resource_id = r.resource_id
			LEFT JOIN projects p ON p.site_id = r.site_id AND p.project_id = r.project_id
			WHERE n.site_id IS NULL OR p.site_id IS NULL OR r.end_time <= r.start_time OR r.amount < 0`},
		{"the users of projects", `
			SELECT r.site_id, 'project ' || r.project_id || ', user ' || r.user_id
			FROM (SELECT * FROM project_users WHERE ` + q.Rows + `) AS r
			LEFT JOIN projects p ON p.site_id = r.site_id AND p.project_id = r.project_id
			LEFT JOIN users u ON u.site_id = r.site_id AND u.user_id = r.user_id
			WHERE p.site_id IS NULL OR u.site_id IS NULL`},
	}
}

// judgedAgain returns the query for the failed records, each with a later
// failure of the same identity, and with the record that was loaded later.
func (q SQL) judgedAgain() string {
	return `
		SELECT f.*, r.record_id
		FROM (SELECT site_id, failed_id, resource_id, usage_type, local_record_id, key_time, batch_id, ordinal, state,
				lead(failed_id) OVER (PARTITION BY site_id, resource_id, usage_type, local_record_id, key_time
					ORDER BY batch_id, ordinal) AS later
			FROM failed_records WHERE ` + q.Rows + `) AS f
		LEFT JOIN records r ON r.site_id = f.site_id AND r.resource_id = f.resource_id AND r.usage_type = f.usage_type
			AND r.local_record_id = f.local_record_id AND r.key_time = f.key_time
			AND (r.batch_id > f.batch_id OR r.batch_id = f.batch_id AND r.ordinal > f.ordinal)`
}

// UnprovenSuperseded returns the query for the superseded failed records for
// which there is no row of what has superseded them: content that was loaded
// already must have come again.
func (q SQL) UnprovenSuperseded() string {
	return `
		SELECT failed_id, resource_id, usage_type, local_record_id, key_time, batch_id, ordinal
		FROM (` + q.judgedAgain() + `) AS judged WHERE state = 2 AND later IS NULL AND record_id IS NULL`
}

// compared returns the query for the rows in which a roll-up with these keys
// and sums differs from what the records add up to.
func (q SQL) compared(rollUp, keys string, sums []string, fromRecords string) string {
	var summed, nonzero []string
	for _, column := range sums {
		summed = append(summed, "sum("+column+")")
		nonzero = append(nonzero, column+" <> 0")
	}
	columns := strings.Join(sums, ", ")
	return `
		SELECT site_id, min(side) || ' ' || concat_ws(', ', ` + columns + `) || ' (` + columns + `) for ' || concat_ws(', ', ` + keys + `) || ' (` + keys + `)'
		FROM (
			SELECT 'rolled up' AS side, site_id, ` + keys + `, ` + columns + ` FROM ` + rollUp + q.Rows + ` AND (` + strings.Join(nonzero, " OR ") + `)
			UNION ALL
			SELECT 'the records have', site_id, ` + keys + `, ` + strings.Join(summed, ", ") + `
			FROM (SELECT site_id, ` + fromRecords + ` FROM records WHERE ` + q.Rows + `) AS r
			GROUP BY site_id, ` + keys + `) AS both_sides
		GROUP BY site_id, ` + keys + `, ` + columns + ` HAVING count(*) <> 2`
}
