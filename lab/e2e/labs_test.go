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

// TestLabs: two labs side by side, each with ports and paths of its own; when both are gone the machine is as it was.
func TestLabs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("labs need root: they make namespaces, mounts and cgroups")
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
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
		run("up", "--name", name)
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
