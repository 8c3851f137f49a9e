package amieusage

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// appendRecord writes the record's schema in its order; absent optional fields
// are left out, and Attributes are always there where the kind has them, as
// the reference client expects. The canonical form spells equal values
// equally.
func appendRecord(dst []byte, r Record, canonical bool) []byte {
	schema := r.schema()
	extra, extraAttributes := r.extras()
	dst = append(dst, '{')
	inAttributes, attributesDone := false, false
	closeAttributes := func() {
		dst = appendExtra(dst, *extraAttributes, schema.attributes)
		dst = append(dst, '}')
		inAttributes, attributesDone = false, true
	}
	openAttributes := func() {
		dst = appendName(dst, "Attributes")
		dst = append(dst, '{')
		inAttributes = true
	}
	for i := range schema.fields {
		f := &schema.fields[i]
		switch {
		case f.attribute && !inAttributes && !attributesDone:
			openAttributes()
		case !f.attribute && inAttributes:
			closeAttributes()
		}
		dst = appendField(dst, f, f.value(r), canonical)
	}
	if inAttributes {
		closeAttributes()
	}
	dst = appendExtra(dst, *extra, schema.byName)
	return append(dst, '}')
}

func appendField(dst []byte, f *fieldSpec, value any, canonical bool) []byte {
	switch v := value.(type) {
	case *string:
		if *v != "" {
			dst = appendString(appendName(dst, f.name), *v)
		}
	case *AdjustmentType:
		if *v != "" {
			dst = appendString(appendName(dst, f.name), string(v.lower()))
		}
	case *time.Time:
		if !v.IsZero() {
			t := *v
			if canonical {
				t = keyTime(t)
			}
			dst = append(appendName(dst, f.name), '"')
			dst = append(t.AppendFormat(dst, time.RFC3339Nano), '"')
		}
	case *Charge:
		if !v.IsZero() {
			text := v.text
			if canonical {
				text = v.canonical()
			}
			dst = appendString(appendName(dst, f.name), text)
		}
	case *Count:
		if v.set {
			dst = strconv.AppendInt(appendName(dst, f.name), v.n, 10)
		}
	}
	return dst
}

// appendName writes a member's name, and the comma that parts it from the one
// before.
func appendName(dst []byte, name string) []byte {
	if last := dst[len(dst)-1]; last != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, '"', ':')
}

// appendString writes JSON text; invalid UTF-8 becomes U+FFFD, so that what is
// written is always JSON.
func appendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

// appendExtra writes the unknown fields, but none that would double a known
// one.
func appendExtra(dst []byte, extra Extra, known map[string]*fieldSpec) []byte {
	for _, e := range extra {
		if _, clash := known[e.Name]; clash || reservedField(e.Name) {
			continue
		}
		if last := dst[len(dst)-1]; last != '{' {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, e.Name), ':')
		if !jsontext.Value(e.Value).IsValid() {
			dst = append(dst, "null"...)
			continue
		}
		dst = append(dst, e.Value...)
	}
	return dst
}

// recordLine is the one-line form of every kind of record.
func recordLine(r Record, at time.Time) string {
	c := r.Common()
	var b strings.Builder
	b.WriteString(string(r.UsageType()))
	if a, ok := r.(*AdjustmentRecord); ok {
		b.WriteString(" " + string(a.AdjustmentType.lower()))
	}
	fmt.Fprintf(&b, " %s of %s for %s on %s at %s: charge %s",
		orDash(c.LocalRecordID), orDash(c.Username), orDash(c.LocalProjectID), orDash(c.Resource),
		FormatTime(at), orDash(c.Charge.String()))
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Indent returns the JSON of a record, a message or any answer of the service
// in its indented, readable form (the reference client's pretty_print).
func Indent(v json.Marshaler) string {
	data, err := v.MarshalJSON()
	if err != nil {
		return err.Error()
	}
	value := jsontext.Value(data)
	if err := value.Indent(jsontext.WithIndent("  ")); err != nil {
		return string(data)
	}
	return string(value)
}
