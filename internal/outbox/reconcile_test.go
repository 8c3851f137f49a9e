package outbox_test

import (
	"strings"
	"testing"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/internal/outbox"
)

// TestDifference holds each combination of sides to its difference.
func TestDifference(t *testing.T) {
	type sides = outbox.Compared
	in := func(source outbox.Source, change ...func(*outbox.Side)) *outbox.Side {
		s := &outbox.Side{Source: source, InPeriod: true, Charge: 4, State: outbox.Loaded, Entry: 7, Reason: "the reason", Number: 9}
		for _, c := range change {
			c(s)
		}
		return s
	}
	outside := func(s *outbox.Side) { s.InPeriod = false }
	other := func(s *outbox.Side) { s.Charge, s.Digest = 5, amieusage.Digest{1} }
	reworded := func(s *outbox.Side) { s.Digest = amieusage.Digest{2} }
	state := func(state outbox.State) func(*outbox.Side) { return func(s *outbox.Side) { s.State = state } }
	a, o, l, f := outbox.FromAccounting, outbox.FromOutbox, outbox.FromLoaded, outbox.FromFailed
	ours := amieusage.Identity{Resource: "rm", UsageType: amieusage.Compute}
	gpu := amieusage.Identity{Resource: "gpu", UsageType: amieusage.Compute}
	storage := amieusage.Identity{Resource: "rm", UsageType: amieusage.Storage}
	for what, tt := range map[string]struct {
		sides
		want string // kind, text and remedy begin and end so; "": no difference
	}{
		"everywhere":                  {sides{ours, in(a), in(o), in(l), nil}, ""},
		"outside the period":          {sides{ours, in(a, outside), nil, in(l), nil}, ""},
		"nowhere but here":            {sides{ours, in(a), nil, nil, nil}, "missing: not in the outbox, nor loaded by the service: amieusage report"},
		"not in the outbox":           {sides{ours, in(a), nil, in(l), nil}, "missing: not in the outbox: amieusage report"},
		"not in the ledger":           {sides{ours, in(a), in(o), nil, nil}, "missing: the outbox says that it is loaded, and the service does not have it: amieusage records resend '#7'"},
		"not in the accounting":       {sides{ours, nil, in(o), in(l), nil}, "extra: not in the accounting"},
		"known to the accounting":     {sides{ours, in(a, outside), in(o, outside), in(l), nil}, ""},
		"another resource":            {sides{gpu, nil, in(o), in(l), nil}, ""},
		"another resource, lost":      {sides{gpu, nil, in(o), nil, nil}, "missing: the outbox says"},
		"storage":                     {sides{storage, nil, in(o), in(l), nil}, ""},
		"storage of others":           {sides{storage, nil, nil, in(l), nil}, ""},
		"only the service":            {sides{ours, nil, nil, in(l), nil}, "extra: only the service has it: find out"},
		"only failed":                 {sides{ours, nil, nil, nil, in(f)}, "extra: only the service has it, as a failed record: the reason: amieusage failed clear 9"},
		"another charge here":         {sides{ours, in(a, other), in(o), in(l), nil}, "different: the accounting has another charge: amieusage report"},
		"another content":             {sides{ours, in(a, reworded), in(o), in(l), nil}, "different: the accounting has another content: amieusage report"},
		"another charge there":        {sides{ours, in(a), in(o), in(l, other), nil}, "different: the service has another charge: amieusage records resend '#7'"},
		"pending":                     {sides{ours, in(a), in(o, state(outbox.Pending)), nil, nil}, "pending: not sent yet: amieusage report"},
		"pending correction":          {sides{ours, in(a), in(o, state(outbox.Pending)), in(l, other), nil}, "pending: not sent yet: amieusage report"},
		"queued":                      {sides{ours, in(a), in(o, state(outbox.Queued)), in(l), nil}, "queued: accepted, and not confirmed as loaded: amieusage confirm"},
		"queued and failed":           {sides{ours, in(a), in(o, state(outbox.Queued)), nil, in(f)}, "queued: the service could not load it: the reason: amieusage confirm"},
		"failed":                      {sides{ours, in(a), in(o, state(outbox.Failed)), nil, in(f)}, "failed: the reason: correct"},
		"rejected":                    {sides{ours, in(a), in(o, state(outbox.Rejected)), nil, nil}, "rejected: the reason: correct"},
		"failed though it was loaded": {sides{ours, in(a), in(o), in(l), in(f)}, "failed: the service could not load it: the reason: amieusage confirm"},
	} {
		r := &outbox.Reconciling{Reports: func(resource string) bool { return resource == "rm" }, Listed: true}
		got := ""
		if d := r.Difference(&tt.sides); d != nil {
			got = string(d.Kind) + ": " + d.Text + ": " + d.Remedy
		}
		if !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
	// A service that lists nothing has nothing, and lacks nothing.
	r := &outbox.Reconciling{Reports: func(string) bool { return true }}
	if d := r.Difference(&sides{ours, in(a), in(o), nil, nil}); d != nil {
		t.Errorf("not listed: %+v", d)
	}
	if d := r.Difference(&sides{ours, in(a), nil, nil, nil}); d == nil || d.Text != "not in the outbox" {
		t.Errorf("not listed: %+v", d)
	}
}
