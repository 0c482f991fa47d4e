package karpenops

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/inventory"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// round is what one look at the world came to.
type round struct {
	snapshot inventory.Snapshot
	input    plan.Input
	plan     plan.Plan
	paused   string
	holding  string
	market   karpenstate.Fact
	commits  karpenstate.Fact
	waiting  map[string]string // by action ID: why it was not carried out
	done     map[string]bool   // by action ID: it was
	last     map[string]string // by "KIND/NAME": ID of the last record
	owners   map[string][]string
	fights   []nopsapi.KarpenterFinding
	counts   map[string]int // by pool: offerings
}

// status is the round for people and for nopsctl: sorted, without relative times, so that equal rounds give equal bytes. Its moments are left to whoever
// knows when it last changed.
func (r round) status(version string) karpenstate.Status {
	s := karpenstate.Status{
		SchemaVersion: 1, Version: version, Mode: r.input.Config.Mode, Paused: r.paused, Holding: r.holding, Karpenter: r.input.Karpenter, Market: r.market, Commitments: r.commits,
		Pools: []karpenstate.Pool{}, Findings: r.findings(),
	}
	if s.Karpenter.APIVersions == nil {
		s.Karpenter.APIVersions = []string{}
	}
	for _, p := range r.input.Pools {
		s.Pools = append(s.Pools, karpenstate.Pool{
			Name: p.Name, Managed: p.Managed, Owned: p.Owned, Base: p.Base, Purpose: p.Purpose, Mode: p.Mode, Paused: p.Paused, Ready: p.Ready, Nodes: p.Nodes, Weight: p.Weight,
			CPULimit: vcpu(p.CPULimit), CPUUsed: vcpu(&p.CPUUsed), Offerings: r.counts[p.Name], Owners: r.owners[p.Name], Why: r.plan.Why[p.Name], LastAction: r.last["NodePool/"+p.Name],
		})
	}
	sort.Slice(s.Pools, func(i, j int) bool { return s.Pools[i].Name < s.Pools[j].Name })
	for _, a := range r.plan.Actions {
		if r.done[a.ID] {
			continue
		}
		s.Pending = append(s.Pending, karpenstate.Pending{ID: a.ID, Action: string(a.Kind), Object: a.ObjectKind + "/" + a.Name, Reason: a.Reason, Waiting: or(or(r.waiting[a.ID], a.Waiting), "the next round"), Drift: len(a.Drift)})
	}
	return s
}

// findings are the plan's and the writer's.
func (r round) findings() []nopsapi.KarpenterFinding {
	all := append(slices.Clone(r.plan.Findings), r.fights...)
	sort.SliceStable(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func vcpu(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'f', -1, 64)
}

// encode gives the bytes, and what they hold but for the moments: two of equal content are the same.
func encode(s karpenstate.Status) (full, content string, err error) {
	at, looked := s.At, s.LookedAt
	s.At, s.LookedAt = time.Time{}, time.Time{}
	bare, err := json.Marshal(s)
	if err != nil {
		return "", "", fmt.Errorf("encoding the status: %w", err)
	}
	s.At, s.LookedAt = at, looked
	all, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return "", "", fmt.Errorf("encoding the status: %w", err)
	}
	return string(all), string(bare), nil
}

// maxStatus is what the status may take of the ConfigMap.
const maxStatus = 200 << 10

// fit shortens a status that is too large: explanations first, then what is not the agent's business.
func fit(s karpenstate.Status) karpenstate.Status {
	size := func() int {
		data, err := json.Marshal(s)
		if err != nil {
			return 0
		}
		return len(data)
	}
	if size() <= maxStatus {
		return s
	}
	s.Pools = slices.Clone(s.Pools)
	for i := range s.Pools {
		if !s.Pools[i].Managed && !s.Pools[i].Owned {
			s.Pools[i].Why = nil
		}
	}
	for keep := 100; size() > maxStatus && keep > 0; keep /= 2 {
		for i := range s.Pools {
			if len(s.Pools[i].Why) > keep {
				s.Pools[i].Why = append(slices.Clone(s.Pools[i].Why[:keep]), "(shortened)")
			}
		}
		if len(s.Findings) > keep {
			s.Findings = s.Findings[:keep]
		}
	}
	return s
}

// line is one line for the log about a record.
func line(r nopsapi.KarpenterRecord) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s: %s: %s %s", r.Action, r.Object, r.Outcome, r.Reason, r.Explanation))
}

// generation of the object that a finding was made for; 0 where it is not known.
func (r round) generation(kind, name string) int64 {
	if kind == "NodePool" {
		for _, o := range r.snapshot.Pools {
			if inventory.Name(o) == name {
				return inventory.Generation(o)
			}
		}
	}
	for _, c := range r.snapshot.Classes {
		if c.Kind == kind && inventory.Name(c.Object) == name {
			return inventory.Generation(c.Object)
		}
	}
	return 0
}
