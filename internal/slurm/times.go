package slurm

import (
	"fmt"
	"strconv"
	"time"
)

// maxEpoch is the last second of the year 9999.
const maxEpoch = 253402300799

// timeParser reads the times that sacct prints: seconds since the epoch, and ISO 8601 with an offset or in a zone.
type timeParser struct {
	zone *time.Location

	// Wall-clock seconds in [lo, hi) happen once in zone, offset seconds ahead of UTC. Jobs come roughly in order of time,
	// so that most are answered by the stretch found last.
	lo, hi, offset int64
}

// parse returns the instant in UTC; zero for a time that sacct says is unknown.
func (p *timeParser) parse(s string) (time.Time, *fieldError) {
	switch s {
	case "", "0", "Unknown", "None", "N/A":
		return time.Time{}, nil
	}
	if s[0] >= '0' && s[0] <= '9' && len(s) <= 12 {
		if sec, ok := digits(s); ok && sec <= maxEpoch {
			return time.Unix(sec, 0).UTC(), nil
		}
	}
	wall, rest, ok := wallClock(s)
	if !ok {
		return time.Time{}, &fieldError{problem: strconv.Quote(s) + " is no time", remedy: epochRemedy}
	}
	if rest != "" {
		offset, ok := parseOffset(rest)
		if !ok {
			return time.Time{}, &fieldError{problem: strconv.Quote(s) + " is no time", remedy: epochRemedy}
		}
		return time.Unix(wall-offset, 0).UTC(), nil
	}
	if p.zone == nil {
		return time.Time{}, &fieldError{
			problem: "the time " + s + " bears no offset",
			remedy:  "state the zone of the dump's times (slurm.time_zone), or " + epochRemedy,
			final:   true,
		}
	}
	if wall < p.lo || wall >= p.hi {
		if err := p.settle(s, wall); err != nil {
			return time.Time{}, err
		}
	}
	return time.Unix(wall-p.offset, 0).UTC(), nil
}

// settle finds the offset of wall, and a stretch around it that has the same, or says why there is none. No offset is as
// large as a day, and a zone changes its clocks at most once in four days; time.ZoneBounds, which would say when, does not
// do so reliably after 2037.
func (p *timeParser) settle(s string, wall int64) *fieldError {
	const day = 24 * 60 * 60
	offsetAt := func(sec int64) int64 {
		_, offset := time.Unix(sec, 0).In(p.zone).Zone()
		return int64(offset)
	}
	before, after := offsetAt(wall-2*day), offsetAt(wall+2*day)
	if before == after {
		p.offset, p.lo, p.hi = before, wall-day, wall+day
		return nil
	}
	first, second := wall-before, wall-after
	isFirst, isSecond := offsetAt(first) == before, offsetAt(second) == after
	switch {
	case isFirst && isSecond:
		return &fieldError{
			problem: fmt.Sprintf("%s happened twice in %s: it may be %s or %s", s, p.zone,
				time.Unix(first, 0).UTC().Format(time.RFC3339), time.Unix(second, 0).UTC().Format(time.RFC3339)),
			remedy: epochRemedy,
		}
	case isFirst:
		p.offset = before
	case isSecond:
		p.offset = after
	default:
		return &fieldError{
			problem: fmt.Sprintf("%s did not happen in %s, where the clocks went forward over it", s, p.zone),
			remedy:  epochRemedy,
		}
	}
	p.lo, p.hi = wall, wall+1
	return nil
}

// wallClock reads YYYY-MM-DDTHH:MM:SS as seconds since 1970-01-01T00:00:00 on the same clock, and returns what follows.
func wallClock(s string) (sec int64, rest string, ok bool) {
	if len(s) < 19 || s[4] != '-' || s[7] != '-' || (s[10] != 'T' && s[10] != ' ') || s[13] != ':' || s[16] != ':' {
		return 0, "", false
	}
	year, ok1 := digits(s[0:4])
	month, ok2 := digits(s[5:7])
	day, ok3 := digits(s[8:10])
	hour, ok4 := digits(s[11:13])
	minute, ok5 := digits(s[14:16])
	second, ok6 := digits(s[17:19])
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !ok6 || hour > 23 || minute > 59 || second > 59 {
		return 0, "", false
	}
	t := time.Date(int(year), time.Month(month), int(day), int(hour), int(minute), int(second), 0, time.UTC)
	if int64(t.Month()) != month || int64(t.Day()) != day {
		return 0, "", false
	}
	return t.Unix(), s[19:], true
}

// parseOffset reads Z, +HH, +HHMM and +HH:MM as seconds ahead of UTC.
func parseOffset(s string) (int64, bool) {
	if s == "Z" {
		return 0, true
	}
	sign := int64(1)
	switch s[0] {
	case '+':
	case '-':
		sign = -1
	default:
		return 0, false
	}
	hours, minutes := s[1:], "00"
	switch len(s) {
	case 3:
	case 5:
		hours, minutes = s[1:3], s[3:5]
	case 6:
		if s[3] != ':' {
			return 0, false
		}
		hours, minutes = s[1:3], s[4:6]
	default:
		return 0, false
	}
	h, ok1 := digits(hours)
	m, ok2 := digits(minutes)
	return sign * (h*3600 + m*60), ok1 && ok2 && h < 24 && m < 60
}

// duration reads sacct's Elapsed, [D-]HH:MM:SS, as seconds.
func duration(s string) (int64, bool) {
	var days int64
	clock := s
	if len(s) > 9 {
		dash := len(s) - 9
		d, ok := digits(s[:dash])
		if !ok || s[dash] != '-' || d > maxEpoch/86400 {
			return 0, false
		}
		days, clock = d, s[dash+1:]
	}
	if len(clock) != 8 || clock[2] != ':' || clock[5] != ':' {
		return 0, false
	}
	h, ok1 := digits(clock[0:2])
	m, ok2 := digits(clock[3:5])
	sec, ok3 := digits(clock[6:8])
	return days*86400 + h*3600 + m*60 + sec, ok1 && ok2 && ok3 && h < 24 && m < 60 && sec < 60
}

// digits reads a whole number that is not negative and fits an int64.
func digits(s string) (int64, bool) {
	if s == "" || len(s) > 19 {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + uint64(c)
	}
	return int64(n), n <= 1<<63-1
}
