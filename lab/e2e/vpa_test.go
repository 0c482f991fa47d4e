package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nopsctl/nopsctl/lab/vpa"
)

// TestVPA plays the stories of containers that are rightsized: apart, for they measure what real containers use, which takes time.
func TestVPA(t *testing.T) { run(t, "vpa", 6) }

// storyPod is a pod and what must not change when it is resized in place.
type storyPod struct {
	name, uid string
	// runs are its containers' IDs with their restarts.
	runs string
}

// podsOf are the pods of a story that live.
func (w *world) podsOf(namespace, selector string) ([]corev1.Pod, error) {
	out, err := w.collect("kubectl", "-n", namespace, "get", "pods", "-l", selector, "--sort-by=.metadata.name", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	var all []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// requests waits until every pod's first container has a request between two bounds, by its specification, by what its node says, and by
// the container's own cgroup.
func (w *world) requests(ts *testscript.TestScript, neg bool, args []string) {
	const usage = "usage: requests NAMESPACE SELECTOR cpu|memory LEAST MOST within TIME"
	if neg || len(args) != 7 || args[5] != "within" {
		ts.Fatalf(usage)
	}
	r := corev1.ResourceName(args[2])
	least, err := resource.ParseQuantity(args[3])
	ts.Check(err)
	most, err := resource.ParseQuantity(args[4])
	ts.Check(err)
	within, err := time.ParseDuration(args[6])
	ts.Check(err)
	for began := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		pods, err := w.podsOf(args[0], args[1])
		ts.Check(err)
		wrong := "there is no pod"
		for _, p := range pods {
			if wrong = w.unlike(p, r, least, most); wrong != "" {
				break
			}
		}
		if wrong == "" {
			for _, p := range pods {
				q := p.Spec.Containers[0].Resources.Requests[r]
				ts.Logf("%s of pod %s is %s, after %s", r, p.Name, q.String(), time.Since(began).Round(100*time.Millisecond))
			}
			return
		}
		if time.Since(began) > within {
			ts.Fatalf("not within %s: %s", within, wrong)
		}
	}
}

// unlike says what of a pod is not as wanted.
func (w *world) unlike(p corev1.Pod, r corev1.ResourceName, least, most resource.Quantity) string {
	c := p.Spec.Containers[0]
	has := c.Resources.Requests[r]
	if has.Cmp(least) < 0 || has.Cmp(most) > 0 {
		return fmt.Sprintf("pod %s requests %s of %s, which is not between %s and %s", p.Name, has.String(), r, least.String(), most.String())
	}
	if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].Resources == nil || p.Status.ContainerStatuses[0].State.Running == nil {
		return fmt.Sprintf("pod %s does not run", p.Name)
	}
	got := p.Status.ContainerStatuses[0].Resources
	if is := got.Requests[r]; is.Cmp(has) != 0 {
		return fmt.Sprintf("the node gives pod %s %s of %s, which requests %s", p.Name, is.String(), r, has.String())
	}
	out, err := w.collect("kubectl", "-n", p.Namespace, "exec", p.Name, "-c", c.Name, "--", "/load", "limits")
	if err != nil {
		return fmt.Sprintf("pod %s: what its cgroup says: %v", p.Name, err)
	}
	var own struct{ CPU, Memory int64 }
	if _, err := fmt.Sscanf(out, "cpu=%d memory=%d", &own.CPU, &own.Memory); err != nil {
		return fmt.Sprintf("pod %s: what its cgroup says: %q: %v", p.Name, out, err)
	}
	if r == corev1.ResourceCPU {
		// Shares are whole numbers, and weights coarser.
		if d := own.CPU - has.MilliValue(); d > 2+has.MilliValue()/20 || -d > 2+has.MilliValue()/20 {
			return fmt.Sprintf("the cgroup of pod %s is for %d millicores, it requests %s", p.Name, own.CPU, has.String())
		}
		return ""
	}
	if limit, limited := c.Resources.Limits[r]; limited && own.Memory != limit.Value()/4096*4096 {
		return fmt.Sprintf("the cgroup of pod %s is limited to %d bytes of memory, its limit is %s", p.Name, own.Memory, limit.String())
	}
	return ""
}

func (w *world) story(namespace, selector string) ([]storyPod, error) {
	pods, err := w.podsOf(namespace, selector)
	if err != nil {
		return nil, err
	}
	var all []storyPod
	for _, p := range pods {
		s := storyPod{name: p.Name, uid: string(p.UID)}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			s.runs += fmt.Sprintf("%s %s restarted %d times; ", c.Name, c.ContainerID, c.RestartCount)
		}
		all = append(all, s)
	}
	return all, nil
}

func (w *world) rememberPods(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: remember-pods NAME NAMESPACE SELECTOR")
	}
	pods, err := w.story(args[1], args[2])
	ts.Check(err)
	if len(pods) == 0 {
		ts.Fatalf("there is no pod %s in %s", args[2], args[1])
	}
	if w.remembered == nil {
		w.remembered = map[string][]storyPod{}
	}
	w.remembered[args[0]] = pods
}

// samePods shows that pods are those that were remembered, and that none of their containers was started anew.
func (w *world) samePods(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || w.remembered[args[0]] == nil {
		ts.Fatalf("usage: same-pods NAME NAMESPACE SELECTOR, after remember-pods NAME")
	}
	pods, err := w.story(args[1], args[2])
	ts.Check(err)
	if was, is := fmt.Sprint(w.remembered[args[0]]), fmt.Sprint(pods); was != is {
		ts.Fatalf("the pods were\n  %s\nand are\n  %s", was, is)
	}
}

// upstreamVPA runs lab upstream-vpa.
func (w *world) upstreamVPA(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: upstream-vpa on|off [FLAG…]")
	}
	if out, err := w.lab(append([]string{"upstream-vpa", args[0], "--name", w.name}, args[1:]...)...).CombinedOutput(); err != nil {
		ts.Fatalf("lab upstream-vpa %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// audited are requests since a moment, Unix seconds in a variable of the story.
func (w *world) audited(ts *testscript.TestScript, since string) []vpa.Request {
	log, err := os.ReadFile(filepath.Join(filepath.Dir(w.status.Kubeconfig), "logs", "audit.log"))
	ts.Check(err)
	all, err := vpa.Requests(log, moment(ts, since))
	ts.Check(err)
	return all
}

// asked counts requests of a user, as "VERB GROUP/RESOURCE NAMESPACE/NAME", that match.
func (w *world) asked(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: asked SINCE USER REQUEST LEAST | ! asked SINCE USER REQUEST 1")
	}
	user, request := regexp.MustCompile("^(?:"+args[1]+")$"), regexp.MustCompile("^(?:"+args[2]+")$")
	least, err := strconv.Atoi(args[3])
	ts.Check(err)
	var found []string
	for _, r := range w.audited(ts, args[0]) {
		what := r.String()
		if user.MatchString(r.User) && request.MatchString(what) {
			found = append(found, fmt.Sprintf("%s: %s: %d", r.User, what, r.Code))
		}
	}
	switch {
	case neg && len(found) > 0:
		ts.Fatalf("%d requests that should not have been made:\n  %s", len(found), strings.Join(found, "\n  "))
	case !neg && len(found) < least:
		ts.Fatalf("%d requests %s of %s, at least %d were expected", len(found), args[2], args[1], least)
	}
	ts.Logf("%s: %s: %d", args[1], args[2], len(found))
}

// mutated holds which pods a webhook changed when they were created, by the API server's log.
func (w *world) mutated(ts *testscript.TestScript, neg bool, args []string) {
	w.ofCreated(ts, neg, args, "mutated", "changed", vpa.Request.Mutated)
}

// failedOpen holds which pods were created without a webhook's answer.
func (w *world) failedOpen(ts *testscript.TestScript, neg bool, args []string) {
	w.ofCreated(ts, neg, args, "failed-open", "did not answer about", vpa.Request.FailedOpen)
}

// ofCreated counts the pods created in a namespace of which something is true with regard to a webhook.
func (w *world) ofCreated(ts *testscript.TestScript, neg bool, args []string, command, did string, is func(r vpa.Request, webhook string) bool) {
	if len(args) != 4 {
		ts.Fatalf("usage: %[1]s SINCE WEBHOOK NAMESPACE LEAST|all | ! %[1]s SINCE WEBHOOK NAMESPACE 1", command)
	}
	created := w.created(ts, args[0], args[2])
	n := 0
	var not []string
	for _, r := range created {
		if is(r, args[1]) {
			n++
		} else {
			not = append(not, fmt.Sprintf("%s after %s: %v", r.At.Format("15:04:05.000"), r.Took.Round(time.Millisecond), r.Annotations))
		}
	}
	least := len(created)
	if args[3] != "all" {
		var err error
		least, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	if neg && n > 0 || !neg && n < least {
		ts.Fatalf("%s %s %d of %d pods created in %s; not those of\n  %s", args[1], did, n, len(created), args[2], strings.Join(not, "\n  "))
	}
	ts.Logf("%s %s %d of %d pods created in %s", args[1], did, n, len(created), args[2])
}

// created are the requests that made pods in a namespace since a moment; there is one at least.
func (w *world) created(ts *testscript.TestScript, since, namespace string) []vpa.Request {
	created := vpa.Created(w.audited(ts, since), namespace)
	if len(created) == 0 {
		ts.Fatalf("no pod was created in %s since then: that shows nothing", namespace)
	}
	return created
}

// took holds how long the API server took to create each pod.
func (w *world) took(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: took SINCE NAMESPACE LEAST MOST")
	}
	least, err := time.ParseDuration(args[2])
	ts.Check(err)
	most, err := time.ParseDuration(args[3])
	ts.Check(err)
	for _, r := range w.created(ts, args[0], args[1]) {
		if r.Took < least || r.Took > most {
			ts.Fatalf("the pod of %s in %s was created after %s, which is not between %s and %s", r.At.Format("15:04:05.000"), args[1], r.Took, least, most)
		}
		ts.Logf("the pod of %s in %s was created after %s", r.At.Format("15:04:05.000"), args[1], r.Took.Round(time.Millisecond))
	}
}

// churn deletes the pods of a workload again and again, so that pods are created all the time.
func (w *world) churn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: churn NAMESPACE SELECTOR TIME")
	}
	d, err := time.ParseDuration(args[2])
	ts.Check(err)
	rounds := 0
	for began := time.Now(); time.Since(began) < d; time.Sleep(500 * time.Millisecond) {
		if _, err := w.collect("kubectl", "-n", args[0], "delete", "pods", "-l", args[1], "--wait=false"); err != nil {
			ts.Fatalf("churn: %v", err)
		}
		rounds++
	}
	ts.Logf("pods were deleted %d times", rounds)
}
