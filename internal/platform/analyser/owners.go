package analyser

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// The series that say what a pod belongs to; kube-state-metrics makes them.
const (
	podOwner     = "kube_pod_owner"
	replicaOwner = "kube_replicaset_owner"
	jobOwner     = "kube_job_owner"
)

// object is a thing of a namespace.
type object struct{ kind, name string }

// pods are the pods of a chunk of time, each with the workload it belonged to. A pod whose owner the store knows belongs to that; of one that
// it does not know the name decides, and where that fits several workloads nobody does.
func (n *namespace) pods(ctx context.Context, start, end time.Time) (map[string]*workload, error) {
	span := seconds(end.Sub(start))
	all := map[string]*workload{}
	err := n.ask(ctx, fmt.Sprintf("count by (pod) (last_over_time(%s%s[%s]))", memoryMetric, n.containers(""), span), end, func(s Series) error {
		if s.Labels.Pod != "" && len(s.Points) > 0 {
			all[s.Labels.Pod] = nil
		}
		return nil
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	owners := func(metric, subject string, take func(Labels)) error {
		query := fmt.Sprintf("max by (%s,owner_kind,owner_name) (last_over_time(%s%s[%s]))", subject, metric, n.matchers(), span)
		return n.ask(ctx, query, end, func(s Series) error {
			if l := s.Labels; l.OwnerKind != "" && l.OwnerName != "" && !strings.HasPrefix(l.OwnerKind, "<") {
				take(l)
			}
			return nil
		})
	}
	above := map[object]object{}
	if err := owners(replicaOwner, "replicaset", func(l Labels) {
		above[object{"ReplicaSet", l.ReplicaSet}] = object{l.OwnerKind, l.OwnerName}
	}); err != nil {
		return nil, err
	}
	if err := owners(jobOwner, "job_name", func(l Labels) {
		above[object{"Job", l.Job}] = object{l.OwnerKind, l.OwnerName}
	}); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	if err := owners(podOwner, "pod", func(l Labels) {
		if _, is := all[l.Pod]; is {
			known[l.Pod] = true
			all[l.Pod] = n.by[top(object{l.OwnerKind, l.OwnerName}, above)]
			if all[l.Pod] == nil { // a ReplicaSet or a Job may be a workload itself
				all[l.Pod] = n.by[object{l.OwnerKind, l.OwnerName}]
			}
		}
	}); err != nil {
		return nil, err
	}
	for pod, w := range all {
		if w == nil && !known[pod] {
			if all[pod] = n.named(pod); all[pod] != nil {
				n.result.ByName++
			}
		}
		if all[pod] == nil {
			delete(all, pod)
		}
	}
	return all, nil
}

// The letters of which Kubernetes makes names; they make no words.
const letters = `[bcdfghjklmnpqrstvwxz2456789]`

// suffixes are what pods have behind the name of their workload.
var suffixes = map[string]*regexp.Regexp{
	"Deployment":  regexp.MustCompile(`^-` + letters + `{5,10}-` + letters + `{5}$`),
	"ReplicaSet":  regexp.MustCompile(`^-` + letters + `{5}$`),
	"StatefulSet": regexp.MustCompile(`^-[0-9]+$`),
	"DaemonSet":   regexp.MustCompile(`^-` + letters + `{5}$`),
	"Job":         regexp.MustCompile(`^(-[0-9]+)?-` + letters + `{5}$`),
	"CronJob":     regexp.MustCompile(`^-[0-9]{8,10}(-[0-9]+)?-` + letters + `{5}$`),
}

// named is the workload that the name of a pod says; nil where it says none, or several.
func (n *namespace) named(pod string) *workload {
	var found *workload
	for _, w := range n.workloads {
		form := suffixes[w.ref.Kind]
		if form == nil || !strings.HasPrefix(pod, w.ref.Name) || !form.MatchString(pod[len(w.ref.Name):]) {
			continue
		}
		if found != nil {
			return nil
		}
		found = w
	}
	return found
}

// top is the workload at the top. A ReplicaSet whose owner is not known any more is one of a Deployment where its name ends in a template's
// hash; a Job likewise one of a CronJob, where it ends in minutes.
func top(o object, above map[object]object) object {
	if up, is := above[o]; is {
		return up
	}
	i := strings.LastIndexByte(o.name, '-')
	switch {
	case i <= 0:
	case o.kind == "ReplicaSet" && templateHash.MatchString(o.name[i+1:]):
		return object{"Deployment", o.name[:i]}
	case o.kind == "Job" && minutes.MatchString(o.name[i+1:]):
		return object{"CronJob", o.name[:i]}
	}
	return o
}

var (
	templateHash = regexp.MustCompile(`^` + letters + `{5,10}$`)
	minutes      = regexp.MustCompile(`^[0-9]{8,10}$`)
)

// line names a workload for people.
func line(w nopsapi.WorkloadRef) string { return w.Kind + " " + w.Namespace + "/" + w.Name }
