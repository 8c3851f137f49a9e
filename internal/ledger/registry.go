package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
)

// A Failure is why a record cannot be loaded. Status groups failed records by
// it, so it holds no variable part.
type Failure string

// The reasons for which loading refuses a record.
const (
	UnknownProject    Failure = "The project is not known at this site"
	UnknownUser       Failure = "The user is not known on the project"
	NoAllocation      Failure = "The project has no allocation on the resource"
	AllocationInvalid Failure = "The allocation on the resource is not valid at the record's time"
	TotalTooLarge     Failure = "The charge would take the site's total beyond what the ledger can hold"
	Unreadable        Failure = "The record was accepted, but is not valid for the program that loads it"
)

// A Registry is what a site's records are checked against when they are
// loaded, with the numbers by which a store knows each name.
type Registry struct {
	Resources map[string]int64
	Users     map[string]int64
	Projects  map[string]*Project
}

// A Project is a registered project, who may use it, and what it was granted.
type Project struct {
	ID          int64
	Users       map[int64]bool
	Allocations []Allocation
}

// An Allocation grants an amount, in millionths, on a resource for
// [Start, End). A project has one on a resource for each Start.
type Allocation struct {
	Resource   int64
	Start, End time.Time
	Amount     int64
}

// Check returns why the registry refuses the record, or "".
func (r *Registry) Check(record amieusage.Record) Failure {
	c := record.Common()
	project := r.Projects[c.LocalProjectID]
	if project == nil {
		return UnknownProject
	}
	user, known := r.Users[c.Username]
	if !known || !project.Users[user] {
		return UnknownUser
	}
	resource := r.Resources[c.Resource]
	at := record.AllocationTime()
	failure := NoAllocation
	for _, a := range project.Allocations {
		if a.Resource != resource {
			continue
		}
		if !at.Before(a.Start) && at.Before(a.End) {
			return ""
		}
		failure = AllocationInvalid
	}
	return failure
}

// A RegistrySpec states sites, and of each what it names: resources, and the
// whole of every project that it names.
type RegistrySpec struct {
	Sites []SiteSpec
	// DryRun: an import only returns what it would change.
	DryRun bool
}

// ErrDryRun takes the transaction of an import back that was to change nothing.
var ErrDryRun = errors.New("a dry run changes nothing")

// SpecOf states all of a site's registry, in the order of names and times.
func SpecOf(name string, r *Registry) SiteSpec {
	spec := SiteSpec{Name: name, Resources: slices.Sorted(maps.Keys(r.Resources))}
	resources, users := map[int64]string{}, map[int64]string{}
	for name, id := range r.Resources {
		resources[id] = name
	}
	for name, id := range r.Users {
		users[id] = name
	}
	for _, id := range slices.Sorted(maps.Keys(r.Projects)) {
		p := ProjectSpec{ID: id, Users: []string{}, Allocations: []AllocationSpec{}}
		for user := range r.Projects[id].Users {
			p.Users = append(p.Users, users[user])
		}
		slices.Sort(p.Users)
		for _, a := range r.Projects[id].Allocations {
			p.Allocations = append(p.Allocations, AllocationSpec{resources[a.Resource], a.Amount, a.Start, a.End})
		}
		slices.SortFunc(p.Allocations, func(a, b AllocationSpec) int {
			return cmp.Or(strings.Compare(a.Resource, b.Resource), a.Start.Compare(b.Start))
		})
		spec.Projects = append(spec.Projects, p)
	}
	return spec
}

// A SiteSpec states a site. Resources and projects that it does not name stay
// as they are.
type SiteSpec struct {
	Name string
	// Existing: the site is not added where it is missing, which is amieusage.CodeNotFound.
	Existing  bool
	Resources []string
	Projects  []ProjectSpec
}

// An Edit says what an import does to a project's users and allocations.
type Edit string

const (
	// EditWhole makes them what the spec names; a project that is missing is added.
	EditWhole Edit = ""
	// EditAdd adds those that the spec names. An allocation that is there already is
	// amieusage.CodeConflict.
	EditAdd Edit = "add"
	// EditChange changes allocations that are there. An Amount below 0, or no End, leaves that
	// as it is.
	EditChange Edit = "change"
	// EditRemove removes those that the spec names. Of an allocation only Resource and Start
	// count.
	EditRemove Edit = "remove"
)

// A ProjectSpec states a project: these are all its users and all its
// allocations, or those that Edit is about. A nil list leaves that part as it is.
type ProjectSpec struct {
	ID          string
	Edit        Edit
	Users       []string
	Allocations []AllocationSpec
}

// An AllocationSpec states an allocation of a project, for [Start, End). A
// project has one allocation on a resource for each Start.
type AllocationSpec struct {
	Resource   string
	Amount     int64 // millionths
	Start, End time.Time
}

// Check returns a *amieusage.Error with [amieusage.CodeInvalid] where the spec
// contradicts itself, or states what a registry cannot hold.
func (spec *RegistrySpec) Check() error {
	sites := map[string]bool{}
	for i := range spec.Sites {
		site := &spec.Sites[i]
		if err := checkNames("site", site.Name); err != nil {
			return err
		}
		if sites[site.Name] {
			return specError("site %s stands there twice", site.Name)
		}
		sites[site.Name] = true
		if err := checkNames("resource", site.Resources...); err != nil {
			return err
		}
		projects := map[string]bool{}
		for j := range site.Projects {
			project := &site.Projects[j]
			if err := checkNames("project", project.ID); err != nil {
				return err
			}
			if projects[project.ID] {
				return specError("site %s: project %s stands there twice", site.Name, project.ID)
			}
			projects[project.ID] = true
			if err := project.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *ProjectSpec) check() error {
	if err := checkNames("user", p.Users...); err != nil {
		return err
	}
	type key struct {
		resource string
		start    int64
	}
	seen := map[key]bool{}
	for _, a := range p.Allocations {
		k := key{a.Resource, Nanos(a.Start)}
		switch {
		case seen[k]:
			return specError("project %s has two allocations on %s from %s", p.ID, a.Resource, amieusage.FormatTime(a.Start))
		case p.Edit == EditRemove:
		case k.start >= Nanos(a.End) && !(p.Edit == EditChange && a.End.IsZero()):
			return specError("project %s: the allocation on %s from %s ends before it starts", p.ID, a.Resource, amieusage.FormatTime(a.Start))
		case a.Amount < 0 && p.Edit != EditChange || a.Amount > amieusage.MaxCharge*1_000_000:
			return specError("project %s: the allocation on %s must be from 0 to nine trillion units", p.ID, a.Resource)
		}
		seen[k] = true
	}
	return nil
}

// checkNames refuses names that no record can bear.
func checkNames(what string, names ...string) error {
	for _, name := range names {
		if name == "" || storable(name) != name {
			return specError("%.40q is not the name of a %s: one has 1 to %d bytes of text", name, what, maxNameBytes)
		}
	}
	return nil
}

func specError(format string, args ...any) error {
	return &amieusage.Error{Code: amieusage.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

// A Change is one thing that an import did to the registry.
type Change struct {
	Action string // "added", "changed" or "removed"
	What   string // as in "user alice of project p.abc123456.000 at site PSC"
	// Project is the local project ID that it is about, or "".
	Project string
}

// Resource returns the number of a resource, registering it where it is new.
func (r *Registry) Resource(tx NameTx, name string) (int64, error) {
	return numberOf(r.Resources, name, tx.AddResource)
}

// User returns the number of a user, registering it where it is new.
func (r *Registry) User(tx NameTx, username string) (int64, error) {
	return numberOf(r.Users, username, tx.AddUser)
}

func numberOf(known map[string]int64, name string, add func(name string) (int64, error)) (int64, error) {
	if id, ok := known[name]; ok {
		return id, nil
	}
	id, err := add(name)
	if err == nil {
		known[name] = id
	}
	return id, err
}

// Project returns the number of a project, registering it where it is new.
func (r *Registry) Project(tx NameTx, localProjectID string) (int64, error) {
	if p := r.Projects[localProjectID]; p != nil {
		return p.ID, nil
	}
	id, err := tx.AddProject(localProjectID)
	if err == nil {
		r.Projects[localProjectID] = &Project{ID: id, Users: map[int64]bool{}}
	}
	return id, err
}
