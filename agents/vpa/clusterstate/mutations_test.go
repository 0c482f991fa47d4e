package clusterstate

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
)

var mutate = flag.Bool("mutate", false, "make each mutation of the model, and see a test fail")

// mutation is a mistake in one place of the source, and the tests that notice it.
type mutation struct{ name, file, old, made, tests string }

func mutations() []mutation {
	const (
		state, index, adding, collecting, writer = "clusterstate.go", "index.go", "aggregator.go", "collect.go", "../checkpoint/checkpoint.go"

		comparison = "TestSameAsUpstream" // with upstream; the others are of what differs on purpose, and of the writer
	)
	return []mutation{
		{"a pod that comes is not counted", state, "a.vpa.PodCount++", "_ = a", comparison},
		{"a pod that goes is counted on", state, "a.vpa.PodCount--", "_ = a", comparison},
		{"a pod stays in its label set", state, "\tdelete(p.set.pods, p.ID)\n", "", comparison},
		{"a label set is never released when pods leave it", state, "\t\ta.vpa.PodCount--\n\t}\n\tc.release(p.set)\n", "\t\ta.vpa.PodCount--\n\t}\n", comparison},
		{"relabelled containers get no aggregation", state, "\tfor name := range p.Containers {\n\t\tc.aggregation(p.set, name)\n\t}\n", "", comparison},
		{"a deleted pod stays listed", state, "\tdelete(c.states, id)\n", "", comparison},
		{"a request is not updated", state, "known.Request = request", "_ = request", comparison},
		{"a phase is not updated", state, "\tp.Phase = phase\n", "\tif p.Phase == \"\" {\n\t\tp.Phase = phase\n\t}\n", comparison},
		{"a new container makes no aggregation at once", state, ", to: c.aggregation(p.set, id.ContainerName)})", "})", comparison},
		{"a recommendation is taken whatever the conditions say", state, "if conditions[vpav1.RecommendationProvided].Status == corev1.ConditionTrue {", "if true {", comparison},
		{"a deleted autoscaler leaves aggregations marked", state, "aggregation.state.MarkNotAutoscaled()", "_ = aggregation", comparison},
		{"a selector sticks for another target", state, "case sameTarget && selectsNothing(selector):", "case selectsNothing(selector):", comparison},
		{"loaded history is dropped at the first selector", state, "known.vpa.ContainersInitialAggregateState = loaded", "_ = loaded", comparison},
		{"a missing recommendation is told too early", state, "since.Add(model.RecommendationMissingMaxDuration).Before(now)", "since.Before(now)", comparison},
		{"a missing recommendation is not forgotten", state, "\t\tdelete(c.missing, vpa.ID)\n", "", "TestARecommendationThatIsLost"},
		{"another selector keeps the autoscaler", state, "\t\t\tif err := c.DeleteVpa(id); err != nil {\n\t\t\t\treturn err\n\t\t\t}\n\t\t\tknown = nil\n", "", comparison},
		{"an OOM marks nobody", state, "c.oomed[a.vpa.ID] = struct{}{}", "_ = a", "TestOOMOfDepartedPod|TestOOMIsWrittenAtOnceAndFirst"},
		{"a departed pod is never forgotten", state, "now.Sub(d.since) >= departedFor", "false", "TestDepartedPodIsForgotten"},
		{"a departed pod is not counted", state, "\t\tset.departed++\n", "", comparison + "|TestOOMOfDepartedPod|TestDepartedPodIsForgotten"},
		{"a departed pod is kept beside its successor", state, "\t\tif old := c.departed[id]; old != nil {\n\t\t\tc.forget(id, old)\n\t\t}\n", "", comparison + "|TestDepartedPodIsForgotten"},
		{`"in" is indexed under one value`, index, "\t\treturn all\n\t}\n\treturn nil\n", "\t\treturn all[:1]\n\t}\n\treturn nil\n", comparison},
		{`"notin" is taken for "in"`, index, "selection.DoubleEquals, selection.In:", "selection.DoubleEquals, selection.In, selection.NotIn:", comparison},
		{"a new label set finds no autoscaler by label", index, "pass(n.require[label{k, v}])", "_, _ = k, v", comparison},
		{"a new label set finds none without a label", index, "\tpass(n.rest)\n", "", comparison},
		{"a new label set tells no autoscaler of itself", index, "\tfor _, a := range set.autoscalers {\n\t\ta.sets[set] = struct{}{}\n\t}\n\treturn set\n", "\treturn set\n", comparison},
		{"label sets are not indexed", index, "insert(n.byLabel, label{k, v}, set)", "_, _ = k, v", comparison},
		{"label sets are not taken out of the index", index, "remove(n.byLabel, label{k, v}, set)", "_, _ = k, v", comparison},
		{"label sets are not taken from their autoscalers", index, "delete(a.sets, set)", "_ = a", comparison},
		{"a label set is released with aggregations", index, " || len(set.aggregations) > 0", "", comparison},
		{"a label set is released with departed pods", index, " || set.departed > 0", "", comparison + "|TestOOMOfDepartedPod"},
		{"namespaces are never dropped", index, "delete(c.namespaces, n.name)", "_ = n", comparison},
		{"a new autoscaler counts the pods of one label set", index, "a.vpa.PodCount += len(set.pods)", "a.vpa.PodCount = len(set.pods)", comparison},
		{"a new autoscaler uses no aggregation", index, "a.vpa.UseAggregationIfMatching(aggregation.key, aggregation.state)", "_ = aggregation", comparison},
		{"a new aggregation is told to nobody", index, "a.vpa.UseAggregationIfMatching(made.key, made.state)", "_ = a", comparison},
		{"autoscalers are in any order", index, "\t\tslices.SortFunc(set.autoscalers, stronger)\n", "", comparison + "|TestControllingVPA"},
		{"autoscalers are in the opposite order", index, "return cmp.Or(a.vpa.Created", "return -cmp.Or(a.vpa.Created", "TestControllingVPA"},
		{"a deleted autoscaler stays in the index", index, "remove(n.require, l, a)", "_ = l", comparison},
		{"a deleted autoscaler stays with label sets", index, "set.autoscalers = slices.DeleteFunc(set.autoscalers, func(other *autoscaler) bool { return other == a })", "_ = set", comparison},
		{"aggregations are counted twice", index, "\tc.size++\n", "\tc.size += 2\n", comparison},
		{"a label of a run is left out although its value is asked for", index, "n.named[label{k, v}] == 0 && ", "", "TestLabelsThatAreAskedFor"},
		{"a label of a run is left out although it is asked for", index, " && n.named[label{key: k}] == 0", "", "TestLabelsThatAreAskedFor"},
		{"pods are not told apart when a selector asks for it", index, "c.rejoin(p, p.labels)", "_ = p", "TestLabelsThatAreAskedFor"},
		{"pods are told apart for ever", index, "\tn.unname(a.vpa.PodSelector)\n", "", "TestLabelsThatAreAskedFor"},
		{`"notin" asks for every value`, index, "selection.In, selection.NotEquals, selection.NotIn:", "selection.In:", "TestLabelsThatAreAskedFor"},
		{"each run has an aggregation of its own", index, "\"pod-template-generation\":\n\t\treturn true", "\"pod-template-generation\":\n\t\treturn false", "TestRunsOfACronJobAreOne"},
		{"autoscalers are looked up by the widest requirement", index, "n < least", "n > least", "TestOneNamespaceIsNoWorse"},
		{"an aggregation that was collected is added to", adding, "a.to.gone || ", "", comparison + "|TestRelabelledPodStillCounts"},
		{"the aggregation of the old labels is added to", adding, " || a.to.key.set != a.pod.set", "", comparison},
		{"the last peak of memory is not noted", adding, "to.lastMemory = sample.MeasureStart", "_ = to", "TestMemoryAloneExpires|TestMemoryAloneIsKept"},
		{"subtracting adds", adding, "a.find().state.SubtractSample(sample)", "a.find().state.AddSample(sample)", comparison},
		{"memory alone is empty", collecting, " && a.state.AggregateMemoryPeaks.IsEmpty()", "", "TestMemoryAloneIsKept"},
		{"expired a moment late", collecting, "now.Sub(last) >= ", "now.Sub(last) > ", "TestMemoryAloneExpires"},
		{"failed pods contribute", collecting, " && p.Phase != corev1.PodFailed", "", comparison},
		{"pods without the container contribute", collecting, "\t\tif p.Containers[container] == nil {\n\t\t\tcontinue\n\t\t}\n", "", comparison},
		{"controllers are never asked", collecting, "return has && controlled(s)", "return has && controlled == nil", comparison},
		{"a collected aggregation stays with autoscalers", collecting, "by.vpa.DeleteAggregation(a.key)", "_ = by", comparison},
		{"a collected aggregation keeps its label set", collecting, "\tc.release(set)\n", "", comparison},
		{"a collected aggregation is counted on", collecting, "\tc.size--\n", "", comparison},
		{"a collected aggregation is not marked", collecting, "\ta.gone = true\n", "", comparison + "|TestRelabelledPodStillCounts"},
		{"collecting knows no interval", collecting, "if now.Sub(c.lastGC) < c.gcInterval {", "if false {", comparison},
		{"what got no sample is expired at once", collecting, "last = a.state.CreationTime", "last = a.lastMemory", comparison},
		{"the peak of the interval that goes on is stored", writer, "states[name].AggregateMemoryPeaks.SubtractSample(model.BytesFromMemoryAmount(container.GetMaxMemoryPeak()), 1, container.WindowEnd)", "_, _ = name, container", comparison},
		{"peaks of intervals that ended are taken out", writer, "if now.Before(container.WindowEnd) {", "if true {", comparison},
		{"history on its way is stored over", writer, " && !vpa.ConditionActive(vpav1.FetchingHistory)", "", "TestWhoIsNotStored"},
		{"what did not change is written", writer, "known != nil && known.content == content", "false", "TestSteadyStateWritesLittle|TestRestartWritesNothing|TestMoveIsWrittenAfterInterval|TestFlushWritesWhatChanged"},
		{"the interval of a checkpoint is ignored", writer, "now.Before(known.next) || ", "", "TestFailureOfOneContainer"},
		{"a checkpoint may be of any age", writer, " && now.Before(known.refresh)", "", "TestMoveIsWrittenAfterInterval|TestSteadyStateWritesLittle"},
		{"after a restart all is looked at at once", writer, "if !r.look.IsZero() && w.o.Interval > 0 {", "if false {", "TestRestartWritesNothing"},
		{"an OOM is forgotten although its checkpoint was not written", writer, "\tif !failed {\n", "\tif !failed || true {\n", "TestOOMIsWrittenAtOnceAndFirst|TestFailureOfOneContainer"},
		{"nothing is written once the time is up", writer, "if i >= workers && ctx.Err() != nil {", "if ctx.Err() != nil {", "TestOldestFirstUntilTheTimeIsUp"},
		{"the time is never up", writer, "if i >= workers && ctx.Err() != nil {", "if false {", "TestOldestFirstUntilTheTimeIsUp"},
		{"a namespace to skip is collected", writer, " || skip != nil && skip(checkpoint.Namespace)", "", "TestCollect"},
		{"a checkpoint of another container is written over", writer, `{"test", "/spec/containerName", spec.ContainerName}, `, "", comparison + "|TestOneNameOfTwo"},
		{"an OOM is in no hurry among what is due", writer, "if ra.oomed != rb.oomed {", "if false {", "TestOOMIsWrittenAtOnceAndFirst"},
		{"a checkpoint is not written although something moved", writer, "known.mark == moved && ", "", "TestMoveIsWrittenAfterInterval|TestSteadyStateWritesLittle"},
		{"that a checkpoint was written is not noted", writer, "j.vpa.CheckpointWritten = j.now", "_ = j.vpa", comparison},
		{"at the end only what is due is written", writer, "all || (r.oomed", "(r.oomed", "TestFlushWritesWhatChanged"},
		{"what was looked at is looked at in each loop", writer, "return now.Add(time.Duration((1 + w.o.Rand()/2) * float64(w.o.Interval)))", "return now", "TestNothingIsLookedAtBetween"},
	}
}

// TestMutations proves that the tests of the model and of its writer see what they are there for: each mistake alone makes one of them fail.
func TestMutations(t *testing.T) {
	if !*mutate {
		t.Skip("each mutation is a build and a run, which takes a quarter of an hour in all: make test-vpa-mutations")
	}
	all := mutations()
	if len(all) < 75 {
		t.Errorf("only %d mutations", len(all))
	}
	var tests, names []string
	for _, m := range all {
		tests, names = append(tests, m.tests), append(names, m.name)
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(all) {
		t.Error("two mutations have one name")
	}
	slices.Sort(tests)
	if out, passed := under(t, "", strings.Join(slices.Compact(tests), "|")); !passed {
		t.Fatalf("without a mutation:\n%s", out)
	}
	for _, m := range all {
		t.Run(m.name, func(t *testing.T) {
			path, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.old); n != 1 {
				t.Fatalf("%s has %d places like this, want 1: %q", m.file, n, m.old)
			}
			changed := filepath.Join(t.TempDir(), "changed.go")
			if err := os.WriteFile(changed, []byte(strings.Replace(string(source), m.old, m.made, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
			if err != nil {
				t.Fatal(err)
			}
			overlay := filepath.Join(t.TempDir(), "overlay.json")
			if err := os.WriteFile(overlay, replace, 0o600); err != nil {
				t.Fatal(err)
			}
			switch out, passed := under(t, overlay, m.tests); {
			case passed:
				t.Errorf("nothing of %s notices it:\n%s", m.tests, out)
			case !strings.Contains(out, "--- FAIL: ") && !strings.Contains(out, "panic: "):
				t.Errorf("it is no program:\n%s", out)
			}
		})
	}
}

// TestARecommendationThatIsLost: it is missed from when it is gone, not from when there was none before it.
func TestARecommendationThatIsLost(t *testing.T) {
	c, began := New(time.Hour), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	vpa := model.NewVpa(model.VpaID{Namespace: "n", VpaName: "a"}, labels.Everything(), began)
	for _, step := range []struct {
		after   time.Duration
		has     bool
		missing bool
	}{{0, false, false}, {time.Minute, true, false}, {time.Hour, false, false}, {time.Hour + model.RecommendationMissingMaxDuration, false, false}, {2 * time.Hour, false, true}} {
		var of *vpav1.RecommendedPodResources
		if step.has {
			of = &vpav1.RecommendedPodResources{ContainerRecommendations: []vpav1.RecommendedContainerResources{{ContainerName: "c"}}}
		}
		vpa.SetRecommendationDirect(of)
		if err := c.RecordRecommendation(vpa, began.Add(step.after)); (err != nil) != step.missing {
			t.Errorf("after %s: %v", step.after, err)
		}
	}
}

// under runs tests of the two packages with some files replaced.
func under(t *testing.T, overlay, tests string) (out string, passed bool) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-failfast", "-count=1", "-timeout=10m", "-overlay="+overlay, "-run=^("+tests+")$", ".", "../checkpoint")
	text, err := c.CombinedOutput()
	return string(text), err == nil
}
