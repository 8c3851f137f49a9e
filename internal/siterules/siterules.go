// Package siterules applies a site's own rules to finished jobs: which of them
// are reported, on which resource, for whose project and user, and what they
// cost.
package siterules

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// Rules are a site's own rules. Who changes them checks them again.
type Rules struct {
	// Resources says which jobs ran on which resource; the first match wins.
	Resources []Resource
	// Exempt lists jobs that are never charged, whatever they ran on.
	Exempt   []Match
	Projects Projects
	Users    Users
	// RecordID makes the LocalRecordID of jobs.
	RecordID Template
	// Limits hold back what costs more than anybody expects.
	Limits Limits
	// ReportZeroElapsed reports jobs that ran for 0 s, with a charge of 0.
	ReportZeroElapsed bool
}

// A Resource says which jobs ran on a resource, and what they cost there.
type Resource struct {
	Name  string
	Match Match
	// Rates are in order of From. The last that has begun at the job's start, or
	// at what ChargeBy names, charges the job.
	Rates    []Rate
	ChargeBy ChargeBy
	// Line is where the resource stands in site.yaml; 0: nowhere.
	Line int
}

// A ChargeBy names the time of a job by which its rate is chosen.
type ChargeBy string

// The times by which a rate can be chosen.
const (
	ByStart  ChargeBy = "start"
	ByEnd    ChargeBy = "end"
	BySubmit ChargeBy = "submit"
)

// Limits are the charges beyond which a job or a run is held until somebody has
// looked; absent: there is no limit.
type Limits struct {
	PerJob, PerRun amieusage.Charge
}

// A Skip is why a job is not reported. It is no mistake.
type Skip string

// The reasons for which jobs are not reported.
const (
	SkipUnfinished   Skip = "unfinished"
	SkipNeverStarted Skip = "never started"
	SkipZeroElapsed  Skip = "ran for 0 s"
	SkipExempt       Skip = "exempt"
	SkipNoResource   Skip = "no resource matches"
	SkipAccount      Skip = "account not included"
)

// Check returns what is wrong with the rules themselves, or nil.
func (r *Rules) Check() error {
	for i := range r.Resources {
		resource := &r.Resources[i]
		if resource.Name == "" {
			return fmt.Errorf("resource %d has no name", i+1)
		}
		if err := resource.check(); err != nil {
			return fmt.Errorf("resource %s: %w", resource.Name, err)
		}
	}
	for i := range r.Exempt {
		if err := r.Exempt[i].check(); err != nil {
			return fmt.Errorf("exempt %d: %w", i+1, err)
		}
		if r.Exempt[i].IsEmpty() {
			return fmt.Errorf("exempt %d names nothing, and would exempt every job", i+1)
		}
	}
	if err := r.Projects.check(); err != nil {
		return fmt.Errorf("projects: %w", err)
	}
	return nil
}

func (r *Resource) check() error {
	if err := r.Match.check(); err != nil {
		return err
	}
	switch r.ChargeBy {
	case "", ByStart, ByEnd, BySubmit:
	default:
		return fmt.Errorf("charge_by %q is not one of start, end, submit", string(r.ChargeBy))
	}
	if len(r.Rates) == 0 {
		return errors.New("charge has no rate, as in charge: {per_hour: {cpu: 1}}")
	}
	for i := range r.Rates {
		if err := r.Rates[i].check(); err != nil {
			return err
		}
		if i > 0 && !r.Rates[i].From.After(r.Rates[i-1].From) {
			return errors.New("the rates are not in order of their dates: each begins after the one before it")
		}
	}
	return nil
}

// rateOf returns the rate that charges the job; nil: none has begun.
func (r *Resource) rateOf(job *scheduler.Job) *Rate {
	at := job.Start
	switch r.ChargeBy {
	case ByEnd:
		at = job.End
	case BySubmit:
		at = job.Submit
	}
	for i := len(r.Rates) - 1; i >= 0; i-- {
		if !r.Rates[i].From.After(at) {
			return &r.Rates[i]
		}
	}
	return nil
}

// An Assessment is what the rules make of a job: a reason not to report it, a
// problem, or what its record says.
type Assessment struct {
	// Skip is why the job is not reported; "" otherwise.
	Skip Skip
	// Problem is why it cannot be; nil otherwise.
	Problem *scheduler.RowError
	// Made is what its record says, where Skip and Problem are empty.
	Made Made
}

// Made is what the rules have made of a job.
type Made struct {
	Resource string
	Project  string
	User     string
	RecordID string
	Charge   amieusage.Charge
	// Rate is what charged the job, and Rule the resource that it is of; nil
	// where they are not today's.
	Rate *Rate
	Rule *Resource
	// Untracked says that the accounting gives none of the TRES that the rate is
	// for.
	Untracked bool
}

// A TRESError says that a source cannot give what a rate is for. No job of the
// source can be charged.
type TRESError struct {
	TRES     string
	Resource string
	Place    scheduler.Place
}

// Error names the TRES and the remedy.
func (e *TRESError) Error() string {
	return fmt.Sprintf("%s: there is no column AllocTRES, and %s is charged by %s: export it again with AllocTRES", e.Place, e.Resource, e.TRES)
}

// Assess applies the rules to a job. The error is a [*TRESError]: none of the
// source's jobs can be charged.
func (r *Rules) Assess(job *scheduler.Job) (Assessment, error) {
	switch {
	case job.NoUsage != "":
		return Assessment{Skip: Skip(job.NoUsage)}, nil
	case !job.Finished():
		return Assessment{Skip: SkipUnfinished}, nil
	case job.ElapsedSeconds == 0 && (job.Start.IsZero() || len(job.TRES) == 0):
		return Assessment{Skip: SkipNeverStarted}, nil
	case job.ElapsedSeconds == 0 && !r.ReportZeroElapsed:
		return Assessment{Skip: SkipZeroElapsed}, nil
	}
	for i := range r.Exempt {
		if r.Exempt[i].fits(job) {
			return Assessment{Skip: SkipExempt}, nil
		}
	}
	project, ok, _ := r.Projects.idOf(r.Projects.accountOf(job))
	if !ok {
		return Assessment{Skip: SkipAccount}, nil
	}
	resource := r.ResourceOf(job)
	if resource == nil {
		return Assessment{Skip: SkipNoResource}, nil
	}
	problem := func(field, what, remedy string, err error) (Assessment, error) {
		return Assessment{Problem: &scheduler.RowError{
			Place: job.Place, JobID: job.DisplayID, Field: field, Problem: what, Remedy: remedy, Err: err,
		}}, nil
	}
	rate := resource.rateOf(job)
	if rate == nil {
		return problem("", "no rate of "+resource.Name+" has begun by then",
			"state what it costs from an earlier date, under charge of "+resource.Name+" in site.yaml", nil)
	}
	if job.Lacks.Has(scheduler.FactTRES) {
		if tres := rate.NeedsTRES(); tres != "" {
			return Assessment{}, &TRESError{TRES: tres, Resource: resource.Name, Place: scheduler.Place{File: job.Place.File}}
		}
	}
	for _, name := range job.Unknown {
		if rate.names(name) {
			return problem(name, "the accounting gives no number of it, and "+resource.Name+" is charged by it", "correct it in the accounting", nil)
		}
	}
	if len(job.TRES) == 0 {
		return problem("AllocTRES", "the job ran, and nothing says what was allocated to it", "correct it in the accounting", nil)
	}
	user, _ := r.Users.nameOf(job, project)
	if user == "" {
		remedy := "name the user in the accounting"
		if job.UID != "" {
			remedy = "state whose it is in site.yaml: users: {by_uid: {" + job.UID + ": NAME}}"
		}
		return problem("User", "the job's user is not known any more"+uidText(job), remedy, nil)
	}
	id, err := r.RecordID.of(job)
	if err != nil {
		return problem("", err.Error(), "export it again with that column", nil)
	}
	_, untracked := rate.Untracked(job)
	made := Made{
		Resource: resource.Name, Project: project, User: user, RecordID: id, Charge: rate.Charge(job),
		Rate: rate, Rule: resource, Untracked: untracked,
	}
	if err := Record(job, &made).Validate(); err != nil {
		return problem("", "the record of the job is not valid", "", err)
	}
	return Assessment{Made: made}, nil
}

func uidText(job *scheduler.Job) string {
	if job.UID == "" {
		return ""
	}
	return ", only its number " + job.UID
}

// Record returns the record that reports a job.
func Record(job *scheduler.Job, made *Made) *amieusage.ComputeRecord {
	record := &amieusage.ComputeRecord{
		Username:       made.User,
		LocalProjectID: made.Project,
		LocalRecordID:  made.RecordID,
		Resource:       made.Resource,
		SubmitTime:     job.Submit,
		StartTime:      job.Start,
		EndTime:        job.End,
		Charge:         made.Charge,
		NodeCount:      amieusage.CountOf(max(job.Nodes, 1)), // it ran somewhere
		CpuCoreCount:   amieusage.CountOf(job.CPUs),
		JobName:        clip(job.Name, 4096),
		Memory:         job.ReqMem,
		Queue:          job.Partition,
		ParentRecordID: job.ParentID,
	}
	if job.DisplayID != job.ID {
		record.LocalReference = job.DisplayID
	}
	return record
}

// Convert turns a job into the record that reports it. A job that is not to be
// reported gives the reason and no record. The error is a [*scheduler.RowError]
// that names the job's place, or a [*TRESError].
func (r *Rules) Convert(job *scheduler.Job) (*amieusage.ComputeRecord, Skip, error) {
	a, err := r.Assess(job)
	switch {
	case err != nil:
		return nil, "", err
	case a.Skip != "":
		return nil, a.Skip, nil
	case a.Problem != nil:
		return nil, "", a.Problem
	}
	return Record(job, &a.Made), "", nil
}

// clip cuts text to at most n bytes, between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ResourceOf returns the resource that the job ran on; nil: no rule is for it.
func (r *Rules) ResourceOf(job *scheduler.Job) *Resource {
	for i := range r.Resources {
		if r.Resources[i].Match.fits(job) {
			return &r.Resources[i]
		}
	}
	return nil
}

// RecordIDOf returns the LocalRecordID that the job's record has, or would have.
func (r *Rules) RecordIDOf(job *scheduler.Job) (string, error) { return r.RecordID.of(job) }

// AccountOf returns what stands for the job's account: by it, the job has a
// project.
func (r *Rules) AccountOf(job *scheduler.Job) string { return r.Projects.accountOf(job) }

// NamesOf returns the project and user of a job, and the rules by which, for
// people; ok is false where the account is not included.
func (r *Rules) NamesOf(job *scheduler.Job) (project, projectBy, user, userBy string, ok bool) {
	if project, ok, projectBy = r.Projects.idOf(r.Projects.accountOf(job)); !ok {
		return "", "", "", "", false
	}
	user, userBy = r.Users.nameOf(job, project)
	return project, projectBy, user, userBy, true
}
