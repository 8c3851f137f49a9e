package ledger

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/amieusage/amieusage"
)

// DigestBytes is how much of a content's digest a store keeps.
const DigestBytes = 16

// MaxLoadBytes is about how much the records take that one transaction loads,
// however few they are.
const MaxLoadBytes = 16 << 20

// Bytes returns how much the records of the batch take.
func (b *Batch) Bytes() (n int) {
	for _, r := range b.Records {
		n += len(r)
	}
	return n
}

// An Entry is one revision of a record in the ledger. Resource, project and
// user are the registry's numbers, times [Nanos], the charge millionths.
type Entry struct {
	EntryKey
	Record, Revision            int64 // 0 until a store has numbered it; from 1
	Batch, Ordinal              int64 // the batch that brought this content first, and its place there
	Digest                      [DigestBytes]byte
	Project, User               int64
	UsageTime, Charge, LoadedAt int64
	GivesBack                   bool
}

// An EntryKey is the identity of a record within its site. KeyTime is 0 for an
// adjustment, whose identity has none.
type EntryKey struct {
	Resource, UsageType int64
	LocalRecordID       string
	KeyTime             int64
}

// A NameTx registers the names of a site inside one transaction of a store,
// and returns their numbers.
type NameTx interface {
	AddResource(name string) (int64, error)
	AddProject(localProjectID string) (int64, error)
	AddUser(username string) (int64, error)
}

// A LoadTx is what a store does for a [Loading] inside one transaction. What
// it is told takes effect for what it is asked later, and is written when the
// transaction commits.
type LoadTx interface {
	NameTx
	// Insert stores an entry and reports true, or false where its identity is
	// there already.
	Insert(e *Entry) (bool, error)
	// Find returns the entry of an identity, or nil.
	Find(k *EntryKey) (*Entry, error)
	// Revise puts e in the place of old, which is kept among the revisions.
	Revise(old, e *Entry) error
	// Fail keeps a record, raw as it was sent, among the failed ones.
	Fail(e *Entry, failure Failure, raw []byte) error
	// Balance returns what was loaded of a project on a resource, before this
	// transaction.
	Balance(k BalanceKey) (Usage, error)
	// Supersede closes the open failed record of an identity, if there is one.
	Supersede(k *EntryKey) error
}

// A Loading is one transaction that loads batches of one site: it decides what
// becomes of each record, and sums up what changes in the roll-ups.
type Loading struct {
	Report LoadReport
	// GrossCharge is the sum of all charges of the site, given back or not: no
	// sum over its records can overflow while this one does not.
	GrossCharge int64
	Totals      map[TotalKey]*Usage
	Balances    map[BalanceKey]*Usage
	Loads       map[LoadKey]*Usage

	before   map[BalanceKey]Usage // of Balances, as far as it was asked for
	tx       LoadTx
	judge    Judge
	registry *Registry
	loadedAt int64
}

// The keys of the roll-ups: usage by day or month, a project's balance on a
// resource, and what was loaded at a time.
type (
	TotalKey   struct{ Span, Day, Resource, Project, User, UsageType int64 }
	BalanceKey struct{ Project, Resource int64 }
	LoadKey    struct{ Span, Resource, LoadedAt int64 }
)

// Usage is a number of records and the sums of their charges, in millionths.
type Usage struct{ Records, Deducted, GivenBack int64 }

// Nets returns what moves a sum of charges less what is given back: one move,
// or two, to be made in turn, where one would be beyond an int64, as it is
// where a large charge becomes a large refund. After each the sum is within the
// site's total of all charges.
func (u Usage) Nets() []int64 {
	net := u.Deducted - u.GivenBack
	if u.GivenBack < 0 && net < u.Deducted || u.GivenBack > 0 && net > u.Deducted {
		return []int64{u.Deducted, -u.GivenBack}
	}
	return []int64{net}
}

// NewLoading begins a transaction of loading. The times of loading of a site
// never go back, even where the clock does, so that paging by them misses
// nothing: loadedAt is past the site's last one.
func NewLoading(tx LoadTx, judge Judge, registry *Registry, loadedAt, grossCharge int64) *Loading {
	return &Loading{
		GrossCharge: grossCharge,
		Totals:      map[TotalKey]*Usage{},
		Balances:    map[BalanceKey]*Usage{},
		Loads:       map[LoadKey]*Usage{},
		before:      map[BalanceKey]Usage{},
		tx:          tx,
		judge:       judge,
		registry:    registry,
		loadedAt:    loadedAt,
	}
}

// LoadingTime returns the time of a loading that begins now, for a site whose
// last one had the time last.
func LoadingTime(now time.Time, last int64) int64 { return max(Nanos(now), last+1) }

// Damaged sets a batch aside whose records cannot be read back.
func (l *Loading) Damaged(b *Batch) {
	l.Report.Batches++
	l.Report.Damaged = append(l.Report.Damaged, b.ID)
}

// Load brings the records of a batch, of which verdicts were read, into the
// ledger or among the failed ones, in order.
func (l *Loading) Load(b *Batch, verdicts []Verdict) error {
	l.Report.Batches++
	for i := range verdicts {
		if err := l.load(b, i, &verdicts[i]); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loading) load(b *Batch, ordinal int, v *Verdict) (err error) {
	key, known := KeyOf(l.registry, v.Record)
	if !known {
		if key.Resource, err = l.registry.Resource(l.tx, storable(v.Record.Identity().Resource)); err != nil {
			return err
		}
	}
	e := &Entry{
		EntryKey:  key,
		Revision:  1,
		Batch:     b.ID,
		Ordinal:   int64(ordinal),
		Digest:    [DigestBytes]byte(v.Digest[:DigestBytes]),
		UsageTime: Nanos(v.Record.UsageTime()),
		Charge:    v.Charge,
		GivesBack: v.GivesBack,
		LoadedAt:  l.loadedAt,
	}
	failure := v.Failure
	if failure == "" {
		failure = l.judge.Check(l.registry, v.Record)
		if failure != "" && known {
			lessens, err := l.lessens(e, v.Record)
			if err != nil {
				return err
			}
			if lessens {
				failure = ""
			}
		}
	}
	if failure != "" {
		return l.fail(e, failure, b.Records[ordinal])
	}
	common := v.Record.Common()
	if e.Project, err = l.registry.Project(l.tx, common.LocalProjectID); err != nil {
		return err
	}
	if e.User, err = l.registry.User(l.tx, common.Username); err != nil {
		return err
	}
	stored := false
	if e.Charge <= math.MaxInt64-l.GrossCharge {
		if stored, err = l.tx.Insert(e); err != nil {
			return err
		}
	}
	if !stored {
		old, err := l.tx.Find(&e.EntryKey)
		switch {
		case err != nil:
			return err
		case old == nil || e.Charge > math.MaxInt64-(l.GrossCharge-old.Charge):
			return l.fail(e, TotalTooLarge, b.Records[ordinal])
		case old.Digest == e.Digest:
			l.Report.Unchanged++
		default:
			l.Report.Corrected++
			e.Record, e.Revision = old.Record, old.Revision+1
			if err := l.tx.Revise(old, e); err != nil {
				return err
			}
			l.count(old, -1)
			stored = true
		}
	}
	if stored {
		l.count(e, +1)
	}
	l.Report.Loaded++
	return l.tx.Supersede(&e.EntryKey)
}

// lessens reports whether a record takes back some of what is loaded already: a
// correction that charges no more, to the same project and user, or a refund that the project's charges on the resource cover. It is taken
// whatever the registry says by now: a user or an allocation that is gone must
// not keep a wrong charge alive.
func (l *Loading) lessens(e *Entry, record amieusage.Record) (bool, error) {
	c := record.Common()
	project, user := l.registry.Projects[c.LocalProjectID], l.registry.Users[c.Username]
	if project == nil || user == 0 {
		return false, nil
	}
	old, err := l.tx.Find(&e.EntryKey)
	if err != nil {
		return false, err
	}
	same := old != nil && old.Project == project.ID && old.GivesBack == e.GivesBack
	if same && old.User == user && e.Charge <= old.Charge && e.Digest != old.Digest {
		return true, nil
	}
	if a, ok := record.(*amieusage.AdjustmentRecord); same && e.Digest == old.Digest || !ok || a.AdjustmentType != amieusage.Refund {
		return false, nil
	}
	key := BalanceKey{project.ID, e.Resource}
	balance, read := l.before[key]
	if !read {
		if balance, err = l.tx.Balance(key); err != nil {
			return false, err
		}
		l.before[key] = balance
	}
	charged := balance.Deducted - balance.GivenBack
	if moved := l.Balances[key]; moved != nil {
		charged += moved.Deducted - moved.GivenBack
	}
	if same {
		charged += old.Charge // which is given back already, by this refund
	}
	return charged > 0 && e.Charge <= charged, nil
}

// fail keeps the record among the failed ones, in the place of an earlier
// failure of the same identity.
func (l *Loading) fail(e *Entry, failure Failure, raw []byte) error {
	l.Report.Failed++
	if err := l.tx.Supersede(&e.EntryKey); err != nil {
		return err
	}
	return l.tx.Fail(e, failure, raw)
}

// storable returns a text as every engine can keep and index it. It changes
// only what is not valid any more, and fails.
func storable(s string) string {
	if len(s) <= maxNameBytes && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	if len(s) > maxNameBytes {
		s = s[:maxNameBytes]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
}

// maxNameBytes is the length of the longest name that a valid record has.
const maxNameBytes = 1024

// count moves the roll-ups by an entry, up (+1) or down (−1).
func (l *Loading) count(e *Entry, sign int64) {
	l.GrossCharge += sign * e.Charge
	delta := Usage{Records: sign}
	if e.GivesBack {
		delta.GivenBack = sign * e.Charge
	} else {
		delta.Deducted = sign * e.Charge
	}
	day := e.UsageTime / Day
	total := TotalKey{SpanDay, day, e.Resource, e.Project, e.User, e.UsageType}
	addUsage(l.Totals, total, delta)
	total.Span, total.Day = SpanMonth, FirstOfMonth(day)
	addUsage(l.Totals, total, delta)
	addUsage(l.Balances, BalanceKey{e.Project, e.Resource}, delta)
	addUsage(l.Loads, LoadKey{SpanTransaction, e.Resource, e.LoadedAt}, delta)
	addUsage(l.Loads, LoadKey{SpanHour, e.Resource, e.LoadedAt - e.LoadedAt%Hour}, delta)
}

func addUsage[K comparable](totals map[K]*Usage, key K, delta Usage) {
	u := totals[key]
	if u == nil {
		u = new(Usage)
		totals[key] = u
	}
	u.Records += delta.Records
	u.Deducted += delta.Deducted
	u.GivenBack += delta.GivenBack
	if *u == (Usage{}) {
		delete(totals, key) // as where a correction changes neither charge nor place
	}
}

// KeyOf returns the identity of a record, and whether its resource is
// registered; where it is not, nothing in the ledger has this identity.
func KeyOf(registry *Registry, record amieusage.Record) (EntryKey, bool) {
	id := record.Identity()
	resource, known := registry.Resources[storable(id.Resource)]
	return EntryKey{
		Resource:      resource,
		UsageType:     UsageTypeNumber(id.UsageType),
		LocalRecordID: storable(id.LocalRecordID),
		KeyTime:       Nanos(id.KeyTime),
	}, known
}
