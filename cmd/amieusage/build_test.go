package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// builds is the folder of the programs that tests have built.
var builds = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "amieusage-builds-") })

var (
	builtProgram    = sync.OnceValues(func() (string, error) { return build("amieusage") })
	builtFailpoints = sync.OnceValues(func() (string, error) { return build("amieusage-failpoint", "-tags=failpoint") })
)

// build builds the program, without the race detector, which would make the
// many starts slow.
func build(name string, flags ...string) (program string, err error) {
	folder, err := builds()
	if err != nil {
		return "", err
	}
	program = filepath.Join(folder, name)
	command := exec.Command("go", append(append([]string{"build", "-o", program}, flags...), ".")...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
}

// buildProgram returns the path of the program as people have it.
func buildProgram(t *testing.T) string {
	t.Helper()
	return must[string](t)(builtProgram())
}

// buildFailpoints returns the path of the program with its fail points.
func buildFailpoints(t *testing.T) string {
	t.Helper()
	return must[string](t)(builtFailpoints())
}

// cleanTests runs tests and removes what was built for them.
type cleanTests struct{ *testing.M }

func (m cleanTests) Run() int {
	defer func() {
		if folder, err := builds(); err == nil {
			_ = os.RemoveAll(folder)
		}
	}()
	return m.M.Run()
}

// TestFailpointsAreForTests looks for fail points in the program as people have
// it, and in the one of the crash tests.
func TestFailpointsAreForTests(t *testing.T) {
	for path, want := range map[string]bool{buildProgram(t): false, buildFailpoints(t): true} {
		binary := must[[]byte](t)(os.ReadFile(path))
		for _, text := range []string{"AMIEUSAGE_FAILPOINT", "AMIEUSAGE_CLOCK_OFFSET", "before commit", "before answer"} {
			if bytes.Contains(binary, []byte(text)) != want {
				t.Errorf("%s: contains %q: %v, want %v", filepath.Base(path), text, !want, want)
			}
		}
		out := must[[]byte](t)(exec.Command(path, "--help").Output())
		if !strings.Contains(string(out), "amieusage") {
			t.Errorf("%s --help: %s", path, out)
		}
	}
}
