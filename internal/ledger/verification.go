package ledger

import (
	"errors"
	"fmt"
	"strings"

	"github.com/amieusage/amieusage"
)

// A Verification is what was verified in a ledger, and what was found.
type Verification struct {
	Ledger string          `json:"ledger"` // its name, without secrets
	Sites  []*VerifiedSite `json:"sites"`
	// Unserved are the sites that are being copied into this ledger, or whose
	// copy was cut off: they are not served, and were not verified.
	Unserved []string `json:"unserved,omitempty"`
	// Differences counts all findings, of which Findings names the first of each
	// check.
	Differences int64     `json:"differences"`
	Findings    []Finding `json:"findings,omitempty"`

	count map[string]int64
	whats []string // in order of the first finding
}

// A VerifiedSite counts what was read of a site. Records is the sum of the
// others.
type VerifiedSite struct {
	Site     string `json:"site"`
	Batches  int64  `json:"batches"`
	Records  int64  `json:"records"`   // accepted
	Newest   int64  `json:"newest"`    // contents that are their records' newest
	Replaced int64  `json:"replaced"`  // contents that a correction has replaced
	Repeated int64  `json:"unchanged"` // contents that were loaded already
	Failed   int64  `json:"failed"`
	Queued   int64  `json:"queued"`   // not loaded yet
	Archived int64  `json:"archived"` // in archives: only their rows were verified
	// Unread are contents that cannot be compared: their batch is damaged, this
	// program does not take them any more, or what they repeated is in an archive.
	Unread int64 `json:"unread"`
	// Charge is the sum of the newest contents, less what is given back.
	Charge amieusage.Charge `json:"charge"`

	charge int64
}

// A Finding is one difference in a ledger.
type Finding struct {
	Check  string `json:"check"`
	Site   string `json:"site,omitempty"`
	Record string `json:"record,omitempty"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

// What helps where a ledger does not add up.
const (
	restoreLedger = "restore it from a backup, and let each site send again what is newer: " +
		"amieusage records resend --state queued,loaded,failed, and then amieusage report"
	sendAgain   = "let the site send the record again: amieusage records resend"
	clearFailed = "let the site clear the failed record: amieusage failed clear"
)

// Error returns the finding in one line, without its remedy.
func (f Finding) Error() string {
	text := f.Check
	for _, part := range []string{f.Site, f.Record, f.Text} {
		if part != "" {
			text += ": " + part
		}
	}
	return text
}

// NoSite returns the finding that a table has rows of a site that is not there.
func NoSite(site int64, table string) Finding {
	return Finding{Check: "sites", Text: fmt.Sprintf("there is no site %d, which %s has rows of", site, table)}
}

// maxFindings is how many findings of one check are named.
const maxFindings = 5

// Add adds what a check has found; a finding without a remedy is one for a
// backup.
func (v *Verification) Add(f Finding) {
	if f.Remedy == "" {
		f.Remedy = restoreLedger
	}
	if v.count == nil {
		v.count = map[string]int64{}
	}
	if v.count[f.Check]++; v.count[f.Check] == 1 {
		v.whats = append(v.whats, f.Check)
	}
	if v.count[f.Check] <= maxFindings {
		v.Findings = append(v.Findings, f)
	}
	v.Differences++
}

// Err returns nil where nothing was found, or amieusage.CodeInternal, with the
// ledger's name, the findings and what helps.
func (v *Verification) Err() error {
	if v.Differences == 0 {
		return nil
	}
	var found []error
	var remedies []string
	known := map[string]bool{}
	for _, f := range v.Findings {
		found = append(found, f)
		if !known[f.Remedy] {
			known[f.Remedy] = true
			remedies = append(remedies, f.Remedy)
		}
	}
	for _, what := range v.whats {
		if more := v.count[what] - maxFindings; more > 0 {
			found = append(found, fmt.Errorf("%s: and %d more", what, more))
		}
	}
	return &amieusage.Error{
		Code:    amieusage.CodeInternal,
		Message: v.Ledger + " does not add up",
		Hint:    strings.Join(remedies, "; "),
		Err:     errors.Join(found...),
	}
}
