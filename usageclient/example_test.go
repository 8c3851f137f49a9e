package usageclient_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/usageclient"
)

// serviceURL is the address of a service that knows alice, but not bob.
var serviceURL = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	answers := map[string]string{
		"GET /usage/status": `[{"Resource": "bridges2-rm.psc.access-ci.org", "LoadedRecordCount": 41, "FailedJobCount": 1, "TotalCharge": "650.25",
			"Errors": [{"Error": "unknown user", "Records": [{"UsageType": "Compute", "LocalRecordID": "4712"}]}]}]`,
		"GET /usage/failed": `{"FailedRecords": [{"UsageType": "Compute", "LocalRecordID": "4712", "Username": "bob",
			"Error": "unknown user", "FailedRecordID": 17}]}`,
		"DELETE /usage/failed/17,18": `{"Message": "2 failed records have been cleared."}`,
		"GET /usage/loaded": `[{"AccountingDbRecordID": 1, "UsageType": "Compute", "LocalRecordID": "4711", "Resource": "bridges2-rm.psc.access-ci.org",
			"SubmitTime": "2026-10-01T23:59:00Z", "LoadedTime": "2026-10-02T05:00:00Z", "Charge": "16.25"}]`,
		"GET /usage/summary": `{"GroupBy": ["project"], "Rows": [{"LocalProjectID": "p.abc123456.000", "RecordCount": 41, "Charge": "650.25"}]}`,
	}
	if r.Method != http.MethodPost {
		_, _ = io.WriteString(w, answers[r.Method+" "+r.URL.Path])
		return
	}
	body, _ := io.ReadAll(r.Body)
	t, items, _ := amieusage.DecodeMessage(body)
	var response amieusage.SendResponse
	for _, item := range items {
		if record, _ := amieusage.CheckRecord(t, item); record.Common().Username == "bob" {
			response.FailedRecords = append(response.FailedRecords, amieusage.FailedRecord{Error: "unknown user", Record: record})
		}
	}
	response.Message = amieusage.QueuedMessage(len(items)-len(response.FailedRecords), len(response.FailedRecords))
	answer, _ := response.MarshalJSON()
	_, _ = w.Write(answer)
})).URL

// job returns the record of a job that ran for four hours.
func job(id, user string) *amieusage.ComputeRecord {
	charge, err := amieusage.ParseCharge("16.25")
	if err != nil {
		log.Fatal(err)
	}
	submit := time.Date(2026, 10, 1, 23, 59, 0, 0, time.UTC)
	return &amieusage.ComputeRecord{
		Username:       user,
		LocalProjectID: "p.abc123456.000",
		LocalRecordID:  id,
		Resource:       "bridges2-rm.psc.access-ci.org",
		SubmitTime:     submit,
		StartTime:      submit.Add(time.Minute),
		EndTime:        submit.Add(4*time.Hour + time.Minute),
		Charge:         charge,
		NodeCount:      amieusage.CountOf(4),
	}
}

func client() *usageclient.Client {
	c, err := usageclient.New("PSC", "the-api-key", usageclient.WithBaseURL(serviceURL))
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func ExampleNew() {
	c, err := usageclient.New("PSC", "the-api-key",
		usageclient.WithBaseURL("https://usage.example.org/api/v1"),
		usageclient.WithTimeout(30*time.Second),
		usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 10, MaxElapsed: time.Hour}),
	)
	fmt.Println(c, err)
	// A key that was read from a file often ends with a line break: that is no part of it.
	c, err = usageclient.New("PSC", "the-api-key\n")
	fmt.Println(c, err)
	// Output:
	// usage client of site PSC at https://usage.example.org/api/v1 <nil>
	// usage client of site PSC at https://usage.access-ci.org/api/v1 <nil>
}

func ExampleClient_Send() {
	result, err := client().Send(context.Background(), job("4711", "alice"), job("4712", "bob"), job("", "alice"))
	fmt.Println(result, err)
	for _, o := range result.Refused() {
		fmt.Printf("record %d: %v\n", o.Index, o.Err)
	}
	// Output:
	// 1 accepted, 2 refused, 0 unsent <nil>
	// record 1: unknown user
	// record 2: LocalRecordID is required
}

func ExampleClient_Send_unavailable() {
	c, err := usageclient.New("PSC", "the-api-key",
		usageclient.WithBaseURL("http://127.0.0.1:1"), // where nothing listens
		usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 2, FirstDelay: time.Millisecond}))
	if err != nil {
		log.Fatal(err)
	}
	result, err := c.Send(context.Background(), job("4711", "alice"))
	if errors.Is(err, usageclient.ErrUnavailable) {
		fmt.Printf("try again later: %d records\n", len(result.Unsent()))
	}
	// Output:
	// try again later: 1 records
}

func ExampleClient_SendMessage() {
	m, err := amieusage.NewMessage(job("4711", "alice"), job("4713", "alice"))
	if err != nil {
		log.Fatal(err)
	}
	result, err := client().SendMessage(context.Background(), m)
	fmt.Println(result, err)
	// Output:
	// 2 accepted, 0 refused, 0 unsent <nil>
}

func ExampleClient_SendStream() {
	// A sequence may read a file or a database, and is never held as a whole.
	var jobs iter.Seq2[amieusage.Record, error] = func(yield func(amieusage.Record, error) bool) {
		for i := range 5000 {
			if !yield(job(fmt.Sprint(4711+i), "alice"), nil) {
				return
			}
		}
	}
	accepted := 0
	err := client().SendStream(context.Background(), jobs, func(part *usageclient.SendResult) error {
		// Here a durable outbox marks its entries, by Index.
		accepted += len(part.Accepted())
		return nil
	})
	fmt.Println(accepted, err)
	// Output:
	// 5000 <nil>
}

func ExampleClient_Status() {
	status, err := client().Status(context.Background(), amieusage.StatusQuery{
		From: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC),
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, row := range status {
		fmt.Println(row)
		for _, e := range row.Errors {
			fmt.Printf("%s: %d records\n", e.Error, len(e.Records))
		}
	}
	// Output:
	// bridges2-rm.psc.access-ci.org: 41 loaded, 1 failed, total charge 650.25
	// unknown user: 1 records
}

func ExampleClient_ListFailed() {
	failed, err := client().ListFailed(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range failed {
		fmt.Printf("%d: job %s of %s: %s\n", f.FailedRecordID, f.Record.Common().LocalRecordID, f.Record.Common().Username, f.Error)
	}
	// Output:
	// 17: job 4712 of bob: unknown user
}

func ExampleClient_ClearFailedIDs() {
	cleared, err := client().ClearFailedIDs(context.Background(), 17, 18)
	fmt.Println(cleared, err)
	// Output:
	// [17 18] <nil>
}

func ExampleClient_ClearFailed() {
	failed, err := client().ListFailed(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	cleared, err := client().ClearFailed(context.Background(), failed...)
	fmt.Println(cleared, err)
	// Output:
	// [17] <nil>
}

func ExampleClient_ListLoaded() {
	page, next, err := client().ListLoaded(context.Background(), amieusage.LoadedQuery{PageSize: 1000})
	if err != nil {
		log.Fatal(err)
	}
	for _, record := range page {
		fmt.Println(record.LocalRecordID, record.Charge)
	}
	fmt.Println("last page:", next == "")
	// Output:
	// 4711 16.25
	// last page: true
}

func ExampleClient_AllFailed() {
	for failed, err := range client().AllFailed(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(failed.FailedRecordID, failed.Error)
	}
	// Output:
	// 17 unknown user
}

func ExampleClient_AllLoaded() {
	yesterday := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	for record, err := range client().AllLoaded(context.Background(), amieusage.LoadedQuery{MinLoadedTime: yesterday}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(record.LocalRecordID, record.Charge, strings.TrimSuffix(record.Resource, ".access-ci.org"))
	}
	// Output:
	// 4711 16.25 bridges2-rm.psc
}

func ExampleClient_Summary() {
	summary, err := client().Summary(context.Background(), amieusage.SummaryQuery{
		GroupBy: []amieusage.GroupKey{amieusage.ByProject},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, row := range summary.Rows {
		fmt.Println(row)
	}
	// Output:
	// p.abc123456.000: 41 records, charge 650.25
}

func ExampleError() {
	// Nobody listens there.
	c, err := usageclient.New("PSC", "the-api-key", usageclient.WithBaseURL("http://127.0.0.1:1/api/v1"),
		usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 1}))
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.Status(context.Background(), amieusage.StatusQuery{})
	if e, ok := errors.AsType[*usageclient.Error](err); ok {
		fmt.Println(e.Method, e.Status, e.Code, e.Attempts)
	}
	fmt.Println("try again later:", errors.Is(err, usageclient.ErrUnavailable))
	// Output:
	// GET 0 unavailable 1
	// try again later: true
}

func ExampleClient_SendOnce() {
	outcome, err := client().SendOnce(context.Background(), job("4711", "alice"))
	fmt.Println(outcome.State, err)
	// Output: accepted <nil>
}

func ExampleWithTLSConfig() {
	authorities := x509.NewCertPool() // with AppendCertsFromPEM: the site's own
	c, err := usageclient.New("PSC", "the-api-key",
		usageclient.WithBaseURL("https://usage.example.org/api/v1"),
		usageclient.WithTLSConfig(&tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12}),
		usageclient.WithCompression(), // where the service takes gzip
	)
	fmt.Println(c, err)
	// Output: usage client of site PSC at https://usage.example.org/api/v1 <nil>
}

func ExampleSendResult() {
	result, err := client().Send(context.Background(), job("4711", "alice"), job("4712", "bob"))
	fmt.Println(err, len(result.Accepted()), len(result.Refused()), len(result.Unsent()))
	for _, o := range result.Outcomes {
		fmt.Println(o.Record.Common().LocalRecordID, o.State, o.Err)
	}
	// Output:
	// <nil> 1 1 0
	// 4711 accepted <nil>
	// 4712 refused unknown user
}

func ExampleRetryPolicy() {
	// A nightly job may be patient; a page that somebody looks at may not.
	patient := usageclient.RetryPolicy{MaxAttempts: 20, MaxDelay: 5 * time.Minute, MaxElapsed: 6 * time.Hour}
	once := usageclient.RetryPolicy{MaxAttempts: 1}
	for _, policy := range []usageclient.RetryPolicy{patient, once} {
		_, err := usageclient.New("PSC", "the-api-key", usageclient.WithRetry(policy), usageclient.WithTimeout(20*time.Second))
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// <nil>
}

func ExampleWithHTTPClient() {
	c, err := usageclient.New("PSC", "the-api-key", usageclient.WithBaseURL(serviceURL),
		usageclient.WithHTTPClient(&http.Client{Transport: http.DefaultTransport}), // with a site's own tracing, say
		usageclient.WithUserAgent("psc-report/1.0"),
		usageclient.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseIdleConnections()
	status, err := c.Status(context.Background(), amieusage.StatusQuery{})
	fmt.Println(len(status), err)
	// Output: 1 <nil>
}

func ExampleWithMaxRequestBytes() {
	// For a service behind a proxy that takes 256 KB and a thousand records.
	c, err := usageclient.New("PSC", "the-api-key", usageclient.WithBaseURL(serviceURL),
		usageclient.WithMaxRequestBytes(256<<10), usageclient.WithMaxRequestRecords(1000))
	if err != nil {
		log.Fatal(err)
	}
	result, err := c.Send(context.Background(), job("4711", "alice"))
	fmt.Println(len(result.Responses), err)
	// What a service was found to want can be kept for the next run.
	c.SetRequestBytes(max(c.RequestBytes(), 0))
	// Output: 1 <nil>
}

func ExampleWithBaseURL() {
	_, err := usageclient.New("PSC", "the-api-key", usageclient.WithBaseURL("http://usage.example.org/api/v1"))
	fmt.Println(err) // the key would travel in clear text
	_, err = usageclient.New("PSC", "the-api-key", usageclient.WithBaseURL("http://usage.example.org/api/v1"), usageclient.WithInsecureHTTP())
	fmt.Println(err)
	// Output:
	// the base URL http://usage.example.org would send the API key in clear text (use https://, or WithInsecureHTTP where the network is trusted)
	// <nil>
}

func ExampleWithoutValidation() {
	// The service judges alone.
	c, err := usageclient.New("PSC", "the-api-key", usageclient.WithBaseURL(serviceURL), usageclient.WithoutValidation())
	if err != nil {
		log.Fatal(err)
	}
	result, err := c.Send(context.Background(), &amieusage.ComputeRecord{Username: "bob"})
	fmt.Println(len(result.Refused()), err)
	// Output: 1 <nil>
}

func ExampleClient_IsAmieusage() {
	c := client()
	_, err := c.Status(context.Background(), amieusage.StatusQuery{})
	fmt.Println(c.IsAmieusage(), err) // known from an answer on
	// Output: false <nil>
}
