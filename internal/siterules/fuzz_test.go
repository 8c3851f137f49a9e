package siterules_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/amieusage/amieusage/internal/siterules"
)

// slowGlob makes a regular expression of a pattern; nil where it is none.
func slowGlob(pattern string) *regexp.Regexp {
	var out strings.Builder
	out.WriteString(`(?s)^`)
	rest := []rune(pattern)
	// one takes a character that may be escaped.
	one := func() (rune, bool) {
		if len(rest) > 0 && rest[0] == '\\' {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return 0, false
		}
		c := rest[0]
		rest = rest[1:]
		return c, true
	}
	for len(rest) > 0 {
		switch rest[0] {
		case '*':
			out.WriteString(`.*`)
			rest = rest[1:]
		case '?':
			out.WriteString(`.`)
			rest = rest[1:]
		case '[':
			rest = rest[1:]
			negated := len(rest) > 0 && rest[0] == '^'
			if negated {
				rest = rest[1:]
			}
			var ranges []string
			for len(ranges) == 0 || len(rest) == 0 || rest[0] != ']' {
				if len(rest) == 0 || rest[0] == '-' || rest[0] == ']' {
					return nil
				}
				low, ok := one()
				if !ok {
					return nil
				}
				high := low
				if len(rest) > 0 && rest[0] == '-' {
					rest = rest[1:]
					if len(rest) == 0 || rest[0] == '-' || rest[0] == ']' {
						return nil
					}
					if high, ok = one(); !ok {
						return nil
					}
				}
				if low <= high { // another range holds nothing
					ranges = append(ranges, `\x{`+hex(low)+`}-\x{`+hex(high)+`}`)
				} else {
					ranges = append(ranges, "")
				}
			}
			rest = rest[1:]
			switch set := strings.Join(ranges, ""); {
			case set != "" && negated:
				out.WriteString("[^" + set + "]")
			case set != "":
				out.WriteString("[" + set + "]")
			case negated:
				out.WriteString(".")
			default:
				out.WriteString(`[^\x{0}-\x{10FFFF}]`)
			}
		default:
			c, ok := one()
			if !ok {
				return nil
			}
			out.WriteString(`\x{` + hex(c) + `}`)
		}
	}
	return regexp.MustCompile(out.String() + `$`)
}

func hex(c rune) string {
	const digits = "0123456789abcdef"
	var s string
	for ; c > 0 || s == ""; c /= 16 {
		s = digits[c%16:c%16+1] + s
	}
	return s
}

// A pattern is refused when the rules are checked, or says of each job what the
// reference says.
func FuzzPattern(f *testing.F) {
	for _, pattern := range []string{"", "*", "RM*", "gpu?", "[a-c]*", "[^a-c]", "[", "[]", "[]a]", "[a-]", "[z-a]", `\*`, `\`, "a/*", "[\\]]", "é[è-ê]*", "a**b", "[^]", "*[a", "a[[]"} {
		f.Add(pattern, "RM-shared")
		f.Add(pattern, pattern)
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(name) {
			return // YAML has none, and what sacct prints is made valid
		}
		want := slowGlob(pattern)
		for _, what := range []string{"partition", "cluster", "qos", "account"} {
			rules, job := siteRules(t), ranJob()
			rules.Resources = rules.Resources[3:]
			resource := &rules.Resources[0]
			resource.Match.Partitions = nil
			switch what {
			case "partition":
				resource.Match.Partitions, job.Partition = []string{pattern}, name
			case "cluster":
				resource.Match.Clusters, job.Cluster = []string{pattern}, name
			case "qos":
				resource.Match.QOS, job.QOS = []string{pattern}, name
			case "account":
				rules.Projects.Include, job.Account = []string{pattern}, name
			}
			if err := rules.Check(); (err == nil) != (want != nil) {
				t.Fatalf("%s %q: %v; the reference: %v", what, pattern, err, want)
			}
			if want == nil {
				continue
			}
			matched := want.MatchString(name) && (what != "account" || name != "") // without an account a job is nobody's
			record, skip, err := rules.Convert(job)
			switch {
			case matched && err != nil: // no record can bear the name
			case err != nil || (record != nil) != matched || (skip == "") != matched:
				t.Fatalf("%s %q of %q: %v, skipped: %q, error %v; the reference: %t", what, pattern, name, record, skip, err, matched)
			}
		}
	})
}

// A job's charge and its record are valid, or the job is named in an error; what
// Slurm wrote in other letters comes out as the rules say.
func FuzzAccount(f *testing.F) {
	for _, s := range []string{"", "p.abc123456.000", "P.ABC", "É", "ß", "İ", "a\x00b", "\xff", strings.Repeat("x", 2000)} {
		for _, letters := range []string{"", "keep", "upper", "lower", "title"} {
			f.Add(s, letters, "alice")
		}
	}
	f.Fuzz(func(t *testing.T, account, letters, user string) {
		rules := siteRules(t)
		rules.Projects.Case = siterules.Case(letters)
		rules.Users.Map = map[string]string{"alice": "asmith"}
		rules.Projects.Map = map[string]string{"training": "p.trn000000.000"}
		if err := rules.Check(); (err == nil) != slices.Contains([]string{"", "keep", "upper", "lower"}, letters) {
			t.Fatalf("case %q: %v", letters, err)
		} else if err != nil {
			return
		}
		job := ranJob()
		job.Account, job.User = account, user
		record, skip, err := rules.Convert(job)
		if record == nil {
			if (skip == siterules.SkipAccount) != (account == "") || (skip == "") != (err != nil) {
				t.Fatalf("%q of %q: skipped: %q, error %v", account, user, skip, err)
			}
			return
		}
		wantUser, wantProject := user, account
		switch letters {
		case "upper":
			wantProject = strings.ToUpper(account)
		case "lower":
			wantProject = strings.ToLower(account)
		}
		if user == "alice" {
			wantUser = "asmith"
		}
		if account == "training" {
			wantProject = "p.trn000000.000"
		}
		if record.Validate() != nil || record.Username != wantUser || record.LocalProjectID != wantProject {
			t.Fatalf("%q of %q became %q of %q: %v", user, account, record.Username, record.LocalProjectID, record.Validate())
		}
	})
}
