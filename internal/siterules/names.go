package siterules

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// Projects says whose jobs are reported.
type Projects struct {
	// From says which of a job's names is its account: the first that it has;
	// none: the account.
	From []AccountFrom
	// Include lists patterns of accounts; empty: all.
	Include []string
	// Case restores the letter case of project ids, which Slurm loses.
	Case Case
	// Map gives the project id of single accounts, which are included.
	Map map[string]string
	// Rewrite makes project ids of the accounts that Map does not have; the
	// first that fits counts. Such accounts are included.
	Rewrite []Rewrite
}

// An AccountFrom names the field of a job that holds its account.
type AccountFrom string

// The fields that can hold a job's account.
const (
	FromAccount AccountFrom = "account"
	FromProject AccountFrom = "project"
	FromGroup   AccountFrom = "group"
)

// A Rewrite makes a project id of an account.
type Rewrite struct {
	Match *regexp.Regexp
	To    string // $1 is the first group of Match
	Case  Case
}

// A Case says what becomes of the letter case of an account's name.
type Case string

// The letter cases.
const (
	CaseKeep  Case = "keep"
	CaseUpper Case = "upper"
	CaseLower Case = "lower"
)

func (c Case) check() error {
	switch c {
	case "", CaseKeep, CaseUpper, CaseLower:
		return nil
	}
	return fmt.Errorf("case %q is not one of keep, upper, lower", string(c))
}

func (c Case) of(s string) string {
	switch c {
	case CaseUpper:
		return strings.ToUpper(s)
	case CaseLower:
		return strings.ToLower(s)
	}
	return s
}

func (p *Projects) check() error {
	if err := p.Case.check(); err != nil {
		return err
	}
	for _, from := range p.From {
		switch from {
		case FromAccount, FromProject, FromGroup:
		default:
			return fmt.Errorf("from %q is not one of account, project, group", string(from))
		}
	}
	for i, r := range p.Rewrite {
		if r.Match == nil {
			return fmt.Errorf("rewrite %d has no match", i+1)
		}
		if err := r.Case.check(); err != nil {
			return fmt.Errorf("rewrite %d: %w", i+1, err)
		}
	}
	return checkPatterns(p.Include)
}

// accountOf returns what stands for the job's account.
func (p *Projects) accountOf(job *scheduler.Job) string {
	if len(p.From) == 0 {
		return job.Account
	}
	for _, from := range p.From {
		name := job.Account
		switch from {
		case FromProject:
			name = job.Project
		case FromGroup:
			name = job.Group
		}
		if name != "" {
			return name
		}
	}
	return ""
}

// idOf returns the project id of an account, whether it is reported, and the
// rule by which: for people.
func (p *Projects) idOf(account string) (id string, ok bool, how string) {
	if id, ok := p.Map[account]; ok {
		return id, true, "projects: map"
	}
	if account == "" {
		return "", false, ""
	}
	for i, r := range p.Rewrite {
		if found := r.Match.FindStringSubmatchIndex(account); found != nil {
			id := string(r.Match.ExpandString(nil, r.To, account, found))
			return r.Case.of(id), true, "projects: rewrite " + strconv.Itoa(i+1)
		}
	}
	if !Fits(p.Include, account) {
		return "", false, ""
	}
	how = "the account"
	if p.Case != "" && p.Case != CaseKeep {
		how += ", in " + string(p.Case) + " case"
	}
	return p.Case.of(account), true, how
}

// Users gives the usernames, as in AMIE, of users whose local name differs.
type Users struct {
	// Map is by local name.
	Map map[string]string
	// ByUID is by the user's number, for users whose name is gone.
	ByUID map[string]string
	// ByProject is by project id and local name, and goes before Map; the local
	// name "*" is all others. It charges service accounts to a person.
	ByProject map[string]map[string]string
}

// nameOf returns the username of a job of a project, and the rule by which.
func (u *Users) nameOf(job *scheduler.Job, project string) (name, how string) {
	user := job.User
	if user == "" && job.UID != "" {
		if name, ok := u.ByUID[job.UID]; ok {
			return name, "users: by_uid"
		}
	}
	if members, ok := u.ByProject[project]; ok {
		if name, ok := members[user]; ok {
			return name, "users: by_project"
		}
		if name, ok := members["*"]; ok {
			return name, "users: by_project"
		}
	}
	if name, ok := u.Map[user]; ok {
		return name, "users: map"
	}
	return user, "the user"
}

// A Template makes the LocalRecordID of a job. Its zero value is the job's id.
type Template struct {
	text  string
	parts []templatePart
}

// A templatePart is a name between braces, or text.
type templatePart struct{ name, text string }

// templateNames are the names of a template. A record's id must tell apart jobs
// of one submit time: one of the unique names is needed.
var templateNames = map[string]struct {
	unique bool
	value  func(*scheduler.Job) string
}{
	"job_id":     {true, func(j *scheduler.Job) string { return j.ID }},
	"display_id": {true, func(j *scheduler.Job) string { return j.DisplayID }},
	"db_index":   {true, func(j *scheduler.Job) string { return j.DBIndex }},
	"array_id":   {false, func(j *scheduler.Job) string { return leader(j) }},
	"cluster":    {false, func(j *scheduler.Job) string { return j.Cluster }},
	"partition":  {false, func(j *scheduler.Job) string { return j.Partition }},
	"account":    {false, func(j *scheduler.Job) string { return j.Account }},
	"user":       {false, func(j *scheduler.Job) string { return j.User }},
	"submit":     {false, func(j *scheduler.Job) string { return strconv.FormatInt(j.Submit.Unix(), 10) }},
}

func leader(j *scheduler.Job) string {
	if j.ParentID != "" {
		return j.ParentID
	}
	return j.ID
}

// ParseTemplate reads a template such as {cluster}-{job_id}.
func ParseTemplate(s string) (Template, error) {
	t := Template{text: s}
	unique := false
	for rest := s; rest != ""; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			t.parts = append(t.parts, templatePart{text: rest})
			break
		}
		name, after, found := strings.Cut(rest[open+1:], "}")
		known, ok := templateNames[name]
		if !found || !ok {
			return Template{}, fmt.Errorf("{%s} is not one of {job_id}, {display_id}, {db_index}, {array_id}, {cluster}, {partition}, {account}, {user}, {submit}", name)
		}
		unique = unique || known.unique
		if open > 0 {
			t.parts = append(t.parts, templatePart{text: rest[:open]})
		}
		t.parts = append(t.parts, templatePart{name: name})
		rest = after
	}
	if !unique {
		return Template{}, fmt.Errorf("%q would give many jobs one id: it needs {job_id}, {display_id} or {db_index}", s)
	}
	return t, nil
}

// String returns the template's text.
func (t Template) String() string { return t.text }

// of returns the id of a job's record. A job that was resized leaves a row for
// each size, and one that was requeued one for each run; all but the last need an
// id of their own, or they would overwrite one another where they have one submit
// time.
func (t Template) of(job *scheduler.Job) (string, error) {
	id := job.ID
	if t.parts != nil {
		var b strings.Builder
		for _, part := range t.parts {
			if part.name == "" {
				b.WriteString(part.text)
				continue
			}
			value := templateNames[part.name].value(job)
			if value == "" {
				return "", fmt.Errorf("local_record_id needs {%s}, which the accounting does not give", part.name)
			}
			b.WriteString(value)
		}
		id = b.String()
	}
	if job.Run != "" {
		id += "-run-" + job.Run
	}
	if job.State == "RESIZING" {
		id += "-resized-" + strconv.FormatInt(job.Start.Unix(), 10)
	}
	return id, nil
}

// NameOf returns the username of a user, or of a user's number, of a project.
func (u *Users) NameOf(project, user string) string {
	name, _ := u.nameOf(&scheduler.Job{User: user}, project)
	if named, ok := u.ByUID[name]; ok {
		return named
	}
	return name
}
