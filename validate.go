package amieusage

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Sane lengths of text fields, in bytes.
const (
	maxTextBytes     = 1024
	maxLongTextBytes = 4096
)

// CheckRecord reads the JSON of one record and validates it, and returns all
// that is wrong with it as one [*ValidationError]. The record holds what could
// be read even then. Only an unknown usage type gives no record, and a
// [*Error] with [CodeInvalid].
//
// The texts of the record share one copy of data, which lives as long as any
// of them.
func CheckRecord(t UsageType, data []byte) (Record, error) {
	t, err := ParseUsageType(string(t))
	if err != nil {
		return nil, err
	}
	r := NewRecord(t)
	var unreadable []FieldError
	if problems, ok := decodeRecord(r, data).(*ValidationError); ok {
		if slices.ContainsFunc(problems.Fields, func(p FieldError) bool { return p.Field == "" }) {
			return r, problems
		}
		unreadable = problems.Fields
	}
	return r, validateRecord(r, unreadable)
}

// validateRecord adds to the problems of the fields that could not be read
// those of the others, and returns them in the order of the schema.
func validateRecord(r Record, problems []FieldError) error {
	schema := r.schema()
	listed := func(path string) bool {
		return slices.ContainsFunc(problems, func(p FieldError) bool { return p.Field == path })
	}
	for i := range schema.fields {
		f := &schema.fields[i]
		if len(problems) > 0 && listed(f.path) {
			continue
		}
		absent, problem := fieldProblem(f, f.value(r))
		if absent && f.required {
			problem = "is required"
		}
		if problem != "" {
			problems = append(problems, FieldError{f.path, problem})
		}
	}
	if c, ok := r.(*ComputeRecord); ok {
		problems = append(problems, timesOutOfOrder(c, listed)...)
	}
	extra, extraAttributes := r.extras()
	problems = append(problems, extraProblems(schema, *extra, false)...)
	if extraAttributes != nil {
		problems = append(problems, extraProblems(schema, *extraAttributes, true)...)
	}
	if len(problems) == 0 {
		return nil
	}
	place := func(p FieldError) int {
		i := slices.IndexFunc(schema.fields, func(f fieldSpec) bool { return f.path == p.Field })
		if i < 0 {
			return len(schema.fields)
		}
		return i
	}
	slices.SortStableFunc(problems, func(a, b FieldError) int { return cmp.Compare(place(a), place(b)) })
	return &ValidationError{problems}
}

func fieldProblem(f *fieldSpec, value any) (absent bool, problem string) {
	switch p := value.(type) {
	case *string:
		return *p == "", textProblem(*p, f.maxBytes)
	case *AdjustmentType:
		if *p != "" && !p.valid() {
			problem = "must be one of credit, refund, storage-credit, debit, reservation, storage-debit"
		}
		return *p == "", problem
	case *time.Time:
		if !p.IsZero() && (p.Before(earliestTime) || !p.Before(latestTime)) {
			problem = "must lie between the years 1970 and 2199"
		}
		return p.IsZero(), problem
	case *Charge:
		return !p.IsSet(), chargeProblem(*p)
	case *Count:
		if p.n < 0 {
			problem = "must not be negative"
		}
		return !p.set, problem
	}
	return false, ""
}

func textProblem(s string, maxBytes int) string {
	switch {
	case len(s) > maxBytes:
		return "must not be longer than " + strconv.Itoa(maxBytes) + " bytes"
	case !utf8.ValidString(s):
		return "must be valid UTF-8"
	case strings.IndexByte(s, 0) >= 0:
		return "must not hold a NUL character"
	}
	return ""
}

func chargeProblem(c Charge) string {
	if !c.IsSet() {
		return ""
	}
	if _, err := c.Millionths(); err != nil {
		return err.Error()
	}
	if len(c.text) > maxChargeText {
		return errChargeLength.Message
	}
	if c.text[0] == '-' && c.decimal().Sign() < 0 {
		return "must not be negative"
	}
	return ""
}

// timesOutOfOrder checks submit ≤ start ≤ end, where the times are known and
// have no problem of their own.
func timesOutOfOrder(c *ComputeRecord, listed func(path string) bool) (problems []FieldError) {
	var lastName string
	var last time.Time
	for _, t := range [...]struct {
		name string
		time time.Time
	}{{"SubmitTime", c.SubmitTime}, {"StartTime", c.StartTime}, {"EndTime", c.EndTime}} {
		switch {
		case t.time.IsZero() || listed(t.name):
		case t.time.Before(last):
			problems = append(problems, FieldError{t.name, "must not be before " + lastName})
		default:
			lastName, last = t.name, t.time
		}
	}
	return problems
}

const tooDeepProblem = "must not be nested deeper than 100 levels"

func extraPath(name string, attribute bool) string {
	if attribute {
		return "Attributes." + name
	}
	return name
}

func extraProblems(schema *recordSchema, extra Extra, attribute bool) (problems []FieldError) {
	if len(extra) == 0 {
		return nil
	}
	seen := make(map[string]bool, len(extra))
	for _, e := range extra {
		var problem string
		switch {
		case seen[e.Name] || schema.taken(e.Name, attribute):
			problem = "must not be set a second time among the extra fields"
		case !utf8.ValidString(e.Name):
			problem = "must have a name in valid UTF-8"
		case !jsontext.Value(e.Value).IsValid():
			problem = "must be valid JSON"
		case tooDeep(e.Value):
			problem = tooDeepProblem
		}
		if problem != "" {
			problems = append(problems, FieldError{extraPath(e.Name, attribute), problem})
		}
		seen[e.Name] = true
	}
	return problems
}
