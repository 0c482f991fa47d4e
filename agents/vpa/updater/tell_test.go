package updater

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// TestNext: what is not news is not written.
func TestNext(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	recorded := rightsizing.Application{State: rightsizing.StateWaiting, Message: "m", Since: now.Add(-time.Hour), NotBefore: now.Add(time.Hour), LastChange: now.Add(-time.Hour), InPlace: 3}
	for _, c := range []struct {
		name, reason   string
		edit           func(*rightsizing.Application)
		state, message string
		until          time.Time
		write, since   bool // whether it is written, and Since begins anew
	}{
		{"nothing", "", nil, rightsizing.StateWaiting, "m", now.Add(time.Hour), false, false},
		{"a little later", "times move a little from loop to loop", nil, rightsizing.StateWaiting, "m", now.Add(time.Hour + time.Minute), false, false},
		{"much later", "", nil, rightsizing.StateWaiting, "m", now.Add(2 * time.Hour), true, false},
		{"not known any more", "", nil, rightsizing.StateWaiting, "m", time.Time{}, true, false},
		{"another reason", "", nil, rightsizing.StateWaiting, "n", now.Add(time.Hour), true, false},
		{"another state", "", nil, rightsizing.StateApplied, "m", now.Add(time.Hour), true, true},
		{"a change", "", func(a *rightsizing.Application) { a.InPlace++; a.LastChange = now }, rightsizing.StateWaiting, "m", now.Add(time.Hour), true, false},
		{"a failure", "", func(a *rightsizing.Application) { a.Failed++ }, rightsizing.StateWaiting, "m", now.Add(time.Hour), true, false},
	} {
		known := recorded
		if c.edit != nil {
			c.edit(&known)
		}
		a, write := next(recorded, known, c.state, c.message, c.until, now)
		if write != c.write || a.Since.Equal(now) != c.since || a.State != c.state || a.InPlace != known.InPlace {
			t.Errorf("%s: %+v, written %t; %s", c.name, a, write, c.reason)
		}
	}
}

// TestReasonsAreStable: the order of pods does not show.
func TestReasonsAreStable(t *testing.T) {
	if got := most([]string{"b", "a", "b", "c"}); got != "b" {
		t.Errorf("most have b, not %s", got)
	}
	if a, b := most([]string{"y", "x"}), most([]string{"x", "y"}); a != b || a != "x" {
		t.Errorf("of two that are as many: %s, %s", a, b)
	}
	now := time.Now()
	holds := []rules.Hold{{Why: "unknown"}, {Why: "later", Until: now.Add(time.Hour)}, {Why: "soon", Until: now}}
	if got := earliest(holds); got.Why != "soon" {
		t.Errorf("the one that ends first is soon, not %s", got.Why)
	}
}

// What a new pod's step is measured from is recorded of pods that run, of those that ended, and with what ran out of memory.
func TestRequests(t *testing.T) {
	pod := func(memory string) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}}}}}}
	}
	before := map[string]map[string]resource.Quantity{"c": {"memory": resource.MustParse("1Gi")}}
	cases := []struct {
		name, reason string
		pods, gone   []*corev1.Pod
		held         string
		before       map[string]map[string]resource.Quantity
		unbounded    bool
		want         string
	}{
		{"steps are not bounded", "", []*corev1.Pod{pod("2Gi")}, nil, "", before, true, ""},
		{"the largest", "", []*corev1.Pod{pod("2Gi"), pod("3Gi")}, []*corev1.Pod{pod("4Gi")}, "", before, false, "3Gi"},
		{"none runs", "", nil, nil, "", before, false, "1Gi"},
		{"one ended", "a Job may be done before it is looked at", nil, []*corev1.Pod{pod("2Gi")}, "", before, false, "2Gi"},
		{"one ended with less", "a step down is one, too", nil, []*corev1.Pod{pod("512Mi")}, "", before, false, "512Mi"},
		{"ran out of memory", "the next one would again", nil, nil, "4Gi", before, false, "4Gi"},
		{"ran out of memory, and none was ever seen", "", nil, nil, "4Gi", nil, false, "4Gi"},
		{"ran out of memory, and has more", "", []*corev1.Pod{pod("5Gi")}, nil, "4Gi", nil, false, "5Gi"},
		{"nothing is known", "", nil, nil, "", nil, false, ""},
	}
	for _, c := range cases {
		p := &plan{autoscaler: &autoscaler{}, pods: c.pods, gone: c.gone}
		if c.held != "" {
			q := resource.MustParse(c.held)
			p.Explanations = []rightsizing.Explanation{{Container: "c", Resource: "cpu"}, {Container: "c", Resource: "memory", Held: &q}}
		}
		if !c.unbounded {
			p.settings.MaxStep.Up = 100
		}
		got := ""
		if q, is := p.requests(c.before)["c"]["memory"]; is {
			got = q.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q; %s", c.name, got, c.want, c.reason)
		}
	}
	if q := before["c"]["memory"]; q.String() != "1Gi" {
		t.Errorf("what was recorded was changed to %s", q.String())
	}
	if len(cases) != 9 {
		t.Errorf("%d cases, want 9", len(cases))
	}
}

// Of pods that end those of Jobs are kept, the youngest of each, until they are looked at.
func TestDeparted(t *testing.T) {
	yes := true
	pod := func(kind, owner, name string, age time.Duration) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1000000, 0).Add(-age)), OwnerReferences: []metav1.OwnerReference{{Kind: kind, Name: owner, UID: types.UID(owner), Controller: &yes}}}}
	}
	var d departed
	d.left(pod("ReplicaSet", "web", "web-1", 0))
	d.left(&corev1.Pod{})
	d.left("nothing")
	d.left(pod("Job", "a", "old", time.Hour))
	d.left(cache.DeletedFinalStateUnknown{Obj: pod("Job", "a", "young", time.Minute)})
	d.left(pod("Job", "a", "older", 2*time.Hour))
	d.left(pod("Job", "b", "one", 0))
	got := d.take()
	if len(got) != 2 || got["a"].Name != "young" || got["b"].Name != "one" {
		t.Errorf("they are %v", got)
	}
	if again := d.take(); len(again) != 0 {
		t.Errorf("they are looked at twice: %v", again)
	}
	for i := range mostDeparted + 10 {
		d.left(pod("Job", fmt.Sprint("job-", i), "p", 0))
	}
	if n := len(d.take()); n != mostDeparted {
		t.Errorf("%d are kept", n)
	}
}

// TestStronger: one that only recommends keeps no other from sizing.
func TestStronger(t *testing.T) {
	vpa := func(name string, day int, mode vpav1.UpdateMode) *vpav1.VerticalPodAutoscaler {
		return &vpav1.VerticalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC))},
			Spec:       vpav1.VerticalPodAutoscalerSpec{UpdatePolicy: &vpav1.PodUpdatePolicy{UpdateMode: &mode}},
		}
	}
	for _, c := range []struct {
		reason           string
		stronger, weaker *vpav1.VerticalPodAutoscaler
	}{
		{"the eldest", vpa("b", 1, vpav1.UpdateModeInPlace), vpa("a", 2, vpav1.UpdateModeInPlace)},
		{"the first by name", vpa("a", 1, vpav1.UpdateModeInPlace), vpa("b", 1, vpav1.UpdateModeInPlace)},
		{"a policy's beside an elder copy that was imported", vpa("b", 2, vpav1.UpdateModeInPlace), vpa("a", 1, vpav1.UpdateModeOff)},
		{"of two that only recommend the eldest", vpa("b", 1, vpav1.UpdateModeOff), vpa("a", 2, vpav1.UpdateModeOff)},
	} {
		if !stronger(c.stronger, c.weaker) || stronger(c.weaker, c.stronger) {
			t.Errorf("%s is not stronger", c.reason)
		}
	}
}
