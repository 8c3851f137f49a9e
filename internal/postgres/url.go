package postgres

import (
	"net/url"
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
	u, err := url.Parse(db)
	if err != nil {
		return Redacted(db), strings.Contains(db, "@")
	}
	_, had := u.User.Password()
	if had {
		u.User = url.User(u.User.Username())
	}
	if q := u.Query(); q.Has("password") {
		had = true
		q.Del("password")
		u.RawQuery = q.Encode()
	}
	if !had {
		return db, false
	}
	return u.String(), true
}
