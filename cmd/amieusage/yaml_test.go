package main

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
)

// A fragile value is what the library panics at.
type fragile struct{}

func (*fragile) UnmarshalYAML(ast.Node) error { panic("index out of range") }

func TestPanicWhileReadingYAML(t *testing.T) {
	var v struct {
		Site fragile `yaml:"site"`
	}
	err := decodeYAML("site.yaml", []byte("site: PSC\n"), &v)
	if err == nil || !strings.HasPrefix(err.Error(), "site.yaml: ") || !strings.Contains(err.Error(), "index out of range") {
		t.Errorf("error %v", err)
	}
}
