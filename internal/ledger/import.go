package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/amieusage/amieusage"
)

// An ImportTx is what a store does for an import to the registry of one site,
// inside one transaction.
type ImportTx interface {
	NameTx
	AddMember(project, user int64) error
	RemoveMember(project, user int64) error
	// SetAllocation adds an allocation, or changes the one of the same
	// resource and Start.
	SetAllocation(project int64, a Allocation) error
	RemoveAllocation(project int64, a Allocation) error
}

// ImportSite brings a site's registry in line with what the spec names, and
// returns what it changed.
func ImportSite(tx ImportTx, registry *Registry, spec *SiteSpec) ([]Change, error) {
	imp := &siteImport{tx: tx, registry: registry, spec: spec, usernames: map[int64]string{}}
	for username, user := range registry.Users {
		imp.usernames[user] = username
	}
	for _, resource := range spec.Resources {
		if _, known := registry.Resources[resource]; known {
			continue
		}
		if _, err := registry.Resource(tx, resource); err != nil {
			return nil, err
		}
		imp.changed("", "added", "resource %s of site %s", resource, spec.Name)
	}
	for i := range spec.Projects {
		if err := imp.project(&spec.Projects[i]); err != nil {
			return nil, err
		}
	}
	return imp.changes, imp.checkGranted()
}

// A siteImport brings one site's registry in line with its spec.
type siteImport struct {
	tx       ImportTx
	registry *Registry
	spec     *SiteSpec
	// usernames are the registered users by their numbers.
	usernames map[int64]string
	changes   []Change
}

func (imp *siteImport) changed(project, action, format string, args ...any) {
	imp.changes = append(imp.changes, Change{Action: action, What: fmt.Sprintf(format, args...), Project: project})
}

func (imp *siteImport) project(spec *ProjectSpec) error {
	if imp.registry.Projects[spec.ID] == nil && spec.Edit != EditWhole {
		return &amieusage.Error{
			Code:    amieusage.CodeNotFound,
			Message: fmt.Sprintf("site %s has no project %q", imp.spec.Name, spec.ID),
			Hint:    "add it: amieusage admin project add ID --site " + imp.spec.Name,
		}
	}
	if imp.registry.Projects[spec.ID] == nil {
		if _, err := imp.registry.Project(imp.tx, spec.ID); err != nil {
			return err
		}
		imp.changed(spec.ID, "added", "project %s of site %s", spec.ID, imp.spec.Name)
	}
	project := imp.registry.Projects[spec.ID]
	if spec.Users != nil {
		if err := imp.members(spec, project); err != nil {
			return err
		}
	}
	if spec.Allocations != nil {
		return imp.allocations(spec, project)
	}
	return nil
}

func (imp *siteImport) members(spec *ProjectSpec, project *Project) error {
	wanted := map[int64]bool{}
	if spec.Edit == EditRemove {
		for user := range project.Users {
			wanted[user] = true
		}
		for _, username := range spec.Users {
			user, known := imp.registry.Users[username]
			if !known || !wanted[user] {
				return &amieusage.Error{Code: amieusage.CodeNotFound, Message: fmt.Sprintf("user %q is not on project %s", username, spec.ID),
					Hint: "see who is: amieusage admin site show " + imp.spec.Name}
			}
			delete(wanted, user)
		}
	}
	for _, username := range spec.Users {
		if spec.Edit == EditRemove {
			break
		}
		user, err := imp.registry.User(imp.tx, username)
		if err != nil {
			return err
		}
		wanted[user] = true
		if project.Users[user] {
			continue
		}
		project.Users[user] = true
		if err := imp.tx.AddMember(project.ID, user); err != nil {
			return err
		}
		imp.changed(spec.ID, "added", "user %s to project %s", username, spec.ID)
	}
	for _, user := range slices.Sorted(maps.Keys(project.Users)) {
		if wanted[user] || spec.Edit == EditAdd {
			continue
		}
		delete(project.Users, user)
		if err := imp.tx.RemoveMember(project.ID, user); err != nil {
			return err
		}
		imp.changed(spec.ID, "removed", "user %s from project %s", imp.usernames[user], spec.ID)
	}
	return nil
}

func (imp *siteImport) allocations(spec *ProjectSpec, project *Project) error {
	old := map[allocationKey]Allocation{}
	for _, a := range project.Allocations {
		old[allocationKey{a.Resource, Nanos(a.Start)}] = a
	}
	project.Allocations = nil
	names := map[int64]string{}
	for name, resource := range imp.registry.Resources {
		names[resource] = name
	}
	stated, err := imp.edited(spec, old, names)
	if err != nil {
		return err
	}
	for _, s := range stated {
		resource, known := imp.registry.Resources[s.Resource]
		if !known {
			return &amieusage.Error{
				Code:    amieusage.CodeInvalid,
				Message: fmt.Sprintf("project %s has an allocation on %s, which is no resource of site %s", spec.ID, s.Resource, imp.spec.Name),
				Hint:    "list it under the site's resources",
			}
		}
		a := Allocation{Resource: resource, Start: TimeOf(Nanos(s.Start)), End: TimeOf(Nanos(s.End)), Amount: s.Amount}
		project.Allocations = append(project.Allocations, a)
		k := allocationKey{resource, Nanos(s.Start)}
		before, known := old[k]
		delete(old, k)
		if known && before.End.Equal(a.End) && before.Amount == a.Amount {
			continue
		}
		if err := imp.tx.SetAllocation(project.ID, a); err != nil {
			return err
		}
		action, was := "added", ""
		if known {
			action = "changed"
			was = fmt.Sprintf(" (was %s until %s)", amieusage.ChargeOfMillionths(before.Amount), amieusage.FormatTime(before.End))
		}
		imp.changed(spec.ID, action, "allocation of project %s on %s from %s: %s until %s%s", spec.ID, s.Resource,
			amieusage.FormatTime(a.Start), amieusage.ChargeOfMillionths(a.Amount), amieusage.FormatTime(a.End), was)
	}
	for _, a := range slices.SortedFunc(maps.Values(old), func(a, b Allocation) int {
		return cmp.Or(cmp.Compare(names[a.Resource], names[b.Resource]), a.Start.Compare(b.Start))
	}) {
		if err := imp.tx.RemoveAllocation(project.ID, a); err != nil {
			return err
		}
		imp.changed(spec.ID, "removed", "allocation of project %s on %s from %s (was %s until %s)", spec.ID, names[a.Resource],
			amieusage.FormatTime(a.Start), amieusage.ChargeOfMillionths(a.Amount), amieusage.FormatTime(a.End))
	}
	return nil
}

// An allocationKey tells an allocation of a project from its others.
type allocationKey struct{ resource, start int64 }

// edited returns all allocations that a project has once the spec's are added, changed or
// removed.
func (imp *siteImport) edited(spec *ProjectSpec, old map[allocationKey]Allocation, names map[int64]string) ([]AllocationSpec, error) {
	if spec.Edit == EditWhole {
		return spec.Allocations, nil
	}
	left := maps.Clone(old)
	var stated []AllocationSpec
	for _, s := range spec.Allocations {
		resource, known := imp.registry.Resources[s.Resource]
		k := allocationKey{resource, Nanos(s.Start)}
		before, there := old[k]
		there = there && known
		what := fmt.Sprintf("allocation on %s from %s", s.Resource, amieusage.FormatTime(s.Start))
		switch {
		case spec.Edit == EditAdd && there:
			return nil, &amieusage.Error{Code: amieusage.CodeConflict, Message: fmt.Sprintf("project %s has an %s already", spec.ID, what),
				Hint: "change it: amieusage admin allocation set"}
		case spec.Edit != EditAdd && !there:
			return nil, &amieusage.Error{Code: amieusage.CodeNotFound, Message: fmt.Sprintf("project %s has no %s", spec.ID, what),
				Hint: "see what it has: amieusage admin site show " + imp.spec.Name}
		}
		delete(left, k)
		if spec.Edit == EditRemove {
			continue
		}
		if s.Amount < 0 {
			s.Amount = before.Amount
		}
		if s.End.IsZero() {
			s.End = before.End
		}
		if !s.Start.Before(s.End) {
			return nil, specError("project %s: the %s would end before it starts", spec.ID, what)
		}
		stated = append(stated, s)
	}
	for _, a := range left {
		stated = append(stated, AllocationSpec{names[a.Resource], a.Amount, a.Start, a.End})
	}
	return stated, nil
}

// checkGranted refuses allocations whose sum could not be held.
func (imp *siteImport) checkGranted() error {
	var total int64
	for _, p := range imp.registry.Projects {
		for _, a := range p.Allocations {
			if a.Amount > math.MaxInt64-total {
				return &amieusage.Error{
					Code:    amieusage.CodeInvalid,
					Message: "the allocations of site " + imp.spec.Name + " add up to more than nine trillion units",
				}
			}
			total += a.Amount
		}
	}
	return nil
}
