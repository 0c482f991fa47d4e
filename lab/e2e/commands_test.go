package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

type command = func(ts *testscript.TestScript, neg bool, args []string)

func (w *world) commands() map[string]command {
	return map[string]command{
		"nopsctl":             w.runs("nopsctl"),
		"kubectl":             w.runs("kubectl"),
		"helm":                w.runs("helm"),
		"lab":                 w.runs("lab"),
		"exit":                w.exit,
		"eventually":          w.eventually,
		"eventually-match":    w.eventuallyMatch,
		"interrupt":           w.interrupt,
		"query":               w.query,
		"samples-match-pods":  w.samplesMatchPods,
		"api":                 w.api,
		"scan-canary":         w.scanCanary,
		"heartbeat-memory":    w.heartbeatMemory,
		"beats-complete":      w.beatsComplete,
		"samples-complete":    w.samplesComplete,
		"remember-time":       w.rememberTime,
		"pause":               w.pause,
		"empty-cluster":       w.emptyCluster,
		"adoptable-values":    w.adoptableValues,
		"helm4":               w.runs("helm4"),
		"published":           w.published,
		"secret-as-published": w.secretAsPublished,
		"published-2024":      w.values2024,
		"upgraded":            w.upgraded,
		"workloads":           w.workloads,
		"remember":            remember,
		"writes-nothing":      w.writesNothing,
		"forge":               w.forge,
		"pinned":              w.pinned,
		"karpenter":           w.karpenter,
		"nodes-of":            w.nodesOf,
		"nodes-stay":          w.nodesStay,
		"drifted":             w.drifted,
		"at-most":             w.atMost,
		"launched":            w.launched,
		"sibling":             w.sibling,
		"timeline":            w.printTimeline,
		"requests":            w.requests,
		"remember-pods":       w.rememberPods,
		"same-pods":           w.samePods,
		"upstream-vpa":        w.upstreamVPA,
		"asked":               w.asked,
		"mutated":             w.mutated,
		"failed-open":         w.failedOpen,
		"took":                w.took,
		"churn":               w.churn,
	}
}

// resolve turns the words of a story into a program and its arguments.
func (w *world) resolve(ts *testscript.TestScript, args []string) (string, []string) {
	if len(args) == 0 {
		ts.Fatalf("no command given")
	}
	labBin := filepath.Join(w.bin, "lab")
	switch args[0] {
	case "lab":
		if len(args) < 2 {
			ts.Fatalf("usage: lab SUBCOMMAND…")
		}
		return labBin, append([]string{args[1], "--name", w.name}, args[2:]...)
	case "nopsctl", "kubectl", "helm", "helm4":
		return labBin, append([]string{"exec", "--name", w.name, "--"}, args...)
	case "exec":
		return args[1], args[2:]
	}
	ts.Fatalf("unknown command %q", args[0])
	return "", nil
}

func (w *world) runs(name string) command {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		program, rest := w.resolve(ts, append([]string{name}, args...))
		err := ts.Exec(program, rest...)
		switch {
		case neg && err == nil:
			ts.Fatalf("%s %s: succeeded, a failure was expected", name, strings.Join(args, " "))
		case !neg && err != nil:
			ts.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
		}
	}
}

func (w *world) exit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	program, rest := w.resolve(ts, args[1:])
	got := exitCode(ts.Exec(program, rest...))
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

func (w *world) eventually(ts *testscript.TestScript, neg bool, args []string) {
	limit := duration(ts, args)
	program, rest := w.resolve(ts, args[1:])
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Second) {
		err := ts.Exec(program, rest...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %s: %s", limit, strings.Join(args[1:], " "))
		}
	}
}

func (w *world) eventuallyMatch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: eventually-match TIME REGEXP COMMAND…")
	}
	limit := duration(ts, args)
	re, err := regexp.Compile(`(?m)` + args[1])
	ts.Check(err)
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Second) {
		var out string
		if args[2] == "query" {
			lines, err := w.ask(args[3])
			out = strings.Join(lines, "\n")
			if err != nil {
				out = err.Error()
			}
		} else {
			program, rest := w.resolve(ts, args[2:])
			_ = ts.Exec(program, rest...)
			out = ts.ReadFile("stdout")
		}
		if re.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no match for %q within %s; last output:\n%s", args[1], limit, out)
		}
	}
}

func duration(ts *testscript.TestScript, args []string) time.Duration {
	if len(args) < 2 {
		ts.Fatalf("usage: … TIME COMMAND…")
	}
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	return d
}

// interrupt starts a command in a process group of its own, as a shell would, and presses Ctrl-C when the output matches.
func (w *world) interrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: interrupt REGEXP COMMAND…")
	}
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	program, rest := w.resolve(ts, args[1:])
	cmd := exec.Command(program, rest...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &watcher{re: re, matched: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-out.matched:
	case err := <-done:
		ts.Fatalf("ended before its output matched %q: %v\n%s", args[0], err, out)
	case <-time.After(2 * time.Minute):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		ts.Fatalf("no match for %q in two minutes:\n%s", args[0], out)
	}
	ts.Check(syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
	select {
	case err = <-done:
	case <-time.After(time.Minute):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		ts.Fatalf("still running a minute after SIGINT:\n%s", out)
	}
	ts.Logf("%s", out)
	if code := exitCode(err); code != 130 {
		ts.Fatalf("exit code %d after SIGINT, want 130", code)
	}
}

// watcher is a writer that closes matched once what was written matches.
type watcher struct {
	re      *regexp.Regexp
	matched chan struct{}
	mu      sync.Mutex
	buf     bytes.Buffer
	done    bool
}

func (o *watcher) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if !o.done && o.re.Match(o.buf.Bytes()) {
		o.done = true
		close(o.matched)
	}
	return len(p), nil
}

func (o *watcher) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (w *world) query(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: query PROMQL")
	}
	lines, err := w.ask(args[0])
	ts.Check(err)
	fmt.Fprintln(ts.Stdout(), strings.Join(lines, "\n"))
	if (len(lines) == 0) != neg {
		ts.Fatalf("query %s: %d series", args[0], len(lines))
	}
}

type series struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
	Values [][2]any          `json:"values"`
}

// ask runs an instant query against the demo customer's workspace.
func (w *world) ask(promql string) ([]string, error) {
	result, err := w.prom("/api/v1/query", url.Values{"query": {promql}})
	if err != nil {
		return nil, err
	}
	lines := make([]string, 0, len(result))
	for _, s := range result {
		labels := make([]string, 0, len(s.Metric))
		for k, v := range s.Metric {
			labels = append(labels, fmt.Sprintf("%s=%q", k, v))
		}
		sort.Strings(labels)
		lines = append(lines, fmt.Sprintf("%v {%s}", s.Value[1], strings.Join(labels, ",")))
	}
	sort.Strings(lines)
	return lines, nil
}

func (w *world) prom(path string, q url.Values) ([]series, error) {
	body, status, err := get(strings.TrimSuffix(w.status.MetricsURL, "/")+path+"?"+q.Encode(), "")
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("metrics store: %d %s: %w", status, body, err)
	}
	var answer struct {
		Data struct {
			Result []series `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("metrics store: %w: %s", err, body)
	}
	return answer.Data.Result, nil
}

func get(address, key string) ([]byte, int, error) { return call(http.MethodGet, address, key, nil) }

func call(method, address, key string, body io.Reader) ([]byte, int, error) {
	req, err := http.NewRequest(method, address, body)
	if err != nil {
		return nil, 0, err
	}
	if key != "" {
		req.Header.Set("X-Nops-Api-Key", key)
	}
	client := &http.Client{Timeout: 20 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	return data, res.StatusCode, err
}

// fresh is how old a sample may be to speak of the pods that run now. Stories that compare scrape every five seconds; the
// kubelet remembers a container that is gone for some fifteen.
const fresh = 30 * time.Second

// samplesMatchPods holds the containers that a metric has fresh samples of, all younger than the story, against those that
// run now, both ways: none is missing, and none is there that is not in the cluster.
func (w *world) samplesMatchPods(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: samples-match-pods METRIC UIDLABEL")
	}
	began := moment(ts, ts.Getenv("BEGAN"))
	deadline := time.Now().Add(90 * time.Second)
	for {
		n, err := w.podsMatch(args[0], args[1], began)
		if err == nil {
			fmt.Fprintf(ts.Stdout(), "%s: %d containers, in the cluster and in the samples\n", args[0], n)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v", err)
		}
		time.Sleep(2 * time.Second)
	}
}

func (w *world) podsMatch(metric, label string, began time.Time) (int, error) {
	live, err := w.containers()
	if err != nil {
		return 0, err
	}
	window := min(time.Since(began), fresh)
	result, err := w.prom("/api/v1/query", url.Values{"query": {fmt.Sprintf("count by (%s, container) (last_over_time(%s{cluster=%q, container!=\"\"}[%dms]))", label, metric, w.status.ClusterARN, window.Milliseconds())}})
	if err != nil {
		return 0, err
	}
	return len(live), samplesAgainstPods(metric, label, result, live)
}

// containers are those of the pods that run now, by UID and name, with the pod for people.
func (w *world) containers() (map[string]string, error) {
	out, err := w.inside("kubectl", "get", "pods", "-A", "--field-selector=status.phase=Running", "-o", "jsonpath={range .items[*]}{.metadata.uid} {.metadata.namespace} {.metadata.name}{range .spec.containers[*]} {.name}{end}{\"\\n\"}{end}").Output()
	if err != nil {
		return nil, fmt.Errorf("kubectl get pods: %w", err)
	}
	live := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			return nil, fmt.Errorf("unexpected line from kubectl: %q", line)
		}
		for _, container := range fields[3:] {
			live[fields[0]+"/"+container] = fields[1] + "/" + fields[2]
		}
	}
	return live, nil
}

// samplesAgainstPods compares the containers of a metric's series with those that run, both ways.
func samplesAgainstPods(metric, label string, result []series, live map[string]string) error {
	if len(live) == 0 {
		return fmt.Errorf("%s: no container runs, so nothing is compared", metric)
	}
	seen := map[string]bool{}
	for _, s := range result {
		uid, container := s.Metric[label], s.Metric["container"]
		if uid == "" || container == "" {
			return fmt.Errorf("%s: a series without %s or container: %v", metric, label, s.Metric)
		}
		seen[uid+"/"+container] = true
		if _, runs := live[uid+"/"+container]; !runs {
			return fmt.Errorf("%s: samples of container %s of pod %s, which does not run (%d containers seen, %d live)", metric, container, uid, len(result), len(live))
		}
	}
	for key, pod := range live {
		if !seen[key] {
			return fmt.Errorf("%s: no sample for container %s of pod %s (%d containers seen, %d live)", metric, key, pod, len(seen), len(live))
		}
	}
	return nil
}

func (w *world) api(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: api KEYFILE METHOD PATH")
	}
	key := strings.TrimSpace(ts.ReadFile(args[0]))
	body, status, err := call(args[1], strings.TrimSuffix(w.status.PlatformURL, "/")+strings.ReplaceAll(args[2], "ARN", url.PathEscape(w.status.ClusterARN)), key, nil)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s\n", status, body)
}

func (w *world) pause(ts *testscript.TestScript, _ bool, args []string) {
	time.Sleep(duration(ts, append(args, "")))
}

// adoptableValues writes what a customer's own helm command would hold: everything inline.
func (w *world) adoptableValues(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: adoptable-values FILE")
	}
	key, amp := w.customer(ts)
	values := map[string]any{
		"nops": map[string]any{"apiKey": key, "global": map[string]any{"labels": map[string]any{"kept": "by-adoption"}}},
		"containerInsights": map[string]any{
			"ampID": amp.WorkspaceID, "ampRegion": amp.Region, "ampAccessKey": amp.AccessKeyID, "ampSecretKey": amp.SecretAccessKey,
			"env_variables": map[string]any{"APP_NOPS_K8S_AGENT_CLUSTER_ARN": w.status.ClusterARN},
		},
	}
	text, err := json.MarshalIndent(values, "", "  ")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o600))
}

// remember keeps what the last command printed under a name of the environment.
func remember(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: remember NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}
