package sqlite

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A Ledger is a ledger.Store in one SQLite file.
type Ledger struct {
	db         *database
	compress   *zstd.Encoder
	decompress *zstd.Decoder
	// loading is held by the one Load at a time, for which registries holds
	// what records are checked against, by site.
	loading    sync.Mutex
	registries map[ledger.SiteID]*siteRegistry
}

var _ ledger.Store = (*Ledger)(nil)

// OpenLedger opens or creates the ledger in the file. What is no ledger, is
// damaged, or was written by a newer program is refused with a
// *amieusage.Error.
func OpenLedger(ctx context.Context, path string) (*Ledger, error) {
	db, err := open(ctx, path, ledgerFile)
	if err != nil {
		return nil, err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxBatchBytes))
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	return &Ledger{
		db:         db,
		compress:   encoder,
		decompress: decoder,
		registries: map[ledger.SiteID]*siteRegistry{},
	}, nil
}

// Close waits for the transaction under way and closes the file.
func (l *Ledger) Close() error {
	err := l.db.close()
	l.decompress.Close()
	return errors.Join(err, l.compress.Close())
}

// maxBatchBytes is the most that the records of a batch may take; a request
// has far less.
const maxBatchBytes = 64 << 20

// usageTypes are the usage types by the numbers that stand for them in the
// file.
var usageTypes = []amieusage.UsageType{1: amieusage.Compute, 2: amieusage.Storage, 3: amieusage.Adjustment}

func usageTypeNumber(t amieusage.UsageType) int64 {
	for n, name := range usageTypes {
		if name == t {
			return int64(n)
		}
	}
	return 0
}

// latestNanos stands for all times that are later; a day's length fits above
// it.
const latestNanos = math.MaxInt64 - dayNanos

var earliestTime, latestTime = time.Unix(0, 0), time.Unix(0, latestNanos)

// nanos returns the number that stands for a time, cut to what a number can
// hold: 0 for the zero time and all times before 1970.
func nanos(t time.Time) int64 {
	switch {
	case t.Before(earliestTime):
		return 0
	case t.After(latestTime):
		return latestNanos
	}
	return t.UnixNano()
}

// endNanos is nanos for the end of a period; the zero time sets none.
func endNanos(t time.Time) int64 {
	if t.IsZero() {
		return latestNanos
	}
	return nanos(t)
}

// fromNanos returns the time of a number that is 0 where there is none.
func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return timeOf(n)
}

// timeOf returns the time that a number stands for.
func timeOf(n int64) time.Time { return time.Unix(0, n).UTC() }

// pack puts records into one compressed piece, each behind its length.
func (l *Ledger) pack(records [][]byte) ([]byte, error) {
	size := 0
	for _, r := range records {
		size += len(r) + binary.MaxVarintLen32
	}
	if size > maxBatchBytes {
		return nil, &amieusage.Error{Code: amieusage.CodeTooLarge, Message: "the records are too large for one message",
			Hint: "send fewer records at once"}
	}
	plain := make([]byte, 0, size)
	for _, r := range records {
		plain = append(binary.AppendUvarint(plain, uint64(len(r))), r...)
	}
	return l.compress.EncodeAll(plain, nil), nil
}

// errBatchDamaged means that the records of a batch are not what was packed.
var errBatchDamaged = &amieusage.Error{Code: amieusage.CodeInternal, Message: "the records of a batch are damaged",
	Hint: "restore the ledger from a backup"}

// unpack is the reverse of pack; the batch has count records.
func (l *Ledger) unpack(packed []byte, count int64) ([][]byte, error) {
	plain, err := l.decompress.DecodeAll(packed, nil)
	if err != nil {
		return nil, errBatchDamaged
	}
	var records [][]byte
	for len(plain) > 0 {
		n, used := binary.Uvarint(plain)
		if used <= 0 || n > uint64(len(plain)-used) {
			return nil, errBatchDamaged
		}
		end := used + int(n)
		records = append(records, plain[used:end:end])
		plain = plain[end:]
	}
	if int64(len(records)) != count {
		return nil, errBatchDamaged
	}
	return records, nil
}

// Accept stores the batch and returns when it is on stable storage.
func (l *Ledger) Accept(ctx context.Context, b *ledger.Batch, maxQueued int64) error {
	packed, err := l.pack(b.Records)
	if err != nil {
		return err
	}
	return l.db.write(ctx, func(conn *sqlite.Conn) error {
		queued, err := number(conn, `SELECT queued FROM sites WHERE site_id = ?`, int64(b.Site))
		if err != nil {
			return err
		}
		if queued >= maxQueued {
			return &amieusage.Error{
				Code:    amieusage.CodeTooManyRequests,
				Message: "too many records of this site are waiting to be loaded",
				Hint:    "send again later",
			}
		}
		n := int64(len(b.Records))
		err = sqlitex.Execute(conn, `
			INSERT INTO batches (site_id, key_id, usage_type, accepted_at, record_count, records)
			VALUES (?, ?, ?, ?, ?, ?)`,
			&sqlitex.ExecOptions{Args: []any{
				int64(b.Site), b.KeyID, usageTypeNumber(b.UsageType), nanos(b.AcceptedAt), n, packed,
			}})
		if err != nil {
			return err
		}
		b.ID = conn.LastInsertRowID()
		return sqlitex.Execute(conn, `
			UPDATE sites SET accepted = accepted + ?1, queued = queued + ?1 WHERE site_id = ?2`,
			&sqlitex.ExecOptions{Args: []any{n, int64(b.Site)}})
	})
}

// Counts returns where the site's records are.
func (l *Ledger) Counts(ctx context.Context, site ledger.SiteID) (c ledger.Counts, err error) {
	err = l.db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, `SELECT accepted, loaded, failed, queued FROM sites WHERE site_id = ?`,
			&sqlitex.ExecOptions{
				Args: []any{int64(site)},
				ResultFunc: func(stmt *sqlite.Stmt) error {
					c = ledger.Counts{
						Accepted: stmt.ColumnInt64(0),
						Loaded:   stmt.ColumnInt64(1),
						Failed:   stmt.ColumnInt64(2),
						Queued:   stmt.ColumnInt64(3),
					}
					return nil
				},
			})
	})
	return c, err
}
