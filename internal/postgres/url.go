package postgres

import (
	"regexp"
	"slices"
	"strings"
)

// keywords are those by which a database may be named in place of a URL: host=db1
// dbname=ledger.
var keywords = []string{"host", "hostaddr", "port", "dbname", "database", "user", "password", "passfile", "service", "servicefile",
	"sslmode", "sslcert", "sslkey", "sslrootcert", "connect_timeout", "application_name", "target_session_attrs", "pool_max_conns"}

// IsURL reports whether a --db names a database of PostgreSQL: by a URL, or by
// keywords and values.
func IsURL(db string) bool {
	if scheme, _, ok := strings.Cut(db, "://"); ok && isScheme(scheme) {
		return true
	}
	keyword, _, ok := strings.Cut(db, "=")
	return ok && slices.Contains(keywords, strings.ToLower(strings.TrimSpace(keyword)))
}

func isScheme(s string) bool {
	return strings.EqualFold(s, "postgres") || strings.EqualFold(s, "postgresql")
}

// normal returns the name of a database as the library reads it: with the scheme in
// small letters.
func normal(db string) string {
	if scheme, rest, ok := strings.Cut(db, "://"); ok && isScheme(scheme) {
		return strings.ToLower(scheme) + "://" + rest
	}
	return db
}

// passwordPair is a password among keywords and values.
var passwordPair = regexp.MustCompile(`(?i)(^|\s)password\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)`)

// WithoutPassword returns what names a database without its password, to be given
// again as it is, and whether there was one.
func WithoutPassword(db string) (string, bool) {
	db = normal(db)
	if !strings.Contains(db, "://") {
		plain := strings.TrimSpace(passwordPair.ReplaceAllString(db, ""))
		return plain, plain != strings.TrimSpace(db)
	}
	// By hand: of several hosts with ports net/url knows nothing.
	scheme, rest, _ := strings.Cut(db, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, rest, had := rest[:end], rest[end:], false
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		var user string
		user, _, had = strings.Cut(authority[:at], ":")
		authority = user + authority[at:]
	} else if strings.Contains(rest, "@") {
		return Redacted(db), true // a password that is not percent-encoded, which is refused
	}
	path, query, ok := strings.Cut(rest, "?")
	if !ok {
		return scheme + "://" + authority + path, had
	}
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(pair, "="); strings.EqualFold(name, "password") {
			had = true
			continue
		}
		kept = append(kept, pair)
	}
	if len(kept) > 0 {
		path += "?" + strings.Join(kept, "&")
	}
	return scheme + "://" + authority + path, had
}
