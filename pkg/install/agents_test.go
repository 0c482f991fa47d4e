package install_test

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/pkg/install"
)

// TestUninstallRemovesWhatAgentsMade: agents make ConfigMaps and Leases beside the chart, which know no owner or have lost it.
// They are told by their labels, whichever agent made them.
func TestUninstallRemovesWhatAgentsMade(t *testing.T) {
	w := newWorld(t)
	w.makeNamespace(nil) // it stays, so that what stays in it can be seen
	w.install(w.engine(), w.request())
	labels := func(release, part string) map[string]string {
		return map[string]string{"app.kubernetes.io/instance": release, "app.kubernetes.io/part-of": part, "app.kubernetes.io/managed-by": "nops-vpa"}
	}
	cases := []struct {
		name, reason string
		labels       map[string]string
		annotations  map[string]string
		stays        bool
	}{
		{"nops-heartbeat-state", "of the first heartbeat, by its name", nil, nil, false},
		{"nops-vpa-state", "of any agent", labels(w.release, "nops-kubernetes-agent"), nil, false},
		{"nops-vpa-of-another", "another release in the namespace has its own", labels("another", "nops-kubernetes-agent"), nil, true},
		{"shop-state", "part of something else that has the same instance", labels(w.release, "shop"), nil, true},
		{"nops-kept", "its policy is keep", labels(w.release, "nops-kubernetes-agent"), map[string]string{"helm.sh/resource-policy": "keep"}, true},
		{"customers", "nobody said that it is ours", nil, nil, true},
	}
	for _, tt := range cases {
		meta := metav1.ObjectMeta{Name: tt.name, Labels: tt.labels, Annotations: tt.annotations}
		if _, err := w.client.CoreV1().ConfigMaps(w.namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.client.CoordinationV1().Leases(w.namespace).Create(t.Context(), &coordinationv1.Lease{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: 20 * time.Second, KeepNamespace: true}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range cases {
		_, err := w.client.CoreV1().ConfigMaps(w.namespace).Get(t.Context(), tt.name, metav1.GetOptions{})
		if stays := err == nil; stays != tt.stays {
			t.Errorf("ConfigMap %s (%s): stays %v, want %v", tt.name, tt.reason, stays, tt.stays)
		}
		_, err = w.client.CoordinationV1().Leases(w.namespace).Get(t.Context(), tt.name, metav1.GetOptions{})
		if stays := err == nil; stays != (tt.stays || tt.labels == nil) {
			t.Errorf("Lease %s (%s): stays %v", tt.name, tt.reason, stays)
		}
	}
}
