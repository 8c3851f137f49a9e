//go:build unix

package command

import (
	"os/exec"
	"syscall"
)

// EndGroup makes the end of the command's context the end of all that the command has started: it may be a script.
func EndGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
