// Package logfiles is a scheduler.Accounting on the files that a scheduler writes its accounting to: one for each day, or one
// that is rotated.
package logfiles

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// A File is one of the files.
type File struct {
	Path string
	// First and Last are when its lines were written; zero: that is not known. Lines may come late.
	First, Last time.Time
	// Growing says that the scheduler writes to it: its last line may be half a line.
	Growing bool
}

// Logs is a scheduler.Accounting on files.
type Logs struct {
	// List returns the files, the oldest first.
	List func() ([]File, error)
	// Open returns a reader of one of them.
	Open func(in io.Reader, f File) scheduler.Reader
}

var _ scheduler.Accounting = (*Logs)(nil)

// Ended yields the jobs of every file that may have one that ended in [from, to). Of a file that goes back for ever, it yields
// those that ended from that time on; of others all, for some of them were written late.
//
// A final error is a *scheduler.IncompleteError where the files cannot be listed, or one cannot be read to its end.
func (l *Logs) Ended(ctx context.Context, from, to time.Time) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		files, err := l.List()
		if err != nil {
			yield(nil, err)
			return
		}
		for _, f := range files {
			if !f.First.IsZero() && f.First.After(to) || !f.Last.IsZero() && f.Last.Before(from) {
				continue
			}
			goesOn := l.read(ctx, f, func(job *scheduler.Job, err error) bool {
				ended := from // where that cannot be told, it is told
				if row, bad := errors.AsType[*scheduler.RowError](err); bad && !row.Ended.IsZero() {
					ended = row.Ended
				} else if err == nil {
					if ended = job.End; ended.IsZero() {
						ended = job.Submit
					}
				}
				return f.First.IsZero() && ended.Before(from) || yield(job, err)
			})
			if !goesOn {
				return
			}
		}
	}
}

// ByID yields the jobs with these ids that any file has. It begins with the newest file, and ends when all were found.
func (l *Logs) ByID(ctx context.Context, _ string, ids []string) iter.Seq2[*scheduler.Job, error] {
	return func(yield func(*scheduler.Job, error) bool) {
		open := make(map[string]bool, len(ids)) // whether it was not found yet
		for _, id := range ids {
			open[id] = true
		}
		files, err := l.List()
		if err != nil {
			yield(nil, err)
			return
		}
		missing := len(open)
		for _, f := range slices.Backward(files) {
			if missing == 0 {
				return
			}
			goesOn := l.read(ctx, f, func(job *scheduler.Job, err error) bool {
				if row, bad := errors.AsType[*scheduler.RowError](err); bad {
					_, asked := open[row.JobID]
					return !asked || yield(nil, err)
				}
				if err == nil {
					name := job.ID
					if _, asked := open[name]; !asked {
						name = job.DisplayID
					}
					isOpen, asked := open[name]
					if !asked {
						return true
					}
					if isOpen && job.Run == "" {
						open[name] = false
						missing--
					}
				}
				return yield(job, err)
			})
			if !goesOn {
				return
			}
		}
	}
}

// read yields the jobs of a file, and reports whether more are wanted.
func (l *Logs) read(ctx context.Context, f File, yield func(*scheduler.Job, error) bool) bool {
	in, err := os.Open(f.Path)
	if errors.Is(err, fs.ErrNotExist) { // it has been compressed meanwhile
		yield(nil, &scheduler.IncompleteError{Problem: f.Path + " went away while it was to be read", Remedy: "run again"})
		return false
	}
	if err != nil {
		yield(nil, &scheduler.IncompleteError{Problem: "a file of the accounting cannot be read", Err: err, Remedy: "run as a user who may read it"})
		return false
	}
	defer in.Close()
	if info, err := in.Stat(); err == nil && info.Size() == 0 {
		return true // a file begins so
	}
	for job, err := range l.Open(in, f).Jobs(ctx) {
		if _, row := errors.AsType[*scheduler.RowError](err); err != nil && !row {
			if ctx.Err() == nil {
				err = &scheduler.IncompleteError{Problem: "a file of the accounting cannot be read to its end", Err: err, Remedy: "see to the file, and run again"}
			}
			yield(nil, err)
			return false
		}
		if !yield(job, err) {
			return false
		}
	}
	return true
}

// slack is how much later than a file was last written to a job may have ended that is in it, by another clock.
const slack = time.Hour

// Rotated lists a file and those that it was rotated to: path.1, path.2.gz, path-20260101, path.20260101T120000. The oldest is
// the one that was not written to for longest.
func Rotated(path string) ([]File, error) {
	folder, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(folder + "."))
	if err != nil {
		return nil, unlisted(err)
	}
	var files []File
	written := map[string]time.Time{}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), base)
		if !ok || e.IsDir() || rest != "" && !isRotation(rest) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, unlisted(err)
		}
		f := File{Path: folder + e.Name(), Last: info.ModTime().Add(slack), Growing: rest == ""}
		if f.Growing {
			f.Last = time.Time{}
		}
		files, written[f.Path] = append(files, f), info.ModTime()
	}
	if !slices.ContainsFunc(files, func(f File) bool { return f.Growing }) {
		return nil, unlisted(&fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist})
	}
	slices.SortStableFunc(files, func(a, b File) int {
		switch {
		case a.Growing != b.Growing && a.Growing:
			return 1
		case a.Growing != b.Growing:
			return -1
		}
		return written[a.Path].Compare(written[b.Path])
	})
	return files, nil
}

// isRotation tells what rotation appends to a name: .1, -20260101, .20260101T120000, with .gz, .zst or .xz behind it.
func isRotation(rest string) bool {
	for _, ending := range []string{".gz", ".zst", ".xz"} {
		rest = strings.TrimSuffix(rest, ending)
	}
	if rest == "" || rest[0] != '.' && rest[0] != '-' {
		return false
	}
	return strings.Trim(rest[1:], "0123456789T-") == "" && len(rest) > 1
}

func unlisted(err error) error {
	return &scheduler.IncompleteError{Problem: "the accounting cannot be read", Err: err, Remedy: "see its place in site.yaml, and run as a user who may read it"}
}

// Days lists the files of a folder that are named YYYYMMDD, with .gz, .zst or .xz or without, each with what was written on
// that day in the zone.
func Days(folder string, zone *time.Location) ([]File, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, unlisted(err)
	}
	if zone == nil {
		zone = time.UTC
	}
	var files []File
	last := ""
	for _, e := range entries {
		name, ending, _ := strings.Cut(e.Name(), ".")
		day, err := time.ParseInLocation("20060102", name, zone)
		if err != nil || e.IsDir() || !slices.Contains([]string{"", "gz", "zst", "xz"}, ending) {
			continue
		}
		if name == last {
			continue // the file and its compressed copy, while it is compressed: the file stands first
		}
		last = name
		// A line may be written late: what ended much earlier is in it, too. A day is one more, or one less, in another zone.
		files = append(files, File{Path: filepath.Join(folder, e.Name()), First: day.AddDate(0, 0, -1), Last: day.AddDate(0, 0, 2)})
	}
	if len(files) > 0 {
		files[len(files)-1].Growing = true
	}
	return files, nil
}
