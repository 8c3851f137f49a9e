package siteconfig

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/amieusage/amieusage/internal/siterules"
)

// ruleFile is what site.yaml says of the rules, where it has to be put together
// with the rest before it is one.
type ruleFile struct {
	rules     siterules.Rules
	resources []resourceFile
	factors   siterules.Factors  // of all resources that state none
	chargeBy  siterules.ChargeBy // the same
	mapFiles  []value            // projects: map_file
}

type resourceFile struct {
	at      value
	rule    siterules.Resource
	factors siterules.Factors
	rates   []rateFile
}

type rateFile struct {
	at   value
	from string
	rate siterules.Rate
}

// fields are the keys of the rules at the top of site.yaml.
func (r *ruleFile) fields() []field {
	projects, users := &r.rules.Projects, &r.rules.Users
	return []field{
		{"resources", list(r.resource)},
		{"exempt", list(func(i int, v value) error {
			var m siterules.Match
			if err := v.fields(matchFields(&m)...); err != nil || v.keys != nil {
				return err
			}
			if m.IsEmpty() {
				return v.errorf("exempt %d names nothing, and would exempt every job", i+1)
			}
			r.rules.Exempt = append(r.rules.Exempt, m)
			return nil
		})},
		{"projects", func(v value) error {
			return v.fields(
				field{"from", several(func(v value) error {
					var from string
					err := one(&from, "projects: from", "account", "project", "group")(v)
					if from != "" {
						projects.From = append(projects.From, siterules.AccountFrom(from))
					}
					return err
				})},
				field{"include", patterns(&projects.Include, func(p string) error { return under("projects", siterules.CheckPattern(p)) })},
				field{"case", one((*string)(&projects.Case), "projects: case", "keep", "upper", "lower")},
				field{"map", textMap(&projects.Map)},
				field{"map_file", func(v value) error {
					if v.isSet() {
						r.mapFiles = append(r.mapFiles, v)
					}
					return nil
				}},
				field{"rewrite", list(r.rewrite)},
			)
		}},
		{"users", func(v value) error {
			return v.fields(
				field{"map", textMap(&users.Map)},
				field{"by_uid", textMap(&users.ByUID)},
				field{"by_project", func(v value) error {
					return v.entries(func(project string, _, v value) error {
						members := map[string]string{}
						if users.ByProject == nil {
							users.ByProject = map[string]map[string]string{}
						}
						users.ByProject[project] = members
						if name, err := v.word(); err == nil { // one person for all
							members["*"] = name
							return nil
						}
						return textMap(&members)(v)
					})
				}},
			)
		}},
		{"factors", factorsReader(&r.factors)},
		{"charge_by", chargeByReader(&r.chargeBy)},
		{"local_record_id", parsed(func(text string) (err error) {
			r.rules.RecordID, err = siterules.ParseTemplate(text)
			return err
		})},
		{"limits", func(v value) error {
			return v.fields(
				field{"per_job", charge("limits: per_job", &r.rules.Limits.PerJob)},
				field{"per_run", charge("limits: per_run", &r.rules.Limits.PerRun)},
			)
		}},
		{"report_zero_elapsed", flag(&r.rules.ReportZeroElapsed)},
	}
}

func under(key string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// one reads one of a few words.
func one(to *string, what string, words ...string) reader {
	return parsed(func(text string) error {
		for _, w := range words {
			if text == w {
				*to = text
				return nil
			}
		}
		return fmt.Errorf("%s %q is not one of %s", what, text, strings.Join(words, ", "))
	})
}

func chargeByReader(to *siterules.ChargeBy) reader {
	return one((*string)(to), "charge_by", "start", "end", "submit")
}

func factorsReader(to *siterules.Factors) reader {
	return func(v value) error {
		return v.fields(
			field{"qos", factors(&to.QOS)},
			field{"partitions", factors(&to.Partitions)},
		)
	}
}

// factors reads factors, each of which is checked at its place.
func factors(to *map[string]*apd.Decimal) reader {
	read := decimals("factor", to)
	return func(v value) error {
		if err := read(v); err != nil {
			return err
		}
		for name, d := range *to {
			if err := siterules.CheckDecimal(d); err != nil {
				return v.errorf("the factor of %s %w", name, err)
			}
		}
		return nil
	}
}

func matchFields(m *siterules.Match) []field {
	return []field{
		{"clusters", patterns(&m.Clusters, siterules.CheckPattern)},
		{"partitions", patterns(&m.Partitions, siterules.CheckPattern)},
		{"qos", patterns(&m.QOS, siterules.CheckPattern)},
		{"accounts", patterns(&m.Accounts, siterules.CheckPattern)},
		{"users", patterns(&m.Users, siterules.CheckPattern)},
		{"reservations", patterns(&m.Reservations, siterules.CheckPattern)},
		{"states", patterns(&m.States, siterules.CheckPattern)},
	}
}

func (r *ruleFile) resource(i int, v value) error {
	f := resourceFile{at: v, rule: siterules.Resource{Line: v.line}}
	match := matchFields(&f.rule.Match)
	err := v.fields(
		field{"resource", func(v value) error { f.at = v; return text(&f.rule.Name)(v) }},
		field{"match", func(v value) error { return v.fields(match...) }},
		match[0], match[1], match[2], // as they are known from of old
		field{"charge", f.charge},
		field{"charge_by", chargeByReader(&f.rule.ChargeBy)},
		field{"factors", factorsReader(&f.factors)},
	)
	if err != nil || v.keys != nil {
		return err
	}
	if f.rule.Name == "" {
		return v.errorf("resource %d has no name: state it, as in resource: bridges2-rm.psc.access-ci.org", i+1)
	}
	if len(f.rates) == 0 {
		return f.at.errorf("resource %s: charge has no rate, as in charge: {per_hour: {cpu: 1}}", f.rule.Name)
	}
	r.resources = append(r.resources, f)
	return nil
}

// charge reads one rate, or a list of rates with dates.
func (f *resourceFile) charge(v value) error {
	rate := func(_ int, v value) error {
		r := rateFile{at: v, rate: siterules.Rate{Decimals: siterules.MaxDecimals, Line: v.line}}
		err := v.fields(
			field{"from", text(&r.from)},
			field{"per_hour", decimals("rate", &r.rate.PerHour)},
			field{"combine", one((*string)(&r.rate.Combine), "combine", "sum", "max")},
			field{"decimals", whole("decimals", &r.rate.Decimals, 0, siterules.MaxDecimals)},
			field{"factors", factorsReader(&r.rate.Factors)},
			field{"charge_by", chargeByReader(&f.rule.ChargeBy)},
		)
		if err == nil && v.keys == nil && v.isSet() {
			f.rates = append(f.rates, r)
		}
		return err
	}
	if v.isList() {
		return list(rate)(v)
	}
	return rate(0, v)
}

func (r *ruleFile) rewrite(i int, v value) error {
	var w siterules.Rewrite
	err := v.fields(
		field{"match", parsed(func(text string) (err error) {
			if w.Match, err = regexp.Compile(text); err != nil {
				return fmt.Errorf("match %q is no regular expression, as in ^pn_(.*)$: %w", text, err)
			}
			return nil
		})},
		field{"to", text(&w.To)},
		field{"case", one((*string)(&w.Case), "rewrite: case", "keep", "upper", "lower")},
	)
	if err != nil || v.keys != nil {
		return err
	}
	if w.Match == nil {
		return v.errorf("rewrite %d has no match, as in {match: ^pn_(.*)$, to: $1}", i+1)
	}
	if w.To == "" {
		return v.errorf("rewrite %d has no to: say what the project is, as in {match: ^pn_(.*)$, to: $1}", i+1)
	}
	r.rules.Projects.Rewrite = append(r.rules.Projects.Rewrite, w)
	return nil
}

// finish puts the rules together: dates in the site's zone, files in the
// configuration's folder.
func (r *ruleFile) finish(folder string, zone *time.Location) (siterules.Rules, error) {
	for _, f := range r.resources {
		if f.rule.ChargeBy == "" {
			f.rule.ChargeBy = r.chargeBy
		}
		for _, rate := range f.rates {
			if rate.from != "" {
				from, err := time.ParseInLocation(time.DateOnly, rate.from, zone)
				if err != nil {
					return r.rules, rate.at.errorf("from %q is no date, as in from: 2026-10-01", rate.from)
				}
				rate.rate.From = from
			}
			rate.rate.Factors = rate.rate.Factors.Or(f.factors).Or(r.factors)
			f.rule.Rates = append(f.rule.Rates, rate.rate)
		}
		if err := (&siterules.Rules{Resources: []siterules.Resource{f.rule}}).Check(); err != nil {
			return r.rules, f.at.errorf("%w", err)
		}
		r.rules.Resources = append(r.rules.Resources, f.rule)
	}
	for _, v := range r.mapFiles {
		if err := r.readMap(folder, v); err != nil {
			return r.rules, err
		}
	}
	return r.rules, r.rules.Check()
}

// maxMapFile bounds the size of a map's file.
const maxMapFile = 64 << 20

// readMap adds the projects of a file of lines account,project.
func (r *ruleFile) readMap(folder string, v value) error {
	name, err := v.word()
	if err != nil || name == "" {
		return err
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(folder, name)
	}
	in, err := os.Open(name)
	if err != nil {
		return v.errorf("map_file: %w", err)
	}
	defer in.Close()
	lines := csv.NewReader(io.LimitReader(in, maxMapFile))
	lines.FieldsPerRecord, lines.Comment, lines.TrimLeadingSpace = 2, '#', true
	accounts := map[string]string{}
	for {
		row, err := lines.Read()
		if err == io.EOF {
			break
		}
		if wrong, ok := errors.AsType[*csv.ParseError](err); ok {
			return fmt.Errorf("%s:%d: a line must be ACCOUNT,PROJECT: %w", name, wrong.Line, wrong.Err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		line, _ := lines.FieldPos(0)
		account, project := row[0], strings.TrimSpace(row[1])
		switch {
		case line == 1 && strings.EqualFold(account, "account"):
			continue // the header
		case account == "" || project == "":
			return fmt.Errorf("%s:%d: a line must be ACCOUNT,PROJECT", name, line)
		case accounts[account] != "":
			return fmt.Errorf("%s:%d: account %s stands there twice", name, line, account)
		}
		accounts[account] = project
	}
	projects := &r.rules.Projects
	if projects.Map == nil {
		projects.Map = map[string]string{}
	}
	for account, project := range accounts {
		if _, ok := projects.Map[account]; !ok { // what site.yaml says itself goes before
			projects.Map[account] = project
		}
	}
	return nil
}
