// Package amieusage is the vocabulary of the AMIE Usage API: usage records,
// the messages that carry them, what the service answers, and the rules that
// every part of the system shares. It does no I/O.
//
// A [Record] is a [ComputeRecord], a [StorageRecord] or an [AdjustmentRecord].
// Records of one kind travel in a [Message]; the service answers with a
// [SendResponse], and later with a [Status], [FailedRecord] and [LoadedRecord]
// values, and a [Summary].
//
// Decoding is lenient where real clients are sloppy (numbers as text, naive
// times, any letter case of a usage type) and strict where a mistake would
// cost somebody an allocation (duplicate keys, invalid UTF-8, charges that
// are no exact decimal). Encoding is stable to the byte.
package amieusage

import (
	"strings"
)

// Base URLs of the national service's Usage API.
const (
	// DefaultURL is the live service.
	DefaultURL = "https://usage.access-ci.org/api/v1"
	// RetiredXSEDEURL is the address that the API's documentation still
	// names; the host no longer answers.
	RetiredXSEDEURL = "https://usage.xsede.org/api/v1"
)

// Limits of the API.
const (
	// MaxRequestBytes is the largest request body that the service accepts:
	// 1,024 KiB.
	MaxRequestBytes = 1024 << 10
	// DefaultSendBytes is the largest request body that a client sends unless
	// told otherwise: 768 KiB, which leaves room for proxies.
	DefaultSendBytes = 768 << 10
	// MaxLoadedPage is the largest number of records in one answer to
	// GET {base}/usage/loaded.
	MaxLoadedPage = 25000
)

// Names of the API's headers.
const (
	// HeaderSite carries the site's name, on every request.
	HeaderSite = "XA-SITE"
	// HeaderAPIKey carries the site's API key, on every request.
	HeaderAPIKey = "XA-API-KEY"
	// HeaderRequestID names a request in the service's logs, on every answer.
	HeaderRequestID = "X-Request-Id"
	// HeaderService is "amieusage" on every answer of amieusage's own service,
	// which lists all that it has loaded, with exact charges.
	HeaderService = "Usage-Service"
)

// A UsageType says which kind of usage a record reports.
type UsageType string

// The kinds of usage of the API.
const (
	Compute    UsageType = "Compute"
	Storage    UsageType = "Storage"
	Adjustment UsageType = "Adjustment"
)

// ParseUsageType reads a usage type in any letter case, as hand-written
// clients send it. The error is a [*Error] with [CodeInvalid].
func ParseUsageType(s string) (UsageType, error) {
	for _, t := range []UsageType{Compute, Storage, Adjustment} {
		if strings.EqualFold(s, string(t)) {
			return t, nil
		}
	}
	return "", &Error{
		Code:    CodeInvalid,
		Message: "UsageType " + quoteShort(s) + " is not one of Compute, Storage, Adjustment",
	}
}
