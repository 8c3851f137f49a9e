package outbox

import "github.com/amieusage/amieusage"

// A Found is an entry that never left, of a record that the service had before
// this outbox did: another outbox has sent it, which is lost, or another
// program.
type Found struct {
	Entry
	AtService amieusage.LoadedRecord
}

// Adopt takes what is at the service as reported: the entry becomes one that is
// loaded, with the charge and on the resource that the service lists. A job
// whose charge is that of its rate keeps the rate; another one has none, and
// its charge stays until it is repriced.
func (f *Found) Adopt(note Note) []Write {
	note.Kind, note.Value = "adopt", f.AtService.Charge.String()
	e := f.Entry
	e.ID, e.State, e.Reason, e.Decision, e.WaitsFor = 0, Loaded, "", "", 0
	// Only the charge is listed: what else the service has may be another content, which may be the next to be sent. That is
	// then loaded no more, and the same row of the list is all that confirms it.
	e.LoadedAt = f.AtService.LoadedTime.Add(-1)
	if e.Job != nil {
		job := *e.Job
		if job.Made.Resource != f.AtService.Resource || job.Made.Charge.Cmp(f.AtService.Charge) != 0 {
			job.Rate = ""
		}
		job.Made.Resource, job.Made.Charge = f.AtService.Resource, f.AtService.Charge
		e.Job, e.Record = &job, job.Record()
	} else {
		e.Record = amieusage.WithCharge(e.Record, f.AtService.Charge)
		switch r := e.Record.(type) { // a copy
		case *amieusage.ComputeRecord:
			r.Resource = f.AtService.Resource
		case *amieusage.StorageRecord:
			r.Resource = f.AtService.Resource
		case *amieusage.AdjustmentRecord:
			r.Resource = f.AtService.Resource
		}
	}
	return []Write{{ID: f.ID, Was: f.Version(), Delete: true}, {Content: true, Note: &note, Entry: e}}
}
