package vpasuite

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var injector = flag.String("injector", "", "be the webhook that adds this container, as JSON; for the suite itself")

// injecting is what the webhook says of itself.
type injecting struct {
	URL string `json:"url"`
	CA  []byte `json:"ca"`
}

// TestInjector is no test: it is the webhook that adds a container to each pod that it is asked about, until its standard input ends. The API server reaches
// only what runs inside the lab, and this program is at hand.
func TestInjector(t *testing.T) {
	if *injector == "" {
		t.Skip("it is the suite's own webhook")
	}
	webhook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		kind := admissionv1.PatchTypeJSONPatch
		review.Response = &admissionv1.AdmissionResponse{
			UID: review.Request.UID, Allowed: true, PatchType: &kind, Patch: fmt.Appendf(nil, `[{"op":"add","path":"/spec/containers/-","value":%s}]`, *injector),
		}
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer webhook.Close()
	if err := json.NewEncoder(os.Stdout).Encode(injecting{webhook.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: webhook.Certificate().Raw})}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// inject has somebody's webhook add a container to pods of the case, as a service mesh does. It is asked after those of both VPAs, for the API server asks
// in the order of the configurations' names.
func (r *run) inject(c container) {
	r.Helper()
	added, err := json.Marshal(corev1.Container{Name: c.name, Image: image, Args: []string{"silent", "127.0.0.1:9100"}, Resources: corev1.ResourceRequirements{Requests: c.requests.list(), Limits: c.limits.list()}})
	r.check(err)
	self, err := os.Executable()
	r.check(err)
	webhook := exec.Command(filepath.Join(r.bin, "lab"), "exec", "--name", r.name, "--", self, "-test.run=^TestInjector$", "-test.timeout=0", "-injector="+string(added))
	webhook.Stderr = r.Output()
	in, err := webhook.StdinPipe()
	r.check(err)
	out, err := webhook.StdoutPipe()
	r.check(err)
	r.check(webhook.Start())
	r.Cleanup(func() {
		_ = in.Close()
		_ = webhook.Wait()
	})
	var says injecting
	line, err := bufio.NewReader(out).ReadBytes('\n')
	r.check(err)
	r.check(json.Unmarshal(line, &says))
	fail, none := admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "zz-" + r.namespace},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "injector.lab.nopsctl.local", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &says.URL, CABundle: says.CA},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: r.namespace}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create}, Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
			FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		}},
	}
	configurations := r.kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	_, err = configurations.Create(r.Context(), configuration, metav1.CreateOptions{})
	r.check(err)
	r.Cleanup(func() {
		_ = configurations.Delete(context.WithoutCancel(r.Context()), configuration.Name, metav1.DeleteOptions{})
	})
	r.until(soon, "the API server asks the webhook", func() string {
		pod, err := r.kube.CoreV1().Pods(r.namespace).Create(r.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "probe"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		switch {
		case err != nil:
			return err.Error()
		case len(pod.Spec.Containers) != 2:
			return "it adds nothing yet"
		}
		return ""
	})
}
