package siteconfig

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// ParseRegistry reads a registry.yaml. Errors name the file and the place in it.
func ParseRegistry(name string, data []byte) (*ledger.RegistrySpec, error) {
	spec := &ledger.RegistrySpec{}
	err := parse(name, data, registry(spec))
	if unknown, ok := errors.AsType[*unknownKeyError](err); ok {
		unknown.all = known(registry(&ledger.RegistrySpec{}))
	}
	if err != nil {
		return nil, err
	}
	if len(spec.Sites) == 0 {
		return nil, fmt.Errorf("%s: no sites (the form is shown by: amieusage admin import --help)", name)
	}
	return spec, nil
}

func registry(spec *ledger.RegistrySpec) reader {
	return func(v value) error {
		return v.fields(field{"sites", list(func(_ int, v value) error {
			var s ledger.SiteSpec
			err := registrySite(v, &s)
			spec.Sites = append(spec.Sites, s)
			return err
		})})
	}
}

func registrySite(v value, s *ledger.SiteSpec) error {
	projects := map[string]bool{}
	err := v.fields(
		field{"name", text(&s.Name)},
		field{"resources", list(func(_ int, v value) error {
			var name string
			if err := v.fields(field{"name", text(&name)}); err != nil || v.keys != nil {
				return err
			}
			s.Resources = append(s.Resources, name)
			return checkName(v, "name", name)
		})},
		field{"projects", list(func(_ int, v value) error {
			var p ledger.ProjectSpec
			if err := registryProject(v, &p); err != nil || v.keys != nil {
				return err
			}
			if projects[p.ID] {
				return v.errorf("project %s stands there twice", p.ID)
			}
			projects[p.ID] = true
			s.Projects = append(s.Projects, p)
			return nil
		})},
	)
	if err != nil || v.keys != nil {
		return err
	}
	if err := CheckSiteName(s.Name); err != nil {
		return v.errorf("name: %w", err)
	}
	return nil
}

func registryProject(v value, p *ledger.ProjectSpec) error {
	err := v.fields(
		field{"id", text(&p.ID)},
		field{"users", func(v value) error {
			if v.isSet() {
				p.Users = []string{}
			}
			return list(func(_ int, v value) error {
				name, err := v.word()
				if err != nil || v.keys != nil {
					return err
				}
				p.Users = append(p.Users, name)
				return checkName(v, "user", name)
			})(v)
		}},
		field{"allocations", func(v value) error {
			if v.isSet() {
				p.Allocations = []ledger.AllocationSpec{}
			}
			return list(func(_ int, v value) error {
				a, err := registryAllocation(v)
				p.Allocations = append(p.Allocations, a)
				return err
			})(v)
		}},
	)
	if err != nil || v.keys != nil {
		return err
	}
	return checkName(v, "id", p.ID)
}

func checkName(v value, what, s string) error {
	if s == "" || len(s) > 1024 {
		return v.errorf("the %s must have from 1 to 1024 bytes", what)
	}
	return nil
}

func registryAllocation(v value) (a ledger.AllocationSpec, err error) {
	set := map[string]bool{}
	needed := func(key string, read reader) field {
		return field{key, func(v value) error {
			set[key] = v.isSet()
			return read(v)
		}}
	}
	err = v.fields(
		needed("resource", func(v value) error {
			if err := text(&a.Resource)(v); err != nil || v.keys != nil {
				return err
			}
			return checkName(v, "resource", a.Resource)
		}),
		needed("amount", parsed(func(text string) (err error) {
			if a.Amount, err = ParseAmount(text); err != nil {
				return fmt.Errorf("amount %w", err)
			}
			return nil
		})),
		needed("start", parsed(func(text string) (err error) {
			if a.Start, err = amieusage.ParseTime(text); err != nil {
				return fmt.Errorf("start %w", err)
			}
			return nil
		})),
		needed("end", parsed(func(text string) (err error) {
			if a.End, err = ParseEnd(text); err != nil {
				return fmt.Errorf("end %w", err)
			}
			return nil
		})),
	)
	if err != nil || v.keys != nil {
		return a, err
	}
	for _, key := range []string{"resource", "amount", "start", "end"} {
		if !set[key] {
			return a, v.errorf("an allocation needs its %s, as in {resource: rm, amount: 100000, start: 2026-01-01, end: 2026-12-31}", key)
		}
	}
	if !a.Start.Before(a.End) {
		return a, v.errorf("end must not be before start")
	}
	if err := CheckYears(a.Start, a.End); err != nil {
		return a, v.errorf("%w", err)
	}
	return a, nil
}

// ParseAmount reads what an allocation grants, in millionths of a unit.
func ParseAmount(text string) (int64, error) {
	charge, err := amieusage.ParseCharge(text)
	if err != nil {
		return 0, err
	}
	amount, err := charge.Millionths()
	if err == nil && amount < 0 {
		err = errors.New("must not be negative")
	}
	return amount, err
}

// ParseEnd reads the time that an allocation ends at. A day alone is part of it.
func ParseEnd(text string) (time.Time, error) {
	end, err := amieusage.ParseTime(text)
	if _, notDay := time.Parse(time.DateOnly, text); err == nil && notDay == nil {
		end = end.AddDate(0, 0, 1)
	}
	return end, err
}

// CheckYears refuses the times of an allocation that no ledger can hold; a zero end is
// none.
func CheckYears(start, end time.Time) error {
	if start.Year() < 1970 || end.Year() > 2200 {
		return errors.New("an allocation lies between the years 1970 and 2199")
	}
	return nil
}

// FormatRegistry writes a registry.yaml, which [ParseRegistry] reads.
func FormatRegistry(spec *ledger.RegistrySpec) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("sites:")
	for _, s := range spec.Sites {
		line("  - name: %s", quoted(s.Name))
		if len(s.Resources) > 0 {
			line("    resources:")
		}
		for _, r := range s.Resources {
			line("      - {name: %s}", quoted(r))
		}
		if len(s.Projects) > 0 {
			line("    projects:")
		}
		for _, p := range s.Projects {
			line("      - id: %s", quoted(p.ID))
			line("        users: %s", flow(p.Users))
			if len(p.Allocations) == 0 {
				line("        allocations: []")
				continue
			}
			line("        allocations:")
			for _, a := range p.Allocations {
				line("          - {resource: %s, amount: %s, start: %s, end: %s}", quoted(a.Resource),
					amieusage.ChargeOfMillionths(a.Amount), dayOrTime(a.Start, 0), dayOrTime(a.End, -1))
			}
		}
	}
	return b.Bytes()
}

// dayOrTime returns a time that is a midnight in UTC as the day that is so many days
// after it, and another one as it is.
func dayOrTime(t time.Time, days int) string {
	if t = t.UTC(); t.Truncate(24 * time.Hour).Equal(t) {
		return t.AddDate(0, 0, days).Format(time.DateOnly)
	}
	return strconv.Quote(amieusage.FormatTime(t))
}
