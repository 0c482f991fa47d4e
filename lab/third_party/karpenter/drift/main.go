// Command drift answers, from Karpenter's own code, what Karpenter would say about requirements. It reads questions from
// standard input, one JSON object a line, and writes one answer a line, in order. Whoever predicts what Karpenter does
// compares with it.
//
// A question may carry an "id" of any kind, which its answer repeats. REQS is a list of requirements as in a NodePool's
// spec.template.spec.requirements: [{"key", "operator", "values", "minValues"}]. NODEPOOL is a NodePool of karpenter.sh/v1 as
// the API server holds it: {"metadata": …, "spec": …}. LABELS is an object of strings. Questions are told by their fields:
//
//	{"nodepool": NODEPOOL}                        {"hash": "1234", "invalid": "why"}
//	                                              hash is what Karpenter compares to tell NodePoolDrifted; invalid, when there, is
//	                                              what its own validation says beyond the API server's (the condition
//	                                              ValidationSucceeded)
//	{"nodepool": NODEPOOL, "labels": LABELS}      {"hash": …, "drifted": true, "why": "incompatible requirements, …"}
//	                                              drifted as a NodeClaim with these labels would be: RequirementsDrifted
//	{"requirements": REQS, "labels": LABELS}      {"satisfied": true}
//	                                              the same question about a bare list
//	{"a": REQS, "b": REQS}                        {"intersects": true, "compatible": true, "compatible_well_known": false}
//	                                              Requirements.Intersects, which looks at common keys alone; a.Compatible(b), to which
//	                                              keys of b that a lacks are denied unless NotIn or DoesNotExist; and the same
//	                                              with well-known labels of Karpenter, AWS and kwok allowed to be absent
//	{"requirements": REQS, "types": [TYPE…]}      {"types": {"m5.large": [0, 2]}, "min_values": "why not"}
//	                                              TYPE is {"name", "requirements": REQS, "offerings": [REQS…]}. The answer holds the
//	                                              types that the scheduler would keep, each with the numbers of its offerings that fit.
//	                                              min_values, when there, is why minValues is not met by them: under the
//	                                              policy Strict nothing would be launched
//	{"effective": REQS}                           {"effective": REQS}
//	                                              one requirement a key, as Karpenter folds them, sorted by key; two for a
//	                                              range with both bounds. What folds to an empty set is DoesNotExist
//
// A question that cannot be read or that Karpenter panics at (it relies on the API server's validation) is answered by
// {"error": "why"}; the next line is read as if nothing had happened.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	_ "sigs.k8s.io/karpenter/kwok/apis/v1alpha1" // its labels become well-known, as in the controller
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/scheduling"

	"github.com/nopsctl/nopsctl/lab/third_party/karpenter/aws"
)

type requirements []v1.NodeSelectorRequirementWithMinValues

func (r requirements) set() scheduling.Requirements {
	return scheduling.NewNodeSelectorRequirementsWithMinValues(r...)
}

type question struct {
	ID           json.RawMessage   `json:"id"`
	NodePool     *v1.NodePool      `json:"nodepool"`
	Labels       map[string]string `json:"labels"`
	Requirements *requirements     `json:"requirements"`
	A            *requirements     `json:"a"`
	B            *requirements     `json:"b"`
	Types        []instanceType    `json:"types"`
	Effective    *requirements     `json:"effective"`
}

type instanceType struct {
	Name         string         `json:"name"`
	Requirements requirements   `json:"requirements"`
	Offerings    []requirements `json:"offerings"`
}

type answer struct {
	ID                  json.RawMessage  `json:"id,omitempty"`
	Hash                string           `json:"hash,omitempty"`
	Invalid             string           `json:"invalid,omitempty"`
	Drifted             *bool            `json:"drifted,omitempty"`
	Why                 string           `json:"why,omitempty"`
	Satisfied           *bool            `json:"satisfied,omitempty"`
	Intersects          *bool            `json:"intersects,omitempty"`
	Compatible          *bool            `json:"compatible,omitempty"`
	CompatibleWellKnown *bool            `json:"compatible_well_known,omitempty"`
	Types               map[string][]int `json:"types,omitzero"`
	MinValues           string           `json:"min_values,omitempty"`
	Effective           requirements     `json:"effective,omitzero"`
	Error               string           `json:"error,omitempty"`
}

func main() {
	aws.Register()
	if err := serve(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "drift:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, in io.Reader, out io.Writer) error {
	lines, answers := bufio.NewReaderSize(in, 1<<20), bufio.NewWriter(out)
	encoder := json.NewEncoder(answers)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			if err := encoder.Encode(reply(ctx, line)); err != nil {
				return fmt.Errorf("write an answer: %w", err)
			}
			// Whoever asks one question at a time waits for this one.
			if lines.Buffered() == 0 {
				if err := answers.Flush(); err != nil {
					return fmt.Errorf("write an answer: %w", err)
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return answers.Flush() //nolint:wrapcheck // the stream says it all
		case err != nil:
			return fmt.Errorf("read a question: %w", err)
		}
	}
}

func reply(ctx context.Context, line []byte) (a answer) {
	var q question
	defer func() {
		if reason := recover(); reason != nil {
			a = answer{ID: q.ID, Error: fmt.Sprint("panic: ", reason)}
		}
	}()
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&q); err != nil {
		return answer{ID: q.ID, Error: "read the question: " + err.Error()}
	}
	a.ID = q.ID
	switch {
	case q.NodePool != nil:
		a.Hash = q.NodePool.Hash()
		if err := q.NodePool.RuntimeValidate(ctx); err != nil {
			a.Invalid = err.Error()
		}
		if q.Labels != nil {
			// As areRequirementsDrifted of pkg/controllers/nodeclaim/disruption, which is not exported.
			err := satisfies(q.Labels, q.NodePool.Spec.Template.Spec.Requirements)
			a.Drifted, a.Why = new(err != nil), text(err)
		}
	case q.Requirements != nil && q.Types != nil:
		a.Types, a.MinValues = kept(q.Requirements.set(), q.Types)
	case q.Requirements != nil && q.Labels != nil:
		err := satisfies(q.Labels, *q.Requirements)
		a.Satisfied, a.Why = new(err == nil), text(err)
	case q.A != nil && q.B != nil:
		x, y := q.A.set(), q.B.set()
		a.Intersects, a.Compatible = new(x.Intersects(y) == nil), new(x.Compatible(y) == nil)
		a.CompatibleWellKnown = new(x.Compatible(y, scheduling.AllowUndefinedWellKnownLabels) == nil)
	case q.Effective != nil:
		a.Effective = append(requirements{}, q.Effective.set().NodeSelectorRequirements()...)
		slices.SortStableFunc(a.Effective, func(x, y v1.NodeSelectorRequirementWithMinValues) int { return strings.Compare(x.Key, y.Key) })
		for _, r := range a.Effective {
			slices.Sort(r.Values)
		}
	default:
		a.Error = "no question: give nodepool, requirements with labels or types, a and b, or effective"
	}
	return a
}

func satisfies(labels map[string]string, required requirements) error {
	return scheduling.NewLabelRequirements(labels).Compatible(required.set()) //nolint:wrapcheck // the answer is what Karpenter says
}

// kept filters as the scheduler does before it looks at what fits: see filterInstanceTypesByRequirements of
// pkg/controllers/provisioning/scheduling.
func kept(required scheduling.Requirements, types []instanceType) (map[string][]int, string) {
	remaining, found := cloudprovider.InstanceTypes{}, map[string][]int{}
	for _, t := range types {
		it := &cloudprovider.InstanceType{Name: t.Name, Requirements: t.Requirements.set()}
		for n, o := range t.Offerings {
			offering := &cloudprovider.Offering{Requirements: o.set(), Available: true}
			it.Offerings = append(it.Offerings, offering)
			if (cloudprovider.Offerings{offering}).HasCompatible(required) {
				found[t.Name] = append(found[t.Name], n)
			}
		}
		if it.Requirements.Intersects(required) != nil || !it.Offerings.HasCompatible(required) {
			delete(found, t.Name)
			continue
		}
		remaining = append(remaining, it)
	}
	_, _, err := remaining.SatisfiesMinValues(required)
	if len(remaining) == 0 && required.HasMinValues() {
		err = errors.New("no instance type is left")
	}
	return found, text(err)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
