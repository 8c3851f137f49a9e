package httpapi

import (
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/amieusage/amieusage"
)

// A list of ids is read as the reference reads it, and the same when it is
// written again.
func FuzzIDs(f *testing.F) {
	for _, list := range []string{"", "1", "17,18", "18,17,17", " 1 , 2 ", "0", "-1", "+1", "1,,2", "9223372036854775807", "9223372036854775808",
		"1,x", "0x1", "1_0", "٣", strings.Repeat("x,", 30)} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		var want []int64
		ok := true
		for _, text := range strings.Split(list, ",") {
			text = strings.TrimSpace(text)
			n, isNumber := new(big.Int).SetString(text, 10)
			if !isNumber || !n.IsInt64() || n.Sign() <= 0 || strings.ContainsAny(text, "_+") {
				ok = false
				continue
			}
			want = append(want, n.Int64())
		}
		slices.Sort(want)
		want = slices.Compact(want)
		ids, err := parseIDs(list)
		if !ok || len(want) > maxClearIDs {
			if e, ours := errors.AsType[*amieusage.Error](err); !ours || e.Code != amieusage.CodeInvalid || ids != nil || len(err.Error()) > 4096 {
				t.Fatalf("%q: %v, error %v", list, ids, err)
			}
			return
		}
		if err != nil || !slices.Equal(ids, want) {
			t.Fatalf("%q: %v, error %v; want %v", list, ids, err, want)
		}
	})
}

// A parameter is found in any letter case, and given once; a time that lost the
// plus of its offset is the time that was meant.
func FuzzParameters(f *testing.F) {
	for _, query := range []string{"", "limit=1&after=2", "Limit=1&LIMIT=2", "Limit=1&Limit=1", "FROMTIME=2026-10-01T00:00:00+05:00&x=y", "fromtime=2026-10-01%2000:00:00+0530",
		"FromTime=a+b", "FromTime=+", "a;b", "%zz", "Limit", "ſimit=1", "LİMIT=1", "=&=", "FromTime=2026-10-01T00:00:00%2B05:00"} {
		f.Add(query)
	}
	names := []string{"Limit", "After", "FromTime"}
	f.Fuzz(func(t *testing.T, query string) {
		given, parseErr := url.ParseQuery(query)
		found := url.Values{}
		for key, values := range given {
			for _, name := range names {
				if strings.EqualFold(key, name) {
					found[name] = append(found[name], values...)
				}
			}
		}
		ok := parseErr == nil
		for _, values := range found {
			ok = ok && len(values) == 1
		}
		x := &exchange{Request: &http.Request{URL: &url.URL{RawQuery: query}}}
		got, err := x.parameters(names...)
		if (err == nil) != ok {
			t.Fatalf("%q: %v", query, err)
		}
		if err != nil {
			return
		}
		for _, name := range names {
			value := got.Get(name)
			if got.Has(name) != found.Has(name) || name != "FromTime" && value != found.Get(name) {
				t.Fatalf("%q: %s is %q", query, name, value)
			}
		}
		text := found.Get("FromTime")
		if value := got.Get("FromTime"); value != text {
			_, err := amieusage.ParseTime(value)
			if _, asItCame := amieusage.ParseTime(text); err != nil || asItCame == nil || strings.Count(value, "+") != strings.Count(text, "+")+1 || strings.ReplaceAll(value, "+", " ") != strings.ReplaceAll(text, "+", " ") {
				t.Fatalf("%q became %q: %v", text, value, err)
			}
		}
		if at, err := amieusage.ParseTime(text); err == nil && strings.Contains(text, "+") {
			if again, err := amieusage.ParseTime(restorePlus(strings.ReplaceAll(text, "+", " "))); err != nil || !again.Equal(at) {
				t.Fatalf("%q came without its plus, and became %v, %v", text, again, err)
			}
		}
	})
}
