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
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// Sacct is a scheduler.Source that runs sacct for the jobs that ended in [From, To). Jobs that merely ran in that window, or
// became eligible to run, come too, unfinished ones among them.
type Sacct struct {
	Path     string    // the program; "" is sacct, found on PATH
	From, To time.Time // To must be after From; cut to whole seconds outwards
	Clusters []string  // none: all clusters of the accounting database
	Env      []string  // the program's environment; nil is this process's. How sacct prints is set over it
	Logger   *slog.Logger
	Rand     io.Reader // makes the delimiter; nil is crypto/rand

	stats Stats
}

// wanted are the fields that are asked for, as far as this sacct knows them. JobName is the last, for it may hold anything.
var wanted = []column{colCluster, colDBIndex, colJobIDRaw, colJobID, colUser, colUID, colAccount, colPartition, colQOS, colReservation,
	colState, colSubmit, colStart, colEnd, colElapsedRaw, colNNodes, colNCPUS, colReqMem, colAllocTRES, colNodeList, colJobName}

// killWait is how long sacct's pipes are waited for after it was killed.
const killWait = 5 * time.Second

// Stats returns what has been read so far.
func (s *Sacct) Stats() Stats { return s.stats }

// Jobs runs sacct and yields what it prints, as scheduler.Source describes.
//
// Final errors: sacct cannot be run, lacks a field that is needed, or exits with a status other than 0 (the error carries
// the end of what it wrote to standard error), even after it has printed jobs; what Reader.Jobs names; ctx ended, which
// kills sacct. What sacct writes to standard error with exit status 0 is logged as a warning.
func (s *Sacct) Jobs(ctx context.Context) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		s.stats = Stats{}
		if err := s.run(ctx, yield); err != nil {
			yield(nil, err)
		}
	}
}

func (s *Sacct) run(ctx context.Context, yield func(*scheduler.Job, error) bool) error {
	if s.From.IsZero() || !s.To.After(s.From) {
		return fmt.Errorf("sacct: the window from %s to %s is empty", s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
	}
	fields, err := s.fields(ctx)
	if err != nil {
		return err
	}
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

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, warnings := s.command(ctx, s.arguments(delimiter, fields)...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("sacct: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("sacct: %w", err)
	}
	reader := NewReader(pipe, "sacct", Options{Zone: time.UTC, Delimiter: delimiter})
	var failed error
	for job, err := range reader.Jobs(ctx) {
		s.stats = reader.Stats()
		var row *scheduler.RowError
		if err != nil && !errors.As(err, &row) {
			failed = err
			break
		}
		if !yield(job, err) {
			cancel()
			_ = cmd.Wait() // killed: its status says nothing
			return nil
		}
	}
	s.stats = reader.Stats()
	if err := ctx.Err(); err != nil {
		cancel()
		_ = cmd.Wait()
		return fmt.Errorf("sacct: %w", err)
	}
	// Let sacct come to its own end: its failure explains an output that could not be read.
	_, _ = io.Copy(io.Discard, pipe)
	if err := s.wait(cmd, warnings); err != nil {
		return err
	}
	return failed
}

// fields asks sacct which fields it knows, and returns those that are wanted.
func (s *Sacct) fields(ctx context.Context) ([]string, error) {
	cmd, warnings := s.command(ctx, "--helpformat")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("sacct: %w", err)
	}
	if err := s.wait(cmd, warnings); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("sacct: %w", ctx.Err())
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
// the window's end and had not ended before its start, which is every one that ended within. Units are converted
// (no --noconvert), as in the dumps that people make: sacct does so only where it is exact, and a job reads the same
// wherever it came from.
func (s *Sacct) arguments(delimiter string, fields []string) []string {
	const layout = "2006-01-02T15:04:05" // read in TZ
	to := s.To.Truncate(time.Second)
	if to.Before(s.To) {
		to = to.Add(time.Second)
	}
	clusters := "--allclusters"
	if len(s.Clusters) > 0 {
		clusters = "--clusters=" + strings.Join(s.Clusters, ",")
	}
	return []string{
		clusters, "--allusers", "--allocations", "--duplicates", "--parsable2", "--delimiter=" + delimiter,
		"--starttime=" + s.From.UTC().Format(layout), "--endtime=" + to.UTC().Format(layout),
		"--format=" + strings.Join(fields, ","),
	}
}

// command prepares sacct with an environment in which it prints times as seconds since the epoch and reads them as UTC.
// SACCT_ variables, which change what it selects, are left out.
func (s *Sacct) command(ctx context.Context, args ...string) (*exec.Cmd, *tail) {
	path := s.Path
	if path == "" {
		path = "sacct"
	}
	env := s.Env
	if env == nil {
		env = os.Environ()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "SACCT_") })
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(env, "SLURM_TIME_FORMAT=%s", "TZ=UTC")
	cmd.WaitDelay = killWait
	warnings := new(tail)
	cmd.Stderr = warnings
	return cmd, warnings
}

// wait waits for sacct, whose output has been read. What it wrote to standard error explains its failure, or is logged.
func (s *Sacct) wait(cmd *exec.Cmd, warnings *tail) error {
	err := cmd.Wait()
	lines := warnings.lines()
	if err != nil {
		if len(lines) > 0 {
			return fmt.Errorf("sacct: %w: %s", err, strings.Join(lines, " / "))
		}
		return fmt.Errorf("sacct: %w", err)
	}
	if s.Logger != nil {
		for _, line := range lines {
			s.Logger.Warn("sacct wrote to standard error", "line", line)
		}
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

const maxTail = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxTail; over > 0 {
		t.kept = slices.Delete(t.kept, 0, over)
	}
	return len(p), nil
}

// lines returns the lines that were kept, without blank ones.
func (t *tail) lines() []string {
	var lines []string
	for line := range strings.Lines(strings.ToValidUTF8(string(t.kept), "\uFFFD")) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}
