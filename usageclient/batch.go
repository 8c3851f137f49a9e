package usageclient

import (
	"slices"

	"github.com/amieusage/amieusage"
)

// A batch is the records of one request on their way, with the JSON of those
// that are sent. What stands in body is written once and not changed again: an
// HTTP transport may read it even after the request has failed.
type batch struct {
	usageType amieusage.UsageType
	items     []item
	records   int    // of the items, those that are sent
	body      []byte // the message without its end
	start     int    // length of what stands before the records
}

// An item is one record of a batch.
type item struct {
	index   int
	record  amieusage.Record
	end     int   // where the record's JSON ends in the body
	refusal error // why the record is not sent, or nil
}

// newBatch returns an empty batch with room for a body of about size bytes.
func newBatch(t amieusage.UsageType, size int) *batch {
	body := amieusage.AppendMessageStart(make([]byte, 0, size+size/16), t)
	return &batch{usageType: t, body: body, start: len(body)}
}

// size is the length of the message in bytes.
func (b *batch) size() int { return len(b.body) + len(amieusage.MessageEnd) }

// message returns the body of the request.
func (b *batch) message() []byte { return append(b.body, amieusage.MessageEnd...) }

// sizeOf is the length of a message that holds nothing but the one record.
func (b *batch) sizeOf(data []byte) int { return b.start + len(data) + len(amieusage.MessageEnd) }

// append adds a record with its JSON.
func (b *batch) append(index int, r amieusage.Record, data []byte) {
	if b.records > 0 {
		b.body = append(b.body, ',')
	}
	b.body = append(b.body, data...)
	b.items = append(b.items, item{index: index, record: r, end: len(b.body)})
	b.records++
}

// refuse adds a record that is not sent.
func (b *batch) refuse(it item) {
	it.end = len(b.body)
	b.items = append(b.items, it)
}

// halves parts a batch of at least two records that are sent; each half has at
// least one of them.
func (b *batch) halves() (left, right *batch) { return b.part(b.records / 2) }

// part parts a batch behind the nth of its records that are sent, which is not
// the last of them.
func (b *batch) part(n int) (left, right *batch) {
	k, records := 0, 0
	for records < n {
		if b.items[k].refusal == nil {
			records++
		}
		k++
	}
	end := b.items[k-1].end
	left = &batch{b.usageType, b.items[:k:k], records, b.body[:end:end], b.start}
	right = newBatch(b.usageType, len(b.body)-end+b.start)
	right.body = append(right.body, b.body[end+len(","):]...)
	right.records = b.records - records
	right.items = slices.Clone(b.items[k:])
	for i := range right.items {
		right.items[i].end = max(right.start, right.items[i].end-end-len(",")+b.start)
	}
	return left, right
}

// result gives all records that are sent the one state.
func (b *batch) result(state State, err error) *SendResult {
	return b.resultOf(func(int) (State, error) { return state, err })
}

// resultOf asks for the state of each item that is sent; the others are
// refused.
func (b *batch) resultOf(judge func(i int) (State, error)) *SendResult {
	outcomes := make([]Outcome, len(b.items))
	for i, it := range b.items {
		o := Outcome{Index: it.index, Record: it.record, State: Refused, Err: it.refusal}
		if it.refusal == nil {
			o.State, o.Err = judge(i)
		}
		outcomes[i] = o
	}
	return &SendResult{Outcomes: outcomes}
}
