package foreign_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// definition is one of a kind without a schema.
func definition(group, version, kind, plural string) string {
	return `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ` + plural + "." + group + `, annotations: {api-approved.kubernetes.io: unapproved}}
spec:
  group: ` + group + `
  scope: Namespaced
  names: {kind: ` + kind + `, plural: ` + plural + `, singular: ` + strings.ToLower(kind) + `}
  versions: [{name: ` + version + `, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]`
}

func TestOthersComeAndGo(t *testing.T) {
	cluster := vpatest.New(t, vpatest.Options{})
	leaks := goleak.IgnoreCurrent()
	ctx := t.Context()
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	hpas := schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}
	create := func(r dynamic.ResourceInterface, text string) {
		t.Helper()
		var u unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		vpatest.Eventually(t, "made: "+u.GetName(), 20*time.Second, func() bool {
			_, err := r.Create(ctx, u.DeepCopy(), metav1.CreateOptions{})
			return err == nil
		})
	}
	create(cluster.Dynamic.Resource(hpas).Namespace(agenttest.Namespace), `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}`)

	for _, part := range []string{"recommender", "updater", "admission-controller", "policy"} {
		t.Run("with the rights of "+part, func(t *testing.T) {
			f, err := foreign.New(cluster.As(part), foreign.Options{Every: 100 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			web := foreign.Ref{Namespace: agenttest.Namespace, Kind: "Deployment", Name: "web"}
			if why, is := f.Elsewhere(web); !is || !strings.Contains(why, "not known yet") {
				t.Errorf("before it runs it cannot know: %q, %t", why, is)
			}
			run, stop := context.WithCancel(ctx)
			var group sync.WaitGroup
			group.Go(func() { _ = f.Run(run) })
			defer func() { stop(); group.Wait() }()
			vpatest.Eventually(t, "it knows that there are no APIs of others", 20*time.Second, func() bool { return f.Ready() == nil })
			if why, is := f.Elsewhere(web); is {
				t.Errorf("nobody sizes it: %s", why)
			}
			if by := f.Scaled(web); len(by) != 1 || !strings.Contains(by[corev1.ResourceCPU], "HorizontalPodAutoscaler web") {
				t.Errorf("it is scaled on its CPU: %v", by)
			}
			if by := f.Scaled(foreign.Ref{Namespace: agenttest.Namespace, Kind: "StatefulSet", Name: "web"}); len(by) > 0 {
				t.Errorf("another kind is not: %v", by)
			}
			if why, is := f.Elsewhere(web, nil, &metav1.ObjectMeta{Labels: map[string]string{"scaleops.sh/managed": "true"}}); !is || !strings.Contains(why, "ScaleOps") {
				t.Errorf("a mark counts: %q", why)
			}
			for _, other := range []struct{ group, version, kind, plural, object, says string }{
				{rightsizing.UpstreamGroup, "v1", "VerticalPodAutoscaler", "verticalpodautoscalers", "metadata: {name: web}\nspec: {targetRef: {kind: Deployment, name: web}}", "VerticalPodAutoscaler web of autoscaling.k8s.io"},
				{"eks.amazonaws.com", "v1beta1", "ResourceOptimization", "resourceoptimizations", "metadata: {name: web-deploy}", "ResourceOptimization web-deploy"},
				{"datadoghq.com", "v1alpha2", "DatadogPodAutoscaler", "datadogpodautoscalers", "metadata: {name: web}\nspec: {targetRef: {kind: Deployment, name: web}}", "DatadogPodAutoscaler web"},
				{"perfectscale.io", "v1", "WorkloadAutomationConfig", "workloadautomationconfigs", "metadata: {name: web}\nspec: {targetRef: {kind: Deployment, name: web}}", "WorkloadAutomationConfig web"},
			} {
				create(cluster.Dynamic.Resource(definitions), definition(other.group, other.version, other.kind, other.plural))
				objects := cluster.Dynamic.Resource(schema.GroupVersionResource{Group: other.group, Version: other.version, Resource: other.plural}).Namespace(agenttest.Namespace)
				create(objects, "apiVersion: "+other.group+"/"+other.version+"\nkind: "+other.kind+"\n"+other.object)
				vpatest.Eventually(t, other.says+" is seen", 20*time.Second, func() bool {
					why, is := f.Elsewhere(web)
					return is && strings.Contains(why, other.says)
				})
				if err := cluster.Dynamic.Resource(definitions).Delete(ctx, other.plural+"."+other.group, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				vpatest.Eventually(t, other.says+" goes with its definition", 30*time.Second, func() bool {
					_, is := f.Elsewhere(web)
					return !is && f.Ready() == nil
				})
				vpatest.Eventually(t, "the definition of "+other.kind+" is gone", 30*time.Second, func() bool {
					_, err := cluster.Dynamic.Resource(definitions).Get(ctx, other.plural+"."+other.group, metav1.GetOptions{})
					return err != nil
				})
			}
		})
	}
	goleak.VerifyNone(t, leaks, goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"), goleak.IgnoreAnyFunction("internal/poll.runtime_pollWait"))
}
