package slurm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/command"
	"github.com/amieusage/amieusage/internal/scheduler"
)

// Sacct asks Slurm's accounting by running sacct: a scheduler.Accounting.
type Sacct struct {
	Path     string           // the program; "" is sacct, found on PATH
	Clusters []string         // none: all clusters of the accounting database
	Env      []string         // the program's environment; nil is this process's. How sacct prints is set over it
	Timeout  time.Duration    // of one run of sacct; 0: DefaultTimeout
	Clock    func() time.Time // nil: time.Now
	Logger   *slog.Logger
	Rand     io.Reader // makes the delimiter; nil is crypto/rand

	names []string // the fields that this sacct knows, once they were asked for
	stats scheduler.Stats
}

var _ scheduler.Accounting = (*Sacct)(nil)

// DefaultTimeout is how long a run of sacct may take.
const DefaultTimeout = 10 * time.Minute

// wanted are the fields that are asked for, as far as this sacct knows them. JobName is the last, for it may hold anything.
var wanted = []column{colCluster, colDBIndex, colJobIDRaw, colJobID, colUser, colUID, colAccount, colPartition, colQOS, colReservation,
	colState, colSubmit, colStart, colEnd, colElapsedRaw, colNNodes, colNCPUS, colReqMem, colAllocTRES, colNodeList, colJobName}

const (
	// shortestWindow is asked for when the accounting refuses all longer ones.
	shortestWindow = time.Minute
	// idsAtOnce is how many jobs are asked for by one run of sacct.
	idsAtOnce = 1000
)

// Stats returns what has been read so far.
func (s *Sacct) Stats() scheduler.Stats { return s.stats }

// Ended runs sacct for the jobs that ended in [from, to), cut to whole seconds outwards. Jobs that merely ran in that
// window, or became eligible to run, come too, unfinished ones among them. A window that the accounting refuses as too wide
// (MaxQueryTimeRange) is halved, until it takes it.
//
// Final errors: sacct cannot be run, or lacks a field that is needed; what Reader.Jobs names; ctx ended, which kills sacct. A
// final error is a *scheduler.IncompleteError where sacct failed, did not end in time (it is then run once more), reported
// an error though it exited with 0, or printed half a row: what was yielded before is good. Warnings of sacct are logged.
func (s *Sacct) Ended(ctx context.Context, from, to time.Time) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		if from.IsZero() || !to.After(from) {
			yield(nil, fmt.Errorf("sacct: the window from %s to %s is empty", from.Format(time.RFC3339), to.Format(time.RFC3339)))
			return
		}
		if err := s.window(ctx, from, to, yield); err != nil && err != errStopped {
			yield(nil, err)
		}
	}
}

// window runs sacct for a window, or for its halves.
func (s *Sacct) window(ctx context.Context, from, to time.Time, yield func(*scheduler.Job, error) bool) error {
	const layout = "2006-01-02T15:04:05" // read in TZ
	until := to.Truncate(time.Second)
	if until.Before(to) {
		until = until.Add(time.Second)
	}
	err := s.run(ctx, yield, "--starttime="+from.UTC().Format(layout), "--endtime="+until.UTC().Format(layout))
	if !errors.Is(err, errTooWide) {
		return err
	}
	middle := from.Add(to.Sub(from) / 2).Truncate(time.Second)
	if to.Sub(from) < 2*shortestWindow || !middle.After(from) {
		return &scheduler.IncompleteError{Problem: "sacct", Err: err, Remedy: "raise MaxQueryTimeRange in slurmdbd.conf, or run as a Slurm operator"}
	}
	// What ran on is shown in the later half as well, and is taken from there.
	ended := func(job *scheduler.Job, err error) bool {
		return err == nil && (job.End.IsZero() || !job.End.Before(middle)) || yield(job, err)
	}
	if err := s.window(ctx, from, middle, ended); err != nil {
		return err
	}
	return s.window(ctx, middle, to, yield)
}

// ByID runs sacct for the jobs with these ids, whenever they ran. Its errors are those of Ended.
func (s *Sacct) ByID(ctx context.Context, cluster string, ids []string) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		for some := range slices.Chunk(ids, idsAtOnce) {
			args := []string{"--jobs=" + strings.Join(some, ",")}
			if cluster != "" {
				args = append(args, "--clusters="+cluster)
			}
			if err := s.run(ctx, yield, args...); err != nil {
				if err != errStopped {
					yield(nil, err)
				}
				return
			}
		}
	}
}

// errTooWide is how a run ends whose window is too wide for the accounting.
var errTooWide = errors.New("the accounting takes no window of this width")

// tooWide is what sacct says then; nothing else tells it from other failures.
const tooWide = "Too wide of a date range"

// run runs sacct, once more where it does not end in time. errStopped: the consumer wants no more.
func (s *Sacct) run(ctx context.Context, yield func(*scheduler.Job, error) bool, which ...string) error {
	if s.names == nil {
		names, err := s.fields(ctx)
		if err != nil {
			return err
		}
		s.names = names
	}
	err := s.runOnce(ctx, yield, which)
	if errors.Is(err, errTimeout) && ctx.Err() == nil {
		s.log(slog.LevelWarn, "sacct is run once more", "error", err)
		err = s.runOnce(ctx, yield, which)
	}
	return err
}

// errTimeout is the cause of a context that has ended because sacct has not.
var errTimeout = errors.New("sacct did not end in time")

func (s *Sacct) timeout() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return DefaultTimeout
}

func (s *Sacct) runOnce(ctx context.Context, yield func(*scheduler.Job, error) bool, which []string) error {
	// A name may hold line breaks, and so could forge rows, had its owner known the delimiter when the job was submitted.
	random := s.Rand
	if random == nil {
		random = rand.Reader
	}
	var token [4]byte
	if _, err := io.ReadFull(random, token[:]); err != nil {
		return fmt.Errorf("sacct: making a delimiter: %w", err)
	}
	delimiter := "\x1f" + hex.EncodeToString(token[:])

	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout(), errTimeout)
	defer cancel()
	cmd, messages := s.command(ctx, s.arguments(delimiter, s.names, which)...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("sacct: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("sacct: %w", err)
	}
	reader := NewReader(pipe, "sacct", Options{Zone: time.UTC, Delimiter: delimiter, Clock: s.Clock})
	before := s.stats
	count := func() {
		s.stats = scheduler.Stats{Rows: before.Rows + reader.stats.Rows, Steps: before.Steps + reader.stats.Steps, Bad: before.Bad + reader.stats.Bad}
	}
	var failed error
	for job, err := range reader.Jobs(ctx) {
		count()
		var row *scheduler.RowError
		if err != nil && !errors.As(err, &row) {
			failed = err
			break
		}
		if !yield(job, err) {
			cancel()
			_ = cmd.Wait() // killed: its status says nothing
			return errStopped
		}
	}
	count()
	if ctx.Err() == nil {
		// Let sacct come to its own end: its failure explains an output that could not be read.
		_, _ = io.Copy(io.Discard, pipe)
	}
	if ctx.Err() != nil {
		cancel()
		_ = cmd.Wait()
		if cause := context.Cause(ctx); errors.Is(cause, errTimeout) {
			return &scheduler.IncompleteError{Problem: "sacct", Err: fmt.Errorf("%w (%s)", cause, s.timeout()),
				Remedy: "see whether slurmdbd answers, or allow more time (slurm: timeout: in site.yaml)"}
		}
		return fmt.Errorf("sacct: %w", ctx.Err())
	}
	if err := s.wait(cmd, messages); err != nil {
		return err
	}
	if failed == nil && reader.cut {
		failed = &scheduler.IncompleteError{Problem: "sacct: its output ends within a row", Remedy: "run it again"}
	}
	return failed
}

// fields asks sacct which fields it knows, and returns those that are wanted.
func (s *Sacct) fields(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout(), errTimeout)
	defer cancel()
	cmd, messages := s.command(ctx, "--helpformat")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("sacct: %w", err)
	}
	if err := s.wait(cmd, messages); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("sacct: %w", context.Cause(ctx))
		}
		return nil, err
	}
	known := make(map[string]bool)
	for _, name := range strings.Fields(out.String()) {
		known[strings.ToLower(name)] = true
	}
	var names []string
	var have [columns]bool
	for _, c := range wanted {
		if known[strings.ToLower(c.String())] {
			names = append(names, c.String())
			have[c] = true
		}
	}
	if missing := missingColumns(func(c column) bool { return have[c] }); len(missing) > 0 {
		return nil, fmt.Errorf("sacct --helpformat offers no %s, which jobs cannot be read without; is %q Slurm's sacct?",
			strings.Join(missing, ", "), cmd.Path)
	}
	return names, nil
}

// arguments is sacct's command line. It selects no states: without any, sacct gives the jobs that became eligible before
// a window's end and had not ended before its start, which is every one that ended within. Units are converted
// (no --noconvert), as in the dumps that people make: sacct does so only where it is exact, and a job reads the same
// wherever it came from.
func (s *Sacct) arguments(delimiter string, fields, which []string) []string {
	clusters := "--allclusters"
	if len(s.Clusters) > 0 {
		clusters = "--clusters=" + strings.Join(s.Clusters, ",")
	}
	args := []string{"--allusers", "--allocations", "--duplicates", "--parsable2", "--delimiter=" + delimiter}
	if !slices.ContainsFunc(which, func(arg string) bool { return strings.HasPrefix(arg, "--clusters=") }) {
		args = slices.Insert(args, 0, clusters)
	}
	return append(append(args, which...), "--format="+strings.Join(fields, ","))
}

// command prepares sacct with an environment in which it prints times as seconds since the epoch and reads them as UTC.
// SACCT_ variables, which change what it selects, are left out.
func (s *Sacct) command(ctx context.Context, args ...string) (*exec.Cmd, *command.Tail) {
	path := s.Path
	if path == "" {
		path = "sacct"
	}
	env := s.Env
	if env == nil {
		env = command.Environment()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "SACCT_") })
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(env, "SLURM_TIME_FORMAT=%s", "TZ=UTC")
	cmd.WaitDelay = command.Wait
	command.EndGroup(cmd)
	messages := new(command.Tail)
	cmd.Stderr = messages
	return cmd, messages
}

// wait waits for sacct, whose output has been read. What it wrote to standard error explains its failure, or is logged.
func (s *Sacct) wait(cmd *exec.Cmd, messages *command.Tail) error {
	err := cmd.Wait()
	lines := messages.Lines()
	said := strings.Join(lines, " / ")
	switch {
	case err != nil && strings.Contains(said, tooWide):
		return errTooWide
	case err != nil && said != "":
		return &scheduler.IncompleteError{Problem: "sacct", Err: fmt.Errorf("%w: %s", err, said)}
	case err != nil:
		return &scheduler.IncompleteError{Problem: "sacct", Err: err}
	}
	failed := false
	for _, line := range lines {
		s.log(slog.LevelWarn, "sacct wrote to standard error", "line", line)
		failed = failed || strings.Contains(line, "error:")
	}
	if failed {
		return &scheduler.IncompleteError{Problem: "sacct exited with status 0, and reported: " + said, Remedy: "jobs may be missing; see to its error"}
	}
	return nil
}

func (s *Sacct) log(level slog.Level, message string, args ...any) {
	if s.Logger != nil {
		s.Logger.Log(context.Background(), level, message, args...)
	}
}
