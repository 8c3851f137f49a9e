// Package siteconfig reads the files that people write: site.yaml, amieclient's
// config.ini, and registry.yaml. Each is read and checked once, and every error
// names its place in the file and what helps.
package siteconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/cockroachdb/apd/v3"
	"go.yaml.in/yaml/v4"

	"github.com/amieusage/amieusage"
)

// A value is what stands at a place in a YAML file.
type value struct {
	file string
	node *yaml.Node // no alias; nil: it is absent, or null
	line int        // the place, also of what is absent: then that of what it is part of
	col  int
	path string   // the keys that lead to it: " resources: charge:"
	keys *catalog // nil but for the file whose known keys are listed
}

// A catalog lists the keys that a file may have, with the places of each.
type catalog struct{ places map[string][]string }

// A reader reads a value.
type reader func(v value) error

// A field is a key of a mapping, and what reads its value.
type field struct {
	key  string
	read reader
}

// parse reads a YAML file of one document. all reads its top; it is called once
// more, with nothing, for the keys that it knows.
func parse(file string, data []byte, all reader) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	err := decoder.Decode(&document)
	var second yaml.Node
	if err == nil {
		if err = decoder.Decode(&second); err == nil {
			return fmt.Errorf("%s:%d:%d: a second document: state all of it in one", file, max(second.Line, 1), max(second.Column, 1))
		}
	}
	top := value{file: file, line: 1, col: 1}
	switch broken, ok := errors.AsType[*yaml.LoadError](err); {
	case ok:
		return fmt.Errorf("%s:%d:%d: %s; see to the indentation and the quotes here and in the line before", file, max(broken.Mark.Line, 1), max(broken.Mark.Column, 1), broken.Message)
	case err != nil && err != io.EOF:
		return fmt.Errorf("%s: %w", file, err)
	case len(document.Content) > 0:
		if top, err = top.at(document.Content[0], 0); err != nil {
			return err
		}
	}
	return all(top)
}

// known lists the keys that a reader knows.
func known(all reader) map[string][]string {
	c := &catalog{places: map[string][]string{}}
	_ = all(value{keys: c}) // nothing is read
	return c.places
}

// maxAliases is how many aliases may lead to one value, one through the other.
const maxAliases = 10

// at returns the value of a node.
func (v value) at(node *yaml.Node, aliases int) (value, error) {
	v.node, v.line, v.col = node, max(node.Line, 1), max(node.Column, 1)
	switch {
	case node.Style&yaml.TaggedStyle != 0:
		return v, v.errorf("a tag such as !!str: state the value without it")
	case node.Kind == yaml.AliasNode && (aliases == maxAliases || node.Alias == nil):
		return v, v.errorf("an alias of an alias: state the value itself")
	case node.Kind == yaml.AliasNode:
		to, err := v.at(node.Alias, aliases+1)
		to.line, to.col = v.line, v.col
		return to, err
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null":
		v.node = nil
	}
	return v, nil
}

// errorf returns an error that names the value's place.
func (v value) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d:%d: %w", v.file, v.line, v.col, fmt.Errorf(format, args...))
}

// isSet reports whether the value is there.
func (v value) isSet() bool { return v.node != nil }

// isList reports whether the value is a list.
func (v value) isList() bool { return v.node != nil && v.node.Kind == yaml.SequenceNode }

// fields reads a mapping that may have these keys and no others.
func (v value) fields(fields ...field) error {
	if v.keys != nil {
		place := "at the top"
		if v.path != "" {
			place = "under" + v.path
		}
		for _, f := range fields {
			if places := v.keys.places[f.key]; !slices.Contains(places, place) {
				v.keys.places[f.key] = append(places, place)
				_ = f.read(value{keys: v.keys, path: v.path + " " + f.key + ":"})
			}
		}
		return nil
	}
	return v.entries(func(key string, at, v value) error {
		for _, f := range fields {
			if f.key == key {
				return f.read(v)
			}
		}
		return &unknownKeyError{at: at, key: key, here: fields}
	})
}

// entries calls entry with each key of a mapping, the key's place and the value.
func (v value) entries(entry func(key string, at, v value) error) error {
	if v.node == nil {
		return nil
	}
	if v.node.Kind != yaml.MappingNode {
		return v.errorf("must be keys with their values")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		at, err := v.at(v.node.Content[i], 0)
		if err != nil {
			return err
		}
		if at.node == nil || at.node.Kind != yaml.ScalarNode {
			return at.errorf("a key must be a single word")
		}
		key := at.node.Value
		if seen[key] {
			return at.errorf("%q stands here twice", key)
		}
		seen[key] = true
		of, err := at.at(v.node.Content[i+1], 0)
		if err != nil {
			return err
		}
		of.path = v.path + " " + key + ":"
		if err := entry(key, at, of); err != nil {
			return err
		}
	}
	return nil
}

// list reads a list, each element by read.
func list(read func(i int, v value) error) reader {
	return func(v value) error {
		switch {
		case v.keys != nil:
			return read(0, v)
		case v.node == nil:
			return nil
		case v.node.Kind != yaml.SequenceNode:
			return v.errorf("must be a list")
		}
		for i, node := range v.node.Content {
			element, err := v.at(node, 0)
			if err != nil {
				return err
			}
			if err := read(i, element); err != nil {
				return err
			}
		}
		return nil
	}
}

// word returns the text of a single value, digit by digit as it stands; "" where
// it is absent.
func (v value) word() (string, error) {
	if v.node == nil {
		return "", nil
	}
	if v.node.Kind != yaml.ScalarNode {
		return "", v.errorf("must be text")
	}
	return v.node.Value, nil
}

// parsed reads a single value by what makes of its text something else, or says
// what is wrong with it. An absent value changes nothing.
func parsed(make func(text string) error) reader {
	return func(v value) error {
		text, err := v.word()
		if err != nil || v.node == nil {
			return err
		}
		if err := make(text); err != nil {
			return v.errorf("%w", err)
		}
		return nil
	}
}

func text(to *string) reader {
	return parsed(func(text string) error {
		*to = text
		return nil
	})
}

func texts(to *[]string) reader {
	return list(func(_ int, v value) error {
		text, err := v.word()
		if v.keys == nil {
			*to = append(*to, text)
		}
		return err
	})
}

func patterns(to *[]string, check func(string) error) reader {
	return list(func(_ int, v value) error {
		text, err := v.word()
		if err != nil || v.keys != nil {
			return err
		}
		if err := check(text); err != nil {
			return v.errorf("%w", err)
		}
		*to = append(*to, text)
		return nil
	})
}

func flag(to *bool) reader {
	return func(v value) error {
		text, err := v.word()
		if err != nil || v.node == nil {
			return err
		}
		if text != "true" && text != "false" {
			return v.errorf("must be true or false")
		}
		*to = text == "true"
		return nil
	}
}

func duration(key string, to *time.Duration) reader {
	return parsed(func(text string) error {
		d, err := ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%s must be a duration such as 72h or 30m, not %q", key, text)
		}
		*to = d
		return nil
	})
}

// ParseDuration reads a duration that is not negative; besides Go's units there
// are days: 400d.
func ParseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(text)
	if err == nil && d < 0 {
		err = errors.New("it is negative")
	}
	return d, err
}

func whole(key string, to *int, least, most int) reader {
	return parsed(func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%s must be a whole number from %d to %d", key, least, most)
		}
		*to = n
		return nil
	})
}

func charge(key string, to *amieusage.Charge) reader {
	return parsed(func(text string) error {
		c, err := amieusage.ParseCharge(text)
		if err == nil {
			var n int64
			if n, err = c.Millionths(); err == nil && n <= 0 {
				err = errors.New("must be above 0")
			}
		}
		if err != nil {
			return fmt.Errorf("%s %w", key, err)
		}
		*to = c
		return nil
	})
}

// textMap reads a mapping of names to names.
func textMap(to *map[string]string) reader {
	return func(v value) error {
		return v.entries(func(key string, _, v value) error {
			text, err := v.word()
			if *to == nil {
				*to = map[string]string{}
			}
			(*to)[key] = text
			return err
		})
	}
}

// decimals reads a mapping of names to decimal numbers; what says what they are.
func decimals(what string, to *map[string]*apd.Decimal) reader {
	return func(v value) error {
		return v.entries(func(key string, _, v value) error {
			text, err := v.word()
			if err != nil {
				return err
			}
			d, _, err := apd.NewFromString(text)
			if _, isNumber := wholeNumber(key); err != nil && isNumber && text == "" {
				return v.errorf("the %s before it is cut at a comma: decimals have a point, as in 1.%s", what, key)
			}
			if err != nil {
				return v.errorf("the %s of %s is not a decimal number: %q", what, key, text)
			}
			if *to == nil {
				*to = map[string]*apd.Decimal{}
			}
			(*to)[key] = d
			return nil
		})
	}
}

// An unknownKeyError is a key that is not known at its place.
type unknownKeyError struct {
	at   value
	key  string
	here []field
	all  map[string][]string // every key that the file may have; nil: not looked at yet
}

// Error says where the key belongs, or what it may be meant to be.
func (e *unknownKeyError) Error() string {
	problem := fmt.Sprintf("unknown key %q", e.key)
	var here []string
	for _, f := range e.here {
		here = append(here, f.key)
	}
	near := Nearest(e.key, here)
	isSlip := near != "" && levenshtein.ComputeDistance(e.key, near) == 1 // the same word, but for a letter
	if places := e.all[e.key]; len(places) > 0 && !isSlip {
		return e.at.errorf("%s here: it belongs %s", problem, strings.Join(places, ", or ")).Error()
	}
	if near == "" {
		near = Nearest(e.key, slices.Sorted(maps.Keys(e.all)))
	}
	if near != "" {
		problem += fmt.Sprintf("; did you mean %q?", near)
	}
	return e.at.errorf("%s", problem).Error()
}

// Nearest returns the candidate that a slip of the pen may have meant, or "".
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/2+1
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}
