package plan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// find adds a finding. Its ID is of what it is about, not of what it says, so that a number that changes makes no new one. Where it proposes a patch the ID is
// of that as well: whoever approves an ID means the change that they have seen under it.
func (p *planner) find(code, object, detail, message string, patch any, drift int) {
	f := nopsapi.KarpenterFinding{ID: code + "/" + object, Code: code, Object: object, Message: message, Drift: drift}
	if detail != "" {
		f.ID += "/" + detail
	}
	if patch != nil {
		data, err := json.Marshal(patch)
		if err == nil {
			f.Patch = string(data)
			f.ID += "/" + digest(f.Patch)
		}
	}
	p.findings[f.ID] = f
}

const shortLife = 24 * time.Hour

// inspect looks for what a person should know of every NodePool of the user's, managed or not, and of the node classes.
func (p *planner) inspect() {
	if !p.in.Karpenter.Writable {
		message := "the cluster does not serve karpenter.sh/v1, so nothing is written to any NodePool"
		if len(p.in.Karpenter.APIVersions) > 0 {
			message += "; it serves " + strings.Join(p.in.Karpenter.APIVersions, ", ")
		}
		if problem := p.in.Karpenter.DetectionProblem; problem != "" {
			message += " (" + problem + ")"
		}
		p.find("unsupported-api", "Karpenter", "", message, nil, 0)
	}
	for _, pool := range p.sortedPools() {
		if pool.Owned {
			continue
		}
		object := "NodePool/" + pool.Name
		if pool.Static && pool.Managed {
			p.find("static-pool", object, "", "it is static (spec.replicas): Karpenter takes neither weight nor cpu limits for it, so it is left alone although it is opted in", nil, 0)
		}
		if len(pool.Schedules) > 0 {
			p.find("schedule-unreadable", object, "", strings.Join(pool.Schedules, "; "), nil, 0)
		}
		p.inspectList(pool, object)
		p.inspectLife(pool, object)
	}
	for _, class := range p.in.NodeClasses {
		p.inspectClass(class)
	}
}

func (p *planner) inspectList(pool *Pool, object string) {
	if len(pool.Requirements) == 0 {
		p.find("allows-everything", object, "", "its requirements are empty: every instance type of the region, in either capacity type, may be launched, bare metal and accelerators included. Require at least an architecture, a capacity type and instance categories.", nil, 0)
	}
	compiled := offering.Compile(pool.Requirements)
	if keys := compiled.Nothing(); len(keys) > 0 {
		p.find("allows-nothing", object, "", fmt.Sprintf("its entries for %s contradict each other, so nothing can be launched, and its nodes drift, although the NodePool may say it is ready", strings.Join(keys, ", ")), nil, 0)
		return
	}
	if p.market == nil || p.market.cat.Len() == 0 {
		return
	}
	e := p.market.cat.Effective(offering.Pool{Requirements: pool.Requirements, Labels: pool.Labels, Zones: pool.Zones})
	switch {
	case len(e.Unknown) > 0: // what it allows is not known
	case e.Set.IsEmpty():
		p.find("allows-nothing", object, "", "no offering of the region that is known fits its requirements, so nothing can be launched, although the NodePool may say it is ready", nil, 0)
	case len(e.Unmet) > 0:
		p.find("allows-nothing", object, "min-values", fmt.Sprintf("minValues asks for %d values of %s, and what it allows has %d: with Karpenter's policy Strict nothing is launched", e.Unmet[0].Want, e.Unmet[0].Key, e.Unmet[0].Have), nil, 0)
	}
	for _, u := range e.Unmatched {
		if u.Entry < 0 {
			continue // labels of the template name whatever they like
		}
		message := fmt.Sprintf("%s lists %q, which no known offering has: misspelt, or gone", u.Key, u.Value)
		if u.Near != "" {
			message += fmt.Sprintf("; did it mean %q?", u.Near)
		}
		p.find("unknown-value", object, u.Key+"="+u.Value, message, nil, 0)
	}
}

func (p *planner) inspectLife(pool *Pool, object string) {
	text, _ := at(pool.Object, "spec", "template", "spec", "expireAfter").(string)
	life, err := time.ParseDuration(text)
	if err != nil || life <= 0 || life >= shortLife {
		return
	}
	p.find("expires-soon", object, "", fmt.Sprintf("its nodes live %s at most, and Karpenter's expiry is bound by no disruption budget. The patch makes it 30 days, and replaces every node once.", text),
		map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"expireAfter": "720h"}}}}, pool.Nodes)
}

// inspectClass looks at what of a node class is not pinned. Whatever is changed there replaces nodes, so it is only ever proposed.
func (p *planner) inspectClass(class map[string]any) {
	kind, _ := at(class, "kind").(string)
	name := nameOf(class)
	terms, _ := at(class, "spec", "amiSelectorTerms").([]any)
	latest, alias := false, ""
	for _, t := range terms {
		text, _ := at(t, "alias").(string)
		if of, is := strings.CutSuffix(text, "@latest"); is {
			latest, alias = true, of
		}
	}
	if !latest || name == "" {
		return
	}
	var ids []string
	amis, _ := at(class, "status", "amis").([]any)
	for _, a := range amis {
		if id, _ := at(a, "id").(string); id != "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	var patch any
	family, said := at(class, "spec", "amiFamily").(string)
	if !said {
		family = familyOf(alias) // which the alias says, and IDs do not: without it the API server refuses them
	}
	if len(ids) > 0 && family != "" {
		pinned := make([]any, len(ids))
		for i, id := range ids {
			pinned[i] = map[string]any{"id": id}
		}
		spec := map[string]any{"amiSelectorTerms": pinned}
		if !said {
			spec["amiFamily"] = family
		}
		patch = map[string]any{"spec": spec}
	}
	nodes := 0
	for _, pool := range p.sortedPools() {
		if k, _ := at(pool.Object, "spec", "template", "spec", "nodeClassRef", "kind").(string); k != kind {
			continue
		}
		if n, _ := at(pool.Object, "spec", "template", "spec", "nodeClassRef", "name").(string); n == name {
			nodes += pool.Nodes
		}
	}
	message := "its AMI is the latest of an alias: each new release of AWS makes every node of it drift, whenever that comes."
	if patch != nil {
		message += " The patch pins what is selected now."
	}
	p.find("ami-not-pinned", kind+"/"+name, "", message, patch, nodes)
}

// familyOf is the AMI family of an alias, "" if it is not known.
func familyOf(alias string) string {
	for _, family := range []string{"AL2", "AL2023", "Bottlerocket", "Windows2019", "Windows2022", "Windows2025"} {
		if strings.EqualFold(alias, family) {
			return family
		}
	}
	return ""
}
