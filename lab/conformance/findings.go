package conformance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// A Finding is what one check says about one object of one render.
type Finding struct {
	Case   string // the render
	Check  string // tool/check
	Object string // Kind/name, or Kind/name/container
	Says   string
}

// An Acceptance is a finding that was looked at and stays, and why.
type Acceptance struct {
	Check   string   `json:"check"`
	Says    string   `json:"says"`             // the finding's words; a "*" at the end stands for anything
	Objects []string `json:"objects"`          // patterns as of path.Match: a "*" stays within one part of Kind/name/container
	Cases   []string `json:"cases,omitempty"`  // likewise, of the renders; none: all of them
	NotIn   []string `json:"not_in,omitempty"` // likewise, of renders in which it is not accepted
	Reason  string   `json:"reason"`
}

// ParseAcceptances reads the list of accepted findings.
func ParseAcceptances(data []byte) ([]Acceptance, error) {
	var list struct {
		Accepted []Acceptance `json:"accepted"`
	}
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		return nil, fmt.Errorf("parse the list of accepted findings: %w", err)
	}
	for i, a := range list.Accepted {
		if a.Check == "" || a.Says == "" || len(a.Objects) == 0 || len(strings.Fields(a.Reason)) < 4 {
			return nil, fmt.Errorf("accepted finding %d (%s): check, says, objects and a reason of some words are all needed", i+1, a.Check)
		}
		for _, pattern := range slices.Concat(a.Objects, a.Cases, a.NotIn) {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, fmt.Errorf("accepted finding %d (%s): pattern %q: %w", i+1, a.Check, pattern, err)
			}
		}
	}
	return list.Accepted, nil
}

func (a Acceptance) says(f Finding) bool {
	if start, ok := strings.CutSuffix(a.Says, "*"); ok {
		return a.Check == f.Check && strings.HasPrefix(f.Says, start)
	}
	return a.Check == f.Check && a.Says == f.Says
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// Review holds findings against the list: news are those that nobody accepted, in lines ready to read; stale are patterns of
// the list that no finding needs. The first entry that fits takes the finding, so an entry that another one covers is stale.
func Review(findings []Finding, accepted []Acceptance) (news, stale []string) {
	type pattern struct {
		entry   int
		pattern string
	}
	used := map[pattern]bool{}
	open := map[Finding][]string{}
next:
	for _, f := range findings {
		for i, a := range accepted {
			if !a.says(f) {
				continue
			}
			object := slices.IndexFunc(a.Objects, func(p string) bool { return matches(p, f.Object) })
			render := slices.IndexFunc(a.Cases, func(p string) bool { return matches(p, f.Case) })
			but := slices.ContainsFunc(a.NotIn, func(p string) bool { return matches(p, f.Case) })
			if object < 0 || (render < 0 && len(a.Cases) > 0) || but {
				continue
			}
			used[pattern{i, a.Objects[object]}] = true
			if render >= 0 {
				used[pattern{i, a.Cases[render]}] = true
			}
			continue next
		}
		same := Finding{Check: f.Check, Object: f.Object, Says: f.Says}
		if !slices.Contains(open[same], f.Case) {
			open[same] = append(open[same], f.Case)
		}
	}
	for f, cases := range open {
		slices.Sort(cases)
		news = append(news, fmt.Sprintf("%s: %s: %q (in %s)", f.Check, f.Object, f.Says, strings.Join(cases, ", ")))
	}
	slices.Sort(news)
	for i, a := range accepted {
		for _, p := range slices.Concat(a.Objects, a.Cases) {
			if !used[pattern{i, p}] {
				stale = append(stale, fmt.Sprintf("%s: %q of %s", a.Check, a.Says, p))
			}
		}
	}
	return news, stale
}

// Scored is what kube-score says of one render (--output-format json).
type Scored struct {
	Findings []Finding
	Objects  []string // looked at
	Checks   int      // made, over all objects
}

// ParseScore reads kube-score's JSON. A check that is neither skipped nor of the best grade is a finding, once for each thing it says.
func ParseScore(render string, data []byte) (Scored, error) {
	var objects []struct {
		Type struct {
			Kind string `json:"kind"`
		} `json:"type_meta"`
		Meta struct {
			Name string `json:"name"`
		} `json:"object_meta"`
		Checks []struct {
			Check struct {
				ID      string `json:"id"`
				Comment string `json:"comment"`
			} `json:"check"`
			Grade    int  `json:"grade"`
			Skipped  bool `json:"skipped"`
			Comments []struct {
				Path    string `json:"path"`
				Summary string `json:"summary"`
			} `json:"comments"`
		} `json:"checks"`
	}
	if err := json.Unmarshal(data, &objects); err != nil {
		return Scored{}, fmt.Errorf("parse the output of kube-score for %s: %w", render, err)
	}
	const best = 10
	var s Scored
	for _, o := range objects {
		id := o.Type.Kind + "/" + o.Meta.Name
		s.Objects = append(s.Objects, id)
		s.Checks += len(o.Checks)
		for _, c := range o.Checks {
			if c.Skipped || c.Grade >= best {
				continue
			}
			f := Finding{Case: render, Check: "kube-score/" + c.Check.ID, Object: id, Says: c.Check.Comment}
			if len(c.Comments) == 0 {
				s.Findings = append(s.Findings, f)
			}
			for _, comment := range c.Comments {
				f.Object, f.Says = strings.TrimSuffix(id+"/"+comment.Path, "/"), comment.Summary
				s.Findings = append(s.Findings, f)
			}
		}
	}
	slices.SortFunc(s.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Check, b.Check), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Says, b.Says))
	})
	return s, nil
}
