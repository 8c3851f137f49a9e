package slurm

import (
	"bufio"
	"io"
)

// lineReader cuts text into lines in constant memory.
type lineReader struct {
	in     *bufio.Reader
	number int    // of the line returned last, from 1
	spill  []byte // a line longer than in's buffer
}

// next returns the next line without its line feed, valid until the next call. ended tells whether the line feed was
// there; long that the line is over maxLine, of which no more than that is returned. At the end the error is io.EOF.
func (l *lineReader) next() (line []byte, ended, long bool, err error) {
	line, err = l.in.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		l.spill = append(l.spill[:0], line...)
		for err == bufio.ErrBufferFull {
			line, err = l.in.ReadSlice('\n')
			if len(l.spill) <= maxLine {
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
	l.number++
	if err == nil && !long {
		line, ended = line[:len(line)-1], true
	}
	return line, ended, long || len(line) > maxLine, nil
}
