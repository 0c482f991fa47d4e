package conformance

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/pod-security-admission/policy"
)

// A Rule looks at one object, with the whole render at hand, and reports what it finds.
type Rule struct {
	ID     string
	Reason string
	look   func(s subject) error
}

// subject is what a rule looks at, and where it reports to.
type subject struct {
	Object
	render []Object
	report func(container, format string, args ...any)
}

// Inspect runs all rules over a render.
func Inspect(render string, objects []Object) ([]Finding, error) {
	var all []Finding
	rules := Rules()
	for _, o := range objects {
		for _, r := range rules {
			err := r.look(subject{Object: o, render: objects, report: func(container, format string, args ...any) {
				all = append(all, Finding{Case: render, Check: r.ID, Object: strings.TrimSuffix(o.ID()+"/"+container, "/"), Says: fmt.Sprintf(format, args...)})
			}})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.ID, err)
			}
		}
	}
	return all, nil
}

// Rules are the checks that others of kube-score's kind make and kube-score does not.
func Rules() []Rule {
	return append(podSecurity(),
		Rule{"rule/liveness-probe", "a container that hangs is never restarted (kube-score asks pods behind a Service alone)", livenessProbe},
		Rule{"rule/readiness-probe", "a rollout goes on over a container that does not work", readinessProbe},
		Rule{"rule/token", "who takes over the container speaks to the API server as its service account", token},
		Rule{"rule/priority", "under pressure the pod goes as early as any other, and the view of the pressure with it", priority},
		Rule{"rule/writes-to-node", "a writable path of the node is a way onto the node", writesToNode},
		Rule{"rule/plain-credential", "who may read the object reads the credential", plainCredential},
		Rule{"rule/rbac-wildcard", "a wildcard grants what nobody has thought of yet", wildcard},
		Rule{"rule/rbac-takeover", "each of these is a way to become somebody else", takeover},
		Rule{"rule/rbac-writes-everywhere", "a bug or a thief changes objects in every namespace", writesEverywhere},
		Rule{"rule/rbac-broad-binding", "a built-in role or a group of everybody goes further than the chart can know", broadBinding},
		Rule{"rule/exposed-service", "the pods can be reached from outside the cluster", exposedService},
		Rule{"rule/no-eviction", "a node can never be drained", noEviction},
		Rule{"rule/webhook-fails-closed", "when the webhook is down, nothing that it watches can be made", failsClosed},
	)
}

// podSecurity are the Pod Security Standards, by the code with which API servers enforce them, in their latest version.
func podSecurity() []Rule {
	checks := policy.DefaultChecks()
	overridden := map[policy.CheckID]bool{} // by a stricter one, which says the same
	for _, c := range checks {
		for _, id := range c.Versions[len(c.Versions)-1].OverrideCheckIDs {
			overridden[id] = true
		}
	}
	var rules []Rule
	for _, c := range checks {
		if overridden[c.ID] {
			continue
		}
		check := c.Versions[len(c.Versions)-1].CheckPod
		rules = append(rules, Rule{"pod-security/" + string(c.ID), "a namespace that enforces " + string(c.Level) + " refuses the pod", func(s subject) error {
			if s.Pod == nil {
				return nil
			}
			if result := check(&s.Pod.ObjectMeta, &s.Pod.Spec); !result.Allowed {
				s.report("", "%s", strings.TrimSuffix(result.ForbiddenReason+": "+result.ForbiddenDetail, ": "))
			}
			return nil
		}})
	}
	return rules
}

// running are the containers that are meant to run on.
func (s subject) running() []corev1.Container {
	if s.Pod == nil || !s.runsOn() {
		return nil
	}
	return s.Pod.Spec.Containers
}

func livenessProbe(s subject) error {
	for _, c := range s.running() {
		if c.LivenessProbe == nil {
			s.report(c.Name, "no liveness probe")
		}
	}
	return nil
}

func readinessProbe(s subject) error {
	for _, c := range s.running() {
		if c.ReadinessProbe == nil {
			s.report(c.Name, "no readiness probe")
		}
	}
	return nil
}

func token(s subject) error {
	if s.Pod != nil && (s.Pod.Spec.AutomountServiceAccountToken == nil || *s.Pod.Spec.AutomountServiceAccountToken) {
		s.report("", "a token is mounted")
	}
	return nil
}

func priority(s subject) error {
	if s.Pod != nil && s.Pod.Spec.PriorityClassName == "" {
		s.report("", "no priority class")
	}
	return nil
}

// each reads the rules of a Role or ClusterRole; other objects have none.
func (s subject) each(look func(rbacv1.PolicyRule)) error {
	if s.Kind != "Role" && s.Kind != "ClusterRole" {
		return nil
	}
	var role rbacv1.ClusterRole
	if err := s.decode(&role); err != nil {
		return err
	}
	for _, r := range role.Rules {
		look(r)
	}
	return nil
}

func wildcard(s subject) error {
	return s.each(func(r rbacv1.PolicyRule) {
		if strings.Contains(strings.Join(slices.Concat(r.APIGroups, r.Resources, r.NonResourceURLs, r.Verbs), " "), "*") { // of a part, too: */exec, /debug/*
			s.report("", "a wildcard: %s/%s: %s", strings.Join(r.APIGroups, ","), strings.Join(slices.Concat(r.Resources, r.NonResourceURLs), ","), strings.Join(r.Verbs, " "))
		}
	})
}

func takeover(s subject) error {
	resources := []string{"pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "pods/proxy", "services/proxy", "nodes/proxy", "serviceaccounts/token", "secrets"}
	verbs := []string{"escalate", "bind", "impersonate"}
	return s.each(func(r rbacv1.PolicyRule) {
		for _, resource := range r.Resources {
			if slices.Contains(resources, resource) {
				s.report("", "%s: %s", strings.Join(append([]string{resource}, r.ResourceNames...), " "), strings.Join(r.Verbs, " "))
			}
		}
		for _, verb := range r.Verbs {
			if slices.Contains(verbs, verb) {
				s.report("", "%s: %s", strings.Join(r.Resources, " "), verb)
			}
		}
	})
}

// writesEverywhere passes over rules that name the objects.
func writesEverywhere(s subject) error {
	if s.Kind != "ClusterRole" {
		return nil
	}
	return s.each(func(r rbacv1.PolicyRule) {
		writes := slices.DeleteFunc(slices.Clone(r.Verbs), func(verb string) bool { return slices.Contains([]string{"get", "list", "watch"}, verb) })
		for _, resource := range r.Resources {
			if len(writes) > 0 && len(r.ResourceNames) == 0 {
				s.report("", "%s: %s", strings.TrimPrefix(strings.Join(r.APIGroups, ",")+"/"+resource, "/"), strings.Join(writes, " "))
			}
		}
	})
}

func broadBinding(s subject) error {
	if s.Kind != "ClusterRoleBinding" && s.Kind != "RoleBinding" {
		return nil
	}
	var b rbacv1.ClusterRoleBinding
	if err := s.decode(&b); err != nil {
		return err
	}
	if b.RoleRef.Kind == "ClusterRole" && slices.Contains([]string{"cluster-admin", "admin", "edit", "view"}, b.RoleRef.Name) {
		s.report("", "binds %s", b.RoleRef.Name)
	}
	for _, who := range b.Subjects {
		if who.Kind != "ServiceAccount" {
			s.report("", "binds to %s %s", strings.ToLower(who.Kind), who.Name)
		}
	}
	return nil
}

func exposedService(s subject) error {
	if s.Kind != "Service" {
		return nil
	}
	var service corev1.Service
	if err := s.decode(&service); err != nil {
		return err
	}
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer || len(service.Spec.ExternalIPs) > 0 {
		s.report("", "type %s, external addresses %v", service.Spec.Type, service.Spec.ExternalIPs)
	}
	return nil
}

func failsClosed(s subject) error {
	if !strings.HasSuffix(s.Kind, "WebhookConfiguration") {
		return nil
	}
	var c admissionv1.ValidatingWebhookConfiguration // what is read here is the same in a mutating one
	if err := s.decode(&c); err != nil {
		return err
	}
	for _, w := range c.Webhooks {
		if w.FailurePolicy == nil || *w.FailurePolicy != admissionv1.Ignore {
			s.report(w.Name, "failurePolicy is not Ignore")
		}
	}
	return nil
}

func writesToNode(s subject) error {
	if s.Pod == nil {
		return nil
	}
	paths := map[string]string{}
	for _, v := range s.Pod.Spec.Volumes {
		if v.HostPath != nil {
			paths[v.Name] = v.HostPath.Path
		}
	}
	for _, c := range containers(s.Pod) {
		for _, m := range c.VolumeMounts {
			if path := paths[m.Name]; path != "" && !m.ReadOnly {
				s.report(c.Name, "%s of the node", path)
			}
		}
	}
	return nil
}

var (
	credentialName = regexp.MustCompile(`(?i)(password|passwd|secret|token|(api|access|private)_?key)`)
	// A name that ends so says where the credential is, not what.
	pointerName    = regexp.MustCompile(`(?i)_(file|path|dir|name|url|ref)$`)
	credentialText = regexp.MustCompile(`(?i)(password|passwd|(secret|access|api)[_-]?key|bearer[_-]?token)["']?\s*[:=]\s*["']?[^\s"'$<{]{6,}|-----BEGIN [A-Z ]*PRIVATE KEY`)
)

// plainCredential looks where a credential has no business: in plain variables, arguments and ConfigMaps.
func plainCredential(s subject) error {
	if s.Pod != nil {
		for _, c := range containers(s.Pod) {
			for _, e := range c.Env {
				if e.Value != "" && credentialName.MatchString(e.Name) && !pointerName.MatchString(e.Name) {
					s.report(c.Name, "variable %s", e.Name)
				}
			}
			for _, arg := range slices.Concat(c.Command, c.Args) {
				if credentialText.MatchString(arg) {
					name, _, _ := strings.Cut(arg, "=")
					s.report(c.Name, "argument %s", name)
				}
			}
		}
	}
	if s.Kind != "ConfigMap" {
		return nil
	}
	var config corev1.ConfigMap
	if err := s.decode(&config); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(config.Data)) {
		if credentialText.MatchString(config.Data[key]) {
			s.report("", "key %s", key)
		}
	}
	return nil
}

// noEviction finds a budget that lets no pod go, for the number of replicas that the render sets.
func noEviction(s subject) error {
	if s.Kind != "PodDisruptionBudget" {
		return nil
	}
	var budget policyv1.PodDisruptionBudget
	if err := s.decode(&budget); err != nil {
		return err
	}
	if most := budget.Spec.MaxUnavailable; most != nil && (most.String() == "0" || most.String() == "0%") {
		s.report("", "maxUnavailable %s", most)
	}
	least := budget.Spec.MinAvailable
	if least == nil || budget.Spec.Selector == nil {
		return nil
	}
	if least.String() == "100%" {
		s.report("", "minAvailable 100%%")
	}
	for _, o := range s.render {
		if o.Pod == nil || !selects(budget.Spec.Selector.MatchLabels, o.Pod.Labels) {
			continue
		}
		var w struct {
			Spec struct {
				Replicas *int `json:"replicas"`
			} `json:"spec"`
		}
		if err := o.decode(&w); err != nil {
			return err
		}
		if replicas := w.Spec.Replicas; replicas != nil && *replicas <= least.IntValue() {
			s.report("", "minAvailable %s of %d replicas of %s", least, *replicas, o.ID())
		}
	}
	return nil
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}
