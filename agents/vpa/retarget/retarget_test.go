package retarget_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpa "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned"
	vpascheme "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/reference"

	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
)

func TestMain(m *testing.M) {
	retarget.Ours()
	os.Exit(m.Run())
}

// TestEveryRequestIsOurs fails when upstream makes it impossible to point its client elsewhere.
func TestEveryRequestIsOurs(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		asked = append(asked, r.Method+" "+r.URL.Path+" "+string(body))
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	client, err := vpa.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	autoscalers, checkpoints := client.AutoscalingV1().VerticalPodAutoscalers("n"), client.AutoscalingV1().VerticalPodAutoscalerCheckpoints("n")
	object := &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	for _, call := range []func() error{
		func() error { _, err := autoscalers.List(ctx, metav1.ListOptions{}); return err },
		func() error { _, err := autoscalers.Watch(ctx, metav1.ListOptions{}); return err },
		func() error { _, err := autoscalers.Create(ctx, object, metav1.CreateOptions{}); return err },
		func() error { _, err := autoscalers.UpdateStatus(ctx, object, metav1.UpdateOptions{}); return err },
		func() error { _, err := checkpoints.List(ctx, metav1.ListOptions{}); return err },
		func() error {
			_, err := checkpoints.Create(ctx, &vpav1.VerticalPodAutoscalerCheckpoint{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
			return err
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "not find") && !strings.Contains(err.Error(), "not found") {
			t.Errorf("want that it was not found: %v", err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 6 {
		t.Errorf("%d requests, want 6", len(asked))
	}
	for _, one := range asked {
		if !strings.Contains(one, "/apis/vpa.nops.io/v1/") || strings.Contains(one, "autoscaling.k8s.io") {
			t.Errorf("a request that is not ours: %s", one)
		}
		if strings.HasPrefix(one, "POST") && !strings.Contains(one, `"apiVersion":"vpa.nops.io/v1"`) {
			t.Errorf("an object that is not ours: %s", one)
		}
	}
}

// Events name the object by what the scheme says.
func TestReferencesAreOurs(t *testing.T) {
	ref, err := reference.GetReference(vpascheme.Scheme, &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	if err != nil || ref.APIVersion != "vpa.nops.io/v1" || ref.Kind != "VerticalPodAutoscaler" {
		t.Errorf("%+v, %v", ref, err)
	}
}
