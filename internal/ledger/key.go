package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/amieusage/amieusage"
)

// A KeyHash is what is stored of an API key. Keys are 256 random bits, so a
// plain hash is as strong as the key.
type KeyHash [sha256.Size]byte

// keyPrefix makes keys recognisable to people and to scanners for secrets.
const keyPrefix = "amu_"

// NewKey draws an API key from random, and returns it with its hash. The key
// is shown once and stored nowhere.
func NewKey(random io.Reader) (string, KeyHash, error) {
	var secret [32]byte
	if _, err := io.ReadFull(random, secret[:]); err != nil {
		return "", KeyHash{}, err
	}
	key := keyPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	return key, HashKey(key), nil
}

// HashKey returns the hash of a key.
func HashKey(key string) KeyHash { return sha256.Sum256([]byte(key)) }

// A Key is what may be known of an API key.
type Key struct {
	ID        int64
	Site      string
	Label     string
	CreatedAt time.Time
	RevokedAt time.Time // zero: valid
}

// An Authority is what a site's requests are checked against.
type Authority struct {
	Site      SiteID
	Name      string
	Keys      []AuthorityKey
	Resources map[string]bool
	Policy    Policy // the ledger's, or "" where none was chosen
}

// An AuthorityKey is one of a site's keys.
type AuthorityKey struct {
	ID      int64
	Hash    KeyHash
	Revoked bool
}

// Authenticate returns who sends a request with this site name and key, and
// the names of the site's resources. Errors are *amieusage.Error:
// [amieusage.CodeUnauthorized] where the site or the key is not known,
// [amieusage.CodeForbidden] where the key was revoked.
func (s *Service) Authenticate(ctx context.Context, siteName, key string) (Caller, map[string]bool, error) {
	unknown := &amieusage.Error{
		Code:    amieusage.CodeUnauthorized,
		Message: "the site name or the API key is not valid",
		Hint:    "send the headers " + amieusage.HeaderSite + " and " + amieusage.HeaderAPIKey,
	}
	if siteName == "" || key == "" {
		return Caller{}, nil, unknown
	}
	hash := HashKey(key)
	authority, err := s.store.Authority(ctx, siteName)
	if e, ok := errors.AsType[*amieusage.Error](err); ok && e.Code == amieusage.CodeNotFound {
		return Caller{}, nil, unknown
	}
	if err != nil {
		return Caller{}, nil, err
	}
	var found *AuthorityKey
	for i := range authority.Keys {
		if subtle.ConstantTimeCompare(hash[:], authority.Keys[i].Hash[:]) == 1 {
			found = &authority.Keys[i]
		}
	}
	switch {
	case found == nil:
		return Caller{}, nil, unknown
	case found.Revoked:
		return Caller{}, nil, ErrRevoked
	}
	return Caller{Site: authority.Site, Name: authority.Name, KeyID: found.ID, Policy: authority.Policy}, authority.Resources, nil
}

// CreateKey makes a key for the site and returns it; it can never be shown
// again.
func CreateKey(ctx context.Context, store Store, siteName, label string, now time.Time) (string, Key, error) {
	secret, hash, err := NewKey(rand.Reader)
	if err != nil {
		return "", Key{}, err
	}
	key, err := store.CreateKey(ctx, siteName, hash, label, now)
	return secret, key, err
}

// ErrRevoked is what a request with a key that was revoked is refused with.
var ErrRevoked = &amieusage.Error{
	Code:    amieusage.CodeForbidden,
	Message: "this API key was revoked",
	Hint:    "ask the operator of the service for a new one",
}

// UnknownSite is the error for a site's name that no ledger knows.
func UnknownSite(name string) error {
	return &amieusage.Error{
		Code:    amieusage.CodeNotFound,
		Message: fmt.Sprintf("site %q is not known", name),
		Hint:    "add it: amieusage admin site add NAME",
	}
}

// MovedSite is the error for a site that was copied into another ledger.
func MovedSite(name string) error {
	return &amieusage.Error{
		Code:    amieusage.CodeForbidden,
		Message: fmt.Sprintf("site %s is not served from here any more: it was moved to another ledger", name),
		Hint:    "ask the operator of the service for its new address; the operator can take the site back with amieusage admin site take-back",
	}
}

// UnknownKey is the error for a number that is no key of the site.
func UnknownKey(siteName string, keyID int64) error {
	return &amieusage.Error{
		Code:    amieusage.CodeNotFound,
		Message: fmt.Sprintf("site %s has no key %d", siteName, keyID),
		Hint:    "list its keys: amieusage admin key list --site " + siteName,
	}
}
