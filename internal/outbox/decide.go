package outbox

import (
	"slices"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siterules"
)

// A Reading is a job as the accounting has given it, and what today's rules
// make of it.
type Reading struct {
	Job *scheduler.Job
	// RecordID is the LocalRecordID that the job's record has, or would have.
	RecordID string
	Today    siterules.Assessment
}

// An Effect is what reading a job comes to.
type Effect string

// The effects.
const (
	EffectNone      Effect = ""                     // it is not reported, and never was
	EffectNew       Effect = "new"                  // its record is to be sent
	EffectChanged   Effect = "changed"              // its record is to be sent with another content
	EffectUnchanged Effect = "unchanged"            // it is known as it is
	EffectDecided   Effect = "decided by a person"  // it stays as a person has decided
	EffectCostly    Effect = "would cost otherwise" // by today's rules; it stays as it was charged
	EffectShifted   Effect = "other submit time"    // it is known at another submit time, and not sent
	EffectRenamed   Effect = "other id"             // it is known by another LocalRecordID, and not sent
	EffectCluster   Effect = "other cluster"        // its record is that of a job of another cluster, and it is not sent
)

// A Plan is what reading a job changes.
type Plan struct {
	Effect Effect
	Writes []Write
	// Was and Would are the charges where the job would cost otherwise by
	// today's rules, and Known the entry that it has.
	Was, Would amieusage.Charge
	Known      *Entry
	// Sent is the record that is to be sent; nil where none is.
	Sent amieusage.Record
}

// A Write is one change of an entry, decided from what the entry was.
type Write struct {
	// ID is the entry that changes; 0: a new one.
	ID ID
	// Was is what the decision went by. The entry changes only while it is so.
	Was Version
	// Delete takes the entry away: it never left, and another stands for it.
	Delete bool
	// Content says that the entry's record becomes that of Entry; with Revise it
	// is a new revision, and the former one is kept.
	Content, Revise bool
	// Note is who decided so; nil: nobody, it follows from accounting and rules.
	Note *Note
	// Entry is what the entry becomes: of a new one all of it, and of another
	// Record or Job, Place, State, Reason, Decision, Superseded and WaitsFor.
	Entry Entry
}

// A Version is what a decision about an entry goes by.
type Version struct {
	Revision int64
	State    State
	Left     bool
}

// Version returns what decisions about the entry go by.
func (e *Entry) Version() Version { return Version{e.Revision, e.State, e.Left} }

// MayBeCharged reports whether something of the entry may be at the service: it
// was loaded, or is on its way, or was sent with an outcome that nobody knows.
func (e *Entry) MayBeCharged() bool {
	switch e.State {
	case Loaded, Queued, Accepted:
		return true
	case Failed, Rejected:
		return !e.LoadedAt.IsZero() || e.Revision > 1
	}
	return e.Left || !e.LoadedAt.IsZero() || e.Revision > 1
}

// A Decider decides what reading jobs comes to. It is for one goroutine at a
// time.
type Decider struct {
	// Reprice charges what was charged anew, by today's rules.
	Reprice bool

	rates map[string]*siterules.Rate // by their texts
}

// Decide decides about one job. known are all entries of compute records with
// its LocalRecordID, at any submit time and on any resource, and those of jobs
// that bear its names under another one.
func (d *Decider) Decide(known []Entry, r Reading) Plan {
	plan := d.decide(known, r)
	place := r.Job.Place.String()
	for i := range plan.Writes {
		if plan.Writes[i].Content {
			plan.Writes[i].Entry.Place = place
		}
	}
	return plan
}

func (d *Decider) decide(known []Entry, r Reading) Plan {
	var same []Entry
	var renamed *Entry
	for i, e := range known {
		id := e.Record.Identity()
		at := id.KeyTime.Equal(r.Job.Submit.UTC())
		if at && id.LocalRecordID == r.RecordID {
			same = append(same, e)
		} else if at && e.Job != nil && !e.Superseded && e.Job.Facts.Run == r.Job.Run && isSameUse(&e.Job.Facts, r.Job) {
			renamed = &known[i]
		}
	}
	charged := r.Today.Skip == "" && r.Today.Problem == nil
	if len(same) == 0 {
		switch {
		case !charged:
			return Plan{}
		case renamed != nil:
			return Plan{Effect: EffectRenamed, Known: renamed}
		case slices.ContainsFunc(known, func(e Entry) bool { return e.Job != nil && isShifted(&e.Job.Facts, r.Job) }):
			return Plan{Effect: EffectShifted}
		}
		job := todays(r.Job, &r.Today)
		return Plan{Effect: EffectNew, Writes: []Write{{Content: true, Entry: entryOf(job, Pending)}}, Sent: job.Record()}
	}
	at := slices.IndexFunc(same, func(e Entry) bool { return !e.Superseded })
	if at < 0 {
		at = len(same) - 1
	}
	cur := &same[at]
	switch {
	case cur.Job == nil, cur.Decision.Binds():
		return Plan{Effect: EffectDecided, Known: cur}
	case cur.Job.Facts.Cluster != r.Job.Cluster && cur.Job.Facts.Cluster != "" && !r.Job.Lacks.Has(scheduler.FactCluster):
		return Plan{Effect: EffectCluster, Known: cur}
	}
	facts := Merge(&cur.Job.Facts, r.Job)
	if !cur.MayBeCharged() {
		return d.uncharged(same, cur, facts, r, charged)
	}
	if known := &cur.Job.Facts; known.By != r.Job.By && !d.Reprice {
		// The settings were edited by which the source counts, and they do not reach back.
		facts.TRES, facts.CPUs, facts.Nodes, facts.Project, facts.By = known.TRES, known.CPUs, known.Nodes, known.Project, known.By
	}
	return d.charged(same, cur, facts, r, charged)
}

// todays returns a job as today's rules make it.
func todays(facts *scheduler.Job, today *siterules.Assessment) *Job {
	job := &Job{Facts: *facts, Made: today.Made}
	job.Facts.Place = scheduler.Place{}
	if today.Made.Rate != nil {
		job.Rate = today.Made.Rate.Text()
	}
	job.Made.Rate, job.Made.Rule = nil, nil
	return job
}

func entryOf(job *Job, state State) Entry {
	return Entry{Job: job, Record: job.Record(), Progress: Progress{State: state}}
}

// uncharged decides about a job of which nothing can be at the service: it
// follows today's rules at once.
func (d *Decider) uncharged(same []Entry, cur *Entry, facts *scheduler.Job, r Reading, charged bool) Plan {
	if !charged {
		if r.Today.Problem != nil || cur.State == Dropped {
			return Plan{Effect: EffectUnchanged, Known: cur}
		}
		return Plan{Effect: EffectChanged, Writes: []Write{away(cur, "not reported any more: "+string(r.Today.Skip))}}
	}
	job := todays(facts, &r.Today)
	if job.Made.Resource == cur.Job.Made.Resource {
		entry := entryOf(job, Pending)
		entry.Decision = cur.Decision
		found := cur.Decision == AtService
		if found {
			entry.State, entry.Reason = Held, cur.Reason
		}
		if amieusage.ContentDigest(entry.Record) == cur.Digest && (found || cur.State != Held && cur.State != Dropped) {
			return Plan{Effect: EffectUnchanged, Known: cur, Writes: refresh(cur, job)}
		}
		if cur.WaitsFor != 0 {
			entry.State, entry.WaitsFor = Waiting, cur.WaitsFor
		}
		return Plan{Effect: EffectChanged, Writes: []Write{{ID: cur.ID, Was: cur.Version(), Content: true, Revise: true, Entry: entry}}, Sent: entry.Record}
	}
	return move(same, cur, job)
}

// refresh keeps facts that were learnt and change nothing of the record.
func refresh(cur *Entry, job *Job) []Write {
	if SameFacts(&cur.Job.Facts, &job.Facts) && cur.Job.Rate == job.Rate {
		return nil
	}
	entry := *cur
	entry.Job = job
	return []Write{{ID: cur.ID, Was: cur.Version(), Content: true, Entry: entry}}
}

// away takes an entry that nothing can be charged for off the way to the
// service.
func away(cur *Entry, reason string) Write {
	w := Write{ID: cur.ID, Was: cur.Version()}
	if cur.State == Pending || cur.State == Held || cur.State == Waiting {
		w.Delete = true
		return w
	}
	w.Entry = *cur
	w.Entry.State, w.Entry.Reason, w.Entry.Superseded = Dropped, reason, true
	return w
}

// charged decides about a job of which something may be at the service: its rate
// stays, and only facts that changed make a correction.
func (d *Decider) charged(same []Entry, cur *Entry, facts *scheduler.Job, r Reading, charged bool) Plan {
	kept := &Job{Facts: *facts, Made: cur.Job.Made, Rate: cur.Job.Rate}
	if !SameFacts(&cur.Job.Facts, facts) {
		if known := &cur.Job.Facts; charged && (facts.Account != known.Account || facts.User != known.User || facts.Group != known.Group || facts.Project != known.Project) {
			kept.Made.Project, kept.Made.User = r.Today.Made.Project, r.Today.Made.User
		}
		if rate := d.rate(cur.Job.Rate); rate != nil {
			kept.Made.Charge = rate.Charge(facts)
			_, kept.Made.Untracked = rate.Untracked(facts)
		}
	}
	want, plan := kept, Plan{Known: cur}
	today := kept.Made
	today.Charge = amieusage.ChargeOfMillionths(0)
	if charged {
		today = r.Today.Made
	}
	if r.Today.Problem == nil {
		if !sameMade(&kept.Made, &today) {
			plan.Effect, plan.Was, plan.Would = EffectCostly, kept.Made.Charge, today.Charge
		}
		// A charge that was given by hand, and is not any more, is that of the rules.
		// A rate that comes to the same charge is kept too, for facts that change later.
		if d.Reprice || cur.Job.Rate == "" && cur.Decision == DecidedRelease {
			want = &Job{Facts: *facts, Made: today}
			if charged {
				want = todays(facts, &r.Today)
			}
		}
	}
	if want.Made.Resource != cur.Job.Made.Resource {
		moved := move(same, cur, want)
		moved.Was, moved.Would, moved.Known = plan.Was, plan.Would, cur
		return moved
	}
	entry := entryOf(want, Pending)
	entry.Decision = cur.Decision
	if amieusage.ContentDigest(entry.Record) == cur.Digest {
		plan.Writes = refresh(cur, want)
		if plan.Effect == "" {
			plan.Effect = EffectUnchanged
		}
		return plan
	}
	if entry.Record.Validate() != nil { // the rates of then cannot charge what is said now
		return Plan{Effect: EffectUnchanged, Known: cur}
	}
	plan.Writes = []Write{{ID: cur.ID, Was: cur.Version(), Content: true, Revise: true, Entry: entry}}
	plan.Sent = entry.Record
	if plan.Effect == "" || want != kept {
		plan.Effect = EffectChanged
	}
	return plan
}

func sameMade(a, b *siterules.Made) bool {
	return a.Resource == b.Resource && a.Project == b.Project && a.User == b.User && a.Charge.Cmp(b.Charge) == 0
}

// rate returns the rate of a text; nil: there is none.
func (d *Decider) rate(text string) *siterules.Rate {
	if text == "" {
		return nil
	}
	rate, ok := d.rates[text]
	if !ok {
		rate, _ = siterules.ParseRate(text) // nil where it cannot be read: the charge stays
		if d.rates == nil {
			d.rates = map[string]*siterules.Rate{}
		}
		d.rates[text] = rate
	}
	return rate
}

// move charges a job on another resource. The service judges each record on its
// own, and so the order matters: what never left is replaced; what was refused,
// with nothing of it loaded, is dropped; otherwise the old record goes to charge
// 0, and the new one waits until that is confirmed.
func move(same []Entry, cur *Entry, job *Job) Plan {
	plan := Plan{Effect: EffectChanged}
	waitsFor := cur.WaitsFor // what the current one waits for, the next one does
	if cur.MayBeCharged() {
		zero := *cur.Job
		zero.Made.Charge, zero.Rate = amieusage.ChargeOfMillionths(0), ""
		entry := entryOf(&zero, Pending)
		entry.Superseded = true
		plan.Writes = append(plan.Writes, Write{ID: cur.ID, Was: cur.Version(), Content: true, Revise: true, Entry: entry})
		waitsFor = cur.ID
	} else {
		plan.Writes = append(plan.Writes, away(cur, "charged on "+job.Made.Resource+" instead"))
	}
	entry := entryOf(job, Pending)
	entry.Decision = cur.Decision
	if waitsFor != 0 {
		entry.State, entry.WaitsFor = Waiting, waitsFor
	}
	plan.Sent = entry.Record
	for i := range same {
		if old := &same[i]; old.ID != cur.ID && old.Job != nil && old.Job.Made.Resource == job.Made.Resource {
			// It was charged there before, and what it waits for may be itself.
			if entry.WaitsFor == old.ID {
				entry.State, entry.WaitsFor = Pending, 0
			}
			plan.Writes = append(plan.Writes, Write{ID: old.ID, Was: old.Version(), Content: true, Revise: true, Entry: entry})
			return plan
		}
	}
	plan.Writes = append(plan.Writes, Write{Content: true, Entry: entry})
	return plan
}

// FormerOf returns the entry of which a record is a former content, and whose job is charged by another record meanwhile: to
// send it would charge the job twice. nil: there is none.
func FormerOf(known []Entry, record amieusage.Record) *Entry {
	for i := range known {
		if e := &known[i]; e.Superseded && e.Record.Identity() == record.Identity() && e.Digest != amieusage.ContentDigest(record) {
			return e
		}
	}
	return nil
}

// Merge returns the facts of a job that was known and is read again: what the
// source cannot give, and a TRES that is not given any more, stay as they were
// known. Absent is not changed.
func Merge(known, read *scheduler.Job) *scheduler.Job {
	m := *read
	m.Place = scheduler.Place{}
	for _, f := range [...]struct {
		fact      scheduler.Facts
		to, known *string
	}{
		{scheduler.FactCluster, &m.Cluster, &known.Cluster}, {scheduler.FactUID, &m.UID, &known.UID}, {scheduler.FactQOS, &m.QOS, &known.QOS},
		{scheduler.FactName, &m.Name, &known.Name}, {scheduler.FactReqMem, &m.ReqMem, &known.ReqMem},
		{scheduler.FactReservation, &m.Reservation, &known.Reservation}, {scheduler.FactNodeList, &m.NodeList, &known.NodeList},
		{scheduler.FactDBIndex, &m.DBIndex, &known.DBIndex}, {scheduler.FactGroup, &m.Group, &known.Group}, {scheduler.FactProject, &m.Project, &known.Project},
	} {
		if *f.to == "" || read.Lacks.Has(f.fact) {
			*f.to = *f.known
		}
	}
	if m.User == "" {
		m.User = known.User
	}
	if m.Source == "" {
		m.Source = known.Source
	}
	m.Lacks = read.Lacks & known.Lacks
	m.TRES = slices.Clone(read.TRES)
	if read.Lacks.Has(scheduler.FactTRES) && !known.Lacks.Has(scheduler.FactTRES) {
		m.TRES, m.CPUs, m.Nodes = known.TRES, known.CPUs, known.Nodes
		return &m
	}
	for _, t := range known.TRES {
		if !slices.ContainsFunc(m.TRES, func(o scheduler.TRES) bool { return strings.EqualFold(o.Name, t.Name) }) {
			m.TRES = append(m.TRES, t)
		}
	}
	return &m
}

// SameFacts reports whether two readings of a job say the same of what it used
// and whose it is.
func SameFacts(a, b *scheduler.Job) bool {
	x, y := *a, *b
	for _, j := range [...]*scheduler.Job{&x, &y} {
		j.Place, j.Source, j.TRES, j.Lacks, j.Warning, j.Unknown = scheduler.Place{}, "", nil, 0, "", nil
	}
	if x.Submit.Equal(y.Submit) && x.Start.Equal(y.Start) && x.End.Equal(y.End) {
		y.Submit, y.Start, y.End = x.Submit, x.Start, x.End
	} else {
		return false
	}
	if !sameScalars(&x, &y) || len(a.TRES) != len(b.TRES) {
		return false
	}
	for _, t := range a.TRES {
		if !slices.Contains(b.TRES, t) {
			return false
		}
	}
	return true
}

func sameScalars(a, b *scheduler.Job) bool {
	return a.Cluster == b.Cluster && a.ID == b.ID && a.DisplayID == b.DisplayID && a.ParentID == b.ParentID && a.User == b.User && a.UID == b.UID &&
		a.Account == b.Account && a.Group == b.Group && a.Project == b.Project && a.Partition == b.Partition && a.QOS == b.QOS && a.Name == b.Name &&
		a.ReqMem == b.ReqMem && a.State == b.State && a.Reservation == b.Reservation && a.NodeList == b.NodeList && a.DBIndex == b.DBIndex &&
		a.Run == b.Run && a.By == b.By && a.ElapsedSeconds == b.ElapsedSeconds && a.Nodes == b.Nodes && a.CPUs == b.CPUs
}

// isShifted tells a job that is read with all its times moved by the same
// difference, such as that of two time zones. A job that was requeued, or whose
// id comes round again, has other differences.
func isShifted(known, read *scheduler.Job) bool {
	const quarter, most = 15 * time.Minute, 26 * time.Hour
	by := read.Submit.Sub(known.Submit)
	return by != 0 && by%quarter == 0 && by.Abs() <= most && read.Start.Sub(known.Start) == by && read.End.Sub(known.End) == by &&
		isSameUse(known, read)
}

// isSameUse tells that two jobs are of the same user, and used the same for the
// same time.
func isSameUse(known, read *scheduler.Job) bool {
	return read.User == known.User && read.ElapsedSeconds == known.ElapsedSeconds && sameTRES(known.TRES, read.TRES)
}

func sameTRES(a, b []scheduler.TRES) bool {
	for _, t := range b {
		if !slices.Contains(a, t) {
			return false
		}
	}
	return len(a) == len(b)
}
