package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/siteconfig"
	"github.com/amieusage/amieusage/internal/slurm"
)

func (p *program) initCommand() *cobra.Command {
	draft, sacct := siteconfig.Draft{}, "sacct"
	cpu := siteconfig.DraftResource{Example: "cpu.example.org", TRES: "cpu"}
	gpu := siteconfig.DraftResource{Example: "gpu.example.org", TRES: "gres/gpu"}
	cmd := &cobra.Command{
		Use:     "init --site NAME [FILE]",
		GroupID: "site",
		Short:   "Write a first site.yaml from what Slurm has",
		Long: `Write a first site.yaml, with comments, and ask Slurm for what belongs in it: the
cluster and its partitions, which of them have GPUs, and the accounts. The file is
site.yaml unless you name another; - is standard output. A file that is there already
is left alone.

What Slurm's programs do not say, and resources that you do not name, stand in the file
as comments for you to complete: nothing of them is reported until you do. For PBS,
HTCondor, Grid Engine and storage see docs/CONFIG.md.`,
		Example: `  amieusage init --site PSC
  amieusage init --site PSC --resource bridges2-rm.psc.access-ci.org --gpu-resource bridges2-gpu.psc.access-ci.org /etc/amieusage/site.yaml
  amieusage init --site PSC --sacct /opt/slurm/bin/sacct -`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := "site.yaml"
			if len(args) > 0 {
				file = args[0]
			}
			return p.init(cmd.Context(), draft, cpu, gpu, sacct, file)
		},
	}
	f := cmd.Flags()
	f.StringVar(&draft.Site, "site", "", "the site's name at the service")
	f.StringVar(&draft.URL, "usage-url", "", "the service's URL (production unless stated)")
	f.StringVar(&cpu.Name, "resource", "", "the resource of the partitions without GPUs, as the service names it")
	f.StringVar(&gpu.Name, "gpu-resource", "", "the resource of the partitions with GPUs, as the service names it")
	f.StringVar(&draft.Zone, "time-zone", "", "the cluster's time zone, as in America/New_York (this machine's unless stated)")
	f.StringVar(&sacct, "sacct", sacct, "the program; scontrol and sacctmgr stand beside it")
	_ = cmd.MarkFlagRequired("site")
	return cmd
}

func (p *program) init(ctx context.Context, draft siteconfig.Draft, cpu, gpu siteconfig.DraftResource, sacct, file string) error {
	if err := siteconfig.CheckSiteName(draft.Site); err != nil {
		return usageError("--site: %w", err)
	}
	if draft.Zone == "" {
		draft.Zone = machineZone()
	}
	if strings.ContainsRune(sacct, '/') {
		path, err := filepath.Abs(sacct)
		if err != nil {
			return err
		}
		sacct, draft.Sacct = path, path
	}
	inventory, problems := (&slurm.Sacct{Path: sacct, Clock: p.clock}).Inventory(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, problem := range problems {
		fmt.Fprintf(p.stderr, "amieusage: not asked: %s\n", printable(problem.Error()))
	}
	draft.Accounts, draft.Cluster = inventory.Accounts, inventory.Cluster
	draft.Others = slices.DeleteFunc(slices.Clone(inventory.Clusters), func(name string) bool { return name == inventory.Cluster })
	for _, partition := range inventory.Partitions {
		if partition.GPUs {
			gpu.Partitions = append(gpu.Partitions, partition.Name)
		} else {
			cpu.Partitions = append(cpu.Partitions, partition.Name)
		}
	}
	for _, r := range []siteconfig.DraftResource{gpu, cpu} {
		if r.Name != "" || len(r.Partitions) > 0 || len(inventory.Partitions) == 0 {
			draft.Resources = append(draft.Resources, r)
		}
	}
	text := draft.String()
	if _, err := siteconfig.ParseSite(file, []byte(text)); err != nil {
		return usageError("%w", err) // a flag has what no site.yaml takes
	}
	if file == "-" {
		_, err := fmt.Fprint(p.stdout, text)
		return err
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usageError("%s is there already, and stays as it is: name another file, or - to see what would be in it", file)
	}
	if err != nil {
		return err
	}
	_, err = out.WriteString(text)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	next := []string{"put the API key into " + filepath.Join(filepath.Dir(file), "amieusage.key") + ", chmod 600"}
	if slices.ContainsFunc(draft.Resources, func(r siteconfig.DraftResource) bool { return !r.IsWhole() }) {
		next = append([]string{"complete the resources in " + file}, next...)
	}
	fmt.Fprintf(p.stdout, "%s is written, with %d partitions. Next:\n", file, len(inventory.Partitions))
	for _, step := range append(next, "amieusage doctor --config "+file, "amieusage report --config "+file+" --dry-run") {
		fmt.Fprintf(p.stdout, "  %s\n", step)
	}
	return nil
}

// machineZone returns the name of this machine's time zone; UTC where it has none.
func machineZone() string {
	zone := os.Getenv("TZ")
	if zone == "" {
		if target, err := os.Readlink("/etc/localtime"); err == nil {
			_, zone, _ = strings.Cut(target, "/zoneinfo/")
		}
	}
	if zone = strings.TrimPrefix(zone, ":"); zone != "" && zone != "Local" {
		if _, err := time.LoadLocation(zone); err == nil {
			return zone
		}
	}
	return "UTC"
}
