package install_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// imageOf is the image of the one workload among a component's objects.
func imageOf(t *testing.T, c *install.ComponentObjects) string {
	t.Helper()
	var found []string
	for _, o := range c.Objects {
		if component := o.GetLabels()["app.kubernetes.io/component"]; component != "node-exporter" {
			t.Errorf("%s %s belongs to %s", o.GetKind(), o.GetName(), component)
		}
		containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range containers {
			image, _, _ := unstructured.NestedString(c.(map[string]any), "image")
			found = append(found, image)
		}
	}
	if len(found) != 1 || len(c.Images) != 1 {
		t.Fatalf("containers with %v, images %+v", found, c.Images)
	}
	return found[0]
}

// TestComponentObjects: what a component's program would be run as, switched on or not, is what the release runs or a switch would install; nobody is
// asked about anything else, and nothing is written.
func TestComponentObjects(t *testing.T) {
	w := newWorld(t)
	var writes atomic.Int32
	ask := func(r install.ComponentRequest) (*install.ComponentObjects, error) {
		t.Helper()
		return w.engine(silent(t, &writes)).ComponentObjects(t.Context(), r)
	}
	insights := install.ComponentRequest{Component: "containerInsights"}
	var absent *install.NotInstalledError
	if _, err := ask(insights); !errors.As(err, &absent) {
		t.Errorf("not installed: %v", err)
	}
	g := w.gate()
	r := w.request()
	r.Admission = g
	w.install(w.engine(), r)
	g.asked = nil

	got, err := ask(insights)
	if err != nil || !got.Enabled || !got.Pinned || got.ChartVersion == "" || imageOf(t, got) != exporter+"@"+sum("b") || got.Images[0].Basis != install.BasisKept {
		t.Errorf("as it runs: %+v, %v", got, err)
	}
	for _, name := range []string{"karpenops", "nonsense"} { // the chart of the tests has no karpenops
		if _, err := ask(install.ComponentRequest{Component: name}); class(err) != install.ClassUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.pend("pending-upgrade") // somebody is at it: that keeps nobody from looking
	if _, err := ask(insights); err != nil {
		t.Errorf("pending: %v", err)
	}
	r.Recover = true
	w.install(w.engine(), r)
	r.Recover = false

	plan, err := w.engine().Toggle(t.Context(), install.ToggleRequest{Component: "containerInsights", Request: install.Request{Wait: true, Timeout: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.engine().Apply(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	g.asked = nil
	g.tags[exporter] = sum("c") // moved since
	if got, err := ask(insights); err != nil || got.Enabled || !got.Pinned || imageOf(t, got) != exporter+"@"+sum("b") {
		t.Errorf("switched off, what was accepted before counts, not what the tag means by now: %+v, %v", got, err)
	}
	insights.Admission = g
	if got, err := ask(insights); err != nil || imageOf(t, got) != exporter+"@"+sum("b") {
		t.Errorf("verified anew: %+v, %v", got, err)
	}
	if diff := cmp.Diff([][]string{{exporter + "@" + sum("b")}}, g.asked); diff != "" {
		t.Errorf("asked about (-want +got):\n%s", diff)
	}
	g.refuses[exporter+"@"+sum("b")] = verdict.SignatureRevoked
	if _, err := ask(insights); class(err) != install.ClassVerification || !strings.Contains(err.Error(), exporter) {
		t.Errorf("revoked meanwhile: %v", err)
	}
	if n := writes.Load(); n != 0 {
		t.Errorf("%d writes", n)
	}
}

// TestComponentObjectsThatNobodyAccepted: an image that is new in a release with a policy needs the policy, as when its component is switched on.
func TestComponentObjectsThatNobodyAccepted(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	r := w.request()
	r.Admission, r.Values = g, map[string]any{"containerInsights": map[string]any{"enabled": false}}
	w.install(w.engine(), r)
	insights := install.ComponentRequest{Component: "containerInsights"}
	if _, err := w.engine().ComponentObjects(t.Context(), insights); class(err) != install.ClassVerification || !strings.Contains(err.Error(), "no policy is given now") {
		t.Errorf("without the policy: %v", err)
	}
	insights.Unverified = true
	if got, err := w.engine().ComponentObjects(t.Context(), insights); err != nil || imageOf(t, got) != exporter {
		t.Errorf("unverified, as was asked for: %+v, %v", got, err)
	}
	insights.Unverified, insights.Admission = false, g
	if got, err := w.engine().ComponentObjects(t.Context(), insights); err != nil || imageOf(t, got) != exporter+"@"+sum("b") {
		t.Errorf("with the policy: %+v, %v", got, err)
	}
}

// TestComponentObjectsWithoutPins: of a release that pins nothing nothing is pinned, and whoever keeps it otherwise makes no difference to looking.
func TestComponentObjectsWithoutPins(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	secrets := w.client.CoreV1().Secrets(w.namespace)
	records, err := secrets.List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm,name=" + w.release})
	if err != nil || len(records.Items) != 1 {
		t.Fatalf("%d records, %v", len(records.Items), err)
	}
	record := records.Items[0].DeepCopy()
	record.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": "agents:/Secret:x/y"}
	if _, err := secrets.Update(t.Context(), record, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := w.engine().ComponentObjects(t.Context(), install.ComponentRequest{Component: "containerInsights"})
	if err != nil || got.Pinned || imageOf(t, got) != exporter {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestUninstallRemovesWhatWasMadeForJobs: permissions that a killed nopsctl left go with the release; those of another installation stay.
func TestUninstallRemovesWhatWasMadeForJobs(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	roles := w.client.RbacV1().ClusterRoles()
	for name, namespace := range map[string]string{w.release + "-ours": w.namespace, w.release + "-theirs": "elsewhere", w.release + "-nobodys": ""} {
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "nopsctl", "app.kubernetes.io/part-of": "nops-kubernetes-agent"}}}
		if namespace != "" {
			role.Annotations = map[string]string{install.ForJobAnnotation: namespace + "/some-job"}
		}
		if _, err := roles.Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{"-ours": false, "-theirs": true, "-nobodys": true} {
		_, err := roles.Get(t.Context(), w.release+name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) == stays {
			t.Errorf("%s: %v", name, err)
		}
		if stays {
			if err := roles.Delete(t.Context(), w.release+name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	}
}
