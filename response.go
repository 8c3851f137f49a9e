package amieusage

import (
	"encoding/json"
	"strconv"
	"strings"
)

// A SendResponse is the service's answer to a message
// (POST {base}/usage/): what was refused at once. All other records of the
// message are on stable storage and will be loaded.
type SendResponse struct {
	// Message is for people, such as [QueuedMessage].
	Message string
	// FailedRecords were refused. A client reads them under either of the
	// names FailedRecords and ValidationFailedRecords.
	FailedRecords []FailedRecord
}

// QueuedMessage returns the text with which the service answers a message: how
// many records it has queued, and how many it has refused at once. Scripts are
// known to look for "0 records failed".
func QueuedMessage(queued, failed int) string {
	return strconv.Itoa(queued) + queuedText + ", " + strconv.Itoa(failed) + failedText
}

const (
	queuedText = " records have been queued for loading"
	failedText = " records failed."
)

// Queued returns the number of records that the answer acknowledges, where its
// Message begins as a [QueuedMessage] does.
func (r *SendResponse) Queued() (n int, ok bool) {
	digits, rest, ok := strings.Cut(r.Message, queuedText)
	if !ok || rest != "" && rest[0] != '.' && rest[0] != ',' {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil
}

// MarshalJSON writes the list of failed records under both names that clients
// read.
func (r SendResponse) MarshalJSON() ([]byte, error) {
	dst := appendString(appendName([]byte{'{'}, "Message"), r.Message)
	return append(appendFailedLists(dst, r.FailedRecords), '}'), nil
}

// UnmarshalJSON reads the list of failed records under either name.
func (r *SendResponse) UnmarshalJSON(data []byte) error {
	var body struct {
		Message string
		failedLists
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return err
	}
	*r = SendResponse{Message: body.Message, FailedRecords: body.records()}
	return nil
}

// String returns the answer in one readable line.
func (r SendResponse) String() string {
	if _, ok := r.Queued(); ok && strings.HasSuffix(r.Message, failedText) {
		return r.Message
	}
	return r.Message + " " + strconv.Itoa(len(r.FailedRecords)) + " records were refused."
}
