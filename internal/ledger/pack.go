package ledger

import (
	"encoding/binary"

	"github.com/klauspost/compress/zstd"

	"github.com/amieusage/amieusage"
)

// maxBatchBytes is the most that the records of a batch may take; a request
// has far less.
const maxBatchBytes = 64 << 20

// A Packer puts the records of a batch into one compressed piece: a zstd frame
// of the records, each behind its length. It is safe for concurrent use.
type Packer struct {
	compress   *zstd.Encoder
	decompress *zstd.Decoder
}

// NewPacker returns a packer, which is to be closed.
func NewPacker() (*Packer, error) {
	compress, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	decompress, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxBatchBytes))
	if err != nil {
		return nil, err
	}
	return &Packer{compress, decompress}, nil
}

// Close frees what the packer holds.
func (p *Packer) Close() error {
	p.decompress.Close()
	return p.compress.Close()
}

// Pack packs records. More than fit are amieusage.CodeTooLarge.
func (p *Packer) Pack(records [][]byte) ([]byte, error) {
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
	return p.compress.EncodeAll(plain, nil), nil
}

// errBatchDamaged means that the records of a batch are not what was packed.
var errBatchDamaged = &amieusage.Error{Code: amieusage.CodeInternal, Message: "the records of a batch are damaged",
	Hint: "restore the ledger from a backup"}

// Unpack returns the records, so many. What is not what was packed is
// amieusage.CodeInternal.
func (p *Packer) Unpack(packed []byte, count int64) ([][]byte, error) {
	plain, err := p.decompress.DecodeAll(packed, nil)
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
