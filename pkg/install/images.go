package install

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chartutil"
	helmengine "helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// RenderedImages lists the images that a chart renders with these values, without a cluster: as for a first installation, on
// the newest Kubernetes that Helm knows and with no API beyond Kubernetes' own.
func RenderedImages(root fs.FS, values map[string]any) ([]PlannedImage, error) {
	e := &Engine{Options: Options{Release: partOf, Namespace: "nops"}}
	if err := e.read(root); err != nil {
		return nil, err
	}
	c, err := e.chart()
	if err != nil {
		return nil, err
	}
	values = merge(values, nil)
	if err := chartutil.ProcessDependenciesWithMerge(c, values); err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Name(), err)
	}
	nowhere := meta.NewDefaultRESTMapper(nil)
	options := chartutil.ReleaseOptions{Name: e.Release, Namespace: e.Namespace, Revision: 1, IsInstall: true}
	r, err := renderChart(helmengine.Engine{}, c, values, options, chartutil.DefaultCapabilities.Copy(), e.Namespace, nowhere)
	if err != nil {
		return nil, err
	}
	objects, err := parse(r.manifest, e.Namespace, nowhere)
	if err != nil {
		return nil, err
	}
	var images []PlannedImage
	found, _ := collect(r, objects)
	for _, i := range found {
		images = append(images, i.planned())
	}
	return images, nil
}

// LiveImages is what a release declares and what its pods run.
type LiveImages struct {
	Release   string `json:"release"`
	Namespace string `json:"namespace"`
	Revision  int    `json:"revision"`
	Status    string `json:"status"` // of that revision, as Helm has recorded it
	// Declared are the images of the deployed revision's manifest, hooks included, each once.
	Declared []DeclaredImage `json:"declared"`
	// Running are the containers of the release's pods.
	Running []RunningImage `json:"running"`
}

// DeclaredImage is an image in the manifest of a release.
type DeclaredImage struct {
	Component string   `json:"component,omitempty"`
	Reference string   `json:"reference"`
	Digest    string   `json:"digest,omitempty"` // empty: it is not pinned
	Users     []string `json:"users"`
}

// RunningImage is an image that a container runs.
type RunningImage struct {
	Component string `json:"component,omitempty"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
	Node      string `json:"node,omitempty"`
	Reference string `json:"reference"`          // as the pod asks for it
	ImageID   string `json:"image_id,omitempty"` // as the node's runtime tells it; empty until the container has started
	// Digest is the manifest's, where the runtime tells that: some tell the digest of the configuration, which no registry
	// can be asked for.
	Digest string `json:"digest,omitempty"`
}

// LiveImages reads what the deployed revision declares, and what its pods run. It needs no permission to write.
func (e *Engine) LiveImages(ctx context.Context) (*LiveImages, error) {
	c, err := e.connect()
	if err != nil {
		return nil, err
	}
	if err := e.ping(ctx, c); err != nil {
		return nil, err
	}
	h, err := e.history(ctx)
	if err != nil {
		return nil, err
	}
	if last := h.last(); last == nil || last.Info.Status == release.StatusUninstalled {
		return nil, &NotInstalledError{Release: e.Release, Namespace: e.Namespace}
	}
	base := h.base()
	live := &LiveImages{Release: e.Release, Namespace: e.Namespace, Revision: base.Version, Status: string(base.Info.Status), Declared: []DeclaredImage{}, Running: []RunningImage{}}
	objects, err := parse(base.Manifest, e.Namespace, c.mapper)
	if err != nil {
		return nil, fmt.Errorf("manifest of revision %d: %w", base.Version, err)
	}
	r := &rendering{}
	for _, hook := range base.Hooks {
		of, err := parse(hook.Manifest, e.Namespace, c.mapper)
		if err != nil {
			return nil, fmt.Errorf("hooks of revision %d: %w", base.Version, err)
		}
		for _, o := range of {
			r.asTheyAre = append(r.asTheyAre, asItIs{"hooks (" + hook.Path + ")", o})
		}
	}
	found, _ := collect(r, objects)
	for _, i := range found {
		live.Declared = append(live.Declared, DeclaredImage{Component: i.users[0].component(), Reference: i.text, Digest: i.reference.Digest, Users: i.names()})
	}
	live.Running, err = c.running(ctx, e.Namespace, e.Release, objects)
	return live, err
}

// running are the containers of the pods that the objects select, or that carry the release's label.
func (c *clients) running(ctx context.Context, namespace, name string, objects []object) ([]RunningImage, error) {
	selectors := []labels.Selector{labels.SelectorFromSet(labels.Set{labelInstance: name})}
	for _, o := range objects {
		if matched, ok, err := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels"); ok && err == nil && isWorkload(o.GetKind()) {
			selectors = append(selectors, labels.SelectorFromSet(matched))
		}
	}
	found := []RunningImage{}
	options := metav1.ListOptions{Limit: 500}
	for {
		pods, err := c.typed.CoreV1().Pods(namespace).List(ctx, options)
		if err != nil {
			return nil, explain("list pods in "+namespace, err)
		}
		for i := range pods.Items {
			pod := &pods.Items[i]
			if slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(labels.Set(pod.Labels)) }) {
				found = append(found, containersOf(pod)...)
			}
		}
		if options.Continue = pods.Continue; options.Continue == "" {
			break
		}
	}
	slices.SortFunc(found, func(a, b RunningImage) int {
		return strings.Compare(a.Pod+"\x00"+a.Container, b.Pod+"\x00"+b.Container)
	})
	return found, nil
}

// containersOf are the containers of a pod, with what the node says that they run.
func containersOf(pod *corev1.Pod) []RunningImage {
	ids := map[string]string{}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		ids[s.Name] = s.ImageID
	}
	var all []RunningImage
	add := func(name, image string) {
		all = append(all, RunningImage{Component: pod.Labels["app.kubernetes.io/component"], Pod: pod.Namespace + "/" + pod.Name, Container: name, Node: pod.Spec.NodeName, Reference: image, ImageID: ids[name], Digest: manifestDigest(ids[name])})
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		add(c.Name, c.Image)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		add(c.Name, c.Image)
	}
	return all
}

// manifestDigest is the digest in "REPOSITORY@sha256:…", as containerd and CRI-O write it, with or without a scheme. A digest
// alone is that of the image's configuration.
func manifestDigest(imageID string) string {
	_, digest, _ := strings.Cut(imageID, "@")
	if !ref.IsDigest(digest) {
		return ""
	}
	return digest
}
