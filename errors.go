package amieusage

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// A Code classifies an [Error]. It is the same on the wire (the member "code"
// of an error body), in the client and in the service.
type Code string

// The codes of the API's errors; [Code.HTTPStatus] maps each to its status.
const (
	CodeInvalid          Code = "invalid"
	CodeUnauthorized     Code = "unauthorized"
	CodeForbidden        Code = "forbidden"
	CodeNotFound         Code = "not_found"
	CodeMethodNotAllowed Code = "method_not_allowed"
	CodeTimeout          Code = "timeout"
	CodeConflict         Code = "conflict"
	CodeTooLarge         Code = "too_large"
	CodeUnsupportedMedia Code = "unsupported_media_type"
	CodeTooManyRequests  Code = "too_many_requests"
	CodeInternal         Code = "internal"
	CodeBadGateway       Code = "bad_gateway"
	CodeUnavailable      Code = "unavailable"
	CodeGatewayTimeout   Code = "gateway_timeout"
)

// codeStatus is the one table between codes and HTTP statuses.
var codeStatus = []struct {
	code   Code
	status int
}{
	{CodeInvalid, http.StatusBadRequest},
	{CodeUnauthorized, http.StatusUnauthorized},
	{CodeForbidden, http.StatusForbidden},
	{CodeNotFound, http.StatusNotFound},
	{CodeMethodNotAllowed, http.StatusMethodNotAllowed},
	{CodeTimeout, http.StatusRequestTimeout},
	{CodeConflict, http.StatusConflict},
	{CodeTooLarge, http.StatusRequestEntityTooLarge},
	{CodeUnsupportedMedia, http.StatusUnsupportedMediaType},
	{CodeTooManyRequests, http.StatusTooManyRequests},
	{CodeInternal, http.StatusInternalServerError},
	{CodeBadGateway, http.StatusBadGateway},
	{CodeUnavailable, http.StatusServiceUnavailable},
	{CodeGatewayTimeout, http.StatusGatewayTimeout},
}

// HTTPStatus returns the HTTP status that bears the code; 500 for an unknown
// one.
func (c Code) HTTPStatus() int {
	for _, row := range codeStatus {
		if row.code == c {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

// CodeForStatus returns the code of an HTTP status: the status's own, or else
// the general one of its class ([CodeInvalid] for 4xx, [CodeInternal]
// otherwise).
func CodeForStatus(status int) Code {
	for _, row := range codeStatus {
		if row.status == status {
			return row.code
		}
	}
	if status >= 400 && status < 500 {
		return CodeInvalid
	}
	return CodeInternal
}

// An Error is a failure that a person or a program can act on.
type Error struct {
	Code    Code
	Message string // what is wrong, without a variable secret
	Hint    string // for the operator: what to do about it, or empty
	Err     error  // the cause, or nil
}

// Error returns the message, the cause and the hint in one line.
func (e *Error) Error() string {
	s := e.Message
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of an error that this package, the client or the
// service has made, whatever wraps it: of a record that is not valid
// [CodeInvalid]. "": the error is nil, or has none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if _, ok := errors.AsType[*ValidationError](err); ok {
		return CodeInvalid
	}
	return ""
}

// A FieldError is what is wrong with one field of a record.
type FieldError struct {
	Field   string // name on the wire; "Attributes.NodeCount" inside Attributes
	Problem string // reads on from the field's name: "must not be negative"
}

// A ValidationError lists every bad field of one record.
type ValidationError struct {
	Fields []FieldError
}

// Error joins the problems of all fields in the order of the record's fields.
func (e *ValidationError) Error() string {
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		parts[i] = strings.TrimSpace(f.Field + " " + f.Problem)
	}
	return strings.Join(parts, "; ")
}

// quoteShort quotes a piece of input for an error text, cut to 64 bytes.
func quoteShort(s string) string {
	if len(s) > 64 {
		return strconv.QuoteToASCII(s[:64]) + "…"
	}
	return strconv.Quote(s)
}
