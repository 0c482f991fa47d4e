package rules_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"
	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

func TestEffective(t *testing.T) {
	for _, c := range []struct{ name, reason, text, err string }{
		{"plain", "defaults fill in the rest", `{"policy":"p","level":"BalancedSavings"}`, ""},
		{"all of it", "every word there is", `{"policy":"p","level":"MaximumPerformance","apply":"InPlaceOrRecreate","floors":{"cpu":"1m"},"limits":{"cpu":{"mode":"None"}},"maxStep":{"up":100,"down":50},"cooldown":"1h","observation":"0s",
			"windows":[{"schedule":"0 22 * * *","duration":"2h","timeZone":"Europe/Berlin"}],"singleReplica":"Evict","hpa":"Align","jvm":"Ignore","align":["cpu"],"budget":{"clusterPerHour":1,"stopAfterFailures":2,"stopForMinutes":3}}`, ""},
		{"no JSON", "nobody guesses", `level: x`, "invalid character"},
		{"more behind it", "two objects are none", `{"policy":"p"}{}`, "more behind"},
		{"a word nobody knows", "it may have been meant to forbid something", `{"policy":"p","singelReplica":"Never"}`, `unknown field "singelReplica"`},
		{"a level", "", `{"level":"Fast"}`, `level "Fast"`},
		{"a mode", "", `{"limits":{"memory":{"mode":"Double"}}}`, `limits.memory.mode: "Double"`},
		{"a step", "more than everything cannot be taken", `{"maxStep":{"down":101}}`, "down 101"},
		{"a resource", "", `{"floors":{"gpu":"1"}}`, "gpu"},
		{"a window", "", `{"windows":[{"schedule":"0 25 * * *","duration":"1h"}]}`, "schedule"},
		{"six fields", "seconds are not for people", `{"windows":[{"schedule":"0 0 22 * * *","duration":"1h"}]}`, "five fields"},
		{"a zone", "", `{"windows":[{"schedule":"0 22 * * *","duration":"1h","timeZone":"Berlin"}]}`, `time zone "Berlin"`},
		{"the zone of the machine", "it means something else on each", `{"windows":[{"schedule":"0 22 * * *","duration":"1h","timeZone":"Local"}]}`, `time zone "Local"`},
		{"never", "a window that never opens keeps everything as it is for ever", `{"windows":[{"schedule":"0 0 30 2 *","duration":"1h"}]}`, "never comes"},
		{"no duration", "", `{"windows":[{"schedule":"0 22 * * *","duration":"0s"}]}`, "shorter than a minute"},
		{"below zero", "", `{"cooldown":"-1h"}`, "below zero"},
		{"budget", "", `{"budget":{"clusterPerHour":-1}}`, "below 0"},
		{"two things", "everything is said at once", `{"level":"Fast","hpa":"Fight"}`, `hpa: "Fight"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := autoscaler(c.text, map[string]string{"c": "1,1Gi"})
			s, err := rules.Effective(v)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "n/v") {
					t.Fatalf("%v, want %q of n/v; %s", err, c.err, c.reason)
				}
				if h := rules.Held(v, s, err, rules.Known{}, now); h.State != rightsizing.StateRecommend || !strings.Contains(h.Why, c.err) {
					t.Errorf("it only recommends, and says so: %+v", h)
				}
				return
			}
			if err != nil || !s.Owned || s.Failures == 0 || s.Rest == 0 {
				t.Errorf("%+v, %v; %s", s, err, c.reason)
			}
		})
	}
	if s, err := rules.Effective(autoscaler("", nil)); err != nil || s.Owned || s.Cooldown != 0 || s.Floors != nil {
		t.Errorf("without settings upstream's defaults hold: %+v, %v", s, err)
	}
	if s, _ := rules.Effective(autoscaler(`{"policy":"p"}`, nil)); s.Cooldown != 30*time.Minute || s.Observation != 24*time.Hour || s.Failures != 5 || s.Rest != time.Hour {
		t.Errorf("defaults: %+v", s)
	}
}

func TestHeld(t *testing.T) {
	day := 24 * time.Hour
	unsupported := func(status corev1.ConditionStatus, recommended bool) func(*vpav1.VerticalPodAutoscaler) {
		return func(v *vpav1.VerticalPodAutoscaler) {
			v.Status.Conditions = []vpav1.VerticalPodAutoscalerCondition{
				{Type: vpav1.RecommendationProvided, Status: corev1.ConditionTrue, Message: "something else"},
				{Type: vpav1.ConfigUnsupported, Status: status, Message: "The target apps/v1.StatefulSet/k8s has a parent controller"},
			}
			if !recommended {
				v.Status.Recommendation = &vpav1.RecommendedPodResources{}
			}
		}
	}
	for _, c := range []struct {
		name, reason string
		edit         func(*vpav1.VerticalPodAutoscaler)
		settings     string
		known        rules.Known
		state, why   string
		until        time.Time
	}{
		{"nothing", "it was watched for two days", nil, `{"policy":"p"}`, rules.Known{}, "", "", time.Time{}},
		{"off", "", func(v *vpav1.VerticalPodAutoscaler) { *v.Spec.UpdatePolicy.UpdateMode = vpav1.UpdateModeOff }, `{"policy":"p"}`, rules.Known{}, rightsizing.StateRecommend, "Off", time.Time{}},
		{"paused", "the kill switch", nil, `{"policy":"p","paused":true}`, rules.Known{}, rightsizing.StateStopped, "policy p is paused", time.Time{}},
		{"reverted", "until somebody takes the mark away", func(v *vpav1.VerticalPodAutoscaler) {
			v.Annotations[rightsizing.AnnotationReverted] = "2026-11-28T00:00:00Z"
		}, `{"policy":"p"}`, rules.Known{}, rightsizing.StateRecommend, "reverted at 2026-11-28", time.Time{}},
		{"leaving", "", func(v *vpav1.VerticalPodAutoscaler) {
			v.Annotations[rightsizing.AnnotationLeaving] = "2026-11-28T00:00:00Z"
		}, `{"policy":"p"}`, rules.Known{}, rightsizing.StateLeaving, "no policy sizes it", time.Time{}},
		{"reverted while it leaves", "it stays for its mark", func(v *vpav1.VerticalPodAutoscaler) {
			v.Annotations[rightsizing.AnnotationLeaving], v.Annotations[rightsizing.AnnotationReverted] = "2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z"
		}, `{"policy":"p"}`, rules.Known{}, rightsizing.StateRecommend, "reverted at 2026-11-28", time.Time{}},
		{"no recommendation", "", func(v *vpav1.VerticalPodAutoscaler) { v.Status.Recommendation = nil }, `{"policy":"p"}`, rules.Known{}, rightsizing.StateWaiting, "no recommendation", time.Time{}},
		{"unsupported", "nothing will be recommended: to wait for it would be in vain", unsupported(corev1.ConditionTrue, false), `{"policy":"p"}`, rules.Known{}, rightsizing.StateImpossible, "has a parent controller", time.Time{}},
		{"unsupported, of a person's", "", unsupported(corev1.ConditionTrue, false), "", rules.Known{}, rightsizing.StateImpossible, "has a parent controller", time.Time{}},
		{"unsupported, and an old recommendation", "its target may not be readable for the moment", unsupported(corev1.ConditionTrue, true), `{"policy":"p"}`, rules.Known{}, "", "", time.Time{}},
		{"not unsupported any more", "it is only a matter of time again", unsupported(corev1.ConditionFalse, false), `{"policy":"p"}`, rules.Known{}, rightsizing.StateWaiting, "no recommendation", time.Time{}},
		{"unsupported and off", "there is none to look at, either", func(v *vpav1.VerticalPodAutoscaler) {
			unsupported(corev1.ConditionTrue, false)(v)
			*v.Spec.UpdatePolicy.UpdateMode = vpav1.UpdateModeOff
		}, `{"policy":"p"}`, rules.Known{}, rightsizing.StateRecommend, "Off; nothing is recommended: The target", time.Time{}},
		{"unsupported and paused", "the kill switch", unsupported(corev1.ConditionTrue, false), `{"policy":"p","paused":true}`, rules.Known{}, rightsizing.StateStopped, "paused", time.Time{}},
		{"watched for too short", "three days are asked for", nil, `{"policy":"p","observation":"72h"}`, rules.Known{}, rightsizing.StateWaiting, "72h", now.Add(day)},
		{"watched before it was made", "history came from a store", nil, `{"policy":"p","observation":"72h"}`, rules.Known{Watched: now.Add(-4 * day)}, "", "", time.Time{}},
		{"watched since later", "samples came late", nil, `{"policy":"p"}`, rules.Known{Watched: now.Add(-time.Hour)}, rightsizing.StateWaiting, "24h", now.Add(23 * time.Hour)},
		{"changed before", "it is for the first time only", nil, `{"policy":"p","observation":"72h"}`, rules.Known{Changed: true}, "", "", time.Time{}},
		{"no settings", "upstream watches nobody", func(v *vpav1.VerticalPodAutoscaler) { v.CreationTimestamp = metav1.NewTime(now) }, "", rules.Known{}, "", "", time.Time{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := autoscaler(c.settings, map[string]string{"c": "1,1Gi"})
			if c.edit != nil {
				c.edit(v)
			}
			s, err := rules.Effective(v)
			h := rules.Held(v, s, err, c.known, now)
			if h.State != c.state || !strings.Contains(h.Why, c.why) || !h.Until.Equal(c.until) || h.Is() != (c.state != "") {
				t.Errorf("%+v; %s", h, c.reason)
			}
		})
	}
}

func TestWindows(t *testing.T) {
	window := func(schedule, duration, zone string) rightsizing.Window {
		d, err := time.ParseDuration(duration)
		if err != nil {
			t.Fatal(err)
		}
		return rightsizing.Window{Schedule: schedule, Duration: metav1.Duration{Duration: d}, TimeZone: zone}
	}
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		name, reason string
		windows      []rightsizing.Window
		now          string
		closed       bool
		opens        string
	}{
		{"none", "always open", nil, "2026-11-28T12:00:00Z", false, ""},
		{"open", "", []rightsizing.Window{window("0 22 * * *", "2h", "")}, "2026-11-28T23:59:00Z", false, ""},
		{"the first second", "it begins with its time", []rightsizing.Window{window("0 22 * * *", "2h", "")}, "2026-11-28T22:00:00Z", false, ""},
		{"the last second", "its end is not in it", []rightsizing.Window{window("0 22 * * *", "2h", "")}, "2026-11-29T00:00:00Z", true, "2026-11-29T22:00:00Z"},
		{"closed", "", []rightsizing.Window{window("0 22 * * *", "2h", "")}, "2026-11-28T12:00:00Z", true, "2026-11-28T22:00:00Z"},
		{"zone in winter", "22:00 in Berlin is 21:00 UTC", []rightsizing.Window{window("0 22 * * *", "2h", "Europe/Berlin")}, "2026-11-28T21:30:00Z", false, ""},
		{"zone in summer", "and 20:00 UTC", []rightsizing.Window{window("0 22 * * *", "1h", "Europe/Berlin")}, "2026-07-28T21:30:00Z", true, "2026-07-29T20:00:00Z"},
		{"two", "the earlier one opens next", []rightsizing.Window{window("0 22 * * *", "1h", ""), window("0 14 * * sat", "1h", "")}, "2026-11-28T12:00:00Z", true, "2026-11-28T14:00:00Z"},
		{"longer than its interval", "hits overlap: it never closes", []rightsizing.Window{window("0 * * * *", "90m", "")}, "2026-11-28T12:59:00Z", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var parsed []rules.OpenWindow
			for _, w := range c.windows {
				one, err := rules.ParseWindow(w)
				if err != nil {
					t.Fatal(err)
				}
				parsed = append(parsed, one)
			}
			opens, closed := rules.Closed(parsed, at(c.now))
			if closed != c.closed || closed && !opens.Equal(at(c.opens)) {
				t.Errorf("closed %t, opens %s; %s", closed, opens, c.reason)
			}
		})
	}
}

// TestBudgets: within any hour no more is done than is allowed, and it is done again as soon as it may be.
func TestBudgets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) int32 { return rapid.Int32Range(0, 5).Draw(t, name) }
		cluster := rightsizing.Budget{ClusterPerHour: draw("cluster"), EvictionsPerHour: draw("evictions")}
		own := rightsizing.Budget{NamespacePerHour: draw("namespace")}
		var ledger rules.Ledger
		var done []rules.Change
		at := now
		for range 60 {
			at = at.Add(time.Duration(rapid.IntRange(1, 900).Draw(t, "seconds")) * time.Second)
			c := rules.Change{At: at, Namespace: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "in"), Evicted: rapid.Bool().Draw(t, "evict")}
			why, until := ledger.Spent(cluster, own, c.Namespace, c.Evicted, at)
			if why != "" {
				if !until.After(at) || until.After(at.Add(time.Hour)) {
					t.Fatalf("%s until %s, now is %s", why, until, at)
				}
				if again, _ := ledger.Spent(cluster, own, c.Namespace, c.Evicted, until.Add(time.Hour)); again != "" {
					t.Fatalf("an hour after nothing is spent: %s", again)
				}
				continue
			}
			ledger.Add(c)
			done = append(done, c)
			ledger.Forget(at)
			var all, within, evicted int32
			for _, d := range done {
				if d.At.After(at.Add(-time.Hour)) {
					all++
					if d.Namespace == c.Namespace {
						within++
					}
					if d.Evicted {
						evicted++
					}
				}
			}
			if cluster.ClusterPerHour > 0 && all > cluster.ClusterPerHour || own.NamespacePerHour > 0 && within > own.NamespacePerHour || cluster.EvictionsPerHour > 0 && c.Evicted && evicted > cluster.EvictionsPerHour {
				t.Fatalf("%d changes, %d in the namespace, %d evictions with %+v, %+v", all, within, evicted, cluster, own)
			}
		}
	})
	s := rules.Strictest(rightsizing.Budget{ClusterPerHour: 5}, rightsizing.Budget{ClusterPerHour: 3, EvictionsPerHour: 9}, rightsizing.Budget{})
	if s.ClusterPerHour != 3 || s.EvictionsPerHour != 9 {
		t.Errorf("the strictest: %+v", s)
	}
}

func TestBreaker(t *testing.T) {
	s := rules.Settings{Failures: 3, Rest: 30 * time.Minute}
	minute := func(n int) time.Time { return now.Add(time.Duration(n) * time.Minute) }
	var b rules.Breaker
	b.Failed("p", minute(0))
	b.Failed("p", minute(10))
	if _, open := b.Open("p", s, minute(11)); open {
		t.Error("two failures are not three")
	}
	b.Failed("p", minute(20))
	if until, open := b.Open("p", s, minute(21)); !open || !until.Equal(minute(50)) {
		t.Errorf("three within an hour open it for half an hour: %t, %s", open, until)
	}
	if _, open := b.Open("q", s, minute(21)); open {
		t.Error("another policy is not concerned")
	}
	if _, open := b.Open("p", s, minute(50)); open {
		t.Error("it closes after its rest")
	}
	b.Failed("p", minute(51))
	b.Failed("p", minute(52))
	if _, open := b.Open("p", s, minute(53)); open {
		t.Error("what came before a rest does not count after it")
	}
	b.Failed("p", minute(54))
	if _, open := b.Open("p", s, minute(55)); !open {
		t.Error("three new ones open it again")
	}
	var slow rules.Breaker
	for i := range 10 {
		slow.Failed("p", minute(31*i))
		if _, open := slow.Open("p", s, minute(31*i)); open {
			t.Fatal("three failures in more than an hour open nothing")
		}
	}
}

func TestCooling(t *testing.T) {
	s := rules.Settings{Cooldown: time.Hour}
	for _, c := range []struct {
		name    string
		changed time.Time
		oom     bool
		want    time.Time
	}{
		{"never changed", time.Time{}, false, time.Time{}},
		{"just now", now.Add(-time.Minute), false, now.Add(59 * time.Minute)},
		{"killed for want of memory", now.Add(-time.Minute), true, time.Time{}},
		{"long ago", now.Add(-time.Hour), false, time.Time{}},
	} {
		if got := rules.Cooling(s, c.changed, c.oom, now); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	killed := func(at time.Time, reason string) *corev1.Pod {
		p := running(container("c", "1,1Gi", "1,1Gi"))
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: reason, FinishedAt: metav1.NewTime(at)}
		return p
	}
	for _, c := range []struct {
		name, target string
		pod          *corev1.Pod
		changed      time.Time
		want, waits  bool
	}{
		{"killed, gets more", "1,2Gi", killed(now.Add(-time.Minute), "OOMKilled"), time.Time{}, true, true},
		{"killed, gets no more", "1,1Gi", killed(now.Add(-time.Minute), "OOMKilled"), time.Time{}, false, false},
		{"ended otherwise", "1,2Gi", killed(now.Add(-time.Minute), "Error"), time.Time{}, false, false},
		{"was raised since", "1,2Gi", killed(now.Add(-time.Minute), "OOMKilled"), now.Add(-time.Second), false, false},
		{"long ago", "1,2Gi", killed(now.Add(-2*time.Hour), "OOMKilled"), time.Time{}, false, true},
	} {
		s, err := rules.NewProvider(rules.Options{}).Size(c.pod, autoscaler("", map[string]string{"c": c.target}))
		if err != nil {
			t.Fatal(err)
		}
		if got := rules.OutOfMemory(c.pod, s, c.changed, now); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
		if name, _ := rules.Killed(c.pod, s, c.changed); name != map[bool]string{true: "c"}[c.waits] {
			t.Errorf("%s: %q was killed and waits", c.name, name)
		}
	}
}

// TestAsleep: a pod that is limited as a whole is not given more while the container that is to have it does not run.
func TestAsleep(t *testing.T) {
	running, waiting := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	limit := func(text string) corev1.ResourceRequirements {
		if text == "" {
			return corev1.ResourceRequirements{}
		}
		return corev1.ResourceRequirements{Limits: list(text)}
	}
	for _, tt := range []struct {
		name, reason string
		state        corev1.ContainerState
		now, target  string
		beside       string // limits of another container; "-": there is none
		want         bool
		noStatus     bool
	}{
		{"killed over and over", "its pod's limit would stay", waiting, "1,64Mi", "1,164Mi", "-", true, false},
		{"it runs", "both are raised", running, "1,64Mi", "1,164Mi", "-", false, false},
		{"less", "its pod's limit is no bound then", waiting, "1,164Mi", "1,64Mi", "-", false, false},
		{"the same", "nothing is raised", waiting, "1,64Mi", "1,64Mi", "-", false, false},
		{"beside one without limits", "the pod has none", waiting, "1,64Mi", "1,164Mi", "", false, false},
		{"beside one that is limited", "the pod is", waiting, "1,64Mi", "1,164Mi", "1,64Mi", true, false},
		{"of CPU", "it is throttled as before", waiting, "500m,64Mi", "1,64Mi", "-", true, false},
		{"never seen", "there is no status yet", waiting, "1,64Mi", "1,164Mi", "-", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{
				Spec:   corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: limit(tt.now)}}},
				Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: tt.state}}},
			}
			if tt.beside != "-" {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "d", Resources: limit(tt.beside)})
			}
			if tt.noStatus {
				pod.Status = corev1.PodStatus{}
			}
			s := rules.Sizing{Containers: []rules.Sized{{Name: "c", Now: vpautil.ContainerResources{Limits: list(tt.now)}, Target: vpautil.ContainerResources{Limits: list(tt.target)}}}}
			if got := rules.Asleep(pod, s); got != map[bool]string{true: "c"}[tt.want] {
				t.Errorf("%q, want %v: %s", got, tt.want, tt.reason)
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	pod := func(actual string, conditions ...corev1.PodCondition) *corev1.Pod {
		p := running(container("c", "200m,300Mi", ""))
		p.Status.ContainerStatuses[0].Resources = &corev1.ResourceRequirements{Requests: list(actual)}
		p.Status.Conditions = conditions
		return p
	}
	other := func(actual string, conditions ...corev1.PodCondition) *corev1.Pod {
		p := pod(actual, conditions...)
		p.Spec.Containers[0].Resources.Requests = list("1,300Mi")
		return p
	}
	condition := func(kind corev1.PodConditionType, reason string) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason}
	}
	want := rules.Requests{"c": list("200m,300Mi")}
	const patience = 5 * time.Minute
	for _, c := range []struct {
		name, reason string
		pod          *corev1.Pod
		after        time.Duration
		verdict      rules.Verdict
	}{
		{"it has it", "", pod("200m,300Mi"), time.Minute, rules.Took},
		{"not yet", "a node takes its time", pod("1,300Mi"), time.Minute, rules.Open},
		{"not after all", "applied is not observed", pod("1,300Mi"), 6 * time.Minute, rules.Failed},
		{"no room", "the node says so: everything works", pod("1,300Mi", condition(corev1.PodResizePending, corev1.PodReasonDeferred)), 6 * time.Minute, rules.Nothing},
		{"never room", "likewise", pod("1,300Mi", condition(corev1.PodResizePending, corev1.PodReasonInfeasible)), 6 * time.Minute, rules.Nothing},
		{"at it", "", pod("1,300Mi", condition(corev1.PodResizeInProgress, "")), 6 * time.Minute, rules.Open},
		{"at it for ever", "", pod("1,300Mi", condition(corev1.PodResizeInProgress, "")), 61 * time.Minute, rules.Failed},
		{"an error", "", pod("1,300Mi", condition(corev1.PodResizeInProgress, corev1.PodReasonError)), 6 * time.Minute, rules.Failed},
		{"gone", "", nil, 6 * time.Minute, rules.Nothing},
		{"not asked for any more", "somebody reverted it meanwhile", other("1,300Mi"), 6 * time.Minute, rules.Nothing},
		{"not asked for any more, and at it", "", other("1,300Mi", condition(corev1.PodResizeInProgress, corev1.PodReasonError)), 6 * time.Minute, rules.Nothing},
		{"not asked for yet", "a watch may be late", other("1,300Mi"), time.Minute, rules.Open},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, why := rules.Resized(c.pod, want, now.Add(-c.after), patience, now); got != c.verdict || got == rules.Failed && why == "" {
				t.Errorf("%s, %s; %s", got, why, c.reason)
			}
		})
	}
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		sized   bool
		after   time.Duration
		verdict rules.Verdict
	}{
		{"came back sized", pod(""), true, time.Minute, rules.Took},
		{"came back as it was", pod(""), false, time.Minute, rules.Failed},
		{"not back yet", nil, false, 30 * time.Minute, rules.Open},
		{"never came back", nil, false, 2 * time.Hour, rules.Nothing},
	} {
		if got, _ := rules.Recreated(c.pod, c.sized, now.Add(-c.after), patience, now); got != c.verdict {
			t.Errorf("%s: %s, want %s", c.name, got, c.verdict)
		}
	}
}

// TestWatched: observation counts from when both resources are known. A container that is new makes it no shorter.
func TestWatched(t *testing.T) {
	at := func(hour int) time.Time { return now.Add(time.Duration(hour) * time.Hour) }
	type e = rightsizing.Explanation
	for _, tc := range []struct {
		name, reason string
		explained    []rightsizing.Explanation
		want         time.Time
	}{
		{"both at once", "", []e{{Container: "a", Resource: "cpu", Since: at(1)}, {Container: "a", Resource: "memory", Since: at(1)}}, at(1)},
		{"memory later", "its peak may not have come", []e{{Container: "a", Resource: "cpu", Since: at(1)}, {Container: "a", Resource: "memory", Since: at(9)}}, at(9)},
		{"CPU later", "", []e{{Container: "a", Resource: "cpu", Since: at(9)}, {Container: "a", Resource: "memory", Since: at(1)}}, at(9)},
		{"one resource", "the other is not recommended", []e{{Container: "a", Resource: "cpu", Since: at(1)}}, at(1)},
		{"a new container", "the others were watched", []e{{Container: "a", Resource: "memory", Since: at(1)}, {Container: "b", Resource: "memory", Since: at(9)}}, at(1)},
		{"not known", "", []e{{Container: "a", Resource: "memory"}}, time.Time{}},
	} {
		if got := rules.KnownOf(rightsizing.Application{}, tc.explained).Watched; !got.Equal(tc.want) {
			t.Errorf("%s: since %s, want %s (%s)", tc.name, got, tc.want, tc.reason)
		}
	}
}
