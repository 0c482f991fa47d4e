package karpenter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/lab/cluster"
)

// Version is that of the controller.
const Version = "1.14.1"

// NodeClass is the name of the KWOKNodeClass that On makes.
const NodeClass = "default"

// Names of the lab's processes.
const (
	controller = "karpenter"
	kubelets   = "kwok"
)

// fake is the label of the nodes that kwok keeps, which Karpenter's provider gives them.
const fake = "kwok.x-k8s.io/node=fake"

// probePort is where the controller says how it is, inside.
const probePort = 8081

// Lab is one in which Karpenter may run.
type Lab struct {
	Cluster *cluster.Cluster
	Bin     string // directory with karpenter, kwok and kubectl
}

// Options of a Karpenter.
type Options struct {
	Version string          `json:"version"`         // filled in by On
	Gates   map[string]bool `json:"gates,omitempty"` // features of Karpenter that are not as by default
	Boot    string          `json:"boot,omitempty"`  // how long a node takes to register, as 20s; empty: none
	Types   []Type          `json:"-"`               // empty: Catalogue
	Timeout time.Duration   `json:"-"`               // until it works; 0: a minute
}

// ErrOff says that no Karpenter runs.
var ErrOff = errors.New("Karpenter is off")

var gate = regexp.MustCompile(`^[A-Z][A-Za-z]+$`)

// ParseGates reads Name=true,Name=false.
func ParseGates(text string) (map[string]bool, error) {
	gates := map[string]bool{}
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if !gate.MatchString(name) || value != "true" && value != "false" {
			return nil, fmt.Errorf("feature gate %q: write Name=true or Name=false, such as NodeOverlay=true", part)
		}
		gates[name] = value == "true"
	}
	return gates, nil
}

// FormatGates writes what ParseGates reads.
func FormatGates(gates map[string]bool) string {
	var parts []string
	for name, on := range gates {
		parts = append(parts, fmt.Sprintf("%s=%t", name, on))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func (l Lab) path(name string) string { return l.Cluster.Layout.Path("karpenter", name) }

// Status says with what options Karpenter runs, or ErrOff.
func (l Lab) Status(ctx context.Context) (Options, error) {
	running, err := l.Cluster.Processes(ctx)
	switch {
	case err != nil:
		return Options{}, err //nolint:wrapcheck // names the lab
	case !slices.Contains(running, controller):
		return Options{}, fmt.Errorf("lab %s: %w", l.Cluster.Layout.Name, ErrOff)
	}
	text, err := os.ReadFile(l.path("options.json"))
	if err != nil {
		return Options{}, fmt.Errorf("lab %s: %w", l.Cluster.Layout.Name, err)
	}
	var o Options
	if err := json.Unmarshal(text, &o); err != nil {
		return Options{}, fmt.Errorf("lab %s: %s: %w", l.Cluster.Layout.Name, l.path("options.json"), err)
	}
	return o, nil
}

// On starts Karpenter, or starts it anew with other options: its objects stay. It returns once the controller is ready.
func (l Lab) On(ctx context.Context, o Options) error {
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Types == nil {
		o.Types = Catalogue()
	}
	o.Version = Version
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := l.Cluster.StopProcess(ctx, controller); err != nil {
		return err //nolint:wrapcheck // names the lab
	}
	if err := l.files(ctx, o); err != nil {
		return err
	}
	if err := l.objects(ctx, o); err != nil {
		return err
	}
	running, err := l.Cluster.Processes(ctx)
	if err != nil {
		return err //nolint:wrapcheck // names the lab
	}
	for _, p := range l.processes(o) {
		if slices.Contains(running, p.Name) {
			continue
		}
		// What an earlier one wrote is of no interest, and would be taken for this one's last words.
		if err := os.Remove(l.Cluster.Layout.Log(p.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start %s: %w", p.Name, err)
		}
		if err := l.Cluster.StartProcess(ctx, p); err != nil {
			return err //nolint:wrapcheck // names the lab and the process
		}
	}
	return l.ready(ctx)
}

func (l Lab) processes(o Options) []cluster.Process {
	config := func(user string) string { return l.Cluster.Layout.Path("config", user+".kubeconfig") }
	env := []string{
		"KUBECONFIG=" + config(controller), "SYSTEM_NAMESPACE=kube-system", "DISABLE_LEADER_ELECTION=true", fmt.Sprintf("HEALTH_PROBE_PORT=%d", probePort),
		"METRICS_PORT=8082", "INSTANCE_TYPES_FILE_PATH=" + l.path("instance-types.json"),
	}
	if len(o.Gates) > 0 {
		env = append(env, "FEATURE_GATES="+FormatGates(o.Gates))
	}
	return []cluster.Process{
		{Name: kubelets, Path: filepath.Join(l.Bin, "kwok"), Args: []string{
			"--kubeconfig=" + config(kubelets), "--config=" + l.path("stages.yaml"), "--manage-nodes-with-label-selector=" + fake,
			// Without leases the controller manager would take them for lost.
			"--node-lease-duration-seconds=40",
		}},
		{Name: controller, Path: filepath.Join(l.Bin, "karpenter"), Env: env},
	}
}

// files writes what the programs read.
func (l Lab) files(ctx context.Context, o Options) error {
	types, err := instanceTypes(o.Types)
	if err != nil {
		return err
	}
	options, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("write Karpenter's options: %w", err)
	}
	crds, err := l.run(ctx, nil, "karpenter", "crds")
	if err != nil {
		return err
	}
	stages, err := l.run(ctx, nil, "kwok", "stages")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.path(""), 0o755); err != nil {
		return fmt.Errorf("write Karpenter's files: %w", err)
	}
	for name, text := range map[string][]byte{"instance-types.json": types, "options.json": options, "crds.yaml": crds, "stages.yaml": stages} {
		if err := os.WriteFile(l.path(name), text, 0o644); err != nil {
			return fmt.Errorf("write Karpenter's files: %w", err)
		}
	}
	return nil
}

func (l Lab) objects(ctx context.Context, o Options) error {
	// Server-side: the definitions are too large for the annotation that the other way keeps them in.
	if _, err := l.Kubectl(ctx, nil, "apply", "--server-side", "--force-conflicts", "-f", l.path("crds.yaml")); err != nil {
		return err
	}
	if _, err := l.Kubectl(ctx, nil, "wait", "--for=condition=Established", "--timeout=30s", "-f", l.path("crds.yaml")); err != nil {
		return err
	}
	spec := map[string]any{}
	if o.Boot != "" {
		spec["nodeRegistrationDelay"] = o.Boot
	}
	class, err := json.Marshal(map[string]any{"apiVersion": "karpenter.kwok.sh/v1alpha1", "kind": "KWOKNodeClass", "metadata": map[string]any{"name": NodeClass}, "spec": spec})
	if err != nil {
		return fmt.Errorf("write the node class: %w", err)
	}
	for {
		_, err := l.Kubectl(ctx, class, "apply", "--server-side", "--force-conflicts", "-f", "-")
		if err == nil {
			return nil
		}
		// Established is said a moment before the API server serves it.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ready waits until the controller has read what there is. Its address is reached as a port of the lab's node.
func (l Lab) ready(ctx context.Context) error {
	for {
		_, err := l.Kubectl(ctx, nil, "get", "--raw", fmt.Sprintf("/api/v1/nodes/http:%s:%d/proxy/readyz", cluster.NodeName, probePort))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(l.Cluster.Layout.Log(controller))
			lines := strings.Split(strings.TrimSpace(string(log)), "\n")
			return fmt.Errorf("lab %s: Karpenter is not ready (its log: lab logs karpenter): %w; last words: %s", l.Cluster.Layout.Name, err, lines[len(lines)-1])
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Off ends Karpenter and removes its nodes, their pods and its API: the cluster is as before On, but for workloads that
// somebody made for it. Nothing to end is no error.
func (l Lab) Off(ctx context.Context) error {
	if _, err := os.Stat(l.path("crds.yaml")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// First, so that nothing is launched any more and nobody but this takes finalizers off.
	if err := l.Cluster.StopProcess(ctx, controller); err != nil {
		return err //nolint:wrapcheck // names the lab
	}
	api, err := l.api()
	if err != nil {
		return err
	}
	for _, kind := range []string{"nodepools", "nodeclaims"} {
		if _, err := api.remove(ctx, "/apis/karpenter.sh/v1/"+kind, ""); err != nil {
			return err
		}
	}
	nodes, err := api.remove(ctx, "/api/v1/nodes", "?labelSelector="+url.QueryEscape(fake))
	if err != nil {
		return err
	}
	for _, node := range nodes {
		pods, err := api.list(ctx, "/api/v1/pods?fieldSelector="+url.QueryEscape("spec.nodeName="+node.Metadata.Name))
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if err := api.do(ctx, http.MethodDelete, "/api/v1/namespaces/"+pod.Metadata.Namespace+"/pods/"+pod.Metadata.Name+"?gracePeriodSeconds=0", nil, nil); err != nil && !errors.Is(err, errNotFound) {
				return err
			}
		}
	}
	if _, err := l.Kubectl(ctx, nil, "delete", "-f", l.path("crds.yaml"), "--ignore-not-found", "--timeout=30s"); err != nil {
		return err
	}
	if err := l.Cluster.StopProcess(ctx, kubelets); err != nil {
		return err //nolint:wrapcheck // names the lab
	}
	if err := os.RemoveAll(l.path("")); err != nil {
		return fmt.Errorf("remove Karpenter's files: %w", err)
	}
	return nil
}

// Kubectl runs kubectl against the lab, from the host.
func (l Lab) Kubectl(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	return l.run(ctx, stdin, "kubectl", append([]string{"--request-timeout=20s"}, args...)...)
}

func (l Lab) run(ctx context.Context, stdin []byte, program string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := l.command(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), errors.Join(err, ctx.Err()), strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// kubectlCommand is for watches, which take as long as they take.
func (l Lab) kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	return l.command(ctx, "kubectl", args...)
}

// command is one that finds the lab, and nothing of whoever runs it.
func (l Lab) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(l.Bin, program), args...)
	cmd.Env = []string{"KUBECONFIG=" + l.Cluster.Layout.Kubeconfig(), "KUBECACHEDIR=" + l.Cluster.Layout.Path("kubectl-cache"), "HOME=" + l.Cluster.Layout.Path("home")}
	return cmd
}
