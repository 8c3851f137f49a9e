package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/amieusage/amieusage/internal/ledger"
)

func (p *program) adminUndoCommand() *cobra.Command {
	var site, since string
	var key int64
	var dryRun bool
	var output outputFlag
	cmd := p.withLedger(&cobra.Command{
		Use:   "undo --key N --since TIME --db DB",
		Short: "Undo what a stolen key has sent",
		Long: `Make the records that a key has sent since a time what they were before: each gets a new
revision with its former content. A record that the key has added cannot go away; its
charge becomes 0. Only records whose newest version is the key's are changed: where a site
has corrected one since, that correction stands, and is listed. Look at the keys that the
former versions were sent with: another stolen key's is undone by its own number. The ledger keeps all
versions (see: amieusage admin history), and remembers who has undone them.

Revoke the key first. Nothing of the site may be queued at that moment, so that nothing
newer is replaced: run this while the service runs, and it waits up to 30 seconds for the
service to load. The new versions are loaded as all else is.

Undoing again changes nothing more. Failed records that the key has cleared stay cleared
(see: amieusage admin history --key N).

Exit status: 0 all is undone, 1 some records were left as they are, which are listed.`,
		Example: `  amieusage admin undo --key 3 --since 2026-11-20 --db ledger.db --dry-run
  amieusage admin undo --key 3 --since 2026-11-20T08:00:00Z --db ledger.db`,
		Args: cobra.NoArgs,
	}, false, func(ctx context.Context, store ledgerStore, _ []string) error {
		from, err := parseSince(since, p.clock())
		if err != nil {
			return err
		}
		of, err := siteOfKey(ctx, store, site, key)
		if err != nil {
			return err
		}
		keys, err := store.Keys(ctx, of)
		if err != nil {
			return &statusError{exitUsage, err}
		}
		at := slices.IndexFunc(keys, func(k ledger.Key) bool { return k.ID == key })
		if at < 0 {
			return &statusError{exitUsage, ledger.UnknownKey(of, key)}
		}
		if keys[at].RevokedAt.IsZero() {
			fmt.Fprintf(p.stderr, "amieusage: warning: key %d is still valid: revoke it, or it may send all again (amieusage admin key revoke %d)\n", key, key)
		}
		steps, err := ledger.PlanUndo(ctx, store, of, key, from)
		if err != nil {
			return err
		}
		undone, loaded := 0, true
		if !dryRun {
			undone, loaded, err = ledger.Undo(ctx, store, of, key, steps, p.clock(), p.waitForLoading(ctx))
		}
		if errors.Is(err, ledger.ErrQueueFull) {
			err = fmt.Errorf("site %s has records that are not loaded yet: see that the service runs, and run this again", of)
		}
		if err != nil {
			return fmt.Errorf("%d records were undone, and the others were left: %w", undone, err)
		}
		if err := p.printUndo(output, steps, dryRun); err != nil {
			return err
		}
		if !loaded {
			fmt.Fprintln(p.stderr, "the former versions are queued, and stand once the service has loaded them: see that it runs")
		}
		if slices.ContainsFunc(steps, func(s ledger.UndoStep) bool { return s.Left != "" && s.Left != ledger.LeftUndone }) {
			return &statusError{1, errors.New("some records were left as they are: see the list, and correct those that are wrong (amieusage adjust, or the site's accounting)")}
		}
		return nil
	})
	f := cmd.Flags()
	f.Int64Var(&key, "key", 0, "the key's number in: amieusage admin key list (required)")
	f.StringVar(&since, "since", "", "undo what was accepted from this time on: a date, a time with its zone, or a length such as 36h or 7d (required)")
	f.StringVar(&site, "site", "", "the site's name: needed only if sites were copied here from several ledgers")
	f.BoolVar(&dryRun, "dry-run", false, "show what would be undone, and change nothing")
	output.add(cmd)
	markRequired(cmd, "key")
	markRequired(cmd, "since")
	return cmd
}

// undoWait is how long undoing waits for a site's queue to be loaded.
const undoWait = 30 * time.Second

// waitForLoading returns what waits a little for the service to load what is queued, and says
// whether to try again.
func (p *program) waitForLoading(ctx context.Context) func() bool {
	end := p.clock().Add(undoWait)
	return func() bool {
		pause := time.NewTimer(200 * time.Millisecond)
		defer pause.Stop()
		select {
		case <-pause.C:
			return p.clock().Before(end)
		case <-ctx.Done():
			return false
		}
	}
}

// An undoView is a record of an undoing as programs see it.
type undoView struct {
	Site          string      `json:"site"`
	Resource      string      `json:"resource"`
	UsageType     string      `json:"usage_type"`
	LocalRecordID string      `json:"local_record_id"`
	KeyTime       time.Time   `json:"key_time,omitzero"`
	Revision      int         `json:"revision"`
	Charge        json.Number `json:"charge"`
	Becomes       json.Number `json:"becomes"`
	SentWith      int64       `json:"becomes_as_sent_with_key,omitempty"`
	Added         bool        `json:"added,omitempty"`
	Left          string      `json:"left,omitempty"`
}

func (p *program) printUndo(output outputFlag, steps []ledger.UndoStep, dryRun bool) error {
	views, rows := []undoView{}, [][]string{}
	for _, s := range steps {
		v := undoView{s.Site, s.Identity.Resource, string(s.Identity.UsageType), s.Identity.LocalRecordID, s.Identity.KeyTime.UTC(), s.Revision,
			json.Number(s.Now.String()), json.Number(s.Was.String()), s.WasKey, s.Added, string(s.Left)}
		views = append(views, v)
		becomes := v.Becomes.String()
		switch {
		case s.Left != "":
			becomes = "stays: " + v.Left
		case s.Added:
			becomes += " (the key has added it)"
		default:
			becomes += ", as sent with " + sender(s.WasKey)
		}
		rows = append(rows, []string{v.Site, v.UsageType, v.LocalRecordID, v.Resource, strconv.Itoa(v.Revision), v.Charge.String(), becomes})
	}
	if err := p.print(output, views, []string{"SITE", "TYPE", "RECORD", "RESOURCE", "REVISION", "CHARGE", "BECOMES"}, rows); err != nil {
		return err
	}
	if dryRun && output != outputJSON {
		fmt.Fprintln(p.stdout, "this is a dry run: nothing changed")
	}
	return nil
}
