package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/usageclient"
)

// smallDisk mounts a file system of its own, of a few mebibytes, and returns
// its folder.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mounting a small disk: %v: this test needs root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// fillDisk takes all room of a disk but for some bytes, and returns what gives it
// back.
func fillDisk(t *testing.T, folder string, but int64) (free func()) {
	t.Helper()
	name := filepath.Join(folder, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 4<<10)
	for err == nil {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if but > 0 {
		info, err := f.Stat()
		if err == nil {
			err = f.Truncate(max(0, info.Size()-but))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// wantUnavailable waits until sends are answered with 503, and reads meanwhile.
func (f *fleet) wantUnavailable(t *testing.T, sends int64) {
	t.Helper()
	client, err := usageclient.New(f.clients[0].site, f.clients[0].key, usageclient.WithBaseURL(f.replicas[0].url),
		usageclient.WithRetry(usageclient.RetryPolicy{MaxAttempts: 1}))
	if err != nil {
		t.Fatal(err)
	}
	reads, begin := 0, time.Now()
	for enough := f.gate.unavailable.Load() + sends; f.gate.unavailable.Load() < enough; reads++ {
		if time.Since(begin) > patience {
			t.Fatal("no send is answered with 503")
		}
		if _, err := client.Status(t.Context(), amieusage.StatusQuery{}); err != nil {
			t.Error("reading the status: ", err)
		}
		for _, err := range client.AllLoaded(t.Context(), amieusage.LoadedQuery{PageSize: 10}) {
			if err != nil {
				t.Error("reading what is loaded: ", err)
			}
			break
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d reads went well", reads)
}

// TestFaultServiceDiskFull fills the disk of the ledger, several times. Sends
// are answered with 503, reads go on, and nothing is lost; with room again all
// goes on by itself.
func TestFaultServiceDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "64m")
	f := newFleet(t, buildProgram(t), filepath.Join(disk, "ledger.db"), 1, rand.Uint64())
	f.underLoad(t, func() {
		for _, but := range []int64{0, 40 << 10, 300 << 10} {
			f.goesWell(t, 3)
			free := fillDisk(t, disk, but)
			f.wantUnavailable(t, 20)
			free()
		}
		f.goesWell(t, 3)
	})
	f.check(t)

	f.replicas[0].stop(t)
	free := fillDisk(t, disk, 0)
	wantRefused(t, f.replicas[0].command(), exitUsage, f.db)
	free()
	f.replicas[0].start(t)
	f.check(t)
}

// wantRefused runs a command that must end with a status and a line on standard
// error that says the text.
func wantRefused(t *testing.T, cmd *exec.Cmd, status int, text string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() }).Stop()
	_ = cmd.Wait()
	complaint := stderr.String()
	if got := cmd.ProcessState.ExitCode(); got != status || !strings.Contains(complaint, "amieusage: ") || !strings.Contains(complaint, text) ||
		strings.Contains(complaint, "panic") || strings.Contains(complaint, "goroutine") {
		t.Errorf("%v: exit status %d, want %d and %q:\n%s", cmd.Args, got, status, text, complaint)
		return
	}
	t.Logf("%s", strings.TrimSpace(complaint[strings.Index(complaint, "amieusage: "):]))
}

// TestFaultAgentDiskFull fills the disk of the outbox, with ever more room left.
// The agent says so, and loses nothing.
func TestFaultAgentDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "16m")
	f := newFleet(t, buildProgram(t), filepath.Join(t.TempDir(), "ledger.db"), 1, rand.Uint64())
	a := newSiteAgent(t, f, "TACC", filepath.Join(disk, "outbox.db"))
	refused := 0
	for _, but := range []int64{0, 8 << 10, 40 << 10, 100 << 10, 400 << 10, 0, 80 << 10} {
		for range 3 {
			a.work()
		}
		free := fillDisk(t, disk, but)
		for range 2 {
			a.work()
			var stdout, stderr bytes.Buffer
			cmd := a.command(reportCommand...)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			status, complaint := cmd.ProcessState.ExitCode(), stderr.String()
			if strings.Contains(complaint, "amieusage: ") || stdout.Len() == 0 {
				refused++
				if status != exitRefused && status != exitUsage || strings.Contains(complaint, "panic") || !strings.Contains(complaint, "outbox.db") {
					t.Errorf("with %d bytes left: exit status %d: %s", but, status, complaint)
				}
				t.Logf("with %d bytes left, exit status %d: %s", but, status, strings.TrimSpace(complaint))
			}
		}
		free()
	}
	if refused == 0 {
		t.Error("no run was refused")
	}
	f.clients = nil
	f.check(t, a.account(t))
	a.wantNothingNew(t)
}

// setImmutable lets nobody write into files, not even root through what is open
// already.
func setImmutable(t *testing.T, immutable bool, names ...string) {
	t.Helper()
	flag := "-i"
	if immutable {
		flag = "+i"
	}
	if out, err := exec.Command("chattr", append([]string{flag}, names...)...).CombinedOutput(); err != nil {
		t.Fatalf("chattr %s: %v: %s: this test needs root, and a file system that has the attribute", flag, err, out)
	}
}

// TestFaultReadOnly makes the ledger's file read-only while it is served, and
// while it is not.
func TestFaultReadOnly(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "ledger.db")
	f := newFleet(t, buildProgram(t), db, 1, rand.Uint64())
	t.Cleanup(func() { setImmutable(t, false, db) })
	f.underLoad(t, func() {
		f.goesWell(t, 3)
		setImmutable(t, true, db, db+"-wal")
		f.wantUnavailable(t, 20)
		setImmutable(t, false, db, db+"-wal")
		f.goesWell(t, 3)
	})
	f.check(t)

	f.replicas[0].stop(t)
	setImmutable(t, true, db)
	wantRefused(t, f.replicas[0].command(), exitUsage, db)
	setImmutable(t, false, db)
	// A file system that is read-only.
	folder := filepath.Dir(db)
	for _, flags := range []uintptr{syscall.MS_BIND, syscall.MS_BIND | syscall.MS_REMOUNT | syscall.MS_RDONLY} {
		if err := syscall.Mount(folder, folder, "", flags, ""); err != nil {
			t.Fatalf("mounting: %v: this test needs root", err)
		}
	}
	wantRefused(t, f.replicas[0].command(), exitUsage, db)
	if err := syscall.Unmount(folder, 0); err != nil {
		t.Fatal(err)
	}
	f.replicas[0].start(t)
	f.check(t)
}
