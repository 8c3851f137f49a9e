package amieusage_test

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHouse holds the table of ARCHITECTURE.md against the imports of the
// code.
func TestHouse(t *testing.T) {
	const module = "github.com/amieusage/amieusage"
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	stated := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|[^|]*\\| ([^|]+) \\|$").FindAllStringSubmatch(string(page), -1) {
		imports := []string{}
		if text := strings.TrimSpace(row[2]); text != "nothing of ours" {
			for name := range strings.SplitSeq(text, ",") {
				imports = append(imports, strings.Trim(strings.TrimSpace(name), "`"))
			}
		}
		slices.Sort(imports)
		stated[row[1]] = imports
	}
	list := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	list.Stderr = os.Stderr
	out, err := list.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Start(); err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for dec := json.NewDecoder(out); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := roomName(module, p.ImportPath)
		imports := []string{}
		for _, path := range p.Imports {
			if path == module || strings.HasPrefix(path, module+"/") {
				imports = append(imports, roomName(module, path))
			}
		}
		slices.Sort(imports)
		if name == "cmd/amieusage" {
			imports = []string{"any"}
		}
		found[name] = imports
	}
	if err := list.Wait(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stated, found); diff != "" {
		t.Errorf("ARCHITECTURE.md states (-) what the code imports (+):\n%s", diff)
	}
	if len(found) == 0 || !slices.Contains(slices.Collect(maps.Keys(found)), "amieusage") {
		t.Error("no packages were found")
	}
}

// roomName is a package's name in the table.
func roomName(module, path string) string {
	if path == module {
		return "amieusage"
	}
	return strings.TrimPrefix(path, module+"/")
}
