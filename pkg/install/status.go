package install

import (
	"context"
	"fmt"
	"sort"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/internal/workload"
)

// Health is one word for the whole stack.
type Health string

// The healths, best first.
const (
	Healthy      Health = "healthy"
	Progressing  Health = "progressing"
	Degraded     Health = "degraded"
	Failed       Health = "failed"
	NotInstalled Health = "not-installed"
	Unknown      Health = "unknown"
)

// Status is the state of the release and of everything in it. Its JSON is a documented schema: fields are added, never
// renamed or removed, while SchemaVersion stays.
type Status struct {
	SchemaVersion int               `json:"schema_version"` // 1
	Health        Health            `json:"health"`
	Context       string            `json:"context,omitempty"`
	Server        string            `json:"server"`
	ClusterARN    string            `json:"cluster_arn,omitempty"` // as pinned in the cluster
	Namespace     string            `json:"namespace"`
	Release       *ReleaseStatus    `json:"release,omitempty"` // absent when not installed or not readable
	Components    []ComponentStatus `json:"components"`
	// Pinned is what the release was pinned to when it was installed with a policy, and by whose signature.
	Pinned []PinnedImage `json:"pinned,omitempty"`
	// Problems are facts that could not be read, each with its reason.
	Problems []string `json:"problems,omitempty"`
}

// PinnedImage is an entry of the release's lock.
type PinnedImage struct {
	Reference string    `json:"reference"`
	Digest    string    `json:"digest"`
	Basis     string    `json:"basis"` // of pkg/verify/ref: "policy", "exception", "warning"
	Method    string    `json:"method,omitempty"`
	Identity  string    `json:"identity,omitempty"` // who signed it
	SignedAt  time.Time `json:"signed_at,omitzero"`
}

// ReleaseStatus is what Helm has recorded of the last revision.
type ReleaseStatus struct {
	Name         string    `json:"name"`
	Namespace    string    `json:"namespace"`
	Revision     int       `json:"revision"`
	Status       string    `json:"status"` // "deployed", "failed", "pending-install", …
	Description  string    `json:"description,omitempty"`
	Chart        string    `json:"chart"`
	ChartVersion string    `json:"chart_version"`
	AppVersion   string    `json:"app_version"`
	Updated      time.Time `json:"updated"`
}

// ComponentState is the state of a component: a workload.State, or one of those below.
type ComponentState string

// The states a component has beyond those of its workloads.
const (
	ComponentDisabled    ComponentState = "disabled"
	ComponentUnavailable ComponentState = "not-part-of-this-release"
	ComponentUnknown     ComponentState = "unknown"
)

// ComponentStatus is the state of one component: the worst of its workloads.
type ComponentStatus struct {
	Name      string             `json:"name"`
	State     ComponentState     `json:"state"`
	Enabled   bool               `json:"enabled"`
	Available bool               `json:"available"`
	Reason    string             `json:"reason,omitempty"`
	Message   string             `json:"message,omitempty"`
	Workloads []workload.Summary `json:"workloads,omitempty"`
}

// Status reads; it needs no permission to write. What cannot be read is named in Problems.
func (e *Engine) Status(ctx context.Context) (*Status, error) {
	c, err := e.connect()
	if err != nil {
		return nil, err
	}
	if err := e.ping(ctx, c); err != nil {
		return nil, err
	}
	s := &Status{SchemaVersion: 1, Context: e.Context, Server: c.config.Host, Namespace: e.Namespace, Health: Unknown}
	problem := func(what string, err error) { s.Problems = append(s.Problems, what+": "+reason(err)) }

	identity, err := c.typed.CoreV1().ConfigMaps(e.Namespace).Get(ctx, IdentityConfigMap, metav1.GetOptions{})
	switch {
	case err == nil:
		s.ClusterARN = identity.Data[identityARN]
	case !apierrors.IsNotFound(err):
		problem("identity of the cluster", err)
	}

	var last *release.Release
	h, err := e.history(ctx)
	unreadable := err != nil
	if err != nil {
		problem("release "+e.Release, err)
	} else if last = h.last(); last == nil || last.Info.Status == release.StatusUninstalled {
		s.Health = NotInstalled
		s.Components = []ComponentStatus{}
		return s, nil
	}

	var names []workloadName
	var used *chart.Chart
	var config map[string]any
	if last != nil {
		s.Release = describeRelease(last)
		used, config = last.Chart, last.Config
		objects, err := parse(last.Manifest, e.Namespace, c.mapper)
		if err != nil {
			problem("manifest of the release", err)
		}
		names = workloadsOf(objects)
		locked, err := lockIn(objects, e.Namespace)
		if err != nil {
			problem("lock of the release", err)
		}
		if locked != nil {
			for _, i := range locked.Images {
				s.Pinned = append(s.Pinned, PinnedImage{i.Reference, i.Digest, i.Basis, i.Method, i.Identity, i.SignedAt})
			}
		}
	} else if names, err = c.labelled(ctx, e.Namespace, e.Release); err != nil {
		problem("workloads", err)
	}
	summaries, err := c.observe(ctx, names)
	if err != nil {
		problem("workloads", err)
	}
	on, err := switches(used, config)
	if err != nil {
		problem("components", err)
	}
	s.Components = componentStatuses(on, summaries, unreadable)
	s.Health = health(s, last, len(summaries) == 0 && (unreadable || len(names) > 0))
	sort.Strings(s.Problems)
	return s, nil
}

func describeRelease(r *release.Release) *ReleaseStatus {
	s := &ReleaseStatus{Name: r.Name, Namespace: r.Namespace, Revision: r.Version, Status: string(r.Info.Status), Description: oneLine(r.Info.Description), Updated: r.Info.LastDeployed.Time.UTC()}
	if r.Chart != nil && r.Chart.Metadata != nil {
		s.Chart, s.ChartVersion, s.AppVersion = r.Chart.Metadata.Name, r.Chart.Metadata.Version, r.Chart.Metadata.AppVersion
	}
	return s
}

// labelled finds the workloads of the release without its record.
func (c *clients) labelled(ctx context.Context, namespace, name string) ([]workloadName, error) {
	options := metav1.ListOptions{LabelSelector: labelInstance + "=" + name}
	var names []workloadName
	add := func(kind string, m metav1.ObjectMeta) {
		names = append(names, workloadName{kind, namespace, m.Name, m.Labels[workload.ComponentLabel]})
	}
	deployments, err := c.typed.AppsV1().Deployments(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	for i := range deployments.Items {
		add("Deployment", deployments.Items[i].ObjectMeta)
	}
	daemonSets, err := c.typed.AppsV1().DaemonSets(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	for i := range daemonSets.Items {
		add("DaemonSet", daemonSets.Items[i].ObjectMeta)
	}
	return names, nil
}

// componentStatuses sorts workloads into components. What belongs to none is a component of its own.
func componentStatuses(on map[string]switched, summaries []workload.Summary, unreadable bool) []ComponentStatus {
	used := map[int]bool{}
	var all []ComponentStatus
	for _, c := range Components() {
		sw := on[c.Name]
		s := ComponentStatus{Name: c.Name, Enabled: sw.enabled, Available: sw.available}
		for i, w := range summaries {
			for _, label := range c.Workloads {
				if w.Component == label && !used[i] {
					used[i] = true
					s.Workloads = append(s.Workloads, w)
				}
			}
		}
		switch {
		case len(s.Workloads) > 0:
			s.Enabled = sw.enabled || unreadable
			s.State, s.Reason, s.Message = worstOf(s.Workloads)
		case !sw.available:
			s.State, s.Message = ComponentUnavailable, "not yet part of this release"
		case unreadable:
			s.State, s.Message = ComponentUnknown, "the release cannot be read"
		case !sw.enabled && sw.explicit:
			s.State, s.Message = ComponentDisabled, "disabled by you"
		case !sw.enabled:
			s.State, s.Message = ComponentDisabled, "disabled by default"
		case sw.without != "":
			s.State, s.Message = ComponentDisabled, "disabled with "+sw.without
		default:
			s.State, s.Message = ComponentUnknown, "enabled, but the release has no workload for it"
		}
		all = append(all, s)
	}
	for i, w := range summaries {
		if !used[i] {
			state, reason, message := worstOf([]workload.Summary{w})
			all = append(all, ComponentStatus{Name: w.Component, State: state, Enabled: true, Available: true, Reason: reason, Message: message, Workloads: []workload.Summary{w}})
		}
	}
	return all
}

// worstOf gives the state of the workload that does worst, and its reason.
func worstOf(workloads []workload.Summary) (ComponentState, string, string) {
	rank := map[workload.State]int{workload.Idle: 0, workload.Ready: 1, workload.Progressing: 2, workload.Degraded: 3, workload.Failed: 4}
	w := workloads[0]
	for _, x := range workloads[1:] {
		if rank[x.State] > rank[w.State] {
			w = x
		}
	}
	message := w.Message
	if !w.State.Settled() {
		message = describe(w)
	}
	return ComponentState(w.State), w.Reason, message
}

func health(s *Status, last *release.Release, blind bool) Health {
	if blind {
		return Unknown
	}
	h := Healthy
	raise := func(to Health) {
		order := map[Health]int{Healthy: 0, Progressing: 1, Degraded: 2, Failed: 3}
		if order[to] > order[h] {
			h = to
		}
	}
	if last != nil {
		switch {
		case last.Info.Status == release.StatusFailed:
			raise(Degraded)
		case unfinished(last.Info.Status):
			raise(Progressing)
		}
	}
	for _, c := range s.Components {
		switch c.State {
		case ComponentState(workload.Progressing):
			raise(Progressing)
		case ComponentState(workload.Degraded):
			raise(Degraded)
		case ComponentState(workload.Failed):
			raise(Failed)
		}
	}
	return h
}

// Credentials reads the credentials Secret, so that a caller need not ask the platform for new ones each time. It is nil
// when there is none. Do not print it.
func (e *Engine) Credentials(ctx context.Context) (map[string][]byte, error) {
	c, err := e.connect()
	if err != nil {
		return nil, err
	}
	secret, err := c.typed.CoreV1().Secrets(e.Namespace).Get(ctx, CredentialsSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explain(fmt.Sprintf("read Secret %s/%s", e.Namespace, CredentialsSecret), err)
	}
	return secret.Data, nil
}
