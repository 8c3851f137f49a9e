package ledger

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/failpoint"
)

// An ArchiveLine is one line of an archive: a record as it was sent, and what
// became of it. Every line has all members, which are null where they do not
// apply, so that what reads archives finds the same columns in all of them.
type ArchiveLine struct {
	Site       string              `json:"site"`
	Batch      int64               `json:"batch"`   // rises in order of acceptance
	Ordinal    int                 `json:"ordinal"` // the place in the batch, from 0
	AcceptedAt time.Time           `json:"accepted_at"`
	KeyID      int64               `json:"key_id"` // who sent it
	UsageType  amieusage.UsageType `json:"usage_type"`
	Outcome    string              `json:"outcome"` // "loaded", "unchanged" or "failed"

	// Of what was loaded: the revision of its record, from 1; whether that was
	// the newest one when it was archived; and the charge as a decimal number.
	Revision *int64     `json:"revision"`
	Newest   *bool      `json:"newest"`
	LoadedAt *time.Time `json:"loaded_at"`
	Charge   *string    `json:"charge"`
	// Of what failed: the FailedRecordID, and why.
	FailedID *int64  `json:"failed_id"`
	Reason   *string `json:"reason"`
	// Record is the JSON as it was sent, without white space between its parts;
	// a string of it where it is none.
	Record json.RawMessage `json:"record"`
}

func newArchiveLine(site string, b *OldBatch, ordinal int) *ArchiveLine {
	line := &ArchiveLine{
		Site:       site,
		Batch:      b.ID,
		Ordinal:    ordinal,
		AcceptedAt: b.AcceptedAt.UTC(),
		KeyID:      b.KeyID,
		UsageType:  b.UsageType,
		Outcome:    "unchanged",
		Record:     b.Records[ordinal],
	}
	if !utf8.Valid(line.Record) || !json.Valid(line.Record) {
		line.Record, _ = json.Marshal(string(line.Record)) // a string always can be
	}
	switch o := &b.Outcomes[ordinal]; {
	case o.FailedID > 0:
		reason := string(o.Failure)
		line.Outcome, line.FailedID, line.Reason = "failed", &o.FailedID, &reason
	case o.Revision > 0:
		loadedAt, charge := TimeOf(o.LoadedAt), amieusage.ChargeOfMillionths(o.Charge).String()
		line.Outcome, line.Revision, line.Newest, line.LoadedAt, line.Charge = "loaded", &o.Revision, &o.Newest, &loadedAt, &charge
	}
	return line
}

// archiveName returns the name of the archive of a site that begins with a
// batch: it is the same in every run, and in order of their names the archives
// of a site are in order of acceptance.
func archiveName(site string, firstBatch int64) string {
	return fmt.Sprintf("%s-%012d.jsonl.gz", fileNameOf(site), firstBatch)
}

// maxSiteName is the longest part of a file's name that a site's name becomes.
const maxSiteName = 200

// fileNameOf returns a site's name as a part of a file's name: what files, or
// the programs that read them, may not have in theirs is written as %XX. What
// is too long ends in a digest.
func fileNameOf(site string) string {
	var name strings.Builder
	for i, c := range []byte(site) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', i > 0 && (c == '-' || c == '_' || c == '.'):
			name.WriteByte(c)
		default:
			fmt.Fprintf(&name, "%%%02X", c)
		}
	}
	if name.Len() <= maxSiteName {
		return name.String()
	}
	digest := sha256.Sum256([]byte(site))
	end := fmt.Sprintf("~%x", digest[:8])
	return name.String()[:maxSiteName-len(end)] + end
}

// An archiveFile is an archive that is being written, under a name that no one
// takes for an archive.
type archiveFile struct {
	folder, name string
	file         *os.File
	compress     *gzip.Writer
	buffer       *bufio.Writer
	lines        *json.Encoder
	records      int64
	published    bool
}

func createArchive(folder, name string) (*archiveFile, error) {
	f := &archiveFile{folder: folder, name: name}
	file, err := os.OpenFile(f.temporary(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, folderError(folder, err)
	}
	f.file = file
	f.compress = gzip.NewWriter(file)
	f.buffer = bufio.NewWriterSize(f.compress, 64<<10)
	f.lines = json.NewEncoder(f.buffer)
	f.lines.SetEscapeHTML(false)
	return f, nil
}

func (f *archiveFile) temporary() string { return filepath.Join(f.folder, "."+f.name+".tmp") }
func (f *archiveFile) final() string     { return filepath.Join(f.folder, f.name) }

// add writes a line for each record of a batch.
func (f *archiveFile) add(site string, b *OldBatch) error {
	for i := range b.Records {
		if err := f.lines.Encode(newArchiveLine(site, b, i)); err != nil {
			return f.writeError(err)
		}
		f.records++
	}
	return nil
}

func (f *archiveFile) writeError(err error) error {
	return &amieusage.Error{Code: amieusage.CodeUnavailable, Message: "cannot write " + f.final(), Err: err,
		Hint: "nothing of it is removed from the ledger; see that there is room, and archive again"}
}

// publish brings the archive to stable storage under its final name, and
// returns its size. A file that is there already under that name gives way
// only where all that it holds is in this one: it was left by a run that was
// interrupted. Any other is amieusage.CodeConflict.
func (f *archiveFile) publish() (int64, error) {
	err := errors.Join(f.buffer.Flush(), f.compress.Close(), f.file.Sync())
	if err != nil {
		return 0, f.writeError(err)
	}
	info, err := f.file.Stat()
	if err != nil {
		return 0, f.writeError(err)
	}
	if err := f.supersedes(); err != nil {
		return 0, err
	}
	failpoint.Hit("archive", "written")
	if err := os.Rename(f.temporary(), f.final()); err != nil {
		return 0, f.writeError(err)
	}
	f.published = true
	failpoint.Hit("archive", "renamed")
	folder, err := os.Open(f.folder)
	if err != nil {
		return 0, f.writeError(err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return 0, f.writeError(err)
	}
	return info.Size(), nil
}

// discard closes the file; one that was not published is removed.
func (f *archiveFile) discard() error {
	err := f.file.Close()
	if f.published {
		return err
	}
	return os.Remove(f.temporary())
}

// supersedes makes sure that the file that is there already, if there is one,
// holds nothing that this one does not hold.
func (f *archiveFile) supersedes() error {
	old, err := os.Open(f.final())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	other := func(err error) error {
		return &amieusage.Error{Code: amieusage.CodeConflict, Message: f.final() + " is there already, and holds other records", Err: err,
			Hint: "archive into another folder; or, if a run with a later date was interrupted, archive with that date again"}
	}
	if err != nil {
		return other(err)
	}
	defer old.Close()
	written, err := os.Open(f.temporary())
	if err != nil {
		return f.writeError(err)
	}
	defer written.Close()
	was, err := archiveLines(old)
	if err != nil {
		return other(err)
	}
	is, err := archiveLines(written)
	if err != nil {
		return f.writeError(err)
	}
	for {
		var a, b ArchiveLine
		if err := was.Decode(&a); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return other(err)
		}
		if err := is.Decode(&b); errors.Is(err, io.EOF) || err == nil && !a.sameRecord(&b) {
			return other(nil)
		} else if err != nil {
			return f.writeError(err)
		}
	}
}

// sameRecord reports whether two lines are about the same record of the same
// batch. What became of it is as of when it was archived.
func (l *ArchiveLine) sameRecord(other *ArchiveLine) bool {
	return l.Site == other.Site && l.Batch == other.Batch && l.Ordinal == other.Ordinal &&
		l.AcceptedAt.Equal(other.AcceptedAt) && bytes.Equal(l.Record, other.Record)
}

// archiveLines returns what decodes the lines of an archive.
func archiveLines(r io.Reader) (*json.Decoder, error) {
	plain, err := gzip.NewReader(bufio.NewReader(r))
	return json.NewDecoder(plain), err
}
