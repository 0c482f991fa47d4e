package install

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// definitionGroup is the API group whose definitions the chart brings. Helm keeps them when the release goes, because all
// objects of a kind go with its definition; whether there are any is looked at here.
const definitionGroup = "vpa.nops.io"

// A Definition is a CustomResourceDefinition that the release brought.
type Definition struct {
	Name    string `json:"name"`              // "verticalpodautoscalers.vpa.nops.io"
	Objects int    `json:"objects"`           // in all namespaces, besides those that the stack made itself
	Unknown string `json:"unknown,omitempty"` // why they could not be counted
}

// String names it with what would go with it.
func (d Definition) String() string {
	s := "CustomResourceDefinition " + d.Name
	switch {
	case d.Unknown != "":
		return s + " (its objects could not be counted: " + d.Unknown + ")"
	case d.Objects == 1:
		return s + " (1 object)"
	}
	return fmt.Sprintf("%s (%d objects)", s, d.Objects)
}

// used says whether something would be lost with it, as far as that is known.
func (d Definition) used() bool { return d.Objects > 0 || d.Unknown != "" }

// Definitions finds the definitions that the release brought and counts their objects. They may outlive the release. Who may
// not list definitions gets none.
func (e *Engine) Definitions(ctx context.Context) ([]Definition, error) {
	c, err := e.connect()
	if err != nil {
		return nil, err
	}
	found, err := c.definitions(ctx, e.Release, e.Namespace)
	if apierrors.IsForbidden(err) {
		return nil, nil
	}
	return found, explain("list CustomResourceDefinitions", err)
}

func definitionsResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
}

func (c *clients) definitions(ctx context.Context, release, namespace string) ([]Definition, error) {
	list, err := c.dynamic.Resource(definitionsResource()).List(ctx, metav1.ListOptions{LabelSelector: labelPartOf + "=" + partOf})
	if err != nil {
		return nil, err
	}
	var found []Definition
	for i := range list.Items {
		o := &list.Items[i]
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		if whose, _ := ownerOf(o, release, namespace); whose != ours || group != definitionGroup {
			continue
		}
		d := Definition{Name: o.GetName()}
		if d.Objects, err = c.count(ctx, o); err != nil {
			d.Unknown = reason(err)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		found = append(found, d)
	}
	slices.SortFunc(found, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// count counts the objects of a definition. Those that carry the stack's own label were made by an agent and are no loss.
func (c *clients) count(ctx context.Context, definition *unstructured.Unstructured) (int, error) {
	gvr := schema.GroupVersionResource{Group: definitionGroup}
	gvr.Resource, _, _ = unstructured.NestedString(definition.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	for _, v := range versions {
		if version, _ := v.(map[string]any); version["served"] == true {
			gvr.Version, _ = version["name"].(string)
		}
	}
	n := 0
	options := metav1.ListOptions{LabelSelector: labelPartOf + "!=" + partOf, Limit: 500}
	for {
		list, err := c.dynamic.Resource(gvr).List(ctx, options)
		if err != nil {
			return n, err
		}
		n += len(list.Items)
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return n, nil
		}
	}
}

// definitions removes the definitions that nothing uses any more and keeps the others, unless they are to go with all their
// objects.
func (r *remover) definitions() (string, error) {
	all, err := r.clients.definitions(r.ctx, r.Release, r.Namespace)
	if apierrors.IsForbidden(err) {
		return "kept: no permission to list them", nil
	}
	if err != nil {
		return "", explain("list CustomResourceDefinitions", err)
	}
	client := r.dynamic.Resource(definitionsResource())
	var going, gone, kept []string
	for _, d := range all {
		// Helm named it among what it kept; here is said whether it stays, and why.
		r.result.Kept = slices.DeleteFunc(r.result.Kept, func(s string) bool { return strings.HasPrefix(s, "CustomResourceDefinition "+d.Name+" ") })
		if d.used() && !r.request.DeleteCRDs {
			kept = append(kept, d.String())
			continue
		}
		if err := client.Delete(r.ctx, d.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return "", explain("delete CustomResourceDefinition "+d.Name, err)
		}
		r.removed++
		going = append(going, d.Name)
		if d.used() {
			gone = append(gone, d.String())
		} else {
			gone = append(gone, d.Name)
		}
	}
	r.result.Kept = append(r.result.Kept, kept...)
	ticker := time.NewTicker(r.PollInterval)
	defer ticker.Stop()
	for left := slices.Clone(going); ; {
		left = slices.DeleteFunc(left, func(name string) bool {
			_, err := client.Get(r.ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		if len(left) == 0 {
			break
		}
		r.doing = "waiting for the objects of " + strings.Join(left, ", ") + " to go; finalizers may hold them"
		select {
		case <-r.ctx.Done():
			return "", r.ctx.Err()
		case <-ticker.C:
		}
	}
	message := strings.Join(gone, ", ")
	if len(kept) > 0 {
		message = strings.TrimPrefix(message+"; kept: "+strings.Join(kept, ", "), "; ")
	}
	return message, nil
}
