package pgtest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A keeper is a shell that waits for the end of its standard input, which
// comes also when this process is killed, and then ends what it keeps and
// removes its folder.
type keeper struct {
	cmd   *exec.Cmd
	input io.Closer
}

// keep starts a keeper of a folder, which goes also when this fails. The script
// starts what is to be kept, if anything, reads a line, and ends what is kept.
// Its arguments are $1 and so on; what it prints goes to keeper.log in the
// folder.
func keep(dir, script string, args ...string) (*keeper, error) {
	k, err := startKeeper(dir, script, args)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: starting a shell in %s (root runs it as the user postgres, who must reach the folder; TMPDIR chooses another): %w", dir, err), os.RemoveAll(dir))
	}
	return k, nil
}

func startKeeper(dir, script string, args []string) (*keeper, error) {
	log, err := os.Create(filepath.Join(dir, "keeper.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", script + `; wait; rm -rf "$0"`, dir}, args...)...)
	if err := demote(cmd, dir); err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Setsid = true // an interrupt at the terminal is not for it
	cmd.Stdout, cmd.Stderr = log, log
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &keeper{cmd: cmd, input: input}, cmd.Start()
}

// end ends what is kept, and waits for that.
func (k *keeper) end() {
	k.input.Close()
	k.cmd.Wait()
}

// demote sets the user and the working folder of a command. PostgreSQL and
// pgbouncer refuse to run as root, so root runs them as the user postgres.
func demote(cmd *exec.Cmd, dir string) error {
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := postgresUser()
	if err != nil {
		return err
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return nil
}

func postgresUser() (uid, gid int, err error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, fmt.Errorf("pgtest: root runs PostgreSQL as the user postgres: %w; install postgresql (scripts/tools.sh does)", err)
	}
	uid, err = strconv.Atoi(u.Uid)
	if err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

// newFolder makes a temporary folder for the user that demote sets.
func newFolder() (string, error) {
	dir, err := os.MkdirTemp("", "pgtest-")
	if err != nil || os.Geteuid() != 0 {
		return dir, err
	}
	uid, gid, err := postgresUser()
	if err == nil {
		err = os.Chown(dir, uid, gid)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

// serverPrograms finds the folder of the newest server's programs.
func serverPrograms() (string, error) {
	folders, err := filepath.Glob("/usr/lib/postgresql/*/bin") // Debian's, by version
	if err != nil {
		return "", err
	}
	version := func(folder string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder)))
		return n
	}
	slices.SortFunc(folders, func(a, b string) int { return version(b) - version(a) })
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		folders = append(folders, strings.TrimSpace(string(out)))
	}
	for _, folder := range folders { // a client's folder has no initdb
		if _, err := exec.LookPath(filepath.Join(folder, "initdb")); err == nil {
			return folder, nil
		}
	}
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return "", fmt.Errorf("pgtest: no PostgreSQL server is installed: install postgresql (scripts/tools.sh does), or set %s", Variable)
	}
	return filepath.Dir(initdb), nil
}

// findProgram finds a program in the PATH or in a folder.
func findProgram(name, folder string) (string, error) {
	for _, candidate := range []string{name, filepath.Join(folder, name)} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("pgtest: %s is not installed: install it (scripts/tools.sh does)", name)
}

// freePort draws a port that nobody listens on, from below those that systems
// give to outgoing connections: one of these could take it while a server is
// stopped, or reach itself.
func freePort() (int, error) {
	for range 100 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("pgtest: no free port from 20000 to 31999")
}

// tail is the end of a log.
func tail(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-4096):]
}
