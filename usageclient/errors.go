package usageclient

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage"
)

// ErrUnavailable is what errors.Is finds in an error that passes by itself, so
// that the same call may succeed later: no answer before the attempts or the
// context ended; an answer that is not from a Usage API, such as a login page or
// a redirect to one; or one of the statuses 408, 429, 502, 503, 504, and those
// by which networks answer in place of a service: 511 and 520 to 530.
var ErrUnavailable = errors.New("usageclient: the service cannot be reached, or cannot serve now")

// ErrRecord is what errors.Is finds in the error of a record that the service
// fails at, or does not answer, while it accepts others: it cannot be sent as it
// is, and nothing is said against it.
var ErrRecord = errors.New("usageclient: the service fails at this record alone")

// An Error says which request failed, and why. No part of it holds the API key.
//
// errors.As also finds an [*amieusage.Error] of the same code in it, and
// errors.Is the cause: a network error, or context.Canceled.
type Error struct {
	Method string
	URL    string // without the query
	// Status is the HTTP status of the answer; 0 where there was none.
	Status int
	// Code is the service's own, or else the one of the status. Where there was
	// no answer it is [amieusage.CodeUnavailable].
	Code amieusage.Code
	// Message is the service's error text where it gave one.
	Message string
	// Hint says what to do about it, or is empty.
	Hint string
	// RequestID is what the service calls the request in its log, or empty.
	RequestID string
	// Attempts is how often the request was made.
	Attempts int
	// Err is the cause, or nil.
	Err error

	coded     bool // Code is the service's own
	retry     bool // another attempt may help
	uncertain bool // an attempt may have taken effect all the same
}

// Error returns all of it in one line.
func (e *Error) Error() string {
	s := e.Method + " " + e.URL + ": " + e.plain().Error()
	var notes []string
	if e.Status != 0 {
		notes = append(notes, "status "+strconv.Itoa(e.Status))
	}
	if e.RequestID != "" {
		notes = append(notes, "request "+e.RequestID)
	}
	if e.Attempts > 1 {
		notes = append(notes, strconv.Itoa(e.Attempts)+" attempts")
	}
	if len(notes) > 0 {
		s += " [" + strings.Join(notes, ", ") + "]"
	}
	return s
}

func (e *Error) plain() *amieusage.Error {
	return &amieusage.Error{Code: e.Code, Message: e.Message, Hint: e.Hint, Err: e.Err}
}

// Unwrap returns the error as an [*amieusage.Error], which wraps the cause.
func (e *Error) Unwrap() error { return e.plain() }

// Is reports whether target is [ErrUnavailable] and the error is such a one.
func (e *Error) Is(target error) bool {
	if target != ErrUnavailable {
		return false
	}
	return e.Status == 0 || isTransient(e.Status) || e.Code == amieusage.CodeBadGateway
}

// isTransient tells the statuses after which another attempt may help.
func isTransient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return isNetworks(status)
}

// isNetworks tells the statuses that are never the service's own: 511 asks for
// a login to the network, and with 520 to 530 content networks tell that the
// service gave them no answer.
func isNetworks(status int) bool {
	return status == http.StatusNetworkAuthenticationRequired || 520 <= status && status <= 530
}

// failure returns the error of an answer that is no success.
func (c *Client) failure(r *request, a *answer) *Error {
	e := c.newError(r, amieusage.CodeForStatus(a.status))
	if isNetworks(a.status) {
		e.Code = amieusage.CodeBadGateway
	}
	e.Status, e.RequestID = a.status, a.header.Get(amieusage.HeaderRequestID)
	e.retry = isTransient(a.status)
	e.uncertain = a.status >= http.StatusInternalServerError
	var body struct {
		Error, Detail, Title json.RawMessage
		Code                 amieusage.Code
		Hint                 string
		RequestID            string `json:"request_id"`
	}
	// Members of unexpected types are left out; the others are read all the same.
	_ = json.Unmarshal(a.body, &body)
	for _, raw := range []json.RawMessage{body.Error, body.Detail, body.Title} {
		if e.Message == "" {
			e.Message = textOf(raw)
		}
	}
	if known := body.Code.HTTPStatus() != http.StatusInternalServerError || body.Code == amieusage.CodeInternal; known {
		e.Code, e.coded = body.Code, true
	}
	if e.RequestID == "" {
		e.RequestID = body.RequestID
	}
	e.Hint = body.Hint
	e.Message = strings.TrimSuffix(e.Message, " ("+e.Hint+")")
	if e.Message == "" {
		e.Message = "the service answered " + strconv.Itoa(a.status) + " " + http.StatusText(a.status)
		if len(a.body) > 0 && !json.Valid(a.body) {
			e.Message += " with a text that is not JSON"
		}
	}
	if e.Hint == "" {
		e.Hint = c.hint(e)
	}
	e.Message, e.Hint, e.RequestID = c.redact(e.Message), c.redact(e.Hint), c.redact(e.RequestID)
	return e
}

// hint says what helps against an error whose answer has no hint of its own.
func (c *Client) hint(e *Error) string {
	switch {
	case e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden:
		return "check the site name and its API key"
	case e.Status == http.StatusNotFound && !e.coded:
		return "check the base URL; not every service has every call"
	case isNetworks(e.Status):
		return "it is not the service that answered, but the network before it"
	case e.Status == http.StatusUnsupportedMediaType && c.compress:
		return "the service may take no gzip: leave WithCompression out"
	}
	return ""
}

// textOf returns the text of a JSON string, other JSON as it is, and "" for
// nothing.
func textOf(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// unusable returns the error of an answer that is a success by its status but
// is not what a Usage API answers: the outcome of the call is unknown.
func (c *Client) unusable(r *request, a *answer, cause error) *Error {
	e := c.newError(r, amieusage.CodeBadGateway)
	e.Status, e.RequestID = a.status, c.redact(a.header.Get(amieusage.HeaderRequestID))
	e.Message = "the answer is not that of a Usage API"
	e.Hint = "a proxy or login page between here and the service may have answered; check the base URL"
	e.Err = c.redactError(cause)
	e.uncertain = true
	return e
}

// astray returns the error of an answer that belongs to another request, as
// where a proxy repeats an answer: from then on each answer of the connection
// may be that of the request before.
func (c *Client) astray(r *request, a *answer) *Error {
	c.http.CloseIdleConnections()
	e := c.newError(r, amieusage.CodeBadGateway)
	e.Status, e.RequestID = a.status, a.header.Get(amieusage.HeaderRequestID)
	e.Message = "the answer is that of another request"
	e.Hint = "a proxy between here and the service mixes answers up"
	e.retry, e.uncertain = true, true
	return e
}

func (c *Client) newError(r *request, code amieusage.Code) *Error {
	return &Error{Method: r.method, URL: c.base + r.path, Code: code, Attempts: 1}
}

// redact takes the API key out of a text that came from outside.
func (c *Client) redact(s string) string { return strings.ReplaceAll(s, c.key(), "[API key]") }

// redactError replaces an error whose text holds the API key, as that of a
// malformed answer may.
func (c *Client) redactError(err error) error {
	if err == nil || !strings.Contains(err.Error(), c.key()) {
		return err
	}
	return errors.New(c.redact(err.Error()))
}
