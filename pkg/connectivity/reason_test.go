package connectivity

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// TestReasonsAreDocumented compares the catalogue with the constants in the source: a new one must be documented.
func TestReasonsAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, d := range Reasons() {
		if documented[string(d.Reason)] || d.About == "" {
			t.Errorf("incomplete or twice: %+v", d)
		}
		documented[string(d.Reason)] = true
	}
	declared := 0
	for file, prefix := range map[string]string{"reason.go": "Reason", filepath.Join("probe", "probe.go"): "Code"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, prefix) || len(spec.Values) != 1 {
				return true
			}
			lit, ok := spec.Values[0].(*ast.BasicLit)
			if !ok {
				return true
			}
			value, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if value != "" && !documented[value] {
				t.Errorf("%s: %s = %q is in no documentation", file, spec.Names[0].Name, value)
			}
			declared++
			return true
		})
	}
	if declared < 50 {
		t.Errorf("only %d constants found", declared)
	}
}

// TestStageReasons: what the probe found out must arrive at whoever reads the check.
func TestStageReasons(t *testing.T) {
	failed := probe.Result{Stages: []probe.StageResult{
		{Stage: "dns", Outcome: probe.Skipped}, {Stage: "tcp", Outcome: probe.Failed, Code: probe.CodeTimeout}, {Stage: "tls", Outcome: probe.Skipped},
	}}
	plain := probe.Result{Stages: []probe.StageResult{{Stage: "tcp", Outcome: probe.OK}, {Stage: "tls", Outcome: probe.Skipped}}}
	old := probe.Result{Stages: []probe.StageResult{{Stage: "auth", Outcome: probe.Failed}}}
	for _, tt := range []struct {
		name, reason string
		result       probe.Result
		stage        int
		want         Reason
	}{
		{"failed", "the code of the probe", failed, 1, "timeout"},
		{"after it", "there was nothing to try", failed, 2, ReasonEarlierFailure},
		{"passed", "none", plain, 0, none},
		{"not encrypted", "no failure of anything", plain, 1, ReasonNotNeeded},
		{"an old probe", "failed, and says no more", old, 0, "unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := stageReason(tt.result, tt.result.Stages[tt.stage]); got != tt.want {
				t.Errorf("%q, want %q: %s", got, tt.want, tt.reason)
			}
		})
	}
}

func TestAPIReasons(t *testing.T) {
	kind := func(k nopsclient.Kind) error { return fmt.Errorf("call: %w", &nopsclient.Error{Kind: k}) }
	seen := map[Reason]bool{}
	for _, d := range Reasons() {
		seen[d.Reason] = true
	}
	for _, tt := range []struct {
		name string
		err  error
		want Reason
	}{
		{"none", nil, none},
		{"not ours", errors.New("x"), "unknown"},
		{"cancelled", &nopsclient.Error{Kind: nopsclient.KindProtocol, Err: context.Canceled}, "cancelled"},
		{"401", kind(nopsclient.KindUnauthorized), "unauthorized"},
		{"403", kind(nopsclient.KindForbidden), "forbidden"},
		{"404", kind(nopsclient.KindNotFound), "not-found"},
		{"no contract", kind(nopsclient.KindNotOffered), "not-offered"},
		{"429", kind(nopsclient.KindRateLimited), "rate-limited"},
		{"5xx", kind(nopsclient.KindServer), "server-error"},
		{"no answer", kind(nopsclient.KindUnreachable), "no-answer"},
		{"certificate", kind(nopsclient.KindTLS), "tls-failure"},
		{"a portal", kind(nopsclient.KindProtocol), "foreign-answer"},
		{"409", kind(nopsclient.KindConflict), "http-status"},
		{"400", kind(nopsclient.KindRefused), "http-status"},
		{"of a later version", kind("surprise"), "unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := apiReason(tt.err); got != tt.want || tt.err != nil && !seen[got] {
				t.Errorf("%q, want %q, documented", got, tt.want)
			}
		})
	}
}
