package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/outbox"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

// An explainCommand is one run of explain.
type explainCommand struct {
	siteCommand
	collect collectFlags
}

func (p *program) explainCommand() *cobra.Command {
	x := &explainCommand{siteCommand: siteCommand{program: p}}
	cmd := &cobra.Command{
		Use:     "explain --config site.yaml JOB|'#ID' [--from-file DUMP...]",
		GroupID: "site",
		Short:   "Explain a job's charge, or why the job is not reported",
		Long: `Explain a job's charge: what the accounting says and when it was read, the rule
that applies and the rate as it was when it charged the job, the arithmetic, how
project and user came about, what was decided, each revision with what became of
it, and refunds.

A job that is not reported is looked for in the accounting, by sacct or in dumps,
and the reason is told.

Exit status: 0 the job is explained, 1 nothing is known of it, 2 bad usage or
configuration.`,
		Example: `  amieusage explain --config site.yaml 4711
  amieusage explain --config site.yaml 4711 -o json
  amieusage explain --config site.yaml 4712 --from-file dump.psv`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFiles(x.collect.files); err != nil {
				return err
			}
			return x.tryOut(cmd.Context(), 0, func(*agent.Agent) error { return x.explain(cmd.Context(), args[0]) })
		},
	}
	x.add(cmd)
	x.collect.dumpFlags.add(cmd)
	return cmd
}

// An explanation is what explain tells of one record, or of a job without one.
type explanation struct {
	Job     string         `json:"job"`
	Facts   *factsView     `json:"facts,omitempty"`
	Record  *entryView     `json:"record,omitempty"`
	Rule    *ruleView      `json:"rule,omitempty"`
	Project string         `json:"project,omitempty"`
	User    string         `json:"user,omitempty"`
	Reasons []string       `json:"not_reported,omitempty"` // why there is no record
	Notes   []outbox.Note  `json:"decisions"`
	History []revisionView `json:"revisions,omitempty"`
	Refunds []refundView   `json:"refunds"`
}

type factsView struct {
	Cluster        string    `json:"cluster,omitempty"`
	ID             string    `json:"id"`
	User           string    `json:"user"`
	UID            string    `json:"uid,omitempty"`
	Account        string    `json:"account"`
	Partition      string    `json:"partition"`
	QOS            string    `json:"qos,omitempty"`
	Reservation    string    `json:"reservation,omitempty"`
	State          string    `json:"state"`
	Submit         time.Time `json:"submit"`
	Start          time.Time `json:"start,omitzero"`
	End            time.Time `json:"end,omitzero"`
	ElapsedSeconds int64     `json:"elapsed_seconds"`
	Nodes          int64     `json:"nodes"`
	CPUs           int64     `json:"cpus"`
	TRES           string    `json:"tres"`
	Warning        string    `json:"warning,omitempty"`
	ReadFrom       string    `json:"read_from,omitempty"`
	ReadAt         time.Time `json:"read_at,omitzero"`
}

type ruleView struct {
	Resource   string           `json:"resource"`
	Line       int              `json:"line,omitempty"` // where site.yaml has the rate today; absent: it has it no more
	Rate       string           `json:"rate"`
	Arithmetic []siterules.Step `json:"arithmetic"`
	// Today is the charge by today's rules, where it is another.
	Today string `json:"today,omitempty"`
}

type revisionView struct {
	Revision int64            `json:"revision"`
	Charge   amieusage.Charge `json:"charge"`
	State    outbox.State     `json:"state"`
	Reason   string           `json:"reason,omitempty"`
	StoredAt time.Time        `json:"stored_at"`
	SentAt   time.Time        `json:"sent_at,omitzero"`
	LoadedAt time.Time        `json:"loaded_at,omitzero"`
	ReadFrom string           `json:"read_from,omitempty"`
}

func revisionOf(e *outbox.Entry) revisionView {
	return revisionView{e.Revision, e.Record.Common().Charge, e.State, e.Reason, e.EnqueuedAt, e.SentAt, e.LoadedAt, e.Place}
}

type refundView struct {
	outbox.Refund
	Record *amieusage.AdjustmentRecord `json:"record"`
	State  outbox.State                `json:"state,omitempty"`
}

func (x *explainCommand) explain(ctx context.Context, arg string) error {
	entries, err := x.find(ctx, arg)
	if _, unknown := errors.AsType[*statusError](err); err != nil && (!unknown || strings.HasPrefix(arg, "#")) {
		return err
	}
	explanations := []explanation{}
	for i := range entries {
		e, err := x.ofEntry(ctx, &entries[i])
		if err != nil {
			return err
		}
		explanations = append(explanations, e)
	}
	if len(entries) == 0 {
		if explanations, err = x.notReported(ctx, arg); err != nil {
			return err
		}
	}
	if x.output == outputJSON {
		return x.printJSON(explanations)
	}
	for i := range explanations {
		if i > 0 {
			fmt.Fprintln(x.stdout)
		}
		if err := x.print(&explanations[i]); err != nil {
			return err
		}
	}
	return nil
}

// ofEntry explains a record.
func (x *explainCommand) ofEntry(ctx context.Context, e *outbox.Entry) (explanation, error) {
	view := viewOf(*e)
	recordID := e.Record.Common().LocalRecordID
	out := explanation{Job: recordID, Record: &view, Notes: []outbox.Note{}, Refunds: []refundView{}}
	if e.Job != nil {
		out.Job = e.Job.Facts.DisplayID
		out.Facts = factsOf(&e.Job.Facts)
		out.Facts.ReadFrom, out.Facts.ReadAt = e.Place, e.EnqueuedAt
		out.Project, out.User = x.names(&e.Job.Facts, e.Job.Made.Project, e.Job.Made.User)
		var err error
		if out.Rule, err = x.ruleOf(e); err != nil {
			return out, err
		}
	}
	notes, err := x.queue.Notes(ctx, recordID)
	if err != nil {
		return out, err
	}
	out.Notes = append(out.Notes, notes...)
	revisions, err := x.queue.Revisions(ctx, e.ID)
	if err != nil {
		return out, err
	}
	for i := range revisions {
		out.History = append(out.History, revisionOf(&revisions[i]))
	}
	out.History = append(out.History, revisionOf(e))
	return out, x.refundsOf(ctx, e, &out)
}

// refundsOf adds the refunds of the job that an entry reports, or has reported.
func (x *explainCommand) refundsOf(ctx context.Context, e *outbox.Entry, out *explanation) error {
	refunds, err := x.queue.Refunds(ctx)
	if err != nil {
		return err
	}
	identity := e.Record.Identity()
	for _, r := range refunds {
		job, err := x.queue.Get(ctx, r.Job)
		if err != nil {
			return err
		}
		of := job.Record.Identity()
		if of.LocalRecordID != identity.LocalRecordID || !of.KeyTime.Equal(identity.KeyTime) || e.Superseded {
			continue
		}
		view := refundView{Refund: r, Record: r.Record(e)}
		sent, err := x.queue.List(ctx, outbox.Filter{LocalRecordID: view.Record.LocalRecordID})
		if err != nil {
			return err
		}
		for _, s := range sent {
			if s.Record.Common().Resource == view.Record.Resource {
				view.State = s.State
			}
		}
		out.Refunds = append(out.Refunds, view)
	}
	return nil
}

func factsOf(j *scheduler.Job) *factsView {
	tres := make([]string, len(j.TRES))
	for i, t := range j.TRES {
		tres[i] = t.String()
	}
	return &factsView{
		Cluster: j.Cluster, ID: j.ID, User: j.User, UID: j.UID, Account: j.Account, Partition: j.Partition, QOS: j.QOS,
		Reservation: j.Reservation, State: j.State, Submit: j.Submit, Start: j.Start, End: j.End, ElapsedSeconds: j.ElapsedSeconds,
		Nodes: j.Nodes, CPUs: j.CPUs, TRES: strings.Join(tres, ","), Warning: j.Warning,
	}
}

// ruleOf returns the rule that charged a job, with its rate as it was then.
func (x *explainCommand) ruleOf(e *outbox.Entry) (*ruleView, error) {
	rule := &ruleView{Resource: e.Job.Made.Resource, Rate: e.Job.Rate}
	if e.Job.Rate != "" {
		rate, err := siterules.ParseRate(e.Job.Rate)
		if err != nil {
			return nil, err
		}
		rule.Arithmetic = rate.Explain(&e.Job.Facts)
		rule.Line = x.lineOf(rule.Resource, e.Job.Rate)
	}
	today, err := x.config.Rules.Assess(&e.Job.Facts)
	switch {
	case err != nil || e.Superseded:
	case today.Skip != "":
		rule.Today = "not charged: " + string(today.Skip)
	case today.Problem != nil:
		rule.Today = "not charged: " + today.Problem.Problem
	case today.Made.Resource != e.Job.Made.Resource:
		rule.Today = today.Made.Charge.String() + " on " + today.Made.Resource
	case today.Made.Charge.Cmp(e.Job.Made.Charge) != 0:
		rule.Today = today.Made.Charge.String()
	}
	return rule, nil
}

// lineOf returns where site.yaml has a rate of a resource; 0: nowhere any more.
func (x *explainCommand) lineOf(resource, text string) int {
	for i := range x.config.Rules.Resources {
		r := &x.config.Rules.Resources[i]
		for j := range r.Rates {
			if r.Name == resource && r.Rates[j].Text() == text {
				if r.Rates[j].Line > 0 {
					return r.Rates[j].Line
				}
				return r.Line
			}
		}
	}
	return 0
}

// names tells how a job came to its project and user. Where today's rules make
// others of it, they say so.
func (x *explainCommand) names(job *scheduler.Job, project, user string) (string, string) {
	nowProject, projectBy, nowUser, userBy, ok := x.config.Rules.NamesOf(job)
	how := func(name, now, by, from string) string {
		switch {
		case !ok:
			return fmt.Sprintf("%s (%s, which site.yaml does not include any more)", name, from)
		case now != name:
			return fmt.Sprintf("%s (by the rules of then; today %s, %s)", name, now, by)
		}
		return fmt.Sprintf("%s (%s)", name, by)
	}
	return how(project, nowProject, projectBy, "account "+x.config.Rules.AccountOf(job)), how(user, nowUser, userBy, "user "+job.User)
}

// notReported says why a job has no record.
func (x *explainCommand) notReported(ctx context.Context, arg string) ([]explanation, error) {
	out := explanation{Job: arg, Notes: []outbox.Note{}, Refunds: []refundView{}}
	notes, err := x.queue.Notes(ctx, arg)
	if err != nil {
		return nil, err
	}
	out.Notes = append(out.Notes, notes...)
	rows, err := x.queue.BadRows(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r.JobID == arg {
			out.Reasons = append(out.Reasons, fmt.Sprintf("bad row, since %s: %s", instant(r.FirstSeen), r.Reason))
		}
	}
	found, err := x.inAccounting(ctx, arg)
	if err != nil && len(out.Reasons) == 0 {
		return nil, err
	}
	var explanations []explanation
	for _, job := range found {
		one := out
		if job.err != nil {
			if len(one.Reasons) == 0 {
				one.Reasons = []string{"bad row: " + job.err.Error()}
			}
		} else {
			one.Facts = factsOf(job.job)
			one.Facts.ReadFrom, one.Facts.ReadAt = job.job.Place.String(), x.clock()
			reason, err := x.reasonOf(job.job)
			if err != nil {
				return nil, err
			}
			one.Reasons = append(one.Reasons, reason)
		}
		explanations = append(explanations, one)
	}
	if len(explanations) == 0 && len(out.Reasons) > 0 {
		explanations = append(explanations, out)
	}
	if len(explanations) == 0 {
		return nil, &statusError{exitRefused, fmt.Errorf("there is no record of a job %s, and the accounting does not have it: "+
			"name a dump that has it with --from-file, or a record's number as '#%s'", arg, arg)}
	}
	return explanations, nil
}

func (x *explainCommand) reasonOf(job *scheduler.Job) (string, error) {
	a, err := x.config.Rules.Assess(job)
	switch {
	case err != nil:
		return "", err
	case a.Problem != nil:
		return "bad row: " + a.Problem.Error(), nil
	case a.Skip == siterules.SkipAccount:
		return fmt.Sprintf("%s: %s is not among projects: include, map or rewrite of site.yaml", a.Skip, x.config.Rules.AccountOf(job)), nil
	case a.Skip == siterules.SkipNoResource:
		return fmt.Sprintf("%s: partition %s, QOS %s, cluster %s", a.Skip, job.Partition, job.QOS, job.Cluster), nil
	case a.Skip != "":
		return string(a.Skip), nil
	}
	return fmt.Sprintf("it was not collected yet: the next report will charge %s on %s to %s", a.Made.Charge, a.Made.Resource, a.Made.Project), nil
}

// A foundJob is a job of the accounting, or why it cannot be read.
type foundJob struct {
	job *scheduler.Job
	err error
}

// inAccounting looks for a job in the dumps, or else by sacct.
func (x *explainCommand) inAccounting(ctx context.Context, id string) (found []foundJob, err error) {
	take := func(job *scheduler.Job, err error) error {
		if row, bad := errors.AsType[*scheduler.RowError](err); bad {
			if row.JobID == id {
				found = append(found, foundJob{err: err})
			}
			return nil
		}
		if err == nil && (job.ID == id || job.DisplayID == id) {
			found = append(found, foundJob{job: job.Clone()})
		}
		return err
	}
	if len(x.collect.files) == 0 {
		all, err := x.accountings()
		if err != nil {
			return nil, err
		}
		for i := range all {
			for job, err := range all[i].ByID(ctx, "", []string{id}) {
				if err := take(job, err); err != nil {
					return nil, err
				}
			}
		}
		return found, nil
	}
	for job, err := range x.accounting(ctx, &x.collect.dumpFlags, time.Time{}, x.clock()) {
		if err := take(job, err); err != nil {
			return nil, err
		}
	}
	return found, nil
}
