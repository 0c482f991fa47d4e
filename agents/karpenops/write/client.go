package write

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	kjson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Paths of the API.
const (
	poolsPath    = "/apis/karpenter.sh/v1/nodepools"
	claimsPath   = "/apis/karpenter.sh/v1/nodeclaims"
	overlaysPath = "/apis/karpenter.sh/v1alpha1/nodeoverlays"
	nodesPath    = "/api/v1/nodes"
	eventsPath   = "/api/v1/events"
	// Events about what belongs to no namespace.
	clusterEventsPath = "/api/v1/namespaces/default/events"
)

// Media types of patches.
const (
	mergePatch = "application/merge-patch+json"
	applyPatch = "application/apply-patch+yaml"
	plainJSON  = "application/json"
)

// The kinds that are written.
const (
	kindPool    = "NodePool"
	kindOverlay = "NodeOverlay"
)

// NewClient makes the client that a Writer needs: JSON throughout, since custom resources are served in nothing else and nothing of an
// object may be lost that this agent has no name for.
func NewClient(config *rest.Config, userAgent string) (rest.Interface, error) {
	c := agent.KubeConfig(config, userAgent)
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType, c.AcceptContentTypes, c.APIPath = plainJSON, plainJSON, "/"
	if c.QPS == 0 {
		c.QPS, c.Burst = 20, 40 // one write is a dozen requests, and writes are few
	}
	client, err := rest.UnversionedRESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client of the Kubernetes API: %w", err)
	}
	return client, nil
}

// call is one request. Query are pairs.
func (w *Writer) call(ctx context.Context, verb, path, contentType string, body any, query ...string) (map[string]any, error) {
	r := w.Kube.Verb(verb).AbsPath(path)
	for i := 0; i+1 < len(query); i += 2 {
		r = r.Param(query[i], query[i+1])
	}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", verb, path, err)
		}
		r = r.SetHeader("Content-Type", contentType).Body(data)
	}
	result := r.Do(ctx)
	if err := result.Error(); err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, path, err)
	}
	data, err := result.Raw()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, path, err)
	}
	var o map[string]any
	if err := kjson.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("%s %s: reading the answer: %w", verb, path, err)
	}
	return o, nil
}

func (w *Writer) get(ctx context.Context, path string) (map[string]any, error) {
	return w.call(ctx, http.MethodGet, path, "", nil)
}

// list returns the items; of an API that is not served there are none.
func (w *Writer) list(ctx context.Context, path string, query ...string) ([]map[string]any, error) {
	var items []map[string]any
	for token := ""; ; {
		page, err := w.call(ctx, http.MethodGet, path, "", nil, append([]string{"limit", "500", "continue", token}, query...)...)
		if agent.StatusOf(err) == http.StatusNotFound {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		some, _ := page["items"].([]any)
		for _, item := range some {
			if o, is := item.(map[string]any); is {
				items = append(items, o)
			}
		}
		if token = text(page, "metadata", "continue"); token == "" {
			return items, nil
		}
	}
}

// apiCode is the status of an answer, 0 without one.
func apiCode(err error) int32 { return agent.StatusOf(err) }

// event tells people about a cluster-scoped object. The API server takes events about such only in the namespace default.
func (w *Writer) event(ctx context.Context, o map[string]any, warning bool, reason, why string) {
	const maxMessage = 1024
	if len(why) > maxMessage {
		why = strings.ToValidUTF8(why[:maxMessage-3], "") + "…"
	}
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	at := metav1.NewTime(w.Now())
	e := &corev1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{GenerateName: w.Who.Name() + "-", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: text(o, "apiVersion"), Kind: text(o, "kind"), Name: nameOf(o), UID: uidOf(o), ResourceVersion: text(o, "metadata", "resourceVersion"),
		},
		Reason: reason, Message: why, Type: kind, Count: 1, FirstTimestamp: at, LastTimestamp: at,
		Source:              corev1.EventSource{Component: w.Who.Name()},
		ReportingController: "nops.io/" + w.Who.Component, ReportingInstance: w.Who.Name() + " " + w.Who.Version,
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := w.call(ctx, http.MethodPost, "/api/v1/namespaces/"+metav1.NamespaceDefault+"/events", plainJSON, e); err != nil {
		w.Log.Warn("an event could not be written", "object", nameOf(o), "reason", reason, "error", err)
	}
}
