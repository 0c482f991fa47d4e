package owners_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/client-go/informers"

	"github.com/nopsctl/nopsctl/agents/vpa/owners"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
)

// apiServer answers one question after the other: "scalable", "none", or how it fails. It goes on with its last answer.
type apiServer struct {
	answers []string
	asked   int
}

func (s *apiServer) next() string {
	s.asked++
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	return a
}

func (s *apiServer) FindTopMostWellKnownOrScalable(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	switch a := s.next(); a {
	case "scalable":
		return key, nil
	case "none":
		return nil, nil
	case "no such kind":
		return nil, fmt.Errorf("unhandled targetRef: %w", &meta.NoKindMatchError{})
	case "hangs":
		<-ctx.Done()
		return nil, fmt.Errorf("unhandled targetRef: %w", ctx.Err())
	case "a node":
		return nil, controllerfetcher.ErrNodeInvalidOwner
	case "gone":
		return nil, errors.New("it does not exist")
	default:
		return nil, fmt.Errorf("unhandled targetRef: %w", errors.New(a))
	}
}

func (s *apiServer) Fetch(ctx context.Context, _ *vpav1.VerticalPodAutoscaler) (labels.Selector, error) {
	switch a := s.next(); a {
	case "scalable":
	case "hangs":
		<-ctx.Done()
		return nil, ctx.Err()
	default:
		return nil, errors.New(a)
	}
	return labels.SelectorFromSet(labels.Set{"app": "web"}), nil
}

// TestFetcher: whose pods are is known by caches and by what the API server says; where it fails, by what it said before.
func TestFetcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		yes := true
		by := func(apiVersion, kind, name string) []metav1.OwnerReference {
			return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, Controller: &yes}}
		}
		object := func(name string, owners []metav1.OwnerReference) metav1.ObjectMeta {
			return metav1.ObjectMeta{Namespace: "n", Name: name, OwnerReferences: owners}
		}
		factory := informers.NewSharedInformerFactory(nil, 0)
		stores := rules.ControllersOf(factory)
		for _, o := range []any{
			&appsv1.ReplicaSet{ObjectMeta: object("web-1", by("apps/v1", "Deployment", "web"))}, &appsv1.ReplicaSet{ObjectMeta: object("canary-1", by("argoproj.io/v1alpha1", "Rollout", "canary"))},
			&appsv1.ReplicaSet{ObjectMeta: object("canary-2", by("argoproj.io/v1alpha1", "Rollout", "canary"))}, &appsv1.ReplicaSet{ObjectMeta: object("round", by("apps/v1", "ReplicaSet", "round"))},
		} {
			if err := factory.Apps().V1().ReplicaSets().Informer().GetStore().Add(o); err != nil {
				t.Fatal(err)
			}
		}
		if err := factory.Apps().V1().Deployments().Informer().GetStore().Add(&appsv1.Deployment{ObjectMeta: object("web", nil)}); err != nil {
			t.Fatal(err)
		}
		if err := factory.Apps().V1().StatefulSets().Informer().GetStore().Add(&appsv1.StatefulSet{ObjectMeta: object("orders", by("example.com/v1", "Database", "orders"))}); err != nil {
			t.Fatal(err)
		}
		of := map[string][]metav1.OwnerReference{
			"web": by("apps/v1", "ReplicaSet", "web-1"), "canary": by("apps/v1", "ReplicaSet", "canary-1"), "canary's next": by("apps/v1", "ReplicaSet", "canary-2"), "orders": by("apps/v1", "StatefulSet", "orders"),
			"canary of v1": by("argoproj.io/v1", "Rollout", "canary"), "else's canary": by("example.com/v1", "Rollout", "canary"), "another": by("argoproj.io/v1", "Rollout", "another"), "task": by("example.com/v1", "TaskRun", "task"), "gone": by("apps/v1", "ReplicaSet", "web-0"), "round": by("apps/v1", "ReplicaSet", "round"), "bare": nil,
		}
		targets := map[string]*autoscalingv1.CrossVersionObjectReference{
			"web": {APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, "canary": {APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "canary"}, "orders": {APIVersion: "apps/v1", Kind: "StatefulSet", Name: "orders"},
			"canary's other": {APIVersion: "example.com/v1", Kind: "Rollout", Name: "canary"}, "other": {APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "other"},
		}
		cases := []struct {
			name string
			// answers of the API server, and the pods that are looked at, loop by loop.
			answers []string
			loops   []string
			want    string // whose the last loop's are, then which targets are stale or unknown
			asked   int
		}{
			{"a Deployment", []string{"is away"}, []string{"web"}, "Deployment/web", 0},
			{"a Rollout, once for all its pods", []string{"scalable", "is away"}, []string{"canary,canary's next,canary"}, "Rollout/canary Rollout/canary Rollout/canary", 1},
			{"it fails from the first", []string{"is away"}, []string{"canary,web", "canary,web"}, "- Deployment/web; canary unknown", 2},
			{"it fails later", []string{"scalable", "is away"}, []string{"canary", "canary", "canary"}, "Rollout/canary; canary stale", 3},
			{"a roll-out meanwhile", []string{"scalable", "is away"}, []string{"canary", "canary's next"}, "Rollout/canary; canary stale", 2},
			{"it is back", []string{"is away", "scalable"}, []string{"canary", "canary"}, "Rollout/canary", 2},
			{"nobody asked in between", []string{"scalable", "is away"}, []string{"canary", "web", "canary"}, "-; canary unknown", 2},
			{"an operator's", []string{"none"}, []string{"orders"}, "StatefulSet/orders", 1},
			{"an operator's, and it fails later", []string{"none", "is away"}, []string{"orders", "orders"}, "StatefulSet/orders; orders stale", 2},
			{"an operator's, and it fails from the first", []string{"is away"}, []string{"orders"}, "-; orders unknown", 1},
			{"it is not scalable any more", []string{"scalable", "none"}, []string{"canary", "canary"}, "ReplicaSet/canary-1", 3},
			{"what it made of an outage that ended in between", []string{"scalable", "none", "scalable"}, []string{"canary", "canary"}, "Rollout/canary", 3},
			{"the kind is gone while it is known", []string{"scalable", "no such kind"}, []string{"canary", "canary"}, "Rollout/canary; canary stale", 2},
			{"there is no such kind", []string{"no such kind"}, []string{"canary", "canary"}, "-", 2},
			{"in whatever version", []string{"scalable", "is away"}, []string{"canary", "canary of v1"}, "Rollout/canary; canary stale", 2},
			{"another one by its name", []string{"scalable", "is away"}, []string{"canary,else's canary"}, "Rollout/canary -; canary's other unknown", 2},
			{"one that hangs", []string{"hangs", "scalable"}, []string{"canary,canary's next,else's canary,another"}, "- - Rollout/canary -; canary unknown", 2},
			{"a node's", []string{"a node"}, []string{"task"}, "-", 1},
			{"it is not there", []string{"gone"}, []string{"task"}, "-", 1},
			{"a task's", []string{"none"}, []string{"task"}, "-", 1},
			{"nobody's, gone, or their own", []string{"is away"}, []string{"bare,gone,round"}, "- - -", 0},
		}
		for _, c := range cases {
			server := &apiServer{answers: c.answers}
			o := owners.NewFetcher(server, stores, slog.New(slog.DiscardHandler))
			var got []string
			for i, loop := range c.loops {
				if got = nil; i > 0 {
					o.Next()
				}
				for _, pod := range strings.Split(loop, ",") {
					is := o.Of(t.Context(), &corev1.Pod{ObjectMeta: object("p", of[pod])})
					version := "argoproj.io/v1alpha1" // as the ReplicaSets have it
					if o := of[pod]; len(o) > 0 && o[0].Kind == "Rollout" {
						version = o[0].APIVersion
					}
					if is != nil && is.Kind == "Rollout" && is.ApiVersion != version {
						t.Errorf("%s: %s of %s is %s", c.name, is.Name, pod, is.ApiVersion)
					}
					if is == nil {
						got = append(got, "-")
					} else {
						got = append(got, is.Kind+"/"+is.Name)
					}
				}
			}
			text := strings.Join(got, " ")
			for _, name := range slices.Sorted(maps.Keys(targets)) {
				switch stale, unknown := o.Doubts(&vpav1.VerticalPodAutoscaler{ObjectMeta: object(name, nil), Spec: vpav1.VerticalPodAutoscalerSpec{TargetRef: targets[name]}}); {
				case stale:
					text += "; " + name + " stale"
				case unknown:
					text += "; " + name + " unknown"
				}
			}
			if text != c.want || server.asked != c.asked {
				t.Errorf("%s: %s after %d questions, want %s after %d", c.name, text, server.asked, c.want, c.asked)
			}
		}
		if len(cases) != 21 {
			t.Errorf("%d cases, want 21", len(cases))
		}
	})
}

// What a target selects is remembered as long as its autoscaler is about it and asked about, and of kinds that are not watched.
func TestSelectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &apiServer{answers: []string{"scalable"}}
		s := owners.NewSelectors(server, rules.WellKnown)
		ask := func(id types.UID, name, kind string, want, stale bool) {
			t.Helper()
			vpa := &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{UID: id}, Spec: vpav1.VerticalPodAutoscalerSpec{TargetRef: &autoscalingv1.CrossVersionObjectReference{Kind: kind, Name: name}}}
			selector, is, err := s.Select(t.Context(), vpa)
			if (err == nil) != want || is != stale || want && !selector.Matches(labels.Set{"app": "web"}) {
				t.Errorf("%s %s of %s: %v, %t, %v", kind, name, id, selector, is, err)
			}
			if again, err := s.Fetch(t.Context(), vpa); (err == nil) != want || want && again.String() != selector.String() {
				t.Errorf("as upstream asks: %v, %v", again, err)
			}
		}
		answers := func(a string) { s.Next(); server.answers = []string{a} }
		ask("1", "web", "Rollout", true, false)
		ask("2", "web", "Deployment", true, false)
		answers("is away")
		ask("1", "web", "Rollout", true, true)
		ask("2", "web", "Deployment", false, false) // it is gone
		ask("3", "web", "Rollout", false, false)
		answers("is away")
		ask("1", "other", "Rollout", false, false)
		answers("is away")
		ask("1", "web", "Rollout", false, false) // nobody asked in between
		for _, said := range []string{`rollouts.example.com "web" not found`, "the server could not find the requested resource", "resource n/web has an empty selector for scale sub-resource"} {
			answers("scalable")
			ask("1", "web", "Rollout", true, false)
			answers(said)
			ask("1", "web", "Rollout", false, false)
			answers("is away")
			ask("1", "web", "Rollout", false, false)
			if !owners.Said(errors.New(said)) {
				t.Errorf("%q is no answer", said)
			}
		}
		if owners.Said(nil) || owners.Said(errors.New("is away")) {
			t.Error("an outage is an answer")
		}
		answers("hangs")
		asked := server.asked
		ask("1", "web", "Rollout", false, false)
		ask("3", "web", "Rollout", false, false)
		if server.asked != asked+1 {
			t.Errorf("%d questions, want one", server.asked-asked)
		}
	})
}
