package admission

import (
	"log/slog"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// TestALostSecret: of two replicas one notices first that the Secret is empty, and makes everything anew. What the other serves until it
// notices, and what either serves until API servers have noticed, is trusted all the time.
func TestALostSecret(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	client := fake.NewClientset(
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "nops", Name: rightsizing.CertificateSecret}},
		&admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: rightsizing.WebhookName, ResourceVersion: "1"}, Webhooks: []admissionregistrationv1.MutatingWebhook{{Name: "pods"}}},
	)
	replica := func() *Authority {
		return &Authority{Client: client, Namespace: "nops", Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler), Settle: time.Millisecond}
	}
	trusted := func(a *Authority) bool {
		t.Helper()
		c, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), rightsizing.WebhookName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return verifies(certificates(c.Webhooks[0].ClientConfig.CABundle), &material{serving: *a.serving.Load()}, now)
	}
	one, two := replica(), replica()
	for _, a := range []*Authority{one, two} {
		if err := a.Once(t.Context()); err != nil || !trusted(a) {
			t.Fatalf("the first time: %v", err)
		}
	}
	before := one.serving.Load()
	now = now.Add(day)
	if _, err := client.CoreV1().Secrets("nops").Update(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "nops", Name: rightsizing.CertificateSecret}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for n, a := range []*Authority{one, two} {
		if err := a.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !trusted(one) || !trusted(two) {
			t.Errorf("after replica %d noticed: what is served is not trusted", n+1)
		}
	}
	if after := one.serving.Load(); after.Leaf.Equal(before.Leaf) || !after.Leaf.Equal(two.serving.Load().Leaf) {
		t.Error("the two do not serve the new one")
	}
}
