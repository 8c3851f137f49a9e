package htcondor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/command"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/textfile"
)

// History asks a schedd's history by running condor_history: a scheduler.Accounting.
type History struct {
	Program string        // "" is condor_history, found on PATH
	Args    []string      // more arguments, such as -name and a schedd's name
	Timeout time.Duration // of one run; 0: DefaultTimeout
	Options Options
	Logger  *slog.Logger // nil: nobody
}

var _ scheduler.Accounting = (*History)(nil)

// DefaultTimeout is how long a run of condor_history may take.
const DefaultTimeout = 10 * time.Minute

// idsAtOnce is how many jobs are asked for by one run.
const idsAtOnce = 100

// Ended runs condor_history for the jobs that entered their last status in [from, to).
//
// A final error is a *scheduler.IncompleteError where condor_history cannot be run, fails, does not end in time or prints no
// whole list.
func (h *History) Ended(ctx context.Context, from, to time.Time) iter.Seq2[*scheduler.Job, error] {
	constraint := fmt.Sprintf("EnteredCurrentStatus >= %d && EnteredCurrentStatus < %d", from.Unix(), to.Add(time.Second-1).Unix())
	return func(yield func(*scheduler.Job, error) bool) { h.run(ctx, constraint, yield) }
}

// ByID runs condor_history for the jobs with these ids. Its errors are those of Ended.
func (h *History) ByID(ctx context.Context, _ string, ids []string) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		for some := range slices.Chunk(ids, idsAtOnce) {
			var conditions []string
			for _, id := range some {
				cluster, proc, ok := strings.Cut(id, ".")
				if _, isNumber := textfile.Digits(cluster); isNumber && ok && number(proc) {
					conditions = append(conditions, "(ClusterId == "+cluster+" && ProcId == "+proc+")")
				} else {
					conditions = append(conditions, "GlobalJobId == "+strconv.Quote(id))
				}
			}
			if !h.run(ctx, strings.Join(conditions, " || "), yield) {
				return
			}
		}
	}
}

func number(s string) bool { _, ok := textfile.Digits(s); return ok }

// run runs condor_history, and reports whether more is wanted.
func (h *History) run(ctx context.Context, constraint string, yield func(*scheduler.Job, error) bool) bool {
	program, timeout := h.Program, h.Timeout
	if program == "" {
		program = "condor_history"
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	asked := slices.Clone(names[:])
	if h.Options.Project == "" {
		asked = append(asked, defaultProject)
	} else {
		asked = append(asked, h.Options.Project)
	}
	args := append(slices.Clone(h.Args), "-json", "-attributes", strings.Join(asked, ","), "-constraint", constraint)
	goesOn := true
	said, err := command.Read(ctx, timeout, program, args, func(out io.Reader) error {
		opts := h.Options
		opts.MayBeEmpty = true
		for job, err := range NewReader(out, "condor_history", opts).Jobs(ctx) {
			if _, row := errors.AsType[*scheduler.RowError](err); err != nil && !row {
				return err
			}
			if goesOn = yield(job, err); !goesOn {
				return errStopped
			}
		}
		return nil
	})
	switch {
	case !goesOn:
		return false
	case err != nil && ctx.Err() != nil:
		yield(nil, ctx.Err())
		return false
	case err != nil:
		yield(nil, &scheduler.IncompleteError{Problem: "condor_history", Err: err, Remedy: "see whether the schedd's history can be read by this user (htcondor: in site.yaml)"})
		return false
	}
	for _, line := range said {
		if h.Logger != nil {
			h.Logger.Warn("condor_history wrote to standard error", "line", line)
		}
	}
	return true
}
