package httpapi

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage"
)

// parameters returns the request's query parameters of these names, which are
// read in any letter case. Others are ignored: proxies add their own.
func (x *exchange) parameters(names ...string) (url.Values, error) {
	given, err := url.ParseQuery(x.URL.RawQuery)
	if err != nil {
		return nil, &amieusage.Error{
			Code:    amieusage.CodeInvalid,
			Message: "the query of the URL cannot be read",
			Hint:    "percent-encode what is no letter or digit",
			Err:     err,
		}
	}
	v := url.Values{}
	for _, name := range names {
		for key, values := range given {
			if strings.EqualFold(key, name) {
				v[name] = append(v[name], values...)
			}
		}
		if len(v[name]) > 1 {
			return nil, &amieusage.Error{Code: amieusage.CodeInvalid, Message: "parameter " + name + " is given more than once"}
		}
		if strings.HasSuffix(name, "Time") && v.Has(name) {
			v.Set(name, restorePlus(v.Get(name)))
		}
	}
	return v, nil
}

// restorePlus repairs a time whose offset lost its plus sign, which arrives as
// a space where it was not percent-encoded: 2026-10-01T00:00:00 00:00.
func restorePlus(s string) string {
	if _, err := amieusage.ParseTime(s); err == nil {
		return s
	}
	if i := strings.LastIndexByte(s, ' '); i >= 0 {
		repaired := s[:i] + "+" + s[i+1:]
		if _, err := amieusage.ParseTime(repaired); err == nil {
			return repaired
		}
	}
	return s
}

// wholeNumber reads a parameter that is not below low; 0 where it is absent.
func wholeNumber(v url.Values, name string, low int64) (int64, error) {
	s := v.Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < low {
		return 0, &amieusage.Error{
			Code: amieusage.CodeInvalid,
			Message: "parameter " + name + " must be a whole number from " + strconv.FormatInt(low, 10) +
				" on, not " + strconv.Quote(cut(s, 64)),
		}
	}
	return n, nil
}
