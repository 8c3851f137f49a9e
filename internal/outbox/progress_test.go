package outbox_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

var (
	siteTime    = time.Date(2026, 10, 2, 8, 0, 0, 0, time.UTC)
	serviceTime = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC) // clocks may differ by any amount
)

// job returns a record of one identity; name and charge are its content.
func job(t testing.TB, name, charge string) amieusage.Record {
	t.Helper()
	c, err := amieusage.ParseCharge(charge)
	if err != nil {
		t.Fatal(err)
	}
	submit := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	return &amieusage.ComputeRecord{
		Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: "4711", Resource: "rm.example.org",
		SubmitTime: submit, StartTime: submit, EndTime: submit.Add(time.Hour), Charge: c,
		NodeCount: amieusage.CountOf(1), JobName: name,
	}
}

func read(t testing.TB, r amieusage.Record) outbox.Progress {
	t.Helper()
	entries, err := outbox.NewEntries([]outbox.Item{{Record: r, Place: "dump.psv:12"}}, siteTime)
	if err != nil {
		t.Fatal(err)
	}
	return entries[0].Progress
}

func loadedRecord(r amieusage.Record, at time.Time) amieusage.LoadedRecord {
	id := r.Identity()
	return amieusage.LoadedRecord{UsageType: id.UsageType, LocalRecordID: id.LocalRecordID, Resource: id.Resource,
		SubmitTime: id.KeyTime, LoadedTime: at, Charge: r.Common().Charge}
}

func failedRecord(r amieusage.Record, id int64, reason string) amieusage.FailedRecord {
	return amieusage.FailedRecord{UsageType: r.UsageType(), Error: reason, FailedRecordID: id, Record: r}
}

func TestNewEntries(t *testing.T) {
	r := job(t, "relax", "16.2500001")
	got, err := outbox.NewEntries([]outbox.Item{{Record: r, Place: "dump.psv:12"}}, siteTime)
	if err != nil {
		t.Fatal(err)
	}
	want := []outbox.Entry{{Record: r, Place: "dump.psv:12", Progress: outbox.Progress{
		State: outbox.Pending, Revision: 1, Digest: amieusage.ContentDigest(r), Charge: 16_250_000, EnqueuedAt: siteTime,
	}}}
	if diff := cmp.Diff(want[0].Progress, got[0].Progress); diff != "" || got[0].Record != r || got[0].Place != want[0].Place {
		t.Errorf("entry differs (-want +got):\n%s", diff)
	}

	bad := job(t, "relax", "1").(*amieusage.ComputeRecord)
	bad.Username = ""
	for name, item := range map[string]outbox.Item{
		"not valid": {Record: bad, Place: "dump.psv:13"},
		"none":      {Place: "dump.psv:13"},
	} {
		_, err := outbox.NewEntries([]outbox.Item{{Record: r}, item}, siteTime)
		checkCode(t, err, amieusage.CodeInvalid)
		if name == "not valid" {
			const text = "record 2 of 2 (dump.psv:13) cannot be enqueued: Username is required"
			if err == nil || err.Error() != text {
				t.Errorf("%s: error %q, want %q", name, err, text)
			}
		}
	}
}

func TestParseState(t *testing.T) {
	for _, state := range outbox.States {
		if got, err := outbox.ParseState(string(state)); got != state || err != nil {
			t.Errorf("ParseState(%q) = %q, %v", state, got, err)
		}
	}
	_, err := outbox.ParseState("lost")
	checkCode(t, err, amieusage.CodeInvalid)
}

// A step is one event of a story, and the state behind it.
type step struct {
	what  string
	do    func(p *outbox.Progress) bool
	moved bool
	state outbox.State
}

// TestProgress tells stories of one identity: A and B are contents of the same
// charge, C has another.
func TestProgress(t *testing.T) {
	a, b, c := job(t, "a", "10"), job(t, "b", "10"), job(t, "c", "20")
	at := func(n int) time.Time { return serviceTime.Add(time.Duration(n) * time.Second) }
	revise := func(r amieusage.Record) func(p *outbox.Progress) bool {
		return func(p *outbox.Progress) bool { return p.Revise(read(t, r)) }
	}
	accepted := func(p *outbox.Progress) bool {
		return p.Sent(outbox.Delivery{Revision: p.Revision}, siteTime)
	}
	rejected := func(p *outbox.Progress) bool {
		return p.Sent(outbox.Delivery{Revision: p.Revision, Rejected: true, Reason: "unknown resource"}, siteTime)
	}
	sentRevision := func(n int64) func(p *outbox.Progress) bool {
		return func(p *outbox.Progress) bool { return p.Sent(outbox.Delivery{Revision: n}, siteTime) }
	}
	loaded := func(r amieusage.Record, n int) func(p *outbox.Progress) bool {
		return func(p *outbox.Progress) bool { return p.Confirm(loadedRecord(r, at(n)), 0) }
	}
	failed := func(r amieusage.Record, id int64) func(p *outbox.Progress) bool {
		return func(p *outbox.Progress) bool { return p.Fail(failedRecord(r, id, "unknown user")) }
	}
	retry := (*outbox.Progress).Retry

	for name, story := range map[string][]step{
		"the usual way": {
			{"sent", accepted, true, outbox.Queued},
			{"loaded", loaded(a, 1), true, outbox.Loaded},
			{"read again", revise(a), false, outbox.Loaded},
			{"listed again", loaded(a, 1), false, outbox.Loaded},
			{"an answer that comes late", accepted, false, outbox.Loaded},
		},
		"not before it is sent": {
			{"loaded", loaded(a, 1), false, outbox.Pending},
		},
		"another charge is another content": {
			{"sent", accepted, true, outbox.Queued},
			{"loaded with another charge", loaded(c, 1), false, outbox.Queued},
			{"loaded", loaded(a, 2), true, outbox.Loaded},
		},
		"the charge counts to the millionth": {
			{"read with more digits", revise(job(t, "a", "10.0000004")), true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"loaded as the ledger keeps it", loaded(job(t, "a", "10.000000"), 1), true, outbox.Loaded},
		},
		"a loaded record without a time": {
			{"sent", accepted, true, outbox.Queued},
			{"loaded", func(p *outbox.Progress) bool { return p.Confirm(loadedRecord(a, time.Time{}), 0) }, true, outbox.Loaded},
		},
		"rejected, corrected": {
			{"sent", rejected, true, outbox.Rejected},
			{"loaded", loaded(a, 1), false, outbox.Rejected},
			{"read again", revise(a), false, outbox.Rejected},
			{"corrected", revise(b), true, outbox.Pending},
		},
		"revised while it was under way": {
			{"corrected", revise(b), true, outbox.Pending},
			{"the answer to the first revision", sentRevision(1), false, outbox.Pending},
			{"the answer to the second", sentRevision(2), true, outbox.Queued},
		},
		"correction of equal charge": {
			{"sent", accepted, true, outbox.Queued},
			{"loaded", loaded(a, 1), true, outbox.Loaded},
			{"corrected", revise(b), true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"the former content is listed", loaded(a, 1), false, outbox.Queued},
			{"loaded", loaded(b, 2), true, outbox.Loaded},
		},
		"correction of the charge": {
			{"sent", accepted, true, outbox.Queued},
			{"loaded", loaded(a, 5), true, outbox.Loaded},
			{"corrected", revise(c), true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"loaded, and the service's clock was set back", loaded(c, 3), true, outbox.Loaded},
		},
		"a correction that is taken back": {
			{"sent", accepted, true, outbox.Queued},
			{"loaded", loaded(a, 1), true, outbox.Loaded},
			{"corrected", revise(b), true, outbox.Pending},
			{"taken back", revise(a), true, outbox.Pending},
			{"sent, which changes nothing at the service", accepted, true, outbox.Queued},
			{"loaded long ago", loaded(a, 1), true, outbox.Loaded},
		},
		"sent again on demand": {
			{"sent", accepted, true, outbox.Queued},
			{"loaded", loaded(a, 1), true, outbox.Loaded},
			{"retried", retry, true, outbox.Pending},
			{"retried once more", retry, false, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"loaded long ago", loaded(a, 1), true, outbox.Loaded},
		},
		"failed, retried": {
			{"sent", accepted, true, outbox.Queued},
			{"failed", failed(a, 7), true, outbox.Failed},
			{"listed again", failed(a, 7), false, outbox.Failed},
			{"retried", retry, true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"the failure of before", failed(a, 7), false, outbox.Queued},
			{"failed again", failed(a, 9), true, outbox.Failed},
			{"retried", retry, true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"loaded", loaded(a, 1), true, outbox.Loaded},
			{"the failure of before", failed(a, 9), false, outbox.Loaded},
		},
		"failed, repaired at the service": {
			{"sent", accepted, true, outbox.Queued},
			{"failed", failed(a, 7), true, outbox.Failed},
			{"loaded", loaded(a, 1), true, outbox.Loaded},
		},
		"a failure without a number, or of another content": {
			{"sent", accepted, true, outbox.Queued},
			{"failed", failed(a, 0), false, outbox.Queued},
			{"failed", failed(b, 7), false, outbox.Queued},
		},
		"a failure overrules": {
			{"sent", accepted, true, outbox.Queued},
			{"another program's record is taken for it", loaded(b, 1), true, outbox.Loaded},
			{"failed", failed(a, 7), true, outbox.Failed},
			{"the other record again", loaded(b, 1), false, outbox.Failed},
			{"repaired", loaded(a, 2), true, outbox.Loaded},
		},
		"a failed correction is not cleared by the former content": {
			{"sent", accepted, true, outbox.Queued},
			{"corrected", revise(b), true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"failed", failed(b, 7), true, outbox.Failed},
			{"the former content is listed", loaded(a, 1), false, outbox.Failed},
			{"retried", retry, true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"loaded", loaded(b, 2), true, outbox.Loaded},
		},
		"a pending entry remembers the failure of a send of unknown outcome": {
			{"failed", failed(a, 7), true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"the failure of before", failed(a, 7), false, outbox.Queued},
		},
		"a queued entry that a coarse clock holds back": {
			{"sent", accepted, true, outbox.Queued},
			{"loaded", loaded(a, 1), true, outbox.Loaded},
			{"corrected", revise(b), true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"loaded in the same second", loaded(b, 1), false, outbox.Queued},
			{"retried", retry, true, outbox.Pending},
			{"sent", accepted, true, outbox.Queued},
			{"loaded in the same second", loaded(b, 1), true, outbox.Loaded},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := read(t, a)
			for i, s := range story {
				before := p
				if moved := s.do(&p); moved != s.moved || p.State != s.state {
					t.Fatalf("step %d, %s: %t, %s; want %t, %s", i+1, s.what, moved, p.State, s.moved, s.state)
				}
				if !s.moved {
					if diff := cmp.Diff(before, p); diff != "" {
						t.Fatalf("step %d, %s: changed (-before +after):\n%s", i+1, s.what, diff)
					}
				}
				if hasReason := p.State == outbox.Failed || p.State == outbox.Rejected; (p.Reason != "") != hasReason {
					t.Fatalf("step %d, %s: %s for the reason %q", i+1, s.what, p.State, p.Reason)
				}
			}
		})
	}
}

func TestUnreadableFailedRecord(t *testing.T) {
	p := read(t, job(t, "a", "10"))
	p.Sent(outbox.Delivery{Revision: 1}, siteTime)
	f := failedRecord(job(t, "a", "10"), 7, "unknown user")
	f.Problem = &amieusage.ValidationError{}
	if p.Fail(f) || p.Fail(amieusage.FailedRecord{FailedRecordID: 8}) {
		t.Error("a failed record that cannot be read was taken in")
	}
}

func checkCode(t *testing.T, err error, want amieusage.Code) {
	t.Helper()
	var got amieusage.Code
	if e, ok := errors.AsType[*amieusage.Error](err); ok {
		got = e.Code
	}
	if got != want {
		t.Errorf("error %v of code %q, want code %q", err, got, want)
	}
}
