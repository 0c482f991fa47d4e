package rules_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	if len(cases) != 11 {
		t.Errorf("%d cases, want 11", len(cases))
	}
}

func oneContainer() corev1.Container { return container("c", "1,1Gi", "2,2Gi") }
