package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/nopsctl/nopsctl/pkg/event"
)

// UninstallRequest says how to uninstall.
type UninstallRequest struct {
	// Timeout bounds the whole; zero means five minutes.
	Timeout time.Duration
	// KeepNamespace keeps the namespace even when an install made it.
	KeepNamespace bool
	// DeleteCRDs removes the definitions of custom resources that the release brought, with all their objects. Without it
	// those that have objects stay.
	DeleteCRDs bool
	// Recover takes a pending operation for dead, however young it is.
	Recover bool
}

// remover carries what the steps of one uninstall share.
type remover struct {
	*Engine
	*clients
	request UninstallRequest
	result  *Result
	records history
	ctx     context.Context
	doing   string
	removed int
}

// Uninstall removes the release and all that nopsctl made beside it. What blocks the creation of pods goes first: a webhook
// whose service is gone stops a cluster. Secrets that the customer keeps stay.
func (e *Engine) Uninstall(ctx context.Context, request UninstallRequest) (*Result, error) {
	start := e.Now()
	if request.Timeout <= 0 {
		request.Timeout = defaultTimeout
	}
	result := &Result{Operation: "uninstall"}
	c, err := e.connect()
	if err != nil {
		finish(result, err)
		return result, err
	}
	bounded, cancel := context.WithTimeout(ctx, request.Timeout)
	defer cancel()
	r := &remover{Engine: e, clients: c, request: request, result: result, ctx: bounded}
	from := ""
	var h history
	if err = e.ping(bounded, c); err == nil {
		h, err = e.history(bounded)
	}
	if err == nil && h.last() != nil {
		r.records, result.Revision = h, h.last().Version
		if m := h.last().Chart; m != nil && m.Metadata != nil {
			from = m.Metadata.Version
		}
	}
	e.Observe.Emit(event.OperationStarted{Operation: "uninstall", Target: e.target(from, "", r.pinned())})
	if err == nil {
		err = r.run()
	}
	var timeout *TimeoutError
	switch {
	case err == nil, errors.As(err, &timeout):
	case errors.Is(ctx.Err(), context.Canceled):
		err = &CancelledError{While: r.doing, State: "run uninstall again to remove the rest"}
	case bounded.Err() != nil:
		err = &TimeoutError{After: request.Timeout, Doing: r.doing}
	}
	finish(result, err)
	if err == nil {
		result.Revision = 0
	}
	e.Observe.Emit(finished(result, err, e.Now().Sub(start)))
	return result, err
}

func (r *remover) pinned() string {
	if cm, err := r.typed.CoreV1().ConfigMaps(r.Namespace).Get(r.ctx, IdentityConfigMap, metav1.GetOptions{}); err == nil {
		return cm.Data[identityARN]
	}
	return ""
}

func (r *remover) run() error {
	if err := r.allowed(); err != nil {
		return err
	}
	for _, s := range []struct {
		id, title string
		needed    bool
		run       func() (string, error)
	}{
		{"webhooks", "Removing what could block the creation of pods", true, r.webhooks},
		{"release", "Uninstalling release " + r.Release, r.records.last() != nil, r.uninstall},
		{"leftovers", "Removing what earlier revisions left", r.records.last() != nil, r.sweep},
		{"pods", "Waiting for the pods to end", true, r.pods},
		{"definitions", "Removing definitions of custom resources", true, r.definitions},
		{"support", "Removing credentials and the cluster's identity", true, r.support},
		{"namespace", "Removing namespace " + r.Namespace, !r.request.KeepNamespace, r.namespace},
	} {
		if !s.needed {
			continue
		}
		r.doing = lower(s.title)
		err := r.step(s.id, s.title, func() (event.Outcome, string, error) {
			before := r.removed
			message, err := s.run()
			if r.removed == before && err == nil && message == "" {
				return event.Unchanged, "nothing to remove", nil
			}
			return event.OK, message, err
		})
		if err != nil {
			return err
		}
	}
	if r.removed == 0 {
		r.result.Outcome, r.result.Message = event.Unchanged, fmt.Sprintf("release %s is not installed in namespace %s: nothing to remove", r.Release, r.Namespace)
	} else {
		r.result.Outcome, r.result.Message = event.OK, fmt.Sprintf("release %s and what belongs to it are gone", r.Release)
	}
	if len(r.result.Kept) > 0 {
		r.result.Message += "; kept: " + strings.Join(r.result.Kept, "; ")
	}
	return nil
}

// allowed refuses what would be undone by a tool, and what another operation is working on.
func (r *remover) allowed() error {
	last := r.records.last()
	if last == nil {
		return nil
	}
	record, err := r.typed.CoreV1().Secrets(r.Namespace).Get(r.ctx, fmt.Sprintf("sh.helm.release.v1.%s.v%d", last.Name, last.Version), metav1.GetOptions{})
	if err == nil {
		whose, owner := ownerOf(record, r.Release, r.Namespace)
		if terraformed(record) {
			whose, owner = foreign, Owner{Tool: ToolTerraform}
		}
		if whose == foreign {
			return &ManagedElsewhereError{Object: fmt.Sprintf("release %s in namespace %s", r.Release, r.Namespace), Owner: owner}
		}
	}
	objects, err := parse(last.Manifest, r.Namespace, r.mapper)
	if err == nil {
		for _, o := range objects {
			if whose, owner := ownerOf(o, r.Release, r.Namespace); whose == foreign && (owner.Tool == ToolFlux || owner.Tool == ToolArgoCD) {
				return &ManagedElsewhereError{Object: o.String(), Owner: owner}
			}
		}
	}
	if last.Info.Status.IsPending() && !r.request.Recover {
		if age := r.Now().Sub(last.Info.LastDeployed.Time); age < r.PendingGrace {
			return &PendingError{Release: r.Release, Revision: last.Version, Status: string(last.Info.Status), Since: last.Info.LastDeployed.Time, Age: age}
		}
	}
	return nil
}

// webhooks removes admission webhooks of the release: no pod can be created while one fails closed and its service is gone.
func (r *remover) webhooks() (string, error) {
	var names []string
	for _, resource := range []string{"validatingwebhookconfigurations", "mutatingwebhookconfigurations"} {
		client := r.dynamic.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: resource})
		list, err := client.List(r.ctx, metav1.ListOptions{LabelSelector: labelInstance + "=" + r.Release})
		if apierrors.IsForbidden(err) {
			continue // who may not see them has not made them
		}
		if err != nil {
			return "", explain("list "+resource, err)
		}
		for i := range list.Items {
			w := &list.Items[i]
			if namespace := w.GetAnnotations()[annotationNamespace]; namespace != "" && namespace != r.Namespace {
				continue // another installation's
			}
			if err := client.Delete(r.ctx, w.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return "", explain("delete "+w.GetKind()+" "+w.GetName(), err)
			}
			r.removed++
			names = append(names, w.GetKind()+" "+w.GetName())
		}
	}
	return strings.Join(names, ", "), nil
}

// uninstall runs Helm's action. Where Helm cannot (a kind of the manifest is no longer served, a record is damaged), the
// objects are removed one by one.
func (r *remover) uninstall() (string, error) {
	log := &lastLines{}
	cfg, err := r.helm(r.ctx, log)
	if err != nil {
		return "", err
	}
	act := action.NewUninstall(cfg)
	act.Wait, act.Timeout, act.IgnoreNotFound = false, r.request.Timeout, true // the pods are waited for, with reasons
	act.DeletionPropagation = "background"
	response, err := act.Run(r.Release)
	r.removed++
	if err == nil {
		if response != nil {
			for _, line := range strings.Split(response.Info, "\n") {
				if strings.HasPrefix(line, "[") {
					r.result.Kept = append(r.result.Kept, strings.NewReplacer("[", "", "]", "").Replace(line)+" (its policy is keep)")
				}
			}
		}
		return fmt.Sprintf("%d revisions", len(r.records)), nil
	}
	if r.ctx.Err() != nil {
		return "", r.ctx.Err()
	}
	if why := log.containing("Failed to delete release"); why != "" {
		err = fmt.Errorf("%w (%s)", err, oneLine(why))
	}
	if _, sweepErr := r.sweep(); sweepErr != nil {
		return "", errors.Join(explain("uninstall release "+r.Release, err), sweepErr)
	}
	for _, record := range r.records {
		if _, err := cfg.Releases.Delete(record.Name, record.Version); err != nil && !strings.Contains(err.Error(), "not found") {
			return "", explain(fmt.Sprintf("delete revision %d of release %s", record.Version, record.Name), err)
		}
	}
	return "Helm could not (" + oneLine(err.Error()) + "): its objects were removed one by one", nil
}

// sweep removes what any revision made: Helm looks at the last only, and an upgrade that failed half-way has two.
func (r *remover) sweep() (string, error) {
	seen := map[string]bool{}
	var names []string
	for _, record := range slices.Backward(r.records) {
		objects, err := parse(record.Manifest, r.Namespace, r.mapper)
		if err != nil {
			continue // a damaged record of the past
		}
		for _, o := range objects {
			if seen[o.id()] || o.mapping == nil || o.keeps() {
				seen[o.id()] = true
				continue
			}
			seen[o.id()] = true
			live, err := r.resource(o).Get(r.ctx, o.GetName(), metav1.GetOptions{})
			if err != nil || live.GetDeletionTimestamp() != nil || !r.owns(live) {
				continue
			}
			background := metav1.DeletePropagationBackground
			if err := r.resource(o).Delete(r.ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background}); err != nil && !apierrors.IsNotFound(err) {
				return "", explain("delete "+o.String(), err)
			}
			r.removed++
			names = append(names, o.String())
		}
	}
	return strings.Join(names, ", "), nil
}

// pods waits until the release's pods have ended.
func (r *remover) pods() (string, error) {
	ticker := time.NewTicker(r.PollInterval)
	defer ticker.Stop()
	most := 0
	for {
		pods, err := r.typed.CoreV1().Pods(r.Namespace).List(r.ctx, metav1.ListOptions{LabelSelector: labelInstance + "=" + r.Release})
		switch {
		case apierrors.IsForbidden(err):
			return "pods cannot be listed: not waited for", nil
		case err == nil && len(pods.Items) == 0:
			if most == 0 {
				return "", nil
			}
			return fmt.Sprintf("%d pods ended", most), nil
		case err == nil:
			most = max(most, len(pods.Items))
			r.doing = "waiting for pods to end: " + podNames(pods.Items)
		}
		select {
		case <-r.ctx.Done():
			return "", r.ctx.Err()
		case <-ticker.C:
		}
	}
}

func podNames(pods []corev1.Pod) string {
	var names []string
	for i := range pods {
		names = append(names, pods[i].Name)
	}
	return strings.Join(names, ", ")
}

// support removes what nopsctl and the agents made beside the chart, told by their labels. (The first heartbeats are told by
// the name of their state.)
func (r *remover) support() (string, error) {
	var names []string
	own := labelManagedBy + "=" + managerName + "," + labelPartOf + "=" + partOf
	agents := labelInstance + "=" + r.Release + "," + labelPartOf + "=" + partOf
	background := metav1.DeletePropagationBackground
	for _, kind := range []struct {
		gvr      schema.GroupVersionResource
		selector string
		named    []string
	}{
		{schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}, own, nil}, // of an interrupted test-connectivity
		{schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, own, nil},
		{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, own, []string{HeartbeatState}},
		{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, agents, nil},
		{schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, agents, nil},
	} {
		client := r.dynamic.Resource(kind.gvr).Namespace(r.Namespace)
		list, err := client.List(r.ctx, metav1.ListOptions{LabelSelector: kind.selector})
		if err != nil && !apierrors.IsForbidden(err) {
			return "", explain("list "+kind.gvr.Resource+" in "+r.Namespace, err)
		}
		doomed := slices.Clone(kind.named)
		if err == nil {
			for i := range list.Items {
				if o := (object{Unstructured: &list.Items[i]}); !o.keeps() {
					doomed = append(doomed, o.GetName())
				}
			}
		}
		for _, name := range doomed {
			err := client.Delete(r.ctx, name, metav1.DeleteOptions{PropagationPolicy: &background})
			switch {
			case err == nil:
				r.removed++
				names = append(names, kind.gvr.Resource+"/"+name)
			case !apierrors.IsNotFound(err):
				return "", explain("delete "+kind.gvr.Resource+" "+r.Namespace+"/"+name, err)
			}
		}
	}
	return strings.Join(append(names, r.forJobs()...), ", "), nil
}

// forJobs removes what was made for the time of a Job whose nopsctl was killed. Nobody needs it, so what cannot be seen or removed stops nothing.
func (r *remover) forJobs() (names []string) {
	const rbac, admission = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
	options := metav1.ListOptions{LabelSelector: labelManagedBy + "=" + managerName + "," + labelPartOf + "=" + partOf}
	for _, kind := range []struct {
		gvr        schema.GroupVersionResource
		namespaced bool
	}{
		{schema.GroupVersionResource{Group: rbac, Version: "v1", Resource: "clusterrolebindings"}, false}, {schema.GroupVersionResource{Group: rbac, Version: "v1", Resource: "clusterroles"}, false},
		{schema.GroupVersionResource{Group: rbac, Version: "v1", Resource: "rolebindings"}, true}, {schema.GroupVersionResource{Group: rbac, Version: "v1", Resource: "roles"}, true},
		{schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}, true},
		{schema.GroupVersionResource{Group: admission, Version: "v1", Resource: "validatingadmissionpolicybindings"}, false},
		{schema.GroupVersionResource{Group: admission, Version: "v1", Resource: "validatingadmissionpolicies"}, false},
	} {
		var client dynamic.ResourceInterface = r.dynamic.Resource(kind.gvr)
		if kind.namespaced {
			client = r.dynamic.Resource(kind.gvr).Namespace(r.Namespace)
		}
		list, err := client.List(r.ctx, options)
		if err != nil {
			continue
		}
		for i := range list.Items {
			o := &list.Items[i]
			namespace, _, made := strings.Cut(o.GetAnnotations()[ForJobAnnotation], "/")
			if made && namespace == r.Namespace && client.Delete(r.ctx, o.GetName(), metav1.DeleteOptions{}) == nil {
				r.removed++
				names = append(names, kind.gvr.Resource+"/"+o.GetName())
			}
		}
	}
	return names
}

// namespace removes the namespace when an install made it and nobody else has anything in it.
func (r *remover) namespace() (string, error) {
	ns, err := r.typed.CoreV1().Namespaces().Get(r.ctx, r.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case apierrors.IsForbidden(err):
		r.result.Kept = append(r.result.Kept, "Namespace "+r.Namespace+" (no permission to look at it)")
		return "kept: no permission to look at it", nil
	case err != nil:
		return "", explain("read namespace "+r.Namespace, err)
	case ns.Annotations[CreatedByAnnotation] != managerName:
		if r.removed > 0 {
			r.result.Kept = append(r.result.Kept, "Namespace "+r.Namespace+" (not made by "+managerName+")")
		}
		return "kept: not made by " + managerName, nil
	}
	others, err := r.others()
	if err != nil {
		others = []string{"what is in it could not be read: " + reason(err)}
	}
	if len(others) > 0 {
		why := strings.Join(others[:min(len(others), 5)], ", ")
		r.result.Kept = append(r.result.Kept, "Namespace "+r.Namespace+" ("+why+")")
		return "kept: " + why, nil
	}
	if err := r.typed.CoreV1().Namespaces().Delete(r.ctx, r.Namespace, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &ns.UID}}); err != nil && !apierrors.IsNotFound(err) {
		return "", explain("delete namespace "+r.Namespace, err)
	}
	r.removed++
	ticker := time.NewTicker(r.PollInterval)
	defer ticker.Stop()
	for {
		if _, err := r.typed.CoreV1().Namespaces().Get(r.ctx, r.Namespace, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return "", nil
		}
		select {
		case <-r.ctx.Done():
			return "", r.ctx.Err()
		case <-ticker.C:
		}
	}
}

// others lists what is in the namespace and belongs neither to the release nor to Kubernetes itself.
func (r *remover) others() ([]string, error) {
	client, err := r.Getter.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	client.Invalidate()
	lists, err := discovery.ServerPreferredNamespacedResources(client)
	if err != nil && len(lists) == 0 {
		return nil, err
	}
	var found []string
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil || gv.Group == "metrics.k8s.io" || gv.Group == "events.k8s.io" {
			continue
		}
		for _, resource := range list.APIResources {
			if resource.Kind == "Event" || !slices.Contains(resource.Verbs, "list") || !slices.Contains(resource.Verbs, "delete") || strings.Contains(resource.Name, "/") {
				continue
			}
			items, err := r.dynamic.Resource(gv.WithResource(resource.Name)).Namespace(r.Namespace).List(r.ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			for i := range items.Items {
				if o := &items.Items[i]; r.foreign(o, resource.Kind) {
					found = append(found, resource.Kind+" "+o.GetName())
				}
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

func (r *remover) foreign(o *unstructured.Unstructured, kind string) bool {
	switch {
	case o.GetDeletionTimestamp() != nil, len(o.GetOwnerReferences()) > 0, o.GetLabels()[labelInstance] == r.Release:
		return false
	case kind == "ConfigMap" && o.GetName() == "kube-root-ca.crt", kind == "ServiceAccount" && o.GetName() == "default":
		return false
	case kind == "Endpoints" || kind == "EndpointSlice":
		return false // follow their Service
	case kind == "Secret" && o.GetAnnotations()[corev1.ServiceAccountNameKey] == "default":
		return false
	}
	return true
}
