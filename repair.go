package amieusage

import "strings"

// appendRaw writes the members of a record that cannot be read as it came, but
// such that every reader can read them: see appendRepaired. What is no object
// is given back as the member Value, and Attributes are always an object, which
// the reference client relies on.
func appendRaw(dst, raw []byte, t UsageType) []byte {
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	d := newReader(raw, loose...)
	defer d.release()
	hasAttributes := !strings.EqualFold(string(t), string(Adjustment))
	needsAttributes := hasAttributes
	if d.dec.PeekKind() == '{' {
		dst, _ = d.appendMembers(dst, func(dst []byte, name string) ([]byte, error) {
			if reservedField(name) {
				return dst, d.dec.SkipValue()
			}
			if name == "Attributes" && hasAttributes {
				needsAttributes = false
				switch d.dec.PeekKind() {
				case '{':
				case 'n':
					return append(dst, "{}"...), d.dec.SkipValue()
				default:
					return append(d.appendAsValue(append(dst, '{')), '}'), nil
				}
			}
			return d.appendRepaired(dst, maxDepth)
		})
	} else {
		dst = d.appendAsValue(dst)
	}
	if needsAttributes {
		dst = append(appendName(dst, "Attributes"), "{}"...)
	}
	return dst
}

// appendAsValue writes the value that d stands before as the member Value;
// what is no JSON is written as a text.
func (d *reader) appendAsValue(dst []byte) []byte {
	dst = appendName(dst, "Value")
	start := len(dst)
	dst, err := d.appendRepaired(dst, maxDepth)
	if err != nil {
		dst = appendString(dst[:start], string(d.data))
	}
	return dst
}

// appendMembers writes the members of the object that d stands before, each
// name once; f writes the value, or nothing to leave the member out.
func (d *reader) appendMembers(dst []byte, f func(dst []byte, name string) ([]byte, error)) ([]byte, error) {
	seen := map[string]bool{}
	err := d.members(func(name string) (err error) {
		before := len(dst)
		dst = appendComma(dst)
		start := len(dst)
		dst = appendString(dst, name)
		quoted := string(dst[start:])
		if seen[quoted] {
			dst = dst[:before]
			return d.dec.SkipValue()
		}
		seen[quoted] = true
		dst = append(dst, ':')
		start = len(dst)
		if dst, err = f(dst, name); len(dst) == start {
			dst = dst[:before]
		}
		return err
	})
	return dst, err
}

// appendRepaired writes the value that d stands before as strict JSON: the
// first of the members of one name, U+FFFD for what is no UTF-8, and as a text
// what is nested deeper than depth. After an error it has written all that
// could be read, with its brackets closed.
func (d *reader) appendRepaired(dst []byte, depth int) ([]byte, error) {
	kind := d.dec.PeekKind()
	switch {
	case kind == '{' && depth > 0:
		dst, err := d.appendMembers(append(dst, '{'), func(dst []byte, _ string) ([]byte, error) {
			return d.appendRepaired(dst, depth-1)
		})
		return append(dst, '}'), err
	case kind == '[' && depth > 0:
		dst = append(dst, '[')
		err := d.elements(func() (err error) {
			before := len(dst)
			dst = appendComma(dst)
			start := len(dst)
			if dst, err = d.appendRepaired(dst, depth-1); len(dst) == start {
				dst = dst[:before]
			}
			return err
		})
		return append(dst, ']'), err
	}
	s, err := d.value()
	if err != nil {
		return dst, err
	}
	switch kind {
	case '{', '[':
		return appendString(dst, d.string(s)), nil
	case '"':
		text, _ := d.text(s)
		return appendString(dst, text), nil
	}
	return append(dst, d.data[s.start:s.end]...), nil
}
