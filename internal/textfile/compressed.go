package textfile

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow bounds the memory that a file compressed by zstd can ask for.
const maxWindow = 128 << 20

// errCutOff says that a compressed file does not come to its end.
var errCutOff = errors.New("the file is compressed and cut off: copy it again")

// Plain returns a reader of the text of a file that may be compressed by gzip, zstd or xz, which is told by its first bytes, and what closes it.
// A reader of a file that is cut off ends in an error.
func Plain(in *bufio.Reader) (*bufio.Reader, func(), error) {
	head, _ := in.Peek(6)
	last := &lastBytes{in: in}
	text := &decompressed{whole: func() bool { return true }}
	done := func() {}
	var err error
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		text.Reader, err = gzip.NewReader(in)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1)); err == nil {
			text.Reader, done = z, z.Close
		}
	case bytes.Equal(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		// The library takes one that is cut off behind its last block for whole.
		text.whole = func() bool { return last.bytes == [2]byte{'Y', 'Z'} }
		text.Reader, err = xz.NewReader(last)
	default:
		return in, done, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCutOff
	}
	if err != nil {
		return in, done, err
	}
	return bufio.NewReaderSize(text, BufferSize), done, nil
}

// decompressed is the text of a compressed file.
type decompressed struct {
	io.Reader
	whole func() bool
}

// Read reads the text.
func (d *decompressed) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF && !d.whole() {
		err = errCutOff
	}
	return n, err
}

// lastBytes keeps the last two bytes that were read, but for zeros, with which a stream of xz may be padded.
type lastBytes struct {
	in    io.Reader
	bytes [2]byte
}

// Read reads.
func (l *lastBytes) Read(p []byte) (int, error) {
	n, err := l.in.Read(p)
	for _, b := range p[:n] {
		if b != 0 {
			l.bytes = [2]byte{l.bytes[1], b}
		}
	}
	return n, err
}
