package amieusage_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/amieusage/amieusage"
)

// job is the record of a finished job.
func job() *amieusage.ComputeRecord {
	charge, err := amieusage.ParseCharge("16.25")
	if err != nil {
		log.Fatal(err)
	}
	submitted := time.Date(2026, 10, 1, 23, 59, 0, 0, time.UTC)
	return &amieusage.ComputeRecord{
		Username:       "alice",
		LocalProjectID: "p.abc123456.000",
		LocalRecordID:  "4711",
		Resource:       "bridges2-rm.psc.access-ci.org",
		SubmitTime:     submitted,
		StartTime:      submitted.Add(time.Minute),
		EndTime:        submitted.Add(4 * time.Hour),
		Charge:         charge,
		NodeCount:      amieusage.CountOf(4),
		Queue:          "RM",
	}
}

func Example() {
	record := job()
	if err := record.Validate(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(record)
	fmt.Println(string(record.AppendJSON(nil)))
	// Output:
	// Compute 4711 of alice for p.abc123456.000 on bridges2-rm.psc.access-ci.org at 2026-10-01T23:59:00Z: charge 16.25
	// {"Username":"alice","LocalProjectID":"p.abc123456.000","LocalRecordID":"4711","Resource":"bridges2-rm.psc.access-ci.org","SubmitTime":"2026-10-01T23:59:00Z","StartTime":"2026-10-02T00:00:00Z","EndTime":"2026-10-02T03:59:00Z","Charge":"16.25","Attributes":{"NodeCount":4,"Queue":"RM"}}
}

func ExampleIndent() {
	refund := &amieusage.AdjustmentRecord{
		AdjustmentType: amieusage.Refund,
		Username:       "alice",
		LocalProjectID: "p.abc123456.000",
		LocalRecordID:  "adj-1",
		Resource:       "bridges2-rm.psc.access-ci.org",
		StartTime:      job().SubmitTime,
		Charge:         amieusage.ChargeOfMillionths(2_500_000),
		Comment:        "node failure",
	}
	fmt.Println(amieusage.Indent(refund))
	// Output:
	// {
	//   "AdjustmentType": "refund",
	//   "Username": "alice",
	//   "LocalProjectID": "p.abc123456.000",
	//   "LocalRecordID": "adj-1",
	//   "Resource": "bridges2-rm.psc.access-ci.org",
	//   "StartTime": "2026-10-01T23:59:00Z",
	//   "Charge": "2.5",
	//   "Comment": "node failure"
	// }
}

func ExampleValidationError() {
	record := job()
	record.Username = ""
	record.EndTime = record.StartTime.Add(-time.Second)
	record.NodeCount = amieusage.CountOf(-1)
	err := record.Validate()
	if invalid, ok := errors.AsType[*amieusage.ValidationError](err); ok {
		for _, field := range invalid.Fields {
			fmt.Println(field.Field, field.Problem)
		}
	}
	// Output:
	// Username is required
	// EndTime must not be before StartTime
	// Attributes.NodeCount must not be negative
}

func ExampleDecodeMessage() {
	body := []byte(`{"UsageType": "storage", "Records": [
		{"Username": "alice", "LocalProjectID": "p.abc123456.000", "LocalRecordID": "st-1", "Resource": "ocean.psc.access-ci.org",
		 "CollectionTime": "2026-10-02 00:00:00", "Charge": 12.5, "Attributes": {"BytesStored": "13421772800"}},
		{"LocalRecordID": "st-2", "CollectionTime": "yesterday"}]}`)
	usageType, records, err := amieusage.DecodeMessage(body)
	if err != nil {
		log.Fatal(err)
	}
	for _, raw := range records {
		record, err := amieusage.CheckRecord(usageType, raw)
		if err != nil {
			fmt.Println("refused:", err)
			continue
		}
		fmt.Println(record)
	}
	// Output:
	// Storage st-1 of alice for p.abc123456.000 on ocean.psc.access-ci.org at 2026-10-02T00:00:00Z: charge 12.5
	// refused: Username is required; LocalProjectID is required; Resource is required; CollectionTime is not an ISO 8601 time: "yesterday" (write it as in 2026-10-01T23:59:00Z or 2026-10-01T19:59:00-04:00); Charge is required
}

func ExampleMessage() {
	message, err := amieusage.NewMessage(job())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(message)
	if err := message.Append(&amieusage.StorageRecord{}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// Compute message of 1 records
	// a Storage record cannot go into a Compute message (send records of different kinds in different messages)
}

func ExampleSendResponse() {
	body := []byte(`{"Message": "1 records have been queued for loading.",
		"FailedRecords": [{"LocalRecordID": "4712", "Charge": "-1", "UsageType": "Compute", "Error": "Charge must not be negative"}]}`)
	var response amieusage.SendResponse
	if err := json.Unmarshal(body, &response); err != nil {
		log.Fatal(err)
	}
	fmt.Println(response)
	for _, failed := range response.FailedRecords {
		fmt.Println(failed.Record.Common().LocalRecordID, failed.Error)
	}
	// Output:
	// 1 records have been queued for loading. 1 records were refused.
	// 4712 Charge must not be negative
}

func ExampleCharge_Millionths() {
	for _, text := range []string{"16.25", "1.9e-05", "0.0019444444444444444"} {
		charge, err := amieusage.ParseCharge(text)
		if err != nil {
			log.Fatal(err)
		}
		millionths, err := charge.Millionths()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(charge, millionths)
	}
	// Output:
	// 16.25 16250000
	// 1.9e-05 19
	// 0.0019444444444444444 1944
}

func ExampleChargeOf() {
	charge := amieusage.ChargeOf(16)
	var absent amieusage.Charge
	fmt.Println(charge, charge.IsSet(), absent.IsSet())
	fmt.Println(charge.Cmp(amieusage.MustParseCharge("16.0")))
	// Output:
	// 16 true false
	// 0
}

func ExampleMustParseCharge() {
	record := amieusage.ComputeRecord{Charge: amieusage.MustParseCharge("16.25")}
	fmt.Println(record.Charge)
	// Output: 16.25
}

func ExampleParseTime() {
	for _, text := range []string{"2026-10-01T19:59:00-04:00", "2026-10-01 23:59", "2026-10-01", "01.10.2026"} {
		t, err := amieusage.ParseTime(text)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(amieusage.FormatTime(t.UTC()))
	}
	// Output:
	// 2026-10-01T23:59:00Z
	// 2026-10-01T23:59:00Z
	// 2026-10-01T00:00:00Z
	// is not an ISO 8601 time: "01.10.2026" (write it as in 2026-10-01T23:59:00Z or 2026-10-01T19:59:00-04:00)
}

func ExampleCodeOf() {
	_, err := amieusage.ParseTime("yesterday")
	switch amieusage.CodeOf(err) {
	case amieusage.CodeInvalid:
		fmt.Println("it is the caller's to mend")
	case amieusage.CodeUnavailable:
		fmt.Println("it passes by itself")
	}
	// Output: it is the caller's to mend
}

func ExampleCount_Get() {
	record := job()
	nodes, ok := record.NodeCount.Get()
	fmt.Println(nodes, ok, record.CpuCoreCount.IsSet())
	// Output: 4 true false
}

func ExampleIdentity() {
	// A job that is sent again, with another charge, overwrites the record: their
	// identities are the same.
	first, again := job(), job()
	again.Charge = amieusage.ChargeOf(8)
	fmt.Println(first.Identity() == again.Identity())
	fmt.Println(amieusage.ContentDigest(first) == amieusage.ContentDigest(again))
	// Output:
	// true
	// false
}

func ExampleSplitByType() {
	storage := &amieusage.StorageRecord{LocalRecordID: "st-1"}
	for _, message := range amieusage.SplitByType([]amieusage.Record{job(), storage, job()}) {
		fmt.Println(message)
	}
	// Output:
	// Compute message of 2 records
	// Storage message of 1 records
}

func ExampleWithCharge() {
	record := job()
	cheaper := amieusage.WithCharge(record, amieusage.ChargeOf(8))
	fmt.Println(record.Charge, cheaper.Common().Charge)
	// Output: 16.25 8
}

func ExampleUnknownFields() {
	record, err := amieusage.CheckRecord(amieusage.Adjustment, []byte(`{"AdjustmentType": "credit", "Username": "alice",
		"LocalProjectID": "p.abc123456.000", "LocalRecordID": "adj-1", "Resource": "rm", "StartTime": "2026-10-01", "Charge": 1,
		"Comments": "a late request"}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(amieusage.UnknownFields(record)) // the field is called Comment
	// Output: [Comments]
}

func ExampleParseUsageType() {
	usageType, err := amieusage.ParseUsageType("compute")
	fmt.Println(usageType, err)
	// Output: Compute <nil>
}

func ExampleStatus() {
	var status amieusage.Status
	err := json.Unmarshal([]byte(`[{"Resource": "rm", "LoadedRecordCount": 41, "FailedJobCount": 1, "TotalCharge": "650.25",
		"Errors": [{"Error": "unknown user", "Records": [{"UsageType": "Compute", "LocalRecordID": "4712"}]}]}]`), &status)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range status {
		fmt.Println(r.Resource, r.LoadedRecordCount, r.TotalCharge)
		for _, group := range r.Errors {
			fmt.Println(group.Error, len(group.Records))
		}
	}
	// Output:
	// rm 41 650.25
	// unknown user 1
}

func ExampleSummary_CSV() {
	summary := amieusage.Summary{
		GroupBy: []amieusage.GroupKey{amieusage.ByProject},
		Rows:    []amieusage.SummaryRow{{LocalProjectID: "=HYPERLINK(0)", RecordCount: 41, Charge: amieusage.MustParseCharge("650.25")}},
	}
	data, err := summary.CSV()
	if err != nil {
		log.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(data), "\n")
	fmt.Print(rows) // no spreadsheet takes the name for a formula
	// Output:
	// ,'=HYPERLINK(0),,,,,41,,,650.25,,,,
}

func ExampleLoadedQuery() {
	october := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	q := amieusage.LoadedQuery{LocalProjectID: "p.abc123456.000", From: october, To: october.AddDate(0, 1, 0)}
	fmt.Println(q.Values().Encode())
	// Output: FromTime=2026-10-01T00%3A00%3A00Z&LocalProjectID=p.abc123456.000&ToTime=2026-11-01T00%3A00%3A00Z
}

func ExampleComputeRecord() {
	record := job() // with each of its fields
	fmt.Println(record.UsageType(), record.Validate())
	fmt.Println(amieusage.FormatTime(record.AllocationTime()), "decides which allocation pays")
	fmt.Println(amieusage.FormatTime(record.UsageTime()), "is when it was used")
	// Output:
	// Compute <nil>
	// 2026-10-01T23:59:00Z decides which allocation pays
	// 2026-10-02T03:59:00Z is when it was used
}

func ExampleStorageRecord() {
	record := &amieusage.StorageRecord{
		Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: "scratch-alice", Resource: "ocean.psc.access-ci.org",
		CollectionTime: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), Charge: amieusage.MustParseCharge("1.5"),
		BytesStored: amieusage.CountOf(1_500_000_000_000), FileCount: amieusage.CountOf(120_000), MediaType: "Disk",
	}
	fmt.Println(record.Validate())
	fmt.Println(record)
	// Output:
	// <nil>
	// Storage scratch-alice of alice for p.abc123456.000 on ocean.psc.access-ci.org at 2026-10-01T00:00:00Z: charge 1.5
}

func ExampleAdjustmentRecord() {
	record := &amieusage.AdjustmentRecord{
		AdjustmentType: amieusage.Refund, Username: "alice", LocalProjectID: "p.abc123456.000", LocalRecordID: "refund-4711",
		Resource: "bridges2-rm.psc.access-ci.org", StartTime: job().SubmitTime, Charge: amieusage.ChargeOf(8), Comment: "a node failed",
	}
	fmt.Println(record.Validate(), record.AdjustmentType.GivesBack(), amieusage.Reservation.GivesBack())
	// The time is no part of what it is known by: the same id again is a correction.
	fmt.Println(record.Identity().KeyTime.IsZero())
	// Output:
	// <nil> true false
	// true
}

func ExampleCheckRecord() {
	record, err := amieusage.CheckRecord(amieusage.Compute, []byte(`{"LocalRecordID": "4711", "Charge": "x"}`))
	fmt.Println(record.Common().LocalRecordID)
	if invalid, ok := errors.AsType[*amieusage.ValidationError](err); ok {
		fmt.Println(len(invalid.Fields), "fields are wrong, among them", invalid.Fields[0].Field)
	}
	// Output:
	// 4711
	// 8 fields are wrong, among them Username
}

func ExampleNewMessage() {
	_, err := amieusage.NewMessage(job(), &amieusage.AdjustmentRecord{})
	fmt.Println(err)
	// Output: an Adjustment record cannot go into a Compute message (send records of different kinds in different messages)
}

func ExampleNewRecord() {
	record := amieusage.NewRecord(amieusage.Storage)
	err := json.Unmarshal([]byte(`{"LocalRecordID": "st-1", "CollectionTime": "2026-10-01"}`), record)
	fmt.Println(record.Common().LocalRecordID, err)
	// Output: st-1 <nil>
}

func ExampleParseCharge() {
	for _, text := range []string{"16.25", "1e3", "16,25"} {
		charge, err := amieusage.ParseCharge(text)
		fmt.Printf("%q %v\n", charge, err)
	}
	// Output:
	// "16.25" <nil>
	// "1e3" <nil>
	// "" is not a decimal number: "16,25"
}

func ExampleChargeOfMillionths() {
	fmt.Println(amieusage.ChargeOfMillionths(2_500_000))
	// Output: 2.5
}

func ExampleParseCount() {
	count, err := amieusage.ParseCount("128")
	fmt.Println(count, count.IsSet(), err)
	// Output: 128 true <nil>
}

func ExampleCodeForStatus() {
	fmt.Println(amieusage.CodeForStatus(404), amieusage.CodeTooManyRequests.HTTPStatus())
	// Output: not_found 429
}

func ExampleError() {
	_, err := amieusage.ParseGroupKeys("colour")
	if e, ok := errors.AsType[*amieusage.Error](err); ok {
		fmt.Println(e.Code)
		fmt.Println(e.Message)
		fmt.Println(e.Hint)
	}
	// Output:
	// invalid
	// cannot group by "colour"
	// group by any of resource, project, user, day, month, usage-type, joined by commas
}

func ExampleFailedRecord() {
	var failed amieusage.FailedRecords
	err := json.Unmarshal([]byte(`{"FailedRecords": [{"UsageType": "Compute", "LocalRecordID": "4712", "Username": "bob",
		"Error": "unknown user", "FailedRecordID": 17}]}`), &failed)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range failed {
		fmt.Println(f.FailedRecordID, f.Record.Common().Username, f.Error)
	}
	// Output: 17 bob unknown user
}

func ExampleLoadedRecords() {
	var loaded amieusage.LoadedRecords
	err := json.Unmarshal([]byte(`[{"AccountingDbRecordID": "1", "LocalRecordID": "4711", "Resource": "rm",
		"SubmitTime": "2026-10-01 23:59:00", "LoadedTime": "2026-10-02T05:00:00Z", "Charge": 16.25}]`), &loaded)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range loaded {
		fmt.Println(r, r.Identity() == amieusage.Identity{
			Resource: "rm", UsageType: amieusage.Compute, LocalRecordID: "4711", KeyTime: r.SubmitTime})
	}
	// Output: 1: 4711 on rm submitted 2026-10-01T23:59:00Z loaded 2026-10-02T05:00:00Z: charge 16.25 true
}

func ExampleParseGroupKeys() {
	keys, err := amieusage.ParseGroupKeys("Project, month")
	fmt.Println(keys, err)
	row := amieusage.SummaryRow{LocalProjectID: "p.abc123456.000", Month: "2026-10"}
	fmt.Println(row.Group(keys))
	// Output:
	// [project month] <nil>
	// [p.abc123456.000 2026-10]
}

func ExampleSummaryQuery() {
	q := amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByProject, amieusage.ByResource}, From: job().SubmitTime}
	fmt.Println(q.Values().Encode())
	again, err := amieusage.ParseSummaryQuery(q.Values())
	fmt.Println(again.GroupBy, err)
	// Output:
	// FromTime=2026-10-01T23%3A59%3A00Z&GroupBy=project%2Cresource
	// [project resource] <nil>
}

func ExampleStatusQuery() {
	q := amieusage.StatusQuery{From: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)}
	fmt.Println(q.Values().Encode())
	// Output: FromTime=2026-10-01T00%3A00%3A00Z
}

func ExampleExtra() {
	record := job()
	record.Extra = amieusage.Extra{{Name: "Cluster", Value: json.RawMessage(`"bridges2"`)}} // a field of the site's own
	text := string(record.AppendJSON(nil))
	fmt.Println(strings.Contains(text, `"Cluster":"bridges2"`))
	// Output: true
}

func ExampleCSVText() {
	fmt.Println(amieusage.CSVText("=1+1"), amieusage.CSVText("alice"))
	// Output: '=1+1 alice
}

func ExampleQueuedMessage() {
	fmt.Println(amieusage.QueuedMessage(2, 0))
	// Output: 2 records have been queued for loading, 0 records failed.
}

func ExampleAppendMessageStart() {
	message := amieusage.AppendMessageStart(nil, amieusage.Compute)
	message = append(job().AppendJSON(message), amieusage.MessageEnd...)
	usageType, records, err := amieusage.DecodeMessage(message)
	fmt.Println(usageType, len(records), err)
	// Output: Compute 1 <nil>
}
