package install_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify/lock"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/ref/reftest"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// The images of the test chart.
const (
	heartbeat = "public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0"
	exporter  = "public.ecr.aws/nops/prom/node-exporter:v1.12.1"
)

func sum(c string) string { return "sha256:" + strings.Repeat(c, 64) }

// gate is an Admission that tests are written against: a registry whose tags can be moved, and who signed what when.
type gate struct {
	t       *testing.T
	tags    map[string]string    // reference by tag: digest
	signed  map[string]time.Time // digest: when
	refuses map[string]verdict.Reason
	mutes   map[string]bool // whose refusal gives no outcome
	warns   bool            // does not enforce
	basis   ref.Basis
	err     error
	asked   [][]string
	answer  func([]install.Decision) []install.Decision
}

func (w *world) gate() *gate {
	return &gate{t: w.t, tags: map[string]string{heartbeat: sum("a"), exporter: sum("b")}, signed: map[string]time.Time{}, refuses: map[string]verdict.Reason{}, mutes: map[string]bool{}}
}

var day = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func (g *gate) Admit(_ context.Context, images []ref.Reference) (install.AdmissionResult, error) {
	r := install.AdmissionResult{Enforced: !g.warns, Policy: strings.Repeat("0", 64)}
	var asked []string
	for _, i := range images {
		asked = append(asked, i.String())
		digest := i.Digest
		if digest == "" {
			digest = g.tags[i.String()]
		}
		reason, refused := g.refuses[i.String()]
		if digest == "" {
			reason, refused = verdict.NotFound, true
		}
		if refused {
			d := install.Decision{Outcome: string(reason.Outcome()), Reason: string(reason), Message: "the message about " + i.String(), Hint: reason.Hint()}
			if g.mutes[i.String()] {
				d.Outcome = ""
			}
			r.Images = append(r.Images, d)
			continue
		}
		f := ref.Facts{Given: i, Digest: digest, Basis: ref.ByPolicy, Outcome: string(verdict.Verified), Method: "aws-signer", Identity: "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops", SignedAt: day}
		if at, ok := g.signed[digest]; ok {
			f.SignedAt = at
		}
		if g.basis != "" {
			f.Basis, f.Outcome, f.Method, f.Identity, f.SignedAt = g.basis, string(verdict.Unsigned), "", "", time.Time{}
		}
		r.Images = append(r.Images, install.Decision{Admitted: reftest.Admit(g.t, f)})
	}
	g.asked = append(g.asked, asked)
	if g.answer != nil {
		r.Images = g.answer(r.Images)
	}
	return r, g.err
}

// deployed are the images of the two workloads as the API server has them.
func (w *world) deployed() map[string]string {
	w.t.Helper()
	found := map[string]string{}
	deployments, err := w.client.AppsV1().Deployments(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range deployments.Items {
		found[d.Name] = d.Spec.Template.Spec.Containers[0].Image
	}
	sets, err := w.client.AppsV1().DaemonSets(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range sets.Items {
		found[d.Name] = d.Spec.Template.Spec.Containers[0].Image
	}
	return found
}

func (w *world) lock() *lock.Lock {
	w.t.Helper()
	cm, err := w.client.CoreV1().ConfigMaps(w.namespace).Get(w.t.Context(), install.LockConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if cm.Labels["app.kubernetes.io/part-of"] != "nops-kubernetes-agent" || cm.Labels["app.kubernetes.io/instance"] != w.release {
		w.t.Errorf("labels of the lock: %v", cm.Labels)
	}
	l, err := lock.Read([]byte(cm.Data[lock.FileName]))
	if err != nil {
		w.t.Fatal(err)
	}
	return &l
}

func locked(l *lock.Lock) map[string]string {
	all := map[string]string{}
	if l != nil {
		for _, e := range l.Images {
			all[e.Reference] = e.Digest
		}
	}
	return all
}

// silent makes every write a failure.
func silent(t *testing.T, writes *atomic.Int32) func(*install.Options) {
	return func(o *install.Options) {
		o.Getter = tapped{RESTClientGetter: o.Getter, tap: func(r *http.Request) error {
			if r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "selfsubjectaccessreviews") && r.URL.Query().Get("dryRun") != "All" {
				writes.Add(1)
				t.Errorf("%s %s", r.Method, r.URL)
			}
			return nil
		}}
	}
}

// TestAdmittedIsWhatIsInstalled: what was looked at is in the cluster, in the release's record, in the plan and in the lock;
// a second installation asks again and does nothing.
func TestAdmittedIsWhatIsInstalled(t *testing.T) {
	w := newWorld(t)
	before := w.everything()
	g := w.gate()
	r := w.request()
	r.Admission, r.OwnImages = g, []string{"k8s-heartbeat-agent"}
	var resolved []string
	r.Images = install.ImageResolverFunc(func(_ context.Context, what string) (install.ImageInfo, error) {
		resolved = append(resolved, what)
		_, digest, pinned := strings.Cut(what, "@")
		if !pinned {
			digest = sum("f") // the tag has moved since it was admitted
		}
		return install.ImageInfo{Digest: digest, Labels: map[string]string{install.SourceLabel: install.SourceValue}}, nil
	})
	plan, err := w.engine().Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	g.tags[heartbeat], g.tags[exporter] = sum("e"), sum("e") // between plan and apply
	if _, err := w.engine().Apply(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"nops-heartbeat": heartbeat + "@" + sum("a"), "nops-node-exporter": exporter + "@" + sum("b")}
	if diff := cmp.Diff(want, w.deployed()); diff != "" {
		t.Errorf("in the cluster (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][]string{{heartbeat, exporter}}, g.asked); diff != "" {
		t.Errorf("asked once, by tag (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{heartbeat + "@" + sum("a")}, resolved); diff != "" {
		t.Errorf("the build's label is read of what was admitted, never of the tag (-want +got):\n%s", diff)
	}
	at := day
	shown := []install.PlannedImage{
		{Component: "heartbeat", Reference: heartbeat, Pinned: heartbeat + "@" + sum("a"), Digest: sum("a"), Basis: "policy", Outcome: "verified", Method: "aws-signer", Identity: "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops", SignedAt: &at},
		{Component: "node-exporter", Reference: exporter, Pinned: exporter + "@" + sum("b"), Digest: sum("b"), Basis: "policy", Outcome: "verified", Method: "aws-signer", Identity: "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops", SignedAt: &at},
	}
	if diff := cmp.Diff(shown, plan.Images); diff != "" {
		t.Errorf("in the plan (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{heartbeat: sum("a"), exporter: sum("b")}, locked(w.lock())); diff != "" {
		t.Errorf("in the lock (-want +got):\n%s", diff)
	}
	for id, says := range map[string]string{"NOPS-PRE-007": "2 images resolved", "NOPS-PRE-011": "2 images: 2 verified", "NOPS-PRE-012": ""} {
		if c := check(plan, id); c.Outcome != event.OK || !strings.Contains(c.Message, says) {
			t.Errorf("%s: %+v", id, c)
		}
	}
	manifest := w.helm("get", "manifest", w.release, "--namespace", w.namespace)
	images := 0
	for line := range strings.Lines(manifest) {
		if strings.Contains(line, " image: ") {
			images++
			if !strings.Contains(line, "@sha256:") {
				t.Errorf("helm get manifest: %s", line)
			}
		}
	}
	if images != 2 || !strings.Contains(manifest, "# Source: kubernetes-agent/templates/all.yaml") {
		t.Errorf("%d images in %s", images, manifest)
	}

	g.tags[heartbeat], g.tags[exporter] = sum("a"), sum("b")
	var writes atomic.Int32
	again, second := w.install(w.engine(silent(t, &writes)), r)
	if !again.NoOp || second.Outcome != event.Unchanged || writes.Load() > 0 {
		t.Errorf("a second install does nothing: %+v %+v", second, again.Changes)
	}
	if third, err := w.engine(func(o *install.Options) { o.Now = func() time.Time { return time.Now().Add(time.Hour) } }).Plan(t.Context(), r); err != nil || !third.NoOp || third.Digest != again.Digest {
		t.Errorf("neither does one an hour later: %v", err)
	}
	if _, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.everything()); diff != "" {
		t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
	}
}

// TestRefusals: one image that is refused stops everything before the first write, and all that is wrong is told at once.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		spoil        func(*gate)
		values       string
		label        string // of the build
		says         []string
		refused      int
	}{
		{name: "unsigned", reason: "the plain case", spoil: func(g *gate) { g.refuses[exporter] = verdict.NoSignature }, refused: 1, says: []string{exporter + ": unsigned (no-signature): the message about " + exporter}},
		{name: "all", reason: "every one is named", spoil: func(g *gate) {
			g.refuses[exporter], g.refuses[heartbeat] = verdict.SignatureRevoked, verdict.WrongIdentity
		}, refused: 2, says: []string{exporter + ": revoked (revoked)", heartbeat + ": untrusted (signed-by-somebody-else)"}},
		{name: "not there", reason: "what cannot be found is not verified either", spoil: func(g *gate) { delete(g.tags, exporter) }, refused: 1, says: []string{"could-not-check (not-found)", "NOPS-PRE-007"}},
		{name: "another check too", reason: "it is shown, and the exit code is that of verification", spoil: func(g *gate) { g.refuses[exporter] = verdict.NoSignature }, label: "https://example.com", refused: 1, says: []string{"unsigned", "is not a build of this project"}},
		{name: "no word for it", reason: "an outcome that is missing is not a good one", spoil: func(g *gate) { g.refuses[exporter], g.mutes[exporter] = verdict.NoSignature, true }, refused: 1, says: []string{exporter + ": could-not-check"}},
		{name: "no reference", reason: "nobody can be asked about it", spoil: func(*gate) {}, values: "heartbeat: {image: {repository: x//y}}", refused: 1, says: []string{"x//y:0.1.0: policy-error (not-a-reference)"}},
		{name: "anothers answer", reason: "an answer counts for what was asked", refused: 2, says: []string{"verification answered for"},
			spoil: func(g *gate) {
				g.answer = func(d []install.Decision) []install.Decision { slices.Reverse(d); return d }
			}},
		{name: "an answer too few", reason: "nothing is admitted then", says: []string{"asked about 2 images and answered for 1"},
			spoil: func(g *gate) { g.answer = func(d []install.Decision) []install.Decision { return d[:1] } }},
		{name: "good and not admitted", reason: "an outcome is not an admission", refused: 1, says: []string{": could-not-check"},
			spoil: func(g *gate) {
				g.answer = func(d []install.Decision) []install.Decision {
					return []install.Decision{{Outcome: string(verdict.Verified)}, d[1]}
				}
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.makeNamespace(nil)
			before := w.everything()
			g := w.gate()
			tt.spoil(g)
			r := w.request()
			r.Admission, r.OwnImages = g, []string{"k8s-heartbeat-agent"}
			if tt.values != "" {
				r.Values = values(t, tt.values)
			}
			r.Images = install.ImageResolverFunc(func(_ context.Context, what string) (install.ImageInfo, error) {
				_, digest, _ := strings.Cut(what, "@")
				label := install.SourceValue
				if tt.label != "" {
					label = tt.label
				}
				return install.ImageInfo{Digest: digest, Labels: map[string]string{install.SourceLabel: label}}, nil
			})
			var writes atomic.Int32
			e := w.engine(silent(t, &writes))
			plan, err := e.Plan(t.Context(), r)
			if class(err) != install.ClassVerification {
				t.Fatalf("%s: %v", tt.reason, err)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%s: no %q in %v", tt.reason, s, err)
				}
			}
			var refusal *install.VerificationError
			if errors.As(err, &refusal) {
				if len(refusal.Refused) != tt.refused || hint(err) == "" && tt.name != "good and not admitted" {
					t.Errorf("%+v (%s)", refusal.Refused, hint(err))
				}
				for _, i := range refusal.Refused {
					if len(i.Users) != 1 {
						t.Errorf("who would run it: %+v", i)
					}
				}
				if c := check(plan, "NOPS-PRE-011"); c.Outcome != event.Failed || c.Hint == "" && tt.name != "good and not admitted" {
					t.Errorf("%+v", c)
				}
			} else if tt.refused > 0 {
				t.Errorf("not a refusal: %v", err)
			}
			if _, err := e.Apply(t.Context(), plan); class(err) != install.ClassVerification {
				t.Errorf("a plan that was refused cannot be applied: %v", err)
			}
			if diff := cmp.Diff(before, w.everything()); diff != "" || writes.Load() > 0 {
				t.Errorf("something was written (-before +after):\n%s", diff)
			}
		})
	}
}

// TestAdmissionFails: a policy that cannot be read stops the plan as it says itself.
func TestAdmissionFails(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	g.err = &install.Error{Class: install.ClassUsage, Reason: "policy.yaml: line 3"}
	r := w.request()
	r.Admission = g
	if _, err := w.engine().Plan(t.Context(), r); class(err) != install.ClassUsage || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("%v", err)
	}
}

// TestWarnOnly: without enforcement nothing is refused, and what is known is pinned all the same.
func TestWarnOnly(t *testing.T) {
	w := newWorld(t)
	w.nodes(map[string]string{"kubernetes.io/os": "linux"})
	g := w.gate()
	g.warns, g.basis = true, ref.ByWarning
	r := w.request()
	r.Admission = g
	plan, _ := w.install(w.engine(), r)
	if c := check(plan, "NOPS-PRE-011"); c.Outcome != event.Warned || !strings.Contains(c.Message, heartbeat+": unsigned") || !strings.Contains(c.Message, exporter+": unsigned") {
		t.Errorf("%+v", c)
	}
	if d := w.deployed()["nops-heartbeat"]; d != heartbeat+"@"+sum("a") {
		t.Errorf("pinned to what was looked at: %s", d)
	}
	delete(g.tags, exporter)
	if _, err := w.engine().Plan(t.Context(), r); class(err) != install.ClassPreflight || !strings.Contains(err.Error(), "NOPS-PRE-007") {
		t.Errorf("one that is not there is a failed check, as without verification: %v", err)
	}
	g.basis, g.tags[exporter] = ref.ByException, sum("b")
	plan, err := w.engine().Plan(t.Context(), r)
	if c := check(plan, "NOPS-PRE-011"); err != nil || c.Outcome != event.Warned || !strings.Contains(c.Message, "2 excepted by the policy") {
		t.Errorf("%v %+v", err, c)
	}
}

// TestDriftIsMended: what somebody changed behind the release's back is no "unchanged", and the next installation undoes it.
func TestDriftIsMended(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.Admission = w.gate()
	w.install(w.engine(), r)
	want := w.deployed()
	deployments := w.client.AppsV1().Deployments(w.namespace)
	list, err := deployments.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		t.Fatal(err)
	}
	changed := list.Items[0]
	changed.Spec.Template.Spec.Containers[0].Image = "evil.example.com/x:1"
	if _, err := deployments.Update(t.Context(), &changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	plan, err := w.engine().Plan(t.Context(), r)
	if err != nil || plan.NoOp || !slices.ContainsFunc(plan.Changes, func(c install.Change) bool {
		return c.Action == install.Update && strings.Contains(c.Note, "evil.example.com/x:1")
	}) {
		t.Fatalf("%v %+v", err, plan.Changes)
	}
	w.install(w.engine(), r)
	if diff := cmp.Diff(want, w.deployed()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if plan, err := w.engine().Plan(t.Context(), r); err != nil || !plan.NoOp {
		t.Errorf("afterwards: %v %+v", err, plan.Changes)
	}
}

// TestPolicyLeftOut: a release that was installed with a policy takes no new image without one, unless that is meant.
func TestPolicyLeftOut(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.Admission = w.gate()
	w.install(w.engine(), r)
	r.Admission, r.Values = nil, values(t, "heartbeat: {image: {tag: other}}")
	_, err := w.engine().Plan(t.Context(), r)
	if class(err) != install.ClassVerification || !strings.Contains(err.Error(), "policy-left-out") || !strings.Contains(hint(err), "--policy") {
		t.Fatalf("%v (%s)", err, hint(err))
	}
	r.Unverified = true
	plan, err := w.engine().Plan(t.Context(), r)
	if err != nil || warning(plan, "NOPS-IMG-002").Message == "" {
		t.Errorf("on purpose: %v %+v", err, plan.Warnings)
	}
}

// TestPinsAreKept: without an Admission nothing is un-pinned, no registry is needed, and what is new is told of.
func TestPinsAreKept(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	r := w.request()
	r.Admission = g
	w.install(w.engine(), r)
	r.Admission = nil
	var writes atomic.Int32
	if plan, result := w.install(w.engine(silent(t, &writes)), r); !plan.NoOp || result.Outcome != event.Unchanged || plan.Images[0].Basis != install.BasisKept {
		t.Errorf("nothing changes: %+v %+v", plan.Changes, plan.Images)
	}
	toggle := func(on bool, a install.Admission) *install.Plan {
		t.Helper()
		plan, err := w.engine().Toggle(t.Context(), install.ToggleRequest{Component: "containerInsights", Enabled: on, Request: install.Request{Admission: a, Unverified: on && a == nil, Wait: true, Timeout: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.engine().Apply(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		return plan
	}
	plan := toggle(false, nil)
	if len(plan.Warnings) > 0 {
		t.Errorf("%+v", plan.Warnings)
	}
	if diff := cmp.Diff(map[string]string{"nops-heartbeat": heartbeat + "@" + sum("a")}, w.deployed()); diff != "" {
		t.Errorf("disabled (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{heartbeat: sum("a")}, locked(w.lock())); diff != "" || w.lock().Policy == "" {
		t.Errorf("the lock says what the release has (-want +got):\n%s", diff)
	}
	for _, c := range plan.Changes {
		if strings.HasPrefix(c.Object, "Deployment ") && c.Action != install.Unchanged {
			t.Errorf("the other component is left alone: %+v", c)
		}
	}
	// Enabled unverified, on purpose: it is told that the new image is a tag.
	plan = toggle(true, nil)
	if k := warning(plan, "NOPS-IMG-002"); !strings.Contains(k.Message, exporter) || strings.Contains(k.Message, heartbeat) || k.Hint == "" {
		t.Errorf("%+v", plan.Warnings)
	}
	if diff := cmp.Diff(map[string]string{"nops-heartbeat": heartbeat + "@" + sum("a"), "nops-node-exporter": exporter}, w.deployed()); diff != "" {
		t.Errorf("enabled (-want +got):\n%s", diff)
	}
	toggle(false, nil)
	// With an Admission: the new image is looked at by tag, what runs by its digest, though its tag has moved.
	g.tags[heartbeat], g.asked = sum("e"), nil
	plan = toggle(true, g)
	if diff := cmp.Diff([][]string{{heartbeat + "@" + sum("a"), exporter}}, g.asked); diff != "" || len(plan.Warnings) > 0 {
		t.Errorf("%+v (-want +got):\n%s", plan.Warnings, diff)
	}
	if diff := cmp.Diff(map[string]string{"nops-heartbeat": heartbeat + "@" + sum("a"), "nops-node-exporter": exporter + "@" + sum("b")}, w.deployed()); diff != "" {
		t.Errorf("enabled (-want +got):\n%s", diff)
	}
	g.tags[heartbeat] = sum("a")
	r.Admission = g
	if again, err := w.engine().Plan(t.Context(), r); err != nil || !again.NoOp {
		t.Errorf("whether it was asked for by tag or by digest leaves no trace: %v %+v", err, again.Changes)
	}
	g.refuses[exporter+"@"+sum("b")] = verdict.SignatureRevoked
	if _, err := w.engine().Toggle(t.Context(), install.ToggleRequest{Component: "heartbeat", Force: true, Request: install.Request{Admission: g}}); class(err) != install.ClassVerification {
		t.Errorf("a switch is refused like an installation: %v", err)
	}
}

// TestDowngrade: an old version with its old and good signature is not a new one.
func TestDowngrade(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	r := w.request()
	r.Admission = g
	g.signed[sum("a")], g.signed[sum("c")], g.signed[sum("d")] = day, day.Add(-24*time.Hour), day.Add(24*time.Hour)
	w.install(w.engine(), r)

	g.tags[heartbeat] = sum("c")
	plan, err := w.engine().Plan(t.Context(), r)
	if class(err) != install.ClassVerification || !strings.Contains(err.Error(), "(downgrade)") || !strings.Contains(err.Error(), heartbeat) || strings.Contains(err.Error(), exporter) || !strings.Contains(hint(err), "--allow-downgrade") {
		t.Fatalf("%v (%s)", err, hint(err))
	}
	if k := warning(plan, "NOPS-IMG-001"); !strings.Contains(k.Message, heartbeat+" was "+sum("a")) {
		t.Errorf("that the tag moved is told, too: %+v", plan.Warnings)
	}
	g.warns = true
	if plan, err = w.engine().Plan(t.Context(), r); err != nil || !strings.Contains(warning(plan, "NOPS-IMG-003").Message, "signed") {
		t.Errorf("not enforced, it is a warning: %v %+v", err, plan.Warnings)
	}
	g.warns = false
	g.tags[heartbeat] = sum("d")
	plan, _ = w.install(w.engine(), r)
	if k := warning(plan, "NOPS-IMG-001"); k.Message == "" || warning(plan, "NOPS-IMG-003").Message != "" {
		t.Errorf("newer: %+v", plan.Warnings)
	}
	if locked(w.lock())[heartbeat] != sum("d") {
		t.Errorf("lock: %v", locked(w.lock()))
	}
	// One without a time, accepted on somebody's word, does not make the time before it forgotten.
	g.warns, g.basis, g.tags[heartbeat] = true, ref.ByWarning, sum("e")
	w.install(w.engine(), r)
	g.warns, g.basis, g.tags[heartbeat] = false, "", sum("a")
	if _, err := w.engine().Plan(t.Context(), r); class(err) != install.ClassVerification || !strings.Contains(err.Error(), "(downgrade)") {
		t.Errorf("an old version after an unsigned one: %v", err)
	}
	g.tags[heartbeat] = sum("d")
	w.install(w.engine(), r)
	// A component that was switched off meanwhile is not forgotten.
	r.Values = values(t, "heartbeat: {enabled: false}")
	w.install(w.engine(), r)
	if diff := cmp.Diff(map[string]string{exporter: sum("b")}, locked(w.lock())); diff != "" {
		t.Errorf("the lock says nothing of what does not run (-want +got):\n%s", diff)
	}
	r.Values = values(t, "heartbeat: {enabled: true}")
	g.tags[heartbeat] = sum("a")
	if _, err := w.engine().Plan(t.Context(), r); class(err) != install.ClassVerification || !strings.Contains(err.Error(), "(downgrade)") {
		t.Errorf("%v", err)
	}
	r.AllowDowngrade = true
	plan, _ = w.install(w.engine(), r)
	if k := warning(plan, "NOPS-IMG-003"); k.Message == "" || locked(w.lock())[heartbeat] != sum("a") {
		t.Errorf("on purpose: %+v", plan.Warnings)
	}
	r.AllowDowngrade = false
	if plan, err := w.engine().Plan(t.Context(), r); err != nil || !plan.NoOp {
		t.Errorf("what was accepted on purpose stays accepted: %v", err)
	}
}

// TestChartDowngrade: the chart is guarded as its images are, though nobody asks the Admission about it.
func TestChartDowngrade(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	r := w.request()
	r.Admission = g
	chart := func(digest string, signed time.Time) ref.Admitted {
		f := ref.Facts{Given: parsed(t, "public.ecr.aws/nops/kubernetes-agent:1"), Digest: sum(digest), Basis: ref.ByPolicy, Outcome: string(verdict.Verified), SignedAt: signed}
		if signed.IsZero() {
			f.Basis, f.Outcome = ref.ByWarning, string(verdict.Unsigned)
		}
		return reftest.Admit(t, f)
	}
	refused := func(name string) {
		t.Helper()
		if _, err := w.engine().Plan(t.Context(), r); class(err) != install.ClassVerification || !strings.Contains(err.Error(), "public.ecr.aws/nops/kubernetes-agent:1") || !strings.Contains(err.Error(), "(downgrade)") || !strings.Contains(hint(err), "--allow-downgrade") {
			t.Errorf("%s: %v (%s)", name, err, hint(err))
		}
	}
	r.ChartArtifact = chart("1", day)
	w.install(w.engine(), r)
	if l := w.lock(); l.Chart.Artifact == nil || l.Chart.Artifact.Digest != sum("1") || !l.Chart.Artifact.SignedAt.Equal(day) {
		t.Fatalf("%+v", l.Chart)
	}
	r.ChartArtifact = chart("2", day.Add(-time.Hour))
	refused("an old chart")
	r.ChartArtifact = ref.Admitted{} // the one inside nopsctl, between two of a registry's
	w.install(w.engine(), r)
	r.ChartArtifact = chart("2", day.Add(-time.Hour))
	refused("an old chart after one without an artifact")
	g.warns, r.ChartArtifact = true, chart("3", time.Time{})
	w.install(w.engine(), r)
	g.warns, r.ChartArtifact = false, chart("2", day.Add(-time.Hour))
	refused("an old chart after an unsigned one")
	r.AllowDowngrade = true
	if plan, _ := w.install(w.engine(), r); !strings.Contains(warning(plan, "NOPS-IMG-003").Message, "kubernetes-agent") {
		t.Errorf("on purpose: %+v", plan.Warnings)
	}
	r.AllowDowngrade = false
	if _, err := w.engine().Plan(t.Context(), r); err != nil {
		t.Errorf("what was accepted on purpose stays accepted: %v", err)
	}
	// Under a lock, a chart that the lock does not have is refused like an image.
	given, err := lock.New([]ref.Admitted{reftest.Admit(t, ref.Facts{Given: parsed(t, heartbeat), Digest: sum("a")}), reftest.Admit(t, ref.Facts{Given: parsed(t, exporter), Digest: sum("b")})}, lock.Made{Chart: chart("1", day)})
	if err != nil {
		t.Fatal(err)
	}
	r.Lock = &given
	if _, err := w.engine().Plan(t.Context(), r); class(err) != install.ClassVerification || !strings.Contains(err.Error(), "kubernetes-agent:1: policy-error (not-in-lock)") {
		t.Errorf("another chart than the lock's: %v", err)
	}
}

// TestLockFollowsTheRelease: it says what the release declares, whoever works on it, and a revision that failed accepts nothing.
func TestLockFollowsTheRelease(t *testing.T) {
	w := newWorld(t)
	w.makeNamespace(nil)
	g := w.gate()
	r := w.request()
	r.Admission = g
	g.signed[sum("a")], g.signed[sum("d")] = day, day.Add(24*time.Hour)
	w.install(w.engine(), r)

	// An upgrade that does not become ready.
	ns, err := w.client.CoreV1().Namespaces().Get(t.Context(), w.namespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	brake := func(on string) {
		t.Helper()
		ns.Labels[brokenNamespace] = on
		if on == "" {
			delete(ns.Labels, brokenNamespace)
		}
		if ns, err = w.client.CoreV1().Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.pass()
	}
	brake("yes")
	g.tags[heartbeat] = sum("d")
	r.Timeout = 2 * time.Second
	plan, err := w.engine().Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.engine().Apply(t.Context(), plan); class(err) != install.ClassTimeout {
		t.Fatal(err)
	}
	brake("")
	g.tags[heartbeat], r.Timeout = sum("a"), time.Minute
	if plan, _ := w.install(w.engine(), r); warning(plan, "NOPS-IMG-003").Message != "" {
		t.Errorf("back to what worked: %+v", plan.Warnings)
	}
	if locked(w.lock())[heartbeat] != sum("a") {
		t.Errorf("lock: %v", locked(w.lock()))
	}
	g.tags[heartbeat] = sum("d")
	w.install(w.engine(), r)
	// helm's own rollback brings pins and lock of that revision.
	w.helm("rollback", w.release, "3", "--namespace", w.namespace)
	if diff := cmp.Diff(map[string]string{heartbeat: sum("a"), exporter: sum("b")}, locked(w.lock())); diff != "" || w.deployed()["nops-heartbeat"] != heartbeat+"@"+sum("a") {
		t.Errorf("%v (-want +got):\n%s", w.deployed(), diff)
	}
	// helm's own upgrade pins nothing, so there is no lock; the guard remembers.
	w.helm("upgrade", w.release, w.chart, "--namespace", w.namespace, "--reuse-values", "--skip-schema-validation")
	if w.lock() != nil || w.deployed()["nops-heartbeat"] != heartbeat {
		t.Errorf("%v %v", w.deployed(), w.lock())
	}
	g.tags[heartbeat] = sum("c")
	g.signed[sum("c")] = day.Add(-time.Hour)
	if _, err := w.engine().Plan(t.Context(), r); class(err) != install.ClassVerification || !strings.Contains(err.Error(), "(downgrade)") {
		t.Errorf("%v", err)
	}
	g.tags[heartbeat] = sum("a")
	if _, result := w.install(w.engine(), r); result.Outcome != event.OK || w.deployed()["nops-heartbeat"] != heartbeat+"@"+sum("a") {
		t.Errorf("a release of helm's is pinned: %+v %v", result, w.deployed())
	}
	w.helm("uninstall", w.release, "--namespace", w.namespace)
	if w.lock() != nil {
		t.Error("helm uninstall leaves the lock")
	}
}

// TestGivenLock: an installation under a lock is one of exactly what the lock holds.
func TestGivenLock(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	r := w.request()
	r.Admission = g
	given, err := lock.New([]ref.Admitted{reftest.Admit(t, ref.Facts{Given: parsed(t, heartbeat), Digest: sum("c"), SignedAt: day}), reftest.Admit(t, ref.Facts{Given: parsed(t, exporter), Digest: sum("b")})}, lock.Made{})
	if err != nil {
		t.Fatal(err)
	}
	r.Lock = &given
	w.install(w.engine(), r)
	if diff := cmp.Diff([][]string{{heartbeat + "@" + sum("c"), exporter + "@" + sum("b")}}, g.asked); diff != "" {
		t.Errorf("whatever tags mean by now (-want +got):\n%s", diff)
	}
	if w.deployed()["nops-heartbeat"] != heartbeat+"@"+sum("c") {
		t.Errorf("%v", w.deployed())
	}
	given.Images = given.Images[:1]
	for _, warns := range []bool{false, true} {
		g.warns = warns
		_, err = w.engine().Plan(t.Context(), r)
		if class(err) != install.ClassVerification || !strings.Contains(err.Error(), exporter+": policy-error (not-in-lock)") || strings.Contains(err.Error(), heartbeat+":") || hint(err) == "" {
			t.Errorf("enforced %v: %v (%s)", !warns, err, hint(err))
		}
	}
	r.Admission = nil
	if _, err = w.engine().Plan(t.Context(), r); class(err) != install.ClassUsage {
		t.Errorf("a lock without anybody to ask: %v", err)
	}
}

func parsed(t *testing.T, s string) ref.Reference {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// chartWith is the test chart with other files.
func chartWith(t *testing.T, files map[string]string) fstest.MapFS {
	t.Helper()
	all := fstest.MapFS{}
	for name, data := range readDir(t, "testdata/chart") {
		all[name] = &fstest.MapFile{Data: data}
	}
	for name, text := range files {
		all[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return all
}

func job(annotations, image string) string {
	return "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: sneaky\n  annotations: {" + annotations + "}\nspec:\n  template:\n    spec:\n      restartPolicy: Never\n      containers: [{name: x, image: \"" + image + "\"}]\n"
}

// TestWaysAroundPins: what Helm applies without its post-renderer, and what a chart renders only when it is applied.
func TestWaysAroundPins(t *testing.T) {
	const evil = "evil.example/miner:1"
	pinned := evil + "@" + sum("e")
	for _, tt := range []struct {
		name, reason string
		files        map[string]string
		passes       bool
		says         string
	}{
		{"hook", "Helm 3 does not post-render hooks", map[string]string{"templates/hook.yaml": job(`"helm.sh/hook": pre-install`, evil)}, false, "hooks (kubernetes-agent/templates/hook.yaml) come to the cluster as the chart has them"},
		{"test hook", "helm test runs it", map[string]string{"templates/hook.yaml": job(`"helm.sh/hook": test`, evil)}, false, "hooks ("},
		{"hook by digest", "the chart pins it itself, and it is verified", map[string]string{"templates/hook.yaml": job(`"helm.sh/hook": test`, pinned)}, true, ""},
		{"crds", "Helm applies whatever is there, as it is", map[string]string{"crds/job.yaml": job("", evil)}, false, "objects in crds/ (kubernetes-agent/crds/job.yaml) come"},
		{"list", "a list of objects is objects", map[string]string{"templates/list.yaml": "apiVersion: v1\nkind: List\nitems:\n  - " + strings.ReplaceAll(strings.TrimSpace(job("", evil)), "\n", "\n    ") + "\n"}, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			g := w.gate()
			g.tags[evil] = sum("e")
			r := w.request()
			r.Admission, r.Wait = g, false
			e := w.engine(func(o *install.Options) { o.Chart = chartWith(t, tt.files) })
			plan, err := e.Plan(t.Context(), r)
			if !slices.ContainsFunc(slices.Concat(g.asked...), func(s string) bool { return strings.HasPrefix(s, evil) }) {
				t.Errorf("%s: nobody was asked about it: %v", tt.reason, g.asked)
			}
			if !tt.passes {
				if class(err) != install.ClassVerification || !strings.Contains(err.Error(), tt.says) || !strings.Contains(hint(err), "pin it by digest") {
					t.Fatalf("%s: %v (%s)", tt.reason, err, hint(err))
				}
				g.warns = true
				if plan, err = e.Plan(t.Context(), r); err != nil || !strings.Contains(warning(plan, "NOPS-IMG-002").Message, evil) {
					t.Errorf("not enforced, it is a warning: %v %+v", err, plan.Warnings)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tt.reason, err)
			}
			if _, err := e.Apply(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			jobs, err := w.client.BatchV1().Jobs(w.namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, j := range jobs.Items {
				if j.Spec.Template.Spec.Containers[0].Image != pinned {
					t.Errorf("%s: %s", tt.reason, j.Spec.Template.Spec.Containers[0].Image)
				}
			}
			if want := map[bool]int{true: 1, false: 0}[tt.name == "list"]; len(jobs.Items) != want {
				t.Errorf("%d jobs", len(jobs.Items))
			}
			if again, err := e.Plan(t.Context(), r); err != nil || !again.NoOp {
				t.Errorf("a second install is a no-op: %v %+v", err, again.Changes)
			}
		})
	}
	t.Run("rendered when applied", func(t *testing.T) {
		w := newWorld(t)
		w.makeNamespace(nil)
		g := w.gate()
		g.tags[evil] = sum("e")
		r := w.request()
		r.Admission = g
		lookup := `{{ if lookup "v1" "ConfigMap" .Release.Namespace "trigger" }}` + "\n" + job("", "evil.example/miner:2") + "{{ end }}\n"
		e := w.engine(func(o *install.Options) { o.Chart = chartWith(t, map[string]string{"templates/later.yaml": lookup}) })
		plan, err := e.Plan(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.client.CoreV1().ConfigMaps(w.namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "trigger"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err = e.Apply(t.Context(), plan); err == nil || !strings.Contains(err.Error(), "renders evil.example/miner:2 now") {
			t.Fatalf("%v", err)
		}
		if len(w.deployed()) > 0 {
			t.Errorf("something runs: %v", w.deployed())
		}
	})
}

// TestSuspects: what programs are told to run is verified and pinned, too; what stands where it cannot be pinned is told of.
func TestSuspects(t *testing.T) {
	const sidecar, other = "quay.io/operator/reloader:v1.2.3", "quay.io/operator/other:v4.5.6"
	pod := `apiVersion: apps/v1
kind: Deployment
metadata: {name: operator}
spec:
  selector: {matchLabels: {app: operator}}
  template:
    metadata: {labels: {app: operator}}
    spec:
      containers:
        - {name: operator, image: "` + heartbeat + `", args: ["--config-reloader=` + sidecar + `"], env: [{name: RELATED_IMAGE_X, value: "` + sidecar + `"}]}
`
	configured := "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {sidecar.yaml: \"image: " + other + "\"}\n"
	w := newWorld(t)
	g := w.gate()
	g.tags[sidecar] = sum("c")
	r := w.request()
	r.Admission = g
	e := func() *install.Engine {
		return w.engine(func(o *install.Options) {
			o.Chart = chartWith(t, map[string]string{"templates/x.yaml": pod + configured})
		})
	}
	plan, _ := w.install(e(), r)
	if k := warning(plan, "NOPS-IMG-004"); !strings.Contains(k.Message, other) || strings.Contains(k.Message, sidecar) {
		t.Errorf("%+v", plan.Warnings)
	}
	d, err := w.client.AppsV1().Deployments(w.namespace).Get(t.Context(), "operator", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := d.Spec.Template.Spec.Containers[0]
	if c.Args[0] != "--config-reloader="+sidecar+"@"+sum("c") || c.Env[0].Value != sidecar+"@"+sum("c") || c.Image != heartbeat+"@"+sum("a") {
		t.Errorf("%+v", c)
	}
	if locked(w.lock())[sidecar] != sum("c") {
		t.Errorf("lock: %v", locked(w.lock()))
	}
	g.refuses[sidecar] = verdict.NoSignature
	if _, err := e().Plan(t.Context(), r); class(err) != install.ClassVerification || !strings.Contains(err.Error(), sidecar+": unsigned") {
		t.Errorf("an image that is there and unsigned: %v", err)
	}
	delete(g.refuses, sidecar)
	delete(g.tags, sidecar)
	if plan, err := e().Plan(t.Context(), r); err != nil || !strings.Contains(warning(plan, "NOPS-IMG-004").Message, sidecar) {
		t.Errorf("what no registry has may be no image: %v %+v", err, plan.Warnings)
	}
}

// TestUpdaterUndoesPins holds the whole chart: the nightly updater would put tags in the place of what was verified.
func TestUpdaterUndoesPins(t *testing.T) {
	w, _, engine := completed(t)
	r := w.request()
	r.Values = values(t, updaterAlone)
	g := w.gate()
	r.Admission = install.AdmissionFunc(func(ctx context.Context, images []ref.Reference) (install.AdmissionResult, error) {
		for _, i := range images {
			g.tags[i.String()] = sum("a")
		}
		return g.Admit(ctx, images)
	})
	plan, err := engine().Plan(t.Context(), r)
	c := check(plan, "NOPS-PRE-012")
	if class(err) != install.ClassPreflight || c.Outcome != event.Failed || !strings.Contains(c.Message, "nops-image-tag-updater") || !strings.Contains(c.Hint, "--set autoUpdater.enabled=false") {
		t.Fatalf("%v %+v", err, c)
	}
	if c := check(plan, "NOPS-PRE-011"); c.Outcome != event.OK {
		t.Errorf("%+v", c)
	}
	g.warns = true
	if plan, err = engine().Plan(t.Context(), r); err != nil || check(plan, "NOPS-PRE-012").Outcome != event.Warned {
		t.Errorf("not enforced: %v %+v", err, check(plan, "NOPS-PRE-012"))
	}
	g.warns = false
	r.Values = overlaid(values(t, updaterAlone), values(t, "autoUpdater: {enabled: false}"))
	if plan, err = engine().Plan(t.Context(), r); err != nil || check(plan, "NOPS-PRE-012").Outcome != event.OK {
		t.Errorf("switched off: %v %+v", err, check(plan, "NOPS-PRE-012"))
	}
}

// TestEnforcedWhereNothingRuns: an image that no node would run now is verified, too, or left out.
func TestEnforcedWhereNothingRuns(t *testing.T) {
	w, engine := embedded(t)
	w.nodes(map[string]string{"kubernetes.io/os": "linux"})
	r := w.request()
	r.Values = ampValues()
	g := w.gate()
	r.Admission = install.AdmissionFunc(func(ctx context.Context, images []ref.Reference) (install.AdmissionResult, error) {
		for _, i := range images {
			if !strings.Contains(i.Repository, "dcgm") {
				g.tags[i.String()] = sum("a")
			}
		}
		return g.Admit(ctx, images)
	})
	plan, err := engine().Plan(t.Context(), r)
	if class(err) != install.ClassVerification || !strings.Contains(err.Error(), "dcgm-exporter") || !strings.Contains(hint(err), "--set dcgmExporter.enabled=false") {
		t.Errorf("%v (%s)", err, hint(err))
	}
	if c := check(plan, "NOPS-PRE-007"); c.Outcome != event.Failed {
		t.Errorf("%+v", c)
	}
	r.Values = overlaid(ampValues(), values(t, "dcgmExporter: {enabled: false}"))
	if _, err := engine().Plan(t.Context(), r); err != nil {
		t.Errorf("left out: %v", err)
	}
	g.warns, r.Values = true, ampValues()
	plan, err = engine().Plan(t.Context(), r)
	if c := check(plan, "NOPS-PRE-007"); err != nil || c.Outcome != event.Warned || !strings.Contains(c.Message, "no node here would run") {
		t.Errorf("not enforced: %v %+v", err, c)
	}
}

// TestAdoptedReleaseIsPinned: a release of helm's is taken over and pinned by the same command.
func TestAdoptedReleaseIsPinned(t *testing.T) {
	w := newWorld(t)
	w.helm("upgrade", "-i", w.release, w.chart, "--namespace", w.namespace, "--create-namespace", "--skip-schema-validation", "--set", "nops.apiKey="+apiKey,
		"--set", "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN="+arn)
	r := w.request()
	r.Credentials, r.Admission = nil, w.gate()
	plan, result := w.install(w.engine(), r)
	if result.Outcome != event.OK || warning(plan, "NOPS-IMG-001").Message != "" {
		t.Errorf("%+v %+v", result, plan.Warnings)
	}
	if diff := cmp.Diff(map[string]string{"nops-heartbeat": heartbeat + "@" + sum("a"), "nops-node-exporter": exporter + "@" + sum("b")}, w.deployed()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again, err := w.engine().Plan(t.Context(), r); err != nil || !again.NoOp {
		t.Errorf("a second install is a no-op: %v", err)
	}
}

// TestRequestSaysWhetherItVerifies, and marshals.
func TestRequestSaysWhetherItVerifies(t *testing.T) {
	data, err := json.Marshal(install.Request{Admission: install.AdmissionFunc(nil), AllowDowngrade: true})
	if err != nil || !bytes.Contains(data, []byte(`"admission":true`)) || !bytes.Contains(data, []byte(`"allow_downgrade":true`)) {
		t.Errorf("%v %s", err, data)
	}
}

// TestLiveImages reads what the release declares and what its pods run.
func TestLiveImages(t *testing.T) {
	w := newWorld(t)
	if _, err := w.engine().LiveImages(t.Context()); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("%v", err)
	}
	r := w.request()
	r.Admission = w.gate()
	w.install(w.engine(), r)
	for name, tt := range map[string]struct {
		labels  map[string]string
		imageID string
	}{
		"nops-heartbeat-1": {map[string]string{"app.kubernetes.io/instance": w.release, "app.kubernetes.io/component": "heartbeat", "app.kubernetes.io/part-of": "nops-kubernetes-agent"}, "public.ecr.aws/nops/k8s-heartbeat-agent@" + sum("9")},
		"nops-heartbeat-2": {map[string]string{"app.kubernetes.io/instance": w.release, "app.kubernetes.io/component": "heartbeat"}, sum("8")},
		"nops-heartbeat-3": {map[string]string{"app.kubernetes.io/instance": w.release}, ""},
		"somebody-else":    {map[string]string{"app": "x"}, "x@" + sum("7")},
	} {
		pod, err := w.client.CoreV1().Pods(w.namespace).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: tt.labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: heartbeat}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "c", ImageID: tt.imageID}}}
		if _, err := w.client.CoreV1().Pods(w.namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	live, err := w.engine(func(o *install.Options) { o.Chart = nil }).LiveImages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]string{}
	for _, d := range live.Declared {
		declared[d.Reference] = d.Component + " " + d.Digest + " " + strings.Join(d.Users, ",")
	}
	if diff := cmp.Diff(map[string]string{
		heartbeat + "@" + sum("a"): "heartbeat " + sum("a") + " Deployment " + w.namespace + "/nops-heartbeat",
		exporter + "@" + sum("b"):  "node-exporter " + sum("b") + " DaemonSet " + w.namespace + "/nops-node-exporter",
	}, declared); diff != "" || live.Revision != 1 || live.Status != "deployed" {
		t.Errorf("%+v (-want +got):\n%s", live, diff)
	}
	running := map[string]string{}
	for _, r := range live.Running {
		running[strings.TrimPrefix(r.Pod, w.namespace+"/")] = fmt.Sprintf("%s|%s|%s", r.Reference, r.ImageID, r.Digest)
	}
	if diff := cmp.Diff(map[string]string{
		"nops-heartbeat-1": heartbeat + "|public.ecr.aws/nops/k8s-heartbeat-agent@" + sum("9") + "|" + sum("9"),
		"nops-heartbeat-2": heartbeat + "|" + sum("8") + "|", // of the configuration
		"nops-heartbeat-3": heartbeat + "||",
	}, running); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRenderedImages lists the images of every published form of the chart without a cluster.
func TestRenderedImages(t *testing.T) {
	v := overlaid(ampValues(), values(t, `
containerInsights: {env_variables: {APP_NOPS_K8S_AGENT_CLUSTER_ARN: "`+arn+`"}, ampAccessKey: x, ampSecretKey: s}
nops: {apiKey: z}
`))
	whole, err := install.RenderedImages(complete(t), overlaid(v, values(t, everyComponent)))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, i := range whole {
		if i.Reference == "" || i.Component == "" || i.Digest != "" {
			t.Errorf("%+v", i)
		}
		names[i.Component] = true
	}
	if len(names) < 8 || !names["heartbeat"] || !names["image-tag-updater"] || !slices.IsSortedFunc(whole, func(a, b install.PlannedImage) int { return strings.Compare(a.Reference, b.Reference) }) {
		t.Errorf("%v", slices.Sorted(maps.Keys(names)))
	}
	if _, err := install.RenderedImages(complete(t), nil); class(err) != install.ClassUsage {
		t.Errorf("what the chart demands is demanded: %v", err)
	}
	if _, err := install.RenderedImages(fstest.MapFS{"x": {}}, nil); err == nil {
		t.Error("no chart")
	}
}
