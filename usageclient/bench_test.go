package usageclient

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/amieusage/amieusage"
)

// inProcess answers without a network, so that only the client's work counts.
type inProcess struct{ body string }

func (s inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(s.body)), Request: r}, nil
}

// BenchmarkSendStream measures validating records, encoding them and splitting
// them into requests.
func BenchmarkSendStream(b *testing.B) {
	records := computes(10_000)
	for _, bench := range []struct {
		name string
		opts []Option
	}{{"validated", nil}, {"as they are", []Option{WithoutValidation()}}, {"compressed", []Option{WithCompression()}}} {
		b.Run(bench.name, func(b *testing.B) {
			client := &http.Client{Transport: inProcess{`{"Message": "thank you"}`}}
			c := newClient(b, amieusage.DefaultURL, append(bench.opts, WithHTTPClient(client))...)
			b.ReportAllocs()
			for b.Loop() {
				taken := 0
				err := c.SendStream(context.Background(), streamOf(records, &taken, nil), func(*SendResult) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(len(records))/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkSendRefused measures a send of which every tenth record is refused
// by the service.
func BenchmarkSendRefused(b *testing.B) {
	records := computes(1000)
	var response amieusage.SendResponse
	for i := 0; i < len(records); i += 10 {
		response.FailedRecords = append(response.FailedRecords,
			amieusage.FailedRecord{UsageType: amieusage.Compute, Error: "unknown user", Record: records[i]})
	}
	body, err := json.Marshal(response)
	if err != nil {
		b.Fatal(err)
	}
	c := newClient(b, amieusage.DefaultURL, WithHTTPClient(&http.Client{Transport: inProcess{string(body)}}))
	for b.Loop() {
		result, err := c.Send(context.Background(), records...)
		if err != nil || len(result.Refused()) != 100 {
			b.Fatal(result, err)
		}
	}
	b.ReportMetric(float64(b.N)*float64(len(records))/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkLoaded measures reading a page of loaded records.
func BenchmarkLoaded(b *testing.B) {
	const n = 5000
	var page bytes.Buffer
	for i := range n {
		r := compute(i)
		data, err := json.Marshal(amieusage.LoadedRecord{
			AccountingDbRecordID: int64(i + 1), UsageType: amieusage.Compute, LocalRecordID: r.LocalRecordID,
			Resource: r.Resource, SubmitTime: r.SubmitTime, LoadedTime: r.EndTime, Charge: r.Charge,
		})
		if err != nil {
			b.Fatal(err)
		}
		page.WriteByte("[,"[min(i, 1)])
		page.Write(data)
	}
	page.WriteByte(']')
	c := newClient(b, amieusage.DefaultURL, WithHTTPClient(&http.Client{Transport: inProcess{page.String()}}))
	for b.Loop() {
		for _, err := range c.AllLoaded(context.Background(), amieusage.LoadedQuery{}) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "records/s")
}
