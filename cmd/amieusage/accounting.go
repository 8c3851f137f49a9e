package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os/exec"
	"os/user"
	"slices"
	"time"

	"github.com/amieusage/amieusage/internal/agent"
	"github.com/amieusage/amieusage/internal/counted"
	"github.com/amieusage/amieusage/internal/gridengine"
	"github.com/amieusage/amieusage/internal/htcondor"
	"github.com/amieusage/amieusage/internal/logfiles"
	"github.com/amieusage/amieusage/internal/pbs"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/slurm"
	"github.com/amieusage/amieusage/internal/textfile"
)

// An accounting is one of the site's, which can be asked.
type accounting struct {
	kind     siteconfig.Kind
	name     string // of its cursor, and for people
	lookback time.Duration
	byDays   bool // a day is asked for at once; otherwise all of it
	scheduler.Accounting
}

// accountings returns the site's accountings. The error says which of them site.yaml says too little of, or cannot be asked.
func (s *siteCommand) accountings() ([]accounting, error) {
	var all []accounting
	for _, kind := range s.config.Schedulers {
		some, err := s.accountingsOf(kind)
		if err != nil {
			return nil, err
		}
		for i := range some {
			some[i].kind = kind
		}
		all = append(all, some...)
	}
	return all, nil
}

func (s *siteCommand) accountingsOf(kind siteconfig.Kind) (some []accounting, err error) {
	c := s.config
	name := func(i int, place string) string { // the cursor of the first one stays where its place is corrected
		if i == 0 {
			return string(kind)
		}
		return string(kind) + " " + place
	}
	switch kind {
	case siteconfig.KindSlurm:
		if err := checkProgram(c.Slurm.Sacct, "Slurm's sacct", "slurm: sacct:", c.File); err != nil {
			return nil, err
		}
		return []accounting{{name: "sacct", lookback: c.Slurm.Lookback, byDays: true, Accounting: s.sacct()}}, nil
	case siteconfig.KindPBS:
		for i, p := range c.PBS {
			if p.Accounting == "" {
				return nil, noPlace(c, "the folder of PBS's accounting logs", "pbs: {accounting: /var/spool/pbs/server_priv/accounting}")
			}
			some = append(some, accounting{name: name(i, p.Accounting), lookback: p.Lookback, Accounting: &logfiles.Logs{
				List: func() ([]logfiles.File, error) { return logfiles.Days(p.Accounting, p.Zone) },
				Open: func(in io.Reader, f logfiles.File) scheduler.Reader {
					return pbs.NewReader(in, f.Path, s.pbsOptions(&p, f.Growing))
				},
			}})
		}
	case siteconfig.KindGridEngine:
		for i, g := range c.GridEngine {
			if g.Accounting == "" {
				return nil, noPlace(c, "Grid Engine's accounting file", "gridengine: {accounting: /var/lib/gridengine/default/common/accounting}")
			}
			some = append(some, accounting{name: name(i, g.Accounting), lookback: g.Lookback, Accounting: &logfiles.Logs{
				List: func() ([]logfiles.File, error) { return logfiles.Rotated(g.Accounting) },
				Open: func(in io.Reader, f logfiles.File) scheduler.Reader {
					return gridengine.NewReader(in, f.Path, s.gridEngineOptions(&g, f.Growing))
				},
			}})
		}
	case siteconfig.KindHTCondor:
		for i, h := range c.HTCondor {
			if h.History != "" {
				some = append(some, accounting{name: name(i, h.History), lookback: h.Lookback, Accounting: &logfiles.Logs{
					List: func() ([]logfiles.File, error) { return logfiles.Rotated(h.History) },
					Open: func(in io.Reader, f logfiles.File) scheduler.Reader {
						return htcondor.NewReader(in, f.Path, s.htcondorOptions(&h, f.Growing))
					},
				}})
				continue
			}
			if err := checkProgram(h.Program, "HTCondor's condor_history", "htcondor: condor_history:", c.File); err != nil {
				return nil, err
			}
			some = append(some, accounting{name: name(i, fmt.Sprint(h.Program, h.Args)), lookback: h.Lookback, Accounting: &htcondor.History{
				Program: h.Program, Args: h.Args, Timeout: h.Timeout, Options: s.htcondorOptions(&h, false), Logger: s.log(),
			}})
		}
	}
	return some, nil
}

func noPlace(c *siteconfig.Site, what, example string) error {
	return usageError("%s does not say where %s is: state it, as in %s, or read a log with --from-file", c.File, what, example)
}

// checkProgram returns an error where a program cannot be run.
func checkProgram(program, what, key, file string) error {
	_, err := exec.LookPath(program)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*exec.Error](err); ok {
		err = e.Err // its text is the library's
	}
	return usageError("%s cannot be run: %w: install %s, state where it is (%s in %s), or read a dump with --from-file", program, err, what, key, file)
}

// sacct returns Slurm's accounting, as site.yaml says how it is asked.
func (s *siteCommand) sacct() *slurm.Sacct {
	c := &s.config.Slurm
	return &slurm.Sacct{Path: c.Sacct, Timeout: c.Timeout, Clusters: c.Clusters, Logger: s.log(), Clock: s.clock}
}

func (p *program) pbsOptions(c *siteconfig.PBS, growing bool) pbs.Options {
	return pbs.Options{Zone: c.Zone, Exclusive: c.Exclusive, Whole: c.Whole, Growing: growing, Clock: p.clock}
}

func (p *program) gridEngineOptions(c *siteconfig.GridEngine, growing bool) gridengine.Options {
	return gridengine.Options{Cluster: c.Cluster, GPU: c.GPU, GPUPerJob: c.GPUPerJob, Growing: growing, Clock: p.clock}
}

func (p *program) htcondorOptions(c *siteconfig.HTCondor, growing bool) htcondor.Options {
	return htcondor.Options{Cluster: c.Cluster, Project: c.Project, Growing: growing, Clock: p.clock}
}

// A dump is an open file, and what has decompressed it.
type dump struct {
	io.Closer
	done func()
}

// Close closes both.
func (d *dump) Close() error {
	d.done()
	return d.Closer.Close()
}

// readDump opens a dump or a log. Closing it is up to the caller.
func (p *program) readDump(name string, config *siteconfig.Site, f *dumpFlags) (scheduler.Reader, io.Closer, error) {
	file, err := p.open(name)
	if err != nil {
		return nil, nil, &dumpError{err}
	}
	in, done, err := textfile.Plain(bufio.NewReaderSize(file, textfile.BufferSize))
	opened := &dump{file, done}
	if err != nil {
		return nil, nil, errors.Join(&dumpError{fmt.Errorf("%s: %w", scheduler.Place{File: name}, err)}, opened.Close())
	}
	kind, err := kindOf(name, in, config)
	if err != nil {
		return nil, nil, errors.Join(&dumpError{err}, opened.Close())
	}
	switch kind {
	case siteconfig.KindPBS:
		return pbs.NewReader(in, name, p.pbsOptions(&config.PBS[0], false)), opened, nil
	case siteconfig.KindGridEngine:
		return gridengine.NewReader(in, name, p.gridEngineOptions(&config.GridEngine[0], false)), opened, nil
	case siteconfig.KindCounted:
		opts := config.Counted.Columns
		opts.Clock = p.clock
		return counted.NewReader(in, name, opts), opened, nil
	case siteconfig.KindHTCondor:
		return htcondor.NewReader(in, name, p.htcondorOptions(&config.HTCondor[0], false)), opened, nil
	}
	return slurm.NewReader(in, name, slurm.Options{
		Zone: config.Slurm.Zone, Delimiter: f.delimiter, Columns: f.columns, Clock: p.clock,
		Warn: func(text string) { fmt.Fprintln(p.stderr, printable(text)) },
	}), opened, nil
}

// kindOf tells which scheduler a dump is of: where the site has several, by how it begins.
func kindOf(name string, in *bufio.Reader, config *siteconfig.Site) (siteconfig.Kind, error) {
	head, _ := in.Peek(64 << 10) // a shorter one is there all the same
	kind := siteconfig.KindSlurm
	switch {
	case pbs.IsLog(head):
		kind = siteconfig.KindPBS
	case gridengine.IsFile(head):
		kind = siteconfig.KindGridEngine
	case htcondor.IsHistory(head), bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("{")) && bytes.Contains(head, []byte(`"GlobalJobId"`)):
		kind = siteconfig.KindHTCondor
	case len(config.Schedulers) == 1:
		return config.Schedulers[0], nil
	case slices.Contains(config.Schedulers, siteconfig.KindCounted) && !looksLikeSacct(head):
		kind = siteconfig.KindCounted
	}
	if !slices.Contains(config.Schedulers, kind) {
		return "", fmt.Errorf("%s: it looks like accounting of %s, and site.yaml is for %s: name it there, as in scheduler: %s",
			scheduler.Place{File: name}, kind, config.Schedulers[0], kind)
	}
	return kind, nil
}

// looksLikeSacct tells sacct's text or JSON from a table.
func looksLikeSacct(head []byte) bool {
	return bytes.Contains(head, []byte("JobID")) || bytes.Contains(head, []byte(`"jobs"`))
}

// collectWindow asks each accounting of the site, over a window that reaches back behind the last run.
func (s *siteCommand) collectWindow(ctx context.Context, f *collectFlags) error {
	all, err := s.accountings()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return usageError("%s is for tables of what was counted elsewhere: name one with --from-file", s.config.File)
	}
	var failures []error
	for i := range all {
		if ctx.Err() == nil {
			failures = append(failures, s.collectFrom(ctx, f, &all[i], len(all) > 1))
		}
	}
	return errors.Join(failures...)
}

func (s *siteCommand) collectFrom(ctx context.Context, f *collectFlags, a *accounting, others bool) error {
	now := s.clock()
	cursor, err := s.queue.Cursor(ctx, a.name)
	if err != nil {
		return err
	}
	w := agent.Window{From: now, To: now, Source: a.name, Cursor: cursor.At, AcceptMissing: f.acceptMissing, Others: others}
	if !cursor.At.IsZero() && cursor.At.Before(now) {
		w.From = cursor.At
	}
	w.From = w.From.Add(-a.lookback)
	if !f.from.IsZero() {
		w.From = f.from
	}
	if !f.to.IsZero() {
		w.To = f.to
	}
	if a.byDays {
		w.Slice = 24 * time.Hour
	}
	if u, err := user.Current(); err == nil && u.Uid != "0" && a.kind == siteconfig.KindSlurm {
		w.Caller = u.Username
	}
	return s.agent.CollectWindow(ctx, a, w, f.preview)
}

// accounting yields the jobs of the dumps, or else those that the site's accountings show.
func (s *siteCommand) accounting(ctx context.Context, f *dumpFlags, from, until time.Time) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		if len(f.files) > 0 {
			s.dumped(ctx, f, yield)
			return
		}
		all, err := s.accountings()
		if err != nil {
			yield(nil, err)
			return
		}
		for i := range all {
			for job, err := range all[i].Ended(ctx, from, until) {
				if !yield(job, err) {
					return
				}
			}
		}
	}
}

func (s *siteCommand) dumped(ctx context.Context, f *dumpFlags, yield func(*scheduler.Job, error) bool) {
	for _, name := range f.files {
		reader, in, err := s.readDump(name, s.config, f)
		if err != nil {
			yield(nil, err)
			return
		}
		goesOn := true
		for job, err := range jobsOf(reader).Jobs(ctx) {
			if goesOn = yield(job, err); !goesOn {
				break
			}
		}
		if err := in.Close(); !goesOn || err != nil && !yield(nil, err) {
			return
		}
	}
}
