package vpasuite

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// behaviour is one case of upstream's suites.
type behaviour struct {
	suite, what string
	test        func(*run)
	// not says why it is not run.
	not string
	// differs says, by stack, what it does instead.
	differs map[string]difference
	// quiet is one that needs neither webhook nor updater. silences takes the stack's admission controller away, schedules needs the node's
	// scheduler to find room, fills leaves it none, long is one that takes minutes, measures one that needs CPU to be had: see TestBehaviour.
	quiet, silences, schedules, fills, long, measures bool
}

// difference is what a stack does instead, and why; it is a failure when it does not.
type difference struct {
	why  string
	test func(*run)
}

// admitted is a case of the admission suite: a workload that is made while the autoscaler says something, and what its pods are.
type admitted struct {
	containers []container
	autoscaler autoscaler
	kind       corev1.LimitType
	least      amounts
	most       amounts
	want       []amounts // requests, by container
	limits     []amounts // where they are told
	ratio      [2]float64
}

func (a admitted) run(r *run) {
	if a.kind != "" {
		r.limitRange(a.kind, a.least, a.most)
	}
	r.autoscale(a.autoscaler)
	pods := r.start("Deployment", 1, a.containers...)
	if wrong := have(pods, a.want...); wrong != "" {
		r.Fatal(wrong)
	}
	for _, p := range pods {
		for i, w := range a.limits {
			for name, q := range w.list() {
				if got := p.Spec.Containers[i].Resources.Limits[name]; got.Cmp(q) != 0 {
					r.Fatalf("container %d of %s is limited to %s of %s instead of %s", i, p.Name, got.String(), name, q.String())
				}
			}
		}
		if a.ratio[0] == 0 {
			continue
		}
		for i, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := p.Spec.Containers[0].Resources.Requests[name], p.Spec.Containers[0].Resources.Limits[name]
			if got := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); got < a.ratio[i]*0.99 || got > a.ratio[i]*1.01 {
				r.Fatalf("limit and request of %s are %s and %s, want a ratio of %g", name, limit.String(), request.String(), a.ratio[i])
			}
		}
	}
}

func one(target amounts) []recommended { return []recommended{{container: "hamster", target: target}} }

func each(targets ...amounts) []recommended {
	var all []recommended
	for i, t := range targets {
		all = append(all, recommended{container: hamster(i), target: t})
	}
	return all
}

// plain is little: the node has as many CPUs as the machine, and carries the pods of many cases at once.
const plain amounts = "20m 100Mi"

func admission() []behaviour {
	small := hamsters(1, plain, "")
	limited := hamsters(1, plain, "30m 200Mi")
	to := autoscaler{status: one("50m 200Mi")}
	boost := func(b map[string]any, mode, scaling string, status ...recommended) autoscaler {
		a := autoscaler{mode: mode, boost: b, status: status}
		if scaling != "" {
			a.policies = []map[string]any{{"containerName": "hamster", "mode": scaling}}
		}
		return a
	}
	named := []struct {
		what string
		a    admitted
	}{
		{"new pods get what is recommended, in mode InPlaceOrRecreate", admitted{containers: small, autoscaler: autoscaler{mode: "InPlaceOrRecreate", status: one("50m 200Mi")}, want: []amounts{"50m 200Mi"}}},
		{"new pods get what is recommended, in the default mode", admitted{containers: small, autoscaler: to, want: []amounts{"50m 200Mi"}}},
		{"a recommendation for a container that is gone does no harm", admitted{containers: small, autoscaler: autoscaler{status: []recommended{{container: "removed", target: "100m 500Mi"}, {container: "hamster", target: "50m 200Mi"}}}, want: []amounts{"50m 200Mi"}}},
		{"a recommendation for another container only leaves the request", admitted{containers: small, autoscaler: autoscaler{status: []recommended{{container: "removed", target: "50m 200Mi"}}}, want: []amounts{plain}}},
		{"of two containers the one with a recommendation gets it", admitted{containers: hamsters(2, plain, ""), autoscaler: to, want: []amounts{"50m 200Mi", plain}}},
		{"with a LimitRange, a recommendation for a container that is not there leaves the request (upstream calls this a bug)",
			admitted{containers: small, kind: corev1.LimitTypeContainer, most: "60m 1Gi", autoscaler: autoscaler{status: each("100m 500Mi", "50m 200Mi")}, want: []amounts{plain}}},
		{"with a LimitRange, a recommendation for another container only leaves the request",
			admitted{containers: small, kind: corev1.LimitTypeContainer, most: "60m 1Gi", autoscaler: autoscaler{status: []recommended{{container: "removed", target: "50m 200Mi"}}}, want: []amounts{plain}}},
		{"with a LimitRange of pods, a container without a recommendation is scaled down with the other",
			admitted{
				containers: []container{{name: "hamster", requests: plain, limits: plain}, {name: "hamster2", requests: "80m 600Mi", limits: "80m 600Mi"}}, kind: corev1.LimitTypePod, most: "80m 1Gi",
				autoscaler: autoscaler{status: one("80m 600Mi")}, want: []amounts{"40m 512Mi", "40m 512Mi"},
			}},
	}
	var all []behaviour
	add := func(what string, test func(*run), differs map[string]difference) {
		all = append(all, behaviour{suite: "admission", what: what, test: test, differs: differs})
	}
	for _, n := range named {
		add(n.what, n.a.run, nil)
	}
	add("a pod can be patched while its autoscaler recommends something else", func(r *run) {
		admitted{containers: small, autoscaler: to, want: []amounts{"50m 200Mi"}}.run(r)
		r.recommend(one(plain)...)
		_, err := r.kube.CoreV1().Pods(r.namespace).Patch(r.Context(), r.pods()[0].Name, "application/merge-patch+json", []byte(`{"metadata":{"annotations":{"some":"value"}}}`), metav1.PatchOptions{})
		r.check(err)
	}, nil)
	for _, n := range []struct {
		what string
		a    admitted
	}{
		{"limits that equal requests go on to", admitted{containers: hamsters(1, plain, plain), autoscaler: to, want: []amounts{"50m 200Mi"}, limits: []amounts{"50m 200Mi"}}},
		{"limits keep their ratio to requests", admitted{containers: limited, autoscaler: to, want: []amounts{"50m 200Mi"}, ratio: [2]float64{1.5, 2}}},
		{"limits stay where only requests are controlled",
			admitted{containers: hamsters(1, plain, "100m 500Mi"), autoscaler: autoscaler{status: one("50m 200Mi"), policies: []map[string]any{{"containerName": "hamster", "controlledValues": "RequestsOnly"}}}, want: []amounts{"50m 200Mi"}, limits: []amounts{"100m 500Mi"}}},
		{"a container's maximum in a LimitRange caps", admitted{containers: limited, autoscaler: to, kind: corev1.LimitTypeContainer, most: "60m 1Gi", want: []amounts{"40m 200Mi"}, limits: []amounts{"60m"}, ratio: [2]float64{1.5, 2}}},
		{"a container's minimum in a LimitRange raises",
			admitted{containers: hamsters(1, "20m 200Mi", "30m 400Mi"), autoscaler: autoscaler{status: one("50m 100Mi")}, kind: corev1.LimitTypeContainer, least: "10m 250Mi", want: []amounts{"50m 250Mi"}, ratio: [2]float64{1.5, 2}}},
		{"a pod's maximum in a LimitRange caps", admitted{containers: hamsters(2, plain, "30m 200Mi"), autoscaler: autoscaler{status: each("50m 200Mi", "50m 200Mi")}, kind: corev1.LimitTypePod, most: "120m 1Gi", want: []amounts{"40m 200Mi"}, ratio: [2]float64{1.5, 2}}},
		{"a pod's minimum of CPU is shared out in proportion, rounded up", admitted{
			containers: hamsters(3, "1m 100Mi", "1m 100Mi"), autoscaler: autoscaler{status: each("4m 100Mi", "21m 100Mi", "90m 100Mi")}, kind: corev1.LimitTypePod, least: "150m",
			want: []amounts{"6m 100Mi", "28m 100Mi", "118m 100Mi"}, limits: []amounts{"6m 100Mi", "28m 100Mi", "118m 100Mi"},
		}},
		{"a pod's maximum of CPU is shared out in proportion, rounded down", admitted{
			containers: hamsters(3, "1m 100Mi", "1m 100Mi"), autoscaler: autoscaler{status: each("4m 100Mi", "21m 100Mi", "90m 100Mi")}, kind: corev1.LimitTypePod, most: "80m",
			want: []amounts{"2m 100Mi", "14m 100Mi", "62m 100Mi"}, limits: []amounts{"2m 100Mi", "14m 100Mi", "62m 100Mi"},
		}},
		{"a pod's minimum in a LimitRange raises",
			admitted{containers: hamsters(2, "20m 200Mi", "30m 400Mi"), autoscaler: autoscaler{status: each("24m 100Mi", "24m 100Mi")}, kind: corev1.LimitTypePod, least: "20m 500Mi", want: []amounts{"24m 250Mi"}, ratio: [2]float64{1.5, 2}}},
		{"the autoscaler's maximum caps", admitted{containers: small, autoscaler: autoscaler{status: one("50m 200Mi"), policies: []map[string]any{{"containerName": "hamster", "maxAllowed": amounts("46m 150Mi").object()}}}, want: []amounts{"46m 150Mi"}}},
		{"the autoscaler's minimum raises", admitted{containers: small, autoscaler: autoscaler{status: one("10m 60Mi"), policies: []map[string]any{{"containerName": "hamster", "minAllowed": amounts("18m 80Mi").object()}}}, want: []amounts{"18m 80Mi"}}},
		{"without a recommendation the request stays", admitted{containers: small, want: []amounts{plain}}},
	} {
		add(n.what, n.a.run, nil)
	}
	add("without a recommendation and a request there is none", func(r *run) {
		r.autoscale(autoscaler{})
		for _, p := range r.start("Deployment", 1, container{name: "hamster"}) {
			if len(p.Spec.Containers[0].Resources.Requests) > 0 {
				r.Fatalf("%s requests %v", p.Name, p.Spec.Containers[0].Resources.Requests)
			}
		}
	}, nil)
	add("an autoscaler that means nothing is refused by the webhook", func(r *run) {
		r.autoscale(autoscaler{policies: []map[string]any{{"containerName": "*", "minAllowed": map[string]any{"cpu": "10m"}}}})
		r.refused("quantities must match", autoscaler{name: "wrong", policies: []map[string]any{{"containerName": "*", "minAllowed": map[string]any{"requests": map[string]any{"cpu": "10m"}}}}})
	}, nil)
	add("a ratio for memory that ran out that is no number is refused by the webhook (gate PerVPAConfig)", func(r *run) {
		r.refused("quantities must match", autoscaler{policies: []map[string]any{{"containerName": "*", "oomBumpUpRatio": "not-a-number", "oomMinBumpUp": int64(104857600)}}})
	}, nil)
	all = append(all, behaviour{suite: "admission", what: "certificates are reloaded", not: "what it changes are Secrets of upstream's installation; that ours renews its own unnoticed is shown by the story TestVPA/03-webhook"})
	for _, n := range []struct {
		what string
		a    autoscaler
		want amounts
	}{
		{"CPU is boosted at the start by a factor (gate CPUStartupBoost)", boost(factor(15), "", "", one(plain)...), "40m"},
		{"CPU is boosted at the start by a quantity (gate CPUStartupBoost)", boost(map[string]any{"cpu": map[string]any{"type": "Quantity", "quantity": "100m", "durationSeconds": int64(15)}}, "", "", one(plain)...), "120m"},
		{"CPU is boosted at the start in mode Off (gate CPUStartupBoost)", boost(factor(15), "Off", ""), "40m"},
		{"CPU is not boosted for a container that is left alone (gate CPUStartupBoost)", boost(factor(15), "", "Off", one(plain)...), "20m"},
	} {
		add(n.what, admitted{containers: small, autoscaler: n.a, want: []amounts{n.want}}.run, ungated("CPUStartupBoost", n.a))
	}
	return all
}

// factor doubles CPU at the start for so many seconds.
func factor(seconds int64) map[string]any {
	return map[string]any{"cpu": map[string]any{"type": "Factor", "factor": int64(2), "durationSeconds": seconds}}
}

// boosted is a case of pods that are made with the first requests, and then get the others in place.
func boosted(suite, what string, containers []container, a autoscaler, first []amounts, then ...[]amounts) behaviour {
	a.mode = "InPlaceOrRecreate"
	return behaviour{suite: suite, what: what, differs: ungated("CPUStartupBoost", a), test: func(r *run) {
		r.autoscale(a)
		before := r.start("Deployment", 1, containers...)
		if wrong := have(before, first...); wrong != "" {
			r.Fatal(wrong)
		}
		for _, next := range then {
			r.resized(before, next...)
		}
	}}
}

// ungated is what ours does where upstream's gate is off in it: the autoscaler is refused, so that nobody waits for what does not come.
func ungated(gate string, a autoscaler) map[string]difference {
	why := map[string]string{
		"CPUStartupBoost": "ours refuses an autoscaler with a startupBoost: that is alpha in upstream, and ours guards starting JVMs instead",
		"PerVPAConfig":    "ours refuses an autoscaler with this setting: it is alpha in upstream, and ours sizes after an out-of-memory kill by levels and policies",
	}[gate]
	return map[string]difference{"ours": {why, func(r *run) { r.refused(gate, a) }}}
}

// refused makes an autoscaler, which the webhook must refuse for that.
func (r *run) refused(because string, a autoscaler) {
	r.Helper()
	if err := r.create(a, false); err == nil || !strings.Contains(err.Error(), "denied the request") || !strings.Contains(err.Error(), because) {
		r.Fatalf("want a refusal by the webhook, because of %q: %v", because, err)
	}
}

func updater() []behaviour {
	up := func(mode string) autoscaler { return autoscaler{mode: mode, status: one("40m 200Mi")} }
	small, large := hamsters(1, plain, ""), hamsters(1, "80m 400Mi", "")
	inPlace := func(from []container, mode string) func(*run) {
		return func(r *run) {
			before := r.start("Deployment", 2, from...)
			r.autoscale(up(mode))
			r.resized(before, "40m 200Mi")
		}
	}
	evicts := func(from []container) func(*run) {
		return func(r *run) {
			before := r.start("Deployment", 2, from...)
			r.autoscale(up("Recreate"))
			r.evicted(before, soon)
		}
	}
	oom := func(what string, seconds int64, within bool) behaviour {
		a := up("Recreate")
		a.status = []recommended{{container: "hamster", target: "50m 100Mi", lower: "10m 20Mi", upper: "1 1Gi"}}
		a.update = map[string]any{"evictAfterOOMSeconds": seconds}
		return behaviour{suite: "updater", what: what, differs: ungated("PerVPAConfig", a), test: func(r *run) {
			// The program holds more than its limit some seconds after it began, which is what tells one case from the other.
			before := r.start("Deployment", 3, container{name: "hamster", requests: "50m 60Mi", limits: "- 60Mi", args: []string{"--memory=90", "--after=4s"}})
			r.autoscale(a)
			r.until(soon, "a container is killed for want of memory", func() string {
				for _, p := range r.pods() {
					for _, s := range p.Status.ContainerStatuses {
						if t := s.LastTerminationState.Terminated; t != nil && t.Reason == "OOMKilled" {
							return ""
						}
					}
				}
				return "none is"
			})
			if within {
				r.evicted(before, soon)
				return
			}
			r.stays(before)
		}}
	}
	u := func(what string, test func(*run)) behaviour {
		return behaviour{suite: "updater", what: what, test: test}
	}
	silences := func(b behaviour) behaviour {
		b.silences = true
		return b
	}
	return []behaviour{
		u("pods that request too little are evicted while the admission controller answers", evicts(small)),
		u("pods that request too much are evicted", evicts(large)),
		u("an eviction requirement keeps pods that request too much", func(r *run) {
			before := r.start("Deployment", 2, large...)
			a := up("Recreate")
			a.update = map[string]any{"evictionRequirements": []any{map[string]any{"resources": []any{"cpu"}, "changeRequirement": "TargetHigherThanRequests"}}}
			r.autoscale(a)
			r.stays(before)
		}),
		silences(u("nobody is evicted while the admission controller does not answer", func(r *run) {
			before := r.start("Deployment", 2, small...)
			r.check(r.stack.admission(r.world, false))
			defer func() {
				r.check(r.stack.admission(r.world, true))
				r.answers()
			}()
			time.Sleep(70 * time.Second) // its Lease holds for a minute
			r.autoscale(up("Recreate"))
			r.stays(before)
		})),
		u("pods that request too little are resized in place", inPlace(small, "InPlaceOrRecreate")),
		u("pods that request too much are resized in place", inPlace(large, "InPlaceOrRecreate")),
		u("mode InPlace resizes (gate InPlace)", inPlace(small, "InPlace")),
		u("mode InPlace never evicts", func(r *run) {
			before := r.start("Deployment", 2, large...)
			r.autoscale(up("InPlace"))
			r.stays(before)
		}),
		u("mode InPlace goes on when the recommendation changes (gate InPlace)", func(r *run) {
			before := r.start("Deployment", 2, small...)
			r.autoscale(up("InPlace"))
			r.resized(before, "40m 200Mi")
			r.recommend(one("60m 200Mi")...)
			r.resized(before, "60m 200Mi")
		}),
		oom("out of memory later than the autoscaler says is no reason for an eviction (gate PerVPAConfig)", 1, false),
		oom("out of memory soon after the start is a reason for an eviction (gate PerVPAConfig)", 300, true),
		boosted("updater", "boosted CPU is taken back when pods are ready (gate CPUStartupBoost)", small, autoscaler{boost: factor(20), status: one(plain)}, []amounts{"40m"}, []amounts{"20m"}),
	}
}

func recommender() []behaviour {
	busy := []container{{name: "hamster", requests: plain, args: []string{"--cpu=30", "--memory=40"}}}
	mine := autoscaler{defaults: true}
	ratio := autoscaler{mode: "Off", defaults: true, policies: []map[string]any{{"containerName": "hamster", "oomBumpUpRatio": "3"}}}
	c := func(what string, test func(*run)) behaviour {
		return behaviour{suite: "recommender", what: what, test: test, quiet: true}
	}
	restarts := func(b behaviour) behaviour {
		b.schedules = true
		return b
	}
	checkpoint := func(r *run) map[string]any {
		list, err := r.resource("verticalpodautoscalercheckpoints").List(r.Context(), metav1.ListOptions{})
		r.check(err)
		for _, item := range list.Items {
			if object, _, _ := unstructured.NestedString(item.Object, "spec", "vpaObjectName"); object == "hamster" {
				status, _, _ := unstructured.NestedMap(item.Object, "status")
				if status["firstSampleStart"] != nil {
					return status
				}
			}
		}
		return nil
	}
	return []behaviour{
		{suite: "recommender", what: "checkpoints without an autoscaler are removed", not: "both collect them every ten minutes or hour by a loop of their own; ours is tested with a clock that is turned (agents/vpa/checkpoint)"},
		c("a CronJob gets a recommendation", func(r *run) {
			r.start("CronJob", 2, busy...)
			a := mine
			a.kind = "CronJob"
			r.autoscale(a)
			r.recommendation(1)
		}),
		c("a Deployment gets a recommendation", func(r *run) {
			r.start("Deployment", 1, busy...)
			r.autoscale(mine)
			r.recommendation(1)
		}),
		restarts(c("a restart does not widen the bounds", func(r *run) {
			r.start("Deployment", 1, busy...)
			r.autoscale(mine)
			r.recommendation(1)
			time.Sleep(90 * time.Second) // bounds have narrowed, and checkpoints were written
			before := r.recommendation(1)[0]
			r.check(r.stack.restart(r.world))
			r.always(time.Minute, "the bounds are no wider", func() string {
				now := r.recommendation(1)[0]
				for _, name := range []string{"cpu", "memory"} {
					was, is := quantity(before, "upperBound", name), quantity(now, "upperBound", name)
					if is.AsApproximateFloat64() > 1.3*was.AsApproximateFloat64() {
						return fmt.Sprintf("upper bound of %s rose from %s to %s", name, was.String(), is.String())
					}
				}
				return ""
			})
		})),
		restarts(c("a restart goes on from the checkpoints", func(r *run) {
			r.start("Deployment", 1, busy...)
			r.autoscale(mine)
			samples := func(m map[string]any) int64 { n, _ := m["totalSamplesCount"].(int64); return n }
			var before map[string]any
			r.until(3*time.Minute, "a checkpoint is written", func() string {
				if before = checkpoint(r); before == nil {
					return "none is"
				}
				return ""
			})
			// Ours writes one at once, then every ten minutes and when it ends. The one that the second ends with is of the first, too, or has
			// fewer samples.
			for range 2 {
				time.Sleep(45 * time.Second)
				r.check(r.stack.restart(r.world))
				r.until(2*time.Minute, "the checkpoint is written anew, with more samples", func() string {
					now := checkpoint(r)
					switch {
					case now == nil:
						return "it is gone"
					case now["firstSampleStart"] != before["firstSampleStart"]:
						r.Fatalf("it began at %v, and does at %v now: it was begun anew", before["firstSampleStart"], now["firstSampleStart"])
					case samples(now) <= samples(before):
						return fmt.Sprintf("%d samples, it had %d", samples(now), samples(before))
					}
					before = now
					return ""
				})
			}
		})),
		c("the autoscaler's minimum is kept, and what it raises is told", func(r *run) {
			r.start("Deployment", 1, busy...)
			a := mine
			a.policies = []map[string]any{{"containerName": "hamster", "minAllowed": map[string]any{"cpu": "10"}}}
			r.autoscale(a)
			got := r.recommendation(1)[0]
			target, uncapped, least := quantity(got, "target", "cpu"), quantity(got, "uncappedTarget", "cpu"), resource.MustParse("10")
			if target.Cmp(least) < 0 || uncapped.Cmp(least) >= 0 {
				r.Fatalf("target %s, uncapped %s", target.String(), uncapped.String())
			}
		}),
		c("the autoscaler's maximum is kept, and what it caps is told", func(r *run) {
			r.start("Deployment", 1, busy...)
			a := mine
			a.policies = []map[string]any{{"containerName": "hamster", "maxAllowed": map[string]any{"cpu": "1m"}}}
			r.autoscale(a)
			most := resource.MustParse("1m")
			r.until(3*time.Minute, "more is wanted than is allowed", func() string {
				got := r.recommendation(1)[0]
				target, uncapped := quantity(got, "target", "cpu"), quantity(got, "uncappedTarget", "cpu")
				if target.Cmp(most) > 0 {
					r.Fatalf("target %s", target.String())
				}
				if uncapped.Cmp(most) <= 0 {
					return "uncapped " + uncapped.String()
				}
				return ""
			})
		}),
		c("all containers get a recommendation", func(r *run) {
			r.start("Deployment", 1, append(slices.Clone(busy), hamsters(2, plain, "")[1])...)
			r.autoscale(mine)
			r.recommendation(2)
		}),
		c("a container that is left alone gets none", func(r *run) {
			r.start("Deployment", 1, append(slices.Clone(busy), hamsters(2, plain, "")[1])...)
			a := mine
			a.policies = []map[string]any{{"containerName": "hamster2", "mode": "Off"}}
			r.autoscale(a)
			if got, _ := r.recommendation(1)[0].(map[string]any); got["containerName"] != "hamster" {
				r.Fatalf("%v", got)
			}
		}),
		{suite: "recommender", what: "memory that ran out is raised by the autoscaler's own ratio (gate PerVPAConfig)", test: func(r *run) {
			r.start("Deployment", 1, container{name: "hamster", requests: "50m 200Mi", limits: "- 200Mi", args: []string{"--memory=260", "--after=4s"}})
			r.autoscale(ratio)
			least := resource.MustParse("600Mi")
			r.until(3*time.Minute, "three times the memory is recommended", func() string {
				got := quantity(r.recommendation(1)[0], "target", "memory")
				if got.Cmp(least) < 0 {
					return got.String()
				}
				return ""
			})
		}, differs: ungated("PerVPAConfig", ratio)},
	}
}

func actuation() []behaviour {
	cpu := func(mode string, target amounts) autoscaler { return autoscaler{mode: mode, status: one(target)} }
	small := hamsters(1, plain, "")
	kinds := []string{"Deployment", "ReplicationController", "Job", "CronJob", "ReplicaSet", "StatefulSet"}
	perKind := func(replicas int32, update map[string]any, evicted bool) func(*run) {
		return func(r *run) {
			for _, kind := range kinds {
				r.Logf("%s", kind)
				before := r.start(kind, replicas, small...)
				a := cpu("Recreate", "40m")
				a.kind, a.update = kind, maps.Clone(update)
				r.autoscale(a)
				if evicted {
					r.evicted(before, soon)
				} else {
					r.stays(before)
				}
				r.clear(kind)
			}
		}
	}
	a := func(what string, test func(*run)) behaviour {
		return behaviour{suite: "actuation", what: what, test: test}
	}
	schedules := func(b behaviour) behaviour {
		b.schedules = true
		return b
	}
	fills := func(b behaviour) behaviour {
		b.fills = true
		return b
	}
	long := func(b behaviour) behaviour {
		b.long = true
		return b
	}
	ranged := func(containers []container, targets []recommended, kind corev1.LimitType, least, most amounts) func(*run) {
		return func(r *run) {
			before := r.start("Deployment", 2, containers...)
			r.limitRange(kind, least, most)
			r.autoscale(autoscaler{mode: "Recreate", status: targets})
			r.stays(before)
		}
	}
	limited := func(n int) []container { return hamsters(n, "20m 100Mi", "60m 200Mi") }
	return []behaviour{
		a("in mode InPlaceOrRecreate pods are not evicted for what can be done in place, and new ones are sized", func(r *run) {
			before := r.start("Deployment", 2, small...)
			r.autoscale(cpu("InPlaceOrRecreate", "40m"))
			r.stays(before)
			r.killOne(2)
			r.until(soon, "all have it", func() string { return have(r.pods(), "40m") })
		}),
		a("all containers of a pod are resized in place", func(r *run) {
			before := r.start("Deployment", 2, hamsters(2, plain, "")...)
			r.autoscale(autoscaler{mode: "InPlaceOrRecreate", status: each("40m 200Mi", "40m 200Mi")})
			r.resized(before, "40m 200Mi", "40m 200Mi")
		}),
		schedules(a("what the node cannot do in place is done by eviction", func(r *run) {
			before := r.start("Deployment", 2, small...)
			r.autoscale(autoscaler{mode: "InPlaceOrRecreate", status: []recommended{{container: "hamster", target: "999", lower: "40m", upper: "40m"}}})
			r.evicted(before, soon)
		})),
		fills(a("what the node puts off for five minutes is done by eviction", func(r *run) {
			before := r.start("Deployment", 2, small...)
			node, err := r.kube.CoreV1().Nodes().Get(r.Context(), before[0].Spec.NodeName, metav1.GetOptions{})
			r.check(err)
			whole := amounts(node.Status.Allocatable.Cpu().String())
			r.autoscale(autoscaler{mode: "InPlaceOrRecreate", status: []recommended{{container: "hamster", target: whole, lower: "40m", upper: "40m"}}})
			r.until(soon, "the node puts it off", func() string {
				for _, p := range r.pods() {
					for _, c := range p.Status.Conditions {
						if c.Type == corev1.PodResizePending && c.Reason == corev1.PodReasonDeferred {
							return ""
						}
					}
				}
				return "it does not"
			})
			r.always(4*time.Minute, "no pod is evicted yet", func() string {
				if n := r.gone(before); n > 0 {
					return fmt.Sprintf("%d are", n)
				}
				return ""
			})
			r.evicted(before, 3*time.Minute)
		})),
		schedules(a("it stops when what it recommends cannot be scheduled", func(r *run) {
			r.start("Deployment", 3, small...)
			r.autoscale(cpu("Recreate", "9999"))
			r.until(soon, "a pod waits for a node", func() string { return pending(r, 1) })
			r.always(30*time.Second, "no other follows", func() string { return pending(r, 1) })
		})),
		a("mode Off never applies", func(r *run) {
			before := r.start("Deployment", 2, small...)
			r.autoscale(cpu("Off", "40m"))
			r.stays(before)
			r.killOne(2)
			if wrong := have(r.pods(), plain); wrong != "" {
				r.Fatal(wrong)
			}
		}),
		a("mode Initial applies to new pods only", func(r *run) {
			before := r.start("Deployment", 2, small...)
			r.autoscale(cpu("Initial", "40m"))
			r.stays(before)
			r.killOne(2)
			sized := 0
			for _, p := range r.pods() {
				if p.Spec.Containers[0].Resources.Requests.Cpu().String() == "40m" {
					sized++
				}
			}
			if sized != 1 {
				r.Fatalf("%d pods are sized, of two of which one is new", sized)
			}
		}),
		long(a("pods of several are evicted: "+strings.Join(kinds, ", "), perKind(2, nil, true))),
		long(a("a single pod is not evicted by default: the same kinds", perKind(1, nil, false))),
		long(a("a single pod is evicted where the autoscaler says so: the same kinds", perKind(1, map[string]any{"minReplicas": int64(1)}, true))),
		long(a("disruption budgets are kept", func(r *run) {
			before := r.start("Deployment", 6, hamsters(1, "10m 10Mi", "")...)
			r.disruption(0)
			r.autoscale(cpu("Recreate", "25m"))
			r.stays(before)
			r.disruption(2)
			// Ours asks a budget that refused again after five minutes.
			r.until(5*time.Minute+soon, "two are evicted", func() string {
				if n := r.gone(before); n < 2 {
					return fmt.Sprintf("%d are", n)
				}
				return ""
			})
		})),
		a("a container's maximum in a LimitRange is no reason for an eviction", ranged(limited(1), one("40m"), corev1.LimitTypeContainer, "", "60m 1T")),
		a("a container's minimum in a LimitRange is no reason for an eviction", ranged(limited(1), one("10m"), corev1.LimitTypeContainer, "20m 0", "")),
		a("a pod's maximum in a LimitRange is no reason for an eviction", ranged(limited(2), each("40m", "40m"), corev1.LimitTypePod, "", "120m 2T")),
		a("a pod's minimum in a LimitRange is no reason for an eviction", ranged(limited(2), each("10m", "10m"), corev1.LimitTypePod, "40m 0", "")),
		a("containers that another webhook adds are left alone", func(r *run) {
			r.inject(container{name: "injected", requests: "10m 10Mi"})
			recommend := func(target amounts) []recommended {
				return []recommended{{container: "hamster", target: target}, {container: "injected", target: "40m 40Mi"}}
			}
			r.autoscale(autoscaler{mode: "Recreate", status: recommend(plain)})
			before := r.start("Deployment", 2, hamsters(1, plain, "")...)
			if wrong := have(before, plain, "10m 10Mi"); wrong != "" {
				r.Fatal(wrong)
			}
			r.stays(before)
			r.recommend(recommend("50m 200Mi")...)
			r.evicted(before, soon)
		}),
	}
}

// pending says unless exactly so many pods wait for a node.
func pending(r *run, want int) string {
	n := 0
	for _, p := range r.pods() {
		if p.Status.Phase == corev1.PodPending {
			n++
		}
	}
	if n != want {
		return fmt.Sprintf("%d do", n)
	}
	return ""
}

// clear removes the workload and its autoscaler.
func (r *run) clear(kind string) {
	r.Helper()
	at := map[string]schema.GroupVersionResource{
		"Deployment": {Group: "apps", Version: "v1", Resource: "deployments"}, "ReplicaSet": {Group: "apps", Version: "v1", Resource: "replicasets"}, "StatefulSet": {Group: "apps", Version: "v1", Resource: "statefulsets"},
		"ReplicationController": {Version: "v1", Resource: "replicationcontrollers"}, "Job": {Group: "batch", Version: "v1", Resource: "jobs"}, "CronJob": {Group: "batch", Version: "v1", Resource: "cronjobs"},
	}[kind]
	background := metav1.DeletePropagationForeground
	r.check(r.resource("verticalpodautoscalers").Delete(r.Context(), "hamster", metav1.DeleteOptions{}))
	r.check(r.dynamic.Resource(at).Namespace(r.namespace).Delete(r.Context(), "hamster", metav1.DeleteOptions{PropagationPolicy: &background}))
	r.until(soon, kind+" is gone", func() string {
		_, err := r.dynamic.Resource(at).Namespace(r.namespace).Get(r.Context(), "hamster", metav1.GetOptions{})
		if list := r.pods(); len(list) > 0 {
			return fmt.Sprintf("%d pods are there", len(list))
		}
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprint("it is there: ", err)
	})
}

func full() []behaviour {
	// Where a first look saw little usage, pods get the least that is recommended, and are only touched again once that is below the lower bound,
	// which is held back until there is some minutes' history.
	within := func(r *run, name corev1.ResourceName, least, most string) {
		r.Helper()
		low, high := resource.MustParse(least), resource.MustParse(most)
		r.until(8*time.Minute, fmt.Sprintf("requests of %s are between %s and %s", name, least, most), func() string {
			pods := r.pods()
			if len(pods) == 0 {
				return "there are no pods"
			}
			for _, p := range pods {
				if q := p.Spec.Containers[0].Resources.Requests[name]; q.Cmp(low) < 0 || q.Cmp(high) > 0 {
					return fmt.Sprintf("%s requests %s", p.Name, q.String())
				}
			}
			return ""
		})
	}
	// What uses CPU gets less of it where the machine is busy: 25m is the least that is ever recommended, and anything above is usage.
	grows := func(a autoscaler, name corev1.ResourceName, least string) func(*run) {
		args := map[corev1.ResourceName][]string{corev1.ResourceCPU: {"--cpu=120", "--memory=10"}, corev1.ResourceMemory: {"--cpu=5", "--memory=400", "--after=10s"}}[name]
		return func(r *run) {
			r.start("Deployment", 2, container{name: "hamster", requests: "10m 20Mi", args: args})
			r.autoscale(a)
			within(r, name, least, "2Gi")
		}
	}
	mode := func(m string) autoscaler { return autoscaler{mode: m, defaults: true} }
	f := func(what string, test func(*run)) behaviour {
		return behaviour{suite: "full", what: what, test: test, measures: true}
	}
	boost := func(name string, seconds int64) map[string]any {
		return map[string]any{"containerName": name, "startupBoost": factor(seconds)}
	}
	two := hamsters(2, plain, "")
	return []behaviour{
		f("in mode InPlaceOrRecreate requests of CPU grow with usage", grows(mode("InPlaceOrRecreate"), corev1.ResourceCPU, "30m")),
		f("in mode InPlaceOrRecreate requests of memory grow with usage", grows(mode("InPlaceOrRecreate"), corev1.ResourceMemory, "350Mi")),
		f("in mode Recreate requests of CPU grow with usage", grows(mode("Recreate"), corev1.ResourceCPU, "30m")),
		f("in mode Recreate requests of memory grow with usage", grows(mode("Recreate"), corev1.ResourceMemory, "350Mi")),
		f("the default recommender can be named", func(r *run) {
			name := map[string]string{"upstream": "default", "ours": "nops"}[r.stack.name]
			grows(autoscaler{mode: "InPlaceOrRecreate", recommenders: []string{name}}, corev1.ResourceCPU, "30m")(r)
		}),
		f("what names another recommender is not touched", func(r *run) {
			before := r.start("Deployment", 2, container{name: "hamster", requests: "10m 20Mi", args: []string{"--cpu=20", "--memory=10"}})
			r.autoscale(autoscaler{mode: "Recreate", recommenders: []string{"somebody"}})
			r.stays(before)
			if wrong := have(r.pods(), "10m 20Mi"); wrong != "" {
				r.Fatal(wrong)
			}
		}),
		boosted("full", "CPU of all containers is boosted at the start (gate CPUStartupBoost)", two, autoscaler{boost: factor(20)}, []amounts{"40m", "40m"}, []amounts{"20m", "20m"}),
		boosted("full", "CPU of some containers is boosted at the start (gate CPUStartupBoost)", two, autoscaler{policies: []map[string]any{boost("hamster", 20)}}, []amounts{"40m", "20m"}, []amounts{"20m", "20m"}),
		boosted("full", "CPU is boosted for as long as each container says (gate CPUStartupBoost)", two, autoscaler{policies: []map[string]any{boost("hamster", 20), boost("hamster2", 60)}},
			[]amounts{"40m", "40m"}, []amounts{"20m", "40m"}, []amounts{"20m", "20m"}),
		f("requests of memory grow where it runs out", func(r *run) {
			r.start("Deployment", 2, container{name: "hamster", requests: "20m 100Mi", limits: "- 100Mi", args: []string{"--memory=150", "--after=4s"}})
			r.autoscale(mode("Recreate"))
			within(r, corev1.ResourceMemory, "180Mi", "2Gi")
		}),
	}
}

func behaviours() []behaviour {
	return slices.Concat(admission(), updater(), recommender(), actuation(), full())
}
