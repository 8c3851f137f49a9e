package slurm

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/amieusage/amieusage/internal/command"
)

// Settings are those of Slurm that decide what its accounting has, and who may see it. What could not be asked is empty.
type Settings struct {
	StorageTRES   []string // AccountingStorageTRES: what is recorded of jobs beside cpu, mem, node, energy, billing, fs/disk, vmem and pages
	PrivateData   []string // what users see of their own only, of slurm.conf and slurmdbd.conf together
	MaxQueryRange string   // MaxQueryTimeRange of slurmdbd.conf
	AdminLevel    string   // of the user who asks: None, Operator, Administrator
}

// Settings asks scontrol and sacctmgr, which stand beside sacct. The error says which of them could not be asked.
func (s *Sacct) Settings(ctx context.Context, user string) (Settings, error) {
	var settings Settings
	config, err := s.ask(ctx, "scontrol", "show", "config")
	if err != nil {
		return settings, err
	}
	settings.StorageTRES = words(config["accountingstoragetres"])
	settings.PrivateData = words(config["privatedata"])
	if config, err = s.ask(ctx, "sacctmgr", "show", "configuration"); err != nil {
		return settings, err
	}
	settings.PrivateData = append(settings.PrivateData, words(config["privatedata"])...)
	settings.MaxQueryRange = config["maxquerytimerange"]
	out, err := s.beside(ctx, "sacctmgr", "--noheader", "--parsable2", "show", "user", "name="+user, "format=adminlevel")
	settings.AdminLevel = strings.TrimSpace(out)
	return settings, err
}

// words parts a list; "none" and "(null)" have no words.
func words(list string) []string {
	var words []string
	for _, w := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		if w = strings.ToLower(w); w != "none" && w != "(null)" {
			words = append(words, w)
		}
	}
	return words
}

// ask runs a program that prints "Name = value" lines, and returns the values by their names in lower case.
func (s *Sacct) ask(ctx context.Context, program string, args ...string) (map[string]string, error) {
	out, err := s.beside(ctx, program, args...)
	values := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(line, "="); ok {
			values[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
		}
	}
	return values, err
}

// beside runs another of Slurm's programs.
func (s *Sacct) beside(ctx context.Context, program string, args ...string) (string, error) {
	path := program
	if strings.ContainsRune(s.Path, filepath.Separator) {
		path = filepath.Join(filepath.Dir(s.Path), program)
	}
	var out []byte
	_, err := command.Read(ctx, s.timeout(), path, args, func(r io.Reader) (err error) {
		out, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	return string(out), nil
}
