package rules_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourceadmission "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
)

// What a namespace's ResourceQuota has no room for is not tried, and a new pod is created as it is: it could not be created with more.
func TestQuota(t *testing.T) {
	quota := func(key corev1.ResourceName, hard, used string, edit func(*corev1.ResourceQuota)) *corev1.ResourceQuota {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "team"}, Status: corev1.ResourceQuotaStatus{
			Hard: corev1.ResourceList{key: resource.MustParse(hard)}, Used: corev1.ResourceList{key: resource.MustParse(used)},
		}}
		if edit != nil {
			edit(q)
		}
		return q
	}
	for _, c := range []struct {
		name, reason string
		pod          *corev1.Pod
		quota        *corev1.ResourceQuota
		target       string
		over         bool
	}{
		{"room", "it has 1 of the 4 that are used, and may have 2", running(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "4", nil), "2,1Gi", false},
		{"no room", "", running(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "4", nil), "2001m,1Gi", true},
		{"by the short name", "cpu means requests.cpu", running(container("c", "1,1Gi", "")), quota("cpu", "5", "4", nil), "3,1Gi", true},
		{"limits", "they grow along", running(container("c", "1,1Gi", "2,2Gi")), quota("limits.memory", "5Gi", "4Gi", nil), "1,2Gi", true},
		{"less", "what is over its quota may become less", running(container("c", "1,1Gi", "")), quota("requests.cpu", "1", "4", nil), "500m,1Gi", false},
		{"new, room", "the whole of it counts: nothing of it is used yet", fresh(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "3", nil), "2,1Gi", false},
		{"new, no room", "", fresh(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "4", nil), "2,1Gi", true},
		{"for some pods only", "the API server knows whose it is", running(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "4", func(q *corev1.ResourceQuota) {
			q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}
		}), "3,1Gi", false},
	} {
		v := autoscaler(`{"policy":"p","level":"MaximumSavings","observation":"0s"}`, map[string]string{"c": c.target})
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, Quotas: func(namespace string) []*corev1.ResourceQuota {
			if namespace != "n" {
				t.Errorf("quotas of %q", namespace)
			}
			return []*corev1.ResourceQuota{c.quota}
		}})
		s, err := p.Size(c.pod, v)
		if err != nil || (s.Quota != "") != c.over || c.over && !strings.Contains(s.Quota, "ResourceQuota team") {
			t.Errorf("%s: %q, %v; %s", c.name, s.Quota, err, c.reason)
		}
		target := patch.Resize
		if rules.Creating(c.pod) {
			target = patch.Pod
		}
		patches, err := p.Calculators(target)[0].CalculatePatches(c.pod, v)
		written := slices.ContainsFunc(patches, func(p resourceadmission.PatchRecord) bool { return strings.Contains(p.Path, "/resources") })
		if err != nil || written == c.over {
			t.Errorf("%s: written is %v, %v; %s", c.name, patches, err, c.reason)
		}
	}
}
