// Package siterules applies a site's own rules to finished jobs: which of them
// are reported, on which resource, for whose project and user, and what they
// cost.
package siterules

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// Rules are a site's own rules.
type Rules struct {
	// Resources says which jobs ran on which resource; the first match wins.
	Resources []Resource
	Projects  Projects
	Users     Users
	// ReportZeroElapsed reports jobs that ran for 0 s, with a charge of 0.
	ReportZeroElapsed bool
}

// A Resource says which jobs ran on a resource, and what they cost there.
// Patterns are those of [path.Match]; an empty list matches every job.
type Resource struct {
	Name       string
	Clusters   []string
	Partitions []string
	QOS        []string
	Charge     Charge
}

// Projects says whose jobs are reported.
type Projects struct {
	// Include lists patterns of accounts; empty: all.
	Include []string
	// Case restores the letter case of project ids, which Slurm loses.
	Case Case
	// Map gives the project id of single accounts, which are included.
	Map map[string]string
}

// Users gives the usernames, as in AMIE, of users whose local name differs.
type Users struct {
	Map map[string]string
}

// A Case says what becomes of the letter case of an account's name.
type Case string

// The letter cases.
const (
	CaseKeep  Case = "keep"
	CaseUpper Case = "upper"
	CaseLower Case = "lower"
)

// A Skip is why a job is not reported. It is no mistake.
type Skip string

// The reasons for which jobs are not reported.
const (
	SkipUnfinished   Skip = "unfinished"
	SkipNeverStarted Skip = "never started"
	SkipZeroElapsed  Skip = "ran for 0 s"
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
		for _, patterns := range [][]string{resource.Clusters, resource.Partitions, resource.QOS} {
			if err := checkPatterns(patterns); err != nil {
				return fmt.Errorf("resource %s: %w", resource.Name, err)
			}
		}
		if err := resource.Charge.check(); err != nil {
			return fmt.Errorf("resource %s: %w", resource.Name, err)
		}
	}
	switch r.Projects.Case {
	case "", CaseKeep, CaseUpper, CaseLower:
	default:
		return fmt.Errorf("projects: case %q is not one of keep, upper, lower", r.Projects.Case)
	}
	if err := checkPatterns(r.Projects.Include); err != nil {
		return fmt.Errorf("projects: %w", err)
	}
	return nil
}

func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("%q is not a pattern such as GPU* or p.*", p)
		}
	}
	return nil
}

// Convert turns a job into the record that reports it. A job that is not to be
// reported gives the reason and no record. The error is a [*scheduler.RowError]
// that names the job's place.
func (r *Rules) Convert(job *scheduler.Job) (*amieusage.ComputeRecord, Skip, error) {
	switch {
	case !job.Finished():
		return nil, SkipUnfinished, nil
	case job.ElapsedSeconds == 0 && (job.Start.IsZero() || len(job.TRES) == 0):
		return nil, SkipNeverStarted, nil
	case job.ElapsedSeconds == 0 && !r.ReportZeroElapsed:
		return nil, SkipZeroElapsed, nil
	}
	project, ok := r.Projects.idOf(job.Account)
	if !ok {
		return nil, SkipAccount, nil
	}
	resource := r.resourceOf(job)
	if resource == nil {
		return nil, SkipNoResource, nil
	}
	if len(job.TRES) == 0 {
		return nil, "", &scheduler.RowError{
			Place: job.Place, JobID: job.DisplayID, Field: "AllocTRES",
			Problem: "the job ran, and nothing says what was allocated to it", Remedy: "correct it in the accounting",
		}
	}
	record := &amieusage.ComputeRecord{
		Username:       r.Users.nameOf(job.User),
		LocalProjectID: project,
		LocalRecordID:  recordID(job),
		Resource:       resource.Name,
		SubmitTime:     job.Submit,
		StartTime:      job.Start,
		EndTime:        job.End,
		Charge:         resource.Charge.of(job),
		NodeCount:      amieusage.CountOf(job.Nodes),
		CpuCoreCount:   amieusage.CountOf(job.CPUs),
		JobName:        clip(job.Name, 4096),
		Memory:         job.ReqMem,
		Queue:          job.Partition,
		ParentRecordID: job.ParentID,
	}
	if job.DisplayID != job.ID {
		record.LocalReference = job.DisplayID
	}
	if err := record.Validate(); err != nil {
		return nil, "", &scheduler.RowError{
			Place: job.Place, JobID: job.DisplayID, Problem: "the record of the job is not valid", Err: err,
		}
	}
	return record, "", nil
}

// recordID returns the LocalRecordID of an allocation. A job that was resized
// leaves a row for each size, all with one id and one submit time: each but
// the last needs an id of its own, or they would overwrite one another.
func recordID(job *scheduler.Job) string {
	if job.State == "RESIZING" {
		return job.ID + "-resized-" + strconv.FormatInt(job.Start.Unix(), 10)
	}
	return job.ID
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

func (r *Rules) resourceOf(job *scheduler.Job) *Resource {
	for i := range r.Resources {
		resource := &r.Resources[i]
		if matches(resource.Clusters, job.Cluster) && matches(resource.Partitions, job.Partition) && matches(resource.QOS, job.QOS) {
			return resource
		}
	}
	return nil
}

func matches(patterns []string, s string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, s); ok {
			return true
		}
	}
	return len(patterns) == 0
}

// idOf returns the project id of an account, and whether it is reported.
func (p *Projects) idOf(account string) (string, bool) {
	if id, ok := p.Map[account]; ok {
		return id, true
	}
	if account == "" || !matches(p.Include, account) {
		return "", false
	}
	switch p.Case {
	case CaseUpper:
		return strings.ToUpper(account), true
	case CaseLower:
		return strings.ToLower(account), true
	}
	return account, true
}

func (u *Users) nameOf(user string) string {
	if name, ok := u.Map[user]; ok {
		return name
	}
	return user
}
