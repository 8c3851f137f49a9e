// Package command runs the programs that accounting is asked of: for no longer than they may take, and with all that they have
// started.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Wait is how long the pipes of a program are waited for after it was killed.
const Wait = 5 * time.Second

// ErrTimeout says that a program did not end in time.
var ErrTimeout = errors.New("it did not end in time")

// secrets are what no program needs that is asked for accounting.
var secrets = []string{"AMIEUSAGE_API_KEY=", "AMIEUSAGE_DB=", "PGPASSWORD="}

// Environment returns this process's environment without its keys and passwords.
func Environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return slices.ContainsFunc(secrets, func(name string) bool { return strings.HasPrefix(v, name) })
	})
}

// Read runs a program, and has its standard output read while it runs. It returns what the program wrote to standard error, as
// lines, the last of them where it is much. What read returns is an error as it is; what is not read is passed over. The
// program, and all that it has started, is killed when ctx ends or timeout is over: [ErrTimeout].
func Read(ctx context.Context, timeout time.Duration, program string, args []string, read func(io.Reader) error) (said []string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.WaitDelay = append(Environment(), "LC_ALL=C", "TZ=UTC"), Wait
	EndGroup(cmd)
	var messages Tail
	cmd.Stderr = &messages
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	readErr := read(out)
	if ctx.Err() == nil {
		_, _ = io.Copy(io.Discard, out) // its own end says more than an output that nobody reads
	}
	waitErr := cmd.Wait()
	said = messages.Lines()
	switch {
	case errors.Is(context.Cause(ctx), ErrTimeout):
		return said, fmt.Errorf("%w (%s)", ErrTimeout, timeout)
	case ctx.Err() != nil:
		return said, ctx.Err()
	case waitErr != nil && len(said) > 0:
		return said, fmt.Errorf("%w: %s", waitErr, strings.Join(said, " / "))
	case waitErr != nil:
		return said, waitErr
	}
	return said, readErr
}

// Tail keeps the end of what is written to it.
type Tail struct{ kept []byte }

const maxTail = 4096

// Write keeps p, or its end.
func (t *Tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxTail; over > 0 {
		t.kept = slices.Delete(t.kept, 0, over)
	}
	return len(p), nil
}

// Lines returns the lines that were kept, without blank ones.
func (t *Tail) Lines() []string {
	var lines []string
	for line := range strings.Lines(strings.ToValidUTF8(string(t.kept), "\uFFFD")) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}
