package amieusage

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestCodesAndStatuses(t *testing.T) {
	for code, status := range map[Code]int{
		CodeInvalid: 400, CodeUnauthorized: 401, CodeForbidden: 403, CodeNotFound: 404, CodeMethodNotAllowed: 405,
		CodeTimeout: 408, CodeConflict: 409, CodeTooLarge: 413, CodeUnsupportedMedia: 415, CodeTooManyRequests: 429, CodeInternal: 500,
		CodeBadGateway: 502, CodeUnavailable: 503, CodeGatewayTimeout: 504,
	} {
		if got := code.HTTPStatus(); got != status {
			t.Errorf("%s has the status %d, want %d", code, got, status)
		}
		if got := CodeForStatus(status); got != code {
			t.Errorf("the status %d means %s, want %s", status, got, code)
		}
	}
	if len(codeStatus) != 14 {
		t.Errorf("%d codes, of which 14 are tested", len(codeStatus))
	}
	for status, code := range map[int]Code{418: CodeInvalid, 499: CodeInvalid, 501: CodeInternal, 599: CodeInternal, 302: CodeInternal} {
		if got := CodeForStatus(status); got != code {
			t.Errorf("the status %d means %s, want %s", status, got, code)
		}
	}
	if got := Code("other").HTTPStatus(); got != 500 {
		t.Errorf("an unknown code has the status %d", got)
	}
}

func TestErrorTexts(t *testing.T) {
	err := &Error{Code: CodeInvalid, Message: "cannot read it", Hint: "try again", Err: io.ErrUnexpectedEOF}
	mustEqual(t, "text", "cannot read it: unexpected EOF (try again)", err.Error())
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is not found")
	}
	mustEqual(t, "text", "cannot read it", (&Error{Message: "cannot read it"}).Error())
	mustEqual(t, "text", "Charge is required; is strange", (&ValidationError{[]FieldError{{"Charge", "is required"}, {"", "is strange"}}}).Error())
}

// What a client sent is quoted in errors: short, in one line, in valid UTF-8.
func TestErrorsQuoteInput(t *testing.T) {
	for in, want := range map[string]string{
		"a\nb":                    `UsageType "a\nb" is not one of Compute, Storage, Adjustment`,
		"é":                       `UsageType "é" is not one of Compute, Storage, Adjustment`,
		"\xff":                    `UsageType "\xff" is not one of Compute, Storage, Adjustment`,
		strings.Repeat("é", 1000): `UsageType "` + strings.Repeat(`\u00e9`, 32) + `"… is not one of Compute, Storage, Adjustment`,
	} {
		_, err := ParseUsageType(in)
		mustEqual(t, "text", want, err.Error())
	}
}

func TestIndent(t *testing.T) {
	const want = `{
  "AdjustmentType": "refund",
  "Username": "alice",
  "LocalProjectID": "p.abc123456.000",
  "LocalRecordID": "adj-1",
  "Resource": "bridges2-rm.psc.access-ci.org",
  "StartTime": "2026-10-01T23:59:00Z",
  "Charge": "100",
  "Comment": "node failure",
  "LocalReference": "t-77"
}`
	mustEqual(t, "record", want, Indent(recordedRecord(t, 2, 0)))
	mustEqual(t, "status", "[]", Indent(Status{}))
	mustEqual(t, "what fails", "unexpected EOF", Indent(failing{}))
	mustEqual(t, "what is no JSON", "{", Indent(broken{}))
}

type failing struct{}

func (failing) MarshalJSON() ([]byte, error) { return nil, io.ErrUnexpectedEOF }

type broken struct{}

func (broken) MarshalJSON() ([]byte, error) { return []byte("{"), nil }
