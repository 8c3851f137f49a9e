package storetest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
)

// texts are names that are easily garbled or taken for one another.
var texts = []string{
	"Z", "a", "A", "é", "e\u0301", "É", "a ", " a", "a\t", "a\n", "a\u00a0", "ss", "ß", "i", "İ", "ı", "ﬁ", "\ufeffa", "a\u200b",
	`'`, `''`, `"`, `\`, `\\`, `\'`, `\.`, `\N`, `\x41`, `%`, `_`, `?1`, `$1`, `:a`, `{a,b}`, `{"a"}`, `(1,"a")`, `a,b`, `a;b--`,
	"NULL", "null", "\r\n", "\x01", "\x1b", "\x7f", "\u2028", "\ufffd", "\uffff", "\U0010ffff", "🧮", "👩‍🔬", "שלום", "０", "0", "00",
	strings.Repeat("é", 512), strings.Repeat("🧮", 256), longText(1), longText(2),
}

// longText is a text of 1024 bytes that cannot be made shorter.
func longText(seed uint64) string {
	random := rand.New(rand.NewPCG(seed, seed))
	var b strings.Builder
	for b.Len() < 1022 {
		b.WriteRune(rune(0x4e00 + random.IntN(0x5000)))
	}
	return b.String() + strings.Repeat("x", 1024-b.Len())
}

// testTexts has each text as every name: they are all different, keep every
// byte, and come in order of their bytes.
func testTexts(m *storeModel) {
	s := m.site("PSC")
	m.policy = ledger.Open
	m.move()
	for round, charge := range []string{"1", "2"} {
		var jobs, storage, adjustments []amieusage.Record
		for _, name := range texts {
			jobs = append(jobs, job(name, charge, func(r *amieusage.ComputeRecord) {
				r.Username, r.LocalProjectID, r.Resource, r.JobName = name, name, name, name
			}))
			storage = append(storage, &amieusage.StorageRecord{Username: name, LocalProjectID: alpha, LocalRecordID: name, Resource: bulk,
				CollectionTime: job("", "").SubmitTime, Charge: chargeOf(charge)})
			a := adjustment(amieusage.Credit, name, charge)
			a.Comment = name
			adjustments = append(adjustments, a)
		}
		m.send(s, jobs...)
		m.send(s, storage...)
		m.send(s, adjustments...)
		m.load()
		m.equal("records", 3*len(texts), len(s.entries))
		m.equal("revisions", round+1, len(s.entries[jobs[0].Identity()].revisions))
	}
	m.checkRevisions(s)
	for _, key := range []amieusage.GroupKey{amieusage.ByUser, amieusage.ByProject, amieusage.ByResource} {
		m.checkSummary(s, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{key}})
	}
	m.checkSummary(s, amieusage.SummaryQuery{GroupBy: []amieusage.GroupKey{amieusage.ByUser, amieusage.ByDay, amieusage.ByProject, amieusage.ByResource}})
	for _, name := range texts {
		found := m.loaded(s, amieusage.LoadedQuery{PageSize: 2, LocalRecordID: name})
		m.equal("records "+name, 3, len(found))
		for _, r := range found {
			m.equal("LocalRecordID", name, r.LocalRecordID)
		}
	}
	for _, name := range []string{"\x00", "a\x00", "\xff", "a\xc3"} { // what is no text is nothing's name
		m.equal("records of no text", 0, len(m.loaded(s, amieusage.LoadedQuery{PageSize: 2, LocalRecordID: name})))
		_, err := m.store.Authority(context.Background(), name)
		m.hasCode(err, amieusage.CodeNotFound)
	}
}

// testTextsOfFailures fails records of each text, and repairs every other.
func testTextsOfFailures(m *storeModel) {
	s := m.site("PSC")
	m.importSpec(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: "PSC", Resources: texts}}})
	var failing, repaired []amieusage.Record
	for i, name := range texts {
		failing = append(failing, job(name, "1", func(r *amieusage.ComputeRecord) { r.Username, r.Resource = name, name }))
		failing = append(failing, job(name, "1", func(r *amieusage.ComputeRecord) { r.LocalProjectID, r.JobName = name, name }))
		if i%2 == 0 {
			repaired = append(repaired, job(name, "1"))
		}
	}
	m.send(s, failing...)
	m.load()
	m.check()
	m.equal("failed records", 2*len(texts), len(s.openFailed()))
	m.send(s, repaired...)
	m.load()
	m.check()
	m.equal("failed records", 2*len(texts)-len(repaired), len(s.openFailed()))
	var ids []int64
	for _, f := range s.openFailed()[5:] {
		ids = append(ids, f.id)
	}
	m.clear(s, ids...)
}

// testTextsRefused sends texts that are refused at once, beside one that is
// not.
func testTextsRefused(m *storeModel) {
	s := m.site("PSC")
	with := func(field, value string) string {
		fields := map[string]any{"Username": "alice", "LocalProjectID": alpha, "LocalRecordID": "1", "Resource": bulk,
			"SubmitTime": "2026-10-01T20:00:00Z", "StartTime": "2026-10-01T20:00:00Z", "EndTime": "2026-10-01T20:00:00Z", "Charge": "1",
			"Attributes": map[string]any{"NodeCount": 1}}
		fields[field] = value
		text, err := json.Marshal(fields)
		m.noError(err)
		return string(text)
	}
	var records, want []string
	for _, field := range []string{"Username", "LocalProjectID", "LocalRecordID"} {
		records = append(records, with(field, "a\x00b"), with(field, "\x00"), with(field, longText(1)+"x"), with(field, ""))
		want = append(want, field+" must not hold a NUL character", field+" must not hold a NUL character",
			field+" must not be longer than 1024 bytes", field+" is required")
	}
	records = append(records, with("LocalRecordID", longText(1)))
	answer := m.accept(s, `{"UsageType":"Compute","Records":[`+strings.Join(records, ",")+`]}`)
	var got []string
	for _, f := range answer.FailedRecords {
		got = append(got, f.Error)
	}
	m.equal("errors", want, got)
	m.equal("report", ledger.LoadReport{Batches: 1, Loaded: 1}, m.whenFree(m.service.LoadSome))
	m.verify()
	m.sites = nil // the model has nothing of it
}

// testTextsInRegistry registers each text, and takes one for another nowhere.
func testTextsInRegistry(m *storeModel) {
	ctx := context.Background()
	for _, name := range []string{"é", "a", "Z", "A", `it's "ours" \`, "A "} {
		s := m.site(name)
		_, key, err := ledger.CreateKey(ctx, m.store, name, name, m.now)
		m.noError(err)
		m.equal("label", name, key.Label)
		m.send(s, job("1", "1"))
	}
	m.load()
	keys, err := m.store.Keys(ctx, "")
	m.noError(err)
	var sites []string
	for _, k := range keys {
		sites = append(sites, k.Site)
	}
	m.equal("sites in order", []string{"A", "A ", "Z", "a", `it's "ours" \`, "é"}, slices.Compact(sites))

	s := m.sites[0]
	spec := &ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: s.name, Resources: texts}}}
	for i, name := range texts {
		spec.Sites[0].Projects = append(spec.Sites[0].Projects, ledger.ProjectSpec{ID: name, Users: texts[max(i-1, 0) : i+1],
			Allocations: []ledger.AllocationSpec{allocation(name, 1, 1, 13)}})
	}
	m.move()
	m.importSpec(spec)
	m.move()
	m.changed(spec)
	var records []amieusage.Record
	for i, name := range texts { // the users of each project, and one that is not
		for _, user := range texts[max(i-1, 0):min(i+2, len(texts))] {
			records = append(records, job(user, "1", func(r *amieusage.ComputeRecord) {
				r.Username, r.LocalProjectID, r.Resource = user, name, name
			}))
		}
		records = append(records, job("r", "1", onResource(texts[(i+1)%len(texts)]), func(r *amieusage.ComputeRecord) {
			r.Username, r.LocalProjectID = name, name // has no allocation there
		}))
	}
	m.send(s, records...)
	m.load()
	m.equal("failed records", 2*len(texts)-1, len(s.openFailed()))
	last, before := texts[len(texts)-1], texts[len(texts)-2]
	changes := m.importSpec(&ledger.RegistrySpec{Sites: []ledger.SiteSpec{{Name: s.name, Projects: []ledger.ProjectSpec{
		{ID: last, Users: []string{last}, Allocations: []ledger.AllocationSpec{}}}}}})
	m.equal("changes", []ledger.Change{
		{Action: "removed", What: "user " + before + " from project " + last, Project: last},
		{Action: "removed", What: "allocation of project " + last + " on " + last + " from 2026-01-01T00:00:00Z (was 1 until 2027-01-01T00:00:00Z)", Project: last},
	}, changes)
}

// rawJob is a job in words of its own: its fields are as good as any, and
// extra is kept as it is.
func rawJob(id, user, extra string) string {
	return `{ "Username" : "` + user + `","LocalProjectID":"` + alpha + `",` + "\n\t" + `"LocalRecordID":"` + id + `","Resource":"` + bulk +
		`","SubmitTime":"2026-10-01T20:00:00-04:00","StartTime":"2026-10-02","EndTime":"2026-10-02T00:00:01","Charge":1.50,` +
		`"Attributes":{"NodeCount":"4.0"},` + extra + `}`
}

// testRawRecords sends JSON of which databases have their own opinion: every
// byte is kept.
func testRawRecords(m *storeModel) {
	m.keepsRaw(
		`"Note":"a\u0000b"`, `"\u0000":"\u0000"`, `"Note":"\ud83e\uddee\u0001\"\\\/\b\f\n\r\t"`, `"Number":1e400`, `"Number":-0.0`,
		`"Number":123456789012345678901234567890.123456789012345678901234567890`, `"b":1,"a":2,"B":3`,
		`"Deep":`+strings.Repeat("[", 90)+strings.Repeat("]", 90), `"Empty":{},"None":null,"":""`, `"\\.":"\\N"`, `"'":"''$1"`,
	)
}

// testLargestRecords has records that fill a message, and can be made smaller
// by little or by much.
func testLargestRecords(m *storeModel) {
	random := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 500_000)
	random.Read(noise)
	m.keepsRaw(`"Noise":"`+hex.EncodeToString(noise)+`"`, `"Blank":"`+strings.Repeat(" ", 1_000_000)+`"`)
}

// testLoadLarge has a queue of few records that take much: one transaction does
// not load them all.
func testLoadLarge(m *storeModel) {
	const size, batches = 1_000_000, 40
	s := m.site("PSC")
	for i := range batches {
		m.accept(s, `{"UsageType":"Compute","Records":[`+rawJob(fmt.Sprint(i), "alice", `"Blank":"`+strings.Repeat(" ", size)+`"`)+`]}`)
	}
	loaded := 0
	for loaded < batches {
		m.tick()
		n := m.whenFree(m.service.LoadSome).Batches
		if n == 0 || n > ledger.MaxLoadBytes/size+1 {
			m.t.Fatalf("%d batches of %d bytes were loaded at once", n, size)
		}
		loaded += n
	}
	m.verify()
	m.sites = nil // the model has nothing of it
}

// keepsRaw sends a record with each of the extras that is loaded, and one that
// fails, and wants them back as they were.
func (m *storeModel) keepsRaw(extras ...string) {
	m.t.Helper()
	s := m.site("PSC")
	for i, extra := range extras {
		id := fmt.Sprint(i)
		loaded, failed := rawJob(id, "alice", extra), rawJob("f"+id, "eve", extra)
		for _, raw := range []string{loaded, failed} {
			answer := m.accept(s, `{"UsageType":"Compute","Records":[`+raw+`]}`)
			m.equal("refused", 0, len(answer.FailedRecords))
			m.move()
		}
		for m.whenFree(m.service.LoadSome).Batches > 0 {
			m.move()
		}
		record, err := amieusage.CheckRecord(amieusage.Compute, []byte(loaded))
		m.noError(err)
		revisions, err := m.store.Revisions(context.Background(), s.who.Site, record.Identity())
		m.noError(err)
		if len(revisions) != 1 || string(revisions[0].Record) != loaded {
			m.t.Errorf("extra %d: the loaded record is not what was sent: %d revisions", i, len(revisions))
		}
		open := m.failed(s)
		if len(open) != i+1 || string(open[i].Raw) != failed || open[i].Problem != nil || !utf8.Valid(open[i].AppendJSON(nil)) {
			m.t.Errorf("extra %d: the failed record is not what was sent: %d are open", i, len(open))
		}
	}
	m.verify()
	m.sites = nil // the model has nothing of it
}
