package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// rememberTime keeps the present second under a name of the environment.
func (w *world) rememberTime(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: remember-time NAME")
	}
	ts.Setenv(args[0], strconv.FormatInt(time.Now().Unix(), 10))
}

// beatsComplete shows that every heartbeat from a moment on arrived: sequence numbers without a gap, and some of them
// observed between two moments, that is during the outage.
func (w *world) beatsComplete(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: beats-complete SINCE FROM TO (Unix seconds)")
	}
	from, to := moment(ts, args[1]), moment(ts, args[2])
	address := fmt.Sprintf("%s/svc/k8s_agent/v1/clusters/%s/heartbeats?since=%s", strings.TrimSuffix(w.status.PlatformURL, "/"),
		url.PathEscape(w.status.ClusterARN), url.QueryEscape(moment(ts, args[0]).UTC().Format(time.RFC3339)))
	body, status, err := get(address, w.status.APIKey)
	ts.Check(err)
	if status != http.StatusOK {
		ts.Fatalf("%s: %d %s", address, status, body)
	}
	var answer struct {
		Heartbeats []struct {
			BootID     string    `json:"boot_id"`
			Seq        uint64    `json:"seq"`
			ObservedAt time.Time `json:"observed_at"`
			ReceivedAt time.Time `json:"received_at"`
		} `json:"heartbeats"`
	}
	ts.Check(json.Unmarshal(body, &answer))
	boots := map[string][]uint64{}
	during := 0
	for _, b := range answer.Heartbeats {
		boots[b.BootID] = append(boots[b.BootID], b.Seq)
		if b.ObservedAt.After(from) && b.ObservedAt.Before(to) {
			during++
			if b.ReceivedAt.Before(to) {
				ts.Fatalf("beat %d was received at %s, while the platform was down", b.Seq, b.ReceivedAt)
			}
		}
	}
	if len(boots) == 0 {
		ts.Fatalf("no heartbeat since %s", args[0])
	}
	for boot, seqs := range boots {
		sort.Slice(seqs, func(i, j int) bool { return seqs[i] < seqs[j] })
		for i := 1; i < len(seqs); i++ {
			if seqs[i] != seqs[i-1]+1 {
				ts.Fatalf("boot %s: heartbeats %d to %d are missing", boot, seqs[i-1]+1, seqs[i]-1)
			}
		}
	}
	if during == 0 {
		ts.Fatalf("no heartbeat was observed during the outage: the story shows nothing")
	}
	fmt.Fprintf(ts.Stdout(), "%d heartbeats, %d observed during the outage, none missing\n", len(answer.Heartbeats), during)
}

func moment(ts *testscript.TestScript, seconds string) time.Time {
	n, err := strconv.ParseInt(seconds, 10, 64)
	ts.Check(err)
	return time.Unix(n, 0)
}

// samplesComplete shows that a series has a sample for every scrape between two moments: no gap longer than one and a
// half intervals.
func (w *world) samplesComplete(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: samples-complete SELECTOR FROM TO INTERVAL")
	}
	from, to := moment(ts, args[1]), moment(ts, args[2])
	interval, err := time.ParseDuration(args[3])
	ts.Check(err)
	// A range selector in an instant query returns raw samples.
	window := fmt.Sprintf("%s[%ds]", args[0], int(to.Sub(from).Seconds()))
	result, err := w.prom("/api/v1/query", url.Values{"query": {window}, "time": {strconv.FormatInt(to.Unix(), 10)}})
	ts.Check(err)
	if len(result) == 0 {
		ts.Fatalf("no series for %s", window)
	}
	samples := 0
	for _, s := range result {
		last := from
		for _, v := range append(s.Values, [2]any{float64(to.Unix()), ""}) {
			seconds, ok := v[0].(float64)
			if !ok {
				ts.Fatalf("unexpected timestamp %v", v[0])
			}
			at := time.UnixMilli(int64(seconds * 1000))
			if gap := at.Sub(last); gap > interval*3/2 {
				ts.Fatalf("%v: no sample for %s before %s (a sample is due every %s)", s.Metric, gap, at.UTC().Format(time.TimeOnly), interval)
			}
			last = at
			samples++
		}
	}
	fmt.Fprintf(ts.Stdout(), "%d series, %d samples, no gap over %s\n", len(result), samples, interval*3/2)
}

// heartbeatMemory measures the live heartbeat container: resident set and anonymous memory, in MiB.
func (w *world) heartbeatMemory(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: heartbeat-memory MAX_RSS_MIB MAX_ANON_MIB")
	}
	out, err := w.inside("bash", "-c", `for p in /proc/[0-9]*; do if [ "$(tr '\0' ' ' <$p/cmdline 2>/dev/null | cut -d' ' -f1 | xargs -r basename)" = k8s-heartbeat-agent ]; then grep -E '^(VmRSS|RssAnon)' $p/status; exit 0; fi; done; exit 1`).CombinedOutput()
	if err != nil {
		ts.Fatalf("no process k8s-heartbeat-agent in the lab: %v: %s", err, out)
	}
	fmt.Fprintf(ts.Stdout(), "%s", out)
	for i, field := range []string{"VmRSS:", "RssAnon:"} {
		limit, err := strconv.ParseFloat(args[i], 64)
		ts.Check(err)
		found := false
		for _, line := range strings.Split(string(out), "\n") {
			f := strings.Fields(line)
			if len(f) == 3 && f[0] == field {
				kib, err := strconv.ParseFloat(f[1], 64)
				ts.Check(err)
				found = true
				if kib/1024 > limit {
					ts.Fatalf("%s %.1f MiB, limit %v MiB", field, kib/1024, limit)
				}
			}
		}
		if !found {
			ts.Fatalf("%s not found in:\n%s", field, out)
		}
	}
}

// emptyCluster shows that nothing of the stack is left, in any kind the API server lists: nothing whose name, labels or
// annotations, Helm's among them, speak of it. Negated, it wants to find something, and prints it.
func (w *world) emptyCluster(ts *testscript.TestScript, neg bool, _ []string) {
	// Kinds are assigned first: the shell notices a failure there, and not within a list of words. One kind that cannot be
	// read fails the whole.
	script := `
set -euo pipefail
kinds=$(kubectl api-resources --verbs=list -o name)
kinds=$(grep -v -x -e events -e events.events.k8s.io -e componentstatuses <<<"$kinds")
objects=$(kubectl get "$(paste -sd, <<<"$kinds")" -A -o jsonpath='{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.labels} {.metadata.annotations}{"\n"}{end}')
echo "$(wc -l <<<"$kinds") $(wc -l <<<"$objects")"
grep -e nops <<<"$objects" || [ $? = 1 ]`
	out, err := w.collect("bash", "-c", script)
	ts.Check(err)
	counts, left, _ := strings.Cut(out, "\n")
	left = strings.TrimSpace(left)
	var kinds, objects int
	if _, err := fmt.Sscan(counts, &kinds, &objects); err != nil || kinds < 40 || objects < 100 {
		ts.Fatalf("looked at %q kinds and objects (%v): a cluster has at least 40 kinds, and 100 objects of its own", counts, err)
	}
	fmt.Fprintf(ts.Stdout(), "looked at %d objects of %d kinds\n%s\n", objects, kinds, left)
	switch {
	case !neg && left != "":
		ts.Fatalf("left in the cluster:\n%s", left)
	case neg && left == "":
		ts.Fatalf("what was left in the cluster is not found among %d objects of %d kinds", objects, kinds)
	}
}
