package install

import (
	"bytes"
	"fmt"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// object is one document of a manifest.
type object struct {
	*unstructured.Unstructured
	mapping *meta.RESTMapping // nil when the cluster does not serve the kind
}

// id names an object within a manifest, whatever the version of its API.
func (o object) id() string {
	gvk := o.GroupVersionKind()
	return gvk.Group + "/" + gvk.Kind + "/" + o.GetNamespace() + "/" + o.GetName()
}

// String names it for people.
func (o object) String() string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

func (o object) component() string { return o.GetLabels()["app.kubernetes.io/component"] }

// keeps says whether Helm leaves the object when it is no longer rendered.
func (o object) keeps() bool {
	return strings.EqualFold(strings.TrimSpace(o.GetAnnotations()["helm.sh/resource-policy"]), "keep")
}

// parse reads a manifest. Namespaces are filled in where the cluster says that the kind has one.
func parse(manifest, namespace string, mapper meta.RESTMapper) ([]object, error) {
	var objects []object
	for _, doc := range releaseutil.SplitManifests(manifest) {
		var content map[string]any
		if err := yaml.Unmarshal([]byte(doc), &content); err != nil {
			return nil, fmt.Errorf("rendered manifest: %w", err)
		}
		if len(content) == 0 {
			continue
		}
		u := &unstructured.Unstructured{Object: content}
		if !u.IsList() {
			objects = append(objects, place(u, namespace, mapper))
			continue
		}
		list, err := u.ToList()
		if err != nil {
			return nil, fmt.Errorf("rendered manifest: %s: %w", u.GetKind(), err)
		}
		for i := range list.Items {
			objects = append(objects, place(&list.Items[i], namespace, mapper))
		}
	}
	sort.Slice(objects, func(i, j int) bool { return objects[i].id() < objects[j].id() })
	return objects, nil
}

func place(u *unstructured.Unstructured, namespace string, mapper meta.RESTMapper) object {
	gvk := u.GroupVersionKind()
	o := object{Unstructured: u}
	if m, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version); err == nil {
		o.mapping = m
		if m.Scope.Name() == meta.RESTScopeNameNamespace && u.GetNamespace() == "" {
			u.SetNamespace(namespace)
		}
		if m.Scope.Name() == meta.RESTScopeNameRoot {
			u.SetNamespace("")
		}
	}
	return o
}

func (c *clients) resource(o object) dynamic.ResourceInterface {
	r := c.dynamic.Resource(o.mapping.Resource)
	if o.GetNamespace() != "" {
		return r.Namespace(o.GetNamespace())
	}
	return r
}

func sameObject(a, b object) bool { return bytes.Equal(canonical(a.Object), canonical(b.Object)) }

// The tools that may own an object.
const (
	ToolHelm      = "Helm"
	ToolArgoCD    = "Argo CD"
	ToolFlux      = "Flux"
	ToolTerraform = "Terraform"
)

// Owner is who manages an object.
type Owner struct {
	Tool string `json:"tool"`           // one of the Tool constants, or what the object's managed-by label says
	Name string `json:"name,omitempty"` // the release, Application, HelmRelease, …
}

// String names the owner for people.
func (o Owner) String() string {
	if o.Name == "" {
		return o.Tool
	}
	switch o.Tool {
	case ToolHelm:
		return "Helm release " + o.Name
	case ToolArgoCD:
		return "Argo CD Application " + o.Name
	}
	return o.Tool + " (" + o.Name + ")"
}

const (
	annotationRelease   = "meta.helm.sh/release-name"
	annotationNamespace = "meta.helm.sh/release-namespace"
)

// ownership is what a live object is to this release.
type ownership int

const (
	free    ownership = iota // nobody's: may be adopted when asked
	ours                     // this release's
	foreign                  // somebody else's
)

// ownerOf reads the marks that tools leave on what they manage. A tool that drives Helm leaves both its own and Helm's:
// its own counts, because it will come back and put things as it wants them.
func ownerOf(o metav1.Object, release, namespace string) (ownership, Owner) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	if id := annotations["argocd.argoproj.io/tracking-id"]; id != "" {
		name, _, _ := strings.Cut(id, ":")
		return foreign, Owner{Tool: ToolArgoCD, Name: name}
	}
	if name := labels["argocd.argoproj.io/instance"]; name != "" {
		return foreign, Owner{Tool: ToolArgoCD, Name: name}
	}
	for _, kind := range []string{"helm", "kustomize"} {
		if name := labels[kind+".toolkit.fluxcd.io/name"]; name != "" {
			resource := map[string]string{"helm": "HelmRelease", "kustomize": "Kustomization"}[kind]
			return foreign, Owner{Tool: ToolFlux, Name: resource + " " + labels[kind+".toolkit.fluxcd.io/namespace"] + "/" + name}
		}
	}
	if name := annotations[annotationRelease]; name != "" {
		if name == release && annotations[annotationNamespace] == namespace {
			return ours, Owner{Tool: ToolHelm, Name: name}
		}
		return foreign, Owner{Tool: ToolHelm, Name: annotations[annotationNamespace] + "/" + name}
	}
	if refs := o.GetOwnerReferences(); len(refs) > 0 {
		return foreign, Owner{Tool: refs[0].Kind, Name: refs[0].Name}
	}
	switch by := labels[labelManagedBy]; by {
	case "", ToolHelm:
		return free, Owner{}
	case managerName:
		return ours, Owner{Tool: managerName}
	default:
		return foreign, Owner{Tool: by}
	}
}

// terraformed says whether the last writer of the release's record was Terraform, whose Helm provider leaves no other mark.
func terraformed(o metav1.Object) bool {
	for _, f := range o.GetManagedFields() {
		m := strings.ToLower(f.Manager)
		if strings.HasPrefix(m, "terraform") || strings.HasPrefix(m, "hashicorp") {
			return true
		}
	}
	return false
}
