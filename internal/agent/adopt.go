package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// meet reads, once for an outbox, what the service has loaded of the site
// already. An outbox that is new, because the former one was lost, or because
// another program has reported until now, charges nothing of that again.
func (a *Agent) meet(ctx context.Context) error {
	met, _, err := a.Queue.Met(ctx)
	if met || err != nil {
		return err
	}
	chunk := make([]amieusage.LoadedRecord, 0, confirmChunk)
	for r, err := range a.Client.AllLoaded(ctx, amieusage.LoadedQuery{}) {
		if isMissing(err) {
			a.Log.Warn("the service does not list loaded records: what another program has reported before is not known")
			break
		}
		if err != nil {
			return err
		}
		if chunk = append(chunk, r); len(chunk) == confirmChunk {
			if err := a.Queue.Meet(ctx, chunk, false); err != nil {
				return err
			}
			chunk = chunk[:0]
			a.progress("reading what the service has")
		}
	}
	return a.Queue.Meet(ctx, chunk, true)
}

// Adopt takes what the service had before as reported, from now on; note says
// who decided so.
func (a *Agent) Adopt(ctx context.Context, note outbox.Note) error {
	if err := a.meet(ctx); err != nil {
		return err
	}
	if err := a.Queue.Adopted(ctx); err != nil {
		return err
	}
	return a.adopt(ctx, note)
}

// adopt makes the entries that the service had before loaded ones, where that
// was decided, and counts them otherwise: they are held.
func (a *Agent) adopt(ctx context.Context, note outbox.Note) error {
	met, adopted, err := a.Queue.Met(ctx)
	if !met || err != nil {
		return err
	}
	held := 0
	for after := outbox.ID(0); ; {
		page, err := a.Queue.Found(ctx, after)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].ID
		// What another entry stands for is no record of its own.
		current := slices.DeleteFunc(slices.Clone(page), func(f outbox.Found) bool { return f.Superseded })
		superseded := slices.DeleteFunc(slices.Clone(page), func(f outbox.Found) bool { return !f.Superseded })
		var writes []outbox.Write
		taken := map[amieusage.Identity]bool{}
		for _, f := range append(current, superseded...) {
			switch id := f.AtService.Identity(); {
			case !adopted:
			case taken[id]:
				writes = append(writes, outbox.Write{ID: f.ID, Was: f.Version(), Delete: true})
			default:
				taken[id] = true
				writes = append(writes, f.Adopt(note)...)
			}
		}
		held += len(page)
		if _, err := a.Queue.Apply(ctx, writes, nil); err != nil {
			return err
		}
	}
	if adopted {
		a.Count(func(s *Summary) { s.Adopted += int64(held) })
		return nil
	}
	a.Count(func(s *Summary) { s.AtService = int64(held) })
	if held > 0 {
		a.problem(Problem{Kind: "held", Reason: fmt.Sprintf("the service has %d of these records already, sent by another outbox or program: "+
			"they are not sent; take what it has as reported with amieusage report --adopt, after seeing that local_record_id in site.yaml makes the ids that were used", held)})
	}
	return nil
}
