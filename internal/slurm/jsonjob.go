package slurm

import (
	"math"
	"strconv"
	"time"

	"github.com/amieusage/amieusage/internal/scheduler"
)

// jsonJob is a job as sacct --json prints it, before it is made a scheduler.Job.
type jsonJob struct {
	id                                         number
	cluster, user, account, associationUser    string
	partition, qos, name, state                string
	arrayID, arrayTask, hetID, hetOffset       number
	arrayTasks                                 string // tasks of a pending array: 1-300%1
	submit, start, end, elapsed, nodes, reqMem number
	hasTime                                    bool
	tres                                       []scheduler.TRES
	reservation, nodeList                      string
	lacks                                      scheduler.Facts

	field, problem string // what makes the job unreadable, first of all
}

// blame notes why the job cannot be read; the first reason stays.
func (j *jsonJob) blame(field, problem string) {
	if j.problem == "" {
		j.field, j.problem = field, problem
	}
}

// readJob reads one job into d.raw.
func (d *jsonReader) readJob() error {
	j := &d.raw
	err := d.object("", func(name string) (err error) {
		switch name {
		case "job_id":
			j.id, err = d.number("job_id")
		case "cluster":
			j.cluster, err = d.text("cluster")
			j.lacks &^= scheduler.FactCluster
		case "user":
			j.user, err = d.text("user")
		case "account":
			j.account, err = d.text("account")
		case "partition":
			j.partition, err = d.text("partition")
		case "qos":
			j.qos, err = d.text("qos")
			j.lacks &^= scheduler.FactQOS
		case "name":
			j.name, err = d.text("name")
			j.lacks &^= scheduler.FactName
		case "nodes":
			j.nodeList, err = d.text("nodes")
			j.lacks &^= scheduler.FactNodeList
		case "reservation":
			err = d.readReservation()
		case "allocation_nodes":
			j.nodes, err = d.number("allocation_nodes")
		case "association":
			err = d.object("association", func(name string) (err error) {
				if name != "user" {
					return d.dec.SkipValue()
				}
				j.associationUser, err = d.text("association.user")
				return err
			})
		case "state":
			err = d.readState()
		case "array":
			err = d.readArray()
		case "het":
			err = d.readHet()
		case "time":
			j.hasTime = true
			err = d.readTime()
		case "tres":
			err = d.readTRES()
		default:
			err = d.dec.SkipValue()
		}
		return err
	})
	switch {
	case !j.id.set || j.id.value == 0:
		j.blame("job_id", "missing")
	case !j.hasTime:
		j.blame("time", "missing")
	case !j.elapsed.set:
		j.blame("time.elapsed", "missing")
	case j.state == "":
		j.blame("state.current", "missing")
	}
	return err
}

// readState reads the state, a word (until 22.05) or a list of words: a base state and what has become of it since, of
// which sacct's text shows the latter (PENDING, REQUEUED is shown as REQUEUED).
func (d *jsonReader) readState() error {
	return d.object("state", func(name string) (err error) {
		const field = "state.current"
		if name != "current" {
			return d.dec.SkipValue()
		}
		var word string
		if d.dec.PeekKind() == '[' {
			err = d.list(field, func() (err error) {
				word, err = d.text(field)
				return err
			})
		} else {
			word, err = d.text(field)
		}
		d.raw.state = state(word)
		return err
	})
}

func (d *jsonReader) readArray() error {
	return d.object("array", func(name string) (err error) {
		switch name {
		case "job_id":
			d.raw.arrayID, err = d.number("array.job_id")
		case "task_id":
			d.raw.arrayTask, err = d.number32("array.task_id")
		case "task":
			d.raw.arrayTasks, err = d.text("array.task")
		default:
			err = d.dec.SkipValue()
		}
		return err
	})
}

func (d *jsonReader) readHet() error {
	return d.object("het", func(name string) (err error) {
		switch name {
		case "job_id":
			d.raw.hetID, err = d.number("het.job_id")
		case "job_offset":
			d.raw.hetOffset, err = d.number32("het.job_offset")
		default:
			err = d.dec.SkipValue()
		}
		return err
	})
}

// readReservation reads the name of the reservation, which is the number 0 where an old Slurm knows of none.
func (d *jsonReader) readReservation() error {
	return d.object("reservation", func(name string) (err error) {
		if name != "name" || d.dec.PeekKind() == '0' {
			return d.dec.SkipValue()
		}
		d.raw.lacks &^= scheduler.FactReservation
		d.raw.reservation, err = d.text("reservation.name")
		return err
	})
}

func (d *jsonReader) readTime() error {
	j := &d.raw
	return d.object("time", func(name string) (err error) {
		switch name {
		case "submission":
			j.submit, err = d.number("time.submission")
		case "start":
			j.start, err = d.number("time.start")
		case "end":
			j.end, err = d.number("time.end")
		case "elapsed":
			j.elapsed, err = d.number("time.elapsed")
		default:
			err = d.dec.SkipValue()
		}
		return err
	})
}

func (d *jsonReader) readTRES() error {
	return d.object("tres", func(name string) error {
		switch name {
		case "allocated":
			d.raw.lacks &^= scheduler.FactTRES
			return d.list("tres.allocated", func() error {
				t, set, err := d.readOneTRES("tres.allocated")
				if set {
					d.raw.tres = append(d.raw.tres, t)
				}
				return err
			})
		case "requested":
			d.raw.lacks &^= scheduler.FactReqMem
			return d.list("tres.requested", func() error {
				t, set, err := d.readOneTRES("tres.requested")
				if set && t.Name == "mem" {
					d.raw.reqMem = number{t.Count / mebi, true}
				}
				return err
			})
		}
		return d.dec.SkipValue()
	})
}

// readOneTRES reads an entry of a list of TRES; set is false where its count is not known.
func (d *jsonReader) readOneTRES(field string) (t scheduler.TRES, set bool, err error) {
	var kind, name string
	var count number
	var nanos int32
	err = d.object(field, func(member string) (err error) {
		switch member {
		case "type":
			kind, err = d.text(field + ".type")
		case "name":
			name, err = d.text(field + ".name")
		case "count":
			count, nanos, err = d.count(field + ".count")
		default:
			err = d.dec.SkipValue()
		}
		return err
	})
	if !count.set {
		return t, false, err
	}
	t = scheduler.TRES{Name: kind, Count: count.value, Nanos: nanos}
	if name != "" {
		t.Name += "/" + name
	}
	if kind == "" {
		d.raw.blame(field, "an entry has no type")
	}
	if inMebibytes(t.Name) {
		if t.Count > math.MaxInt64/mebi {
			d.raw.blame(field, strconv.FormatInt(t.Count, 10)+" MiB is out of range")
		}
		t.Count *= mebi
		t.Count, t.Nanos = t.Count+int64(t.Nanos)*mebi/1e9, 0
	}
	return t, true, err
}

// number32 reads a number of which the largest two values of 32 bits say that it is not set.
func (d *jsonReader) number32(field string) (number, error) {
	n, err := d.number(field)
	return numberOf(n.value, n.set && n.value < math.MaxUint32-1), err
}

// fill makes the job. It shares its list of TRES with j.
func (j *jsonJob) fill(job *scheduler.Job) {
	*job = scheduler.Job{
		Cluster:   j.cluster,
		User:      j.user,
		Account:   j.account,
		Partition: j.partition,
		QOS:       j.qos,
		Name:      jobName(j.name),
		State:     j.state,
		Submit:    j.time("time.submission", j.submit),
		Start:     j.time("time.start", j.start),
		End:       j.time("time.end", j.end),

		ElapsedSeconds: j.elapsed.value,
		TRES:           j.tres,

		Reservation: j.reservation,
		NodeList:    j.nodeList,
		Lacks:       j.lacks,
	}
	if job.User == "" {
		job.User = j.associationUser
	}
	if j.reqMem.set {
		job.ReqMem = formatMebibytes(j.reqMem.value)
	}
	if j.id.set {
		job.ID = strconv.FormatInt(j.id.value, 10)
	}
	job.DisplayID = job.ID
	var leader int64
	switch {
	case j.arrayID.value != 0 && j.arrayTask.set:
		leader = j.arrayID.value
		job.DisplayID = strconv.FormatInt(leader, 10) + "_" + strconv.FormatInt(j.arrayTask.value, 10)
	case j.arrayID.value != 0 && j.arrayTasks != "":
		leader = j.arrayID.value
		job.DisplayID = strconv.FormatInt(leader, 10) + "_[" + j.arrayTasks + "]"
	case j.hetID.value != 0 && j.hetOffset.set:
		leader = j.hetID.value
		job.DisplayID = strconv.FormatInt(leader, 10) + "+" + strconv.FormatInt(j.hetOffset.value, 10)
	}
	if leader != 0 && leader != j.id.value {
		job.ParentID = strconv.FormatInt(leader, 10)
	}
	nodes, known := job.TRESCount("node")
	if job.Nodes = nodes.Count; !known && job.ElapsedSeconds > 0 {
		job.Nodes = j.nodes.value
	}
	cpus, _ := job.TRESCount("cpu")
	job.CPUs = cpus.Count
}

func (j *jsonJob) time(field string, n number) time.Time {
	switch {
	case !n.set || n.value == 0:
		return time.Time{}
	case n.value > maxEpoch:
		j.blame(field, strconv.FormatInt(n.value, 10)+" is no time")
		return time.Time{}
	}
	return time.Unix(n.value, 0).UTC()
}
