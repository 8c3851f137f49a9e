package ledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"iter"
	"maps"
	"slices"
)

// A CopyReport compares a site in two ledgers.
type CopyReport struct {
	Site   string
	Copied int64 // rows that this run has written; the others were there already
	// From are the counters of the ledger that is copied, To what the rows of
	// the other one add up to.
	From, To CopyTotals
	Parts    []CopyPart
}

// Equal reports whether the site is the same in both.
func (r *CopyReport) Equal() bool {
	return r.From == r.To && !slices.ContainsFunc(r.Parts, func(p CopyPart) bool { return p.From != p.To })
}

// A CopyPart compares a table, or a month of usage of the records.
type CopyPart struct {
	Table    string
	Month    string // as in 2026-05; "" but for records
	From, To CopySum
}

// A CopySum is what the rows of a part add up to. Only records have charges,
// in millionths.
type CopySum struct {
	Rows, Deducted, GivenBack int64
	// Digest is the SHA-256 of all columns of the rows in order of the key; zero
	// where there are none.
	Digest [sha256.Size]byte
}

// partKey is a table by its place in [CopyTables], and the first day of a month
// of records, or 0.
type partKey struct {
	table int
	month int64
}

type partSum struct {
	CopySum
	hash hash.Hash
}

// copySums are the sums of a site in one ledger.
type copySums struct {
	parts  map[partKey]*partSum
	totals CopyTotals
}

// rowsFunc is the method Rows of a ledger.
type rowsFunc func(ctx context.Context, site SiteID, t *CopyTable, after []int64) iter.Seq2[[]any, error]

// progressRows is after how many rows a comparison tells its progress.
const progressRows = 10_000

// sumsOf reads all rows of a site, of which the batches up to loadedBatch are
// loaded, but for damaged ones.
func sumsOf(ctx context.Context, rows rowsFunc, site SiteID, loadedBatch int64, progress func(table string, rows int64)) (*copySums, error) {
	s := &copySums{parts: map[partKey]*partSum{}}
	var buffer []byte
	for i, t := range CopyTables {
		n := int64(0)
		for row, err := range rows(ctx, site, t, t.First()) {
			if err == nil {
				err = ctx.Err() // the other ledger has failed: a source may not see that
			}
			if err != nil {
				return nil, err
			}
			part := s.add(i, row, loadedBatch)
			part.Rows++
			buffer = appendRow(buffer[:0], row)
			part.hash.Write(buffer)
			if n++; n%progressRows == 0 {
				progress(t.Name, n)
			}
		}
	}
	for _, part := range s.parts {
		part.hash.Sum(part.Digest[:0])
	}
	s.totals.Loaded = s.totals.Accepted - s.totals.Failed - s.totals.Queued
	return s, nil
}

// Places of columns.
var (
	batchNumber    = copyBatches.place("batch_id")
	batchCount     = copyBatches.place("record_count")
	batchDamaged   = copyBatches.place("damaged")
	recordTime     = copyRecords.place("usage_time")
	recordCharge   = copyRecords.place("charge")
	recordGiveBack = copyRecords.place("gives_back")
)

func (t *CopyTable) place(column string) int {
	return slices.IndexFunc(t.Columns, func(c CopyColumn) bool { return c.Name == column })
}

// add counts what a row says, and returns its part.
func (s *copySums) add(table int, row []any, loadedBatch int64) *partSum {
	key := partKey{table: table}
	switch CopyTables[table] {
	case copyBatches:
		count, _ := row[batchCount].(int64)
		number, _ := row[batchNumber].(int64)
		damaged, _ := row[batchDamaged].(bool)
		s.totals.Batches++
		s.totals.Accepted += count
		if damaged || number > loadedBatch {
			s.totals.Queued += count
		}
	case copyFailed:
		s.totals.Failed++
	case copyRecords:
		usageTime, _ := row[recordTime].(int64)
		charge, _ := row[recordCharge].(int64)
		givesBack, _ := row[recordGiveBack].(bool)
		key.month = FirstOfMonth(usageTime / Day)
		part := s.part(key)
		s.totals.GrossCharge += charge
		if givesBack {
			part.GivenBack += charge
		} else {
			part.Deducted += charge
		}
		return part
	}
	return s.part(key)
}

func (s *copySums) part(key partKey) *partSum {
	part := s.parts[key]
	if part == nil {
		part = &partSum{hash: sha256.New()}
		s.parts[key] = part
	}
	return part
}

// appendRow appends the values of a row, each so that it cannot be taken for
// another one.
func appendRow(b []byte, row []any) []byte {
	for _, value := range row {
		switch v := value.(type) {
		case int64:
			b = binary.BigEndian.AppendUint64(append(b, 1), uint64(v))
		case bool:
			b = append(b, 2)
			if v {
				b = append(b, 1)
			} else {
				b = append(b, 0)
			}
		case string:
			b = append(binary.AppendUvarint(append(b, 3), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(append(b, 4), uint64(len(v))), v...)
		default:
			b = append(b, 0)
		}
	}
	return b
}

// rowBytes is about how many bytes a row takes.
func rowBytes(row []any) (n int) {
	for _, value := range row {
		switch v := value.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		default:
			n += 8
		}
	}
	return n
}

// compareSums puts the parts of two ledgers side by side, in order.
func compareSums(from, to *copySums) (parts []CopyPart) {
	all := map[partKey]bool{}
	for i, t := range CopyTables {
		if t != copyRecords {
			all[partKey{table: i}] = true // also where both are empty
		}
	}
	for key := range from.parts {
		all[key] = true
	}
	for key := range to.parts {
		all[key] = true
	}
	for _, key := range slices.SortedFunc(maps.Keys(all), func(a, b partKey) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.month, b.month))
	}) {
		part := CopyPart{Table: CopyTables[key.table].Name}
		if CopyTables[key.table] == copyRecords {
			part.Month = TimeOf(key.month * Day).Format("2006-01")
		}
		if sum := from.parts[key]; sum != nil {
			part.From = sum.CopySum
		}
		if sum := to.parts[key]; sum != nil {
			part.To = sum.CopySum
		}
		parts = append(parts, part)
	}
	return parts
}
