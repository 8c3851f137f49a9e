package outbox

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

// A Job is what is kept of a job of the accounting: what the accounting says,
// and what the rules have made of it. Its record follows from these.
type Job struct {
	// Facts are what the accounting says, as far as any reading of it has said
	// so. They have no Place.
	Facts scheduler.Job
	// Made is what the rules have made of the facts, without Rate and Rule.
	Made siterules.Made
	// Rate is the text of the rate that charged the job; "" where a person has
	// set the charge.
	Rate string
}

// Record returns the record that reports the job.
func (j *Job) Record() *amieusage.ComputeRecord { return siterules.Record(&j.Facts, &j.Made) }

// jobVersion begins the bytes of a job. The JSON of a record begins with {.
const jobVersion = 1

// AppendJob appends the job's bytes, without its Rate, to dst.
func AppendJob(dst []byte, j *Job) []byte {
	f, m := &j.Facts, &j.Made
	w := jobWriter{append(dst, jobVersion)}
	for _, s := range [...]string{f.Cluster, f.ID, f.DisplayID, f.ParentID, f.User, f.UID, f.Account, f.Group, f.Project, f.Partition, f.QOS,
		f.Name, f.ReqMem, f.State, f.Reservation, f.NodeList, f.DBIndex, f.Warning, f.Run, f.Source, f.By,
		m.Resource, m.Project, m.User, m.RecordID, m.Charge.String()} {
		w.text(s)
	}
	w.instant(f.Submit, time.Time{})
	w.instant(f.Start, f.Submit)
	w.instant(f.End, f.Start)
	for _, n := range [...]int64{f.ElapsedSeconds, f.Nodes, f.CPUs, int64(f.Lacks), int64(len(f.TRES))} {
		w.number(n)
	}
	for _, t := range f.TRES {
		w.text(t.Name)
		w.number(t.Count)
		w.number(int64(t.Nanos))
	}
	untracked := int64(0)
	if m.Untracked {
		untracked = 1
	}
	w.number(untracked)
	return w.b
}

var errJob = errors.New("the bytes of a job are damaged")

// IsJob tells the bytes of a job from the JSON of a record.
func IsJob(b []byte) bool { return len(b) > 0 && b[0] == jobVersion }

// ParseJob reads the bytes of a job. The error says that they are damaged.
func ParseJob(b []byte) (*Job, error) {
	if !IsJob(b) {
		return nil, errJob
	}
	r := jobReader{b: b[1:]}
	j := &Job{}
	f, m := &j.Facts, &j.Made
	var charge string
	for _, s := range [...]*string{&f.Cluster, &f.ID, &f.DisplayID, &f.ParentID, &f.User, &f.UID, &f.Account, &f.Group, &f.Project, &f.Partition, &f.QOS,
		&f.Name, &f.ReqMem, &f.State, &f.Reservation, &f.NodeList, &f.DBIndex, &f.Warning, &f.Run, &f.Source, &f.By,
		&m.Resource, &m.Project, &m.User, &m.RecordID, &charge} {
		*s = r.text()
	}
	f.Submit = r.instant(time.Time{})
	f.Start = r.instant(f.Submit)
	f.End = r.instant(f.Start)
	f.ElapsedSeconds, f.Nodes, f.CPUs = r.number(), r.number(), r.number()
	f.Lacks = scheduler.Facts(r.number())
	for n := r.number(); n > 0 && !r.failed; n-- {
		t := scheduler.TRES{Name: r.text(), Count: r.number(), Nanos: int32(r.number())}
		f.TRES = append(f.TRES, t)
	}
	m.Untracked = r.number() != 0
	if r.failed || len(r.b) > 0 {
		return nil, errJob
	}
	if charge != "" {
		var err error
		if m.Charge, err = amieusage.ParseCharge(charge); err != nil {
			return nil, errJob
		}
	}
	return j, nil
}

type jobWriter struct{ b []byte }

func (w *jobWriter) number(n int64) { w.b = binary.AppendVarint(w.b, n) }

func (w *jobWriter) text(s string) {
	w.b = binary.AppendUvarint(w.b, uint64(len(s)))
	w.b = append(w.b, s...)
}

// instant writes a time as the nanoseconds since another, in whole seconds where
// it can; 0 is no time, for which the two are the same.
func (w *jobWriter) instant(t, since time.Time) {
	if t.IsZero() {
		w.number(0)
		return
	}
	from := int64(0)
	if !since.IsZero() {
		from = since.Unix()
	}
	w.number(1 + int64(t.Nanosecond())) // what follows is the seconds
	w.number(t.Unix() - from)
}

type jobReader struct {
	b      []byte
	failed bool
}

func (r *jobReader) number() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.failed = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *jobReader) text() string {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > uint64(len(r.b)-size) {
		r.failed = true
		return ""
	}
	s := string(r.b[size : size+int(n)])
	r.b = r.b[size+int(n):]
	return s
}

func (r *jobReader) instant(since time.Time) time.Time {
	nanos := r.number()
	if nanos <= 0 || nanos > 1_000_000_000 {
		r.failed = r.failed || nanos != 0
		return time.Time{}
	}
	seconds := r.number()
	if !since.IsZero() {
		seconds += since.Unix()
	}
	return time.Unix(seconds, nanos-1).UTC()
}
