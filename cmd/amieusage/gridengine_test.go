package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
)

// A geCell is a Grid Engine of the test's own: Debian's, with its own name, ports
// and spool, on this machine alone.
type geCell struct {
	root, name string
	env        []string
}

// newCell starts a cell with four slots and a parallel environment, smp.
func newCell(t *testing.T) *geCell {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("a Grid Engine is started by root")
	}
	c := &geCell{root: "/var/lib/gridengine", name: "test" + strconv.Itoa(os.Getpid())}
	c.env = append(os.Environ(), "SGE_ROOT="+c.root, "SGE_CELL="+c.name, "SGE_QMASTER_PORT="+freePort(t), "SGE_EXECD_PORT="+freePort(t), "HOME=/")
	spool := must[string](t)(os.MkdirTemp("", "cell"))
	common := filepath.Join(c.root, c.name, "common")
	t.Cleanup(func() {
		c.stop(t)
		_ = os.RemoveAll(filepath.Join(c.root, c.name))
		_ = os.RemoveAll(spool)
	})
	noError(t, os.MkdirAll(common, 0o755))
	for _, folder := range []string{"spooldb", "qmaster/job_scripts", "execd"} {
		noError(t, os.MkdirAll(filepath.Join(spool, folder), 0o755))
	}
	noError(t, os.Chmod(spool, 0o755))
	// All names of this machine are one, whatever /etc/hosts says of it.
	for name, text := range map[string]string{
		"act_qmaster":  "localhost\n",
		"host_aliases": "localhost " + must[string](t)(os.Hostname()) + "\n",
		"bootstrap": strings.NewReplacer("@", spool).Replace(`admin_user sgeadmin
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params @/spooldb
binary_path /usr/sbin
qmaster_spool_dir @/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
`),
	} {
		noError(t, os.WriteFile(filepath.Join(common, name), []byte(text), 0o644))
	}
	c.run(t, nil, "chown", "-R", "sgeadmin:sgeadmin", spool, filepath.Join(c.root, c.name))
	c.run(t, nil, "setpriv", "--reuid", "sgeadmin", "--regid", "sgeadmin", "--clear-groups",
		"/usr/share/gridengine/scripts/init_cluster", c.root, c.name, spool+"/spooldb", "sgeadmin")
	c.run(t, nil, "/usr/lib/gridengine/spooldefaults", "managers", "root")
	c.run(t, nil, "sge_qmaster")
	c.until(t, "the qmaster answers", func() bool { return c.command(nil, "qconf", "-sh").Run() == nil })
	c.run(t, nil, "qconf", "-as", "localhost")
	c.edit(t, `s|^execd_spool_dir.*|execd_spool_dir `+spool+`/execd|; s|^load_report_time.*|load_report_time 00:00:01|; s|flush_time=00:00:15|flush_time=00:00:01|; s|^min_uid.*|min_uid 0|; s|^min_gid.*|min_gid 0|`, "-mconf", "global")
	c.edit(t, `s|^schedule_interval.*|schedule_interval 0:0:1|; s|^flush_submit_sec.*|flush_submit_sec 1|; s|^flush_finish_sec.*|flush_finish_sec 1|`, "-msconf")
	c.run(t, nil, "sge_execd")
	c.edit(t, `s|^slots.*|slots 99|; s|^allocation_rule.*|allocation_rule $pe_slots|`, "-ap", "smp")
	c.edit(t, `s|^hostlist.*|hostlist localhost|; s|^slots.*|slots 4|; s|^pe_list.*|pe_list smp|; s|^load_thresholds.*|load_thresholds NONE|`, "-aq", "all.q")
	return c
}

func freePort(t *testing.T) string {
	t.Helper()
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (c *geCell) command(env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.Command("timeout", append([]string{"60", name}, args...)...)
	cmd.Env = append(c.env, env...)
	return cmd
}

func (c *geCell) run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	out, err := c.command(env, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// edit changes what qconf has an editor change.
func (c *geCell) edit(t *testing.T, script string, args ...string) {
	t.Helper()
	editor := filepath.Join(t.TempDir(), "editor")
	noError(t, os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i '"+script+"' \"$1\"\n"), 0o755))
	c.run(t, []string{"EDITOR=" + editor}, "qconf", args...)
}

func (c *geCell) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("not in a minute: %s: %s", what, c.run(t, nil, "qstat", "-f", "-u", "*"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *geCell) stop(t *testing.T) {
	t.Helper()
	_ = c.command(nil, "qconf", "-ke", "all").Run()
	_ = c.command(nil, "qconf", "-km").Run()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if c.command(nil, "qconf", "-sh").Run() != nil {
			return
		}
	}
	t.Error("the cell does not end")
}

// submit submits a job that sleeps, and returns its number.
func (c *geCell) submit(t *testing.T, args ...string) string {
	t.Helper()
	out := c.run(t, nil, "qsub", append(append([]string{"-b", "y", "-o", "/dev/null", "-e", "/dev/null", "-cwd", "-terse"}, args...), "/bin/sleep", "2")...)
	number, _, _ := strings.Cut(strings.TrimSpace(out), ".")
	return number
}

// TestGridEngine reports what a real Grid Engine has run, and holds it against
// what its own qacct says.
func TestGridEngine(t *testing.T) {
	c := newCell(t)
	plain := c.submit(t, "-N", "plain", "-A", "p1")
	parallel := c.submit(t, "-N", "parallel", "-pe", "smp", "3", "-A", "p1")
	array := c.submit(t, "-N", "array", "-t", "1-2", "-A", "p1")
	held := c.submit(t, "-N", "held", "-h", "-A", "p1")
	c.run(t, nil, "qdel", held)
	accounting := filepath.Join(c.root, c.name, "common", "accounting")
	c.until(t, "all jobs are accounted for", func() bool {
		text, _ := os.ReadFile(accounting)
		lines := 0
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") && strings.HasSuffix(line, "\n") {
				lines++
			}
		}
		return lines >= 4 // that of a job which never started may not come
	})
	s := newKilledService(t, "sqlite")
	folder := t.TempDir()
	noError(t, os.WriteFile(filepath.Join(folder, "psc.key"), []byte(s.key), 0o600))
	site := filepath.Join(folder, "site.yaml")
	noError(t, os.WriteFile(site, fmt.Appendf(nil, `site: PSC
api_key_file: psc.key
usage_url: %s
gridengine: {accounting: %s, cluster: cell}
resources: [{resource: slots, partitions: ["*"], charge: {per_hour: {cpu: 3600}}}]
`, s.url, accounting), 0o644))
	for i := range 2 { // the second time nothing is new
		out, err := exec.Command(s.program, "report", "--config", site).CombinedOutput()
		if err != nil || i == 1 && !regexp.MustCompile(`(?m)^unchanged +4$`).Match(out) {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// A charge is slots × seconds.
	want := map[string]int64{}
	for number, tasks := range map[string][]string{plain: {""}, parallel: {""}, array: {".1", ".2"}} {
		for _, task := range tasks {
			args := []string{"-f", accounting, "-j", number}
			if task != "" {
				args = append(args, "-t", task[1:])
			}
			said := c.run(t, nil, "qacct", args...)
			value := func(name string) int64 {
				m := regexp.MustCompile(`(?m)^` + name + ` +([0-9]+)`).FindStringSubmatch(said)
				if m == nil {
					t.Fatalf("qacct does not say %s: %s", name, said)
				}
				return must[int64](t)(strconv.ParseInt(m[1], 10, 64))
			}
			want[number+task] = value("slots") * value("ru_wallclock")
		}
	}
	got := map[string]int64{}
	for r, err := range s.client(t).AllLoaded(t.Context(), amieusage.LoadedQuery{}) {
		noError(t, err)
		millionths := must[int64](t)(r.Charge.Millionths())
		got[r.LocalRecordID] = millionths / 1_000_000
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
	for id, charge := range want {
		if got[id] != charge || charge == 0 {
			t.Errorf("job %s: %d, and qacct says %d", id, got[id], charge)
		}
	}
}
