package amieusage

import "testing"

// benchmarkRecord is a compute record as the widest-used client sends it.
var benchmarkRecord = []byte(`{"Username":"alice","LocalProjectID":"p.abc123456.000","LocalRecordID":"4711",` +
	`"Resource":"bridges2-rm.psc.access-ci.org","SubmitTime":"2026-10-01T23:59:00Z","StartTime":"2026-10-02T00:00:00Z",` +
	`"EndTime":"2026-10-02T04:00:00Z","Charge":"16.25","Attributes":{"NodeCount":4,"CpuCoreCount":512,` +
	`"JobName":"train|resnet 50","Memory":"262144","Queue":"RM"},"ParentRecordID":[null],"LocalReference":"ref-1"}`)

func BenchmarkCheckRecord(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(benchmarkRecord)))
	for b.Loop() {
		if _, err := CheckRecord(Compute, benchmarkRecord); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	r, err := CheckRecord(Compute, benchmarkRecord)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		dst = r.AppendJSON(dst[:0])
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkContentDigest(b *testing.B) {
	r, err := CheckRecord(Compute, benchmarkRecord)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		ContentDigest(r)
	}
}

func BenchmarkDecodeMessage(b *testing.B) {
	const records = 1000
	message := AppendMessageStart(nil, Compute)
	for range records {
		message = append(append(appendComma(message), benchmarkRecord...), '\n')
	}
	message = append(message, MessageEnd...)
	b.ReportAllocs()
	b.SetBytes(int64(len(message)))
	for b.Loop() {
		if _, items, err := DecodeMessage(message); err != nil || len(items) != records {
			b.Fatal(len(items), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/record")
}

// TestEncodingAllocatesNothing holds what makes sending and comparing cheap.
func TestEncodingAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 4096)
	for message := range 3 {
		r := recordedRecord(t, message, 0)
		if n := testing.AllocsPerRun(100, func() { dst = r.AppendJSON(dst[:0]) }); n != 0 {
			t.Errorf("%s: AppendJSON allocates %v times", r.UsageType(), n)
		}
		if n := testing.AllocsPerRun(100, func() { ContentDigest(r) }); n != 0 {
			t.Errorf("%s: ContentDigest allocates %v times", r.UsageType(), n)
		}
	}
}
