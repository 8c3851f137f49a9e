//go:build unix

package slurm

import (
	"os/exec"
	"syscall"
)

// endGroup makes the end of the command's context the end of all that the command has started: sacct may be a script.
func endGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
