package main

import (
	"os/exec"
	"testing"
)

// TestShellWord has a shell read names of files as they stand in hints.
func TestShellWord(t *testing.T) {
	for _, name := range []string{"site.yaml", "/etc/amieusage/site.yaml", "my site.yaml", "it's.yaml", "$HOME", "", "a;b", "*"} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellWord(name)).Output()
		if err != nil || string(out) != name {
			t.Errorf("%q as %s is %q, %v", name, shellWord(name), out, err)
		}
	}
}
