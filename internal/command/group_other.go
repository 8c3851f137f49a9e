//go:build !unix

package command

import "os/exec"

// EndGroup leaves the command as it is: there are no groups of processes.
func EndGroup(*exec.Cmd) {}
