package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// A scalar is the text of a single YAML value of any kind, so that a number
// keeps all its digits, and its place in the file.
type scalar struct {
	text         string
	line, column int
}

// UnmarshalYAML takes the text as it stands.
func (s *scalar) UnmarshalYAML(node ast.Node) error {
	token := node.GetToken()
	*s = scalar{text: token.Value, line: token.Position.Line, column: token.Position.Column}
	switch node := node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		return &yaml.SyntaxError{Message: "must be a single value", Token: token}
	case *ast.NullNode:
		s.text = ""
	case *ast.LiteralNode:
		s.text = node.Value.Value
	}
	return nil
}

// problem is an error that names the value's place.
func (s scalar) problem(file, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if s.line == 0 {
		return fmt.Errorf("%s: %w", file, err)
	}
	return fmt.Errorf("%s:%d:%d: %w", file, s.line, s.column, err)
}

// near returns the value, with the place of another where it has none: a value
// that is absent or null.
func (s scalar) near(other scalar) scalar {
	if s.line == 0 {
		s.line, s.column = other.line, other.column
	}
	return s
}

// placeOf returns the place of what the path names in a YAML file.
func placeOf(data []byte, path string) (s scalar) {
	p, err := yaml.PathString(path)
	if err != nil {
		return s
	}
	node, err := p.ReadNode(bytes.NewReader(data))
	if err != nil {
		return s
	}
	if mapping, ok := node.(*ast.MappingNode); ok && !mapping.IsFlowStyle && len(mapping.Values) > 0 {
		node = mapping.Values[0].Key
	}
	at := node.GetToken().Position
	return scalar{line: at.Line, column: at.Column}
}

// decodeYAML reads a YAML file into v, strictly. Errors name file, line and
// column, and for an unknown key the nearest right one. The library is known to
// panic, at tags, which are refused before it sees them, and perhaps elsewhere:
// that is an error of the file.
func decodeYAML(name string, data []byte, v any) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%s: this YAML cannot be read (%v): write it in a plainer form", name, cause)
		}
	}()
	if problem, at := unreadYAML(data); problem != "" {
		return fmt.Errorf("%s:%d:%d: %s", name, at.Line, at.Column, problem)
	}
	err = yaml.UnmarshalWithOptions(data, v, yaml.Strict())
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[yaml.Error](err)
	if !ok || e.GetToken() == nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	at := e.GetToken().Position
	problem := e.GetMessage()
	if _, ok := errors.AsType[*yaml.UnknownFieldError](err); ok {
		problem = unknownKey(e.GetToken().Value, yamlKeys(reflect.TypeOf(v), "", map[string][]string{}))
	} else if e, ok := errors.AsType[*yaml.TypeError](err); ok {
		problem = "must be " + kindText(e.DstType)
	} else if e, ok := errors.AsType[*yaml.UnexpectedNodeTypeError](err); ok {
		problem = "must be " + nodeText(e.Expected)
	}
	return fmt.Errorf("%s:%d:%d: %s", name, at.Line, at.Column, problem)
}

// unreadYAML finds what is YAML and would not be read as it is meant: what
// stands behind the first document, tags, and aliases of nothing. The problem is
// empty where there is nothing of the kind.
func unreadYAML(data []byte) (problem string, at *token.Position) {
	begun, ended := false, false
	anchors := map[string]bool{}
	tokens := lexer.Tokenize(string(data))
	for i, t := range tokens {
		name := ""
		if i+1 < len(tokens) {
			name = tokens[i+1].Value
		}
		switch t.Type {
		case token.AnchorType:
			anchors[name] = true
		case token.AliasType:
			if !anchors[name] {
				return fmt.Sprintf("there is no anchor %q before it", name), t.Position
			}
		case token.TagType:
			return "a tag such as !!str: state the value without it", t.Position
		case token.DocumentHeaderType, token.DocumentEndType:
			ended = begun
		case token.CommentType, token.DirectiveType:
		default:
			if ended {
				return "a second document: state all of it in one", t.Position
			}
			begun = true
		}
	}
	return "", nil
}

// kindText says what a value of the type is in YAML.
func kindText(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindText(t.Elem())
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "keys with their values"
	case reflect.Bool:
		return "true or false"
	}
	return "text"
}

func nodeText(t ast.NodeType) string {
	switch t {
	case ast.SequenceType:
		return "a list"
	case ast.MappingType, ast.MappingValueType:
		return "keys with their values"
	case ast.BoolType:
		return "true or false"
	}
	return "text"
}

// unknownKey says where a key belongs, or what it may be meant to be.
func unknownKey(key string, known map[string][]string) string {
	problem := fmt.Sprintf("unknown key %q", key)
	if places := known[key]; len(places) > 0 {
		return problem + " here: it belongs " + strings.Join(places, ", or ")
	}
	if near := nearest(key, slices.Sorted(maps.Keys(known))); near != "" {
		problem += fmt.Sprintf("; did you mean %q?", near)
	}
	return problem
}

// yamlKeys adds the keys that a type knows at any depth, each with its places.
func yamlKeys(t reflect.Type, path string, known map[string][]string) map[string][]string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		yamlKeys(t.Elem(), path, known)
	case reflect.Struct:
		place := "at the top"
		if path != "" {
			place = "under" + path
		}
		for field := range t.Fields() {
			if name, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); name != "" {
				known[name] = append(known[name], place)
				yamlKeys(field.Type, path+" "+name+":", known)
			}
		}
	}
	return known
}

// nearest returns the candidate that a slip of the pen may have meant, or "".
func nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/2+1
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}
