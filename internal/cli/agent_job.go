package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/nopsctl/nopsctl/internal/ui/plain"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

const (
	jobAnnotation = install.ForJobAnnotation
	nodePoolLabel = "karpenter.sh/nodepool"
	jobStart      = 3 * time.Minute // that a pod may take to start: a node may have to be launched for it
	jobPoll       = 500 * time.Millisecond
	jobCleanup    = 40 * time.Second // a pod has 30 s to end what it is at
	jobTTL        = int32(600)       // what is left of a Job whose nopsctl was killed goes by itself
)

// agentProgram is an agent whose image is run as a Job.
type agentProgram struct {
	name      string // what its last word on a failure begins with
	command   string // here; the Job's container has its name, and the Job the label app.kubernetes.io/name: COMMAND-job, which nothing selects
	component string // public name
	// label is app.kubernetes.io/component of the Deployment whose identity, settings and placement the Job has, and of its account and permissions.
	label  string
	byHand func(namespace string) string // what can be done without the program; the namespace is the stack's
}

func (p agentProgram) deployment() string { return "nops-" + p.label }

// agentJob is one run of an agent's image in the cluster.
type agentJob struct {
	program  agentProgram
	args     []string
	patience time.Duration // of the whole run
	avoid    []string      // NodePools on whose nodes it must not run: they are about to go
	// half says what may be half done when it is interrupted, and goOn how to go on.
	half, goOn string
	mend       string       // instead of goOn, where the program ended by itself and says why
	line       func(string) // gets each line of the answer as it comes
	log        func(string) // gets each line of the log
	observe    event.Func
	admission  install.Admission
	unverified bool
}

// jobFlags are those of commands that run an agent as a Job.
type jobFlags struct {
	show    faceFlags
	admit   admitFlags
	yes     bool
	timeout time.Duration
}

func (o *jobFlags) bind(cmd *cobra.Command, asks bool, timeout time.Duration) {
	o.show.bind(cmd)
	o.admit.trustFlags.bind(cmd)
	o.admit.bindMode(cmd)
	o.admit.bindBundle(cmd)
	if asks {
		cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	}
	cmd.Flags().DurationVar(&o.timeout, "timeout", timeout, "how long it may take, once its pod runs")
}

func (o *jobFlags) check() error {
	if o.timeout <= 0 {
		return usage("--timeout %s: expected a duration such as 30m", o.timeout)
	}
	return nil
}

// job prepares the run of an agent: by whom it must be signed, and where what it says goes.
func (o *jobFlags) job(f *Factory, op *operation, program agentProgram, verb string, into *[]string) (agentJob, error) {
	if err := o.admit.read(f, nil); err != nil {
		return agentJob{}, err
	}
	source, err := f.source(&o.admit.trustFlags)
	if err != nil {
		return agentJob{}, err
	}
	admission, err := f.admission(&o.admit, source, op)
	if err != nil {
		return agentJob{}, err
	}
	return agentJob{
		program: program, args: []string{verb, "--timeout=" + o.timeout.String()}, patience: o.timeout, observe: op.Observe, admission: admission, unverified: o.admit.asked == "off",
		log: func(line string) { o.logLine(f, line) },
		line: func(line string) {
			*into = append(*into, line)
			if op.output == "text" {
				fmt.Fprintln(f.IO.Out, line)
			}
		},
	}, nil
}

// logLine shows a line of the program's log, unless only what is wrong is to be told.
func (o *jobFlags) logLine(f *Factory, line string) {
	var entry map[string]any
	numbers := json.NewDecoder(strings.NewReader(line))
	numbers.UseNumber() // as the program wrote them
	if numbers.Decode(&entry) != nil {
		return
	}
	level, _ := entry["level"].(string)
	if o.show.quiet && level != "ERROR" && level != "WARN" || level == "DEBUG" && !o.show.verbose {
		return
	}
	message, _ := entry["msg"].(string)
	var rest []string
	for name, v := range entry {
		if name != "time" && name != "level" && name != "msg" {
			rest = append(rest, fmt.Sprintf("%s=%v", name, v))
		}
	}
	slices.Sort(rest)
	fmt.Fprintf(f.IO.ErrOut, "    %s %s\n", f.styleErr().Dim(strings.ToLower(level)), plain.Shorten(strings.Join(append([]string{message}, rest...), " "), 240))
}

// jobRun is an agentJob on its way.
type jobRun struct {
	agentJob
	k       *reach
	job     *batchv1.Job
	made    []madeObject // for this Job alone
	sleep   func(context.Context, time.Duration) error
	started time.Time
	reason  string // the last the program said of why it failed
	told    string // the last state of the pod that was told
}

// madeObject is an object that was made for a Job.
type madeObject struct {
	resource dynamic.ResourceInterface
	object   *unstructured.Unstructured
}

// run makes the Job, passes its log on as it comes, waits for its end, and leaves nothing.
func (k *reach) run(ctx context.Context, a agentJob) (err error) {
	r := &jobRun{agentJob: a, k: k, sleep: k.f.Sleep, started: k.f.Now()}
	if r.sleep == nil {
		r.sleep = pauseFor
	}
	said := slices.DeleteFunc(slices.Clone(a.args), func(s string) bool { return strings.HasPrefix(s, "--") && s != "--all" })
	title := "Running " + a.program.command + " " + strings.Join(said, " ") + " in the cluster"
	a.observe.Emit(event.StepStarted{Step: "job", Title: title})
	defer func() {
		outcome, message := event.OK, ""
		if err != nil {
			outcome, message = outcomeOf(err, ""), oneLine(err)
		}
		a.observe.Emit(event.StepFinished{Step: "job", Title: title, Outcome: outcome, Message: message, Duration: k.f.Now().Sub(r.started)})
	}()
	component, err := r.component(ctx)
	if err != nil {
		return err
	}
	if r.job, err = jobOf(component.deployment, jobNameOf("nops-"+a.program.command+"-"), a); err != nil {
		return err
	}
	// From here on something may be there, also when the answer to its creation is lost.
	defer r.cleanup(ctx)
	if err := r.permit(ctx, component.objects); err != nil {
		return r.interrupted(ctx, err)
	}
	job, err := k.client.BatchV1().Jobs(k.namespace).Create(ctx, r.job, metav1.CreateOptions{FieldManager: "nopsctl"})
	if err != nil {
		return r.interrupted(ctx, unreachable(fmt.Sprintf("create Job %s/%s", k.namespace, r.job.Name), err))
	}
	r.job = job
	return r.interrupted(ctx, r.follow(ctx))
}

// interrupted says what a cancelled run leaves.
func (r *jobRun) interrupted(ctx context.Context, err error) error {
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	return &failure{class: "cancelled", reason: "cancelled; Job " + r.k.namespace + "/" + r.job.Name + " is removed: " + r.half, advice: r.goOn}
}

// agentComponent is what the agent consists of in this release.
type agentComponent struct {
	deployment *appsv1.Deployment
	objects    []*unstructured.Unstructured // its account and permissions
}

// component takes the agent from the release: its chart, values and pins, whether it is switched on or not. Where Helm has no record, because Argo CD or
// another tool renders the chart, it is taken from the live Deployment.
func (r *jobRun) component(ctx context.Context) (agentComponent, error) {
	k := r.k
	var c agentComponent
	live, err := k.client.AppsV1().Deployments(k.namespace).Get(ctx, r.program.deployment(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		live = nil
	case err != nil:
		return c, unreachable("read Deployment "+k.namespace+"/"+r.program.deployment(), err)
	}
	rendered, err := k.engine.ComponentObjects(ctx, install.ComponentRequest{Component: r.program.component, Admission: r.admission, Unverified: r.unverified})
	var absent *install.NotInstalledError
	switch {
	case errors.As(err, &absent) && live != nil:
		c.deployment = live
		return c, nil
	case errors.As(err, &absent):
		return c, &failure{class: "preflight", err: err, advice: "its program comes with the stack: nopsctl install, then the same command again. By hand: " + r.program.byHand(k.namespace)}
	case err != nil:
		return c, err
	}
	for _, o := range rendered.Objects {
		if o.GetLabels()[componentLabel] != r.program.label { // of another part of the component
			continue
		}
		switch o.GetKind() {
		case "Deployment":
			if c.deployment, err = typed[appsv1.Deployment](o); err != nil {
				return c, err
			}
		case "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding":
			c.objects = append(c.objects, o)
		}
	}
	if c.deployment == nil {
		return c, &failure{class: "failed", reason: "the chart of the release (" + rendered.ChartVersion + ") renders no Deployment of " + r.program.component}
	}
	if live != nil && !rendered.Pinned && len(live.Spec.Template.Spec.Containers) == 1 {
		// Of a release that pins nothing, images are what their owner says: the image updater moves them behind the release's back.
		now := live.Spec.Template.Spec.Containers[0]
		c.deployment.Spec.Template.Spec.Containers[0].Image, c.deployment.Spec.Template.Spec.Containers[0].ImagePullPolicy = now.Image, now.ImagePullPolicy
	}
	return c, nil
}

// typed reads a rendered object as what it is.
func typed[T any](o *unstructured.Unstructured) (*T, error) {
	data, err := o.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
	}
	into := new(T)
	if err := json.Unmarshal(data, into); err != nil {
		return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return into, nil
}

func jobNameOf(prefix string) string {
	raw := make([]byte, 4)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return prefix + hex.EncodeToString(raw)
}

// jobOf copies what makes the agent what it is: identity, environment, placement, security; and nothing that selects or counts it.
func jobOf(deployment *appsv1.Deployment, name string, a agentJob) (*batchv1.Job, error) {
	template := deployment.Spec.Template.DeepCopy()
	spec := template.Spec
	if len(spec.Containers) == 0 {
		return nil, fmt.Errorf("Deployment %s/%s has no container", deployment.Namespace, deployment.Name)
	}
	container := spec.Containers[0]
	for _, c := range spec.Containers {
		if c.Name == a.program.label {
			container = c
		}
	}
	container.Name, container.Args = a.program.command, a.args
	container.LivenessProbe, container.ReadinessProbe, container.StartupProbe, container.Lifecycle, container.Ports = nil, nil, nil, nil, nil
	for i := range container.Env { // to act needs no platform: that a key is gone must not keep a pod from starting
		if from := container.Env[i].ValueFrom; from != nil && from.SecretKeyRef != nil {
			yes := true
			from.SecretKeyRef.Optional = &yes
		}
	}
	spec.Containers, spec.InitContainers, spec.RestartPolicy, spec.TopologySpreadConstraints = []corev1.Container{container}, nil, corev1.RestartPolicyNever, nil
	spec.Affinity = away(spec.Affinity, a.avoid)
	own := map[string]string{
		"app.kubernetes.io/name": a.program.command + "-job", componentLabel: a.program.command + "-job",
		"app.kubernetes.io/part-of": "nops-kubernetes-agent", "app.kubernetes.io/managed-by": "nopsctl",
	}
	onPod := map[string]string{} // the user's own labels may be what lets a pod out, or what admits it
	for k, v := range template.Labels {
		if !strings.HasPrefix(k, "app.kubernetes.io/") && k != "nops.io/component" {
			onPod[k] = v
		}
	}
	if deployment.Spec.Selector != nil {
		for k := range deployment.Spec.Selector.MatchLabels {
			delete(onPod, k)
		}
	}
	maps.Copy(onPod, own)
	none, ttl, deadline := int32(0), jobTTL, int64((a.patience + jobStart).Seconds())
	return &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: deployment.Namespace, Labels: own},
		Spec: batchv1.JobSpec{
			BackoffLimit: &none, TTLSecondsAfterFinished: &ttl, ActiveDeadlineSeconds: &deadline,
			// Karpenter may take the node away under it: then it starts again elsewhere. What it does can be done again.
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:          batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
			}}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: onPod, Annotations: template.Annotations}, Spec: spec},
		},
	}, nil
}

// away keeps a pod off the nodes of these NodePools, besides what it wants already: a Job that drains them would wait for itself.
func away(affinity *corev1.Affinity, pools []string) *corev1.Affinity {
	if len(pools) == 0 {
		return affinity
	}
	if affinity == nil {
		affinity = &corev1.Affinity{}
	}
	if affinity.NodeAffinity == nil {
		affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil || len(required.NodeSelectorTerms) == 0 {
		required = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}
	}
	for i := range required.NodeSelectorTerms { // any one of the terms suffices, so each has to say it
		t := &required.NodeSelectorTerms[i]
		t.MatchExpressions = append(t.MatchExpressions, corev1.NodeSelectorRequirement{Key: nodePoolLabel, Operator: corev1.NodeSelectorOpNotIn, Values: pools})
	}
	affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
	return affinity
}

// permit makes what of the agent's account and permissions is not there, for the time of the Job: while the agent is switched off they are not.
func (r *jobRun) permit(ctx context.Context, objects []*unstructured.Unstructured) error {
	k := r.k
	if len(objects) == 0 {
		return nil
	}
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		mapping, err := k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			return unreachable("find "+gvk.Kind, err)
		}
		var resource dynamic.ResourceInterface = k.dynamic.Resource(mapping.Resource)
		if mapping.Scope.Name() == "namespace" {
			resource = k.dynamic.Resource(mapping.Resource).Namespace(k.namespace)
		}
		have, err := resource.Get(ctx, o.GetName(), metav1.GetOptions{})
		switch {
		case err == nil:
			if k.orphan(ctx, have) { // of a run whose nopsctl was killed: it goes with this one
				r.made = append(r.made, madeObject{resource, have})
			}
			continue
		case !apierrors.IsNotFound(err):
			return unreachable(fmt.Sprintf("read %s %s", o.GetKind(), o.GetName()), err)
		}
		fresh := o.DeepCopy()
		annotations := fresh.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[jobAnnotation] = k.namespace + "/" + r.job.Name
		fresh.SetAnnotations(annotations)
		l := fresh.GetLabels()
		if l == nil {
			l = map[string]string{}
		}
		l["app.kubernetes.io/managed-by"], l["app.kubernetes.io/part-of"] = "nopsctl", "nops-kubernetes-agent"
		fresh.SetLabels(l)
		r.made = append(r.made, madeObject{resource, fresh}) // before the creation: its answer may be lost
		made, err := resource.Create(ctx, fresh, metav1.CreateOptions{FieldManager: "nopsctl"})
		if err != nil {
			f := unreachable(fmt.Sprintf("create %s %s for the Job", o.GetKind(), o.GetName()), err)
			if apierrors.IsForbidden(err) {
				return &failure{class: "auth", err: f, advice: r.program.component + " is switched off, so its permissions have to be made for the time of the Job, and you may not: ask somebody who may, or nopsctl enable " + r.program.component + " first"}
			}
			return f
		}
		r.made[len(r.made)-1].object = made
	}
	return nil
}

// orphan says whether an object was made for a Job that is gone.
func (k *reach) orphan(ctx context.Context, o *unstructured.Unstructured) bool {
	namespace, name, ok := strings.Cut(o.GetAnnotations()[jobAnnotation], "/")
	if !ok || o.GetLabels()["app.kubernetes.io/managed-by"] != "nopsctl" {
		return false
	}
	_, err := k.client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

// cleanup removes the Job with its pods, then what was made for it, whatever became of ctx. What it cannot remove of the Job, the Job's own time limits do.
func (r *jobRun) cleanup(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), jobCleanup)
	defer cancel()
	jobs, background := r.k.client.BatchV1().Jobs(r.k.namespace), metav1.DeletePropagationBackground
	for {
		err := jobs.Delete(ctx, r.job.Name, metav1.DeleteOptions{PropagationPolicy: &background})
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || r.sleep(ctx, jobPoll) != nil {
			break
		}
	}
	if len(r.made) == 0 {
		return
	}
	// A program that is told to end finishes the write it is at: its permissions stay until it has.
	for {
		pods, err := r.pods(ctx)
		if err != nil || !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }) || r.sleep(ctx, jobPoll) != nil {
			break
		}
	}
	var left []string
	for _, m := range slices.Backward(r.made) {
		if err := r.remove(context.WithoutCancel(ctx), m); err != nil {
			left = append(left, fmt.Sprintf("%s %s (%v)", m.object.GetKind(), m.object.GetName(), err))
		}
	}
	if len(left) > 0 {
		r.observe.Emit(event.Warning{Message: "made for the Job and not removed: " + strings.Join(left, "; "), Hint: "the next nopsctl " + r.program.command + " command that runs a Job removes them"})
	}
}

// remove removes what was made for a Job, unless somebody has made it theirs meanwhile, such as a release that switches the agent on.
func (r *jobRun) remove(ctx context.Context, m madeObject) error {
	ctx, cancel := context.WithTimeout(ctx, jobCleanup/2)
	defer cancel()
	for {
		have, err := m.resource.Get(ctx, m.object.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil && (have.GetLabels()["app.kubernetes.io/managed-by"] != "nopsctl" || have.GetAnnotations()[jobAnnotation] == "" || m.object.GetUID() != "" && m.object.GetUID() != have.GetUID()):
			return nil
		case err == nil:
			uid, version := have.GetUID(), have.GetResourceVersion()
			err = m.resource.Delete(ctx, m.object.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
		}
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			return ignoreNotFound(err)
		}
		if r.sleep(ctx, jobPoll) != nil {
			return err
		}
	}
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (r *jobRun) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := r.k.client.CoreV1().Pods(r.k.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.Set{batchv1.JobNameLabel: r.job.Name}.String()})
	if err != nil {
		return nil, unreachable(fmt.Sprintf("list the pods of Job %s/%s", r.k.namespace, r.job.Name), err)
	}
	return list.Items, nil
}

// follow waits for a pod, passes its log on, and again where the pod was evicted, until the Job has ended.
func (r *jobRun) follow(ctx context.Context) error {
	read := map[types.UID]bool{}
	since := r.k.f.Now()
	for failures := 0; ; {
		pod, job, err := r.look(ctx, read)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			// The API server may be gone for a while; the Job is not.
			if failures++; failures > 20 {
				return err
			}
		case job == nil:
			return &failure{class: "failed", reason: fmt.Sprintf("somebody removed Job %s/%s while it ran: %s", r.k.namespace, r.job.Name, r.half), advice: r.goOn}
		default:
			failures = 0
			if pod != nil && !read[pod.UID] && pod.Status.Phase != corev1.PodPending {
				if read[pod.UID] = r.logs(ctx, pod); ctx.Err() != nil {
					return ctx.Err()
				}
				since = r.k.f.Now()
				continue
			}
			if done, err := r.ended(job, pod); done {
				return err
			}
			if err := r.waits(ctx, pod, since); err != nil {
				return err
			}
		}
		if err := r.sleep(ctx, jobPoll); err != nil {
			return err
		}
	}
}

// look reads the Job and its newest pod, of two of one second the one that was not read yet; a Job that is gone is nil.
func (r *jobRun) look(ctx context.Context, read map[types.UID]bool) (*corev1.Pod, *batchv1.Job, error) {
	job, err := r.k.client.BatchV1().Jobs(r.k.namespace).Get(ctx, r.job.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, unreachable(fmt.Sprintf("read Job %s/%s", r.k.namespace, r.job.Name), err)
	}
	pods, err := r.pods(ctx)
	if err != nil {
		return nil, nil, err
	}
	var newest *corev1.Pod
	for i := range pods {
		p := &pods[i]
		if newest == nil || newest.CreationTimestamp.Before(&p.CreationTimestamp) || newest.CreationTimestamp.Equal(&p.CreationTimestamp) && read[newest.UID] {
			newest = p
		}
	}
	return newest, job, nil
}

// ended says whether the Job has, and how.
func (r *jobRun) ended(job *batchv1.Job, pod *corev1.Pod) (bool, error) {
	for _, c := range job.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete, batchv1.JobSuccessCriteriaMet:
			return true, nil
		case batchv1.JobFailed, batchv1.JobFailureTarget:
			if c.Reason == batchv1.JobReasonDeadlineExceeded {
				return true, &failure{class: "timeout", reason: fmt.Sprintf("%s %s did not end within %s: %s", r.program.command, r.args[0], r.patience, r.half), advice: r.goOn}
			}
			return true, r.failed(pod, strings.Join(nonEmpty(c.Reason, c.Message), ": "))
		}
	}
	return false, nil
}

// failed is the error of a program that ended badly: its own exit code says of which class.
func (r *jobRun) failed(pod *corev1.Pod, otherwise string) error {
	code, how, long := int32(-1), otherwise, false
	if pod != nil {
		for _, s := range pod.Status.ContainerStatuses {
			if t := s.State.Terminated; s.Name == r.program.command && t != nil {
				code, long = t.ExitCode, t.FinishedAt.Sub(t.StartedAt.Time) >= r.patience
				if how = first(t.Message, t.Reason); how == "Error" {
					how = ""
				}
			}
		}
		if code < 0 && pod.Status.Reason != "" {
			how = strings.Join(nonEmpty(pod.Status.Reason, pod.Status.Message), ": ")
		}
	}
	class := "failed"
	for _, e := range exitCodes() {
		if e.Class != "" && int64(e.Code) == int64(code) {
			class = e.Class
		}
	}
	if long && code == int32(CodeFailed) { // it was told how long it may take, and keeps to that by itself
		class = "timeout"
	}
	reason := r.reason
	if reason == "" {
		reason = "its program ended"
		if code >= 0 {
			reason += fmt.Sprintf(" with code %d", code)
		}
		reason = strings.Join(nonEmpty(reason, how), ": ")
	}
	advice := r.goOn
	if r.mend != "" && class != "timeout" {
		advice = r.mend
	}
	return &failure{class: class, reason: r.program.command + " " + r.args[0] + ": " + reason, advice: advice}
}

// waits tells what a pod that does not run yet waits for, and gives up in time.
func (r *jobRun) waits(ctx context.Context, pod *corev1.Pod, since time.Time) error {
	waited := r.k.f.Now().Sub(since)
	job := r.k.namespace + "/" + r.job.Name
	if pod == nil {
		if waited > jobStart/2 {
			return &failure{class: "failed", reason: strings.Join(nonEmpty(fmt.Sprintf("no pod was made for Job %s within %s", job, waited.Round(time.Second)), r.refused(ctx)), ": ")}
		}
		return nil
	}
	if pod.Status.Phase != corev1.PodPending {
		return nil // it has ended, and the Job's controller will say so
	}
	reason, message := workload.Pod(pod)
	if state := reason + message; state != r.told && reason != "" {
		r.told = state
		r.observe.Emit(event.Component{Component: r.program.component, Object: "Pod " + pod.Namespace + "/" + pod.Name, State: string(workload.Progressing), Reason: reason, Message: message, Desired: 1})
	}
	hopeless := slices.Contains([]string{"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"}, reason) && waited > jobStart/6
	if !hopeless && waited <= jobStart {
		return nil
	}
	return &failure{
		class: "failed", reason: strings.Join(nonEmpty(fmt.Sprintf("Pod %s/%s did not start within %s", pod.Namespace, pod.Name, waited.Round(time.Second)), reason, message), ": "),
		advice: "nothing was changed; the image and its settings are the release's: nopsctl status, nopsctl images list",
	}
}

// refused finds what the Job's controller was told when it made no pod: quota, Pod Security, a webhook.
func (r *jobRun) refused(ctx context.Context) string {
	events, err := r.k.client.CoreV1().Events(r.k.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Job,involvedObject.name=" + r.job.Name})
	if err != nil {
		return ""
	}
	for _, e := range slices.Backward(events.Items) {
		if e.Type == corev1.EventTypeWarning {
			return e.Reason + ": " + e.Message
		}
	}
	return ""
}

// logs passes a pod's log on until it has ended. Connections break where nothing is said for minutes, and draining takes longer: then it goes on where it
// was. False: it could not be read to its end, and may be tried again.
func (r *jobRun) logs(ctx context.Context, pod *corev1.Pod) bool {
	pods := r.k.client.CoreV1().Pods(pod.Namespace)
	t := tail{seen: map[string]bool{}, pass: r.pass}
	for failures := 0; failures < 10; failures++ {
		options := &corev1.PodLogOptions{Container: r.program.command, Follow: !t.final, Timestamps: true}
		if !t.last.IsZero() {
			options.SinceTime = &metav1.Time{Time: t.last}
		}
		stream, err := pods.GetLogs(pod.Name, options).Stream(ctx)
		if err == nil {
			var some bool
			if some, err = t.read(stream); some {
				failures = 0
			}
		}
		if ctx.Err() != nil {
			return false
		}
		now, getErr := pods.Get(ctx, pod.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(getErr) || t.final && errors.Is(err, io.EOF) {
			return true
		}
		t.final = getErr == nil && containerEnded(now, r.program.command)
		if r.sleep(ctx, jobPoll) != nil {
			return false
		}
	}
	r.observe.Emit(event.Warning{Message: "the log of Pod " + pod.Namespace + "/" + pod.Name + " cannot be followed", Hint: "kubectl --namespace " + pod.Namespace + " logs " + pod.Name})
	return true
}

// tail puts one log together from several connections. Each is asked for from a second on, so what was passed on of that second comes again.
type tail struct {
	last time.Time // of what was passed on
	seen map[string]bool
	// final: the program has ended. The API server ends a log that broke like one that is at its end, so it is read once more then.
	final bool
	pass  func(line string)
}

// read reads one connection to its end, which is an error, and says whether there was anything new.
func (t *tail) read(stream io.ReadCloser) (some bool, err error) {
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for err == nil {
		var text string
		text, err = lines.ReadString('\n')
		line := strings.TrimRight(text, "\r\n")
		if line == "" || !strings.HasSuffix(text, "\n") && !(t.final && errors.Is(err, io.EOF)) { // half a line comes again, whole
			continue
		}
		stamp, rest, _ := strings.Cut(line, " ")
		at, notTime := time.Parse(time.RFC3339Nano, stamp)
		if notTime != nil {
			at, rest = t.last, line
		}
		if at.Before(t.last) || t.seen[text] {
			continue
		}
		if at.Truncate(time.Second).After(t.last.Truncate(time.Second)) {
			clear(t.seen)
		}
		t.seen[text], t.last, some = true, at, true
		t.pass(rest)
	}
	return some, err
}

func containerEnded(p *corev1.Pod, container string) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return true
	}
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == container && s.State.Terminated != nil })
}

// pass sorts a line: the program's log is JSON, its last word on a failure begins with its name, everything else is its answer.
func (r *jobRun) pass(line string) {
	var entry struct {
		Level string `json:"level"`
		Msg   string `json:"msg"`
	}
	switch why, failed := strings.CutPrefix(line, r.program.name+": "); {
	case failed:
		r.reason = why
	case strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &entry) == nil && entry.Level != "" && entry.Msg != "":
		r.log(line)
	default:
		r.line(line)
	}
}

// pauseFor waits.
func pauseFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
