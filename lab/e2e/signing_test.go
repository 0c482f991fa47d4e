package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
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
			Verb           string    `json:"verb"`
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
		if e.StageTimestamp.Before(since) || e.ObjectRef.APIGroup == "authorization.k8s.io" || e.ObjectRef.APIGroup == "authentication.k8s.io" || strings.Contains(e.RequestURI, "dryRun=All") {
			continue
		}
		all = append(all, fmt.Sprintf("%s %s %s/%s: %d", e.Verb, e.ObjectRef.Resource, e.ObjectRef.Namespace, e.ObjectRef.Name, e.ResponseStatus.Code))
	}
	return all, lines.Err()
}

// TestWrites: what the stories take for writes, and what not.
func TestWrites(t *testing.T) {
	since := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	event := func(verb, uri, group, at string) string {
		return fmt.Sprintf(`{"verb":%q,"requestURI":%q,"stageTimestamp":%q,"objectRef":{"resource":"x","namespace":"nops","name":"n","apiGroup":%q},"responseStatus":{"code":201}}`, verb, uri, at, group)
	}
	for _, tt := range []struct {
		name, reason, line string
		want               int
	}{
		{"a creation", "it is one", event("create", "/api/v1/namespaces/nops/secrets", "", "2026-11-01T12:00:00.000001Z"), 1},
		{"a refused creation", "it was tried", event("create", "/api/v1/namespaces/nops/secrets", "", "2026-11-01T12:00:05Z"), 1},
		{"an earlier one", "somebody else's", event("create", "/api/v1/namespaces/nops/secrets", "", "2026-11-01T11:59:59.999999Z"), 0},
		{"a dry run", "it changes nothing", event("patch", "/apis/apps/v1/namespaces/nops/deployments/x?dryRun=All&fieldManager=x", "apps", "2026-11-01T12:00:05Z"), 0},
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
