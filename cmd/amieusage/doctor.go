package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/scheduler"
	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/slurm"
	"github.com/amieusage/amieusage/internal/sqlite"
	"github.com/amieusage/amieusage/usageclient"
)

// A doctorCommand is one run of doctor.
type doctorCommand struct {
	siteCommand
	checks []check
}

// A check is one thing that was looked at.
type check struct {
	What   string `json:"check"`
	Result string `json:"result"` // ok, note or wrong
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

// The results of a check.
const (
	checkOK    = "ok"
	checkNote  = "note"
	checkWrong = "wrong"
)

func (p *program) doctorCommand() *cobra.Command {
	d := &doctorCommand{siteCommand: siteCommand{program: p}}
	cmd := &cobra.Command{
		Use:     "doctor --config site.yaml",
		GroupID: "site",
		Short:   "Check that a site can report: the scheduler, the service, the files",
		Long: `Check that a site can report, and say what to do where it cannot: sacct is there
and may see all jobs (PrivateData), the TRES that the rates are for are recorded
(AccountingStorageTRES), logs of other schedulers and reports of storage can be
read, time zones and clocks agree, the service answers and accepts the key, files are
private, and there is room. Nothing is changed.

Exit status: 0 nothing is wrong, 1 something is, 2 bad usage or configuration.`,
		Example: `  amieusage doctor --config site.yaml
  amieusage doctor --config site.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.work(cmd.Context()) },
	}
	d.add(cmd)
	return cmd
}

func (d *doctorCommand) found(what, result, found, remedy string) {
	d.checks = append(d.checks, check{what, result, found, remedy})
}

// test adds a check that is right or wrong.
func (d *doctorCommand) test(what string, ok bool, found, remedy string) {
	if ok {
		d.found(what, checkOK, found, "")
	} else {
		d.found(what, checkWrong, found, remedy)
	}
}

func (d *doctorCommand) work(ctx context.Context) (err error) {
	if d.config, err = d.flags.load(); err != nil {
		return err
	}
	d.files(ctx)
	d.rules()
	if len(d.config.Rules.Resources) > 0 {
		for _, kind := range d.config.Schedulers {
			if kind == siteconfig.KindSlurm {
				d.slurm(ctx)
			} else {
				d.scheduler(ctx, kind)
			}
		}
	}
	d.storage(ctx)
	d.service(ctx)
	if err := d.print(); err != nil {
		return err
	}
	if slices.ContainsFunc(d.checks, func(c check) bool { return c.Result == checkWrong }) {
		return errTold
	}
	return nil
}

// files checks permissions, room, and the outbox.
func (d *doctorCommand) files(ctx context.Context) {
	for _, f := range []struct{ what, path string }{{"key file", d.config.KeyFile}, {"outbox", d.config.State}} {
		info, err := os.Stat(f.path)
		switch {
		case f.path == "" || f.what == "outbox" && errors.Is(err, os.ErrNotExist):
		case err != nil:
			d.found(f.what, checkWrong, err.Error(), "make it readable to the user who runs amieusage")
		default:
			d.test(f.what, info.Mode().Perm()&0o077 == 0, fmt.Sprintf("%s, mode %04o", f.path, info.Mode().Perm()),
				"others can read it: chmod 600 "+f.path)
		}
	}
	folder := filepath.Dir(d.config.State)
	probe, err := os.CreateTemp(folder, ".amieusage-doctor-")
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		d.found("folder", checkWrong, err.Error(), "state: in site.yaml must be in a folder that can be written")
	} else {
		d.found("folder", checkOK, folder+" can be written", "")
	}
	if free, err := freeBytes(folder); err == nil {
		d.test("disk", free >= 1<<30, fmt.Sprintf("%.1f GiB free in %s", float64(free)/(1<<30), folder), "make room: a million records take about 1 GiB")
	}
	if d.config.HasState() {
		q, err := sqlite.OpenOutbox(ctx, d.config.State, d.clock)
		if err == nil {
			_, err = q.Counts(ctx)
			err = errors.Join(err, q.Close())
		}
		if err != nil {
			d.found("outbox", checkWrong, err.Error(), "")
		}
	}
}

// rules checks what the configuration says by itself.
func (d *doctorCommand) rules() {
	n := len(d.config.Rules.Resources)
	if n == 0 {
		d.found("resources", checkNote, "site.yaml names none: only records from files are sent", "")
		return
	}
	d.found("resources", checkOK, fmt.Sprintf("%d, of which the first that matches a job charges it", n), "")
	for i := range d.config.Rules.Resources {
		r := &d.config.Rules.Resources[i]
		if last := i + 1; r.Match.IsEmpty() && last < n {
			d.found("resources", checkWrong, fmt.Sprintf("%s matches every job, and %s stands behind it", r.Name, d.config.Rules.Resources[last].Name),
				"order the resources from the narrowest match to the widest")
		}
	}
	switch zone := d.config.Slurm.Zone; {
	case !slices.Contains(d.config.Schedulers, siteconfig.KindSlurm):
	case zone == nil:
		d.found("time zone", checkNote, "slurm: time_zone: is not stated: dumps need times with an offset (SLURM_TIME_FORMAT=%s)", "")
	default:
		now := d.clock()
		_, here := now.In(time.Local).Zone()
		_, there := now.In(zone).Zone()
		if here == there {
			d.found("time zone", checkOK, zone.String()+", as this machine's", "")
		} else {
			d.found("time zone", checkNote, fmt.Sprintf("dumps are read in %s, and this machine is in %s", zone, time.Local),
				"see that dumps are made where the zone is that of slurm: time_zone:")
		}
	}
}

// alwaysStored are the TRES that Slurm records without being told to.
var alwaysStored = []string{"cpu", "mem", "energy", "node", "billing", "fs/disk", "vmem", "pages"}

// slurm checks sacct, and what it may see.
func (d *doctorCommand) slurm(ctx context.Context) {
	path, err := exec.LookPath(d.config.Slurm.Sacct)
	if err != nil {
		d.found("sacct", checkWrong, d.config.Slurm.Sacct+" cannot be run", "install Slurm's sacct, state where it is (slurm: sacct: in site.yaml), or report dumps with --from-file")
		return
	}
	d.found("sacct", checkOK, path, "")
	me := "root"
	if u, err := user.Current(); err == nil {
		me = u.Username
	}
	sacct := d.sacct()
	now := d.clock()
	jobs, others := 0, 0
	for job, err := range sacct.Ended(ctx, now.Add(-24*time.Hour), now) {
		if _, row := errors.AsType[*scheduler.RowError](err); row {
			jobs, others = jobs+1, others+1
			continue
		}
		if err != nil {
			d.found("accounting", checkWrong, err.Error(), "see whether slurmdbd answers: sacctmgr show cluster")
			return
		}
		if jobs++; job.User != me {
			others++
		}
	}
	switch {
	case jobs == 0:
		d.found("accounting", checkNote, "sacct shows no job of the last day", "where jobs have run, see whether "+me+" may see them")
	case others == 0 && me != "root":
		d.found("accounting", checkWrong, fmt.Sprintf("sacct shows %d jobs of the last day, all of %s", jobs, me),
			"let "+me+" see all jobs: sacctmgr modify user "+me+" set adminlevel=operator")
	default:
		d.found("accounting", checkOK, fmt.Sprintf("sacct shows %d jobs of the last day", jobs), "")
	}
	settings, err := sacct.Settings(ctx, me)
	if err != nil {
		d.found("settings", checkNote, "they could not all be asked: "+err.Error(), "run doctor where scontrol and sacctmgr are")
	}
	d.settings(settings, me)
}

// scheduler checks the accountings of a scheduler that is not Slurm.
func (d *doctorCommand) scheduler(ctx context.Context, kind siteconfig.Kind) {
	all, err := d.accountingsOf(kind)
	if err != nil {
		d.found(string(kind), checkWrong, err.Error(), "correct "+d.config.File)
		return
	}
	for i := range all {
		a := &all[i]
		now := d.clock()
		jobs, bad, ended := 0, 0, time.Time{}
		var failed error
		for job, err := range a.Ended(ctx, now.Add(-a.lookback), now) {
			if _, row := errors.AsType[*scheduler.RowError](err); row {
				bad++
				continue
			}
			if failed = err; err != nil {
				break
			}
			if jobs++; job.End.After(ended) {
				ended = job.End
			}
		}
		switch {
		case failed != nil:
			d.found(a.name, checkWrong, failed.Error(), "")
		case jobs+bad == 0:
			d.found(a.name, checkNote, fmt.Sprintf("it shows no job of the last %s", a.lookback), "where jobs have run, see whether site.yaml names the right place")
		case bad > 0:
			d.found(a.name, checkWrong, fmt.Sprintf("%d jobs and %d rows that cannot be read in the last %s", jobs, bad, a.lookback), "see: amieusage report --dry-run")
		default:
			d.found(a.name, checkOK, fmt.Sprintf("%d jobs in the last %s, the newest of which ended at %s", jobs, a.lookback, ended.Format(time.RFC3339)), "")
		}
	}
	for _, p := range d.config.PBS {
		if kind == siteconfig.KindPBS && p.Exclusive && len(p.Whole) == 0 {
			d.found("exclusive", checkNote, "pbs: exclusive: node is stated, and nothing says what a whole node has: jobs count as they were assigned",
				`state it in site.yaml: pbs: {nodes: [{names: ["*"], cpu: 36}]}`)
		}
	}
}

// storage reads each file system's report, and says what is in it.
func (d *doctorCommand) storage(ctx context.Context) {
	if d.config.Storage == nil {
		return
	}
	c := &storageCommand{siteCommand: d.siteCommand}
	for i := range d.config.Storage.FileSystems {
		fs := &d.config.Storage.FileSystems[i]
		what := "storage " + fs.Name
		if fs.Command == "" {
			d.found(what, checkNote, "it has no command: its reports are read with --from-file", "")
			continue
		}
		report, err := c.runCommand(ctx, fs, fs.Format)
		if err != nil {
			d.found(what, checkWrong, err.Error(), "correct command: in "+d.config.File+", or run as a user who may ask for quotas")
			continue
		}
		from := fs.From
		if from == "" {
			from = report.From
		}
		assigned := fs.Assign(report.Rows, from, c.nameOf)
		found := fmt.Sprintf("%d rows of %s, of %d projects' users", len(report.Rows), report.Format, len(assigned.Uses))
		switch {
		case len(assigned.Problems) > 0:
			d.found(what, checkWrong, found+"; "+assigned.Problems[0], "")
		case len(assigned.Uses) == 0:
			d.found(what, checkWrong, found, "none of them is of a project: see projects: in "+d.config.File)
		default:
			d.found(what, checkOK, found, "")
		}
	}
}

func (d *doctorCommand) settings(s slurm.Settings, me string) {
	if len(s.PrivateData) > 0 || s.AdminLevel != "" {
		operator := me == "root" || strings.EqualFold(s.AdminLevel, "operator") || strings.HasPrefix(strings.ToLower(s.AdminLevel), "admin")
		d.test("privileges", operator || !slices.Contains(s.PrivateData, "jobs"),
			fmt.Sprintf("PrivateData=%s, and %s has admin level %s", orNone(strings.Join(s.PrivateData, ",")), me, orNone(s.AdminLevel)),
			"sacct hides the jobs of others: sacctmgr modify user "+me+" set adminlevel=operator")
	}
	if len(s.StorageTRES) == 0 {
		return
	}
	for i := range d.config.Rules.Resources {
		r := &d.config.Rules.Resources[i]
		for j := range r.Rates {
			for name := range r.Rates[j].PerHour {
				if stored := strings.ToLower(name); !slices.Contains(s.StorageTRES, stored) && !slices.Contains(alwaysStored, stored) {
					d.found("TRES", checkWrong, fmt.Sprintf("%s is charged by %s, which AccountingStorageTRES does not have (%s)", r.Name, name, strings.Join(s.StorageTRES, ",")),
						"add "+name+" to AccountingStorageTRES in slurm.conf, or the jobs' use of it is not recorded")
				}
			}
		}
	}
	if !slices.ContainsFunc(d.checks, func(c check) bool { return c.What == "TRES" }) {
		d.found("TRES", checkOK, "all that the rates are for is recorded", "")
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// maxClockSkew is how far the clocks of site and service may be apart.
const maxClockSkew = 10 * time.Second

// service checks that the service answers, takes the key, and has the same time.
func (d *doctorCommand) service(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	config := *d.config
	config.Retry = usageclient.RetryPolicy{MaxAttempts: 1}
	client, err := clientOf(&config, d.log())
	if err == nil {
		_, err = client.Status(ctx, amieusage.StatusQuery{From: d.clock()})
	}
	if err != nil {
		d.found("service", checkWrong, errorText(ctx, err), serviceRemedy(err, &config))
		return
	}
	d.found("service", checkOK, config.UsageURL+" takes the key of site "+config.Name, "")
	if date, err := config.ServiceTime(ctx); err == nil {
		skew := d.clock().Sub(date).Truncate(time.Second)
		d.test("clock", skew.Abs() <= maxClockSkew, fmt.Sprintf("apart from the service's by %s", skew), "set the clock of this machine: run chrony or ntpd")
	}
}

// serviceRemedy says what helps where the service is no use.
func serviceRemedy(err error, config *siteconfig.Site) string {
	e, ok := errors.AsType[*usageclient.Error](err)
	switch {
	case !ok:
		return "correct " + config.File
	case notUsageAPI(err):
		return "correct usage_url in " + config.File + ": that of a Usage API ends in /api/v1"
	case e.Code == amieusage.CodeUnauthorized || e.Code == amieusage.CodeForbidden:
		return "ask the service's operator for a key of site " + config.Name + " (amieusage admin key create)"
	case e.Status == 0:
		return "see whether the service runs, and whether a firewall lets this machine reach " + config.UsageURL
	}
	return ""
}

func (d *doctorCommand) print() error {
	if d.output == outputJSON {
		return d.printJSON(d.checks)
	}
	w := tabwriter.NewWriter(d.stdout, 0, 0, 2, ' ', 0)
	for _, c := range d.checks {
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Result, c.What, printable(c.Found))
		if c.Remedy != "" {
			fmt.Fprintf(w, "\t\t→ %s\n", printable(c.Remedy))
		}
	}
	return w.Flush()
}
