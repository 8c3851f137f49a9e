package usageclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"

	"github.com/klauspost/compress/gzip"

	"github.com/amieusage/amieusage"
)

// A State is what became of a record that was sent.
type State uint8

// The states of a record that was sent.
const (
	// Unsent: the record is not known to be accepted. Sending it again is safe,
	// and is what to do.
	Unsent State = iota
	// Accepted: the record is on the service's stable storage.
	Accepted
	// Refused: the record was not accepted, and will not be as it is.
	Refused
)

// String returns "unsent", "accepted" or "refused".
func (s State) String() string {
	switch s {
	case Accepted:
		return "accepted"
	case Refused:
		return "refused"
	}
	return "unsent"
}

// An Outcome is what became of one record.
type Outcome struct {
	// Index is the record's place among those that were sent in the call,
	// counted from 0.
	Index  int
	Record amieusage.Record // as it was given
	State  State
	// Err says why the record was refused or is unsent; nil where it was
	// accepted. The service's own reason is an [*amieusage.Error] with the
	// reason as its message; what was not even sent has an
	// [*amieusage.ValidationError].
	Err error
}

// A SendResult is what became of the records of a send or, in a stream, of one
// request.
type SendResult struct {
	// Outcomes has one element for each record, in the order in which they were
	// given.
	Outcomes []Outcome
	// Unmatched are failed records that the service listed though they are none
	// of those sent: earlier ones, which have a FailedRecordID.
	Unmatched []amieusage.FailedRecord
	// Responses are the service's own answers, one for each request that it
	// took, in the order in which they were sent.
	Responses []*amieusage.SendResponse
}

// Accepted returns the outcomes of the accepted records.
func (r *SendResult) Accepted() []Outcome { return r.in(Accepted) }

// Refused returns the outcomes of the refused records.
func (r *SendResult) Refused() []Outcome { return r.in(Refused) }

// Unsent returns the outcomes of the records that are to be sent again.
func (r *SendResult) Unsent() []Outcome { return r.in(Unsent) }

func (r *SendResult) in(s State) []Outcome {
	var outcomes []Outcome
	for _, o := range r.Outcomes {
		if o.State == s {
			outcomes = append(outcomes, o)
		}
	}
	return outcomes
}

// String counts the records in one line.
func (r *SendResult) String() string {
	var n [Refused + 1]int
	for _, o := range r.Outcomes {
		n[o.State]++
	}
	return fmt.Sprintf("%d accepted, %d refused, %d unsent", n[Accepted], n[Refused], n[Unsent])
}

// Send sends records of any kinds, in as many requests as it takes
// (POST {base}/usage/). Outcomes[i] of the result belongs to records[i]. The
// error is not nil if and only if a record is unsent, and is the first error
// that left one; the result is there in any case.
func (c *Client) Send(ctx context.Context, records ...amieusage.Record) (*SendResult, error) {
	result := &SendResult{Outcomes: make([]Outcome, len(records))}
	s := c.newStream(ctx, func(part *SendResult) error {
		for _, o := range part.Outcomes {
			result.Outcomes[o.Index] = o
		}
		result.Unmatched = append(result.Unmatched, part.Unmatched...)
		result.Responses = append(result.Responses, part.Responses...)
		return nil
	})
	for i, r := range records {
		// The errors are those of the function above, which has none.
		_ = s.add(i, r)
	}
	_ = s.flush()
	return result, s.first
}

// SendMessage sends the records of a message as Send does; one that is too
// large for a request goes in several. The error is an [*amieusage.Error] with
// [amieusage.CodeInvalid], and nothing is sent, where a record is not of the
// message's kind.
func (c *Client) SendMessage(ctx context.Context, m *amieusage.Message) (*SendResult, error) {
	if m == nil {
		return nil, invalid("the message is nil", "")
	}
	for i, r := range m.Records {
		if !isNil(r) && r.UsageType() != m.UsageType {
			return nil, invalid("record "+strconv.Itoa(i+1)+" of the "+string(m.UsageType)+" message is a "+
				string(r.UsageType())+" record", "send records of different kinds in different messages, or with Send")
		}
	}
	return c.Send(ctx, m.Records...)
}

// SendStream sends the records of a sequence of any length and of any kinds,
// holding no more of them than one request of each kind does
// (POST {base}/usage/). After each request it calls report with what became of
// the request's records, and of those before them that were refused without
// being sent. Records of one kind keep their order; kinds may overtake one
// another.
//
// Every record that was taken from the sequence is reported exactly once,
// unless report itself fails: its error ends the stream at once and is
// returned, and what was not reported by then was not sent. Where the sequence
// yields an error, the records before it are sent and the error is returned.
//
// A request that the service refuses as a whole (400, 409, 422), fails at (500),
// or does not answer in spite of all retries, is sent again in halves, once its
// first or its second record was accepted alone: what the service cannot take may
// be its size, or one record. That one is left unsent, with an error in which
// errors.Is finds [ErrRecord], and the stream goes on. Where neither record is
// accepted, all are left unsent; after three such requests in a row the stream
// ends. It also ends on any other error, such as a wrong key or a service that
// cannot be reached, since the next request would fare no better. The error
// returned is the first one, but for ErrRecord if there is another.
//
// A request that the service finds too large is halved and sent again, and
// later ones are kept below the size that was too large.
func (c *Client) SendStream(ctx context.Context, records iter.Seq2[amieusage.Record, error],
	report func(*SendResult) error) error {
	s := c.newStream(ctx, report)
	index := 0
	for r, err := range records {
		if err != nil {
			s.note(fmt.Errorf("usageclient: reading the record after %d others: %w", index, err))
			break
		}
		if err := s.add(index, r); err != nil {
			return err
		}
		if s.ended != nil {
			break
		}
		index++
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.first
}

// SendOnce sends one record in a request of its own, which is not tried again.
// The error is that of [Client.Send].
func (c *Client) SendOnce(ctx context.Context, record amieusage.Record) (Outcome, error) {
	var outcome Outcome
	s := c.newStream(ctx, func(part *SendResult) error {
		outcome = part.Outcomes[0]
		return nil
	})
	s.apart, s.single = true, true
	// The errors are those of the function above, which has none.
	_ = s.add(0, record)
	_ = s.flush()
	return outcome, s.first
}

// post sends the message of a batch; once: it is not tried again.
func (c *Client) post(ctx context.Context, b *batch, once bool) (*amieusage.SendResponse, error) {
	r := &request{method: http.MethodPost, path: "/usage/", body: b.message(), once: once}
	if c.compress {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		// Writing to memory does not fail.
		_, _ = w.Write(r.body)
		_ = w.Close()
		r.body, r.gzip = zipped.Bytes(), true
	}
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	var members struct {
		Message, FailedRecords, ValidationFailedRecords json.RawMessage
	}
	if err := c.decode(r, a, '{', &members); err != nil {
		return nil, err
	}
	if members.Message == nil && members.FailedRecords == nil && members.ValidationFailedRecords == nil {
		return nil, c.unusable(r, a, errors.New("it has neither Message nor FailedRecords"))
	}
	response := new(amieusage.SendResponse)
	if err := c.decode(r, a, '{', response); err != nil {
		return nil, err
	}
	// A record may be listed as failed and counted all the same.
	if n, ok := response.Queued(); ok && (n > b.records || n < b.records-len(response.FailedRecords)) {
		c.http.CloseIdleConnections()
		return nil, c.unusable(r, a, fmt.Errorf("it is about %d records, and %d were sent", n, b.records))
	}
	return response, nil
}
