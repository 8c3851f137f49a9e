package amieusage

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth is how deep the values of unknown fields may be nested. Answers
// wrap them some levels deeper, and common readers stop at 1,000.
const maxDepth = 100

// A reader reads one JSON value from data: strictly (duplicate names, invalid
// UTF-8 and trailing data are errors) unless it is told to be loose. Readers
// are pooled.
type reader struct {
	data []byte
	// src is data as text, of which names and values are cut; where it is
	// empty they are copied one by one.
	src      string
	buf      bytes.Buffer
	dec      jsontext.Decoder
	scratch  []byte
	problems []FieldError // of the record that is read
	hint     int          // the place in the schema where the next field is looked for
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// loose makes a reader accept what can be understood all the same.
var loose = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

func newReader(data []byte, opts ...jsontext.Options) *reader {
	d := readers.Get().(*reader)
	d.data, d.src, d.problems, d.hint = data, "", nil, 0
	d.buf = *bytes.NewBuffer(data)
	d.dec.Reset(&d.buf, opts...)
	return d
}

func (d *reader) release() {
	d.data, d.src, d.problems = nil, "", nil
	readers.Put(d)
}

// A span is the place of a value in the data.
type span struct{ start, end int }

// value reads one value.
func (d *reader) value() (span, error) {
	v, err := d.dec.ReadValue()
	end := int(d.dec.InputOffset())
	return span{end - len(v), end}, err
}

func (d *reader) kind(s span) jsontext.Kind { return jsontext.Kind(d.data[s.start]) }

func (d *reader) string(s span) string {
	if d.src != "" {
		return d.src[s.start:s.end]
	}
	return string(d.data[s.start:s.end])
}

// text returns the characters of a JSON text, or the digits of a number.
func (d *reader) text(s span) (text string, ok bool) {
	switch c := d.data[s.start]; {
	case c == '-' || c >= '0' && c <= '9':
		return d.string(s), true
	case c != '"':
		return "", false
	case bytes.IndexByte(d.data[s.start:s.end], '\\') < 0:
		return d.string(span{s.start + 1, s.end - 1}), true
	}
	// The error says that invalid UTF-8 was replaced, which only a loose reader
	// lets pass.
	d.scratch, _ = jsontext.AppendUnquote(d.scratch[:0], d.data[s.start:s.end])
	return string(d.scratch), true
}

// members reads an object and calls f with each name; f reads the value.
func (d *reader) members(f func(name string) error) error {
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	for d.dec.PeekKind() != '}' {
		s, err := d.value()
		if err != nil {
			return err
		}
		name, _ := d.text(s)
		if err := f(name); err != nil {
			return err
		}
	}
	_, err := d.dec.ReadToken()
	return err
}

// elements reads a list and calls f for each element; f reads the value.
func (d *reader) elements(f func() error) error {
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	for d.dec.PeekKind() != ']' {
		if err := f(); err != nil {
			return err
		}
	}
	_, err := d.dec.ReadToken()
	return err
}

func (d *reader) atEnd() error {
	switch _, err := d.dec.ReadToken(); err {
	case io.EOF:
		return nil
	case nil:
		return errors.New("data behind the value")
	default:
		return err
	}
}

// jsonProblem words the JSON library's error for a person.
func jsonProblem(err error) string {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok || syntax.Err == nil {
		return strings.TrimPrefix(err.Error(), "jsontext: ")
	}
	text := strings.TrimPrefix(syntax.Err.Error(), "jsontext: ")
	if syntax.JSONPointer != "" {
		text += " at " + quoteShort(string(syntax.JSONPointer))
	}
	return text
}

func malformed(err error) error {
	return &ValidationError{[]FieldError{{"", "is not well-formed JSON: " + jsonProblem(err)}}}
}

// decodeRecord reads the members of a record into r, which must be empty.
// Members that cannot be read are listed in a [*ValidationError]; the others
// are set all the same.
func decodeRecord(r Record, data []byte) error {
	d := newReader(data)
	defer d.release()
	if d.dec.PeekKind() != '{' {
		if _, err := d.value(); err != nil {
			return malformed(err)
		}
		return &ValidationError{[]FieldError{{"", "is not a JSON object"}}}
	}
	d.src = string(data)
	schema := r.schema()
	extra, extraAttributes := r.extras()
	err := d.members(func(name string) error {
		switch {
		case reservedField(name):
			return d.reserved(r, name)
		case name != "Attributes" || !schema.hasAttributes:
			return d.field(r, schema, name, false, extra)
		case d.dec.PeekKind() == '{':
			return d.members(func(name string) error {
				return d.field(r, schema, name, true, extraAttributes)
			})
		case d.dec.PeekKind() != 'n':
			d.problem("Attributes", "must be an object")
		}
		return d.dec.SkipValue()
	})
	if err == nil {
		err = d.atEnd()
	}
	if err != nil {
		return malformed(err)
	}
	if len(d.problems) > 0 {
		return &ValidationError{d.problems}
	}
	return nil
}

func (d *reader) problem(field, text string) {
	d.problems = append(d.problems, FieldError{field, text})
}

// reserved reads a member that a failed record bears beside its own: all are
// ignored, but a UsageType that contradicts the record's kind is a mistake.
func (d *reader) reserved(r Record, name string) error {
	s, err := d.value()
	if err != nil || name != "UsageType" || d.kind(s) == 'n' {
		return err
	}
	if text, ok := d.text(s); !ok || text != "" && !strings.EqualFold(text, string(r.UsageType())) {
		d.problem(name, "is "+quoteShort(d.string(s))+" in a record of type "+string(r.UsageType()))
	}
	return nil
}

// field reads the value of a member into its field, or into extra where the
// schema does not know it.
func (d *reader) field(r Record, schema *recordSchema, name string, attribute bool, extra *Extra) error {
	i := schema.index(name, attribute, d.hint)
	if i < 0 {
		return d.unknown(name, attribute, extra)
	}
	d.hint = i + 1
	f := &schema.fields[i]
	var s span
	var err error
	if f.listed && d.dec.PeekKind() == '[' {
		// A stray comma makes the reference client send a list.
		n := 0
		err = d.elements(func() error {
			n++
			s, err = d.value()
			return err
		})
		if err == nil && n > 1 {
			d.problem(f.path, "must be one record id, not a list of several")
		}
		if err != nil || n != 1 {
			return err
		}
	} else if s, err = d.value(); err != nil {
		return err
	}
	if d.kind(s) == 'n' {
		return nil
	}
	text, ok := d.text(s)
	if !ok {
		d.problem(f.path, "must be text or a number")
	} else if err := setField(f.value(r), text); err != nil {
		d.problem(f.path, err.Error())
	}
	return nil
}

func (d *reader) unknown(name string, attribute bool, extra *Extra) error {
	s, err := d.value()
	if err != nil {
		return err
	}
	if tooDeep(d.data[s.start:s.end]) {
		d.problem(extraPath(name, attribute), tooDeepProblem)
		return nil
	}
	kept := jsontext.Value(d.string(s))
	if err := kept.Compact(); err != nil {
		return err
	}
	*extra = append(*extra, ExtraField{name, []byte(kept)})
	return nil
}

// setField stores a value's text in a field. An empty text is an absent value.
func setField(field any, text string) (err error) {
	if text == "" {
		return nil
	}
	switch p := field.(type) {
	case *string:
		*p = text
	case *AdjustmentType:
		*p = AdjustmentType(text).lower()
	case *time.Time:
		*p, err = ParseTime(text)
	case *Charge:
		*p, err = ParseCharge(text)
	case *Count:
		*p, err = ParseCount(text)
	}
	return err
}

// tooDeep reports whether a well-formed JSON value is nested deeper than
// [maxDepth].
func tooDeep(value []byte) bool {
	depth, inText := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case inText:
			if c == '\\' {
				i++
			}
			inText = c != '"'
		case c == '"':
			inText = true
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
