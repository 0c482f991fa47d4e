package karpenops

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/karpenops/inventory"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/agents/karpenops/write"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

var (
	overlaysGVR    = schema.GroupVersionResource{Group: "karpenter.sh", Version: "v1alpha1", Resource: "nodeoverlays"}
	autoClassesGVR = schema.GroupVersionResource{Group: "eks.amazonaws.com", Version: "v1", Resource: "nodeclasses"}
)

// Names of the stories, each of which ends well with the chart's rights and not otherwise.
const (
	seesPools       = "a NodePool is seen, and one that is made later"
	seesClaims      = "a NodeClaim is seen, and one that is made later"
	seesOverlays    = "a NodeOverlay is seen, and one that is made later"
	seesClasses     = "an EC2NodeClass is seen, and one that is made later"
	seesAutoClasses = "a NodeClass of EKS Auto Mode is seen, and one that is made later"
	seesNodes       = "where a node is, is seen, and where one is that comes later"
	seesPods        = "what a pod asks for is seen, and what one does that comes later"
	makesSibling    = "a sibling is made"
	limitsSibling   = "a sibling gets another limit"
	deletesSibling  = "a drained sibling is deleted"
	makesOverlay    = "an overlay of a sibling is made"
	pricesOverlay   = "an overlay gets another price"
	deletesOverlay  = "an overlay is taken back"
	tells           = "people are told of a write"
	undoes          = "what Karpenter complains about is undone"
	approves        = "an approved change of an EC2NodeClass is made"
	approvesAuto    = "an approved change of a NodeClass of EKS Auto Mode is made"
	recordsFirst    = "an agent that never ran here decides and records it"
	pauses          = "a person pauses the agent"
	readsStatus     = "a person reads the status"
	readsFacts      = "plans follow the facts of a ConfigMap"
	leadsFirst      = "the first agent leads"
	leadsNext       = "an agent leads after another one"
)

// needs says what each right is for: by resource (with its group and, where the chart has them, names), by verb, the story that fails without.
func needs() map[string]map[string]string {
	return map[string]map[string]string{
		"nodepools.karpenter.sh": {
			"get": limitsSibling, "list": seesPools, "watch": seesPools, "create": makesSibling, "patch": limitsSibling, "delete": deletesSibling,
		},
		"nodeclaims.karpenter.sh": {"list": seesClaims, "watch": seesClaims},
		"nodeoverlays.karpenter.sh": {
			"get": deletesOverlay, "list": seesOverlays, "watch": seesOverlays, "create": makesOverlay, "patch": pricesOverlay, "delete": deletesOverlay,
		},
		"ec2nodeclasses.karpenter.k8s.aws": {"get": approves, "list": seesClasses, "watch": seesClasses, "patch": approves},
		"nodeclasses.eks.amazonaws.com":    {"get": approvesAuto, "list": seesAutoClasses, "watch": seesAutoClasses, "patch": approvesAuto},
		"nodes":                            {"list": seesNodes, "watch": seesNodes},
		"pods":                             {"list": seesPods, "watch": seesPods},
		"events":                           {"create": tells, "list": undoes},
		"configmaps":                       {"create": recordsFirst},
		"configmaps nops-karpenops-state":  {"get": readsStatus, "patch": pauses},
		"configmaps nops-karpenops-facts":  {"get": readsFacts},
		"leases.coordination.k8s.io":       {"create": leadsFirst},
		"leases.coordination.k8s.io nops-karpenops": {"get": leadsNext, "update": leadsNext},
	}
}

// shipped is how many rights the chart grants at the most.
const shipped = 35

// stories by name. An error is how one ends that does not end well; what only says that the test is wrong ends the test.
func stories() map[string]func(*scene) error {
	pending := func(s *scene, name string) {
		s.pod(name, map[string]string{"first": "123m", "second": "456m"}[name])
	}
	asks := func(w inventory.Snapshot, name string) bool {
		cpu := map[string]float64{"first": 0.123, "second": 0.456}[name]
		return slices.ContainsFunc(w.PlanShapes(w.PlanPools(inventory.Rules{Mode: karpenstate.ModeObserve, Budget: write.DriftBudget, Frozen: frozen})), func(sh plan.Shape) bool { return sh.CPU == cpu && sh.Pending == 1 })
	}
	class := func(w inventory.Snapshot, name string) bool {
		return slices.ContainsFunc(w.Classes, func(c inventory.Class) bool { return inventory.Name(c.Object) == name })
	}
	named := func(all []map[string]any, name string) bool {
		return slices.ContainsFunc(all, func(o map[string]any) bool { return inventory.Name(o) == name })
	}
	return map[string]func(*scene) error{
		seesPools: func(s *scene) error {
			return s.sees(func(name string) { s.make(poolsGVR, "kubectl", name, poolText) }, func(w inventory.Snapshot, name string) bool { return named(w.Pools, name) })
		},
		seesClaims: func(s *scene) error {
			return s.sees(func(name string) { s.make(claimsGVR, "karpenter", name, claimText) }, func(w inventory.Snapshot, name string) bool {
				return slices.ContainsFunc(w.Claims, func(c *inventory.Claim) bool { return c.Name == name })
			})
		},
		seesOverlays: func(s *scene) error {
			return s.sees(func(name string) { s.make(overlaysGVR, "kubectl", name, overlayText) }, func(w inventory.Snapshot, name string) bool { return named(w.Overlays, name) })
		},
		seesClasses: func(s *scene) error {
			return s.sees(func(name string) { s.make(classesGVR, "kubectl", name, classText) }, class)
		},
		seesAutoClasses: func(s *scene) error {
			s.make(poolsGVR, "kubectl", "auto", ofAuto(poolText))
			return s.sees(func(name string) { s.make(autoClassesGVR, "kubectl", name, autoClassText) }, class)
		},
		seesNodes: func(s *scene) error {
			return s.sees(s.node, func(w inventory.Snapshot, name string) bool { return w.Zones["id-"+name] == name })
		},
		seesPods: func(s *scene) error { return s.sees(func(name string) { pending(s, name) }, asks) },

		makesSibling: func(s *scene) error {
			if err := s.does(plan.Action{Kind: plan.CreateSibling, ObjectKind: "NodePool", Name: "spot", Object: object(s.t, siblingText)}); err != nil {
				return err
			}
			return s.have(poolsGVR, "spot")
		},
		limitsSibling: func(s *scene) error {
			s.make(poolsGVR, "nops-karpenops", "spot", siblingText)
			return s.limits()
		},
		deletesSibling: func(s *scene) error {
			s.make(poolsGVR, "nops-karpenops", "spot", strings.Replace(siblingText, `cpu: "16"`, `cpu: "0"`, 1))
			if err := s.does(plan.Action{Kind: plan.DeleteSibling, ObjectKind: "NodePool", Name: "spot"}); err != nil {
				return err
			}
			return s.haveNo(poolsGVR, "spot")
		},
		makesOverlay: func(s *scene) error {
			s.make(poolsGVR, "nops-karpenops", "spot", siblingText)
			if err := s.does(plan.Action{Kind: plan.CreateOverlay, ObjectKind: "NodeOverlay", Name: "spot", Object: object(s.t, overlayText)}); err != nil {
				return err
			}
			return s.have(overlaysGVR, "spot")
		},
		pricesOverlay: func(s *scene) error {
			s.make(poolsGVR, "nops-karpenops", "spot", siblingText)
			s.make(overlaysGVR, "nops-karpenops", "spot", overlayText)
			if err := s.does(plan.Action{Kind: plan.SetOverlay, ObjectKind: "NodeOverlay", Name: "spot", Changes: []plan.Change{{Path: "/spec/price", Before: "0.01", After: "0.02"}}}); err != nil {
				return err
			}
			return s.is(overlaysGVR, "spot", "0.02", "spec", "price")
		},
		deletesOverlay: func(s *scene) error {
			s.make(overlaysGVR, "nops-karpenops", "spot", overlayText)
			if err := s.does(plan.Action{Kind: plan.DeleteOverlay, ObjectKind: "NodeOverlay", Name: "spot"}); err != nil {
				return err
			}
			return s.haveNo(overlaysGVR, "spot")
		},
		tells: func(s *scene) error {
			s.make(poolsGVR, "nops-karpenops", "spot", siblingText)
			if err := s.limits(); err != nil {
				return err
			}
			all, err := s.p.client.CoreV1().Events(metav1.NamespaceDefault).List(s.t.Context(), metav1.ListOptions{})
			if err != nil {
				s.t.Fatal(err)
			}
			if !slices.ContainsFunc(all.Items, func(e corev1.Event) bool { return e.InvolvedObject.Name == "spot" && e.Reason == "KarpenopsApplied" }) {
				return fmt.Errorf("of %d Events none is about it", len(all.Items))
			}
			return nil
		},
		undoes: undoesStory,
		approves: func(s *scene) error {
			return s.approves(classesGVR, "EC2NodeClass/default", `{"spec":{"detailedMonitoring":true}}`, "true", "spec", "detailedMonitoring")
		},
		approvesAuto: func(s *scene) error {
			s.make(poolsGVR, "kubectl", "auto", ofAuto(poolText))
			s.make(autoClassesGVR, "kubectl", "default", autoClassText)
			return s.approves(autoClassesGVR, "NodeClass/default", `{"spec":{"ephemeralStorage":{"size":"120Gi"}}}`, "120Gi", "spec", "ephemeralStorage", "size")
		},

		recordsFirst: func(s *scene) error {
			return s.runs(func(*Agent) error {
				return s.await("a status in the cluster", func() bool {
					st, _, _ := s.p.state(s.t)
					return slices.ContainsFunc(st.Pools, func(p karpenstate.Pool) bool { return p.Name == "default" })
				})
			})
		},
		pauses: func(s *scene) error {
			s.state()
			if err := s.says("karpenops is paused", "pause", "--by=ann", "--why=load test"); err != nil {
				return err
			}
			if _, _, cm := s.p.state(s.t); cm.Annotations[karpenstate.AnnotationPausedBy] != "ann: load test" {
				return fmt.Errorf("it is not paused: %v", cm.Annotations)
			}
			return nil
		},
		readsStatus: func(s *scene) error {
			s.state()
			return s.says("of-a-story", "status")
		},
		readsFacts: func(s *scene) error { return s.says("create-sibling", "plan") },

		leadsFirst: func(s *scene) error { return s.leads() },
		leadsNext: func(s *scene) error {
			nobody, seconds := "", int32(1)
			lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "nops-karpenops"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &nobody, LeaseDurationSeconds: &seconds}}
			if _, err := s.p.client.CoordinationV1().Leases(agenttest.Namespace).Create(s.t.Context(), lease, metav1.CreateOptions{}); err != nil {
				s.t.Fatal(err)
			}
			return s.leads()
		},
	}
}

func undoesStory(s *scene) error {
	w := s.writer()
	if record, err := w.Apply(s.t.Context(), plan.Action{ID: "a", Kind: plan.CreateSibling, ObjectKind: "NodePool", Name: "spot", Base: "default", Object: object(s.t, siblingText), Reason: "a story"}, write.Meta{}); err != nil {
		return fmt.Errorf("%s: %w", record.Outcome, err)
	}
	at := metav1.NewTime(time.Now().Add(2 * time.Second))
	if _, err := s.p.client.CoreV1().Events(metav1.NamespaceDefault).Create(s.t.Context(), &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e-"}, InvolvedObject: corev1.ObjectReference{Kind: "NodePool", Name: "spot"}, Reason: "NoCompatibleInstanceTypes", Message: "nothing", FirstTimestamp: at, LastTimestamp: at,
	}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := w.Settle(s.t.Context()); err != nil {
		return err
	}
	return s.is(poolsGVR, "spot", "0", "spec", "limits", "cpu")
}

// testRights proves the chart's roles minimal. A story for each right ends well with exactly the shipped rights, without being refused anything. Without that
// one right it does not, and what it is refused is that and nothing else. A right that no story needs has no business in the chart.
func testRights(t *testing.T, p *place) {
	all := p.rights(t)
	told, has := needs(), stories()
	covered := map[string]bool{}
	for what, verbs := range told {
		for verb, story := range verbs {
			if has[story] == nil {
				t.Errorf("%s %s: there is no story %q", what, verb, story)
			}
			covered[story] = true
			if _, is := all[what+" "+verb]; !is {
				t.Errorf("story %q is told of %s %s, which the chart does not grant", story, what, verb)
			}
		}
	}
	for _, story := range slices.Sorted(maps.Keys(has)) {
		if !covered[story] {
			t.Errorf("story %q is about no right", story)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if told[all[name].what][all[name].verb] == "" {
			t.Errorf("the chart grants %s (%s), and no story says what for", name, all[name].role.key())
		}
	}
	if len(all) != shipped {
		t.Errorf("the chart grants %d rights, %d were counted: count again, for each is one more that somebody has to answer for", len(all), shipped)
	}
	if t.Failed() {
		return
	}
	p.serveAuto(t)
	const facts = FactsConfigMap + "nops-karpenops-facts"
	logs := &agenttest.Buffer{}
	log := agent.NewLogger(logs, slog.LevelDebug, agenttest.APIKey)
	klog.SetSlogLogger(log) // as the program does: what client-go says is what people see
	defer klog.ClearLogger()
	play := func(t *testing.T, facts, story string) (s *scene, err error) {
		s = &scene{t: t, p: p, facts: facts, log: log, logs: logs, from: len(logs.String())}
		s.kube = rest.CopyConfig(p.agent)
		s.kube.Wrap(s.listen)
		s.set()
		klog.SetSlogLogger(log) // the commands set theirs
		err = has[story](s)
		return s, err
	}
	well := func(t *testing.T, facts, story string) {
		s, err := play(t, facts, story)
		if err != nil {
			t.Errorf("with the chart's rights: %v", err)
		}
		if refused := s.refused(); len(refused) > 0 {
			t.Errorf("with the chart's rights the API server refused: %v", refused)
		}
		if t.Failed() {
			t.Logf("logs:\n%s", s.said())
		}
	}
	for _, story := range slices.Sorted(maps.Keys(has)) {
		t.Run("all rights: "+story, func(t *testing.T) { well(t, facts, story) })
	}
	if t.Failed() {
		return // what fails anyhow proves nothing
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r := all[name]
		story := told[r.what][r.verb]
		t.Run("without "+name+": "+story, func(t *testing.T) {
			p.without(t, r, func() {
				s, err := play(t, facts, story)
				want := fmt.Sprintf("%s %s.%s", r.verb, r.attributes.Resource, r.attributes.Group)
				switch refused := s.refused(); {
				case err == nil:
					t.Errorf("the story ends as well: the right is of no use, or the story does not show which")
				case !slices.Equal(refused, []string{want}):
					t.Errorf("the story fails (%v), and what the API server refused is %q, want %q alone", err, refused, want)
				}
				if cannot := fmt.Sprintf("cannot %s resource %q", r.verb, r.attributes.Resource); err != nil && !strings.Contains(err.Error()+s.said(), cannot) {
					t.Errorf("neither the logs nor what the story ended with says that the agent %s: %v", cannot, err)
				}
				if t.Failed() {
					t.Logf("logs:\n%s", s.said())
				}
			})
		})
	}
	t.Run("by default", func(t *testing.T) {
		p.withoutSettings(t, all, func(t *testing.T, story string) { well(t, FactsPlatform, story) }, func(t *testing.T, story string) {
			if _, err := play(t, FactsPlatform, story); err == nil {
				t.Error("it ends well by default: what a setting grants is of no use")
			}
		})
	})
}

// withoutSettings plays all stories with the roles of the default render. Those end well that need no right of a role that some setting adds.
func (p *place) withoutSettings(t *testing.T, all map[string]right, well, ill func(t *testing.T, story string)) {
	usual := rolesOf(t, "all-default.yaml")
	added, needsMore := map[string]right{}, map[string]bool{}
	for _, r := range all {
		if usual[r.role.key()] == nil {
			added[r.role.key()] = r
			needsMore[needs()[r.what][r.verb]] = true
		}
	}
	for key, rules := range usual {
		if !slices.ContainsFunc(slices.Collect(maps.Values(all)), func(r right) bool { return r.role.key() == key && slices.EqualFunc(rules, r.role.rules, same) }) {
			t.Errorf("%s has other rules by default than with all settings: %v", key, rules)
		}
	}
	if len(usual) != 2 || len(added) != 3 || len(needsMore) != 5 {
		t.Fatalf("by default there are the roles %v; settings add %v, for the stories %v", slices.Sorted(maps.Keys(usual)), slices.Sorted(maps.Keys(added)), needsMore)
	}
	for _, r := range added {
		none := r.role
		none.rules = nil
		p.grant(t, none, r.attributes, false)
		defer p.grant(t, r.role, r.attributes, true)
	}
	for story := range stories() {
		t.Run(story, func(t *testing.T) {
			if needsMore[story] {
				ill(t, story)
				return
			}
			well(t, story)
		})
	}
}

func same(a, b rbacv1.PolicyRule) bool { return a.String() == b.String() }

// rolesOf reads the roles of a golden render, each right as a rule of its own.
func rolesOf(t *testing.T, golden string) map[string][]rbacv1.PolicyRule {
	t.Helper()
	data, err := os.ReadFile("../../embedded-chart/testdata/golden/" + golden)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]rbacv1.PolicyRule{}
	for doc := range strings.SplitSeq("\n"+string(data), "\n---\n") {
		var o rbacv1.ClusterRole // a Role has the same fields
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil || o.Labels["app.kubernetes.io/component"] != component || o.Kind != "ClusterRole" && o.Kind != "Role" {
			continue
		}
		for _, rule := range o.Rules {
			all[o.Kind+" "+o.Name] = append(all[o.Kind+" "+o.Name], single(rule)...)
		}
	}
	return all
}

// A right is one verb on one resource, as one rule of the chart grants it.
type right struct {
	what, verb string // "configmaps nops-karpenops-state", "get"
	role       role
	attributes authorizationv1.ResourceAttributes
}

// A role of the chart's, with each right as a rule of its own.
type role struct {
	namespace, name string // of a ClusterRole there is no namespace
	rules           []rbacv1.PolicyRule
}

func (r role) key() string {
	if r.namespace == "" {
		return "ClusterRole " + r.name
	}
	return "Role " + r.name
}

// rights are those of the chart as the API server has them, by what they are about and their verb.
func (p *place) rights(t *testing.T) map[string]right {
	t.Helper()
	of := metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component}
	var roles []role
	cluster, err := p.client.RbacV1().ClusterRoles().List(t.Context(), of)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range cluster.Items {
		roles = append(roles, role{"", r.Name, r.Rules})
	}
	own, err := p.client.RbacV1().Roles("").List(t.Context(), of)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range own.Items {
		roles = append(roles, role{r.Namespace, r.Name, r.Rules})
	}
	const want = 5 // three of the cluster, two of the namespace
	if len(roles) != want {
		t.Fatalf("%d roles, want %d", len(roles), want)
	}
	all := map[string]right{}
	for _, r := range roles {
		var rules []rbacv1.PolicyRule
		for _, rule := range r.rules {
			if len(rule.NonResourceURLs) > 0 || slices.Contains(slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs), "*") {
				t.Errorf("%s: a rule that nobody can call minimal: %v", r.key(), rule)
			}
			rules = append(rules, single(rule)...)
		}
		r.rules = rules
		for _, rule := range rules {
			one := right{verb: rule.Verbs[0], role: r, what: rule.Resources[0]}
			one.attributes = authorizationv1.ResourceAttributes{Namespace: r.namespace, Verb: one.verb, Group: rule.APIGroups[0], Resource: rule.Resources[0]}
			if one.attributes.Group != "" {
				one.what += "." + one.attributes.Group
			}
			if len(rule.ResourceNames) > 0 {
				one.what += " " + rule.ResourceNames[0]
				one.attributes.Name = rule.ResourceNames[0]
			}
			name := one.what + " " + one.verb
			if before, is := all[name]; is {
				t.Errorf("%s is granted twice, by %s and %s", name, before.role.key(), r.key())
			}
			all[name] = one
		}
	}
	return all
}

// single takes a rule apart into rules of one verb on one resource.
func single(rule rbacv1.PolicyRule) []rbacv1.PolicyRule {
	names := [][]string{nil}
	if len(rule.ResourceNames) > 0 {
		names = nil
		for _, name := range rule.ResourceNames {
			names = append(names, []string{name})
		}
	}
	var all []rbacv1.PolicyRule
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				for _, name := range names {
					all = append(all, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: name, Verbs: []string{verb}})
				}
			}
		}
	}
	return all
}

// without does something while the service account has all rights but one.
func (p *place) without(t *testing.T, r right, do func()) {
	t.Helper()
	fewer := r.role
	fewer.rules = slices.DeleteFunc(slices.Clone(r.role.rules), func(rule rbacv1.PolicyRule) bool {
		return rule.Verbs[0] == r.verb && rule.Resources[0] == r.attributes.Resource && rule.APIGroups[0] == r.attributes.Group && strings.Join(rule.ResourceNames, " ") == r.attributes.Name
	})
	if len(fewer.rules) != len(r.role.rules)-1 {
		t.Fatalf("%d rules of %d are left", len(fewer.rules), len(r.role.rules))
	}
	p.grant(t, fewer, r.attributes, false)
	defer p.grant(t, r.role, r.attributes, true)
	do()
}

// grant gives a role its rules, and waits until the API server goes by them.
func (p *place) grant(t *testing.T, r role, about authorizationv1.ResourceAttributes, allowed bool) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if r.namespace == "" {
		have, err := p.client.RbacV1().ClusterRoles().Get(ctx, r.name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		have.Rules = r.rules
		if _, err := p.client.RbacV1().ClusterRoles().Update(ctx, have, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	} else {
		have, err := p.client.RbacV1().Roles(r.namespace).Get(ctx, r.name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		have.Rules = r.rules
		if _, err := p.client.RbacV1().Roles(r.namespace).Update(ctx, have, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: p.agent.Impersonate.UserName, Groups: p.agent.Impersonate.Groups, ResourceAttributes: &about}}
	eventually(t, fmt.Sprintf("%s %s %s allowed: %v (if it is granted twice, never)", about.Verb, about.Resource, about.Name, allowed), 30*time.Second, func() bool {
		answer, err := p.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status.Allowed == allowed
	})
}

// serveAuto makes the API server serve the node classes of EKS Auto Mode, of which no schema is published.
func (p *place) serveAuto(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nodeclasses.yaml")
	if err := os.WriteFile(file, []byte(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: nodeclasses.eks.amazonaws.com}
spec:
  group: eks.amazonaws.com
  scope: Cluster
  names: {kind: NodeClass, listKind: NodeClassList, plural: nodeclasses, singular: nodeclass}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := envtest.InstallCRDs(p.config, envtest.CRDInstallOptions{Paths: []string{file}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
}

// A scene is what a story plays in: a cluster with one NodePool of the user's, and an agent with the rights that it has at that moment.
type scene struct {
	t    *testing.T
	p    *place
	kube *rest.Config // with the agent's rights, listened to
	log  *slog.Logger
	logs *agenttest.Buffer
	from int // of the logs, where the scene begins
	// facts is where the agent has them from.
	facts string

	mu     sync.Mutex
	denied []string
	first  time.Time // when something was denied
}

// said is what was logged since the scene began.
func (s *scene) said() string { return strings.ReplaceAll(s.logs.String()[s.from:], `\"`, `"`) }

// set clears the stage.
func (s *scene) set() {
	s.t.Helper()
	ctx := s.t.Context()
	every := func(err error) {
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Fatal(err)
		}
	}
	s.p.clear(s.t)
	for _, r := range []schema.GroupVersionResource{overlaysGVR, autoClassesGVR, corev1.SchemeGroupVersion.WithResource("nodes")} {
		every(s.p.dynamic.Resource(r).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	}
	atOnce := int64(0)
	every(s.p.client.CoreV1().Pods(agenttest.Namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &atOnce}, metav1.ListOptions{}))
	every(s.p.client.CoreV1().Events(metav1.NamespaceDefault).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	every(s.p.client.CoordinationV1().Leases(agenttest.Namespace).Delete(ctx, "nops-karpenops", metav1.DeleteOptions{}))
	every(s.p.client.CoreV1().ConfigMaps(agenttest.Namespace).Delete(ctx, "nops-karpenops-facts", metav1.DeleteOptions{}))
	m, c := now(1)
	facts := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "nops-karpenops-facts"}, Data: map[string]string{KeyMarket: string(mustJSON(s.t, m)), KeyCommitments: string(mustJSON(s.t, c))}}
	_, err := s.p.client.CoreV1().ConfigMaps(agenttest.Namespace).Create(ctx, facts, metav1.CreateOptions{})
	every(err)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}} // no controller makes it here, and no pod is without
	if _, err = s.p.client.CoreV1().ServiceAccounts(agenttest.Namespace).Create(ctx, account, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		every(err)
	}
	s.p.create(s.t, classesGVR, classText)
	s.p.create(s.t, poolsGVR, poolText)
}

var refusal = regexp.MustCompile(`cannot (\w+) resource \\?"([\w./-]+)\\?" in API group \\?"([\w.-]*)\\?"`)

// listen notes what the API server refuses for want of a right.
func (s *scene) listen(next http.RoundTripper) http.RoundTripper {
	return listener(func(r *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err != nil || answer.StatusCode != http.StatusForbidden {
			return answer, err
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		answer.Body = io.NopCloser(bytes.NewReader(body))
		if m := refusal.FindSubmatch(body); m != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.denied = append(s.denied, fmt.Sprintf("%s %s.%s", m[1], m[2], m[3]))
			if s.first.IsZero() {
				s.first = time.Now()
			}
		}
		return answer, err
	})
}

type listener func(*http.Request) (*http.Response, error)

func (l listener) RoundTrip(r *http.Request) (*http.Response, error) { return l(r) }

// refused are the rights that were asked for in vain.
func (s *scene) refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(s.denied)))
}

// await waits for what comes by itself. Where something was denied it is not waited for long.
func (s *scene) await(what string, check func() bool) error {
	const limit, grace = time.Minute, time.Second
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if check() {
			return nil
		}
		s.mu.Lock()
		first := s.first
		s.mu.Unlock()
		if time.Since(began) > limit || !first.IsZero() && time.Since(first) > grace && time.Since(began) > grace {
			return fmt.Errorf("not there: %s", what)
		}
	}
}

// sees watches the cluster while one object is there and another comes.
func (s *scene) sees(put func(name string), there func(w inventory.Snapshot, name string) bool) error {
	put("first")
	var ahead atomic.Int64
	w, err := inventory.New(inventory.Options{Kube: s.kube, UserAgent: "story", Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, w.Tasks()...) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the watcher ended with %v", err)
		}
	}()
	err = s.await("the first", func() bool { return there(w.Snapshot(), "first") })
	if err == nil {
		put("second")
		err = s.await("the second", func() bool { return there(w.Snapshot(), "second") })
	}
	if err != nil {
		ahead.Store(int64(time.Hour)) // what is behind is worth a word after a while
		snapshot := w.Snapshot()
		return fmt.Errorf("%w; the inventory says: %s; %s", err, snapshot.Problem, snapshot.Karpenter.DetectionProblem)
	}
	return nil
}

const siblingText = `
apiVersion: karpenter.sh/v1
kind: NodePool
metadata:
  name: spot
  labels: {karpenops.nops.io/owned: "true"}
  annotations: {karpenops.nops.io/base: default, karpenops.nops.io/purpose: spot}
spec:
  weight: 20
  limits: {cpu: "16"}
  template:
    spec:
      expireAfter: 720h
      nodeClassRef: {group: karpenter.k8s.aws, kind: EC2NodeClass, name: default}
      requirements:
        - {key: karpenter.sh/capacity-type, operator: In, values: [spot]}
        - {key: kubernetes.io/arch, operator: In, values: [amd64]}
`

const overlayText = `
apiVersion: karpenter.sh/v1alpha1
kind: NodeOverlay
metadata: {name: spot, labels: {karpenops.nops.io/owned: "true"}}
spec:
  price: "0.01"
  requirements: [{key: karpenter.sh/nodepool, operator: In, values: [spot]}]
`

const claimText = `
apiVersion: karpenter.sh/v1
kind: NodeClaim
metadata: {name: default, labels: {karpenter.sh/nodepool: default}}
spec:
  nodeClassRef: {group: karpenter.k8s.aws, kind: EC2NodeClass, name: default}
  requirements: []
`

const autoClassText = `
apiVersion: eks.amazonaws.com/v1
kind: NodeClass
metadata: {name: default}
spec: {ephemeralStorage: {size: 80Gi}}
`

// ofAuto is a NodePool of EKS Auto Mode.
func ofAuto(pool string) string {
	return strings.Replace(pool, "group: karpenter.k8s.aws, kind: EC2NodeClass", "group: eks.amazonaws.com, kind: NodeClass", 1)
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// make makes an object as somebody.
func (s *scene) make(r schema.GroupVersionResource, manager, name, text string) {
	s.t.Helper()
	o := &unstructured.Unstructured{Object: object(s.t, text)}
	o.SetName(name)
	if _, err := s.p.dynamic.Resource(r).Create(s.t.Context(), o, metav1.CreateOptions{FieldManager: manager}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) node(name string) {
	s.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"topology.kubernetes.io/zone": name, "topology.k8s.aws/zone-id": "id-" + name}}}
	if _, err := s.p.client.CoreV1().Nodes().Create(s.t.Context(), node, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) pod(name, cpu string) {
	s.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "app", Image: "registry.example.com/app:1.0.0", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
	}}}}
	if _, err := s.p.client.CoreV1().Pods(agenttest.Namespace).Create(s.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// state makes what an agent of before has recorded.
func (s *scene) state() {
	s.t.Helper()
	status := mustJSON(s.t, karpenstate.Status{SchemaVersion: 1, Version: "of-a-story"})
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: karpenstate.ConfigMap}, Data: map[string]string{karpenstate.KeyStatus: string(status)}}
	if _, err := s.p.client.CoreV1().ConfigMaps(agenttest.Namespace).Create(s.t.Context(), cm, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// agent is one that would do all that the chart can grant; mode says how far it goes by itself.
func (s *scene) agent(mode karpenstate.Mode) *Agent {
	s.t.Helper()
	o := Options{
		PlatformOptions: agent.PlatformOptions{APIKey: agenttest.APIKey, Host: "https://nops.test", ClusterARN: agenttest.ClusterARN},
		ProcessOptions:  agent.ProcessOptions{Namespace: agenttest.Namespace, Release: agenttest.Release, LogLevel: "debug"},
		Mode:            string(mode), Facts: s.facts, Overlays: "on", Tick: 5 * time.Second, Prove: 5 * time.Minute, PoolEvery: 30 * time.Minute, ClassApproval: true,
	}
	if err := o.Validate(); err != nil {
		s.t.Fatal(err)
	}
	a, err := New(o, Deps{Kube: s.kube, Platform: clientOf(s.t, agenttest.NewPlatform(s.t, 0)), Version: "1.2.3", Candidate: "story", Log: s.log})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// runs has an agent run meanwhile.
func (s *scene) runs(do func(a *Agent) error) error {
	a := s.agent(karpenstate.ModeAdvise)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	err := do(a)
	cancel()
	if ended := <-done; ended != nil {
		s.t.Errorf("the agent ended with: %v", ended)
	}
	return err
}

func (s *scene) leads() error {
	return s.runs(func(*Agent) error {
		return s.await("the agent's name in the Lease", func() bool {
			lease, err := s.p.client.CoordinationV1().Leases(agenttest.Namespace).Get(s.t.Context(), "nops-karpenops", metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				s.t.Fatal(err)
			}
			return err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == "story"
		})
	})
}

// writer is the agent's, with a catalogue that always has something and without the limits of pace.
func (s *scene) writer() *write.Writer {
	s.t.Helper()
	kube, err := write.NewClient(s.kube, "story")
	if err != nil {
		s.t.Fatal(err)
	}
	d := s.agent(karpenstate.ModeInPlace).writing(kube)
	d.Effective = func(map[string]any) (int, bool) { return 20, true }
	d.Limits = write.Limits{Mode: karpenstate.ModeInPlace, WritesPerHour: 1000, PoolEvery: time.Nanosecond, DrainGrace: time.Nanosecond}
	return write.New(d)
}

// does carries out what the planner might have decided.
func (s *scene) does(a plan.Action) error {
	a.ID, a.Base, a.Reason = "a", "default", "a story"
	record, err := s.writer().Apply(s.t.Context(), a, write.Meta{})
	if err != nil {
		return fmt.Errorf("%s: %w", a.Kind, err)
	}
	if record.Outcome != write.Applied {
		return fmt.Errorf("%s: %s: %s", a.Kind, record.Outcome, record.Explanation)
	}
	return nil
}

func (s *scene) limits() error {
	if err := s.does(plan.Action{Kind: plan.SetLimits, ObjectKind: "NodePool", Name: "spot", Changes: []plan.Change{{Path: "/spec/limits/cpu", Before: "16", After: "17"}}}); err != nil {
		return err
	}
	return s.is(poolsGVR, "spot", "17", "spec", "limits", "cpu")
}

// approves carries out a finding as `karpenops approve` does.
func (s *scene) approves(r schema.GroupVersionResource, of, patch, want string, path ...string) error {
	finding := nopsapi.KarpenterFinding{ID: "f", Code: "story", Object: of, Message: "a story", Patch: patch}
	if _, err := s.writer().Approve(s.t.Context(), write.Approval{Finding: finding, By: "ann"}); err != nil {
		return err
	}
	return s.is(r, "default", want, path...)
}

// says runs a command of the program.
func (s *scene) says(part string, args ...string) error {
	mine := *s.p
	mine.agent = s.kube
	if out, code := mine.command(s.t, args...); code != 0 || !strings.Contains(out, part) {
		out = strings.ReplaceAll(out, `\"`, `"`)
		return fmt.Errorf("%v: code %d, no %q in:\n%s", args, code, part, out)
	}
	return nil
}

// is compares a field of an object as somebody sees it who may see everything.
func (s *scene) is(r schema.GroupVersionResource, name, want string, path ...string) error {
	s.t.Helper()
	o, err := s.p.dynamic.Resource(r).Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.Resource, name, err)
	}
	if have, _, _ := unstructured.NestedFieldNoCopy(o.Object, path...); fmt.Sprint(have) != want {
		return fmt.Errorf("%s of %s %s is %v, want %s", strings.Join(path, "."), r.Resource, name, have, want)
	}
	return nil
}

func (s *scene) have(r schema.GroupVersionResource, name string) error {
	return s.is(r, name, name, "metadata", "name")
}

func (s *scene) haveNo(r schema.GroupVersionResource, name string) error {
	err := s.have(r, name)
	switch {
	case err == nil:
		return fmt.Errorf("%s %s is still there", r.Resource, name)
	case !apierrors.IsNotFound(err):
		return err
	}
	return nil
}
