package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/siteconfig"
)

func (p *program) adminHistoryCommand() *cobra.Command {
	var q ledger.HistoryQuery
	var since string
	var output outputFlag
	cmd := p.withLedger(&cobra.Command{
		Use:   "history [LOCAL_RECORD_ID] --db DB",
		Short: "Show who did what, and every version of a record",
		Long: `Show who did what to the ledger, and when: changes of the registry with the old
values, keys, cleared failed records, the policy, archives, copies, restores. Of sends only
their records are remembered.

With LOCAL_RECORD_ID, show every version of that record: the key it was sent with, its
charge, when it was accepted and loaded, and why it failed. With --key, show all that was
sent and done with that key, and what was done to it. With --project, show the project's
registry changes and records. A record or a key is looked for at all sites, unless --site
is given. A charge that is given back is negative.

Old versions that were archived (amieusage admin archive) are in the archives only.`,
		Example: `  amieusage admin history --db ledger.db --since 2026-11-01
  amieusage admin history 1234567 --db ledger.db
  amieusage admin history --key 3 --db ledger.db
  amieusage admin history --project p.abc123456.000 --db ledger.db -o json`,
		Args: cobra.MaximumNArgs(1),
	}, false, func(ctx context.Context, store ledgerStore, args []string) (err error) {
		if q.Limit < 1 {
			return usageError("--limit must be 1 or more")
		}
		if q.KeyID < 0 {
			return usageError("--key must be a key's number (see: amieusage admin key list)")
		}
		if since != "" {
			if q.Since, err = parseSince(since, p.clock()); err != nil {
				return err
			}
		}
		if len(args) > 0 {
			if q.LocalRecordID = args[0]; q.LocalRecordID == "" {
				return usageError("LOCAL_RECORD_ID is empty")
			}
		}
		return p.showHistory(ctx, store, q, output)
	})
	f := cmd.Flags()
	f.Int64Var(&q.KeyID, "key", 0, "only what this key sent or did, by its number in: amieusage admin key list")
	f.StringVar(&q.Project, "project", "", "only what is of this project, by its local project ID")
	f.StringVar(&q.Site, "site", "", "only what is of this site")
	f.StringVar(&since, "since", "", "only from this time on: a date, a time with its zone, or a length such as 36h or 7d")
	f.IntVar(&q.Limit, "limit", 1000, "at most so many lines of each kind, the oldest first")
	output.add(cmd)
	return cmd
}

// parseSince reads a time, or how long ago it was.
func parseSince(text string, now time.Time) (time.Time, error) {
	if t, err := amieusage.ParseTime(text); err == nil {
		return t, nil
	}
	if d, err := siteconfig.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	return time.Time{}, usageError("--since %q is no time: give a date (2026-11-01, in UTC), a time (2026-11-01T08:00:00Z), or a length (36h, 7d)", text)
}

// An eventView is an event as programs see it.
type eventView struct {
	At      time.Time `json:"at"`
	Site    string    `json:"site,omitempty"`
	Who     string    `json:"who"`
	From    string    `json:"from"`
	Action  string    `json:"action"`
	What    string    `json:"what"`
	Key     int64     `json:"key,omitempty"`
	Project string    `json:"project,omitempty"`
}

// A versionView is a version of a record as programs see it.
type versionView struct {
	Site          string      `json:"site"`
	Resource      string      `json:"resource"`
	UsageType     string      `json:"usage_type"`
	LocalRecordID string      `json:"local_record_id"`
	KeyTime       time.Time   `json:"key_time,omitzero"`
	Project       string      `json:"project"`
	User          string      `json:"user"`
	Key           int64       `json:"key"`
	AcceptedAt    time.Time   `json:"accepted_at"`
	State         string      `json:"state"` // newest, replaced, failed, cleared or superseded
	Charge        json.Number `json:"charge"`
	Revision      int         `json:"revision,omitempty"`
	LoadedAt      time.Time   `json:"loaded_at,omitzero"`
	FailedID      int64       `json:"failed_record_id,omitempty"`
	Failure       string      `json:"failure,omitempty"`
	FailedAt      time.Time   `json:"failed_at,omitzero"`
}

func viewOfVersion(r *ledger.HistoryRow) versionView {
	v := versionView{
		Site: r.Site, Resource: r.Identity.Resource, UsageType: string(r.Identity.UsageType), LocalRecordID: r.Identity.LocalRecordID,
		KeyTime: r.Identity.KeyTime.UTC(), Project: r.Project, User: r.Username, Key: r.KeyID, AcceptedAt: r.AcceptedAt.UTC(),
		Charge: json.Number(r.Charge.String()), Revision: r.Revision, LoadedAt: r.LoadedAt.UTC(),
		FailedID: r.FailedID, Failure: string(r.Failure), FailedAt: r.FailedAt.UTC(),
	}
	switch {
	case r.Revision > 0 && r.Newest:
		v.State = "newest"
	case r.Revision > 0:
		v.State = "replaced"
	case r.State == ledger.FailedCleared:
		v.State = "cleared"
	case r.State == ledger.FailedSuperseded:
		v.State = "superseded"
	default:
		v.State = "failed"
	}
	return v
}

// sender names the key that a record was sent with.
func sender(key int64) string {
	if key == 0 {
		return "admin undo"
	}
	return fmt.Sprintf("key %d", key)
}

func (p *program) showHistory(ctx context.Context, store ledgerStore, q ledger.HistoryQuery, output outputFlag) error {
	limit := q.Limit
	q.Limit++ // to see whether there are more
	var events []ledger.Event
	var versions []ledger.HistoryRow
	var err error
	if q.LocalRecordID == "" {
		if events, err = store.Events(ctx, q); err != nil {
			return &statusError{exitUsage, err}
		}
	}
	if q.LocalRecordID != "" || q.KeyID != 0 || q.Project != "" {
		if versions, err = ledger.History(ctx, store, q); err != nil {
			return &statusError{exitUsage, err}
		}
	}
	more := len(events) > limit || len(versions) > limit
	events, versions = events[:min(len(events), limit)], versions[:min(len(versions), limit)]
	type line struct {
		at  time.Time
		row []string
	}
	lines := []line{}
	shown := struct {
		Events  []eventView   `json:"events"`
		Records []versionView `json:"records"`
		More    bool          `json:"more"` // the limit has cut it off
	}{[]eventView{}, []versionView{}, more}
	for _, e := range events {
		shown.Events = append(shown.Events, eventView{e.At.UTC(), e.Site, e.Who, e.From, e.Action, e.What, e.KeyID, e.Project})
		who := e.Who
		if e.From != "" {
			who += " at " + e.From
		}
		lines = append(lines, line{e.At, []string{e.At.UTC().Format(time.RFC3339), e.Site, who, "", "", e.Action + " " + e.What}})
	}
	for i := range versions {
		v := viewOfVersion(&versions[i])
		shown.Records = append(shown.Records, v)
		what := fmt.Sprintf("%s record %s on %s, project %s, user %s: ", v.UsageType, v.LocalRecordID, v.Resource, v.Project, v.User)
		if v.Revision > 0 {
			what += fmt.Sprintf("revision %d, loaded %s", v.Revision, v.LoadedAt.Format(time.RFC3339))
		} else {
			what += fmt.Sprintf("%s (FailedRecordID %d)", v.Failure, v.FailedID)
		}
		lines = append(lines, line{v.AcceptedAt, []string{v.AcceptedAt.Format(time.RFC3339), v.Site, sender(v.Key), v.Charge.String(), v.State, "sent " + what}})
	}
	if len(lines) == 0 && q.LocalRecordID != "" {
		return &statusError{exitUsage, &amieusage.Error{Code: amieusage.CodeNotFound, Message: fmt.Sprintf("no record %q was loaded, and none has failed", q.LocalRecordID),
			Hint: "give the LocalRecordID as it was sent; see it with: amieusage explain JOB, or amieusage loaded"}}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	rows := [][]string{}
	for _, l := range lines {
		rows = append(rows, l.row)
	}
	if err := p.print(output, shown, []string{"TIME", "SITE", "WHO", "CHARGE", "STATE", "WHAT"}, rows); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(p.stderr, "there is more: see it with a --limit above %d, or a later --since\n", limit)
	}
	return nil
}
