package cli

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// rightsized is a small release: heartbeat, and containerRightsizing or not.
func rightsized(on bool) map[string]any {
	values := releaseOf(false)
	values["containerRightsizing"] = map[string]any{"enabled": on, "ignoreNamespaces": []any{"quiet"}}
	return values
}

// parts are what the VPA's Jobs need, as far as it is there: of its part that makes autoscalers.
func (v *vpaWorld) parts() (found []string) {
	v.t.Helper()
	ctx := context.WithoutCancel(v.t.Context())
	for _, r := range []struct {
		schema.GroupVersionResource
		namespace string
	}{
		{schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}, v.namespace},
		{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}, v.namespace},
		{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}, v.namespace},
		{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}, ""},
		{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}, ""},
	} {
		list, err := v.dynamic.Resource(r.GroupVersionResource).Namespace(r.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			v.t.Error(err)
			return nil
		}
		for i := range list.Items {
			switch o := &list.Items[i]; {
			case strings.HasPrefix(o.GetAnnotations()[jobAnnotation], v.namespace+"/"):
				found = append(found, r.Resource+" "+o.GetName()+" for a Job")
			case o.GetName() == "nops-vpa-policy":
				found = append(found, r.Resource)
			}
		}
	}
	return found
}

// giveBack is what the agent's revert does to pods, as far as it is seen here: they are made anew as their template says, but those named.
func (v *vpaWorld) giveBack(but ...string) {
	ctx := context.WithoutCancel(v.t.Context())
	pods, err := v.client.CoreV1().Pods(v.shop).List(ctx, metav1.ListOptions{})
	if err != nil {
		v.t.Error(err)
		return
	}
	now := int64(0)
	for _, p := range pods.Items {
		if !slices.Contains(but, p.Labels["app"]) {
			if err := v.client.CoreV1().Pods(v.shop).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
				v.t.Error(err)
			}
		}
	}
}

// mark is what the agent's revert does to policies and autoscalers.
func (v *vpaWorld) mark(by string) {
	ctx := context.WithoutCancel(v.t.Context())
	body := []byte(`{"metadata":{"annotations":{"` + rightsizing.AnnotationReverted + `":"2026-11-23T14:00:00Z","` + rightsizing.AnnotationRevertedBy + `":"` + by + `"}}}`)
	for _, r := range []schema.GroupVersionResource{rightsizing.Policies(), rightsizing.Autoscalers()} {
		list, err := v.dynamic.Resource(r).List(ctx, metav1.ListOptions{})
		if err != nil {
			v.t.Error(err)
			return
		}
		for i := range list.Items {
			o := &list.Items[i]
			if o.GetAnnotations()[rightsizing.AnnotationReverted] != "" {
				continue
			}
			if _, err := v.dynamic.Resource(r).Namespace(o.GetNamespace()).Patch(ctx, o.GetName(), types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
				v.t.Error(err)
			}
		}
	}
}

// marked are policies and autoscalers that a revert left alone, with by whom.
func (v *vpaWorld) marked() (all []string) {
	v.t.Helper()
	for _, r := range []schema.GroupVersionResource{rightsizing.Policies(), rightsizing.Autoscalers()} {
		list, err := v.dynamic.Resource(r).List(v.t.Context(), metav1.ListOptions{})
		must(v.t, err)
		for i := range list.Items {
			if by := list.Items[i].GetAnnotations()[rightsizing.AnnotationRevertedBy]; by != "" {
				all = append(all, list.Items[i].GetName()+" by "+by)
			}
		}
	}
	slices.Sort(all)
	return all
}

func argsOf(t *testing.T, jobs []batchv1.Job) []string {
	t.Helper()
	if len(jobs) != 1 {
		t.Fatalf("%d Jobs, want 1", len(jobs))
	}
	return jobs[0].Spec.Template.Spec.Containers[0].Args
}

// TestVPARevert: the agent's own program as the release has it, also where the component is switched off and the platform away.
func TestVPARevert(t *testing.T) {
	v := newVPAWorld(t)
	v.installed(rightsized(false))
	v.world.server.Close() // of the platform: nothing here may need it
	jobs := v.program(agentRun{lines: []string{"x"}})
	v.want(CodeOK, v.in("vpa", "revert", "--all", "--yes")...)
	v.contains(v.errOut, "nothing to take back")
	if len(*jobs) != 0 {
		t.Error("a Job without anything to take back")
	}
	v.fill()
	v.want(CodeUsage, v.in("vpa", "revert", "--all")...)
	v.contains(v.errOut, "2 workloads whose pods (3) have sized requests: "+v.shop+"/Deployment/api, "+v.shop+"/Deployment/web", "--yes")
	v.want(CodeUsage, v.in("vpa", "revert", v.shop+"/Deployment/wbe", "--yes")...)
	v.contains(v.errOut, "has no autoscaler", v.shop+"/Deployment/web")
	if len(*jobs) != 0 {
		t.Error("it ran without a yes, or for nobody")
	}

	// One workload, switched off: account and permissions are there for as long as the Job.
	var during []string
	jobs = v.program(agentRun{
		lines: []string{`{"time":"2026-11-23T14:00:00Z","level":"INFO","msg":"nops-vpa reverts"}`, v.shop + "/Deployment/web: its pods (2) have their template's requests"},
		act:   func() { during = v.parts(); v.giveBack("api") },
	})
	v.want(CodeOK, v.in("vpa", "revert", "deploy/web", "-n", v.shop, "--yes", "-o", "json")...)
	v.fits("vpa-act")
	golden(t, "vpa-revert.json", v.shown(v.out.String()))
	if diff := cmp.Diff([]string{"revert", v.shop + "/Deployment/web", "--timeout=10m0s", "--by=jane"}, argsOf(t, *jobs)); diff != "" {
		t.Error(diff)
	}
	var want []string
	for _, r := range []string{"serviceaccounts", "roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		want = append(want, r+" nops-vpa-policy for a Job")
	}
	if diff := cmp.Diff(want, during); diff != "" {
		t.Errorf("while it ran (-want +got):\n%s", diff)
	}
	v.clean()
	if left := v.parts(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	golden(t, "vpa-job.yaml", v.shownJob((*jobs)[0]))
	spec := (*jobs)[0].Spec.Template.Spec
	if spec.ServiceAccountName != "nops-vpa-policy" || !strings.Contains(spec.Containers[0].Image, "/vpa:") || len(spec.Containers[0].Ports) > 0 {
		t.Errorf("account %s, image %s, ports %v", spec.ServiceAccountName, spec.Containers[0].Image, spec.Containers[0].Ports)
	}

	// What is left has to be replaced, and the command is there.
	v.program(agentRun{lines: []string{v.shop + "/Deployment/api: 0 of its pods have their template's requests; the others cannot be changed while they run: memory cannot be lowered"}})
	v.want(CodeOK, v.in("vpa", "revert", "--all", "--yes")...)
	v.contains(v.out, "cannot be changed while they run", "kubectl rollout restart deployment/api -n "+v.shop)
	v.contains(v.errOut, "kubectl annotate rightsizingpolicies.vpa.nops.io --all")

	// What went wrong in the program is its last word, and it can be run again.
	jobs = v.program(agentRun{code: 1, lines: []string{"nops-vpa: list autoscalers: the API server went away"}})
	v.want(CodeFailed, v.in("vpa", "revert", "--all", "--yes")...)
	v.contains(v.errOut, "vpa revert: list autoscalers: the API server went away", "nopsctl vpa revert --all goes on from there")
	if len(*jobs) != 1 {
		t.Errorf("%d Jobs", len(*jobs))
	}
	v.clean()
}

// shownJob is a Job's shape with what differs from run to run made equal.
func (v *vpaWorld) shownJob(j batchv1.Job) string {
	text := v.shown(jobYAML(v.t, j))
	return strings.ReplaceAll(text, j.Name, "nops-vpa-0a1b2c3d")
}

// TestVPARevertWithoutAStack says what can be done by hand, as docs/vpa.md has it: without the updater, which would resize new pods again.
func TestVPARevertWithoutAStack(t *testing.T) {
	v := newVPAWorld(t)
	v.fill()
	v.want(CodeCheckFailed, v.in("vpa", "revert", "--all", "--yes")...)
	v.contains(v.errOut, "is not installed", "\n    "+stopSizing(v.namespace)+"\n", rightsizing.AnnotationTargets)
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "vpa.md"))
	must(t, err)
	_, doc, is := strings.Cut(strings.ReplaceAll(string(data), "`", ""), "\n### Without nopsctl\n")
	if doc, _, _ = strings.Cut(doc, "\n## "); !is {
		t.Fatal("docs/vpa.md does not say what to do without nopsctl")
	}
	doc = strings.Join(strings.Fields(doc), " ")
	commands := regexp.MustCompile(`kubectl [^,;:\n]+`).FindAllString(vpaProgram().byHand(defaultNamespace), -1)
	if len(commands) != 3 || commands[0] != stopSizing(defaultNamespace) {
		t.Errorf("%d commands, want 3, and first that which stops the updater: %q", len(commands), commands)
	}
	for _, c := range commands {
		if !strings.Contains(doc, c) {
			t.Errorf("docs/vpa.md does not say without nopsctl: %s", c)
		}
	}
}

func stopSizing(namespace string) string {
	return "kubectl scale deployment -n " + namespace + " nops-vpa-updater nops-vpa-admission-controller --replicas=0"
}

func TestVPAImport(t *testing.T) {
	v := newVPAWorld(t)
	v.installed(rightsized(true))
	theirs := func(name, mode string) {
		v.make(rightsizing.UpstreamAutoscalers(), v.shop, "apiVersion: autoscaling.k8s.io/v1\nkind: VerticalPodAutoscaler\nmetadata: {name: "+name+"}\nspec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: "+name+"}"+mode+"}")
	}
	jobs := v.program(agentRun{lines: []string{"copied"}})
	v.want(CodeOK, v.in("vpa", "import", "--all", "--yes")...)
	v.contains(v.errOut, "nothing to copy")
	theirs("web", ", updatePolicy: {updateMode: Initial}")
	theirs("api", "")
	theirs("db", ", updatePolicy: {updateMode: \"Off\"}")
	v.autoscaler("Deployment", "x", "", "Off", "", nil, nil, rightsizing.Application{})
	v.make(rightsizing.Autoscalers(), v.shop, "apiVersion: vpa.nops.io/v1\nkind: VerticalPodAutoscaler\nmetadata: {name: db}\nspec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: db}, updatePolicy: {updateMode: \"Off\"}}")
	v.want(CodeUsage, v.in("vpa", "import", v.shop+"/wbe", "--yes")...)
	v.contains(v.errOut, "there is no autoscaler", v.shop+"/web")
	v.tty, v.world.in = true, "n\n"
	v.want(CodeCancelled, v.in("vpa", "import", "--all")...)
	v.contains(v.errOut, v.shop+"/web of "+v.shop+"/Deployment/web, in mode Off (theirs: Initial)", "(theirs: Recreate)", v.shop+"/db stays as it is")
	v.tty, v.world.in = false, ""
	if len(*jobs) != 0 {
		t.Error("it ran without a yes")
	}
	v.want(CodeOK, v.in("vpa", "import", "--all", "--yes", "-o", "json")...)
	v.fits("vpa-act")
	golden(t, "vpa-import.json", v.shown(v.out.String()))
	if diff := cmp.Diff([]string{"import", "--timeout=10m0s", "--all"}, argsOf(t, *jobs)); diff != "" {
		t.Error(diff)
	}
	jobs = v.program(agentRun{lines: []string{v.shop + "/web: copied, in mode Off"}})
	v.want(CodeOK, v.in("vpa", "import", "web", "-n", v.shop, "--yes")...)
	if diff := cmp.Diff([]string{"import", "--timeout=10m0s", v.shop + "/web"}, argsOf(t, *jobs)); diff != "" || !strings.Contains(v.out.String(), "copied, in mode Off") {
		t.Errorf("%s\n%s", diff, v.out)
	}
	v.clean()
	if left := v.parts(); len(left) != 5 {
		t.Errorf("what belongs to the release: %v", left)
	}
}

// TestDisableRightsizing: what it leaves is said and decided, its webhook goes first, and afterwards nothing of it is in the way of pods.
func TestDisableRightsizing(t *testing.T) {
	v := newVPAWorld(t)
	withNothing := v.change
	for _, tt := range []struct {
		name, reason string
		sized        bool
		in           string
		args         []string
		run          agentRun
		code         Code
		says         []string
		jobs         int
		disabled     bool
		marked       bool
		stubborn     []string // workloads whose pods cannot be changed while they run
		own          string   // update mode of a person's autoscaler for a ReplicationController, of which there is nothing else
	}{
		{name: "nothing sized", reason: "nothing to decide", args: []string{"--yes"}, disabled: true},
		{name: "no choice", reason: "neither is guessed", sized: true, args: []string{"--yes"}, code: CodeUsage, says: []string{"--revert", "--no-revert", "2 workloads whose pods (3) have sized requests"}},
		{name: "both", reason: "a contradiction", sized: true, args: []string{"--yes", "--revert", "--no-revert"}, code: CodeUsage},
		{name: "dry run", reason: "needs no decision", sized: true, args: []string{"--dry-run"}, says: []string{"2 workloads"}},
		{name: "asked, not at all", reason: "nothing happens", sized: true, in: "y\nn\n", code: CodeCancelled, says: []string{"[Y/n]", "pods keep what they have now"}},
		{name: "no revert", reason: "said, not silent", sized: true, args: []string{"--yes", "--no-revert"}, says: []string{"NOPS-CLI-003", "nobody sizes any more", "nopsctl vpa revert --all"}, disabled: true},
		{name: "asked, yes by default", reason: "the careful answer; the marks go with the component, so that policies hold when it is switched on again", sized: true, in: "\ny\n", jobs: 1, disabled: true},
		{name: "revert fails", reason: "the component stays, and leaves its workloads alone", sized: true, args: []string{"--yes", "--revert"}, run: agentRun{code: 1, lines: []string{"nops-vpa: no permission"}}, jobs: 1, code: CodeFailed, marked: true, says: []string{"containerRightsizing stays", "no permission", "kubectl annotate rightsizingpolicies"}},
		{name: "some cannot be", reason: "that is no reason to go on sizing them; the command that replaces them is there", sized: true, args: []string{"--yes", "--revert"}, stubborn: []string{"web"}, jobs: 1, disabled: true, says: []string{"pods get back what their templates request first", "2 pods of " + "SHOP/Deployment/web cannot be changed while they run", "kubectl rollout restart deployment/web -n SHOP"}},
		{name: "a kind that is not read, no choice", reason: "its pods may be sized, and nobody is asked", own: "InPlace", args: []string{"--yes"}, code: CodeUsage, says: []string{"--no-revert", "SHOP/ReplicationController/old"}},
		{name: "a kind that is not read, no revert", reason: "said, not silent", own: "InPlace", args: []string{"--yes", "--no-revert"}, says: []string{"NOPS-CLI-003", "SHOP/ReplicationController/old"}, disabled: true},
		{name: "a kind that is not read", reason: "the agent knows more of them than is known here", own: "InPlace", args: []string{"--yes", "--revert"}, jobs: 1, disabled: true},
		{name: "a kind that is not read, and was only recommended", reason: "nothing was sized", own: "Off", args: []string{"--yes"}, disabled: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v.t = t
			v.change = withNothing
			v.installed(rightsized(true))
			defer v.empty()
			if tt.sized {
				v.fill()
			}
			if tt.own != "" {
				v.autoscaler("ReplicationController", "old", "", tt.own, "", nil, nil, rightsizing.Application{})
			}
			by := "jane: nopsctl disable containerRightsizing"
			run := tt.run
			run.act = func() {
				v.mark(by)
				if run.code == 0 {
					v.giveBack(tt.stubborn...)
				}
			}
			jobs := v.program(run)
			v.tty, v.world.in = tt.in != "", tt.in
			order := v.watch()
			v.want(tt.code, v.args(append([]string{"disable", "containerRightsizing", "--wait=false"}, tt.args...)...)...)
			for _, s := range tt.says {
				s = strings.ReplaceAll(s, "SHOP", v.shop)
				if text := strings.Join(strings.Fields(v.errOut.String()), " "); !strings.Contains(text, s) {
					t.Errorf("no %q: %s\n%s", s, tt.reason, v.errOut)
				}
			}
			if len(*jobs) != tt.jobs {
				t.Errorf("%d Jobs, want %d: %s", len(*jobs), tt.jobs, tt.reason)
			}
			if tt.jobs == 1 {
				if diff := cmp.Diff([]string{"revert", "--all", "--timeout=1h0m0s", "--by=" + by}, argsOf(t, *jobs)); diff != "" {
					t.Error(diff)
				}
			}
			_, err := v.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), rightsizing.WebhookName, metav1.GetOptions{})
			if gone := apierrors.IsNotFound(err); gone != tt.disabled {
				t.Errorf("the webhook is gone: %v, want %v: %s", gone, tt.disabled, tt.reason)
			}
			if went := order(map[bool]int{true: 5}[tt.disabled]); tt.disabled && (len(went) != 5 || went[0] != "MutatingWebhookConfiguration nops-vpa") {
				t.Errorf("%v: the webhook has to go first, then four Deployments", went)
			}
			if got := v.marked(); (len(got) > 0) != tt.marked {
				t.Errorf("marked: %v, want some: %v; %s", got, tt.marked, tt.reason)
			}
			v.clean()
		})
	}
}

// follows makes a HorizontalPodAutoscaler of a Deployment whose target was made to follow requests, from 80 to 160 %.
func (v *vpaWorld) follows(name string) {
	v.t.Helper()
	v.make(schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}, v.shop, `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: `+name+`, annotations: {`+rightsizing.AnnotationTargets+`: '{"cpu":{"percent":80,"milli":1000,"written":160}}'}}
spec: {maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: `+name+`}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 160}}}]}`)
}

// scales is at what percentage a HorizontalPodAutoscaler scales, and whether it is said to follow requests.
func (v *vpaWorld) scales(name string) (percent int32, follows bool) {
	v.t.Helper()
	h, err := v.client.AutoscalingV2().HorizontalPodAutoscalers(v.shop).Get(v.t.Context(), name, metav1.GetOptions{})
	must(v.t, err)
	_, follows = h.Annotations[rightsizing.AnnotationTargets]
	return *h.Spec.Metrics[0].Resource.Target.AverageUtilization, follows
}

// TestSwitchedOffTargetsAreGivenBack: nobody moves a target on any more, and pods that are made request what their templates say.
func TestSwitchedOffTargetsAreGivenBack(t *testing.T) {
	v := newVPAWorld(t)
	withNothing := v.change
	for _, tt := range []struct {
		name, reason string
		sized        bool
		args         []string
	}{
		{"pods stay", "they are replaced some day", true, []string{"disable", "containerRightsizing", "--wait=false", "--yes", "--no-revert"}},
		{"pods are given back", "what the agent left is given back, too", true, []string{"disable", "containerRightsizing", "--wait=false", "--yes", "--revert"}},
		{"nothing is sized", "a target that follows is marked all the same", false, []string{"disable", "containerRightsizing", "--wait=false", "--yes"}},
		{"uninstall", "the same", true, []string{"uninstall", "--yes", "--no-revert"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v.t = t
			v.change = withNothing
			v.installed(rightsized(true))
			defer v.empty()
			if tt.sized {
				v.fill()
			}
			v.follows("web")
			v.program(agentRun{act: func() { v.giveBack() }})
			v.want(CodeOK, v.args(tt.args...)...)
			if percent, follows := v.scales("web"); percent != 80 || follows {
				t.Errorf("it scales at %d %%, want 80; follows: %t: %s", percent, follows, tt.reason)
			}
			v.contains(v.errOut, "1 HorizontalPodAutoscaler")
			v.clean()
		})
	}
}

// watch says afterwards in which order the webhook and the component's Deployments were deleted: revisions are those of one store.
func (v *vpaWorld) watch() func(want int) []string {
	v.t.Helper()
	hooks, err := v.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Watch(v.t.Context(), metav1.ListOptions{})
	must(v.t, err)
	deployments, err := v.client.AppsV1().Deployments(v.namespace).Watch(v.t.Context(), metav1.ListOptions{LabelSelector: componentLabel + " in (" + strings.Join(vpaParts(), ",") + ")"})
	must(v.t, err)
	return func(want int) []string {
		defer hooks.Stop()
		defer deployments.Stop()
		names := map[uint64]string{}
		for deadline := time.After(20 * time.Second); len(names) < want; {
			var e watch.Event
			kind := "MutatingWebhookConfiguration "
			select {
			case e = <-hooks.ResultChan():
			case e = <-deployments.ResultChan():
				kind = "Deployment "
			case <-deadline:
				want = 0
				continue
			}
			if o, is := e.Object.(metav1.Object); is && e.Type == watch.Deleted {
				revision, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
				must(v.t, err)
				names[revision] = kind + o.GetName()
			}
		}
		var order []string
		for _, revision := range slices.Sorted(maps.Keys(names)) {
			order = append(order, names[revision])
		}
		return order
	}
}

// TestEnableRightsizing says what it means, and with what one begins.
func TestEnableRightsizing(t *testing.T) {
	v := newVPAWorld(t)
	v.want(CodeOK, v.args("enable", "containerRightsizing", "--yes")...)
	v.contains(v.errOut, "nothing is changed until", "kind: RightsizingPolicy", "dryRun: true")
	v.policy("careful", `{level: BalancedPerformance}`, `{observedGeneration: 1}`)
	v.want(CodeOK, v.args("enable", "containerRightsizing", "--yes")...)
	v.contains(v.errOut, "careful (BalancedPerformance)")
	if strings.Contains(v.errOut.String(), "kubectl apply") {
		t.Errorf("there is a policy:\n%s", v.errOut)
	}
}

// TestUninstallLeavesNoSizedPodsSilently: as it is with karpenops.
func TestUninstallLeavesNoSizedPodsSilently(t *testing.T) {
	v := newVPAWorld(t)
	v.fill()
	v.want(CodeUsage, v.args("uninstall", "--yes")...)
	v.contains(v.errOut, "2 workloads whose pods (3)", "--no-revert")
	v.want(CodeOK, v.args("uninstall", "--yes", "--no-revert", "-o", "json")...)
	v.contains(v.errOut, "NOPS-CLI-003")
	var a uninstallAnswer
	must(t, json.Unmarshal([]byte(v.out.String()), &a))
	if a.Sized == nil || len(a.Sized.Workloads) != 2 || a.Leftovers != nil || len(v.engine.uninstalls) != 1 {
		t.Errorf("%+v, %d uninstalls", a, len(v.engine.uninstalls))
	}
}
