package inventory

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var u unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u.Object
}

const poolText = `
metadata:
  name: %s
  uid: u-1
  generation: 4
  annotations: {%s}
  labels: {%s}
spec:
  weight: 10
  limits: {cpu: "64500m", memory: 1Ti}
  template:
    metadata: {labels: {team: blue}}
    spec:
      nodeClassRef: {group: karpenter.k8s.aws, kind: EC2NodeClass, name: default}
      taints: [{key: gpu, value: "true", effect: NoSchedule}, {key: soft, effect: PreferNoSchedule}]
      requirements:
        - {key: karpenter.k8s.aws/instance-cpu, operator: Gt, values: ["2"]}
        - {key: karpenter.k8s.aws/instance-family, operator: Exists, minValues: 5}
status:
  resources: {cpu: "20500m", memory: 80Gi, nodes: "3"}
  conditions: [{type: Ready, status: "False", reason: NodeClassNotReady}]
`

func TestPlanPools(t *testing.T) {
	s := Snapshot{
		At: noon,
		Pools: []map[string]any{
			object(t, fmt.Sprintf(poolText, "base", `imported_by: nops, karpenops.nops.io/paused: "true", karpenops.nops.io/paused-by: "ann: test"`, "")),
			object(t, fmt.Sprintf(poolText, "sib", `karpenops.nops.io/base: base, karpenops.nops.io/purpose: commitment, karpenops.nops.io/commitments: "sp-1,sp-2", imported_by: nops`, `karpenops.nops.io/owned: "true"`)),
			object(t, "metadata: {name: static}\nspec: {replicas: 3}"),
		},
		Classes:  []Class{{"EC2NodeClass", object(t, "metadata: {name: default}\nstatus: {subnets: [{zone: b, zoneID: z2}, {zone: a, zoneID: z1}, {zone: b, zoneID: z2}]}")}},
		Claims:   []*Claim{{Name: "n1", Pool: "base"}, {Name: "n2", Pool: "base"}},
		Overlays: []map[string]any{object(t, `{"metadata":{"name":"o","labels":{"karpenops.nops.io/owned":"true"}},"spec":{"priceAdjustment":"-80%","requirements":[{"key":"karpenter.sh/nodepool","operator":"In","values":["sib"]}]}}`)},
		Zones:    map[string]string{},
	}
	s.arrange()
	pools := s.PlanPools(Rules{Mode: karpenstate.ModeOverlays, Budget: func(o map[string]any, _ time.Time) int { return len(Name(o)) }})
	for i := range pools {
		if pools[i].Object == nil || &pools[i].Object == &s.Pools[i] {
			t.Errorf("%s: the object is not a copy", pools[i].Name)
		}
		pools[i].Object = nil
	}
	five, cpu, memory := 5, 64.5, float64(1<<40)
	base := plan.Pool{
		Name: "base", Managed: true, Mode: karpenstate.ModeOverlays, Paused: "paused by ann: test", Nodes: 2, Weight: 10, CPULimit: &cpu, MemoryLimit: &memory, CPUUsed: 20.5, MemoryUsed: 80 << 30,
		Requirements: offering.Requirements{
			{Key: "karpenter.k8s.aws/instance-cpu", Operator: offering.Gt, Values: []string{"2"}}, {Key: "karpenter.k8s.aws/instance-family", Operator: offering.Exists, MinValues: &five},
		},
		Labels: map[string]string{"team": "blue"}, Zones: []string{"a", "b"}, DriftBudget: 4,
	}
	sib := base
	sib.Name, sib.Managed, sib.Owned, sib.Nodes, sib.DriftBudget = "sib", false, true, 0, 3
	sib.Base, sib.Purpose, sib.Commitments, sib.Paused = "base", karpenstate.PurposeCommitment, []string{"sp-1", "sp-2"}, "its base base: paused by ann: test"
	sib.Overlay = &plan.Overlay{Name: "o", Adjustment: "-80%"}
	static := plan.Pool{Name: "static", Static: true, Mode: karpenstate.ModeOverlays, DriftBudget: 6, Requirements: offering.Requirements{}}
	if diff := cmp.Diff([]plan.Pool{base, sib, static}, pools); diff != "" {
		t.Error(diff)
	}
	if s.Zones["z1"] != "a" || s.Zones["z2"] != "b" {
		t.Errorf("zones %v", s.Zones)
	}
}

// TestWordsOfTheUser: a value that is none of those that are known is taken for what does the least.
func TestWordsOfTheUser(t *testing.T) {
	for _, tt := range []struct {
		annotations string
		managed     bool
		paused      string // "": not; else what it says
	}{
		{`imported_by: nops`, true, ""},
		{`karpenops.nops.io/managed: "true"`, true, ""},
		{`imported_by: nops, karpenops.nops.io/managed: "false"`, false, ""},
		{`imported_by: nops, karpenops.nops.io/managed: "no"`, false, ""},
		{`imported_by: nops, karpenops.nops.io/managed: "True"`, false, ""},
		{`imported_by: nops, karpenops.nops.io/paused: "false"`, true, ""},
		{`imported_by: nops, karpenops.nops.io/paused: "true"`, true, "paused by somebody"},
		{`imported_by: nops, karpenops.nops.io/paused: "True"`, true, `is "True", which is neither true nor false`},
		{`imported_by: nops, karpenops.nops.io/paused: "yes", karpenops.nops.io/paused-by: ann`, true, "paused by ann (annotation"},
	} {
		s := Snapshot{At: noon, Pools: []map[string]any{object(t, fmt.Sprintf(poolText, "base", tt.annotations, ""))}}
		p := s.PlanPools(Rules{Mode: karpenstate.ModeSiblings})[0]
		if p.Managed != tt.managed || (p.Paused == "") != (tt.paused == "") || !strings.Contains(p.Paused, tt.paused) {
			t.Errorf("%s: managed %v, paused %q", tt.annotations, p.Managed, p.Paused)
		}
	}
}

// TestRequests holds the count against cases of the scheduler's documentation.
func TestRequests(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	c := func(cpu string, sidecar bool) corev1.Container {
		c := corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}
		if sidecar {
			c.RestartPolicy = &always
		}
		return c
	}
	for _, tt := range []struct {
		name string
		spec corev1.PodSpec
		want float64
	}{
		{"containers add up", corev1.PodSpec{Containers: []corev1.Container{c("1", false), c("500m", false)}}, 1.5},
		{"the start may need more", corev1.PodSpec{InitContainers: []corev1.Container{c("3", false)}, Containers: []corev1.Container{c("1", false)}}, 3},
		{"sidecars stay", corev1.PodSpec{InitContainers: []corev1.Container{c("1", true)}, Containers: []corev1.Container{c("1", false)}}, 2},
		{"sidecars run while the next starts", corev1.PodSpec{InitContainers: []corev1.Container{c("1", true), c("3", false)}, Containers: []corev1.Container{c("1", false)}}, 4},
		{"what starts first does not count with a later sidecar", corev1.PodSpec{InitContainers: []corev1.Container{c("3", false), c("1", true)}, Containers: []corev1.Container{c("1", false)}}, 3},
		{"overhead", corev1.PodSpec{Containers: []corev1.Container{c("1", false)}, Overhead: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}}, 1.25},
		{"of the pod as a whole", corev1.PodSpec{Containers: []corev1.Container{c("1", false)}, Resources: &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}}}, 4},
	} {
		if got, _ := requests(&tt.spec); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestShapes(t *testing.T) {
	w := &Watcher{pool: newPool()}
	base := object(t, fmt.Sprintf(poolText, "gpu", "", ""))
	open := object(t, "metadata: {name: open}\nspec: {template: {spec: {requirements: [{key: tier, operator: In, values: [web, db]}]}}}")
	tolerant := []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
	pods := map[string]corev1.PodSpec{
		"plain":      {NodeName: "n1"},
		"plain too":  {NodeName: "n1"},
		"elsewhere":  {NodeName: "not-karpenters"},
		"waits":      {},
		"blue":       {NodeSelector: map[string]string{"team": "blue"}, Tolerations: tolerant},
		"red":        {NodeSelector: map[string]string{"team": "red"}, Tolerations: tolerant},
		"db in arm":  {NodeSelector: map[string]string{"tier": "db", "kubernetes.io/arch": "arm64"}},
		"old names":  {NodeSelector: map[string]string{"tier": "web", "beta.kubernetes.io/arch": "arm64"}},
		"volume":     {NodeSelector: map[string]string{"tier": "web", "topology.ebs.csi.aws.com/zone": "us-east-1a"}},
		"no such":    {NodeSelector: map[string]string{"tier": "none"}},
		"by name":    {NodeSelector: map[string]string{"karpenter.sh/nodepool": "gpu"}, Tolerations: tolerant},
		"intolerant": {NodeSelector: map[string]string{"karpenter.sh/nodepool": "gpu"}},
	}
	s := Snapshot{Pools: []map[string]any{base, open}, Claims: []*Claim{{Name: "c1", Node: "n1", Pool: "open"}}, shapes: map[*shape]*counted{}, requests: map[string]float64{}, Zones: map[string]string{}}
	w.pods, w.nodes = newFeed(source{}, w.pool.pod, func() {}, time.Now, nil), newFeed(source{}, w.pool.where, func() {}, time.Now, nil)
	for name, spec := range pods {
		spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}
		w.pods.keep(w.pods.items, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}, Spec: spec})
	}
	daemon := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "daemon", OwnerReferences: []metav1.OwnerReference{{Kind: "DaemonSet"}}}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}}}}}}
	w.pods.keep(w.pods.items, daemon)
	done := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "done"}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}
	w.pods.keep(w.pods.items, done)
	w.count(&s)
	if got := s.PlanNodes(); len(got) != 1 || got[0].Requests != 2.25 {
		t.Errorf("the node's pods ask for %+v, want 2.25: two of one, and a daemon's quarter", got)
	}
	var got []string
	for _, sh := range s.PlanShapes(s.PlanPools(Rules{Mode: karpenstate.ModeSiblings})) {
		got = append(got, fmt.Sprintf("%v×%d(%d) %v %v", sh.CPU, sh.Count, sh.Pending, sh.Selector, sh.Pools))
	}
	want := []string{
		"1×2(2) [] [gpu]",  // blue, and the one that names the NodePool
		"1×3(1) [] [open]", // plain ones: the other's taint keeps them out
		"1×1(1) [kubernetes.io/arch In [arm64]] [open]",                 // what is of the type stays for the planner, what is of the pool is settled
		"1×1(1) [beta.kubernetes.io/arch In [arm64]] [open]",            // under its old name as well
		"1×1(1) [topology.ebs.csi.aws.com/zone In [us-east-1a]] [open]", // and the zone of a volume, which the AWS provider takes for the node's
	}
	for _, line := range want {
		found := false
		for _, g := range got {
			found = found || g == line
		}
		if !found {
			t.Errorf("no shape %q in %q", line, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d shapes, want %d: %q", len(got), len(want), got)
	}
}

// TestNothingOfOthers: what people hide in node classes and pods does not stay in memory.
func TestNothingOfOthers(t *testing.T) {
	p := newPool()
	c, _ := class(&unstructured.Unstructured{Object: object(t, "metadata: {name: x, managedFields: [{manager: secret-manager}]}\nspec: {userData: the-secret, role: r}")})
	if s := fmt.Sprint(c); strings.Contains(s, "secret") || !strings.Contains(s, LeftOut) || !strings.Contains(s, "role:r") {
		t.Errorf("%s", s)
	}
	kept, _ := p.pod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Annotations: map[string]string{"a": "the-secret"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "K", Value: "the-secret"}}, Args: []string{"the-secret"}}}}})
	if s := fmt.Sprintf("%+v %+v", kept, *kept.shape); strings.Contains(s, "secret") {
		t.Errorf("%s", s)
	}
}

// server is a list and its changes.
type server struct {
	mu      sync.Mutex
	pages   [][]string
	lists   int
	fail    []error
	watcher *watch.FakeWatcher
	from    []string // versions that watches began at
}

func (s *server) list(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fail) > 0 {
		err := s.fail[0]
		s.fail = s.fail[1:]
		return nil, err
	}
	page := 0
	if o.Continue != "" {
		_, _ = fmt.Sscan(o.Continue, &page)
	} else {
		s.lists++
	}
	list := &unstructured.UnstructuredList{Object: map[string]any{"metadata": map[string]any{"resourceVersion": "100"}}}
	if page+1 < len(s.pages) {
		list.SetContinue(fmt.Sprint(page + 1))
	}
	for _, name := range s.pages[page] {
		list.Items = append(list.Items, *named(name, "1"))
	}
	return list, nil
}

func named(name, version string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name, "resourceVersion": version}}}
}

func (s *server) watch(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from = append(s.from, o.ResourceVersion)
	s.watcher = watch.NewFake()
	return s.watcher, nil
}

func (s *server) current() *watch.FakeWatcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watcher
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !check(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestFeed: pages, changes, a watch that ends, one whose place is forgotten, and an API server that is away.
func TestFeed(t *testing.T) {
	s := &server{pages: [][]string{{"a", "b"}, {"c"}}, fail: []error{fmt.Errorf("away")}}
	f := newFeed(source{s.list, s.watch}, whole, func() {}, time.Now, func() float64 { return 0 })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f.run(ctx) }()
	defer func() { cancel(); <-ended }()
	names := func() string {
		var all []string
		f.each(func(k string, _ map[string]any) { all = append(all, k) })
		return strings.Join(sorted(all), " ")
	}
	eventually(t, "all pages", func() bool { listed, behind, _ := f.health(); return listed && behind.IsZero() && names() == "a b c" })
	eventually(t, "a watch", func() bool { return s.current() != nil })
	w := s.current()
	w.Add(named("d", "101"))
	w.Modify(named("a", "102"))
	w.Delete(named("b", "103"))
	w.Action(watch.Bookmark, named("", "150"))
	eventually(t, "the changes", func() bool { return names() == "a c d" })
	w.Stop()
	eventually(t, "another watch, from where it was", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.from) == 2 && s.from[1] == "150" })
	s.mu.Lock()
	s.pages = [][]string{{"z"}}
	s.mu.Unlock()
	s.current().Action(watch.Error, &metav1.Status{Status: "Failure", Code: http.StatusGone, Message: "too old"})
	eventually(t, "a new list", func() bool { return names() == "z" && s.lists >= 2 })
}

func sorted(s []string) []string {
	for i := range s {
		for j := i + 1; j < len(s); j++ {
			if s[j] < s[i] {
				s[i], s[j] = s[j], s[i]
			}
		}
	}
	return s
}

// TestForbiddenIsSaid: a right that is missing is named, and asked for again at leisure.
func TestForbiddenIsSaid(t *testing.T) {
	status := metav1.Status{Status: "Failure", Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "cannot list ec2nodeclasses"}
	s := &server{pages: [][]string{{}}, fail: []error{&statusError{status}, &statusError{status}}}
	f := newFeed(source{s.list, s.watch}, whole, func() {}, time.Now, func() float64 { return 0 })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f.run(ctx) }()
	eventually(t, "it is said", func() bool { _, _, why := f.health(); return strings.Contains(why, "cannot list ec2nodeclasses") })
	if listed, behind, _ := f.health(); listed || behind.IsZero() {
		t.Error("what was never read counts as read")
	}
	cancel()
	<-ended
	if len(s.fail) != 1 {
		t.Errorf("it was asked %d times in no time", 2-len(s.fail))
	}
}

// TestGates: what nothing states is told from what Karpenter does.
func TestGates(t *testing.T) {
	overlay := func(age time.Duration, conditions string) map[string]any {
		return object(t, fmt.Sprintf("metadata: {name: o, creationTimestamp: %q}\nstatus: {conditions: [%s]}", noon.Add(-age).Format(time.RFC3339), conditions))
	}
	for _, tt := range []struct {
		name, option string
		overlays     []map[string]any
		want         bool
		says         string
	}{
		{"nothing is seen", "auto", nil, false, "say it with value karpenops.nodeOverlays"},
		{"said", "on", nil, true, ""},
		{"off wins", "off", []map[string]any{overlay(time.Hour, "{type: Ready}")}, false, ""},
		{"evaluated", "auto", []map[string]any{overlay(time.Hour, "{type: Ready}")}, true, ""},
		{"ignored, whatever is said", "on", []map[string]any{overlay(time.Hour, "")}, false, "gate NodeOverlay is off"},
		{"too young to tell", "on", []map[string]any{overlay(time.Minute, "")}, true, ""},
	} {
		w := &Watcher{o: Options{Overlays: tt.option}, found: found{overlays: true}}
		if got, why := w.gates(Snapshot{At: noon, Overlays: tt.overlays}); got != tt.want || !strings.Contains(why, tt.says) || tt.says == "" && why != "" {
			t.Errorf("%s: %v, %q", tt.name, got, why)
		}
	}
}
