package amieusage

import (
	"encoding/json"
	"fmt"
	"slices"
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
	inAttributes := false
	for i := range schema.fields {
		f := &schema.fields[i]
		switch {
		case f.attribute && !inAttributes:
			dst = append(appendName(dst, "Attributes"), '{')
			inAttributes = true
		case !f.attribute && inAttributes:
			dst = append(appendExtra(dst, schema, *extraAttributes, true, canonical), '}')
			inAttributes = false
		}
		dst = appendField(dst, f, f.value(r), canonical)
	}
	return append(appendExtra(dst, schema, *extra, false, canonical), '}')
}

func appendField(dst []byte, f *fieldSpec, value any, canonical bool) []byte {
	switch v := value.(type) {
	case *string:
		if *v != "" {
			dst = appendString(appendToken(dst, f.token), *v)
		}
	case *AdjustmentType:
		if *v != "" {
			dst = appendString(appendToken(dst, f.token), string(v.lower()))
		}
	case *time.Time:
		if !v.IsZero() {
			t := *v
			if canonical {
				t = keyTime(t)
			}
			dst = appendQuotedTime(appendToken(dst, f.token), t)
		}
	case *Charge:
		if v.IsSet() {
			text := v.text
			if canonical {
				text = v.canonical()
			}
			dst = appendString(appendToken(dst, f.token), text)
		}
	case *Count:
		if v.set {
			dst = strconv.AppendInt(appendToken(dst, f.token), v.n, 10)
		}
	}
	return dst
}

// appendComma parts a member or an element from the one before it.
func appendComma(dst []byte) []byte {
	if last := dst[len(dst)-1]; last != '{' && last != '[' {
		dst = append(dst, ',')
	}
	return dst
}

func appendToken(dst []byte, token string) []byte { return append(appendComma(dst), token...) }

// appendName writes a member's name, which needs no escapes.
func appendName(dst []byte, name string) []byte {
	dst = append(appendComma(dst), '"')
	dst = append(dst, name...)
	return append(dst, '"', ':')
}

// appendString writes JSON text; invalid UTF-8 becomes U+FFFD, so that what is
// written is always JSON.
func appendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

func appendQuotedTime(dst []byte, t time.Time) []byte {
	return append(appendTime(append(dst, '"'), t), '"')
}

// appendExtra writes the unknown fields, but none that would double another.
// A value that is no JSON becomes null.
func appendExtra(dst []byte, schema *recordSchema, extra Extra, attributes, canonical bool) []byte {
	if len(extra) == 0 {
		return dst
	}
	if canonical {
		extra = slices.Clone(extra)
		slices.SortStableFunc(extra, func(a, b ExtraField) int { return strings.Compare(a.Name, b.Name) })
	}
	written := make(map[string]bool, len(extra))
	for _, e := range extra {
		before := len(dst)
		dst = appendComma(dst)
		start := len(dst)
		dst = appendString(dst, e.Name)
		name := string(dst[start:])
		if written[name] || schema.taken(e.Name, attributes) {
			dst = dst[:before]
			continue
		}
		written[name] = true
		dst = append(dst, ':')
		start = len(dst)
		var err error
		if dst, err = jsontext.AppendFormat(dst, e.Value, jsontext.PreserveRawStrings(true)); err != nil {
			dst = append(dst[:start], "null"...)
		}
	}
	return dst
}

// recordLine is the one-line form of every kind of record.
func recordLine(r Record, at time.Time) string {
	c := r.Common()
	var b strings.Builder
	b.WriteString(string(r.UsageType()))
	if a, ok := r.(*AdjustmentRecord); ok {
		b.WriteString(" " + inLine(string(a.AdjustmentType.lower())))
	}
	fmt.Fprintf(&b, " %s of %s for %s on %s at %s: charge %s",
		inLine(c.LocalRecordID), inLine(c.Username), inLine(c.LocalProjectID), inLine(c.Resource),
		timeInLine(at), inLine(c.Charge.String()))
	return b.String()
}

// inLine returns a text as it stands in a readable line: a dash where it is
// absent, and quoted where it would break the line.
func inLine(s string) string {
	if s == "" {
		return "-"
	}
	for _, c := range s {
		if !strconv.IsPrint(c) {
			return strconv.Quote(s)
		}
	}
	return s
}

func timeInLine(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return FormatTime(t)
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
