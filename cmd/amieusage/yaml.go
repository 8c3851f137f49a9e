package main

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// A scalar is the text of a single YAML value of any kind, so that a number
// keeps all its digits, and its place in the file.
type scalar struct {
	text         string
	line, column int
}

// UnmarshalYAML takes the text as it stands.
func (s *scalar) UnmarshalYAML(node ast.Node) error {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		return &yaml.SyntaxError{Message: "must be a single value", Token: node.GetToken()}
	}
	token := node.GetToken()
	*s = scalar{text: token.Value, line: token.Position.Line, column: token.Position.Column}
	if _, null := node.(*ast.NullNode); null {
		s.text = ""
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

// decodeYAML reads a YAML file into v, strictly. Errors name file, line and
// column, and for an unknown key the nearest right one.
func decodeYAML(name string, data []byte, v any) error {
	err := yaml.UnmarshalWithOptions(data, v, yaml.Strict())
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
		key := e.GetToken().Value
		problem = fmt.Sprintf("unknown key %q", key)
		if near := nearest(key, yamlKeys(reflect.TypeOf(v), map[reflect.Type]bool{})); near != "" {
			problem += fmt.Sprintf("; did you mean %q?", near)
		}
	}
	return fmt.Errorf("%s:%d:%d: %s", name, at.Line, at.Column, problem)
}

// yamlKeys lists the keys that a type knows at any depth.
func yamlKeys(t reflect.Type, seen map[reflect.Type]bool) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return yamlKeys(t.Elem(), seen)
	case reflect.Struct:
		if seen[t] {
			return nil
		}
		seen[t] = true
		var keys []string
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if name != "" {
				keys = append(keys, name)
			}
			keys = append(keys, yamlKeys(field.Type, seen)...)
		}
		return keys
	}
	return nil
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
