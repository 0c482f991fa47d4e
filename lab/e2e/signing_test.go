package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nopsctl/nopsctl/pkg/verify/lock"
)

// writesNothing runs a command that must end with this exit code and write nothing into the cluster, by the API server's own
// log of writes. Negated, the command must write something: that is how a story shows that the log would tell.
func (w *world) writesNothing(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: writes-nothing CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	began := time.Now()
	program, rest := w.resolve(ts, args[1:])
	got := exitCode(ts.Exec(program, rest...))
	log, err := os.ReadFile(filepath.Join(filepath.Dir(w.status.Kubeconfig), "logs", "audit.log"))
	ts.Check(err)
	wrote, err := writes(log, began)
	ts.Check(err)
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	switch {
	case !neg && len(wrote) > 0:
		ts.Fatalf("%s wrote into the cluster:\n  %s", strings.Join(args[1:], " "), strings.Join(wrote, "\n  "))
	case neg && len(wrote) == 0:
		ts.Fatalf("%s wrote nothing by the API server's log: the log shows nothing", strings.Join(args[1:], " "))
	}
}

// writes are the lines of an audit log since a moment that changed something: no dry run, and no question about permissions,
// which the API server takes as objects too.
func writes(log []byte, since time.Time) ([]string, error) {
	var all []string
	lines := bufio.NewScanner(bytes.NewReader(log))
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e struct {
			Verb string `json:"verb"`
			User struct {
				Username string `json:"username"`
			} `json:"user"`
			RequestURI     string    `json:"requestURI"`
			StageTimestamp time.Time `json:"stageTimestamp"`
			ResponseStatus struct {
				Code int `json:"code"`
			} `json:"responseStatus"`
			ObjectRef struct {
				Resource, Namespace, Name, APIGroup string
			} `json:"objectRef"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("audit log: %w: %s", err, lines.Bytes())
		}
		if e.User.Username != "lab-admin" { // a VPA
			continue
		}
		if e.StageTimestamp.Before(since) || e.ObjectRef.APIGroup == "authorization.k8s.io" || e.ObjectRef.APIGroup == "authentication.k8s.io" || strings.Contains(e.RequestURI, "dryRun=All") {
			continue
		}
		all = append(all, fmt.Sprintf("%s %s %s/%s: %d", e.Verb, e.ObjectRef.Resource, e.ObjectRef.Namespace, e.ObjectRef.Name, e.ResponseStatus.Code))
	}
	return all, lines.Err()
}

// forge puts a forgery into the lab's registry for as long as the story lasts: all labs of the machine share its directory.
func (w *world) forge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: forge KIND IMAGE TAG")
	}
	repository, _, _ := strings.Cut(args[1], ":")
	ts.Defer(func() {
		if out, err := w.lab("image", "rm", "--name", w.name, repository+":"+args[2]).CombinedOutput(); err != nil {
			ts.Logf("taking %s:%s away: %v\n%s", repository, args[2], err, out)
		}
	})
	program, rest := w.resolve(ts, append([]string{"lab", "image", "forge"}, args...))
	ts.Check(ts.Exec(program, rest...))
}

// pinned shows that every container of the stack is declared by digest, runs the image of that digest, and that it is the one in
// the release's lock.
func (w *world) pinned(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: pinned AT_LEAST")
	}
	atLeast, err := strconv.Atoi(args[0])
	ts.Check(err)
	text, err := w.collect("kubectl", "-n", "nops", "get", "configmap", "nops-image-lock", "-o", `jsonpath={.data.nopsctl\.lock\.yaml}`)
	ts.Check(err)
	locked, err := lock.Read([]byte(text))
	ts.Check(err)
	pods, err := w.collect("kubectl", "-n", "nops", "get", "pods", "-o", "json")
	ts.Check(err)
	n, err := againstLock([]byte(pods), locked)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d containers run what was locked\n", n)
	if n < atLeast {
		ts.Fatalf("%d containers run, expected at least %d", n, atLeast)
	}
}

// againstLock holds the containers of pods against a lock, and counts them.
func againstLock(pods []byte, locked lock.Lock) (int, error) {
	digests := map[string]string{}
	for _, e := range locked.Images {
		digests[e.Reference] = e.Digest
	}
	type container struct{ Name, Image string }
	type status struct{ Name, ImageID string }
	var list struct {
		Items []struct {
			Metadata struct{ Name, DeletionTimestamp string }
			Spec     struct{ InitContainers, Containers, EphemeralContainers []container }
			Status   struct {
				Phase                                                                string
				InitContainerStatuses, ContainerStatuses, EphemeralContainerStatuses []status
			}
		}
	}
	if err := json.Unmarshal(pods, &list); err != nil {
		return 0, fmt.Errorf("pods: %w", err)
	}
	n := 0
	for _, pod := range list.Items {
		if pod.Metadata.DeletionTimestamp != "" { // of the revision before
			continue
		}
		runs := map[string]string{}
		for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
			_, runs[s.Name], _ = strings.Cut(s.ImageID, "@")
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers, pod.Spec.EphemeralContainers) {
			at := pod.Metadata.Name + " " + c.Name
			reference, digest, byDigest := strings.Cut(c.Image, "@")
			switch {
			case !byDigest:
				return n, fmt.Errorf("%s is declared as %s, without a digest", at, c.Image)
			case digests[reference] != digest:
				return n, fmt.Errorf("%s is declared as %s, and the lock says %q", at, c.Image, digests[reference])
			case runs[c.Name] != digest:
				return n, fmt.Errorf("%s is declared as %s, and runs %q", at, c.Image, runs[c.Name])
			}
			n++
		}
	}
	return n, nil
}

// TestAgainstLock: what the stories take for pinned, and what not.
func TestAgainstLock(t *testing.T) {
	a, b := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	locked := lock.Lock{Images: []lock.Entry{{Reference: "r.example/x:1", Digest: a}}}
	pod := func(kind, image, id string) string {
		return fmt.Sprintf(`{"metadata":{"name":"p"},"spec":{"%ss":[{"name":"c","image":%q}]},"status":{"%sStatuses":[{"name":"c","imageID":%q}]}}`, kind, image, kind, id)
	}
	for _, tt := range []struct {
		name, pod, err string
		want           int
	}{
		{"pinned", pod("container", "r.example/x:1@"+a, "r.example/x@"+a), "", 1},
		{"an init container", pod("initContainer", "r.example/x:1@"+a, "r.example/x@"+a), "", 1},
		{"a tag", pod("container", "r.example/x:1", "r.example/x@"+a), "without a digest", 0},
		{"an init container's tag", pod("initContainer", "r.example/x:1", "r.example/x@"+a), "without a digest", 0},
		{"another digest than locked", pod("container", "r.example/x:1@"+b, "r.example/x@"+b), "the lock says", 0},
		{"not in the lock", pod("container", "r.example/y:1@"+a, "r.example/y@"+a), "the lock says", 0},
		{"another one runs", pod("container", "r.example/x:1@"+a, "r.example/x@"+b), "runs", 0},
		{"nothing runs yet", pod("container", "r.example/x:1@"+a, ""), "runs", 0},
		{"on its way out", strings.Replace(pod("container", "r.example/x:0", ""), `"name":"p"`, `"name":"p","deletionTimestamp":"2026-11-01T12:00:00Z"`, 1), "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := againstLock([]byte(`{"items":[`+tt.pod+`]}`), locked)
			if n != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%d, %v; want %d, %q", n, err, tt.want, tt.err)
			}
		})
	}
}

// TestWrites: what the stories take for writes, and what not.
func TestWrites(t *testing.T) {
	since := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	event := func(verb, uri, group, at string) string {
		return fmt.Sprintf(`{"verb":%q,"user":{"username":"lab-admin"},"requestURI":%q,"stageTimestamp":%q,"objectRef":{"resource":"x","namespace":"nops","name":"n","apiGroup":%q},"responseStatus":{"code":201}}`, verb, uri, at, group)
	}
	for _, tt := range []struct {
		name, reason, line string
		want               int
	}{
		{"a creation", "it is one", event("create", "/api/v1/namespaces/nops/secrets", "", "2026-11-01T12:00:00.000001Z"), 1},
		{"a refused creation", "it was tried", event("create", "/api/v1/namespaces/nops/secrets", "", "2026-11-01T12:00:05Z"), 1},
		{"an earlier one", "somebody else's", event("create", "/api/v1/namespaces/nops/secrets", "", "2026-11-01T11:59:59.999999Z"), 0},
		{"a dry run", "it changes nothing", event("patch", "/apis/apps/v1/namespaces/nops/deployments/x?dryRun=All&fieldManager=x", "apps", "2026-11-01T12:00:05Z"), 0},
		{"a VPA", "nobody's command", strings.Replace(event("patch", "/apis/vpa.nops.io/v1/namespaces/nops/verticalpodautoscalers/x", "vpa.nops.io", "2026-11-01T12:00:05Z"), "lab-admin", "system:serviceaccount:nops:nops-vpa-recommender", 1), 0},
		{"a question", "may I?", event("create", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "authorization.k8s.io", "2026-11-01T12:00:05Z"), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := writes([]byte(tt.line+"\n"), since); err != nil || len(got) != tt.want {
				t.Errorf("%v, %v: want %d: %s", got, err, tt.want, tt.reason)
			}
		})
	}
	if _, err := writes([]byte("{"), since); err == nil {
		t.Error("half a line was read as nothing")
	}
}
