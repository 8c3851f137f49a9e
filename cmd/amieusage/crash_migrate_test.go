package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amieusage/amieusage/internal/pgtest"
)

// TestCrashMigrate kills programs behind each commit by which they make a
// ledger or an outbox: the next program goes on from there.
func TestCrashMigrate(t *testing.T) {
	t.Parallel()
	program := buildFailpoints(t)
	for what, kills := range map[string]int{"sqlite": 4, "postgres": 2, "outbox": 3} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			killed := 0
			for _, point := range []string{"migrate: created", "migrate: versioned", "migrate: committed"} {
				for nth, died := 1, true; died; nth++ {
					folder, db := t.TempDir(), "ledger.db"
					if what == "postgres" {
						db = pgtest.Database(t)
					}
					commands := [][]string{{"admin", "site", "add", "PSC", "--db", db}, {"admin", "verify", "--db", db}}
					if what == "outbox" {
						writeFile(t, filepath.Join(folder, "site.yaml"), strings.Replace(crashSite, "URL", "http://127.0.0.1:1", 1))
						commands = [][]string{append(retryCommand, "--config", "site.yaml"), {"records", "list", "--config", "site.yaml"}}
					}
					env := []string{"AMIEUSAGE_FAILPOINT=" + filepath.Join(folder, "failpoint")}
					run := func(args []string) (died bool) {
						cmd := exec.CommandContext(t.Context(), program, args...)
						cmd.Dir, cmd.Env = folder, append(os.Environ(), env...)
						out, err := cmd.CombinedOutput()
						if err != nil && cmd.ProcessState.Exited() {
							t.Fatalf("%s, hit %d: %v: %v: %s", point, nth, args, err, out)
						}
						return err != nil
					}
					disarm := arm(t, env, &crashPlan{point: point, nth: nth})
					if died = run(commands[0]); died {
						killed++
					}
					disarm()
					for _, args := range commands {
						run(args)
					}
				}
			}
			if killed < kills {
				t.Errorf("%d programs were killed, want at least %d", killed, kills)
			}
		})
	}
}
