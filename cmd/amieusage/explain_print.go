package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// print prints an explanation for people.
func (x *explainCommand) print(e *explanation) error {
	w := tabwriter.NewWriter(x.stdout, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("job", "%s", e.Job)
	for i, reason := range e.Reasons {
		if i == 0 {
			line("not reported", "%s", reason)
		} else {
			line("", "%s", reason)
		}
	}
	if e.Record != nil {
		c := e.Record.Record.Common()
		line("charge", "%s on %s", c.Charge, c.Resource)
		state := string(e.Record.State)
		if e.Record.Reason != "" {
			state += ": " + e.Record.Reason
		}
		if e.Record.Superseded {
			state += " (the job is charged by another record now)"
		}
		if e.Record.WaitsFor != 0 {
			state += fmt.Sprintf(" (waits for record #%d to be at 0)", e.Record.WaitsFor)
		}
		line("record", "#%d, revision %d, %s", e.Record.ID, e.Record.Revision, state)
		if e.Record.Decision != "" {
			line("decision", "%s", e.Record.Decision)
		}
	}
	if e.Facts != nil {
		e.Facts.print(line)
	} else if e.Record != nil {
		line("from", "%s", e.Record.Place)
	}
	if e.Rule != nil {
		e.Rule.print(line, e.Record.Decision)
	}
	if e.Project != "" {
		line("project", "%s", e.Project)
		line("user", "%s", e.User)
	}
	for _, n := range e.Notes {
		text := fmt.Sprintf("%s %s by %s", instant(n.At), strings.TrimSpace(n.Kind+" "+n.Value), n.Who)
		if n.Comment != "" {
			text += ": " + n.Comment
		}
		line("decided", "%s", text)
	}
	for _, r := range e.History {
		text := fmt.Sprintf("%s, stored %s", r.Charge, instant(r.StoredAt))
		if !r.SentAt.IsZero() {
			text += ", sent " + instant(r.SentAt)
		}
		text += ", " + string(r.State)
		if !r.LoadedAt.IsZero() {
			text += " " + instant(r.LoadedAt)
		}
		if r.Reason != "" {
			text += ": " + r.Reason
		}
		line("revision "+strconv.FormatInt(r.Revision, 10), "%s", text)
	}
	for _, r := range e.Refunds {
		text := fmt.Sprintf("%s given back", r.Record.Charge)
		if r.Undone {
			text = "undone, nothing is given back"
		}
		if r.State != "" {
			text += fmt.Sprintf(" (%s, record %s)", r.State, r.Record.LocalRecordID)
		}
		if r.Comment != "" {
			text += ": " + r.Comment
		}
		line("refund", "%s", text)
	}
	return w.Flush()
}

func (f *factsView) print(line func(name, format string, args ...any)) {
	where := ""
	for _, part := range []struct{ name, value string }{
		{"cluster", f.Cluster}, {"partition", f.Partition}, {"QOS", f.QOS}, {"reservation", f.Reservation},
	} {
		if part.value != "" {
			where += ", " + part.name + " " + part.value
		}
	}
	user := f.User
	if user == "" {
		user = "UID " + f.UID
	}
	line("accounting", "user %s, account %s%s", user, f.Account, where)
	if f.Start.IsZero() {
		line("", "submitted %s, never started, %s", instant(f.Submit), f.State)
	} else {
		line("", "submitted %s, ran %s to %s, %d s, %s", instant(f.Submit),
			instant(f.Start), instant(f.End), f.ElapsedSeconds, f.State)
	}
	line("", "%d nodes, %d CPUs, TRES %s", f.Nodes, f.CPUs, f.TRES)
	if f.Warning != "" {
		line("", "warning: %s", f.Warning)
	}
	if f.ReadFrom != "" {
		line("", "read from %s at %s", f.ReadFrom, instant(f.ReadAt))
	}
}

func (r *ruleView) print(line func(name, format string, args ...any), decision outbox.Decision) {
	where := "site.yaml does not have this rate any more"
	if r.Line > 0 {
		where = fmt.Sprintf("line %d of site.yaml", r.Line)
	}
	switch {
	case r.Rate != "":
		line("rule", "%s, %s", r.Resource, where)
		line("rate", "%s", r.Rate)
	case decision == outbox.DecidedSet:
		line("rule", "none: the charge was set by hand")
	default:
		line("rule", "none: the charge was not made by a rate")
	}
	for _, s := range r.Arithmetic {
		line("", "%s = %s", s.What, s.Is)
	}
	if r.Today != "" {
		line("today", "by today's rules: %s (to send it: amieusage report --reprice)", r.Today)
	}
}

// instant is a time for people, to the second.
func instant(t time.Time) string { return amieusage.FormatTime(t.UTC().Truncate(time.Second)) }
