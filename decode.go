package amieusage

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// A reader reads one JSON value strictly: duplicate names, invalid UTF-8 and
// trailing data are errors. Readers are pooled.
type reader struct {
	buf     bytes.Buffer
	dec     jsontext.Decoder
	scratch []byte
}

var readers = sync.Pool{New: func() any { return new(reader) }}

func newReader(data []byte, opts ...jsontext.Options) *reader {
	d := readers.Get().(*reader)
	d.buf = *bytes.NewBuffer(data)
	d.dec.Reset(&d.buf, opts...)
	return d
}

func (d *reader) release() {
	d.buf = bytes.Buffer{}
	readers.Put(d)
}

// malformed turns the JSON library's error into one that a person can use.
func malformed(err error) error {
	text := strings.TrimPrefix(err.Error(), "jsontext: ")
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok && syntax.Err != nil {
		text = strings.TrimPrefix(syntax.Err.Error(), "jsontext: ")
		if syntax.JSONPointer != "" {
			text += " at " + string(syntax.JSONPointer)
		}
	}
	return &ValidationError{[]FieldError{{"", "is not well-formed JSON: " + text}}}
}

// decodeRecord reads the members of a record into r, which must be empty.
// Members that cannot be read are listed in a *ValidationError; the others are
// set all the same.
func decodeRecord(r Record, data []byte) error {
	d := newReader(data)
	defer d.release()
	problems := new(ValidationError)
	if kind := d.dec.PeekKind(); kind != '{' {
		if _, err := d.dec.ReadValue(); err != nil {
			return malformed(err)
		}
		problems.add("", "is not a JSON object")
		return problems
	}
	schema := r.schema()
	extra, extraAttributes := r.extras()
	err := d.members(func(name string) error {
		switch {
		case reservedField(name):
			return d.reserved(r, name, problems)
		case name == "Attributes" && schema.hasAttributes:
			switch d.dec.PeekKind() {
			case '{':
				return d.members(func(name string) error {
					return d.field(r, name, schema.attributes, extraAttributes, problems)
				})
			case 'n':
				return d.dec.SkipValue()
			default:
				problems.add("Attributes", "must be an object")
				return d.dec.SkipValue()
			}
		}
		return d.field(r, name, schema.byName, extra, problems)
	})
	if err == nil {
		err = d.atEnd()
	}
	if err != nil {
		return malformed(err)
	}
	return problems.orNil()
}

// members reads an object and calls f with each name; f reads the value.
func (d *reader) members(f func(name string) error) error {
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	for d.dec.PeekKind() != '}' {
		token, err := d.dec.ReadToken()
		if err != nil {
			return err
		}
		if err := f(token.String()); err != nil {
			return err
		}
	}
	_, err := d.dec.ReadToken()
	return err
}

func (d *reader) atEnd() error {
	if d.dec.PeekKind() != 0 {
		return errors.New("data behind the value")
	}
	if rest := bytes.TrimSpace(d.dec.UnreadBuffer()); len(rest) > 0 {
		return errors.New("data behind the value")
	}
	return nil
}

// reserved reads a member that a failed record bears beside its own: all are
// ignored, but a UsageType that contradicts the record's kind is a mistake.
func (d *reader) reserved(r Record, name string, problems *ValidationError) error {
	value, err := d.dec.ReadValue()
	if err != nil || name != "UsageType" || value.Kind() == 'n' {
		return err
	}
	text, _ := d.text(value)
	if !strings.EqualFold(text, string(r.UsageType())) {
		problems.add("UsageType", "is %s in a record of type %s", quoteShort(text), r.UsageType())
	}
	return nil
}

func (d *reader) field(r Record, name string, known map[string]*fieldSpec, extra *Extra, problems *ValidationError) error {
	value, err := d.dec.ReadValue()
	if err != nil {
		return err
	}
	f, ok := known[name]
	if !ok {
		kept := value.Clone()
		if err := kept.Compact(); err != nil {
			return err
		}
		*extra = append(*extra, ExtraField{name, []byte(kept)})
		return nil
	}
	if f.kind == parentField && value.Kind() == '[' {
		element, ok := onlyElement(value)
		if !ok {
			problems.add(f.path(), "must be one record id, not a list of several")
			return nil
		}
		value = element
	}
	if value.Kind() == 'n' {
		return nil
	}
	text, ok := d.text(value)
	if !ok {
		problems.add(f.path(), "must be text or a number")
		return nil
	}
	if err := setField(f.value(r), text); err != nil {
		problems.add(f.path(), "%s", err.Error())
	}
	return nil
}

// text returns the characters of a JSON text, or the digits of a number.
func (d *reader) text(value jsontext.Value) (string, bool) {
	switch value.Kind() {
	case '"':
		unquoted, err := jsontext.AppendUnquote(d.scratch[:0], value)
		d.scratch = unquoted
		return string(unquoted), err == nil
	case '0':
		return string(value), true
	}
	return "", false
}

// onlyElement returns the one element of a list, or null for an empty one: a
// stray comma makes the reference client send every ParentRecordID as a list.
func onlyElement(list jsontext.Value) (jsontext.Value, bool) {
	dec := jsontext.NewDecoder(bytes.NewReader(list))
	if _, err := dec.ReadToken(); err != nil {
		return nil, false
	}
	if dec.PeekKind() == ']' {
		return jsontext.Value("null"), true
	}
	element, err := dec.ReadValue()
	if err != nil {
		return nil, false
	}
	element = element.Clone()
	return element, dec.PeekKind() == ']'
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
