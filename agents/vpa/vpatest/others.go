package vpatest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// A Kind is one of somebody's, of example.com/v1, that nobody watches; with replicas it can be scaled.
type Kind struct {
	Name, Plural string
	Replicas     bool
}

// Rollout is a kind with replicas, as Argo's.
func Rollout() Kind { return Kind{"Rollout", "rollouts", true} }

// Resource is where objects of the kind are.
func (k Kind) Resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: k.Plural}
}

// ScalePath is where the scale of an object is asked for.
func (k Kind) ScalePath(namespace, name string) string {
	return "/apis/example.com/v1/namespaces/" + namespace + "/" + k.Plural + "/" + name + "/scale"
}

// Define defines kinds, and waits until they are served.
func (c *Cluster) Define(t *testing.T, kinds ...Kind) {
	t.Helper()
	anything := true
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, k := range kinds {
		version := apiextensionsv1.CustomResourceDefinitionVersion{
			Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &anything}},
		}
		if k.Replicas {
			selector := ".status.selector"
			version.Subresources = &apiextensionsv1.CustomResourceSubresources{
				Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
				Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas", LabelSelectorPath: &selector},
			}
		}
		all = append(all, &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: k.Plural + ".example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped, Versions: []apiextensionsv1.CustomResourceDefinitionVersion{version},
			Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: k.Name, ListKind: k.Name + "List", Plural: k.Plural, Singular: strings.ToLower(k.Name)},
		}})
	}
	if _, err := envtest.InstallCRDs(c.Admin, envtest.CRDInstallOptions{CRDs: all}); err != nil {
		t.Fatal(err)
	}
}

// Make makes an object of the kind, with the labels app=web for its selector where it has one, and returns what its children refer to.
func (c *Cluster) Make(t *testing.T, k Kind, namespace, name string) metav1.OwnerReference {
	t.Helper()
	objects := c.Dynamic.Resource(k.Resource()).Namespace(namespace)
	o, err := objects.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": k.Name, "metadata": map[string]any{"name": name}, "spec": map[string]any{"replicas": int64(1)},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if k.Replicas {
		if _, err := objects.Patch(t.Context(), name, types.MergePatchType, []byte(`{"status":{"replicas":1,"selector":"app=web"}}`), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	yes := true
	return metav1.OwnerReference{APIVersion: "example.com/v1", Kind: k.Name, Name: name, UID: o.GetUID(), Controller: &yes}
}

// Scales is between a client and its API server: it counts the questions about scales, and fails the first about each Rollout, and all while it is
// down.
type Scales struct {
	mu    sync.Mutex
	asked map[string]int
	down  bool
}

// Down has it fail all questions, or answer them again.
func (s *Scales) Down(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = is
}

// Asked is how often a path was asked for.
func (s *Scales) Asked(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

// fails counts a question, and says whether it fails.
func (s *Scales) fails(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = map[string]int{}
	}
	s.asked[path]++
	return s.down || s.asked[path] == 1 && strings.Contains(path, "/"+Rollout().Plural+"/")
}

// Between is for rest.Config.Wrap.
func (s *Scales) Between(next http.RoundTripper) http.RoundTripper {
	return through(func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/scale") && s.fails(r.URL.Path) {
			answer := httptest.NewRecorder()
			answer.WriteHeader(http.StatusInternalServerError)
			return answer.Result(), nil
		}
		return next.RoundTrip(r)
	})
}

type through func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f through) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
