package httpapi

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/amieusage/amieusage"
)

// send serves POST usage/: it answers when every record that it does not name
// as failed is on stable storage.
func (h *Handler) send(x *exchange) (*answer, error) {
	if h.stopping.Load() {
		return nil, errStopping
	}
	response, size, err := h.accept(x)
	if wasted(size, response) {
		x.linger()
	}
	if err != nil {
		return nil, err
	}
	x.noted = append(x.noted,
		slog.String("outcome", response.Message), slog.Int("refused", len(response.FailedRecords)))
	return jsonAnswer(response)
}

// accept reads a message, of which it also returns the length in bytes, and
// stores it.
func (h *Handler) accept(x *exchange) (response *amieusage.SendResponse, size int64, err error) {
	if err := checkContentType(x.Header.Get("Content-Type")); err != nil {
		return nil, x.ContentLength, err
	}
	message, err := h.readBody(x.Request)
	size = max(int64(len(message)), x.ContentLength)
	if err != nil {
		return nil, size, err
	}
	if err := take(x.Context(), x.share.senders); err != nil {
		return nil, size, err
	}
	defer func() { <-x.share.senders }()
	response, err = h.service.Accept(x.Context(), x.who, x.resources, message)
	return response, size, err
}

// checkContentType accepts JSON, no type at all, and what curl -d says of any
// body: nobody is protected by refusing it, as the key is in a header.
func checkContentType(header string) error {
	if header == "" {
		return nil
	}
	mediaType, parameters, err := mime.ParseMediaType(header)
	charset := strings.ToLower(parameters["charset"])
	if err == nil && (mediaType == "application/json" || mediaType == "application/x-www-form-urlencoded") && (charset == "" || charset == "utf-8" || charset == "utf8") {
		return nil
	}
	return &amieusage.Error{
		Code:    amieusage.CodeUnsupportedMedia,
		Message: "the Content-Type " + strconv.Quote(cut(header, 64)) + " is not JSON in UTF-8",
		Hint:    "send the header Content-Type: application/json; with curl: -H 'Content-Type: application/json'",
	}
}

// readBody returns the request's body, unzipped, or with an error what was read
// of it. It never holds more than twice the limit.
func (h *Handler) readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > h.maxBody {
		return nil, h.errTooLarge()
	}
	raw := http.MaxBytesReader(nil, r.Body, h.maxBody)
	var body bytes.Buffer
	var err error
	switch coding := strings.ToLower(r.Header.Get("Content-Encoding")); coding {
	case "", "identity":
		if r.ContentLength > 0 {
			body.Grow(int(r.ContentLength) + bytes.MinRead)
		}
		_, err = body.ReadFrom(raw)
	case "gzip", "x-gzip":
		var unzipped *gzip.Reader
		if unzipped, err = gzip.NewReader(raw); err == nil {
			_, err = body.ReadFrom(http.MaxBytesReader(nil, io.NopCloser(unzipped), h.maxBody))
		}
	default:
		return nil, &refusal{
			header: http.Header{"Accept-Encoding": {"gzip, identity"}},
			err: &amieusage.Error{
				Code:    amieusage.CodeUnsupportedMedia,
				Message: "the Content-Encoding " + strconv.Quote(cut(coding, 64)) + " is not known",
				Hint:    "send the body as it is or with gzip",
			},
		}
	}
	if err == nil {
		return body.Bytes(), nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return body.Bytes(), h.errTooLarge()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return body.Bytes(), &amieusage.Error{
			Code:    amieusage.CodeTimeout,
			Message: "the request body did not arrive in time; nothing was stored",
			Hint:    "send fewer records in each message",
		}
	}
	return body.Bytes(), &amieusage.Error{
		Code:    amieusage.CodeInvalid,
		Message: "the request body cannot be read to its end; nothing was stored",
		Hint:    "a body with Content-Encoding: gzip must be whole, and so must one with a Content-Length",
	}
}

func (h *Handler) errTooLarge() error {
	return &amieusage.Error{
		Code:    amieusage.CodeTooLarge,
		Message: "the request body is larger than " + strconv.FormatInt(h.maxBody, 10) + " bytes, as it came or unzipped",
		Hint:    "send fewer records in each message",
	}
}
