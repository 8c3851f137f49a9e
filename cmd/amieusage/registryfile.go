package main

import (
	"fmt"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A registryFile is the YAML form of a registry.
type registryFile struct {
	Sites []struct {
		Name      string `yaml:"name"`
		Resources []struct {
			Name string `yaml:"name"`
		} `yaml:"resources"`
		Projects []struct {
			ID          string               `yaml:"id"`
			Users       []string             `yaml:"users"`
			Allocations []registryAllocation `yaml:"allocations"`
		} `yaml:"projects"`
	} `yaml:"sites"`
}

type registryAllocation struct {
	Resource scalar `yaml:"resource"`
	Amount   scalar `yaml:"amount"`
	Start    scalar `yaml:"start"`
	End      scalar `yaml:"end"`
}

// parseRegistry reads a registry. Errors name the file and the place in it.
func parseRegistry(name string, data []byte) (*ledger.RegistrySpec, error) {
	var file registryFile
	if err := decodeYAML(name, data, &file); err != nil {
		return nil, err
	}
	if len(file.Sites) == 0 {
		return nil, fmt.Errorf("%s: no sites (the form is shown by: amieusage admin import --help)", name)
	}
	spec := &ledger.RegistrySpec{}
	for i, site := range file.Sites {
		if err := checkSiteName(site.Name); err != nil {
			return nil, fmt.Errorf("%s: site %d: %w", name, i+1, err)
		}
		at := name + ": site " + site.Name
		s := ledger.SiteSpec{Name: site.Name}
		for j, resource := range site.Resources {
			if err := checkName("name", resource.Name); err != nil {
				return nil, fmt.Errorf("%s: resource %d: %w", at, j+1, err)
			}
			s.Resources = append(s.Resources, resource.Name)
		}
		projects := map[string]bool{}
		for j, project := range site.Projects {
			if err := checkName("id", project.ID); err != nil {
				return nil, fmt.Errorf("%s: project %d: %w", at, j+1, err)
			}
			if projects[project.ID] {
				return nil, fmt.Errorf("%s: project %s stands there twice", at, project.ID)
			}
			projects[project.ID] = true
			p := ledger.ProjectSpec{ID: project.ID, Users: project.Users}
			for _, user := range project.Users {
				if err := checkName("user", user); err != nil {
					return nil, fmt.Errorf("%s: project %s: %w", at, project.ID, err)
				}
			}
			if project.Allocations != nil {
				p.Allocations = []ledger.AllocationSpec{}
			}
			for k, a := range project.Allocations {
				if a.Resource.line == 0 {
					return nil, fmt.Errorf("%s: project %s: allocation %d has no resource", at, project.ID, k+1)
				}
				allocation, err := parseAllocation(name, a)
				if err != nil {
					return nil, err
				}
				p.Allocations = append(p.Allocations, allocation)
			}
			s.Projects = append(s.Projects, p)
		}
		spec.Sites = append(spec.Sites, s)
	}
	return spec, nil
}

func checkName(what, s string) error {
	if s == "" || len(s) > 1024 {
		return fmt.Errorf("the %s must have from 1 to 1024 bytes", what)
	}
	return nil
}

func parseAllocation(file string, r registryAllocation) (a ledger.AllocationSpec, err error) {
	if err := checkName("resource", r.Resource.text); err != nil {
		return a, r.Resource.problem(file, "%w", err)
	}
	a.Resource = r.Resource.text
	charge, err := amieusage.ParseCharge(r.Amount.text)
	if err != nil {
		return a, r.Amount.near(r.Resource).problem(file, "amount %w", err)
	}
	if a.Amount, err = charge.Millionths(); err != nil {
		return a, r.Amount.near(r.Resource).problem(file, "amount %w", err)
	}
	if a.Amount < 0 {
		return a, r.Amount.near(r.Resource).problem(file, "amount must not be negative")
	}
	if a.Start, err = amieusage.ParseTime(r.Start.text); err != nil {
		return a, r.Start.near(r.Resource).problem(file, "start %w", err)
	}
	if a.End, err = amieusage.ParseTime(r.End.text); err != nil {
		return a, r.End.near(r.Resource).problem(file, "end %w", err)
	}
	if _, err := time.Parse(time.DateOnly, r.End.text); err == nil {
		a.End = a.End.AddDate(0, 0, 1) // the last day is part of it
	}
	if !a.Start.Before(a.End) {
		return a, r.End.near(r.Resource).problem(file, "end must not be before start")
	}
	if a.Start.Year() < 1970 || a.End.Year() > 2200 {
		return a, r.Start.near(r.Resource).problem(file, "an allocation lies between the years 1970 and 2199")
	}
	return a, nil
}
