package siteconfig

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage/internal/siterules"
	"github.com/amieusage/amieusage/internal/storage"
)

// Storage says how storage is collected.
type Storage struct {
	Zone        *time.Location // of ticks and dates
	Every       time.Duration
	Carry       bool  // a missed tick has what the one before it had
	Plausible   int64 // by how many percent a total may change in a tick; 0: by any
	FileSystems []storage.FileSystem

	dates []rateDate
}

// A rateDate is the date of a rate, which is read before the zone is known.
type rateDate struct {
	at         value
	fileSystem int
	rate       int
	text       string
}

// What storage: means where it does not say.
const (
	defaultEvery     = 24 * time.Hour
	defaultPlausible = 50
)

func (s *Site) storage(v value) error {
	if v.keys == nil && !v.isSet() {
		return nil
	}
	st := Storage{Every: defaultEvery, Plausible: defaultPlausible}
	err := v.fields(
		field{"time_zone", location(&st.Zone)},
		field{"every", func(v value) error {
			err := duration("every", &st.Every)(v)
			if err == nil && v.isSet() && st.Every < time.Minute {
				return v.errorf("every must be a minute or more, as in every: 1d")
			}
			return err
		}},
		field{"missed", parsed(func(text string) error {
			st.Carry = text == "carry"
			if text != "carry" && text != "skip" {
				return fmt.Errorf("missed %q is not one of carry, skip", text)
			}
			return nil
		})},
		field{"plausible", parsed(func(text string) error {
			n, ok := wholeNumber(strings.TrimSuffix(text, "%"))
			if !ok {
				return fmt.Errorf("plausible must be a percentage such as 50%%; 0%% takes any change")
			}
			st.Plausible = n
			return nil
		})},
		field{"filesystems", list(st.fileSystem)},
	)
	if err != nil || v.keys != nil {
		return err
	}
	if len(st.FileSystems) == 0 {
		return v.errorf("storage: there are no filesystems")
	}
	s.Storage = &st
	return nil
}

func (st *Storage) fileSystem(_ int, v value) error {
	f := storage.FileSystem{Timeout: 10 * time.Minute}
	var matches, include []string
	var copies, userCopies int
	var ignore []string
	read := func(to *string) reader { return text(to) }
	err := v.fields(
		field{"name", read(&f.Name)},
		field{"format", parsed(func(text string) error {
			if f.Format = storage.Format(text); !slices.Contains(storage.Formats, f.Format) {
				return fmt.Errorf("format %q is not one of gpfs, lustre, xdmod, repquota, zfs, xfs, beegfs, csv", text)
			}
			return nil
		})},
		field{"command", read(&f.Command)},
		field{"timeout", duration("timeout", &f.Timeout)},
		field{"mount", read(&f.Mount)},
		field{"match", several(func(v value) error {
			word, err := v.word()
			if err == nil && v.keys == nil {
				if err = siterules.CheckPattern(word); err != nil {
					return v.errorf("%w", err)
				}
				matches = append(matches, word)
			}
			return err
		})},
		field{"resource", read(&f.Resource)},
		field{"media_type", read(&f.MediaType)},
		field{"system_copies", whole("system_copies", &copies, 1, 1000)},
		field{"user_copies", whole("user_copies", &userCopies, 1, 1000)},
		field{"charge", func(v value) error {
			rate := func(_ int, v value) error { return st.rate(&f, v) }
			if v.isList() {
				return list(rate)(v)
			}
			return rate(0, v)
		}},
		field{"projects", func(v value) error {
			return v.fields(
				field{"from", parsed(func(text string) error {
					if f.From = storage.From(text); !slices.Contains(storage.Froms, f.From) {
						return fmt.Errorf("projects: from %q is not one of fileset, project_id, path, group, pi, user", text)
					}
					return nil
				})},
				field{"map", targets(&f.Map)},
				field{"include", patterns(&include, siterules.CheckPattern)},
				field{"leads", textMap(&f.Leads)},
			)
		}},
		field{"ignore", texts(&ignore)},
		field{"csv", csvColumns(&f.CSV)},
	)
	if err != nil || v.keys != nil {
		return err
	}
	f.SystemCopies, f.UserCopies = int64(copies), int64(userCopies)
	f.Ignore = map[string]bool{}
	for _, name := range ignore {
		f.Ignore[name] = true
	}
	f.Match, f.Include = matches, include
	switch {
	case f.Name == "":
		return v.errorf("a file system has no name: state it, as in name: scratch")
	case slices.ContainsFunc(st.FileSystems, func(o storage.FileSystem) bool { return o.Name == f.Name }):
		return v.errorf("file system %s stands here twice", f.Name)
	case f.Resource == "" && needsResource(&f):
		return v.errorf("file system %s has no resource: state it, as in resource: ocean.psc.access-ci.org", f.Name)
	case len(f.Rates) == 0:
		return v.errorf("file system %s has no charge: state it, as in charge: {gauge: {per_TB: 1}}", f.Name)
	}
	st.FileSystems = append(st.FileSystems, f)
	return nil
}

// needsResource reports whether any tree has no resource of its own.
func needsResource(f *storage.FileSystem) bool {
	for _, t := range f.Map {
		if t.Resource == "" {
			return true
		}
	}
	return len(f.Map) == 0 || len(f.Include) > 0
}

// targets reads names of trees with their projects: {proj1003: p.abc} or {proj1003: {project: p.abc, resource: …, lead: …}}.
func targets(to *map[string]storage.Target) reader {
	return func(v value) error {
		return v.entries(func(tree string, _, v value) error {
			var t storage.Target
			word, err := v.word()
			if err == nil {
				t.Project = word
			} else if err := v.fields(field{"project", text(&t.Project)}, field{"resource", text(&t.Resource)}, field{"lead", text(&t.Lead)}); err != nil {
				return err
			}
			if t.Project == "" {
				return v.errorf("%s has no project", tree)
			}
			if *to == nil {
				*to = map[string]storage.Target{}
			}
			(*to)[tree] = t
			return nil
		})
	}
}

func csvColumns(c *storage.CSV) reader {
	return func(v value) error {
		unit, delimiter := "", ""
		err := v.fields(
			field{"path", text(&c.Path)}, field{"project_id", text(&c.ProjectID)}, field{"fileset", text(&c.Fileset)}, field{"group", text(&c.Group)},
			field{"pi", text(&c.PI)}, field{"user", text(&c.User)}, field{"files", text(&c.Files)}, field{"bytes", text(&c.Bytes)},
			field{"unit", text(&unit)}, field{"delimiter", text(&delimiter)},
		)
		if err != nil || v.keys != nil || !v.isSet() {
			return err
		}
		units := map[string]int64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "kB": 1e3, "MB": 1e6}
		for name, n := range storage.Units {
			units[string(name)] = n
		}
		if c.Unit = units[unit]; c.Unit == 0 {
			return v.errorf("csv: unit %q is not one of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB", unit)
		}
		if c.Bytes == "" {
			return v.errorf("csv: bytes names no column")
		}
		switch delimiter {
		case "":
		case `\t`, "tab", "\t":
			c.Delimiter = '\t'
		default:
			c.Delimiter = []rune(delimiter)[0]
		}
		return nil
	}
}

// rate reads {from: 2026-01-01, gauge: {per_TB: 1}} or {integral: {per_TB_day: 0.01}}.
func (st *Storage) rate(f *storage.FileSystem, v value) error {
	var r storage.Rate
	var from string
	var at value
	per := func(integral bool) reader {
		return func(v value) error {
			var fields []field
			for unit := range storage.Units {
				key := "per_" + string(unit)
				if integral {
					key += "_day"
				}
				fields = append(fields, field{key, parsed(func(text string) error {
					if r.Per != nil {
						return fmt.Errorf("there are two rates: state one")
					}
					d, _, err := apd.NewFromString(text)
					if err != nil {
						return fmt.Errorf("%s is %q, and no decimal number", key, text)
					}
					r.Per, r.Unit, r.Integral = d, unit, integral
					return nil
				})})
			}
			slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.key, b.key) })
			return v.fields(fields...)
		}
	}
	err := v.fields(
		field{"from", func(v value) error { at = v; return text(&from)(v) }},
		field{"gauge", per(false)},
		field{"integral", per(true)},
	)
	if err != nil || v.keys != nil || !v.isSet() {
		return err
	}
	if err := r.Check(); err != nil {
		return v.errorf("%w", err)
	}
	if from != "" {
		st.dates = append(st.dates, rateDate{at, len(st.FileSystems), len(f.Rates), from})
	}
	f.Rates = append(f.Rates, r)
	return nil
}

// finish gives the rates their dates, in the zone.
func (st *Storage) finish(zone *time.Location) error {
	if st.Zone == nil {
		st.Zone = zone
	}
	for _, d := range st.dates {
		from, err := time.ParseInLocation(time.DateOnly, d.text, st.Zone)
		if err != nil {
			return d.at.errorf("from %q is no date, as in from: 2026-10-01", d.text)
		}
		rates := st.FileSystems[d.fileSystem].Rates
		if d.rate > 0 && !from.After(rates[d.rate-1].From) {
			return d.at.errorf("the rates are not in order of their dates: each begins after the one before it")
		}
		rates[d.rate].From = from
	}
	return nil
}

// FileSystem returns a file system by its name; nil: there is none.
func (st *Storage) FileSystem(name string) *storage.FileSystem {
	for i := range st.FileSystems {
		if st.FileSystems[i].Name == name {
			return &st.FileSystems[i]
		}
	}
	return nil
}
