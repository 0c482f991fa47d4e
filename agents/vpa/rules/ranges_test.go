package rules_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/limitrange"
	"k8s.io/client-go/informers"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// limitRange is one of namespace n.
func limitRange(name string, items ...corev1.LimitRangeItem) *corev1.LimitRange {
	return &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name}, Spec: corev1.LimitRangeSpec{Limits: items}}
}

// A CPU limit that somebody in the namespace asks for is not taken away: the pod would be refused, or be given one that its request exceeds.
func TestLimitsThatAreAskedFor(t *testing.T) {
	quota := func(key corev1.ResourceName, status bool) *corev1.ResourceQuota {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "team"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{key: list("100")[corev1.ResourceCPU]}}}
		if status {
			q.Status.Hard = q.Spec.Hard
		}
		return q
	}
	container, pod := corev1.LimitTypeContainer, corev1.LimitTypePod
	cases := []struct {
		name, reason string
		quotas       []*corev1.ResourceQuota
		ranges       []*corev1.LimitRange
		says         string // who asks for it; empty is that the limit goes
	}{
		{"nobody", "", nil, nil, ""},
		{"a quota of limits", "a pod without is refused", []*corev1.ResourceQuota{quota("limits.cpu", true)}, nil, "ResourceQuota team"},
		{"a quota of limits that is new", "its status comes later", []*corev1.ResourceQuota{quota("limits.cpu", false)}, nil, "ResourceQuota team"},
		{"a quota of other pods", "it does not count these", func() []*corev1.ResourceQuota {
			q := quota("limits.cpu", true)
			q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}
			return []*corev1.ResourceQuota{q}
		}(), nil, ""},
		{"a quota of requests", "it counts requests alone", []*corev1.ResourceQuota{quota("requests.cpu", true)}, nil, ""},
		{"a quota of memory", "it counts memory alone", []*corev1.ResourceQuota{quota("limits.memory", true)}, nil, ""},
		{"a default", "it is put in once more, whatever the request is by then", nil, []*corev1.LimitRange{limitRange("a", corev1.LimitRangeItem{Type: container, Default: list("1")})}, "LimitRange a has a default"},
		{"a maximum of containers", "", nil, []*corev1.LimitRange{limitRange("a", corev1.LimitRangeItem{Type: container, Max: list("8")})}, "LimitRange a has a max"},
		{"a maximum of pods", "no limit is more than any", nil, []*corev1.LimitRange{limitRange("b"), limitRange("a", corev1.LimitRangeItem{Type: pod, Max: list("8")})}, "max for each pod"},
		{"a proportion", "no limit has none", nil, []*corev1.LimitRange{limitRange("a", corev1.LimitRangeItem{Type: container, MaxLimitRequestRatio: list("4")})}, "maxLimitRequestRatio"},
		{"a minimum", "it is about what there is", nil, []*corev1.LimitRange{limitRange("a", corev1.LimitRangeItem{Type: container, Min: list("10m")})}, ""},
		{"of memory", "", nil, []*corev1.LimitRange{limitRange("a", corev1.LimitRangeItem{Type: container, Max: list(",8Gi"), Default: list(",1Gi")})}, ""},
	}
	for _, c := range cases {
		p := rules.NewProvider(rules.Options{
			Now: func() time.Time { return now }, Quotas: func(string) []*corev1.ResourceQuota { return c.quotas }, Ranges: func(namespace string) []*corev1.LimitRange {
				if namespace != "n" {
					t.Errorf("LimitRanges of %q", namespace)
				}
				return c.ranges
			},
		})
		v := autoscaler(`{"policy":"p","level":"MaximumSavings","limits":{"cpu":{"mode":"None"}}}`, map[string]string{"c": "500m,512Mi"})
		for _, one := range []struct {
			pod  *corev1.Pod
			gone bool
			cpu  string
		}{{fresh(oneContainer()), true, ""}, {running(oneContainer()), false, "2"}} {
			s, err := p.Size(one.pod, v)
			if err != nil || len(s.Containers) != 1 {
				t.Fatalf("%s: %+v, %v", c.name, s, err)
			}
			got := s.Containers[0]
			gone, limit := one.gone, one.cpu
			if c.says != "" {
				gone, limit = false, "1"
			}
			said := slices.ContainsFunc(got.Steps, func(a rightsizing.Adjustment) bool {
				return a.Rule == "limit" && strings.Contains(a.Why, c.says) && c.says != ""
			})
			if len(got.Unlimited) > 0 != gone || show(got.Target.Limits) != limit+",1Gi" || said != (c.says != "") {
				t.Errorf("%s: unlimited %v, limits %s, %v; want %s; %s", c.name, got.Unlimited, show(got.Target.Limits), got.Steps, limit, c.reason)
			}
		}
	}
	if len(cases) != 12 {
		t.Errorf("%d cases, want 12", len(cases))
	}
}

func oneContainer() corev1.Container { return container("c", "1,1Gi", "2,2Gi") }

// A limit is not more in proportion to its request than a LimitRange allows, whatever made of either what it is.
func TestProportionsOfLimits(t *testing.T) {
	containers, pods := corev1.LimitTypeContainer, corev1.LimitTypePod
	with := func(limits string) string {
		return `{"policy":"p","level":"MaximumSavings","limits":` + limits + `}`
	}
	cases := []struct {
		name, reason     string
		item             corev1.LimitRangeItem
		settings         string
		pod              func(...corev1.Container) *corev1.Pod
		container        corev1.Container
		target           string
		requests, limits string // empty: nothing is sized
		says             string // why nothing is
	}{
		{"kept", "the request is what its limit asks for", corev1.LimitRangeItem{Type: containers, MaxLimitRequestRatio: list("4,2")}, with(`{"cpu":{"mode":"Keep"},"memory":{"mode":"Keep"}}`), fresh, container("c", "1,2Gi", "2,2Gi"), "100m,512Mi", "500m,1Gi", "2,2Gi", ""},
		{"in proportion", "rounded down, it is never more than the template's", corev1.LimitRangeItem{Type: containers, MaxLimitRequestRatio: list("1500m")}, with(`{}`), fresh, container("c", "100m,1Gi", "150m,2Gi"), "33m,512Mi", "33m,512Mi", "49m,1Gi", ""},
		{"rounded up", "50m are more than half as much again of 33m", corev1.LimitRangeItem{Type: containers, MaxLimitRequestRatio: list("1500m")}, with(`{"cpu":{"mode":"Headroom","headroom":50}}`), fresh, container("c", "100m,1Gi", "150m,2Gi"), "33m,512Mi", "34m,512Mi", "50m,1Gi", ""},
		{"running", "a resize is validated, too", corev1.LimitRangeItem{Type: containers, MaxLimitRequestRatio: list("4,2")}, with(`{"cpu":{"mode":"Keep"}}`), running, container("c", "1,1Gi", "2,2Gi"), "100m,512Mi", "500m,512Mi", "2,1Gi", ""},
		{"headroom", "more than is allowed", corev1.LimitRangeItem{Type: containers, MaxLimitRequestRatio: list(",2")}, with(`{"memory":{"mode":"Headroom","headroom":300}}`), fresh, container("c", "1,1Gi", "2,2Gi"), "1,512Mi", "1,1Gi", "2,2Gi", ""},
		{"of pods", "each container keeps what all of them have to", corev1.LimitRangeItem{Type: pods, MaxLimitRequestRatio: list("4")}, with(`{"cpu":{"mode":"Keep"}}`), fresh, container("c", "1,1Gi", "2,2Gi"), "100m,512Mi", "500m,512Mi", "2,1Gi", ""},
		{"Guaranteed", "both are equal", corev1.LimitRangeItem{Type: containers, MaxLimitRequestRatio: list("1,1")}, with(`{}`), fresh, container("c", "1,1Gi", "1,1Gi"), "100m,512Mi", "100m,512Mi", "100m,512Mi", ""},
		{"of a container that is not known yet", "it gets what is missing once the webhooks were asked", corev1.LimitRangeItem{Type: containers, Max: list("8,8Gi"), Default: list("2,2Gi"), DefaultRequest: list("1,1Gi"), Min: list("10m,10Mi")}, with(`{}`), func(c ...corev1.Container) *corev1.Pod { return fresh(append(c, container("injected", "", ""))...) }, container("c", "1,1Gi", "2,2Gi"), "500m,512Mi", "500m,512Mi", "1,1Gi", ""},
		{"nothing fits, of pods", "what another container has that is not sized is more of less", corev1.LimitRangeItem{Type: pods, MaxLimitRequestRatio: list("4")}, with(`{}`), fresh, container("c", "4,1Gi", "4,2Gi"), "1,512Mi", "", "", "LimitRange a does not allow it for a pod: 1100m of cpu and a limit of 5"},
		{"more than a pod may have", "a margin is not in upstream's reckoning", corev1.LimitRangeItem{Type: pods, Max: list(",4Gi")}, with(`{"memory":{"mode":"Headroom","headroom":200}}`), fresh, container("c", "1,1Gi", "1,2Gi"), "1,2Gi", "", "", "at most 4Gi"},
		{"less than a pod has to have", "", corev1.LimitRangeItem{Type: pods, Min: list(",1Gi")}, `{"policy":"p","level":"MaximumSavings","maxStep":{"up":1}}`, fresh, container("c", "1,512Mi", "1,1Gi"), "1,600Mi", "", "", "at least 1Gi"},
	}
	for _, c := range cases {
		ranges := []*corev1.LimitRange{limitRange("a", c.item)}
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, Ranges: func(string) []*corev1.LimitRange { return ranges }})
		s, err := p.Size(c.pod(c.container, container("other", "100m,", "4,1Gi")), autoscaler(c.settings, map[string]string{"c": c.target}))
		if c.name != "nothing fits, of pods" {
			s, err = p.Size(c.pod(c.container), autoscaler(c.settings, map[string]string{"c": c.target}))
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.requests == "" {
			if len(s.Containers) > 0 || !strings.Contains(s.Quota, c.says) {
				t.Errorf("%s: %+v, %q; %s", c.name, s.Containers, s.Quota, c.reason)
			}
			continue
		}
		if len(s.Containers) != 1 || s.Quota != "" {
			t.Errorf("%s: %+v, %q; %s", c.name, s.Containers, s.Quota, c.reason)
			continue
		}
		if got := s.Containers[0]; show(got.Target.Requests) != c.requests || show(got.Target.Limits) != c.limits {
			t.Errorf("%s: %s, limits %s, want %s, %s; %s", c.name, show(got.Target.Requests), show(got.Target.Limits), c.requests, c.limits, c.reason)
		}
	}
	if len(cases) != 11 {
		t.Errorf("%d cases, want 11", len(cases))
	}
}

// What upstream's processor bounds by a LimitRange is within it, to the last thousandth of a core: it is not held back once more.
func TestBoundedIsWithinRange(t *testing.T) {
	three := func() []corev1.Container {
		return []corev1.Container{container("a", "1m,100Mi", "1m,100Mi"), container("b", "1m,100Mi", "1m,100Mi"), container("c", "1m,100Mi", "1m,100Mi")}
	}
	targets := map[string]string{"a": "4m,100Mi", "b": "21m,100Mi", "c": "90m,100Mi"}
	containers, pods := corev1.LimitTypeContainer, corev1.LimitTypePod
	for _, c := range []struct {
		name       string
		item       corev1.LimitRangeItem
		containers []corev1.Container
		targets    map[string]string
		want       []string // requests
	}{
		{"a container's maximum", corev1.LimitRangeItem{Type: containers, Max: list("60m,1Gi"), Default: list("60m,1Gi")}, []corev1.Container{container("a", "20m,100Mi", "30m,200Mi")}, map[string]string{"a": "50m,200Mi"}, []string{"40m,200Mi"}},
		{"a container's minimum", corev1.LimitRangeItem{Type: containers, Min: list("10m,250Mi")}, []corev1.Container{container("a", "20m,200Mi", "30m,400Mi")}, map[string]string{"a": "50m,100Mi"}, []string{"50m,250Mi"}},
		{"a pod's minimum of CPU", corev1.LimitRangeItem{Type: pods, Min: list("150m")}, three(), targets, []string{"6m,100Mi", "28m,100Mi", "118m,100Mi"}},
		{"a pod's maximum of CPU", corev1.LimitRangeItem{Type: pods, Max: list("80m")}, three(), targets, []string{"2m,100Mi", "14m,100Mi", "62m,100Mi"}},
		{"a pod's minimum of memory", corev1.LimitRangeItem{Type: pods, Min: list("20m,500Mi")}, []corev1.Container{container("a", "20m,200Mi", "30m,400Mi"), container("b", "20m,200Mi", "30m,400Mi")}, map[string]string{"a": "24m,100Mi", "b": "24m,100Mi"}, []string{"24m,250Mi", "24m,250Mi"}},
		{"a pod's maximum, to the last thousandth", corev1.LimitRangeItem{Type: pods, Max: list("462m")}, []corev1.Container{container("a", "387m,100Mi", "757m,200Mi"), container("b", "354m,100Mi", "717m,200Mi")}, map[string]string{"a": "509m,100Mi", "b": "273m,100Mi"}, []string{"152m,100Mi", "81m,100Mi"}},
	} {
		factory := informers.NewSharedInformerFactory(nil, 0)
		if err := factory.Core().V1().LimitRanges().Informer().GetStore().Add(limitRange("a", c.item)); err != nil {
			t.Fatal(err)
		}
		limits, err := limitrange.NewLimitsRangeCalculator(factory)
		if err != nil {
			t.Fatal(err)
		}
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, LimitRanges: limits, Ranges: rules.LimitRangesOf(factory)})
		s, err := p.Size(fresh(c.containers...), autoscaler("", c.targets))
		if err != nil || s.Quota != "" || len(s.Containers) != len(c.containers) {
			t.Errorf("%s: %q, %v, %d containers", c.name, s.Quota, err, len(s.Containers))
			continue
		}
		for i, want := range c.want {
			if got := show(s.Containers[i].Target.Requests); got != want {
				t.Errorf("%s: %s gets %s, want %s", c.name, s.Containers[i].Name, got, want)
			}
		}
	}
}
