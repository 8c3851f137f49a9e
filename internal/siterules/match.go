package siterules

import (
	"fmt"
	"path"
	"unicode/utf8"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// A Match says which jobs a rule is for: those of which each named list holds
// a pattern that fits. An empty list fits every job.
//
// In a pattern * stands for any characters, / among them, ? for one, [a-z] for
// one of those and [^a-z] for one of the others; \ takes the next character as
// it is.
type Match struct {
	Clusters     []string
	Partitions   []string
	QOS          []string
	Accounts     []string
	Users        []string
	Reservations []string
	States       []string
}

// lists returns each list with its key in site.yaml.
func (m *Match) lists() [7]matchList {
	return [7]matchList{
		{"clusters", m.Clusters}, {"partitions", m.Partitions}, {"qos", m.QOS}, {"accounts", m.Accounts}, {"users", m.Users},
		{"reservations", m.Reservations}, {"states", m.States},
	}
}

type matchList struct {
	key      string
	patterns []string
}

// IsEmpty reports whether the match names nothing, and so fits every job.
func (m *Match) IsEmpty() bool {
	for _, list := range m.lists() {
		if len(list.patterns) > 0 {
			return false
		}
	}
	return true
}

func (m *Match) check() error {
	for _, list := range m.lists() {
		if err := checkPatterns(list.patterns); err != nil {
			return fmt.Errorf("%s: %w", list.key, err)
		}
	}
	return nil
}

func (m *Match) fits(job *scheduler.Job) bool {
	return Fits(m.Clusters, job.Cluster) && Fits(m.Partitions, job.Partition) && Fits(m.QOS, job.QOS) && Fits(m.Accounts, job.Account) &&
		Fits(m.Users, job.User) && Fits(m.Reservations, job.Reservation) && Fits(m.States, job.State)
}

// CheckPattern returns what is wrong with a pattern, or nil.
func CheckPattern(p string) error {
	if _, err := path.Match(p, ""); err != nil {
		return fmt.Errorf("%q is not a pattern such as GPU* or p.*", p)
	}
	return nil
}

func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if err := CheckPattern(p); err != nil {
			return err
		}
	}
	return nil
}

// Fits tells whether one of the patterns fits, as those of a Match do; none fit everything.
func Fits(patterns []string, s string) bool {
	for _, p := range patterns {
		if p == "*" || glob(p, s) {
			return true
		}
	}
	return len(patterns) == 0
}

// glob tells whether a pattern that passes CheckPattern fits the whole of s.
func glob(pattern, s string) bool {
	star, from := "", 0 // what follows the last * met, and where it was tried
	starred := false
	rest, at := pattern, 0
	for at < len(s) {
		if rest != "" {
			if rest[0] == '*' {
				rest = rest[1:]
				star, from, starred = rest, at, true
				continue
			}
			if tail, size, ok := globOne(rest, s[at:]); ok {
				rest, at = tail, at+size
				continue
			}
		}
		if !starred {
			return false
		}
		_, size := utf8.DecodeRuneInString(s[from:])
		from += size
		rest, at = star, from
	}
	for rest != "" && rest[0] == '*' {
		rest = rest[1:]
	}
	return rest == ""
}

// globOne fits the first element of the pattern, which is no *, to the first
// character of s. It returns the rest of the pattern and the character's size.
func globOne(pattern, s string) (rest string, size int, ok bool) {
	r, size := utf8.DecodeRuneInString(s)
	switch pattern[0] {
	case '?':
		return pattern[1:], size, true
	case '[':
		end := classEnd(pattern)
		ok, _ := path.Match(pattern[:end], s[:size])
		return pattern[end:], size, ok
	case '\\':
		pattern = pattern[1:]
	}
	p, width := utf8.DecodeRuneInString(pattern)
	return pattern[width:], size, p == r && pattern[:width] == s[:size]
}

// classEnd returns where the class that the pattern begins with ends. A ]
// stands for itself only behind a \.
func classEnd(pattern string) int {
	for i := 1; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			i++
		case ']':
			return i + 1
		}
	}
	return len(pattern)
}
