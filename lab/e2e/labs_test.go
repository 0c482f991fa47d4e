package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// machine is what these labs could leave behind, seen from the host. Other labs may be up meanwhile: processes are told by
// their PID namespace, and cgroups and state by the labs' names.
func machine(t *testing.T, namespaces []string) map[string][]string {
	t.Helper()
	// A zombie runs nothing: it waits for the machine's own init to take note.
	var wanted strings.Builder
	for _, ns := range namespaces {
		fmt.Fprintf(&wanted, "-e '%s' ", ns)
	}
	seen := map[string][]string{}
	for what, command := range map[string]string{
		"mounts":             `cut -d' ' -f2 /proc/self/mounts`,
		"interfaces":         `ls /sys/class/net`,
		"network namespaces": `ip netns list; ls /run/netns 2>/dev/null || true`,
		"cgroups":            `find /sys/fs/cgroup -maxdepth 3 -type d -name 'nopsctl-lab-left*' -o -maxdepth 3 -type d -name 'nopsctl-lab-right*' 2>/dev/null || true`,
		"processes":          `for p in /proc/[0-9]*; do case "$(sed 's/.*) //; s/ .*//' $p/stat 2>/dev/null)" in Z | "") continue ;; esac; echo "$(readlink $p/ns/pid 2>/dev/null) $p"; done | grep -F -e none ` + wanted.String() + ` || true`,
		"files":              `find "${XDG_STATE_HOME:-$HOME/.local/state}"/nopsctl/lab/left "${XDG_STATE_HOME:-$HOME/.local/state}"/nopsctl/lab/right "$HOME/.kube" "$HOME/.config/helm" /var/lib/kubelet /var/lib/cni /run/containerd /var/log/pods /var/log/containers 2>/dev/null | sort || true`,
	} {
		out, err := exec.CommandContext(t.Context(), "bash", "-c", command).Output()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		lines := strings.Fields(string(out))
		sort.Strings(lines)
		seen[what] = lines
	}
	return seen
}

// upTwice brings one lab up with two commands at the same time: one does it, the other waits and finds it up.
func upTwice(t *testing.T, bin, name string) {
	t.Helper()
	var commands [2]*exec.Cmd
	var answers, progress [2]bytes.Buffer
	for n := range commands {
		commands[n] = exec.CommandContext(t.Context(), filepath.Join(bin, "lab"), "up", "--name", name)
		commands[n].Stdout, commands[n].Stderr = &answers[n], &progress[n]
		if err := commands[n].Start(); err != nil {
			t.Fatal(err)
		}
	}
	for n := range commands {
		if err := commands[n].Wait(); err != nil {
			t.Fatalf("lab up --name %s, one of two at a time: %v\n%s", name, err, progress[n].String())
		}
	}
	all := progress[0].String() + progress[1].String()
	if strings.Count(all, "is up after") != 1 || strings.Count(all, "is up already") != 1 {
		t.Errorf("two commands at a time must bring up one lab:\n%s", all)
	}
	if diff := cmp.Diff(answers[0].String(), answers[1].String()); diff != "" || answers[0].Len() == 0 {
		t.Errorf("two commands brought up different labs:\n%s", diff)
	}
}

// inside runs a shell script in a lab.
func inside(t *testing.T, bin, name, script string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "lab"), "exec", "--name", name, "--", "bash", "-c", script)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("in lab %s: %s: %v\n%s", name, script, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// restarts ends one of a lab's programs as the machine would that is out of memory, and waits for its successor.
func restarts(t *testing.T, bin, name, program string) {
	t.Helper()
	find := `for p in /proc/[0-9]*; do IFS= read -r -d '' a 2>/dev/null <$p/cmdline && [ "${a##*/}" = ` + program + ` ] && echo "${p##*/}"; done; true`
	before := inside(t, bin, name, find)
	if len(strings.Fields(before)) != 1 {
		t.Fatalf("lab %s: processes %q of %s, want one", name, before, program)
	}
	inside(t, bin, name, "kill -9 "+before)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		after := inside(t, bin, name, find)
		if len(strings.Fields(after)) == 1 && after != before {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("lab %s: %s was killed and is not started again (before %s, now %q)", name, program, before, after)
			return
		}
	}
}

// TestLabs: two labs side by side, each with ports and paths of its own; when both are gone the machine is as it was. Their
// state lies in a directory that labs cover with one of their own, which is the harder case.
func TestLabs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("labs need root: they make namespaces, mounts and cgroups")
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	state, err := os.MkdirTemp("/var/lib", "nopsctl-labs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(state); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("XDG_STATE_HOME", state)
	run := func(args ...string) []byte {
		t.Helper()
		var stderr bytes.Buffer
		cmd := exec.Command(filepath.Join(bin, "lab"), args...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("lab %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return out
	}
	names := []string{"left", "right"}
	for _, name := range names {
		run("down", "--name", name)
	}
	before := machine(t, nil)
	status := map[string]labStatus{}
	t.Cleanup(func() {
		for _, name := range names {
			run("down", "--name", name)
		}
	})
	for _, name := range names {
		if name == "left" {
			upTwice(t, bin, name)
		} else {
			run("up", "--name", name)
		}
		var s labStatus
		if err := json.Unmarshal(run("status", "--name", name, "-o", "json"), &s); err != nil {
			t.Fatal(err)
		}
		status[name] = s
	}
	l, r := status["left"], status["right"]
	for what, pair := range map[string][2]string{
		"kubeconfig": {l.Kubeconfig, r.Kubeconfig}, "platform": {l.PlatformURL, r.PlatformURL}, "API key": {l.APIKey, r.APIKey},
		"metrics": {l.MetricsURL, r.MetricsURL}, "registry": {l.Registry, r.Registry}, "ARN": {l.ClusterARN, r.ClusterARN},
	} {
		if pair[0] == pair[1] || pair[0] == "" {
			t.Errorf("%s is the same in both labs: %q", what, pair[0])
		}
	}
	// One lab's key means nothing to the other's platform.
	if body, code, err := get(r.PlatformURL+"/svc/k8s_agent/v1/api-keys/whoami", l.APIKey); err != nil || code != 401 {
		t.Errorf("left's key at right's platform: %d %s, %v", code, body, err)
	}
	// From the host, through 127.0.0.1: the real names by the proxy, the API server by the kubeconfig.
	for _, name := range names {
		script := `eval "$(` + filepath.Join(bin, "lab") + ` env --name ` + name + `)" && curl -fsS --cacert "$SSL_CERT_FILE" -o /dev/null -w '%{http_code}' https://public.ecr.aws/v2/ || true`
		if _, err := exec.LookPath("curl"); err == nil {
			out, err := exec.CommandContext(t.Context(), "bash", "-c", script).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "401") {
				t.Errorf("%s: public.ecr.aws through the lab's proxy: %v: %s", name, err, out)
			}
		} else {
			t.Log("curl is not installed: the proxy is tested in lab/platform alone")
		}
		if out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "lab"), "exec", "--name", name, "--", "ip", "route", "show", "default").CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) != 0 {
			t.Errorf("%s: a way out of the lab: %v: %s", name, err, out)
		}
		// Programs that count interfaces look into /sys: it must be that of the lab's network, not the machine's.
		seen, have := inside(t, bin, name, "ls -d /sys/class/net/*/ | xargs -n1 basename | sort"), inside(t, bin, name, "ip -br link | sed 's/[@ ].*//' | sort")
		if diff := cmp.Diff(have, seen); diff != "" || !strings.Contains(have, "lab0") {
			t.Errorf("%s: /sys shows other interfaces than the lab has:\n%s", name, diff)
		}
		restarts(t, bin, name, "kube-scheduler")
		// What is started later is kept running and goes away like the rest.
		run("karpenter", "on", "--name", name)
		restarts(t, bin, name, "karpenter")
	}
	var namespaces []string
	for _, s := range status {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.PID))
		if err != nil {
			t.Fatal(err)
		}
		namespaces = append(namespaces, ns)
	}
	if during := machine(t, namespaces); len(during["processes"]) < 20 || len(during["cgroups"]) == 0 || len(during["files"]) == 0 {
		t.Fatalf("with two labs up this finds only %d words of processes, %d cgroups and %d files: it would find nothing left either", len(during["processes"]), len(during["cgroups"]), len(during["files"]))
	}
	// One is killed as by a crash, the other ends in order: both leave nothing.
	if out, err := exec.CommandContext(t.Context(), "bash", "-c", `kill -9 $(`+filepath.Join(bin, "lab")+` status --name left -o json | sed -n 's/^ *"pid": \([0-9]*\),$/\1/p')`).CombinedOutput(); err != nil {
		t.Fatalf("kill left's init: %v: %s", err, out)
	}
	for _, name := range names {
		run("down", "--name", name)
	}
	if diff := cmp.Diff(before, machine(t, namespaces)); diff != "" {
		t.Errorf("the machine is not as it was:\n%s", diff)
	}
}
