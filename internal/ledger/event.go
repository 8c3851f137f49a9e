package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
)

// An Actor is who does something to a ledger.
type Actor struct {
	Who   string // a user of the operating system, or a key
	From  string // the machine or the address
	KeyID int64  // the key, or 0
	At    time.Time
}

type actorKey struct{}

// WithActor returns the context of what an actor does. A store notes the actor with each
// event.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf returns who a context acts for. Its At is now where none was set.
func ActorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	if a.At.IsZero() {
		a.At = time.Now()
	}
	return a
}

// An Event is one thing that was done to a ledger, beside sends. Events are only added.
type Event struct {
	ID        int64
	Site      string // "" for what is of no single site
	At        time.Time
	Who, From string
	Action    string // as in "added", "revoked" or "cleared"
	What      string // as in "user alice to project p.abc123456.000"
	KeyID     int64  // the key that did it, or that it is about; or 0
	Project   string // the local project ID that it is about, or ""
}

// NewEvent returns an event of the context's actor. keyID is the key that it is about; 0
// for that of the actor.
func NewEvent(ctx context.Context, at time.Time, keyID int64, action, format string, args ...any) Event {
	a := ActorOf(ctx)
	if keyID == 0 {
		keyID = a.KeyID
	}
	return Event{At: at, Who: storable(a.Who), From: storable(a.From), Action: action, What: fmt.Sprintf(format, args...), KeyID: keyID}
}

// EventsOf returns the events of what an import changed.
func EventsOf(ctx context.Context, changes []Change) []Event {
	events := make([]Event, len(changes))
	for i, c := range changes {
		events[i] = NewEvent(ctx, ActorOf(ctx).At, 0, c.Action, "%s", c.What)
		events[i].Project = c.Project
	}
	return events
}

// ClearedEvent returns the event of failed records that were cleared, which are in order.
func ClearedEvent(ctx context.Context, ids []int64, now time.Time) Event {
	return NewEvent(ctx, now, 0, "cleared", "failed records %s", ranges(ids))
}

// KeyCreated returns the event of a new key.
func KeyCreated(ctx context.Context, k *Key) Event {
	return NewEvent(ctx, k.CreatedAt, k.ID, "created", "key %d of site %s%s", k.ID, k.Site, labelled(k.Label))
}

// KeyRevoked returns the event of a key that was revoked.
func KeyRevoked(ctx context.Context, keyID int64, now time.Time) Event {
	return NewEvent(ctx, now, keyID, "revoked", "key %d", keyID)
}

func labelled(label string) string {
	if label == "" {
		return ""
	}
	return ": " + storable(label)
}

// ArchivedEvent returns the event of batches that were moved into a file.
func ArchivedEvent(ctx context.Context, file string, batches []int64) Event {
	return NewEvent(ctx, ActorOf(ctx).At, 0, "archived", "%d batches, from %d to %d, in %s", len(batches), slices.Min(batches), slices.Max(batches), file)
}

// CopiedEvent returns the event of a site that was copied into the ledger.
func CopiedEvent(ctx context.Context, site string) Event {
	return NewEvent(ctx, ActorOf(ctx).At, 0, "copied", "site %s into this ledger", site)
}

// ChoosePolicy sets the ledger's policy where none was chosen yet, and returns the one that
// the ledger has.
func ChoosePolicy(ctx context.Context, store Store, policy Policy) (Policy, error) {
	has, err := store.Policy(ctx)
	if err == nil && has == "" {
		has, err = store.SetPolicy(ctx, policy, true)
	}
	return cmp.Or(has, policy), err
}

// PolicyEvent returns the event of another policy.
func PolicyEvent(ctx context.Context, before, after Policy) Event {
	if before == "" {
		return NewEvent(ctx, ActorOf(ctx).At, 0, "chose", "policy %s", after)
	}
	return NewEvent(ctx, ActorOf(ctx).At, 0, "changed", "policy %s (was %s)", after, before)
}

// ranges writes numbers that are in order, as in 1-3, 7.
func ranges(ids []int64) string {
	var parts []string
	for i := 0; i < len(ids); {
		j := i
		for j+1 < len(ids) && ids[j+1] == ids[j]+1 {
			j++
		}
		if parts = append(parts, fmt.Sprint(ids[i])); j > i {
			parts[len(parts)-1] += fmt.Sprint("-", ids[j])
		}
		i = j + 1
	}
	return strings.Join(parts, ", ")
}

// A HistoryQuery selects what became of a ledger. Zero fields select all.
type HistoryQuery struct {
	Site          string
	LocalRecordID string    // only records, with this local record ID
	KeyID         int64     // what the key sent or did, or what was done to it
	Project       string    // by its local project ID
	Since         time.Time // of events, or of acceptance
	Limit         int       // rows of each kind; 0: all
}

// EventStatement returns the statement that selects the events of a query, in order, and
// its parameters. Both engines understand it. The columns are event_id, the site's name, at,
// who, origin, action, what, key_id and project.
func (q *HistoryQuery) EventStatement() (string, []any) {
	var w where
	if q.Site != "" {
		w.add("s.name = %s", q.Site)
	}
	if q.KeyID != 0 {
		w.add("e.key_id = %s", q.KeyID)
	}
	if q.Project != "" {
		w.add("e.project = %s", q.Project)
	}
	if !q.Since.IsZero() {
		w.add("e.at >= %s", Nanos(q.Since))
	}
	return `SELECT e.event_id, coalesce(s.name, ''), e.at, e.who, e.origin, e.action, e.what, e.key_id, e.project
		FROM events e LEFT JOIN sites s ON s.site_id = e.site_id` + w.text("WHERE") + ` ORDER BY e.at, e.event_id` + q.limit(), w.args
}

func (q *HistoryQuery) limit() string {
	if q.Limit == 0 {
		return ""
	}
	return fmt.Sprintf(" LIMIT %d", q.Limit)
}

// A where is the conditions of a statement, with their parameters.
type where struct {
	conditions []string
	args       []any
}

func (w *where) add(condition string, arg any) {
	w.args = append(w.args, arg)
	w.conditions = append(w.conditions, fmt.Sprintf(condition, fmt.Sprintf("$%d", len(w.args))))
}

func (w *where) text(word string) string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " " + word + " " + strings.Join(w.conditions, " AND ")
}

// A HistoryRow is one version of a record that a site sent: a revision, or a record that
// failed.
type HistoryRow struct {
	Site       string
	Identity   amieusage.Identity
	Project    string
	Username   string
	KeyID      int64 // the key it was sent with
	AcceptedAt time.Time

	// Of a revision.
	Revision int // from 1; 0: the record failed
	Newest   bool
	Charge   amieusage.Charge // negative where it is given back
	LoadedAt time.Time

	// Of a failed record.
	FailedID int64
	Failure  Failure
	FailedAt time.Time
	State    int64 // FailedOpen, FailedCleared or FailedSuperseded
}

// RevisionStatement returns the statement that selects the revisions of a query at one site, in order
// of acceptance, and its parameters. Both engines understand it. Its columns are
// the fields of [RevisionRow].
func (q *HistoryQuery) RevisionStatement(site SiteID) (string, []any) {
	var w where
	part := func(from string) string {
		w.conditions = nil
		w.add("r.site_id = %s", int64(site))
		if q.LocalRecordID != "" {
			w.add("r.local_record_id = %s", q.LocalRecordID)
			w.add("r.resource_id IN (SELECT resource_id FROM resources WHERE site_id = %s)", int64(site))
			w.conditions = append(w.conditions, "r.usage_type IN (1, 2, 3)")
		}
		if q.KeyID != 0 {
			w.add("b.key_id = %s", q.KeyID)
		}
		if q.Project != "" {
			w.add("p.local_project_id = %s", q.Project)
		}
		if !q.Since.IsZero() {
			w.add("b.accepted_at >= %s", Nanos(q.Since))
		}
		return from + `
			JOIN resources n ON n.site_id = r.site_id AND n.resource_id = r.resource_id
			JOIN projects p ON p.site_id = r.site_id AND p.project_id = r.project_id
			JOIN users u ON u.site_id = r.site_id AND u.user_id = r.user_id` + w.text("WHERE")
	}
	return `SELECT n.name, r.usage_type, r.local_record_id, r.key_time, p.local_project_id, u.username, b.key_id, b.accepted_at,
			r.revision AS revision, 1 AS newest, r.charge, CASE WHEN r.gives_back THEN 1 ELSE 0 END, r.loaded_at, r.batch_id AS batch_id, r.ordinal AS ordinal` +
		part(` FROM records r JOIN batches b ON b.site_id = r.site_id AND b.batch_id = r.batch_id`) + `
		UNION ALL
		SELECT n.name, r.usage_type, r.local_record_id, r.key_time, p.local_project_id, u.username, b.key_id, b.accepted_at,
			v.revision, 0, v.charge, CASE WHEN r.gives_back THEN 1 ELSE 0 END, v.loaded_at, v.batch_id, v.ordinal` +
		part(` FROM records r JOIN revisions v ON v.site_id = r.site_id AND v.record_id = r.record_id
			JOIN batches b ON b.site_id = v.site_id AND b.batch_id = v.batch_id`) + `
		ORDER BY batch_id, ordinal` + q.limit(), w.args
}

// A RevisionRow is a row of [HistoryQuery.RevisionStatement], as it is stored.
type RevisionRow struct {
	Resource                                                         string
	UsageType                                                        int64
	LocalRecordID                                                    string
	KeyTime                                                          int64
	Project, Username                                                string
	KeyID, AcceptedAt, Revision, Newest, Charge, GivesBack, LoadedAt int64
	BatchID, Ordinal                                                 int64 // which the rows are in order of
}

// Row returns the row of a site.
func (r *RevisionRow) Row(site string) HistoryRow {
	charge := r.Charge
	if r.GivesBack != 0 {
		charge = -charge
	}
	return HistoryRow{
		Site:     site,
		Identity: amieusage.Identity{Resource: r.Resource, UsageType: UsageTypeOf(r.UsageType), LocalRecordID: r.LocalRecordID, KeyTime: TimeOrZero(r.KeyTime)},
		Project:  r.Project, Username: r.Username, KeyID: r.KeyID, AcceptedAt: TimeOrZero(r.AcceptedAt),
		Revision: int(r.Revision), Newest: r.Newest != 0, Charge: amieusage.ChargeOfMillionths(charge), LoadedAt: TimeOrZero(r.LoadedAt),
	}
}

// FailedStatement returns the statement that selects the failed records of a query at one site, in
// order, but for its Project, which the records tell. The columns are resource, usage_type,
// local_record_id, key_time, key_id, accepted_at, failed_id, failure, failed_at, state and record.
func (q *HistoryQuery) FailedStatement(site SiteID) (string, []any) {
	var w where
	w.add("f.site_id = %s", int64(site))
	if q.LocalRecordID != "" {
		w.add("f.local_record_id = %s", q.LocalRecordID)
	}
	if q.KeyID != 0 {
		w.add("b.key_id = %s", q.KeyID)
	}
	if !q.Since.IsZero() {
		w.add("b.accepted_at >= %s", Nanos(q.Since))
	}
	return `SELECT n.name, f.usage_type, f.local_record_id, f.key_time, b.key_id, b.accepted_at, f.failed_id, f.failure, f.failed_at, f.state, f.record
		FROM failed_records f JOIN batches b ON b.site_id = f.site_id AND b.batch_id = f.batch_id
			JOIN resources n ON n.site_id = f.site_id AND n.resource_id = f.resource_id` + w.text("WHERE") + ` ORDER BY f.failed_id`, w.args
}

// A FailedHistoryRow is a row of [HistoryQuery.FailedStatement], as it is stored.
type FailedHistoryRow struct {
	Resource          string
	UsageType         int64
	LocalRecordID     string
	KeyTime           int64
	KeyID, AcceptedAt int64
	FailedID          int64
	Failure           string
	FailedAt, State   int64
	Record            []byte
}

// Row returns the row of a site, and whether the query asks for it.
func (r *FailedHistoryRow) Row(q *HistoryQuery, site string) (HistoryRow, bool) {
	row := HistoryRow{
		Site:     site,
		Identity: amieusage.Identity{Resource: r.Resource, UsageType: UsageTypeOf(r.UsageType), LocalRecordID: r.LocalRecordID, KeyTime: TimeOrZero(r.KeyTime)},
		KeyID:    r.KeyID, AcceptedAt: TimeOrZero(r.AcceptedAt),
		FailedID: r.FailedID, Failure: Failure(r.Failure), FailedAt: TimeOrZero(r.FailedAt), State: r.State,
	}
	if record := StoredFailed(r.FailedID, r.UsageType, r.Failure, r.Record).Record; record != nil {
		c := record.Common()
		row.Project, row.Username, row.Charge = c.LocalProjectID, c.Username, signed(record)
	}
	return row, q.Project == "" || q.Project == row.Project
}

// signed returns the charge of a record, negative where it is given back.
func signed(record amieusage.Record) amieusage.Charge {
	charge := record.Common().Charge
	a, adjusts := record.(*amieusage.AdjustmentRecord)
	units, err := charge.Millionths()
	if err != nil || !adjusts || !a.AdjustmentType.GivesBack() {
		return charge
	}
	return amieusage.ChargeOfMillionths(-units)
}

// History returns what a store's History does. Of adjustments that were replaced, whose type
// may have been another, it looks up whether they gave back.
func History(ctx context.Context, store Store, q HistoryQuery) ([]HistoryRow, error) {
	rows, err := store.History(ctx, q)
	if err != nil {
		return nil, err
	}
	sites := map[string]SiteID{}
	for i := range rows {
		r := &rows[i]
		if r.Revision == 0 || r.Newest || r.Identity.UsageType != amieusage.Adjustment {
			continue
		}
		if _, known := sites[r.Site]; !known {
			authority, err := store.Authority(ctx, r.Site)
			if err != nil {
				return nil, err
			}
			sites[r.Site] = authority.Site
		}
		revisions, err := store.Revisions(ctx, sites[r.Site], r.Identity)
		if err != nil {
			return nil, err
		}
		for _, v := range revisions {
			if v.Number == r.Revision {
				r.Charge = v.signed(r.Identity.UsageType)
			}
		}
	}
	return rows, nil
}

// signed returns the charge of a revision, negative where it is given back, as far as its
// content is here.
func (r *Revision) signed(t amieusage.UsageType) amieusage.Charge {
	if record, err := amieusage.CheckRecord(t, r.Record); err == nil {
		return signed(record)
	}
	return r.Charge
}

// Page returns the first rows of a query, in order of acceptance.
func (q *HistoryQuery) Page(rows []HistoryRow) []HistoryRow {
	slices.SortStableFunc(rows, func(a, b HistoryRow) int { return a.AcceptedAt.Compare(b.AcceptedAt) })
	if q.Limit > 0 && len(rows) > q.Limit {
		rows = rows[:q.Limit]
	}
	return rows
}
