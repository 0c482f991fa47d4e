package install

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// Result is what an operation left.
type Result struct {
	Operation  string             `json:"operation"`
	Outcome    event.Outcome      `json:"outcome"`
	Message    string             `json:"message"`
	Revision   int                `json:"revision"` // of the release now; 0 when there is none
	Components []workload.Summary `json:"components,omitempty"`
	Evidence   []event.Evidence   `json:"evidence,omitempty"` // found at the scene of a failure
	Kept       []string           `json:"kept,omitempty"`     // what an uninstall left, each with its reason
	Notes      string             `json:"-"`
}

// applier carries what the steps of one Apply share.
type applier struct {
	*Engine
	*clients
	plan     *Plan
	result   *Result
	deadline context.Context
	doing    string
}

// Apply does what the plan says. The result is there even when there is an error: it says what was left.
//
// When the context ends, the release's revision ends as failed, never pending, and the same command goes on from there.
func (e *Engine) Apply(ctx context.Context, plan *Plan) (*Result, error) {
	start := e.Now()
	result := &Result{Operation: plan.Operation, Revision: plan.Revision, Notes: plan.Notes}
	if plan.refused != nil {
		finish(result, plan.refused)
		return result, plan.refused
	}
	e.Observe.Emit(event.OperationStarted{Operation: plan.Operation, Target: plan.Target})
	err := e.apply(ctx, plan, result)
	finish(result, err)
	e.Observe.Emit(finished(result, err, e.Now().Sub(start)))
	return result, err
}

func finish(result *Result, err error) {
	if err == nil {
		return
	}
	result.Outcome, result.Message = outcomeOf(err), err.Error()
}

func finished(result *Result, err error, took time.Duration) event.OperationFinished {
	f := event.OperationFinished{Operation: result.Operation, Outcome: result.Outcome, Message: result.Message, Revision: result.Revision, Duration: took}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		f.Hint = h.Hint()
	}
	return f
}

func (e *Engine) apply(ctx context.Context, plan *Plan, result *Result) error {
	c, err := e.connect()
	if err != nil {
		return err
	}
	deadline, cancel := context.WithTimeout(ctx, plan.request.Timeout)
	defer cancel()
	a := &applier{Engine: e, clients: c, plan: plan, result: result, deadline: deadline}
	if err := a.run(); err != nil {
		return a.ended(ctx, err)
	}
	return nil
}

// ended gives an error that follows from the end of the context its true name.
func (a *applier) ended(ctx context.Context, err error) error {
	var timeout *TimeoutError
	var cancelled *CancelledError
	switch {
	case errors.As(err, &timeout), errors.As(err, &cancelled):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return &CancelledError{While: a.doing, State: a.state(ctx)}
	case a.deadline.Err() != nil:
		return &TimeoutError{After: a.plan.request.Timeout, Doing: a.doing}
	}
	return err
}

// state says in what state the release is now, in spite of the end of ctx.
func (a *applier) state(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	h, err := a.history(ctx)
	if err != nil {
		return "the state of the release could not be read: " + oneLine(err.Error())
	}
	last := h.last()
	if last == nil {
		return "no release was made"
	}
	a.result.Revision = last.Version
	return fmt.Sprintf("revision %d of the release is %s", last.Version, last.Info.Status)
}

func (a *applier) run() error {
	p := a.plan
	if !p.NoOp {
		for _, s := range []struct {
			id, title string
			needed    bool
			run       func() (string, error)
		}{
			{"recover", fmt.Sprintf("Recovering revision %d, which is %s", p.Revision, p.ReleaseState), p.recovers, a.recover},
			{"namespace", "Creating namespace " + a.Namespace, p.namespace == nil, a.makeNamespace},
			{"identity", "Pinning the cluster's identity", p.writesIdentity, a.writeIdentity},
			{"credentials", "Storing credentials in Secret " + CredentialsSecret, p.writesSecret, a.writeSecret},
			{"webhooks", "Removing webhooks of pods before what answers them", len(p.leavingWebhooks()) > 0, a.removeWebhooks},
			{"release", a.releaseTitle(), p.changesRelease, a.release},
		} {
			if !s.needed {
				continue
			}
			a.doing = lower(s.title)
			err := a.step(s.id, s.title, func() (event.Outcome, string, error) {
				if err := a.deadline.Err(); err != nil {
					return "", "", err
				}
				message, err := s.run()
				return event.OK, message, err
			})
			if err != nil {
				return err
			}
		}
	}
	return a.wait()
}

// leavingWebhooks are the admission webhooks that the release has and will not have any more, by resource.
func (p *Plan) leavingWebhooks() map[string][]string {
	leaving := map[string][]string{}
	for _, c := range p.Changes {
		for kind, resource := range map[string]string{"ValidatingWebhookConfiguration ": "validatingwebhookconfigurations", "MutatingWebhookConfiguration ": "mutatingwebhookconfigurations"} {
			if name, is := strings.CutPrefix(c.Object, kind); is && c.Action == Delete {
				leaving[resource] = append(leaving[resource], name)
			}
		}
	}
	return leaving
}

// removeWebhooks removes webhooks before Helm removes what answers them, which it does the other way round: until the webhook is gone too, each pod that is made
// waits for an answer that nobody gives.
func (a *applier) removeWebhooks() (string, error) {
	if _, err := a.unmoved(); err != nil {
		return "", err
	}
	var gone []string
	for resource, names := range a.plan.leavingWebhooks() {
		client := a.dynamic.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: resource})
		for _, name := range names {
			if err := client.Delete(a.deadline, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return "", explain("delete "+resource+" "+name, err)
			}
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	return strings.Join(gone, ", "), nil
}

func (a *applier) releaseTitle() string {
	v := a.plan.source.Metadata.Version
	if a.plan.fresh {
		return fmt.Sprintf("Installing release %s, chart %s", a.Release, v)
	}
	if from := a.plan.Target.FromVersion; from != "" && from != v {
		return fmt.Sprintf("Upgrading release %s, chart %s → %s", a.Release, from, v)
	}
	return fmt.Sprintf("Upgrading release %s, chart %s", a.Release, v)
}

func lower(title string) string {
	if title == "" {
		return title
	}
	return strings.ToLower(title[:1]) + title[1:]
}

// unmoved refuses when somebody worked on the release since it was planned.
func (a *applier) unmoved() (history, error) {
	h, err := a.history(a.deadline)
	if err != nil {
		return nil, err
	}
	revision, status := 0, ""
	if last := h.last(); last != nil {
		revision, status = last.Version, string(last.Info.Status)
	}
	if revision != a.plan.Revision || status != a.plan.ReleaseState {
		return nil, &Error{Reason: fmt.Sprintf("release %s changed since it was planned: revision %d %s is now revision %d %s", a.Release, a.plan.Revision, orNone(a.plan.ReleaseState), revision, orNone(status)),
			Advice: "somebody else works on it: run the command again to plan anew"}
	}
	return h, nil
}

func orNone(status string) string {
	if status == "" {
		return "(none)"
	}
	return status
}

func (a *applier) recover() (string, error) {
	if _, err := a.unmoved(); err != nil {
		return "", err
	}
	was := a.plan.ReleaseState
	err := a.markFailed(a.deadline, a.plan.Revision, "was "+was+" when its operation died; recovered by "+managerName)
	if err != nil {
		return "", err
	}
	a.plan.ReleaseState, a.plan.recovers = string(release.StatusFailed), false
	return fmt.Sprintf("revision %d was %s, now failed", a.plan.Revision, was), nil
}

func (a *applier) makeNamespace() (string, error) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: a.Namespace,
		Labels: map[string]string{
			"name":         a.Namespace, // as helm --create-namespace
			labelManagedBy: managerName,
			labelPartOf:    partOf,
			// The node exporter reads the host's /proc and network: no other level admits it.
			"pod-security.kubernetes.io/enforce": "privileged",
			"pod-security.kubernetes.io/audit":   "privileged",
			"pod-security.kubernetes.io/warn":    "privileged",
		},
		Annotations: map[string]string{CreatedByAnnotation: managerName},
	}}
	made, err := a.typed.CoreV1().Namespaces().Create(a.deadline, ns, metav1.CreateOptions{FieldManager: a.FieldManager})
	if apierrors.IsAlreadyExists(err) {
		return "it is there already", nil
	}
	if err != nil {
		return "", explain("create namespace "+a.Namespace, err)
	}
	a.plan.namespace = made
	return "", nil
}

func supportLabels() map[string]string {
	return map[string]string{labelManagedBy: managerName, labelPartOf: partOf}
}

func (a *applier) writeIdentity() (string, error) {
	client := a.typed.CoreV1().ConfigMaps(a.Namespace)
	want := map[string]string{identityARN: a.plan.Target.ClusterARN, identityUID: a.plan.uid}
	live, err := client.Get(a.deadline, IdentityConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(a.deadline, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: IdentityConfigMap, Labels: supportLabels()}, Data: want}, metav1.CreateOptions{FieldManager: a.FieldManager})
	case err == nil:
		live.Labels = overlay(live.Labels, supportLabels())
		live.Data = overlay(live.Data, want)
		_, err = client.Update(a.deadline, live, metav1.UpdateOptions{FieldManager: a.FieldManager})
	}
	return a.plan.Target.ClusterARN, explain("write ConfigMap "+a.Namespace+"/"+IdentityConfigMap, err)
}

func (a *applier) writeSecret() (string, error) {
	client := a.typed.CoreV1().Secrets(a.Namespace)
	live, err := client.Get(a.deadline, CredentialsSecret, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(a.deadline, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: CredentialsSecret, Labels: supportLabels()}, Type: corev1.SecretTypeOpaque, Data: a.plan.credentials}, metav1.CreateOptions{FieldManager: a.FieldManager})
	case err == nil:
		live.Labels = overlay(live.Labels, supportLabels())
		live.Data = a.plan.credentials
		_, err = client.Update(a.deadline, live, metav1.UpdateOptions{FieldManager: a.FieldManager})
	}
	return strings.Join(a.plan.CredentialKeys, ", "), explain("write Secret "+a.Namespace+"/"+CredentialsSecret, err)
}

func overlay[V any](under, over map[string]V) map[string]V {
	out := maps.Clone(under)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, over)
	return out
}

// release runs Helm's action. Helm does not wait: what is not ready has a reason, and Helm does not tell it.
func (a *applier) release() (string, error) {
	h, err := a.unmoved()
	if err != nil {
		return "", err
	}
	log := &lastLines{}
	cfg, err := a.helm(a.deadline, log)
	if err != nil {
		return "", err
	}
	// Helm's context never ends: when it does, Helm returns and leaves its work going on behind. See the package comment.
	ctx := context.WithoutCancel(a.deadline)
	var done *release.Release
	if a.plan.fresh {
		act := action.NewInstall(cfg)
		act.ReleaseName, act.Namespace, act.Timeout = a.Release, a.Namespace, a.plan.request.Timeout
		act.Replace, act.TakeOwnership = h.last() != nil, a.plan.request.Adopt
		act.SkipSchemaValidation = true // the plan did, and knows which values to overlook
		// It only finds out whether the API server validates fields, which it then does not ask for; the plan's dry run did.
		act.DisableOpenAPIValidation = true
		if a.plan.pins != nil {
			act.PostRenderer = a.plan.pins
		}
		done, err = act.RunWithContext(ctx, a.plan.source, merge(a.plan.values, nil))
	} else {
		act := action.NewUpgrade(cfg)
		act.Namespace, act.Timeout, act.MaxHistory = a.Namespace, a.plan.request.Timeout, maxHistory
		act.ResetValues, act.TakeOwnership = true, a.plan.request.Adopt // the plan's values are all there is
		act.SkipSchemaValidation, act.DisableOpenAPIValidation = true, true
		if a.plan.pins != nil {
			act.PostRenderer = a.plan.pins
		}
		done, err = act.RunWithContext(ctx, a.Release, a.plan.source, merge(a.plan.values, nil))
	}
	if err == nil {
		a.result.Revision, a.result.Notes = done.Version, done.Info.Notes
		return fmt.Sprintf("revision %d", done.Version), nil
	}
	return "", a.failed(h, err)
}

// failed makes sure that Helm left no pending revision of ours, and says what went wrong.
func (a *applier) failed(before history, cause error) error {
	if strings.Contains(cause.Error(), "another operation (install/upgrade/rollback) is in progress") ||
		strings.Contains(cause.Error(), "already exists") && strings.Contains(cause.Error(), "sh.helm.release.v1.") ||
		strings.Contains(cause.Error(), "cannot re-use a name that is still in use") {
		return &Error{Class: ClassPreflight, Reason: "release " + a.Release + " is being changed by another operation", Err: cause, Advice: "wait until it ends, then run again"}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.deadline), cleanupTimeout)
	defer cancel()
	if now, err := a.history(ctx); err == nil && now.last() != nil {
		last := now.last()
		mine := before.last() == nil || last.Version > before.last().Version
		if mine {
			a.result.Revision = last.Version
		}
		if mine && last.Info.Status.IsPending() {
			if err := a.markFailed(ctx, last.Version, "Release failed: "+oneLine(cause.Error())); err != nil {
				return errors.Join(cause, err)
			}
		}
	}
	if a.deadline.Err() != nil {
		return a.deadline.Err()
	}
	return explain("apply release "+a.Release, cause)
}

// wait looks at the workloads until all are settled, and tells every change.
func (a *applier) wait() error {
	p := a.plan
	names := workloadsOf(p.objects)
	summaries, err := a.observe(a.deadline, names)
	if err == nil {
		a.result.Components = summaries
	}
	unsettled := pending(summaries)
	switch {
	case p.NoOp && err == nil && len(unsettled) == 0:
		a.result.Outcome, a.result.Message = event.Unchanged, fmt.Sprintf("release %s revision %d is as wanted and healthy", a.Release, a.result.Revision)
		return nil
	case !p.request.Wait && p.NoOp:
		a.result.Outcome, a.result.Message = event.Unchanged, fmt.Sprintf("release %s revision %d is as wanted", a.Release, a.result.Revision)
		return nil
	case !p.request.Wait:
		a.result.Outcome, a.result.Message = event.OK, fmt.Sprintf("release %s revision %d is written; not waited for", a.Release, a.result.Revision)
		return nil
	}
	a.doing = "waiting for the workloads"
	err = a.step("wait", "Waiting for the workloads", func() (event.Outcome, string, error) {
		summaries, err := a.settle(a.deadline, names)
		if summaries != nil {
			a.result.Components = summaries
		}
		return event.OK, fmt.Sprintf("%d workloads are ready", len(summaries)), err
	})
	if err == nil {
		a.result.Outcome, a.result.Message = event.OK, fmt.Sprintf("release %s revision %d is ready", a.Release, a.result.Revision)
		if p.NoOp {
			a.result.Outcome, a.result.Message = event.Unchanged, fmt.Sprintf("release %s revision %d is as wanted and became healthy", a.Release, a.result.Revision)
		}
		return nil
	}
	return a.notReady(names, err)
}

// notReady captures the evidence before it records the failure, so that nothing that cleans up can be quicker.
func (a *applier) notReady(names []workloadName, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.deadline), cleanupTimeout)
	defer cancel()
	if summaries, err := a.observe(ctx, names); err == nil {
		a.result.Components = summaries
	}
	unsettled := pending(a.result.Components)
	a.result.Evidence = a.evidence(ctx, unsettled, a.redactor(ctx, a.plan.credentials))
	for _, e := range a.result.Evidence {
		a.Observe.Emit(e)
	}
	timedOut := errors.Is(a.deadline.Err(), context.DeadlineExceeded)
	why := "cancelled while waiting"
	switch {
	case timedOut:
		cause = &TimeoutError{After: a.plan.request.Timeout, Doing: "waiting for the workloads", Waiting: unsettled}
		why = cause.Error()
	case a.deadline.Err() == nil:
		why = cause.Error()
	}
	if len(unsettled) > 0 && !timedOut {
		why += ": " + waitingFor(unsettled)
	}
	if !a.plan.NoOp {
		if err := a.markFailed(ctx, a.result.Revision, why); err != nil {
			return errors.Join(cause, err)
		}
	}
	if a.deadline.Err() != nil && !timedOut {
		return &CancelledError{While: a.doing, State: a.state(ctx)}
	}
	return cause
}

func pending(summaries []workload.Summary) []workload.Summary {
	return slices.DeleteFunc(slices.Clone(summaries), func(s workload.Summary) bool { return s.State.Settled() })
}
