package policy

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

func policyOf(name string, priority int32, edit func(*rightsizing.PolicySpec)) rightsizing.Policy {
	p := rightsizing.Policy{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Generation: 3}, Spec: rightsizing.PolicySpec{Level: rightsizing.BalancedSavings, Priority: priority}}
	if edit != nil {
		edit(&p.Spec)
	}
	return p
}

func workload(kind, namespace, name string, labels map[string]string) Workload {
	return Workload{Kind: kind, Object: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Containers: []string{"main"}}
}

func world() Input {
	return Input{
		Namespaces: map[string]metav1.ObjectMeta{"a": {Name: "a", Labels: map[string]string{"team": "a"}}, "b": {Name: "b"}, "nops": {Name: "nops"}},
		Ignored:    []string{"nops", "kube-system"},
		Workloads: []Workload{
			workload("Deployment", "a", "web", map[string]string{"tier": "front"}), workload("StatefulSet", "a", "db", nil), workload("DaemonSet", "b", "agent", nil),
			workload("CronJob", "b", "nightly", nil), workload("Deployment", "nops", "ours", nil), workload("Deployment", "gone", "orphan", nil),
		},
	}
}

// made are the autoscalers as NAMESPACE/NAME=POLICY:MODE.
func made(o Outcome) (out []string) {
	for _, a := range o.Autoscalers {
		u := unstructured.Unstructured{Object: a.Object}
		mode, _, _ := unstructured.NestedString(a.Object, "spec", "updatePolicy", "updateMode")
		out = append(out, u.GetNamespace()+"/"+u.GetName()+"="+a.Policy.Name+":"+mode)
	}
	slices.Sort(out)
	return out
}

// mistaken is a policy that selects all, comes first and cannot be understood, beside one that sizes.
func mistaken(edit func(*Input)) func(*Input) {
	return func(in *Input) {
		in.Policies = []rightsizing.Policy{policyOf("bad", 9, func(s *rightsizing.PolicySpec) {
			s.Windows = []rightsizing.Window{{Schedule: "0 25 * * *", Duration: metav1.Duration{Duration: 3600e9}}}
		}), policyOf("p", 0, nil)}
		in.Existing = []Existing{{Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web", Sized: true}}
		if edit != nil {
			edit(in)
		}
	}
}

func TestWhichPolicyHolds(t *testing.T) {
	all := func(p string) []string {
		return []string{"a/deployment-web=" + p, "a/statefulset-db=" + p, "b/cronjob-nightly=" + p, "b/daemonset-agent=" + p}
	}
	for _, c := range []struct {
		name   string
		edit   func(*Input)
		want   []string
		delete []string
		leave  []string // first those that go, then those that stay
		stop   []string
		ready  map[string]string // reasons
	}{
		{name: "none", edit: func(*Input) {}},
		{name: "one for all but the stack's namespace and those that are not there", edit: func(in *Input) { in.Policies = []rightsizing.Policy{policyOf("p", 0, nil)} }, want: all("p:InPlace"), ready: map[string]string{"p": "Applied"}},
		{name: "the higher priority, then the first by name", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{
				policyOf("z", 5, func(s *rightsizing.PolicySpec) {
					s.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "front"}}
					s.Apply = rightsizing.ApplyInPlaceOrRecreate
				}),
				policyOf("y", 0, nil), policyOf("x", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"CronJob"}; s.Apply = rightsizing.ApplyInitial }),
			}
		}, want: []string{"a/deployment-web=z:InPlaceOrRecreate", "a/statefulset-db=y:InPlace", "b/cronjob-nightly=x:Initial", "b/daemonset-agent=y:InPlace"}},
		{name: "by the labels of namespaces", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) {
				s.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
			})}
		}, want: []string{"a/deployment-web=p:InPlace", "a/statefulset-db=p:InPlace"}},
		{name: "paused and dry run change nothing", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 1, func(s *rightsizing.PolicySpec) { s.Paused = true; s.Kinds = []string{"Deployment"} }), policyOf("q", 0, func(s *rightsizing.PolicySpec) { s.DryRun = true })}
		}, want: []string{"a/deployment-web=p:Off", "a/statefulset-db=q:Off", "b/cronjob-nightly=q:Off", "b/daemonset-agent=q:Off"}, ready: map[string]string{"p": "Paused", "q": "Applied"}},
		{name: "kept away by annotations, of whatever value but false", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, nil)}
			in.Workloads[0].Object.Annotations = map[string]string{rightsizing.AnnotationOff: "yes"}
			in.Workloads[1].Object.Annotations = map[string]string{rightsizing.AnnotationOff: "false"}
			in.Namespaces["b"] = metav1.ObjectMeta{Name: "b", Annotations: map[string]string{rightsizing.AnnotationOff: "true"}}
		}, want: []string{"a/statefulset-db=p:InPlace"}},
		{name: "reverted ones recommend only, and the policy too when it is marked", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"Deployment", "StatefulSet"} })}
			in.Existing = []Existing{{Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web", Reverted: true}}
		}, want: []string{"a/deployment-web=p:Off", "a/statefulset-db=p:InPlace"}},
		{name: "a person's own autoscaler wins", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, nil)}
			in.Existing = []Existing{{Namespace: "a", Name: "mine", Target: "Deployment/web"}, {Namespace: "b", Name: "other", Target: "StatefulSet/db"}}
		}, want: all("p:InPlace")[1:]},
		{name: "a copy of the Kubernetes VPA's is nobody's wish until somebody turns it on", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"Deployment", "StatefulSet"} })}
			in.Existing = []Existing{
				{Namespace: "a", Name: "goldilocks-web", Target: "Deployment/web", Imported: true, Off: true}, {Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web", Sized: true},
				{Namespace: "a", Name: "goldilocks-db", Target: "StatefulSet/db", Imported: true},
				{Namespace: "b", Name: "goldilocks-agent", Target: "DaemonSet/agent", Imported: true, Off: true}, {Namespace: "b", Name: "daemonset-agent", Policy: "p", Target: "DaemonSet/agent", Sized: true},
			}
		}, want: []string{"a/deployment-web=p:InPlace"}, leave: []string{"b/daemonset-agent"}},
		{name: "what has no reason any more goes, and nobody else's", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"StatefulSet"} })}
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web"}, {Namespace: "a", Name: "statefulset-db", Policy: "p", Target: "StatefulSet/db"},
				{Namespace: "b", Name: "daemonset-agent", Policy: "deleted", Target: "DaemonSet/agent"}, {Namespace: "b", Name: "mine", Target: "Deployment/x"},
			}
		}, want: []string{"a/statefulset-db=p:InPlace"}, delete: []string{"a/deployment-web", "b/daemonset-agent"}},
		{name: "where pods were sized they are given back first", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"StatefulSet"}; s.DryRun = true })}
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web", Sized: true}, {Namespace: "a", Name: "statefulset-db", Policy: "q", Target: "StatefulSet/db", Sized: true},
				{Namespace: "b", Name: "daemonset-agent", Policy: "deleted", Target: "DaemonSet/agent", Sized: true},
			}
		}, want: []string{"a/statefulset-db=p:Off"}, leave: []string{"a/deployment-web", "b/daemonset-agent", "a/statefulset-db"}},
		{name: "a paused policy changes nothing, and lets nothing go", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"StatefulSet"}; s.Paused, s.DryRun = true, true })}
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web", Sized: true}, {Namespace: "a", Name: "statefulset-db", Policy: "p", Target: "StatefulSet/db", Sized: true},
				{Namespace: "b", Name: "daemonset-agent", Policy: "p", Target: "DaemonSet/agent"},
			}
		}, want: []string{"a/statefulset-db=p:Off"}, stop: []string{"a/deployment-web", "b/daemonset-agent"}},
		{name: "what another policy selects of one that is paused goes on with that", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds, s.Paused = []string{"StatefulSet"}, true }), policyOf("q", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"Deployment"} })}
			in.Existing = []Existing{{Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web", Sized: true}}
		}, want: []string{"a/deployment-web=q:InPlace", "a/statefulset-db=p:Off"}},
		{name: "another one that sizes takes over, and so does a person's autoscaler", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"StatefulSet", "Deployment"} })}
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web", Sized: true}, {Namespace: "a", Name: "mine", Target: "Deployment/web"},
				{Namespace: "a", Name: "statefulset-db", Policy: "q", Target: "StatefulSet/db", Sized: true},
			}
		}, want: []string{"a/statefulset-db=p:InPlace"}, delete: []string{"a/deployment-web"}},
		{name: "a person's that only recommends has not taken over: pods are given back", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"StatefulSet", "Deployment"} })}
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Policy: "p", Target: "Deployment/web", Sized: true}, {Namespace: "a", Name: "mine", Target: "Deployment/web", Off: true},
				{Namespace: "a", Name: "statefulset-db", Policy: "p", Target: "StatefulSet/db", Sized: true}, {Namespace: "a", Name: "other", Target: "StatefulSet/db", Off: true}, {Namespace: "a", Name: "on", Target: "StatefulSet/db"},
			}
		}, delete: []string{"a/statefulset-db"}, leave: []string{"a/deployment-web"}},
		{name: "somebody's own that has the name is in no policy's way", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"Deployment", "StatefulSet", "DaemonSet"} })}
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Target: "Deployment/web", Imported: true, Off: true},
				{Namespace: "a", Name: "statefulset-db", Target: "StatefulSet/db", Imported: true, Off: true}, {Namespace: "a", Name: "nops-statefulset-db", Policy: "p", Target: "StatefulSet/db", Sized: true},
				{Namespace: "b", Name: "daemonset-agent", Target: "Deployment/other"},
			}
		}, want: []string{"a/nops-deployment-web=p:InPlace", "a/nops-statefulset-db=p:InPlace", "b/nops-daemonset-agent=p:InPlace"}},
		{name: "and when that goes what was made beside it stays", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"Deployment"} })}
			in.Existing = []Existing{{Namespace: "a", Name: "nops-deployment-web", Policy: "p", Target: "Deployment/web", Sized: true}}
		}, want: []string{"a/nops-deployment-web=p:InPlace"}},
		{name: "what was reverted is left alone although its policy goes, until its mark or its workload does", edit: func(in *Input) {
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Policy: "gone", Target: "Deployment/web", Reverted: true, Sized: true}, {Namespace: "a", Name: "statefulset-db", Policy: "gone", Target: "StatefulSet/db", Reverted: true, Off: true},
				{Namespace: "a", Name: "deployment-old", Policy: "gone", Target: "Deployment/old", Reverted: true, Sized: true, Off: true},
				{Namespace: "a", Name: "cronjob-old", Policy: "gone", Target: "CronJob/old", Reverted: true, Off: true},
				{Namespace: "b", Name: "daemonset-agent", Policy: "gone", Target: "DaemonSet/agent", Reverted: true, Sized: true, Off: true}, {Namespace: "b", Name: "mine", Target: "DaemonSet/agent"},
			}
		}, delete: []string{"a/cronjob-old", "b/daemonset-agent"}, leave: []string{"a/deployment-old", "a/deployment-web"}, stop: []string{"a/deployment-web"}},
		{name: "and by the next policy", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"Deployment"} })}
			in.Existing = []Existing{{Namespace: "a", Name: "deployment-web", Policy: "gone", Target: "Deployment/web", Reverted: true, Off: true}}
		}, want: []string{"a/deployment-web=p:Off"}},
		{name: "a policy that cannot be understood changes nothing, and nobody takes over by its mistake", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{
				policyOf("bad", 9, func(s *rightsizing.PolicySpec) {
					s.Windows = []rightsizing.Window{{Schedule: "61 * * * *", Duration: metav1.Duration{Duration: 3600e9}}}
					s.Kinds = []string{"Deployment"}
				}),
				policyOf("p", 0, nil),
			}
			in.Existing = []Existing{{Namespace: "a", Name: "deployment-web", Policy: "bad", Target: "Deployment/web"}, {Namespace: "a", Name: "deployment-old", Policy: "bad", Target: "Deployment/old"}}
		}, want: all("p:InPlace")[1:], ready: map[string]string{"bad": "Invalid", "p": "Applied"}},
		{name: "nor by one in its selector, of which only what it made says whose a workload was", edit: func(in *Input) {
			in.Policies = []rightsizing.Policy{
				policyOf("bad", 9, func(s *rightsizing.PolicySpec) {
					s.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tier", Operator: "Near"}}}
				}),
				policyOf("p", 0, nil), policyOf("z", 10, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"DaemonSet"} }),
			}
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Policy: "bad", Target: "Deployment/web", Sized: true}, {Namespace: "a", Name: "deployment-old", Policy: "bad", Target: "Deployment/old", Sized: true},
				{Namespace: "b", Name: "daemonset-agent", Policy: "bad", Target: "DaemonSet/agent", Sized: true}, {Namespace: "b", Name: "web", Policy: "bad", Target: "Deployment/web", Sized: true}, // of another workload
			}
		}, want: []string{"a/statefulset-db=p:InPlace", "b/cronjob-nightly=p:InPlace", "b/daemonset-agent=z:InPlace"}, ready: map[string]string{"bad": "Invalid", "p": "Applied"}},
		{name: "nor is it in the way of the one that holds, whatever it selects", edit: mistaken(nil), want: all("p:InPlace"), ready: map[string]string{"bad": "Invalid", "p": "Applied"}},
		{name: "of whose kill switch", edit: mistaken(func(in *Input) { in.Policies[1].Spec.Paused = true }), want: all("p:Off"), ready: map[string]string{"bad": "Invalid", "p": "Paused"}},
		{name: "of its dry run", edit: mistaken(func(in *Input) { in.Policies[1].Spec.DryRun = true }), want: all("p:Off"), leave: []string{"a/deployment-web"}},
		{name: "nor of a person, whose autoscaler sizes what it made one for, unless it is paused", edit: mistaken(func(in *Input) {
			paused := in.Policies[0]
			paused.Name, paused.Spec.Paused = "worse", true
			in.Policies = []rightsizing.Policy{in.Policies[0], paused}
			in.Existing = []Existing{
				{Namespace: "a", Name: "deployment-web", Policy: "bad", Target: "Deployment/web", Sized: true}, {Namespace: "a", Name: "mine", Target: "Deployment/web"},
				{Namespace: "a", Name: "statefulset-db", Policy: "bad", Target: "StatefulSet/db", Sized: true}, {Namespace: "a", Name: "watched", Target: "StatefulSet/db", Off: true},
				{Namespace: "b", Name: "daemonset-agent", Policy: "worse", Target: "DaemonSet/agent", Sized: true}, {Namespace: "b", Name: "mine", Target: "DaemonSet/agent"},
			}
		}), delete: []string{"a/deployment-web"}, stop: []string{"b/daemonset-agent"}, ready: map[string]string{"bad": "Invalid", "worse": "Invalid"}},
		{name: "of letting go when it is gone", edit: mistaken(func(in *Input) { in.Policies = in.Policies[:1] }), leave: []string{"a/deployment-web"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := world()
			c.edit(&in)
			before, _ := json.Marshal(in)
			out := Desire(in)
			if after, _ := json.Marshal(in); string(after) != string(before) {
				t.Error("the input was changed")
			}
			if got := made(out); !slices.Equal(got, c.want) {
				t.Errorf("makes %v\nwant  %v", got, c.want)
			}
			var gone []string
			for _, d := range out.Delete {
				gone = append(gone, d.String())
			}
			if !slices.Equal(gone, c.delete) {
				t.Errorf("deletes %v, want %v", gone, c.delete)
			}
			var leave []string
			for _, d := range slices.Concat(out.Leave, out.TakeBack) {
				leave = append(leave, d.String())
			}
			if !slices.Equal(leave, c.leave) {
				t.Errorf("gives back %v, want %v", leave, c.leave)
			}
			var stop []string
			for _, d := range out.Stop {
				stop = append(stop, d.String())
			}
			if !slices.Equal(stop, c.stop) {
				t.Errorf("switches off %v, want %v", stop, c.stop)
			}
			for name, want := range c.ready {
				if got := out.Status[name].Conditions[0]; got.Reason != want || out.Status[name].ObservedGeneration != 3 || got.Message == "" {
					t.Errorf("%s: %+v, want %s", name, got, want)
				}
			}
			for range 20 {
				mixed := in
				mixed.Workloads, mixed.Policies, mixed.Existing = slices.Clone(in.Workloads), slices.Clone(in.Policies), slices.Clone(in.Existing)
				rand.Shuffle(len(mixed.Workloads), reflect.Swapper(mixed.Workloads))
				rand.Shuffle(len(mixed.Policies), reflect.Swapper(mixed.Policies))
				rand.Shuffle(len(mixed.Existing), reflect.Swapper(mixed.Existing))
				if other := Desire(mixed); !slices.Equal(made(other), made(out)) || !reflect.DeepEqual(other.Delete, out.Delete) || !reflect.DeepEqual(other.Leave, out.Leave) || !reflect.DeepEqual(other.TakeBack, out.TakeBack) || !reflect.DeepEqual(other.Stop, out.Stop) {
					t.Fatal("another order, another outcome")
				}
			}
		})
	}
}

func TestWhatIsWrongWithAPolicy(t *testing.T) {
	for want, edit := range map[string]func(*rightsizing.PolicySpec){
		`"Job" cannot be rightsized`: func(s *rightsizing.PolicySpec) { s.Kinds = []string{"Job"} },
		"min cpu 2 is above max 1": func(s *rightsizing.PolicySpec) {
			s.Containers = []rightsizing.ContainerRule{{Name: "*", Min: map[string]resource.Quantity{"cpu": resource.MustParse("2")}, Max: map[string]resource.Quantity{"cpu": resource.MustParse("1")}}}
		},
		"spec.selector": func(s *rightsizing.PolicySpec) {
			s.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}
		},
		`"Cheapest"`: func(s *rightsizing.PolicySpec) { s.Level = "Cheapest" },
		"Mars/Olympus": func(s *rightsizing.PolicySpec) {
			s.Windows = []rightsizing.Window{{Schedule: "0 2 * * *", Duration: metav1.Duration{Duration: 3600e9}, TimeZone: "Mars/Olympus"}}
		},
	} {
		p := policyOf("p", 0, edit)
		if _, err := compile(&p, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A policy that cannot be read is held: what it made stays, and the others go on.
func TestWhatCannotBeRead(t *testing.T) {
	for _, c := range []struct {
		name, reason, field, says string
		spec                      map[string]any
	}{
		{"a duration", "the definition does not tell one that is too long", "observation", "observation: time: invalid duration", map[string]any{"observation": "99999999999h", "selector": map[string]any{"matchLabels": map[string]any{"tier": "front"}}}},
		{"a selector", "half of it would select more than somebody meant", "selector", "selector: json: cannot unmarshal number", map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"tier": "front", "n": int64(1)}}}},
		{"a selector of namespaces", "the same", "namespaceSelector", "namespaceSelector: json", map[string]any{"namespaceSelector": "a"}},
		{"kinds", "none is not all", "kinds", "kinds: json", map[string]any{"kinds": "Deployment"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spec["level"], c.spec["paused"] = "BalancedSavings", true
			p, unread := read(&unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "bad", "generation": int64(3), "annotations": map[string]any{"a": "b"}}, "spec": c.spec, "status": map[string]any{"workloads": int64(7)}}})
			if len(unread) != 1 || unread[c.field] == nil || p.Spec.Level != rightsizing.BalancedSavings || !p.Spec.Paused || p.Name != "bad" || p.Generation != 3 || p.Annotations["a"] != "b" || p.Status.Workloads != 7 {
				t.Fatalf("%s: read as %+v, without %v", c.reason, p, unread)
			}
			in := world()
			in.Policies, in.Unread = []rightsizing.Policy{p, policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.Kinds, s.Paused = []string{"StatefulSet"}, true }), policyOf("z", 10, func(s *rightsizing.PolicySpec) { s.Kinds = []string{"DaemonSet"} })}, map[string]Unread{"bad": unread}
			in.Existing = []Existing{{Namespace: "a", Name: "deployment-web", Policy: "bad", Target: "Deployment/web", Sized: true}, {Namespace: "a", Name: "cronjob-x", Policy: "bad", Target: "CronJob/x", Sized: true, Off: true}, {Namespace: "b", Name: "daemonset-agent", Policy: "bad", Target: "DaemonSet/agent", Sized: true}}
			out := Desire(in)
			if got := made(out); !slices.Equal(got, []string{"a/statefulset-db=p:Off", "b/daemonset-agent=z:InPlace"}) || len(out.Delete)+len(out.Leave)+len(out.TakeBack) != 0 {
				t.Errorf("%s: makes %v, lets go %v %v %v", c.reason, got, out.Delete, out.Leave, out.TakeBack)
			}
			if ready := out.Status["bad"].Conditions[0]; ready.Reason != "Invalid" || !strings.Contains(ready.Message, c.says) {
				t.Errorf("%s: %+v, want %s", c.reason, ready, c.says)
			}
			// It is paused: what it made is switched off, where it is not, and no other policy has it now.
			if want := []types.NamespacedName{{Namespace: "a", Name: "deployment-web"}}; !slices.Equal(out.Stop, want) {
				t.Errorf("%s: switches off %v, want %v", c.reason, out.Stop, want)
			}
		})
	}
}

// A container's bounds and mode are upstream's in the autoscaler. In a policy it is a word that YAML leaves as it is, which takes a bare Off for false.
func TestContainers(t *testing.T) {
	var spec rightsizing.PolicySpec
	if err := yaml.UnmarshalStrict([]byte("level: BalancedSavings\ncontainers:\n- {name: istio-proxy, mode: Ignore}\n- {name: app, mode: Auto, min: {cpu: 50m}, max: {cpu: 2, memory: 4Gi}}\n- {name: \"*\", min: {memory: 64Mi}}\n"), &spec); err != nil {
		t.Fatal(err)
	}
	p := policyOf("p", 0, func(s *rightsizing.PolicySpec) { *s = spec })
	c, err := compile(&p, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []any{
		map[string]any{"containerName": "istio-proxy", "mode": "Off"},
		map[string]any{"containerName": "app", "minAllowed": map[string]any{"cpu": "50m"}, "maxAllowed": map[string]any{"cpu": "2", "memory": "4Gi"}},
		map[string]any{"containerName": "*", "minAllowed": map[string]any{"memory": "64Mi"}},
	}
	if diff := cmp.Diff(want, c.containers()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, wrong := range []string{"Off", "false", "ignore"} {
		p.Spec.Containers[0].Mode = rightsizing.ContainerMode(wrong)
		if _, err := compile(&p, nil); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("mode %s: %v", wrong, err)
		}
	}
}

// filled sets a field, and all that is in it, to what is no default and means something. It says how many values that were.
func filled(t *testing.T, name string, v reflect.Value) (n int) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *resource.Quantity:
		*x = resource.MustParse("123")
		return 1
	case *metav1.Duration:
		x.Duration = 90 * time.Minute
		return 1
	case *metav1.LabelSelector:
		x.MatchLabels = map[string]string{"tier": "front"}
		return 1
	}
	words := map[string]string{
		"Level": string(rightsizing.MaximumPerformance), "Apply": string(rightsizing.ApplyInPlaceOrRecreate), "LimitsMode": string(rightsizing.LimitsHeadroom), "SingleReplica": string(rightsizing.SingleEvict),
		"HPARule": string(rightsizing.HPAAlign), "Guard": string(rightsizing.IgnoreJVM), "ContainerMode": string(rightsizing.ContainerIgnore),
		"Kinds": "Deployment", "Schedule": "0 2 * * *", "TimeZone": "Europe/Berlin", "Name": "main", "key": "cpu",
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			n += filled(t, v.Type().Field(i).Name, v.Field(i))
		}
		return n
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return filled(t, name, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		return filled(t, name, v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		n = filled(t, "key", key) + filled(t, name, value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
		return n
	case reflect.String:
		word := words[v.Type().Name()]
		if word == "" {
			word = words[name]
		}
		if word == "" {
			t.Fatalf("no word is known for %s, a %s", name, v.Type())
		}
		v.SetString(word)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32:
		v.SetInt(7)
	default:
		t.Fatalf("%s is a %s, which nobody knows how to fill", name, v.Type())
	}
	return 1
}

// Whatever a policy says is in what the other parts read: a field that were forgotten would be a promise that nobody keeps.
func TestEverythingReachesTheOthers(t *testing.T) {
	var p rightsizing.Policy
	p.Name = "p"
	if n := filled(t, "Spec", reflect.ValueOf(&p.Spec).Elem()); n < 35 {
		t.Fatalf("only %d values are in a specification", n)
	}
	c, err := compile(&p, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := workload("Deployment", "a", "web", nil)
	u := unstructured.Unstructured{Object: c.render(types.NamespacedName{Namespace: "a", Name: "deployment-web"}, w, Alignment{Align: []string{"cpu"}, Yield: []string{"memory"}, Why: map[string]string{"memory": "it cannot"}}, false, false)}
	got, err := rules.Effective(&vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Annotations: u.GetAnnotations()}})
	if err != nil {
		t.Fatal(err)
	}
	want := rightsizing.Effective{Policy: "p", Level: p.Spec.Level, Paused: true, Align: []string{"cpu"}, Yield: []string{"memory"}, Budget: p.Spec.Budget, Settings: p.Spec.Settings}
	if diff := cmp.Diff(want, got.Effective); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if why := rightsizing.YieldsOf(u.GetAnnotations()); why["memory"] != "it cannot" {
		t.Errorf("why a resource is left alone: %v", why)
	}
	// The rest of it says what the policy is for, and is in the autoscaler itself.
	handled := []string{"Level", "Paused", "Budget", "Settings", "Priority", "DryRun", "NamespaceSelector", "Selector", "Kinds", "Containers"}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[rightsizing.PolicySpec]()) {
		if len(f.Index) == 1 && !slices.Contains(handled, f.Name) {
			t.Errorf("spec.%s is new: who reads it?", f.Name)
		}
	}
	policies, _, _ := unstructured.NestedSlice(u.Object, "spec", "resourcePolicy", "containerPolicies")
	if diff := cmp.Diff([]any{map[string]any{"containerName": "main", "mode": "Off", "minAllowed": map[string]any{"cpu": "123"}, "maxAllowed": map[string]any{"cpu": "123"}}}, policies); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range []string{"web", strings.Repeat("a", 253), strings.Repeat("a", 252) + "b", strings.Repeat("a.", 126)} {
		got := Name("Deployment", name)
		if len(got) > maxName || seen[got] || strings.Contains(got, ".-") {
			t.Errorf("%s: %s", name, got)
		}
		seen[got] = true
	}
	if got := Name("DaemonSet", "node-agent"); got != "daemonset-node-agent" {
		t.Error(got)
	}
}

func hpa(percent int32, edit func(*autoscalingv2.HorizontalPodAutoscaler)) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "a", ResourceVersion: "7"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{Metrics: []autoscalingv2.MetricSpec{
		{Type: autoscalingv2.PodsMetricSourceType}, {Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}}},
	}}}
	if edit != nil {
		edit(h)
	}
	return h
}

// written applies an alignment, as the API server does.
func written(t *testing.T, h *autoscalingv2.HorizontalPodAutoscaler, a Alignment) *autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	h = h.DeepCopy()
	for name, percent := range a.Set {
		for _, m := range h.Spec.Metrics {
			if m.Resource != nil && m.Resource.Name == name {
				m.Resource.Target.AverageUtilization = &percent
			}
		}
	}
	if a.Targets != nil {
		if len(*a.Targets) == 0 {
			delete(h.Annotations, rightsizing.AnnotationTargets)
		} else {
			text, err := json.Marshal(*a.Targets)
			if err != nil {
				t.Fatal(err)
			}
			h.Annotations = map[string]string{rightsizing.AnnotationTargets: string(text)}
		}
	}
	return h
}

// Scaling begins at the same usage, whatever pods request; what was is given back; a person's change is theirs.
func TestAlign(t *testing.T) {
	cpu := func(milli int64) map[corev1.ResourceName]int64 { return map[corev1.ResourceName]int64{"cpu": milli} }
	target := func(h *autoscalingv2.HorizontalPodAutoscaler) int32 { return utilization(h)["cpu"] }
	h := hpa(80, nil)
	a := Align(h, true, cpu(1000), cpu(1000))
	if len(a.Set) != 0 || !slices.Equal(a.Align, []string{"cpu"}) {
		t.Errorf("nothing has changed yet: %+v", a)
	}
	h = written(t, h, a)
	for live, want := range map[int64]int32{500: 160, 250: 320, 2000: 40, 1000: 80} {
		moved := written(t, h, Align(h, true, cpu(1000), cpu(live)))
		if target(moved) != want {
			t.Errorf("pods that request %dm: target %d, want %d", live, target(moved), want)
		}
		if again := Align(moved, true, cpu(1000), cpu(live)); again.patch(moved) != nil {
			t.Errorf("it is written again: %+v", again)
		}
		if near := Align(moved, true, cpu(1000), cpu(live*102/100)); len(near.Set) != 0 {
			t.Errorf("2 %% off, and it is written: %+v", near)
		}
		// Nobody wants it any more. While pods have less than their template says, the old target would scale out as many times.
		if a := Align(moved, false, cpu(1000), cpu(live)); live != 1000 && (a.patch(moved) != nil || !slices.Equal(a.Yield, []string{"cpu"})) {
			t.Errorf("pods that request %dm still: %+v", live, a)
		}
		half := written(t, moved, Align(moved, false, cpu(1000), cpu((live+1000)/2)))
		if want := int32(math.Round(80000 / float64((live+1000)/2))); target(half) != want || live != 1000 && half.Annotations[rightsizing.AnnotationTargets] == "" {
			t.Errorf("on the way back from %dm: %d, want %d, %v", live, target(half), want, half.Annotations)
		}
		for why, live := range map[string]map[corev1.ResourceName]int64{"all of its pods have it": cpu(1000), "it has no pods": nil} {
			if back := written(t, half, Align(half, false, cpu(1000), live)); target(back) != 80 || back.Annotations[rightsizing.AnnotationTargets] != "" {
				t.Errorf("given back, for %s: %d, %v", why, target(back), back.Annotations)
			}
		}
		if back := written(t, half, Align(half, true, cpu(0), cpu(live))); target(back) != 80 || back.Annotations[rightsizing.AnnotationTargets] != "" {
			t.Errorf("its template requests nothing any more: %d, %v", target(back), back.Annotations)
		}
		edited := written(t, moved, Align(moved, true, cpu(2000), cpu(2000)))
		if target(edited) != 80 {
			t.Errorf("its template requests twice as much, and so do pods: %d", target(edited))
		}
	}
	moved := written(t, h, Align(h, true, cpu(1000), cpu(500)))
	*moved.Spec.Metrics[1].Resource.Target.AverageUtilization = 70
	a = Align(moved, true, cpu(1000), cpu(500))
	theirs := written(t, moved, a)
	if target(theirs) != 70 || !slices.Equal(a.Yield, []string{"cpu"}) || !strings.Contains(a.Why["cpu"], "somebody changed") {
		t.Errorf("a person's: %d, %+v", target(theirs), a)
	}
	if a := Align(theirs, true, cpu(1000), cpu(250)); len(a.Set) != 0 || len(a.Yield) != 1 {
		t.Errorf("it is taken back from them: %+v", a)
	}
	for why, h := range map[string]*autoscalingv2.HorizontalPodAutoscaler{
		"argocd-controller": hpa(80, func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "argocd-controller"}}
		}),
		"ScaledObject web": hpa(80, func(h *autoscalingv2.HorizontalPodAutoscaler) {
			yes := true
			h.OwnerReferences = []metav1.OwnerReference{{Kind: "ScaledObject", Name: "web", Controller: &yes}}
		}),
	} {
		if a := Align(h, true, cpu(1000), cpu(500)); len(a.Set) != 0 || !strings.Contains(a.Why["cpu"], why) {
			t.Errorf("%s: %+v", why, a)
		}
	}
	if a := Align(hpa(80, nil), true, cpu(0), cpu(500)); len(a.Set) != 0 || !strings.Contains(a.Why["cpu"], "has none") {
		t.Errorf("without requests: %+v", a)
	}
	absolute := hpa(80, func(h *autoscalingv2.HorizontalPodAutoscaler) {
		h.Spec.Metrics[1].Resource.Target = autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType}
	})
	if a := Align(absolute, true, cpu(1000), cpu(500)); len(a.Align)+len(a.Yield) != 0 {
		t.Errorf("an absolute target moves with nothing: %+v", a)
	}
	// A target of one container follows nothing: the other one is left where it is, or goes back with its pods.
	beside := func(kind autoscalingv2.MetricTargetType, resource corev1.ResourceName) func(*autoscalingv2.HorizontalPodAutoscaler) {
		percent := int32(70)
		return func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Spec.Metrics = append(h.Spec.Metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
				Name: resource, Container: "web", Target: autoscalingv2.MetricTarget{Type: kind, AverageUtilization: &percent},
			}})
		}
	}
	if a := Align(hpa(80, beside(autoscalingv2.UtilizationMetricType, "cpu")), true, cpu(1000), cpu(500)); len(a.Set)+len(a.Align) != 0 || !slices.Equal(a.Yield, []string{"cpu"}) || !strings.Contains(a.Why["cpu"], "container web") {
		t.Errorf("beside a target of a container: %+v", a)
	}
	for _, edit := range []func(*autoscalingv2.HorizontalPodAutoscaler){beside(autoscalingv2.AverageValueMetricType, "cpu"), beside(autoscalingv2.UtilizationMetricType, "memory")} {
		if a := Align(hpa(80, edit), true, cpu(1000), cpu(500)); a.Set["cpu"] != 160 || !slices.Equal(a.Align, []string{"cpu"}) {
			t.Errorf("beside a target that has nothing to do with it: %+v", a)
		}
	}
	followed := written(t, h, Align(h, true, cpu(1000), cpu(500)))
	beside(autoscalingv2.UtilizationMetricType, "cpu")(followed)
	if a := Align(followed, true, cpu(1000), cpu(500)); a.patch(followed) != nil || !slices.Equal(a.Yield, []string{"cpu"}) {
		t.Errorf("beside a target of a container that came later: %+v", a)
	}
	if back := written(t, followed, Align(followed, true, cpu(1000), cpu(1000))); target(back) != 80 || back.Annotations[rightsizing.AnnotationTargets] != "" {
		t.Errorf("its pods are back: %d, %v", target(back), back.Annotations)
	}
	if p := Align(h, true, cpu(1000), cpu(500)).patch(h); len(p) < 2 || p[0]["op"] != "test" || !strings.Contains(p[len(p)-1]["path"].(string), "/spec/metrics/1/") {
		t.Errorf("the patch: %v", p)
	}
}
