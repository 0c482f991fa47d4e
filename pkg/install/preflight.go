package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	psapi "k8s.io/pod-security-admission/api"
	pspolicy "k8s.io/pod-security-admission/policy"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// The label by which our own builds of images are told from others.
const (
	SourceLabel = "org.opencontainers.image.source"
	SourceValue = "https://github.com/nopsctl/nopsctl"
)

// CheckDoc documents a check.
type CheckDoc struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	What  string `json:"what"` // what it looks at
	Fix   string `json:"fix"`  // what to do when it fails
}

// The IDs of the checks.
const (
	checkReachable  = "NOPS-PRE-001"
	checkVersion    = "NOPS-PRE-002"
	checkPermission = "NOPS-PRE-003"
	checkIdentity   = "NOPS-PRE-004"
	checkOwnership  = "NOPS-PRE-005"
	checkRelease    = "NOPS-PRE-006"
	checkImages     = "NOPS-PRE-007"
	checkPorts      = "NOPS-PRE-008"
	checkSecurity   = "NOPS-PRE-009"
	checkAdmission  = "NOPS-PRE-010"
	checkSignatures = "NOPS-PRE-011"
	checkUpdates    = "NOPS-PRE-012"
	checkResize     = "NOPS-PRE-013"
)

// The IDs of the warnings about images.
const (
	warnMoved     = "NOPS-IMG-001"
	warnUnpinned  = "NOPS-IMG-002"
	warnDowngrade = "NOPS-IMG-003"
	warnSuspects  = "NOPS-IMG-004"
)

// Checks documents the checks that a plan makes before the first write.
func Checks() []CheckDoc {
	return []CheckDoc{
		{checkReachable, "API server", "The API server answers to the credentials of the kubeconfig.", "Check --context, VPN and proxy; renew the credentials."},
		{checkVersion, "Kubernetes version", "The version is in the range the chart supports. Suffixes like -eks-… do not matter.", "Upgrade the cluster, or use a release of the chart made for its version."},
		{checkPermission, "Permissions", "Every verb the installation needs, on every kind it renders, asked of the API server one by one.", "Grant the rules that are listed, or use a user that has them."},
		{checkIdentity, "Cluster identity", "The ARN given, the one in the values and the one pinned in the cluster are the same.", "Use the context of the cluster the command was made for."},
		{checkOwnership, "Objects", "Nothing that would be written belongs to another release or tool.", "Change it where it is managed; take over what nobody manages with --adopt."},
		{checkRelease, "Release", "No other operation is running on the release.", "Wait for it; if it died, run again with --recover."},
		{checkImages, "Images", "Every image can be resolved, and those of the agents are builds of this project. One that only DaemonSets use which no node would run now (the DCGM exporter's, where there are no GPUs) is a warning.", "Mirror the images, or build them: nopsctl images mirror, --registry-mirror, make images REGISTRY=…."},
		{checkPorts, "Host ports", "No other pod uses the host ports of the rendered DaemonSets.", "Disable one of the two, or give ours another port."},
		{checkSecurity, "Pod Security", "The namespace's Pod Security level admits the rendered pods, by the rules of Pod Security themselves.", "Label the namespace pod-security.kubernetes.io/enforce=privileged."},
		{checkAdmission, "Admission", "The API server would admit what is rendered (server-side dry run of what does not exist yet).", "Change what the message names: a policy, a quota, or the permission to grant permissions."},
		{checkSignatures, "Signatures", "Every image that is rendered is signed by whom the policy names, or excepted by it, and none was signed before the one that the release runs. What was looked at is what is installed, by digest. Asked only with a policy.", "Do what the message names for each image; nopsctl verify inspect shows who signed one."},
		{checkUpdates, "Image updates", "Nothing in the release replaces images by what tags mean later: the image tag updater would undo pins every night. Asked only when images are pinned.", "Set autoUpdater.enabled=false."},
		{checkResize, "In-place resize", "Pods can be given other requests while they run: from Kubernetes 1.33 on. Before, containerRightsizing sizes new pods, and changes running ones only by evicting them, where a policy allows that. Asked only when containerRightsizing is rendered.", "Upgrade the cluster, or let policies apply Initial or InPlaceOrRecreate."},
	}
}

func (p *planner) check(id string, outcome event.Outcome, message, hint string) {
	c := event.Check{ID: id, Leg: "cluster", Outcome: outcome, Message: message, Hint: hint}
	for _, d := range Checks() {
		if d.ID == id {
			c.Title = d.Title
			if c.Hint == "" && outcome == event.Failed {
				c.Hint = d.Fix
			}
		}
	}
	p.Checks = append(p.Checks, c)
	p.Observe.Emit(c)
}

// reachable asks for the version, which needs no permission beyond being known.
func (p *planner) reachable() error {
	if err := p.ping(p.ctx, p.clients); err != nil {
		hint := ""
		var h interface{ Hint() string }
		if errors.As(err, &h) {
			hint = h.Hint()
		}
		p.check(checkReachable, event.Failed, err.Error(), hint)
		return err
	}
	client, err := p.Getter.ToDiscoveryClient()
	if err != nil {
		return err
	}
	version, err := client.ServerVersion()
	if err != nil {
		return explain("read the version of the API server", err)
	}
	p.check(checkReachable, event.OK, p.config.Host+" answers", "")
	p.kubernetes = version.GitVersion
	want := p.source.Metadata.KubeVersion
	switch {
	case want == "":
		p.check(checkVersion, event.OK, version.GitVersion, "")
	case chartutil.IsCompatibleRange(want, version.GitVersion), chartutil.IsCompatibleRange(want, plainVersion(version.GitVersion)):
		p.check(checkVersion, event.OK, version.GitVersion+" is in "+want, "")
	default:
		p.check(checkVersion, event.Failed, fmt.Sprintf("the cluster is %s, chart %s %s needs %s", version.GitVersion, p.source.Name(), p.source.Metadata.Version, want), "")
		return &PreflightError{Failed: p.Checks[len(p.Checks)-1:]}
	}
	return nil
}

// plainVersion strips what providers append: v1.33.1-eks-1234567 and v1.33.1+k3s1 are 1.33.1.
func plainVersion(v string) string {
	v, _, _ = strings.Cut(v, "-")
	v, _, _ = strings.Cut(v, "+")
	return v
}

// preflight runs the checks that need the rendered objects. Each reports; none stops the others.
func (p *planner) preflight() error {
	p.permissions()
	p.images()
	p.signatures()
	p.updates()
	p.resize()
	p.ports()
	p.podSecurity()
	p.admission()
	return nil
}

// resizeSince is the first version of Kubernetes in which pods are resized in place without somebody having asked for it.
const resizeSince = ">=1.33.0-0"

// resize says whether what sizes containers can do so while they run.
func (p *planner) resize() {
	if !slices.ContainsFunc(p.objects, func(o object) bool { return o.component() == "vpa-updater" }) {
		return
	}
	if chartutil.IsCompatibleRange(resizeSince, plainVersion(p.kubernetes)) {
		p.check(checkResize, event.OK, p.kubernetes+" resizes pods while they run", "")
		return
	}
	p.check(checkResize, event.Warned, "the cluster is "+p.kubernetes+": before Kubernetes 1.33 pods cannot be resized while they run, so containerRightsizing sizes new pods only, and running ones by evicting them where a policy allows it",
		"upgrade the cluster, or write apply: Initial or InPlaceOrRecreate into RightsizingPolicies")
}

// A rule is a permission that is needed.
type rule struct{ namespace, group, resource, verb string }

// needs derives the permissions from what is rendered and from what Helm and this package do beside it.
func (p *planner) needs() []rule {
	set := map[rule]bool{}
	add := func(namespace, group, resource string, verbs ...string) {
		for _, v := range verbs {
			set[rule{namespace, group, resource, v}] = true
		}
	}
	for _, o := range slices.Concat(p.objects, p.base) {
		if o.mapping != nil {
			r := o.mapping.Resource
			add(o.GetNamespace(), r.Group, r.Resource, "get", "create", "patch", "delete")
		}
	}
	add(p.Namespace, "", "secrets", "get", "list", "create", "update", "delete") // Helm's records, the credentials
	if p.Target.ClusterARN != "" {
		add(p.Namespace, "", "configmaps", "get", "create", "update")
	}
	if p.namespace == nil {
		add("", "", "namespaces", "create")
	}
	if p.request.Wait {
		add(p.Namespace, "", "pods", "list")
		for _, o := range p.objects {
			if o.mapping != nil && isWorkload(o.GetKind()) {
				add(o.GetNamespace(), o.mapping.Resource.Group, o.mapping.Resource.Resource, "list")
			}
		}
	}
	rules := make([]rule, 0, len(set))
	for r := range set {
		rules = append(rules, r)
	}
	sort.Slice(rules, func(i, j int) bool {
		a, b := rules[i], rules[j]
		return a.namespace+"/"+a.group+"/"+a.resource+"/"+a.verb < b.namespace+"/"+b.group+"/"+b.resource+"/"+b.verb
	})
	return rules
}

func (p *planner) permissions() {
	rules := p.needs()
	denied := make([]bool, len(rules))
	failures := each(len(rules), 8, func(i int) error {
		r := rules[i]
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: r.namespace, Group: r.group, Resource: r.resource, Verb: r.verb},
		}}
		got, err := p.typed.AuthorizationV1().SelfSubjectAccessReviews().Create(p.ctx, review, metav1.CreateOptions{})
		if err == nil {
			denied[i] = !got.Status.Allowed
		}
		return err
	})
	if len(failures) > 0 {
		p.check(checkPermission, event.Unknown, "the API server does not answer access reviews: "+failures[0].Error(), "")
		return
	}
	missing := minimal(rules, denied)
	if len(missing) > 0 {
		p.check(checkPermission, event.Failed, "missing: "+strings.Join(missing, "; "), "")
		return
	}
	p.check(checkPermission, event.OK, fmt.Sprintf("%d permissions", len(rules)), "")
}

// minimal folds denied rules into one line per resource: "create, patch deployments.apps in nops".
func minimal(rules []rule, denied []bool) []string {
	type key struct{ namespace, resource string }
	verbs := map[key][]string{}
	var order []key
	for i, r := range rules {
		if !denied[i] {
			continue
		}
		name := r.resource
		if r.group != "" {
			name += "." + r.group
		}
		k := key{r.namespace, name}
		if verbs[k] == nil {
			order = append(order, k)
		}
		verbs[k] = append(verbs[k], r.verb)
	}
	var lines []string
	for _, k := range order {
		where := "in namespace " + k.namespace
		if k.namespace == "" {
			where = "in the whole cluster"
		}
		lines = append(lines, strings.Join(verbs[k], ", ")+" "+k.resource+" "+where)
	}
	return lines
}

// each calls f for 0…n-1, a few at a time, and returns the errors.
func each(n, parallel int, f func(int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i := range n {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			errs[i] = f(i)
			<-slots
		}()
	}
	wg.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// podSpec finds the pod template of a workload.
func podSpec(o object) (map[string]any, bool) {
	at := []string{"spec", "template", "spec"}
	switch o.GetKind() {
	case "CronJob":
		at = []string{"spec", "jobTemplate", "spec", "template", "spec"}
	case "Pod":
		at = []string{"spec"}
	}
	spec, ok, err := unstructured.NestedMap(o.Object, at...)
	return spec, ok && err == nil
}

func containers(spec map[string]any, kinds ...string) []map[string]any {
	var all []map[string]any
	for _, kind := range kinds {
		list, _ := spec[kind].([]any)
		for _, c := range list {
			if m, ok := c.(map[string]any); ok {
				all = append(all, m)
			}
		}
	}
	return all
}

func isWorkload(kind string) bool {
	switch kind {
	case "Deployment", "DaemonSet", "StatefulSet", "CronJob":
		return true
	}
	return false
}

func (p *planner) images() {
	for _, i := range p.found {
		p.Images = append(p.Images, i.planned())
	}
	if p.request.Images == nil && p.request.Admission == nil || len(p.Images) == 0 {
		return
	}
	unresolved, foreigners := p.askRegistries()
	nodes := p.nodesOnce()
	var problems, later, switches []string
	for n, i := range p.found {
		switch {
		case foreigners[n] != "":
			problems = append(problems, foreigners[n])
		case unresolved[n] != "":
			waiting, unsure := nowhere(i.users, nodes)
			// Nodes may come that run it. What is enforced then holds, too: an image that nobody verified is not installed.
			if !waiting || p.enforced {
				problems = append(problems, unresolved[n]+unsure)
				continue
			}
			later = append(later, unresolved[n]+" (no node here would run "+i.users[0].String()+" now)")
			if off := switchOff(i); off != "" {
				switches = append(switches, off)
			}
		}
	}
	const mirror = "copy the images to a registry you can reach (nopsctl images mirror) and name it with --registry-mirror"
	switch {
	case len(problems) > 0:
		p.check(checkImages, event.Failed, strings.Join(append(problems, later...), "; "), mirror+", or build ours: make images REGISTRY=…")
	case len(later) > 0:
		hint := "nothing misses them yet; before nodes are added that run them, " + mirror
		if len(switches) > 0 {
			hint += ", or leave out what needs them: " + strings.Join(switches, " ")
		}
		p.check(checkImages, event.Warned, strings.Join(later, "; "), hint)
	default:
		n := len(p.found)
		if p.enforced { // those that were refused for another reason have a check of their own
			for _, i := range p.found {
				if i.refused != nil {
					n--
				}
			}
		}
		p.check(checkImages, event.OK, fmt.Sprintf("%d images resolved", n), "")
	}
}

// askRegistries says of each image why it cannot be resolved, or why it is not what it should be. What was admitted has been
// looked at, all but whose build it is.
func (p *planner) askRegistries() (unresolved, foreigners []string) {
	unresolved, foreigners = make([]string, len(p.found)), make([]string, len(p.found))
	each(len(p.found), 4, func(n int) error {
		i := p.found[n]
		own := slices.Contains(p.request.OwnImages, base(i.text))
		switch {
		case i.refused != nil && (!p.enforced || unresolvable(i.refused.Reason)):
			unresolved[n] = i.text + ": " + oneLine(i.refused.Message)
			return nil
		case i.refused != nil, p.request.Images == nil, i.admitted.Valid() && !own:
			return nil
		}
		what := i.pinned()
		if what == "" {
			what = i.text
		}
		ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
		defer cancel()
		info, err := p.request.Images.Resolve(ctx, what)
		switch {
		case err != nil:
			unresolved[n] = what + ": " + oneLine(err.Error())
		case p.Images[n].Digest != "" && info.Digest != p.Images[n].Digest:
			foreigners[n] = what + " is " + info.Digest + " where it was resolved"
		case own && info.Labels[SourceLabel] != SourceValue:
			foreigners[n] = what + " is not a build of this project"
		}
		if p.Images[n].Digest == "" {
			p.Images[n].Digest = info.Digest
		}
		return nil
	})
	return unresolved, foreigners
}

// unresolvable says whether an image was refused because a registry does not give it.
func unresolvable(reason string) bool {
	switch verdict.Reason(reason) {
	case verdict.NotFound, verdict.RegistryDenied, verdict.RegistryUnreachable:
		return true
	}
	return false
}

// nodesOnce reads the nodes when somebody first asks, and no second time.
func (p *planner) nodesOnce() func() ([]corev1.Node, error) {
	if p.listNodes == nil {
		p.listNodes = sync.OnceValues(p.nodes)
	}
	return p.listNodes
}

// componentOf finds the component that a workload's label belongs to.
func componentOf(label string) (Component, bool) {
	for _, c := range Components() {
		if slices.Contains(c.Workloads, label) {
			return c, true
		}
	}
	return Component{}, false
}

// nodes reads the nodes. That a user may not list them stops nothing, so the permission is not asked for.
func (p *planner) nodes() ([]corev1.Node, error) {
	var all []corev1.Node
	options := metav1.ListOptions{Limit: 500}
	for {
		list, err := p.typed.CoreV1().Nodes().List(p.ctx, options)
		if err != nil {
			return nil, fmt.Errorf("nodes cannot be listed: %s", reason(err))
		}
		all = append(all, list.Items...)
		if options.Continue = list.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// nowhere says whether all of the workloads are DaemonSets that select none of the nodes there are. Where that cannot be
// found out, unsure says why.
func nowhere(workloads []object, nodes func() ([]corev1.Node, error)) (yes bool, unsure string) {
	for _, o := range workloads {
		if o.GetKind() != "DaemonSet" {
			return false, ""
		}
	}
	all, err := nodes()
	if err != nil {
		return false, " (whether a node would run it now is not known: " + err.Error() + ")"
	}
	for _, o := range workloads {
		if runsOn(o, all) {
			return false, ""
		}
	}
	return len(all) > 0, "" // a cluster without nodes says nothing about those that come
}

// runsOn says whether the pods of a DaemonSet select any of the nodes. Taints do not count: they come and go.
func runsOn(o object, nodes []corev1.Node) bool {
	template, err := podTemplate(o)
	if err != nil {
		return true
	}
	affinity := nodeaffinity.NewRequiredNodeAffinity(template.Spec.NodeSelector, template.Spec.Affinity)
	return slices.ContainsFunc(nodes, func(n corev1.Node) bool {
		matches, err := affinity.Match(&n)
		return matches || err != nil
	})
}

// podTemplate is the pod template of a workload, typed.
func podTemplate(o object) (*corev1.PodTemplateSpec, error) {
	at := []string{"spec", "template"}
	if o.GetKind() == "CronJob" {
		at = []string{"spec", "jobTemplate", "spec", "template"}
	}
	content, _, err := unstructured.NestedMap(o.Object, at...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o, err)
	}
	template := &corev1.PodTemplateSpec{}
	if err := json.Unmarshal(canonical(content), template); err != nil {
		return nil, fmt.Errorf("%s: pod template: %w", o, err)
	}
	return template, nil
}

// base is the last element of an image's repository.
func base(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	name := path.Base(reference)
	name, _, _ = strings.Cut(name, ":")
	return name
}

// hostPorts are the ports a pod takes on its node.
func hostPorts(spec map[string]any) []int64 {
	host, _ := spec["hostNetwork"].(bool)
	var ports []int64
	for _, c := range containers(spec, "initContainers", "containers") {
		list, _ := c["ports"].([]any)
		for _, x := range list {
			m, _ := x.(map[string]any)
			port, _ := number(m["hostPort"])
			if port == 0 && host {
				port, _ = number(m["containerPort"])
			}
			if port != 0 {
				ports = append(ports, port)
			}
		}
	}
	return ports
}

func number(v any) (int64, bool) {
	n, ok := normal(v).(int64)
	return n, ok
}

func (p *planner) ports() {
	wanted := map[int64]string{}
	for _, o := range p.objects {
		if o.GetKind() != "DaemonSet" {
			continue
		}
		if spec, ok := podSpec(o); ok {
			for _, port := range hostPorts(spec) {
				wanted[port] = o.String()
			}
		}
	}
	if len(wanted) == 0 {
		return
	}
	own := map[string]bool{} // of the release as it is now, whatever labels its chart gave to pods
	for _, o := range p.base {
		own[o.String()] = true
	}
	taken := map[string]bool{}
	options := metav1.ListOptions{Limit: 500}
	for {
		pods, err := p.typed.CoreV1().Pods(metav1.NamespaceAll).List(p.ctx, options)
		if err != nil {
			p.check(checkPorts, event.Unknown, "pods of other namespaces cannot be listed: "+reason(err), "")
			return
		}
		for i := range pods.Items {
			for _, port := range takenPorts(&pods.Items[i], p.Release, p.Namespace) {
				if by, user := wanted[port], workloadOf(&pods.Items[i]); by != "" && !own[user] {
					taken[fmt.Sprintf("port %d, which %s needs, is used by %s", port, by, user)] = true
				}
			}
		}
		if options.Continue = pods.Continue; options.Continue == "" {
			break
		}
	}
	if len(taken) > 0 {
		p.check(checkPorts, event.Warned, strings.Join(sortedKeys(taken), "; "), "our pods cannot run on those nodes: disable the other, or change prometheus.nodeExporter's port")
		return
	}
	p.check(checkPorts, event.OK, "free", "")
}

func takenPorts(pod *corev1.Pod, release, namespace string) []int64 {
	if pod.Namespace == namespace && pod.Labels[labelInstance] == release || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var ports []int64
	for _, c := range pod.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort != 0 {
				ports = append(ports, int64(port.HostPort))
			} else if pod.Spec.HostNetwork {
				ports = append(ports, int64(port.ContainerPort))
			}
		}
	}
	return ports
}

// workloadOf names a pod by its owner: a DaemonSet's pods are one conflict, not one per node.
func workloadOf(pod *corev1.Pod) string {
	for _, r := range pod.OwnerReferences {
		if r.Controller != nil && *r.Controller {
			return r.Kind + " " + pod.Namespace + "/" + r.Name
		}
	}
	return "Pod " + pod.Namespace + "/" + pod.Name
}

// podSecurity asks the rules of Pod Security themselves whether the namespace's level admits what is rendered.
func (p *planner) podSecurity() {
	if p.namespace == nil {
		return
	}
	level := psapi.Level(p.namespace.Labels[psapi.EnforceLevelLabel])
	if level != psapi.LevelBaseline && level != psapi.LevelRestricted {
		p.check(checkSecurity, event.OK, "admits the rendered pods", "")
		return
	}
	version, err := psapi.ParseVersion(p.namespace.Labels[psapi.EnforceVersionLabel])
	if err != nil { // no label, or one that the API server reads as latest
		version = psapi.LatestVersion()
	}
	evaluator, err := pspolicy.NewEvaluator(pspolicy.DefaultChecks(), nil)
	if err != nil {
		p.check(checkSecurity, event.Unknown, err.Error(), "")
		return
	}
	var refused []string
	for _, o := range p.objects {
		if !isWorkload(o.GetKind()) {
			continue
		}
		template, err := podTemplate(o)
		if err != nil {
			continue // the dry run says it better
		}
		result := pspolicy.AggregateCheckResults(evaluator.EvaluatePod(psapi.LevelVersion{Level: level, Version: version}, &template.ObjectMeta, &template.Spec))
		if !result.Allowed {
			refused = append(refused, o.String()+" ("+result.ForbiddenReason()+")")
		}
	}
	if len(refused) > 0 {
		p.check(checkSecurity, event.Warned, fmt.Sprintf("namespace %s enforces the Pod Security level %s, which refuses the pods of %s", p.Namespace, level, strings.Join(refused, ", ")),
			fmt.Sprintf("kubectl label namespace %s pod-security.kubernetes.io/enforce=privileged --overwrite", p.Namespace))
		return
	}
	p.check(checkSecurity, event.OK, "admits the rendered pods", "")
}

// admission asks the API server to create, for show, what does not exist yet. Without its namespace an object cannot be
// asked about; RBAC objects of the cluster can, and they are the ones whose creation needs more than permission to create.
func (p *planner) admission() {
	created := map[string]bool{}
	for _, c := range p.Changes {
		created[c.Object] = c.Action == Create
	}
	var ask []object
	for _, o := range p.objects {
		if created[o.String()] && o.mapping != nil && (p.namespace != nil || o.GetNamespace() == "") {
			ask = append(ask, o)
		}
	}
	if len(ask) == 0 {
		return
	}
	var mu sync.Mutex
	var refused []string
	each(len(ask), 8, func(i int) error {
		o := ask[i]
		_, err := p.resource(o).Create(p.ctx, o.DeepCopy(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: p.FieldManager, FieldValidation: metav1.FieldValidationStrict})
		switch {
		case err == nil, apierrors.IsAlreadyExists(err), strings.Contains(err.Error(), "does not support dry run"):
		case apierrors.IsForbidden(err) && !strings.Contains(err.Error(), "is attempting to grant") && !strings.Contains(err.Error(), "denied the request") && !strings.Contains(err.Error(), "exceeded quota"):
			// The permission check says it better.
		default:
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, o.String()+": "+reason(err))
		}
		return nil
	})
	sort.Strings(refused)
	if len(refused) > 0 {
		p.check(checkAdmission, event.Failed, strings.Join(refused, "; "), "")
		return
	}
	p.check(checkAdmission, event.OK, fmt.Sprintf("%d new objects would be admitted", len(ask)), "")
}

// reason is the API server's sentence.
func reason(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Message != "" {
		return oneLine(status.Status().Message)
	}
	return oneLine(err.Error())
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
