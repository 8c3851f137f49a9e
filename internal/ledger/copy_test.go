package ledger

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// copyMemory is a site in memory, as the source and as the target of a copy.
type copyMemory struct {
	CopyTarget // what is not used here
	tables     map[string][][]any
	served     bool
	uncounted  int64 // records that the counters have not
	appends    int
	failAt     int // the transaction that fails; 0: none
}

var errCut = errors.New("cut off")

func (m *copyMemory) Sites(context.Context) ([]string, error) { return []string{"PSC"}, nil }

func (m *copyMemory) Site(context.Context, string) (*CopySite, error) {
	site := &CopySite{ID: 1, Name: "PSC", Served: m.served}
	for _, row := range m.tables["batches"] {
		site.Batches++
		site.Accepted += row[batchCount].(int64)
	}
	site.Accepted -= m.uncounted
	site.Queued = site.Accepted
	for _, row := range m.tables["records"] {
		site.GrossCharge += row[recordCharge].(int64)
	}
	return site, nil
}

func (m *copyMemory) Rows(_ context.Context, _ SiteID, t *CopyTable, after []int64) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		valid := make([]any, len(t.Columns))
		for _, row := range m.tables[t.Name] {
			if slices.Compare(t.key(row), after) <= 0 {
				continue
			}
			copy(valid, row)
			if !yield(valid, nil) {
				return
			}
		}
	}
}

func (m *copyMemory) LastKey(_ context.Context, _ SiteID, t *CopyTable) ([]int64, error) {
	if rows := m.tables[t.Name]; len(rows) > 0 {
		return t.key(rows[len(rows)-1]), nil
	}
	return t.First(), nil
}

func (m *copyMemory) Append(_ context.Context, _ SiteID, t *CopyTable, after []int64, rows [][]any) error {
	m.appends++
	last, err := m.LastKey(context.Background(), 1, t)
	if m.appends == m.failAt || err != nil || !slices.Equal(last, after) {
		return errCut
	}
	m.tables[t.Name] = append(m.tables[t.Name], rows...)
	return nil
}

// SetMoved is as the source.
func (m *copyMemory) SetMoved(context.Context, []string) error { return nil }

func (m *copyMemory) Serve(context.Context, []*CopySite) error {
	m.served = true
	return nil
}

func recordRow(n, usageTime, charge int64, givesBack bool) []any {
	return []any{n, n, int64(1), int64(1), strconv.FormatInt(n, 10), int64(0), int64(1), int64(1), int64(0), []byte{1}, int64(1), int64(1), usageTime, charge, givesBack}
}

// TestCopyCutOff cuts a copy off in each of its transactions.
func TestCopyCutOff(t *testing.T) {
	from := &copyMemory{tables: map[string][][]any{}}
	for n := range int64(2*copyChunkRows + 1) {
		from.tables["users"] = append(from.tables["users"], []any{n, "user" + strconv.FormatInt(n, 10)})
	}
	for n := range int64(10) {
		from.tables["records"] = append(from.tables["records"], recordRow(n, 40*Day*(n%5), n%7*1_000_000, n%3 == 0))
	}
	for n := range int64(9) {
		from.tables["batches"] = append(from.tables["batches"],
			[]any{n + 1, int64(1), int64(1), int64(5), n, false, make([]byte, copyChunkBytes/3), nil})
	}
	const transactions = 3 + 1 + 3 // of users, of records, and of batches by their size
	for failAt := range transactions + 1 {
		to := &copyMemory{tables: map[string][][]any{}, failAt: failAt}
		c := &Copy{From: from, To: to}
		if failAt > 0 {
			if _, err := c.Run(t.Context(), []string{"PSC"}); !errors.Is(err, errCut) || to.served {
				t.Errorf("cut off in transaction %d: %v, served %v", failAt, err, to.served)
			}
		}
		reports, err := c.Run(t.Context(), []string{"PSC"})
		if err != nil || !to.served || !reports[0].Equal() {
			t.Errorf("after transaction %d: %v, served %v", failAt, err, to.served)
		}
		if want := transactions + min(failAt, 1); to.appends != want {
			t.Errorf("%d transactions, want %d", to.appends, want)
		}
		if !reflect.DeepEqual(from.tables, to.tables) {
			t.Errorf("after transaction %d the tables differ", failAt)
		}
		months := 0
		for _, p := range reports[0].Parts {
			if p.Month != "" {
				months++
			}
		}
		if months != 5 {
			t.Errorf("%d months were compared", months)
		}
	}
}

// TestCopyCompares changes one value of one row.
func TestCopyCompares(t *testing.T) {
	tables := func() map[string][][]any {
		return map[string][][]any{
			"records": {recordRow(1, 0, 5, false), recordRow(2, 0, 6, true), recordRow(3, 90*Day, 7, false)},
			"batches": {{int64(1), int64(1), int64(1), int64(5), int64(3), false, []byte("abc"), nil}},
		}
	}
	for name, change := range map[string]func(m map[string][][]any){
		"a charge": func(m map[string][][]any) { m["records"][0][recordCharge] = int64(4) },
		"charges moved": func(m map[string][][]any) {
			m["records"][0][recordCharge], m["records"][2][recordCharge] = int64(7), int64(5)
		},
		"given back":       func(m map[string][][]any) { m["records"][0][recordGiveBack] = true },
		"another month":    func(m map[string][][]any) { m["records"][2][recordTime] = 40 * Day },
		"a time":           func(m map[string][][]any) { m["records"][2][recordTime] = 90*Day + 1 },
		"a missing record": func(m map[string][][]any) { m["records"] = m["records"][:2] },
		"one too many":     func(m map[string][][]any) { m["records"] = append(m["records"], recordRow(4, 0, 0, false)) },
		"a damaged batch":  func(m map[string][][]any) { m["batches"][0][batchDamaged] = true },
		"an archive":       func(m map[string][][]any) { m["batches"][0][7] = "" },
		"a byte":           func(m map[string][][]any) { m["batches"][0][6] = []byte("abd") },
		"a user":           func(m map[string][][]any) { m["users"] = [][]any{{int64(1), "alice"}} },
	} {
		from, to := &copyMemory{tables: tables()}, &copyMemory{tables: tables()}
		change(to.tables)
		c := &Copy{From: from, To: to}
		pair := copyPair{}
		pair.from, _ = from.Site(t.Context(), "PSC")
		pair.to, _ = to.Site(t.Context(), "PSC")
		report, err := c.verifyQuietly(t.Context(), &pair)
		if err != nil || report.Equal() {
			t.Errorf("%s was not seen: %v", name, err)
		}
	}
}

// TestCopySourceCounters has a source whose counters are not what its rows say:
// to copy it again would not help.
func TestCopySourceCounters(t *testing.T) {
	from := &copyMemory{uncounted: 1, tables: map[string][][]any{
		"batches": {{int64(1), int64(1), int64(1), int64(5), int64(3), false, []byte("abc"), nil}},
	}}
	to := &copyMemory{tables: map[string][][]any{}}
	_, err := (&Copy{From: from, To: to}).Run(t.Context(), []string{"PSC"})
	if err == nil || !strings.Contains(err.Error(), "admin verify") || to.served {
		t.Errorf("error %v, served %v", err, to.served)
	}
}

// A longCopy takes very long to read; a lostCopy cannot be read.
type (
	longCopy struct {
		*copyMemory
		until time.Time
	}
	lostCopy struct{ *copyMemory }
)

func (c longCopy) Rows(_ context.Context, _ SiteID, t *CopyTable, _ []int64) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		for time.Now().Before(c.until) && yield(make([]any, len(t.Columns)), nil) {
		}
	}
}

func (lostCopy) Rows(context.Context, SiteID, *CopyTable, []int64) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) { yield(nil, errCut) }
}

// TestCopyLost loses the target while both are compared: the rest of the source
// is not read.
func TestCopyLost(t *testing.T) {
	long := longCopy{&copyMemory{}, time.Now().Add(20 * time.Second)}
	c := &Copy{From: long, To: lostCopy{&copyMemory{}}}
	site := &CopySite{ID: 1, Name: "PSC"}
	if _, err := c.verifyQuietly(t.Context(), &copyPair{site, site}); !errors.Is(err, errCut) || !time.Now().Before(long.until) {
		t.Errorf("error %v, after all was read: %v", err, !time.Now().Before(long.until))
	}
}

func (c *Copy) verifyQuietly(ctx context.Context, p *copyPair) (*CopyReport, error) {
	c.Progress = func(CopyProgress) {}
	return c.verify(ctx, p)
}

// TestCopyRowBytes: rows that differ have different bytes, also one after the
// other.
func TestCopyRowBytes(t *testing.T) {
	value := rapid.OneOf(
		rapid.Map(rapid.Int64Range(0, 3), func(n int64) any { return n }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.StringOfN(rapid.RuneFrom([]rune("\x00\x01\x03a")), 0, 3, -1), func(s string) any { return s }),
		rapid.Map(rapid.SliceOfN(rapid.ByteRange(0, 4), 0, 3), func(b []byte) any { return b }),
		rapid.Just[any](nil),
	)
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(value, 0, 4).Draw(t, "a")
		b := rapid.SliceOfN(value, 0, 4).Draw(t, "b")
		if same := cmp.Equal(a, b); same != bytes.Equal(appendRow(nil, a), appendRow(nil, b)) {
			t.Errorf("%#v and %#v: equal %v", a, b, same)
		}
	})
}
