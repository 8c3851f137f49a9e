package amieusage

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// CheckRecord reads one record and validates it, and returns all that is wrong
// with it as one [*ValidationError]. The record holds what could be read even
// then; it is nil only where the usage type is unknown.
func CheckRecord(t UsageType, data []byte) (Record, error) {
	r := NewRecord(t)
	if r == nil {
		_, err := ParseUsageType(string(t))
		return nil, err
	}
	unreadable, _ := decodeRecord(r, data).(*ValidationError)
	if unreadable.names("") {
		return r, unreadable
	}
	return r, validateRecord(r, unreadable)
}

// validateRecord adds to the problems found when the record was read (nil:
// none) those of the fields that could be read.
func validateRecord(r Record, problems *ValidationError) error {
	v := new(ValidationError)
	if problems != nil {
		v.Fields = append(v.Fields, problems.Fields...)
	}
	schema := r.schema()
	for i := range schema.fields {
		f := &schema.fields[i]
		if problems.names(f.path()) {
			continue
		}
		if absent, problem := fieldProblem(f, f.value(r)); problem != "" {
			v.add(f.path(), "%s", problem)
		} else if absent && f.required {
			v.add(f.path(), "is required")
		}
	}
	if c, ok := r.(*ComputeRecord); ok {
		validateTimes(c, v)
	}
	extra, extraAttributes := r.extras()
	validateExtra(v, *extra, schema.byName)
	validateExtra(v, *extraAttributes, schema.attributes)
	return v.orNil()
}

func fieldProblem(f *fieldSpec, value any) (absent bool, problem string) {
	switch p := value.(type) {
	case *string:
		return *p == "", textProblem(*p, f.maxBytes)
	case *AdjustmentType:
		if *p != "" && !p.valid() {
			return false, "must be one of credit, refund, storage-credit, debit, reservation, storage-debit"
		}
		return *p == "", ""
	case *time.Time:
		if !p.IsZero() && (p.Before(earliestTime) || !p.Before(latestTime)) {
			return false, "must lie between the years 1970 and 2199"
		}
		return p.IsZero(), ""
	case *Charge:
		if p.IsZero() {
			return true, ""
		}
		n, err := p.Millionths()
		switch {
		case err != nil:
			return false, err.Error()
		case n < 0 || strings.HasPrefix(p.text, "-") && p.Decimal().Sign() < 0:
			return false, "must not be negative"
		}
		return false, ""
	case *Count:
		if p.set && p.n < 0 {
			return false, "must not be negative"
		}
		return !p.set, ""
	}
	return false, ""
}

func textProblem(s string, maxBytes int) string {
	switch {
	case len(s) > maxBytes && maxBytes == maxTextBytes:
		return "must not be longer than 1024 bytes"
	case len(s) > maxBytes:
		return "must not be longer than 4096 bytes"
	case !utf8.ValidString(s):
		return "must be valid UTF-8"
	case strings.IndexByte(s, 0) >= 0:
		return "must not hold a NUL character"
	}
	return ""
}

// validateTimes checks submit ≤ start ≤ end where the times are known.
func validateTimes(c *ComputeRecord, v *ValidationError) {
	if !c.StartTime.IsZero() && !c.SubmitTime.IsZero() && c.StartTime.Before(c.SubmitTime) {
		v.add("StartTime", "must not be before SubmitTime")
	}
	if !c.EndTime.IsZero() && !c.StartTime.IsZero() && c.EndTime.Before(c.StartTime) {
		v.add("EndTime", "must not be before StartTime")
	}
}

func validateExtra(v *ValidationError, extra Extra, known map[string]*fieldSpec) {
	if len(extra) == 0 {
		return
	}
	seen := make(map[string]bool, len(extra))
	for _, e := range extra {
		_, clash := known[e.Name]
		clash = clash || seen[e.Name]
		seen[e.Name] = true
		switch {
		case clash || reservedField(e.Name):
			v.add(e.Name, "is set a second time among the extra fields")
		case !utf8.ValidString(e.Name):
			v.add("Extra", "has a field whose name is not valid UTF-8")
		case !jsontext.Value(e.Value).IsValid():
			v.add(e.Name, "is not valid JSON")
		}
	}
}
