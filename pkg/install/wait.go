package install

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// workloadName names a workload to look at.
type workloadName struct{ kind, namespace, name, component string }

func workloadsOf(objects []object) []workloadName {
	var names []workloadName
	for _, o := range objects {
		if isWorkload(o.GetKind()) {
			component := o.component()
			if component == "" {
				component = o.GetName()
			}
			names = append(names, workloadName{o.GetKind(), o.GetNamespace(), o.GetName(), component})
		}
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := names[i], names[j]
		return a.component+"/"+a.kind+"/"+a.name < b.component+"/"+b.kind+"/"+b.name
	})
	return names
}

// inNamespace is everything of one namespace that says how its workloads do.
type inNamespace struct {
	deployments  []appsv1.Deployment
	daemonSets   []appsv1.DaemonSet
	statefulSets []appsv1.StatefulSet
	cronJobs     []batchv1.CronJob
	jobs         []batchv1.Job
	pods         []corev1.Pod
}

// look lists what the kinds need. Only what is asked for is listed: a reader may lack permission for the rest.
func (c *clients) look(ctx context.Context, namespace string, kinds map[string]bool) (*inNamespace, error) {
	n := &inNamespace{}
	all := metav1.ListOptions{}
	if kinds["Deployment"] {
		l, err := c.typed.AppsV1().Deployments(namespace).List(ctx, all)
		if err != nil {
			return nil, explain("list Deployments in "+namespace, err)
		}
		n.deployments = l.Items
	}
	if kinds["DaemonSet"] {
		l, err := c.typed.AppsV1().DaemonSets(namespace).List(ctx, all)
		if err != nil {
			return nil, explain("list DaemonSets in "+namespace, err)
		}
		n.daemonSets = l.Items
	}
	if kinds["StatefulSet"] {
		l, err := c.typed.AppsV1().StatefulSets(namespace).List(ctx, all)
		if err != nil {
			return nil, explain("list StatefulSets in "+namespace, err)
		}
		n.statefulSets = l.Items
	}
	if kinds["CronJob"] {
		l, err := c.typed.BatchV1().CronJobs(namespace).List(ctx, all)
		if err != nil {
			return nil, explain("list CronJobs in "+namespace, err)
		}
		n.cronJobs = l.Items
		j, err := c.typed.BatchV1().Jobs(namespace).List(ctx, all)
		if err != nil && !apierrors.IsForbidden(err) {
			return nil, explain("list Jobs in "+namespace, err)
		}
		if err == nil {
			n.jobs = j.Items
		}
	}
	pods, err := c.typed.CoreV1().Pods(namespace).List(ctx, all)
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, explain("list Pods in "+namespace, err)
	}
	if err == nil { // without pods there is still a state, if no reason
		n.pods = pods.Items
	}
	return n, nil
}

// find summarises one workload.
func (n *inNamespace) find(w workloadName) (workload.Summary, bool) {
	switch w.kind {
	case "Deployment":
		for i := range n.deployments {
			if n.deployments[i].Name == w.name {
				return workload.Deployment(&n.deployments[i], n.pods), true
			}
		}
	case "DaemonSet":
		for i := range n.daemonSets {
			if n.daemonSets[i].Name == w.name {
				return workload.DaemonSet(&n.daemonSets[i], n.pods), true
			}
		}
	case "StatefulSet":
		for i := range n.statefulSets {
			if n.statefulSets[i].Name == w.name {
				return workload.StatefulSet(&n.statefulSets[i], n.pods), true
			}
		}
	case "CronJob":
		for i := range n.cronJobs {
			if n.cronJobs[i].Name == w.name {
				return workload.CronJob(&n.cronJobs[i], n.jobs), true
			}
		}
	}
	return workload.Summary{}, false
}

// observe summarises the named workloads.
func (c *clients) observe(ctx context.Context, names []workloadName) ([]workload.Summary, error) {
	kinds := map[string]map[string]bool{}
	for _, w := range names {
		if kinds[w.namespace] == nil {
			kinds[w.namespace] = map[string]bool{}
		}
		kinds[w.namespace][w.kind] = true
	}
	found := map[string]*inNamespace{}
	for _, namespace := range sortedKeys(kinds) {
		n, err := c.look(ctx, namespace, kinds[namespace])
		if err != nil {
			return nil, err
		}
		found[namespace] = n
	}
	summaries := make([]workload.Summary, 0, len(names))
	for _, w := range names {
		s, ok := found[w.namespace].find(w)
		if !ok {
			s = workload.Summary{Kind: w.kind, Namespace: w.namespace, Name: w.name, Component: w.component, State: workload.Failed, Reason: "NotFound", Message: "it is not in the cluster"}
		}
		summaries = append(summaries, s)
	}
	return summaries, nil
}

// settle looks again and again until every workload is settled. Errors of single looks are waited out: an API server that
// restarts is no reason to give up.
func (a *applier) settle(ctx context.Context, names []workloadName) ([]workload.Summary, error) {
	told := map[string]event.Component{}
	ticker := time.NewTicker(a.PollInterval)
	defer ticker.Stop()
	var last []workload.Summary
	for {
		summaries, err := a.observe(ctx, names)
		switch {
		case err == nil:
			last = summaries
			for _, s := range summaries {
				now := event.Component{Component: s.Component, Object: s.Object(), State: string(s.State), Reason: s.Reason, Message: s.Message, Ready: s.Ready, Desired: s.Desired}
				if told[now.Object] != now {
					told[now.Object] = now
					a.Observe.Emit(now)
				}
			}
			if len(pending(summaries)) == 0 {
				return summaries, nil
			}
		case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-ticker.C:
		}
	}
}

// The bounds of evidence: enough to see what happened, little enough to read.
const (
	evidencePods   = 3
	evidenceEvents = 5
	evidenceLines  = 20
	evidenceBytes  = 4096
)

// evidence is what the scene of a failure looks like: pods, what Kubernetes says about them, and their last words.
func (c *clients) evidence(ctx context.Context, unsettled []workload.Summary, redact func(string) string) []event.Evidence {
	var found []event.Evidence
	add := func(object, source, text string) {
		text = strings.TrimSpace(redact(text))
		if len(text) > evidenceBytes {
			text = "…" + strings.ToValidUTF8(text[len(text)-evidenceBytes:], "")
		}
		if text != "" {
			found = append(found, event.Evidence{Object: object, Source: source, Text: text})
		}
	}
	for _, s := range unsettled {
		add(s.Object(), "status", describe(s))
		pods, involved := c.podsOf(ctx, s)
		if events, err := c.typed.CoreV1().Events(s.Namespace).List(ctx, metav1.ListOptions{}); err == nil {
			for _, e := range warnings(events.Items, involved) {
				add(e.InvolvedObject.Kind+" "+e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name, "event", e.Reason+": "+oneLine(e.Message))
			}
		}
		for i := range pods {
			p := &pods[i]
			if i == evidencePods {
				break
			}
			reason, message := workload.Pod(p)
			if reason == "" {
				continue
			}
			add("Pod "+p.Namespace+"/"+p.Name, "status", fmt.Sprintf("%s: %s: %s", p.Status.Phase, reason, message))
			for _, st := range p.Status.ContainerStatuses {
				if st.State.Running == nil && st.RestartCount == 0 && st.State.Terminated == nil {
					continue // it never ran
				}
				add("Pod "+p.Namespace+"/"+p.Name, "log", c.log(ctx, p, st))
			}
		}
	}
	return found
}

// podsOf gives the pods of a workload, newest first, and the names of the objects whose events concern it.
func (c *clients) podsOf(ctx context.Context, s workload.Summary) ([]corev1.Pod, func(corev1.ObjectReference) bool) {
	var selector *metav1.LabelSelector
	switch s.Kind {
	case "Deployment":
		if d, err := c.typed.AppsV1().Deployments(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{}); err == nil {
			selector = d.Spec.Selector
		}
	case "DaemonSet":
		if d, err := c.typed.AppsV1().DaemonSets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{}); err == nil {
			selector = d.Spec.Selector
		}
	case "StatefulSet":
		if d, err := c.typed.AppsV1().StatefulSets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{}); err == nil {
			selector = d.Spec.Selector
		}
	}
	var pods []corev1.Pod
	if match, err := metav1.LabelSelectorAsSelector(selector); err == nil && selector != nil && match.String() != labels.Everything().String() {
		if l, err := c.typed.CoreV1().Pods(s.Namespace).List(ctx, metav1.ListOptions{LabelSelector: match.String()}); err == nil {
			pods = l.Items
		}
	}
	sort.Slice(pods, func(i, j int) bool {
		a, b := pods[i], pods[j]
		if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return a.Name < b.Name
		}
		return b.CreationTimestamp.Before(&a.CreationTimestamp)
	})
	names := map[string]bool{}
	for _, p := range pods {
		names[p.Name] = true
	}
	return pods, func(o corev1.ObjectReference) bool {
		switch o.Kind {
		case "Pod":
			return names[o.Name]
		case "ReplicaSet":
			return strings.HasPrefix(o.Name, s.Name+"-")
		default:
			return o.Kind == s.Kind && o.Name == s.Name
		}
	}
}

// warnings picks the newest warnings about the objects, one of each kind.
func warnings(events []corev1.Event, concerns func(corev1.ObjectReference) bool) []corev1.Event {
	when := func(e corev1.Event) time.Time {
		for _, t := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time, e.CreationTimestamp.Time} {
			if !t.IsZero() {
				return t
			}
		}
		return time.Time{}
	}
	var picked []corev1.Event
	for _, e := range events {
		if e.Type == corev1.EventTypeWarning && concerns(e.InvolvedObject) {
			picked = append(picked, e)
		}
	}
	sort.SliceStable(picked, func(i, j int) bool {
		if !when(picked[i]).Equal(when(picked[j])) {
			return when(picked[i]).After(when(picked[j]))
		}
		return picked[i].Name < picked[j].Name
	})
	seen := map[string]bool{}
	var out []corev1.Event
	for _, e := range picked {
		if k := e.Reason + "/" + e.Message; !seen[k] && len(out) < evidenceEvents {
			seen[k] = true
			out = append(out, e)
		}
	}
	return out
}

// log reads the last lines of a container, of its last run when it does not run now.
func (c *clients) log(ctx context.Context, p *corev1.Pod, st corev1.ContainerStatus) string {
	lines, limit := int64(evidenceLines), int64(evidenceBytes)
	options := &corev1.PodLogOptions{Container: st.Name, TailLines: &lines, LimitBytes: &limit, Previous: st.State.Waiting != nil && st.RestartCount > 0}
	stream, err := c.typed.CoreV1().Pods(p.Namespace).GetLogs(p.Name, options).Stream(ctx)
	if err != nil {
		return ""
	}
	defer stream.Close()
	b, err := io.ReadAll(io.LimitReader(stream, limit))
	if err != nil {
		return ""
	}
	return string(b)
}

// redactor hides the credentials the engine knows of, plain and in base64.
func (a *applier) redactor(ctx context.Context, data secretData) func(string) string {
	secrets := map[string]bool{}
	hide := func(v []byte) {
		if len(v) >= 4 {
			secrets[string(v)], secrets[base64.StdEncoding.EncodeToString(v)] = true, true
		}
	}
	for _, k := range sortedKeys(data) {
		hide(data[k])
	}
	for _, c := range inlineCredentials() {
		hide([]byte(credentialAt(a.plan.values, c.path)))
	}
	if live, err := a.typed.CoreV1().Secrets(a.Namespace).Get(ctx, CredentialsSecret, metav1.GetOptions{}); err == nil {
		for _, k := range sortedKeys(live.Data) {
			hide(live.Data[k])
		}
	}
	// The longest first: one credential may begin with another.
	found := sortedKeys(secrets)
	sort.SliceStable(found, func(i, j int) bool { return len(found[i]) > len(found[j]) })
	var pairs []string
	for _, s := range found {
		pairs = append(pairs, s, "[redacted]")
	}
	return strings.NewReplacer(pairs...).Replace
}
