package karpenops

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// What people read at three in the morning: what is going on first, then what stands against it, then the details.

func headline(mode karpenstate.Mode, paused, holding string) string {
	switch {
	case paused != "":
		return "PAUSED: " + paused
	case holding != "":
		return "HOLDING, nothing is decided or undone: " + holding
	}
	return "working, mode " + string(mode)
}

func printStatus(w io.Writer, s karpenstate.Status) {
	fmt.Fprintf(w, "karpenops %s: %s\n", s.Version, headline(s.Mode, s.Paused, s.Holding))
	fmt.Fprintf(w, "looked       %s\nchanged      %s\n", since(s.LookedAt), since(s.At))
	k := s.Karpenter
	api := or(strings.Join(k.APIVersions, ", "), "not served")
	if len(k.APIVersions) > 0 && !k.Writable {
		api += ", none of which is written"
	}
	fmt.Fprintf(w, "Karpenter    API %s; NodeOverlay %s\n", api, onOff(k.NodeOverlay))
	if k.DetectionProblem != "" {
		fmt.Fprintf(w, "             %s\n", k.DetectionProblem)
	}
	fmt.Fprintf(w, "market       %s\ncommitments  %s\n", factLine(s.Market), factLine(s.Commitments))
	printPools(w, s.Pools)
	printPending(w, s.Pending)
	printFindings(w, s.Findings)
}

func printFindings(w io.Writer, findings []nopsapi.KarpenterFinding) {
	for i, f := range findings {
		if i == 0 {
			fmt.Fprint(w, "\nFindings:\n")
		}
		fmt.Fprintf(w, "  %s  %s: %s\n", f.ID, f.Object, f.Message)
		if f.Patch != "" {
			fmt.Fprintf(w, "      approve %s would apply %s (%s)\n", f.ID, f.Patch, replaces(f.Drift))
		}
	}
}

func since(t time.Time) string {
	if t.IsZero() {
		return "not known"
	}
	return t.UTC().Format(time.RFC3339)
}

func printPools(w io.Writer, pools []karpenstate.Pool) {
	if len(pools) == 0 {
		fmt.Fprint(w, "\nNo NodePools.\n")
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "NODEPOOL\tIS\tNODES\tWEIGHT\tVCPU\tOFFERINGS\tNOTE\n")
	for _, p := range pools {
		limit := p.CPUUsed
		if p.CPULimit != "" {
			limit += " of " + p.CPULimit
		}
		note := p.Paused
		if note == "" && !p.Ready {
			note = "Karpenter says it is not ready"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%d\t%s\n", p.Name, whose(p), p.Nodes, p.Weight, limit, p.Offerings, note)
	}
	_ = t.Flush()
}

func whose(p karpenstate.Pool) string {
	switch {
	case p.Owned:
		return "ours, for " + or(p.Purpose, "?") + " of " + or(p.Base, "?")
	case p.Managed:
		return "managed, " + string(p.Mode)
	}
	return "yours, not opted in"
}

func printPending(w io.Writer, pending []karpenstate.Pending) {
	if len(pending) == 0 {
		return
	}
	fmt.Fprint(w, "\nPlanned, and not done yet:\n")
	for _, p := range pending {
		fmt.Fprintf(w, "  %s  %s %s: %s\n      waits for %s; %s\n", p.ID, p.Action, p.Object, p.Reason, p.Waiting, replaces(p.Drift))
	}
}

func replaces(drift int) string {
	switch drift {
	case 0:
		return "replaces no node"
	case 1:
		return "replaces 1 node"
	}
	return fmt.Sprintf("replaces %d nodes", drift)
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off or not known"
}

func factLine(f karpenstate.Fact) string {
	var parts []string
	if f.Seq > 0 {
		parts = append(parts, fmt.Sprintf("number %d, as of %s, valid until %s", f.Seq, f.AsOf.Format(time.RFC3339), f.ValidUntil.Format(time.RFC3339)))
	}
	if f.Problem != "" {
		parts = append(parts, f.Problem)
	}
	return or(strings.Join(parts, "; "), "none yet")
}

func explain(w io.Writer, s karpenstate.Status, ledger karpenstate.Ledger, p karpenstate.Pool) {
	fmt.Fprintf(w, "NodePool %s: %s\n%s\nas of %s\n", p.Name, whose(p), headline(s.Mode, or(s.Paused, p.Paused), s.Holding), s.At.UTC().Format(time.RFC3339))
	fmt.Fprintf(w, "%d nodes, %s vCPU in use, limit %s, weight %d, %d offerings known\n", p.Nodes, or(p.CPUUsed, "0"), or(p.CPULimit, "none"), p.Weight, p.Offerings)
	if len(p.Owners) > 0 {
		fmt.Fprintf(w, "owned by %s\n", strings.Join(p.Owners, ", "))
	}
	fmt.Fprint(w, "\nWhat was decided:\n")
	if len(p.Why) == 0 {
		fmt.Fprint(w, "  nothing\n")
	}
	for _, step := range p.Why {
		fmt.Fprintf(w, "  - %s\n", step)
	}
	if !p.Managed && !p.Owned {
		fmt.Fprintf(w, "\nIt is not opted in. To opt in: kubectl annotate nodepool %s %s=true\n", p.Name, karpenstate.AnnotationManaged)
	}
	about := func(object string) bool {
		_, name, _ := strings.Cut(object, "/")
		if name == p.Name {
			return true
		}
		for _, o := range s.Pools {
			if o.Name == name && o.Owned && o.Base == p.Name {
				return true
			}
		}
		return false
	}
	var pending []karpenstate.Pending
	for _, a := range s.Pending {
		if about(a.Object) {
			pending = append(pending, a)
		}
	}
	printPending(w, pending)
	said := false
	for i := len(ledger.Entries) - 1; i >= 0; i-- {
		r := ledger.Entries[i]
		if !about(r.Object) {
			continue
		}
		if !said {
			fmt.Fprint(w, "\nWhat was done, newest first:\n")
			said = true
		}
		fmt.Fprintf(w, "  %s  %s\n", r.At.UTC().Format(time.RFC3339), line(r))
	}
}

func printPlan(w io.Writer, r round) {
	fmt.Fprintf(w, "%s\nmarket       %s\ncommitments  %s\n", headline(r.input.Config.Mode, r.paused, r.holding), factLine(r.market), factLine(r.commits))
	if len(r.plan.Actions) == 0 {
		fmt.Fprint(w, "\nNothing would be done.\n")
	}
	for i, a := range r.plan.Actions {
		fmt.Fprintf(w, "\n%d. %s %s/%s  (%s)\n   %s\n", i+1, a.Kind, a.ObjectKind, a.Name, a.ID, a.Reason)
		for _, c := range a.Changes {
			fmt.Fprintf(w, "   %s: %v → %v\n", c.Path, orNone(c.Before), orNone(c.After))
		}
		fmt.Fprintf(w, "   %s\n", replaces(len(a.Drift)))
		if a.Waiting != "" {
			fmt.Fprintf(w, "   NOT NOW: %s\n", a.Waiting)
		}
	}
	for _, p := range r.input.Pools {
		if why := r.plan.Why[p.Name]; len(why) > 0 {
			fmt.Fprintf(w, "\n%s:\n", p.Name)
			for _, step := range why {
				fmt.Fprintf(w, "  - %s\n", step)
			}
		}
	}
	printFindings(w, r.findings())
}

func orNone(v any) any {
	if v == nil {
		return "none"
	}
	return v
}
