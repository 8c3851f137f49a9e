package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/ledger"
	"github.com/amieusage/amieusage/internal/postgres"
	"github.com/amieusage/amieusage/internal/sqlite"
)

type copyOptions struct {
	from, to string
	sites    []string
	restart  bool
	output   outputFlag
}

func (p *program) adminCopyCommand() *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "copy --from FILE --to postgres://USER@HOST/DATABASE",
		Short: "Move a ledger's file into PostgreSQL",
		Long: `Copy a ledger's file into a database of PostgreSQL, with all of its sites or
those that --site names: their registries, API keys, records, revisions and
failed records, and what is queued. Numbers and times stay, so that clients go on
with their keys and cursors. Only batches are numbered anew, in each site: those
that are in archives stay in these, and new archives go into another folder.

Stop the service first: nothing may be added to the file meanwhile. In the end
every row of both is compared, by tables and months of usage; the sites are
served from the database only if all is equal, and from then on no longer from the file:
who still asks there is told that the site was moved. Then

  amieusage serve --db postgres://USER@HOST/DATABASE

Cut off at any time, the same command goes on where it was. Where the file was
served again in between, begin anew with --restart, which removes from the
database what was copied of the sites; it removes nothing of sites that are
served from there. Should that run be cut off, go on without --restart.

Exit status: 0 the sites are copied and equal, 1 they are not, 2 the file or the
database cannot be used.`,
		Example: `  amieusage admin copy --from ledger.db --to postgres://amieusage@db.example.org/amieusage
  amieusage admin copy --from ledger.db --site PSC --to postgres://amieusage@db.example.org/amieusage`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.copyLedger(p.acting(cmd.Context()), &o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "the ledger's file (required)")
	f.StringVar(&o.to, "to", "", "the database: postgres://USER@HOST/DATABASE (required; or "+dbVariable+")")
	f.StringArrayVar(&o.sites, "site", nil, "copy only this site; may be repeated")
	f.BoolVar(&o.restart, "restart", false, "remove first what an earlier copy has left unfinished")
	o.output.add(cmd)
	markRequired(cmd, "from")
	return cmd
}

func (p *program) copyLedger(ctx context.Context, o *copyOptions) (err error) {
	to := dbFlag(o.to)
	if err := to.resolve(p.stderr); err != nil {
		return usageError("required flag(s) \"to\" not set, nor is %s", dbVariable)
	}
	if to.isFile() {
		return usageError("--to %s is no database of PostgreSQL: postgres://USER@HOST/DATABASE", to)
	}
	if postgres.IsURL(o.from) {
		return usageError("--from must be a ledger's file")
	}
	source, err := sqlite.OpenCopySource(ctx, o.from)
	if err != nil {
		return &statusError{exitUsage, err}
	}
	defer func() {
		if closeErr := source.Close(); err == nil {
			err = closeErr
		}
	}()
	names, err := copiedSites(ctx, source, o)
	if err != nil {
		return err
	}
	target, err := postgres.Open(ctx, string(to), postgres.Options{MaxConns: adminConns})
	if err != nil {
		return &statusError{exitUsage, err}
	}
	defer func() {
		if closeErr := target.Close(); err == nil {
			err = closeErr
		}
	}()
	policy, err := source.Policy(ctx)
	if err != nil {
		return err
	}
	if policy != "" {
		if has, err := ledger.ChoosePolicy(ctx, target, policy); err != nil {
			return err
		} else if has != policy {
			return usageError("the policy of %s is %s, that of %s is %s: make them the same first (amieusage admin policy)", o.from, policy, to, has)
		}
	}
	progress := &copyProgress{out: p.stderr, clock: p.clock, told: p.clock()}
	c := &ledger.Copy{From: source, To: target.CopyTarget(), Restart: o.restart, Progress: progress.tell}
	reports, err := c.Run(ctx, names)
	if len(reports) > 0 {
		if printErr := p.printCopy(o.output, reports); err == nil {
			err = printErr
		}
	}
	if err == nil {
		again, secret := postgres.WithoutPassword(string(to))
		fmt.Fprintf(p.stderr, "copied and equal; go on with: amieusage serve --db %s\n", shellWord(printable(again)))
		if secret {
			fmt.Fprintln(p.stderr, "and with the password in PGPASSWORD or a passfile, or the whole URL in "+dbVariable)
		}
	}
	if e, ok := errors.AsType[*amieusage.Error](err); ok && e.Code == amieusage.CodeUnavailable {
		again := "the same command goes on from here"
		if o.restart {
			again = "without --restart " + again
		}
		return fmt.Errorf("%w; %s", err, again)
	}
	return err
}

// copiedSites returns the names of the sites to copy, each once.
func copiedSites(ctx context.Context, source *sqlite.CopySource, o *copyOptions) ([]string, error) {
	all, err := source.Sites(ctx)
	if err != nil {
		return nil, err
	}
	if len(o.sites) == 0 {
		if len(all) == 0 {
			return nil, usageError("the ledger %s has no sites", o.from)
		}
		return all, nil
	}
	names := slices.Compact(slices.Sorted(slices.Values(o.sites)))
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, usageError("the ledger %s has no site %q", o.from, name)
		}
	}
	return names, nil
}

// copyProgress tells how far a copy is, from time to time.
type copyProgress struct {
	out   io.Writer
	clock func() time.Time
	told  time.Time
	last  ledger.CopyProgress
}

// tellEvery is how often a long copy says how far it is.
const tellEvery = 5 * time.Second

func (c *copyProgress) tell(now ledger.CopyProgress) {
	at := c.clock()
	took := at.Sub(c.told)
	if took < tellEvery {
		return
	}
	doing, rows := "copied", now.Rows
	if now.Verifying {
		doing = "compared"
	}
	line := fmt.Sprintf("%s: %s %d rows of %s", printable(now.Site), doing, rows, now.Table)
	if c.last.Site == now.Site && c.last.Table == now.Table && c.last.Verifying == now.Verifying {
		line += fmt.Sprintf(", %.0f a second", float64(rows-c.last.Rows)/took.Seconds())
	}
	fmt.Fprintln(c.out, line)
	c.told, c.last = at, now
}

// A copyView is a comparison as programs see it.
type copyView struct {
	Site   string         `json:"site"`
	Copied int64          `json:"copied_rows"`
	Equal  bool           `json:"equal"`
	From   copyTotalsView `json:"from"`
	To     copyTotalsView `json:"to"`
	Parts  []copyPartView `json:"parts"`
}

type copyTotalsView struct {
	Accepted    int64            `json:"accepted"`
	Loaded      int64            `json:"loaded"`
	Failed      int64            `json:"failed"`
	Queued      int64            `json:"queued"`
	Batches     int64            `json:"batches"`
	GrossCharge amieusage.Charge `json:"gross_charge"`
}

type copyPartView struct {
	Table string      `json:"table"`
	Month string      `json:"month,omitempty"`
	Equal bool        `json:"equal"`
	From  copySumView `json:"from"`
	To    copySumView `json:"to"`
}

type copySumView struct {
	Rows      int64            `json:"rows"`
	Deducted  amieusage.Charge `json:"deducted"`
	GivenBack amieusage.Charge `json:"given_back"`
	SHA256    string           `json:"sha256"`
}

func viewOfTotals(t *ledger.CopyTotals) copyTotalsView {
	return copyTotalsView{t.Accepted, t.Loaded, t.Failed, t.Queued, t.Batches, amieusage.ChargeOfMillionths(t.GrossCharge)}
}

func viewOfSum(s *ledger.CopySum) copySumView {
	return copySumView{s.Rows, amieusage.ChargeOfMillionths(s.Deducted), amieusage.ChargeOfMillionths(s.GivenBack), hex.EncodeToString(s.Digest[:])}
}

// printCopy prints what was compared. Where something differs, the table shows
// both.
func (p *program) printCopy(form outputFlag, reports []ledger.CopyReport) error {
	views, rows := []copyView{}, [][]string{}
	for i := range reports {
		r := &reports[i]
		v := copyView{Site: r.Site, Copied: r.Copied, Equal: r.Equal(), From: viewOfTotals(&r.From), To: viewOfTotals(&r.To)}
		for j := range r.Parts {
			part := &r.Parts[j]
			pv := copyPartView{part.Table, part.Month, part.From == part.To, viewOfSum(&part.From), viewOfSum(&part.To)}
			v.Parts = append(v.Parts, pv)
			row := []string{r.Site, part.Table, part.Month, strconv.FormatInt(part.From.Rows, 10), "", "", pv.From.SHA256[:16], "equal"}
			if part.Month != "" {
				row[4], row[5] = pv.From.Deducted.String(), pv.From.GivenBack.String()
			}
			if !pv.Equal {
				row[7] = fmt.Sprintf("DIFFERS: %d rows, %s deducted, %s given back, %s",
					part.To.Rows, pv.To.Deducted, pv.To.GivenBack, pv.To.SHA256[:16])
			}
			rows = append(rows, row)
		}
		views = append(views, v)
		for _, counter := range []struct {
			name     string
			from, to any
		}{
			{"accepted", v.From.Accepted, v.To.Accepted},
			{"loaded", v.From.Loaded, v.To.Loaded},
			{"failed", v.From.Failed, v.To.Failed},
			{"queued", v.From.Queued, v.To.Queued},
			{"all charges", v.From.GrossCharge.String(), v.To.GrossCharge.String()},
		} {
			state := "equal"
			if counter.from != counter.to {
				state = fmt.Sprint("DIFFERS: ", counter.to)
			}
			rows = append(rows, []string{r.Site, counter.name, "", fmt.Sprint(counter.from), "", "", "", state})
		}
	}
	return p.print(form, views, []string{"SITE", "WHAT", "MONTH", "COUNT", "DEDUCTED", "GIVEN BACK", "SHA-256", "COPY"}, rows)
}
