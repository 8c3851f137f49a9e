package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// A refusal is an error that may be shown to the caller as it is.
type refusal struct {
	err        *amieusage.Error
	retryAfter time.Duration // 0: say nothing about when to come again
	header     http.Header   // further header fields, or nil
}

func (r *refusal) Error() string { return r.err.Error() }

const retryHint = "sending the same records again is safe"

var (
	errBusy = &refusal{
		err: &amieusage.Error{
			Code:    amieusage.CodeUnavailable,
			Message: "the service is serving as many requests as it can",
			Hint:    "try again in a moment",
		},
		retryAfter: time.Second,
	}
	errStopping = &refusal{
		err: &amieusage.Error{
			Code:    amieusage.CodeUnavailable,
			Message: "the service is stopping",
			Hint:    "try again in a moment; " + retryHint,
		},
		retryAfter: 5 * time.Second,
	}
	errOverdue = &refusal{
		err: &amieusage.Error{
			Code:    amieusage.CodeUnavailable,
			Message: "the service could not finish the request in time",
			Hint:    "try again in a moment; " + retryHint,
		},
		retryAfter: 10 * time.Second,
	}
	errStorage = &refusal{
		err: &amieusage.Error{
			Code:    amieusage.CodeUnavailable,
			Message: "the service cannot use its storage at the moment",
			Hint:    "try again later; " + retryHint,
		},
		retryAfter: 30 * time.Second,
	}
	errUnexpected = &refusal{
		err: &amieusage.Error{
			Code:    amieusage.CodeInternal,
			Message: "the service met an unexpected error",
			Hint:    "tell the service's operator the request_id; " + retryHint,
		},
	}
)

// queueRetryAfter is when a site whose queue is too deep may come again: some
// hundred thousand records later.
const queueRetryAfter = 10 * time.Second

// refusalOf returns what the caller is told about an error. What goes wrong
// inside the service is none of the caller's business; it is logged.
func (h *Handler) refusalOf(x *exchange, err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if unknown, ok := errors.AsType[*ledger.UnknownFailedError](err); ok {
		return &refusal{err: &amieusage.Error{
			Code:    amieusage.CodeNotFound,
			Message: unknown.Error(),
			Hint:    "the ids of the open ones are at GET " + Prefix + "/usage/failed",
		}}
	}
	e, known := errors.AsType[*amieusage.Error](err)
	if known && e.Code.HTTPStatus() < http.StatusInternalServerError {
		r := &refusal{err: e}
		switch e.Code {
		case amieusage.CodeUnauthorized:
			r.header = http.Header{"Www-Authenticate": {`ApiKey realm="Usage API"`}}
		case amieusage.CodeTooManyRequests:
			r.retryAfter = queueRetryAfter
		}
		return r
	}
	log := h.log.With("request_id", x.id, "site", x.who.Name, "error", err)
	switch {
	case errors.Is(err, context.Canceled):
		log.Debug("the client went away")
		return errOverdue
	case errors.Is(err, context.DeadlineExceeded):
		log.Error("request not finished in time")
		return errOverdue
	}
	log.Error("request failed")
	if known && e.Code == amieusage.CodeUnavailable {
		return errStorage
	}
	return errUnexpected
}

// problem returns the answer that tells of an error.
func (h *Handler) problem(x *exchange, err error) *answer {
	r := h.refusalOf(x, err)
	status := r.err.Code.HTTPStatus()
	header := r.header
	if r.retryAfter > 0 {
		header = header.Clone()
		if header == nil {
			header = http.Header{}
		}
		header.Set("Retry-After", strconv.Itoa(int(r.retryAfter.Seconds())))
	}
	text := r.err.Error()
	// Texts and numbers always have a JSON form.
	body, _ := json.Marshal(struct {
		Error     string         `json:"error"`
		Type      string         `json:"type"`
		Title     string         `json:"title"`
		Status    int            `json:"status"`
		Detail    string         `json:"detail"`
		Code      amieusage.Code `json:"code"`
		Hint      string         `json:"hint,omitempty"`
		RequestID string         `json:"request_id"`
	}{text, "about:blank", http.StatusText(status), status, text, r.err.Code, r.err.Hint, x.id})
	return &answer{status: status, contentType: "application/problem+json", header: header, body: body}
}
