package rules_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
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

// A LimitRange of pods is shared among all containers, also where nothing is recommended for one: upstream's processor writes into what is not there.
func TestPodsWithContainersThatAreNotSized(t *testing.T) {
	recommends := func(name, target, lower, upper string) vpav1.RecommendedContainerResources {
		return vpav1.RecommendedContainerResources{ContainerName: name, Target: list(target), LowerBound: list(lower), UpperBound: list(upper)}
	}
	off := vpav1.ContainerScalingModeOff
	ignored := []vpav1.ContainerResourcePolicy{{ContainerName: "istio-proxy", Mode: &off}}
	least := []vpav1.ContainerResourcePolicy{{ContainerName: "*", MinAllowed: list("5m,64Mi")}}
	web := container("web", "500m,1Gi", "500m,2Gi")
	cases := []struct {
		name, reason     string
		item             corev1.LimitRangeItem
		other            corev1.Container
		policies         []vpav1.ContainerResourcePolicy
		recommended      []vpav1.RecommendedContainerResources
		requests, limits string // of container web
		others           string // requests of the other one; empty: it is not sized
		lower, upper     string // of container web; the other one has none
	}{
		{"ignored by a policy", "the upper bound alone is too much, of the two", corev1.LimitRangeItem{Max: list(",4Gi")}, container("istio-proxy", "100m,128Mi", "200m,256Mi"), ignored, []vpav1.RecommendedContainerResources{recommends("web", "500m,1Gi", "500m,1Gi", "500m,3Gi")}, "500m,1Gi", "500m,2Gi", "", "500m,1Gi", "500m,2061584302"},
		{"without a recommendation yet", "it is no reason to wait, and stays as it is", corev1.LimitRangeItem{Max: list(",4Gi")}, container("new", "100m,128Mi", "200m,256Mi"), nil, []vpav1.RecommendedContainerResources{recommends("web", "500m,1Gi", "500m,1Gi", "500m,3Gi")}, "500m,1Gi", "500m,2Gi", "", "500m,1Gi", "500m,2061584302"},
		{"without resources", "the other one gets all there is", corev1.LimitRangeItem{Max: list(",4Gi")}, container("bare", "", ""), least, []vpav1.RecommendedContainerResources{recommends("web", "500m,3Gi", "500m,3Gi", "500m,3Gi")}, "500m,2Gi", "500m,4Gi", "", "500m,2Gi", "500m,2Gi"},
		{"with CPU alone", "nobody recommends memory for it, not the least of all containers either", corev1.LimitRangeItem{Max: list(",4Gi")}, container("half", "100m,", "200m,"), least, []vpav1.RecommendedContainerResources{recommends("web", "500m,3Gi", "500m,3Gi", "500m,3Gi")}, "500m,2Gi", "500m,4Gi", "", "500m,2Gi", "500m,2Gi"},
		{"without bounds", "somebody else's recommendation may have none", corev1.LimitRangeItem{Max: list(",4Gi")}, container("loose", "100m,512Mi", "200m,1Gi"), nil, []vpav1.RecommendedContainerResources{recommends("web", "500m,1Gi", "500m,1Gi", "500m,3Gi"), recommends("loose", "100m,1Gi", "", "")}, "500m,1Gi", "500m,2Gi", "100m,1Gi", "500m,1Gi", "500m,2Gi"},
		{"the least of a pod", "there is nothing to share out", corev1.LimitRangeItem{Min: list(",1Gi")}, container("bare", "", ""), nil, []vpav1.RecommendedContainerResources{recommends("web", "500m,512Mi", "500m,512Mi", "500m,512Mi")}, "500m,1Gi", "500m,2Gi", "", "500m,1Gi", "500m,1Gi"},
	}
	for _, c := range cases {
		factory := informers.NewSharedInformerFactory(nil, 0)
		c.item.Type = corev1.LimitTypePod
		if err := factory.Core().V1().LimitRanges().Informer().GetStore().Add(limitRange("a", c.item)); err != nil {
			t.Fatal(err)
		}
		limits, err := limitrange.NewLimitsRangeCalculator(factory)
		if err != nil {
			t.Fatal(err)
		}
		p := rules.NewProvider(rules.Options{
			Now: func() time.Time { return now }, LimitRanges: limits, Ranges: rules.LimitRangesOf(factory), Template: func(pod *corev1.Pod) *corev1.PodSpec { return &pod.Spec },
		})
		v := autoscaler(`{"policy":"p","level":"MaximumSavings","observation":"0s","floors":{"cpu":"1m","memory":"1Mi"}}`, nil)
		v.Spec.ResourcePolicy = &vpav1.PodResourcePolicy{ContainerPolicies: c.policies}
		v.Status.Recommendation.ContainerRecommendations = c.recommended
		before := v.DeepCopy()
		for _, pod := range []*corev1.Pod{running(web, c.other), fresh(web, c.other)} {
			s, err := p.Size(pod, v)
			if err != nil || s.Quota != "" || s.Refused != "" {
				t.Errorf("%s, new %t: %q, %q, %v; %s", c.name, rules.Creating(pod), s.Quota, s.Refused, err, c.reason)
				continue
			}
			got := map[string]rules.Sized{}
			for _, one := range s.Containers {
				got[one.Name] = one
			}
			if one := got["web"]; show(one.Target.Requests) != c.requests || show(one.Target.Limits) != c.limits || show(one.Lower) != c.lower || show(one.Upper) != c.upper {
				t.Errorf("%s, new %t: %s, limits %s, between %s and %s; want %s, limits %s, between %s and %s; %s", c.name, rules.Creating(pod), show(one.Target.Requests), show(one.Target.Limits), show(one.Lower), show(one.Upper), c.requests, c.limits, c.lower, c.upper, c.reason)
			}
			if one := got[c.other.Name]; show(one.Target.Requests) != c.others || len(one.Lower)+len(one.Upper) > 0 {
				t.Errorf("%s, new %t: the other one gets %s, between %s and %s, want %s; %s", c.name, rules.Creating(pod), show(one.Target.Requests), show(one.Lower), show(one.Upper), c.others, c.reason)
			}
			target := patch.Resize
			if rules.Creating(pod) {
				target = patch.Pod
			}
			if _, err := p.Calculators(target)[0].CalculatePatches(pod, v); err != nil {
				t.Errorf("%s, new %t: %v", c.name, rules.Creating(pod), err)
			}
		}
		if !equality.Semantic.DeepEqual(before, v) {
			t.Errorf("%s: the autoscaler itself was changed", c.name)
		}
	}
	if len(cases) != 6 {
		t.Errorf("%d cases, want 6", len(cases))
	}
}

// A container that nothing is recommended for is not sized by the rules for those that something is: it goes along with the others where the pod
// exceeds a LimitRange, in its own proportion, and stays as it is otherwise.
func TestContainersThatGoAlong(t *testing.T) {
	with := func(more string) string {
		return `{"policy":"p","level":"MaximumSavings","observation":"0s",` + more + `}`
	}
	bounds := []vpav1.ContainerResourcePolicy{{ContainerName: "*", MinAllowed: list("300m,512Mi"), MaxAllowed: list("400m,")}}
	headroom, keep := with(`"limits":{"cpu":{"mode":"Headroom","headroom":20},"memory":{"mode":"Headroom","headroom":20}}`), with(`"limits":{"memory":{"mode":"Keep"}}`)
	cases := []struct {
		name, reason     string
		item             corev1.LimitRangeItem
		settings, web    string // web is what is recommended for the other container, with a limit of twice that
		cache            corev1.Container
		policies         []vpav1.ContainerResourcePolicy
		requests, limits string // of container cache; empty: it is not sized
	}{
		{"by Headroom", "nothing is recommended for it", corev1.LimitRangeItem{Max: list(",16Gi")}, headroom, "500m,1Gi", container("cache", "100m,128Mi", "1,1Gi"), nil, "", ""},
		{"below a floor", "it was made so", corev1.LimitRangeItem{Max: list(",16Gi")}, headroom, "500m,1Gi", container("cache", "5m,16Mi", "1,1Gi"), nil, "", ""},
		{"without a CPU limit", "its is not in the way of anybody", corev1.LimitRangeItem{Max: list(",16Gi")}, with(`"limits":{"cpu":{"mode":"None"}}`), "500m,1Gi", container("cache", "100m,128Mi", "1,1Gi"), nil, "", ""},
		{"below and above the bounds of all", "they are about recommendations", corev1.LimitRangeItem{Max: list(",16Gi")}, headroom, "350m,1Gi", container("cache", "500m,128Mi", "1,1Gi"), bounds, "", ""},
		{"too much by Headroom", "7Gi are to be 4Gi: its limit keeps its proportion, and its CPU stays", corev1.LimitRangeItem{Max: list(",4Gi")}, headroom, "500m,3Gi", container("cache", "5m,256Mi", "1,1Gi"), nil, ",153391689", ",613566756"},
		{"too much, below a floor", "a floor raises nothing", corev1.LimitRangeItem{Max: list(",4Gi")}, headroom, "500m,3Gi", container("cache", "5m,16Mi", "1,1Gi"), nil, ",16Mi", ",1Gi"},
		{"too much, down to a floor", "nor is anything lowered below it", corev1.LimitRangeItem{Max: list(",4Gi")}, headroom, "500m,3Gi", container("cache", "5m,40Mi", "1,1Gi"), nil, ",32Mi", ",858993459"},
		{"too much, without a limit", "no maximum is about it, and it would be less with every look", corev1.LimitRangeItem{Max: list(",4Gi")}, headroom, "500m,3Gi", container("cache", "5m,256Mi", "1"), nil, "", ""},
		{"too much by Keep", "its limit stays, so that less would help nobody", corev1.LimitRangeItem{Max: list(",4Gi")}, keep, "500m,3Gi", container("cache", "5m,256Mi", "1,1Gi"), nil, "", ""},
		{"too little", "the pod is refused without", corev1.LimitRangeItem{Min: list(",1Gi")}, headroom, "500m,256Mi", container("cache", "5m,256Mi", "1,1Gi"), nil, ",512Mi", ",2Gi"},
	}
	for _, c := range cases {
		factory := informers.NewSharedInformerFactory(nil, 0)
		c.item.Type = corev1.LimitTypePod
		if err := factory.Core().V1().LimitRanges().Informer().GetStore().Add(limitRange("a", c.item)); err != nil {
			t.Fatal(err)
		}
		limits, err := limitrange.NewLimitsRangeCalculator(factory)
		if err != nil {
			t.Fatal(err)
		}
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, LimitRanges: limits, Template: func(pod *corev1.Pod) *corev1.PodSpec { return &pod.Spec }})
		v := autoscaler(c.settings, map[string]string{"web": c.web})
		v.Spec.ResourcePolicy = &vpav1.PodResourcePolicy{ContainerPolicies: c.policies}
		web := container("web", "500m,1Gi", "1,2Gi")
		for _, pod := range []*corev1.Pod{running(web, c.cache), fresh(web, c.cache)} {
			s, err := p.Size(pod, v)
			at := slices.IndexFunc(s.Containers, func(one rules.Sized) bool { return one.Name == "web" })
			if err != nil || s.Refused != "" || at < 0 {
				t.Errorf("%s, new %t: %+v, %v; %s", c.name, rules.Creating(pod), s, err, c.reason)
			}
			var got rules.Sized
			for _, one := range s.Containers {
				if one.Name == "cache" {
					got = one
				}
			}
			if show(got.Target.Requests) != c.requests || show(got.Target.Limits) != c.limits || len(got.Unlimited) > 0 {
				t.Errorf("%s, new %t: %s, limits %s, without %v; want %s, limits %s; %s", c.name, rules.Creating(pod), show(got.Target.Requests), show(got.Target.Limits), got.Unlimited, c.requests, c.limits, c.reason)
			}
		}
	}
	if len(cases) != 10 {
		t.Errorf("%d cases, want 10", len(cases))
	}
}

// What a container got for a LimitRange is not what it is reckoned with at the next look, which would ask for another share then. Once there is room it
// has what it lost again.
func TestContainersThatWentAlong(t *testing.T) {
	older := false
	provider := func(item *corev1.LimitRangeItem, template *corev1.PodSpec) *rules.Provider {
		factory := informers.NewSharedInformerFactory(nil, 0)
		if item != nil {
			item.Type = corev1.LimitTypePod
			if err := factory.Core().V1().LimitRanges().Informer().GetStore().Add(limitRange("a", *item)); err != nil {
				t.Fatal(err)
			}
		}
		limits, err := limitrange.NewLimitsRangeCalculator(factory)
		if err != nil {
			t.Fatal(err)
		}
		return rules.NewProvider(rules.Options{Now: func() time.Time { return now }, LimitRanges: limits, Ranges: rules.LimitRangesOf(factory), Template: func(*corev1.Pod) *corev1.PodSpec { return template }, Older: func(*corev1.Pod) bool { return older }})
	}
	limited, unlimited := container("cache", "5m,256Mi", "1,1Gi"), container("cache", "5m,256Mi", "1")
	most, least := &corev1.LimitRangeItem{Max: list(",4Gi")}, &corev1.LimitRangeItem{Min: list(",1Gi")}
	cases := []struct {
		name, reason     string
		before, after    *corev1.LimitRangeItem
		web, then        string // what is recommended for the other container, and then
		cache            corev1.Container
		made             string // what container cache requests by the first look
		unknown, theirs  bool   // its template is not known; nobody here made it what it is
		requests, limits string // of container cache by the second look; empty: it stays as it is
	}{
		{"raised", "its limit says what is enough", least, least, "500m,256Mi", "500m,256Mi", limited, ",512Mi", false, false, ",512Mi", ",2Gi"},
		{"raised, without a limit", "it would be another share with every look", least, least, "500m,256Mi", "500m,256Mi", unlimited, ",512Mi", false, false, ",512Mi", ""},
		{"lowered", "", most, most, "500m,3Gi", "500m,3Gi", limited, ",153391689", false, false, ",153391689", ",613566756"},
		{"raised, by a template that is not known", "nobody knows its share", least, least, "500m,256Mi", "500m,256Mi", unlimited, ",512Mi", true, false, "", ""},
		{"lowered, by a template that is not known", "it would be less with every look", most, most, "500m,3Gi", "500m,3Gi", limited, ",153391689", true, false, "", ""},
		{"lowered, and there is room", "its template's fits", most, &corev1.LimitRangeItem{Max: list(",16Gi")}, "500m,3Gi", "500m,3Gi", limited, ",153391689", false, false, ",256Mi", ",1Gi"},
		{"lowered, and there is some room", "its share is more", most, &corev1.LimitRangeItem{Max: list(",6Gi")}, "500m,3Gi", "500m,3Gi", limited, ",153391689", false, false, ",230087533", ",920350132"},
		{"lowered, and the others need less", "likewise", most, most, "500m,3Gi", "500m,512Mi", limited, ",153391689", false, false, ",256Mi", ",1Gi"},
		{"lowered, and nobody asks for it", "likewise", most, nil, "500m,3Gi", "500m,3Gi", limited, ",153391689", false, false, ",256Mi", ",1Gi"},
		{"raised, and nobody asks for it", "more is in nobody's way", least, nil, "500m,256Mi", "500m,256Mi", limited, ",512Mi", false, false, "", ""},
		{"raised, and less is enough", "likewise", least, &corev1.LimitRangeItem{Min: list(",256Mi")}, "500m,256Mi", "500m,256Mi", limited, ",512Mi", false, false, "", ""},
		{"less by somebody else", "it is theirs", most, &corev1.LimitRangeItem{Max: list(",16Gi")}, "500m,3Gi", "500m,3Gi", limited, ",153391689", false, true, "", ""},
		{"older, raised, without a limit", "it would be another share with every look", least, least, "500m,256Mi", "500m,256Mi", unlimited, ",512Mi", false, false, ",512Mi", ""},
		{"older, lowered, and nobody asks for it", "nobody knows what that one had", most, nil, "500m,3Gi", "500m,3Gi", limited, ",153391689", false, false, "", ""},
		{"less by somebody else, without a LimitRange", "likewise", most, nil, "500m,3Gi", "500m,3Gi", limited, ",153391689", false, true, "", ""},
	}
	for _, c := range cases {
		older = strings.HasPrefix(c.name, "older")
		template := &corev1.PodSpec{Containers: []corev1.Container{container("web", "500m,1Gi", "1,2Gi"), c.cache}}
		pod := fresh(*template.Containers[0].DeepCopy(), *c.cache.DeepCopy())
		s, err := provider(c.before, nil).Size(pod, autoscaler("", map[string]string{"web": c.web}))
		if err != nil || s.Quota != "" || len(s.Containers) != 2 || show(s.Containers[1].Target.Requests) != c.made {
			t.Errorf("%s: %+v, %v", c.name, s, err)
			continue
		}
		for _, one := range s.Containers {
			to := &pod.Spec.Containers[one.Index].Resources
			maps.Copy(to.Requests, one.Target.Requests)
			maps.Copy(to.Limits, one.Target.Limits)
		}
		pod.Annotations = map[string]string{patch.ResourceUpdatesAnnotation: "Pod resources updated by v: container 0: cpu request, memory request, memory limit; container 1: memory request, memory limit"}
		if c.theirs {
			pod.Annotations[patch.ResourceUpdatesAnnotation] = "Pod resources updated by v: container 0: cpu request, memory request, memory limit"
		}
		pod.Status = running(pod.Spec.Containers...).Status
		if c.unknown {
			template = nil
		}
		s, err = provider(c.after, template).Size(pod, autoscaler("", map[string]string{"web": c.then}))
		if err != nil || (s.Quota != "") != c.unknown {
			t.Errorf("%s: %q, %v", c.name, s.Quota, err)
		}
		var got rules.Sized
		for _, one := range s.Containers {
			if one.Name == "cache" {
				got = one
			}
			if one.Changed() && c.then == c.web && c.after == c.before && !c.unknown {
				t.Errorf("%s: %s is to get %s, limits %s, at the second look; %s", c.name, one.Name, show(one.Target.Requests), show(one.Target.Limits), c.reason)
			}
		}
		if show(got.Target.Requests) != c.requests || show(got.Target.Limits) != c.limits {
			t.Errorf("%s: %s, limits %s, want %s, limits %s; %s", c.name, show(got.Target.Requests), show(got.Target.Limits), c.requests, c.limits, c.reason)
		}
	}
	if len(cases) != 15 {
		t.Errorf("%d cases, want 15", len(cases))
	}
}

// Whatever panics over one pod is an error of that pod: whoever sizes all of them goes on.
func TestOnePodThatPanics(t *testing.T) {
	p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, Ranges: func(string) []*corev1.LimitRange { panic("so it goes") }})
	v := autoscaler("", map[string]string{"c": "200m,300Mi"})
	s, err := p.Size(running(oneContainer()), v)
	if err == nil || s.Changed() || !strings.Contains(err.Error(), "n/p") || !strings.Contains(err.Error(), "TestOnePodThatPanics") || !strings.Contains(err.Error(), "so it goes") {
		t.Errorf("%+v, %v", s, err)
	}
	if patches, err := p.Calculators(patch.Pod)[0].CalculatePatches(fresh(oneContainer()), v); err == nil || len(patches) > 0 {
		t.Errorf("a new pod: %v, %v", patches, err)
	}
}
