// Package textfile reads text of any length, compressed or not, line by line.
package textfile

import (
	"bufio"
	"io"
	"strings"
)

const (
	// BufferSize is that of the readers of files.
	BufferSize = 256 << 10
	// MaxLine is how many bytes of a line are kept.
	MaxLine = 1 << 20
)

// Lines cuts text into lines in constant memory.
type Lines struct {
	In     *bufio.Reader
	Number int    // of the line returned last, from 1
	spill  []byte // a line longer than In's buffer
}

// Next returns the next line without its line feed, valid until the next call. ended tells whether the line feed was
// there; long that the line is over MaxLine, of which no more than that is returned. At the end the error is io.EOF.
func (l *Lines) Next() (line []byte, ended, long bool, err error) {
	line, err = l.In.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		l.spill = append(l.spill[:0], line...)
		for err == bufio.ErrBufferFull {
			line, err = l.In.ReadSlice('\n')
			if len(l.spill) <= MaxLine {
				l.spill = append(l.spill, line...)
			}
		}
		line = l.spill
		if err == nil && line[len(line)-1] != '\n' {
			long = true // cut off before its line feed
		}
	}
	if err != nil && (err != io.EOF || len(line) == 0) {
		return nil, false, false, err
	}
	l.Number++
	if err == nil && !long {
		line, ended = line[:len(line)-1], true
	}
	return line, ended, long || len(line) > MaxLine, nil
}

// Clip returns at most n bytes of text for an error to quote, as valid UTF-8.
func Clip(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// Digits reads a whole number of up to 18 digits, and nothing else: two of them can be added.
func Digits(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + int64(c)
	}
	return n, true
}
