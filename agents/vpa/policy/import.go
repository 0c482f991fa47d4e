package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Imported is what became of an import, by NAMESPACE/NAME.
type Imported struct {
	Copied []string
	// There were autoscalers of ours of that name before: they are left as they are.
	There []string
}

// postProcessors begin upstream's annotations of what is done to a recommendation: whole CPUs.
const postProcessors = "vpa-post-processor.kubernetes.io/"

// Import copies the Kubernetes VPA's autoscalers to ours, in mode Off and with the specification otherwise as it is: both recommend, theirs
// applies, until a person deletes theirs and turns ours on, or a policy selects the workload. Names are NAMESPACE/NAME.
func Import(ctx context.Context, config *rest.Config, userAgent string, names []string, all bool, say func(format string, args ...any)) (Imported, error) {
	var out Imported
	_, client, err := clients(config, userAgent)
	if err != nil {
		return out, err
	}
	list, err := client.Resource(rightsizing.UpstreamAutoscalers()).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return out, fmt.Errorf("this cluster has no %s: the Kubernetes VPA is not installed, and there is nothing to import", rightsizing.UpstreamAutoscalers().GroupResource())
	}
	if err != nil {
		return out, fmt.Errorf("list %s: %w", rightsizing.UpstreamAutoscalers().GroupResource(), err)
	}
	var errs []error
	found := map[string]bool{}
	for i := range list.Items {
		from := &list.Items[i]
		name := from.GetNamespace() + "/" + from.GetName()
		if !all && !slices.Contains(names, name) {
			continue
		}
		found[name] = true
		_, err := client.Resource(rightsizing.Autoscalers()).Namespace(from.GetNamespace()).Create(ctx, imported(from), metav1.CreateOptions{FieldManager: manager, FieldValidation: "Strict"})
		switch {
		case apierrors.IsAlreadyExists(err):
			out.There = append(out.There, name)
			say("%s: there is one of ours of that name; it stays as it is", name)
		case err != nil:
			errs = append(errs, fmt.Errorf("copy %s: %w", name, err))
		default:
			out.Copied = append(out.Copied, name)
			say("%s: copied, in mode Off. To hand over: kubectl delete verticalpodautoscalers.%s -n %s %s, then set spec.updatePolicy.updateMode of ours, or let a policy select its workload: it sizes beside ours, which only recommends", name, rightsizing.UpstreamGroup, from.GetNamespace(), from.GetName())
		}
	}
	for _, name := range names {
		if !found[name] {
			errs = append(errs, fmt.Errorf("there is no autoscaler %s of %s; names are NAMESPACE/NAME", name, rightsizing.UpstreamGroup))
		}
	}
	return out, errors.Join(errs...)
}

// imported is the copy of one.
func imported(from *unstructured.Unstructured) *unstructured.Unstructured {
	spec, _, _ := unstructured.NestedMap(from.Object, "spec") // a copy
	if spec == nil {
		spec = map[string]any{}
	}
	// Who recommends for theirs is theirs; mode Off until a person says otherwise.
	delete(spec, "recommenders")
	update, _, _ := unstructured.NestedMap(spec, "updatePolicy")
	if update == nil {
		update = map[string]any{}
	}
	update["updateMode"] = "Off"
	spec["updatePolicy"] = update
	to := &unstructured.Unstructured{Object: map[string]any{"apiVersion": rightsizing.Group + "/" + rightsizing.Version, "kind": "VerticalPodAutoscaler", "spec": spec}}
	to.SetNamespace(from.GetNamespace())
	to.SetName(from.GetName())
	annotations := map[string]string{rightsizing.AnnotationImported: from.GetNamespace() + "/" + from.GetName()}
	for name, value := range from.GetAnnotations() {
		if strings.HasPrefix(name, postProcessors) {
			annotations[name] = value
		}
	}
	to.SetAnnotations(annotations)
	return to
}
