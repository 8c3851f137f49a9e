package postgres

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Whatever stands around a password in a database's URL, or in it, nothing that
// is said of the URL holds the password.
func FuzzURL(f *testing.F) {
	for _, rest := range []string{"localhost:5432/ledger", "h1,h2:5433/ledger?target_session_attrs=primary&sslmode=disable", "/ledger?host=/run/postgresql", "[::1]:x/l", "h/l?pool_max_conns=x", "h/l?sslmode=x",
		"@h/l", "h:99999/l", "h%zz/l", "", "h/l?connect_timeout=x&application_name=s", " h/l", "h/l#f", "h/l?service=x"} {
		for _, secret := range []string{"s3cret-word", "with@sign", "with/slash", "with:colon", "with#hash", "with?mark", "with%zz", "with%40sign", "with space", "with\x00nul", "[::1]:5432"} {
			f.Add("amieusage", secret, rest)
		}
	}
	f.Add("0", "@00%0000", "0")
	f.Fuzz(func(t *testing.T, user, secret, rest string) {
		raw := "postgres://" + user + ":" + secret + "@" + rest
		secrets := []string{secret}
		if plain, err := url.PathUnescape(secret); err == nil {
			secrets = append(secrets, plain)
		}
		said := map[string]string{"redacted": Redacted(raw)}
		if config, err := pgxpool.ParseConfig(raw); err != nil {
			said["cannot be read"] = urlError(raw, err).Error()
		} else if !prepare(config.ConnConfig) {
			said["is refused"] = urlError(raw, nil).Error()
		} else {
			said["name"] = nameOf(config.ConnConfig)
		}
		for what, text := range said {
			for _, s := range secrets {
				if len(s) >= 8 && strings.Contains(text, s) && !strings.Contains(user+"@"+rest+urlError("", nil).Error(), s) {
					t.Fatalf("%s: %q shows the password %q of %q", what, text, s, raw)
				}
			}
		}
	})
}
