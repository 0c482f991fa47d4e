package write

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// OwnerKind is what sort of writer a field manager is.
type OwnerKind string

// The kinds of owners.
const (
	OwnerGitOps OwnerKind = "gitops" // writes what is in a repository, again and again
	OwnerPerson OwnerKind = "person" // or anything that is not known
)

// An Owner is somebody other than karpenops and Karpenter to whom a field belongs.
type Owner struct {
	Manager string
	Kind    OwnerKind
	Path    string // that they own: the one asked for, or one above or below it
}

// gitopsManagers are names, or beginnings of names, under which GitOps tools and their like write fields.
func gitopsManagers() []string {
	return []string{
		"argocd", "argo-cd", "openshift-gitops", // argocd-controller, argocd-application-controller
		"kustomize-controller", "helm-controller", "flux", "gotk", // Flux
		"helm", "terraform", "hashicorp", "opentofu", "pulumi", "crossplane", "apiextensions.crossplane.io", "configsync", "config-sync", "fleet", "rancher", "kapp", "carvel", "sveltos",
	}
}

// GitOps says which tools put their marks on an object, each with the mark.
func GitOps(o map[string]any) []string {
	var found []string
	note := func(tool, kind, key, value string) {
		found = append(found, fmt.Sprintf("%s (%s %s: %s)", tool, kind, key, value))
	}
	for kind, key := range map[string]string{"annotation": "annotations", "label": "labels"} {
		v, _ := at(o, "metadata", key)
		all, _ := v.(map[string]any)
		for k, v := range all {
			value, _ := v.(string)
			domain, _, _ := strings.Cut(k, "/")
			switch {
			case domain == "argocd.argoproj.io":
				note("Argo CD", kind, k, value)
			case domain == "kustomize.toolkit.fluxcd.io", domain == "helm.toolkit.fluxcd.io":
				note("Flux", kind, k, value)
			case domain == "meta.helm.sh", k == "helm.sh/chart", k == "app.kubernetes.io/managed-by" && value == "Helm":
				note("Helm", kind, k, value)
			case domain == "config.kubernetes.io", domain == "kustomize.config.k8s.io", k == "app.kubernetes.io/managed-by" && strings.HasPrefix(strings.ToLower(value), "kustomize"):
				note("Kustomize", kind, k, value)
			case domain == "configsync.gke.io", domain == "fleet.cattle.io", domain == "kapp.k14s.io", domain == "crossplane.io":
				note(domain, kind, k, value)
			}
		}
	}
	sort.Strings(found)
	return found
}

// trackingKeys are labels and annotations that make an object part of somebody's release: a copy that carries them is pruned, or taken over.
func trackingKey(key string) bool {
	domain, _, slash := strings.Cut(key, "/")
	return slash && (strings.HasSuffix(domain, "argoproj.io") || strings.HasSuffix(domain, "fluxcd.io") || domain == "meta.helm.sh" || domain == "helm.sh" ||
		domain == "config.kubernetes.io" || domain == "kustomize.config.k8s.io" || domain == "configsync.gke.io" || domain == "fleet.cattle.io" || domain == "kapp.k14s.io" ||
		key == "kubectl.kubernetes.io/last-applied-configuration" || strings.HasPrefix(key, "app.kubernetes.io/"))
}

// Owners are those to whom a field belongs by the object's managed fields, other than karpenops itself and Karpenter.
func (w *Writer) Owners(o map[string]any, path string) []Owner {
	marked := len(GitOps(o)) > 0
	var owners []Owner
	for _, entry := range (&unstructured.Unstructured{Object: o}).GetManagedFields() {
		if entry.Subresource != "" || w.ours(entry.Manager) || strings.HasPrefix(entry.Manager, "karpenter") || entry.FieldsV1 == nil {
			continue
		}
		owned, is := ownedAt(o, fieldsOf(entry), path)
		if !is {
			continue
		}
		owners = append(owners, Owner{Manager: entry.Manager, Kind: kindOf(entry.Manager, marked), Path: owned})
	}
	sort.Slice(owners, func(i, j int) bool { return owners[i].Manager < owners[j].Manager })
	return slices.Compact(owners)
}

func (w *Writer) ours(manager string) bool { return manager == w.Who.Name() }

func kindOf(manager string, marked bool) OwnerKind {
	// Of an object with a tool's marks nobody's hand is taken to be a person's: Argo CD without server-side apply writes as kubectl does.
	if marked {
		return OwnerGitOps
	}
	lower := strings.ToLower(manager)
	for _, known := range gitopsManagers() {
		if strings.HasPrefix(lower, known) {
			return OwnerGitOps
		}
	}
	return OwnerPerson
}

func fieldsOf(entry metav1.ManagedFieldsEntry) map[string]any {
	v, err := plain(entry.FieldsV1)
	if err != nil {
		return nil
	}
	m, _ := v.(map[string]any)
	return m
}

// ownedAt says whether a set of fields of an object has a path, something below it, or something whole that it lies in.
func ownedAt(o, fields map[string]any, path string) (string, bool) {
	parts := split(path)
	for i, part := range parts {
		next, is := fields["f:"+part].(map[string]any)
		if !is {
			return "", false
		}
		if here := parts[:i+1]; len(next) == 0 && len(here) < len(parts) {
			// Either all of a value that is one, a list of requirements for one, or that a map is there, whoever has its members.
			v, _ := at(o, here...)
			_, members := v.(map[string]any)
			return pointer(here...), !members || pointer(here...) == "/spec/template/metadata/labels"
		}
		fields = next
	}
	return path, true
}

// conflicts asks the API server who would be overruled: a server-side apply of the changed fields that is neither forced nor kept. It knows
// more than the object's managed fields tell (defaults, and how the server merges), and less: it cannot take a field away.
func (w *Writer) conflicts(ctx context.Context, path string, o map[string]any, changes []plan.Change) ([]Owner, error) {
	body := map[string]any{"apiVersion": text(o, "apiVersion"), "kind": text(o, "kind"), "metadata": map[string]any{"name": nameOf(o)}}
	some := false
	for _, c := range changes {
		if c.After != nil && !strings.HasPrefix(c.Path, "/metadata/") {
			body, some = with(body, []plan.Change{c}), true
		}
	}
	if !some {
		return nil, nil
	}
	_, err := w.call(ctx, http.MethodPatch, path, applyPatch, body, "fieldManager", w.Who.Name(), "dryRun", "All", "force", "false")
	if apiCode(err) != http.StatusConflict {
		// Whatever else it says, that the fields are wrong above all, the dry run of the write itself says better.
		return nil, nil
	}
	var status interface{ Status() metav1.Status }
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil, err
	}
	marked := len(GitOps(o)) > 0
	var owners []Owner
	for _, cause := range status.Status().Details.Causes {
		manager := between(cause.Message, `"`)
		if cause.Type != metav1.CauseTypeFieldManagerConflict || w.ours(manager) || strings.HasPrefix(manager, "karpenter") {
			continue
		}
		owners = append(owners, Owner{Manager: manager, Kind: kindOf(manager, marked), Path: cause.Field})
	}
	return owners, nil
}

func between(s, quote string) string {
	_, s, _ = strings.Cut(s, quote)
	s, _, _ = strings.Cut(s, quote)
	return s
}

// mayTake says which owners stand in the way of a change. Nobody does on objects of our own, but a tool that took them over; a
// person does not where the NodePool says that it may be changed in place, or where a person wants the change.
func mayTake(o map[string]any, owners []Owner, approved bool) []Owner {
	consent := approved || annotation(o, karpenstate.AnnotationMode) == string(karpenstate.ModeInPlace)
	var against []Owner
	for _, owner := range owners {
		if owner.Kind == OwnerGitOps || !consent {
			against = append(against, owner)
		}
	}
	return against
}

func namesOf(owners []Owner) string {
	var names []string
	for _, o := range owners {
		names = append(names, fmt.Sprintf("%s (%s, %s)", o.Manager, o.Kind, o.Path))
	}
	return strings.Join(names, ", ")
}
