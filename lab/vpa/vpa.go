// Package vpa runs the VPA of Kubernetes in a lab, unchanged, as programs of the node, with the metrics-server that it gets usage from: ours
// is held against it, and must live beside it.
package vpa

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/lab/cluster"
)

// Version of upstream's VPA.
const Version = "1.8.1"

// Names of the lab's processes; the users that they are to the API server are called the same.
const (
	Recommender   = "upstream-vpa-recommender"
	Updater       = "upstream-vpa-updater"
	Admission     = "upstream-vpa-admission-controller"
	MetricsServer = "metrics-server"
)

// webhook is the name that upstream's admission controller registers.
const webhook = "vpa-webhook-config"

// Ports on the node.
const (
	webhookPort    = 8010
	metricsPort    = 8011 // of the metrics API
	firstProbePort = 8012 // of the three programs, one after the other
)

// Lab is one in which upstream's VPA may run.
type Lab struct {
	Cluster *cluster.Cluster
	Bin     string // directory with its programs, metrics-server and kubectl
}

// Options of an upstream VPA.
type Options struct {
	// Interval of recommender and updater; a minute unless set.
	Interval time.Duration
	// Resolution is how often metrics-server asks kubelets; 10s is the least it takes, and the default.
	Resolution time.Duration
	// MetricsOnly starts nothing but metrics-server.
	MetricsOnly bool
	// Gates are feature gates, as Name=true.
	Gates string
	// CRDs are its definitions, as YAML.
	CRDs []byte
}

// On starts it, or starts it anew.
func (l Lab) On(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	if o.Resolution == 0 {
		o.Resolution = 10 * time.Second
	}
	crds := l.path("crds.yaml")
	if err := os.MkdirAll(l.path(""), 0o755); err != nil {
		return fmt.Errorf("write the files of upstream's VPA: %w", err)
	}
	if err := os.WriteFile(crds, o.CRDs, 0o644); err != nil {
		return fmt.Errorf("write the files of upstream's VPA: %w", err)
	}
	for _, step := range []struct {
		stdin string
		args  []string
	}{
		{"", []string{"apply", "--server-side", "--force-conflicts", "-f", crds}},
		{"", []string{"wait", "--for=condition=Established", "--timeout=30s", "-f", crds}},
		{fmt.Sprintf(metricsAPI, metricsPort, cluster.NodeIP), []string{"apply", "--server-side", "--force-conflicts", "-f", "-"}},
	} {
		if _, err := l.kubectl(ctx, step.stdin, step.args...); err != nil {
			return err
		}
	}
	for _, p := range l.processes(o) {
		if err := l.Cluster.StopProcess(ctx, p.Name); err != nil {
			return err //nolint:wrapcheck // names the lab and the process
		}
		if err := os.Remove(l.Cluster.Layout.Log(p.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start %s: %w", p.Name, err)
		}
		if err := l.Cluster.StartProcess(ctx, p); err != nil {
			return err //nolint:wrapcheck // names the lab and the process
		}
	}
	if err := l.until(ctx, "metrics are served", "wait", "--for=condition=Available", "--timeout=5s", "apiservice/v1beta1.metrics.k8s.io"); err != nil {
		return err
	}
	if o.MetricsOnly {
		return nil
	}
	return l.until(ctx, "its webhook is registered", "get", "mutatingwebhookconfiguration", webhook)
}

func (l Lab) processes(o Options) []cluster.Process {
	layout := l.Cluster.Layout
	config := func(user string) string { return layout.Path("config", user+".kubeconfig") }
	pki := func(file string) string { return layout.Path("pki", file) }
	all := []cluster.Process{{Name: MetricsServer, Path: filepath.Join(l.Bin, MetricsServer), Args: []string{
		"--kubeconfig=" + config(MetricsServer), "--authentication-kubeconfig=" + config(MetricsServer), "--authorization-kubeconfig=" + config(MetricsServer),
		fmt.Sprintf("--secure-port=%d", metricsPort), "--cert-dir=" + l.path("metrics-server"), "--kubelet-preferred-address-types=InternalIP", "--kubelet-use-node-status-port",
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--metric-resolution=" + o.Resolution.String(),
		"--kubelet-request-timeout=" + (o.Resolution * 4 / 5).String(), // it must be less than nine tenths of that, and is not by default
	}}}
	if o.MetricsOnly {
		return all
	}
	common := func(n int, name string, args ...string) cluster.Process {
		p := cluster.Process{Name: name, Path: filepath.Join(l.Bin, name), Env: []string{"NAMESPACE=kube-system"}, Args: append([]string{
			"--kubeconfig=" + config(name), fmt.Sprintf("--address=127.0.0.1:%d", firstProbePort+n), "--v=4", "--kube-api-qps=200", "--kube-api-burst=400",
		}, args...)}
		if o.Gates != "" {
			p.Args = append(p.Args, "--feature-gates="+o.Gates)
		}
		return p
	}
	return append(all,
		common(0, Recommender, "--recommender-interval="+o.Interval.String()),
		common(1, Updater, "--updater-interval="+o.Interval.String()),
		common(2, Admission, fmt.Sprintf("--port=%d", webhookPort), "--register-by-url=true", "--webhook-address=https://"+cluster.NodeIP, fmt.Sprintf("--webhook-port=%d", webhookPort),
			"--webhook-timeout-seconds=5", "--client-ca-file="+pki("ca.crt"), "--tls-cert-file="+pki("upstream-vpa-webhook.crt"), "--tls-private-key="+pki("upstream-vpa-webhook.key")),
	)
}

// Off ends it and removes its API, with what is in it. Nothing to end is no error.
func (l Lab) Off(ctx context.Context) error {
	if _, err := os.Stat(l.path("crds.yaml")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range []string{Admission, Updater, Recommender, MetricsServer} {
		if err := l.Cluster.StopProcess(ctx, name); err != nil {
			return err //nolint:wrapcheck // names the lab
		}
	}
	for _, args := range [][]string{
		{"delete", "mutatingwebhookconfiguration", webhook, "--ignore-not-found"},
		{"delete", "-f", l.path("crds.yaml"), "--ignore-not-found", "--timeout=60s"},
		{"delete", "apiservice/v1beta1.metrics.k8s.io", "--ignore-not-found"},
		{"-n", "kube-system", "delete", "service/metrics-server", "endpointslice/metrics-server", "lease/vpa-recommender-lease", "lease/vpa-updater", "lease/vpa-admission-controller", "--ignore-not-found"},
	} {
		if _, err := l.kubectl(ctx, "", args...); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(l.path("")); err != nil {
		return fmt.Errorf("remove the files of upstream's VPA: %w", err)
	}
	return nil
}

func (l Lab) path(parts ...string) string {
	return l.Cluster.Layout.Path(append([]string{"upstream-vpa"}, parts...)...)
}

// until repeats a question of kubectl's.
func (l Lab) until(ctx context.Context, what string, args ...string) error {
	for {
		_, err := l.kubectl(ctx, "", args...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lab %s: waiting until %s (lab logs %s): %w", l.Cluster.Layout.Name, what, Admission, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (l Lab) kubectl(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(l.Bin, "kubectl"), append([]string{"--request-timeout=20s"}, args...)...)
	cmd.Env = []string{"KUBECONFIG=" + l.Cluster.Layout.Kubeconfig(), "KUBECACHEDIR=" + l.Cluster.Layout.Path("kubectl-cache"), "HOME=" + l.Cluster.Layout.Path("home")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), errors.Join(err, ctx.Err()), strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// metricsAPI leads the API server to metrics-server on the node.
const metricsAPI = `apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec: {ports: [{name: https, port: 443, targetPort: %[1]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: metrics-server, namespace: kube-system, labels: {kubernetes.io/service-name: metrics-server}}
addressType: IPv4
ports: [{name: https, port: %[1]d, protocol: TCP}]
endpoints: [{addresses: [%[2]s], conditions: {ready: true}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: metrics-server, namespace: kube-system}
`

// Request is one that was made of the API server, by a VPA, or that made a pod.
type Request struct {
	At          time.Time     // of its answer
	Took        time.Duration // from when it came to that
	User        string
	Verb        string
	Group       string
	Resource    string // with its subresource: pods/resize
	Namespace   string
	Name        string
	Code        int
	Annotations map[string]string
}

// Requests reads an audit log since a moment.
func Requests(log []byte, since time.Time) ([]Request, error) {
	var all []Request
	for line := range bytes.Lines(log) {
		var e struct {
			Verb           string            `json:"verb"`
			Received       time.Time         `json:"requestReceivedTimestamp"`
			StageTimestamp time.Time         `json:"stageTimestamp"`
			Annotations    map[string]string `json:"annotations"`
			User           struct {
				Username string `json:"username"`
			} `json:"user"`
			ResponseStatus struct {
				Code int `json:"code"`
			} `json:"responseStatus"`
			ObjectRef struct{ Resource, Subresource, Namespace, Name, APIGroup string } `json:"objectRef"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("audit log: %w: %s", err, line)
		}
		if e.StageTimestamp.Before(since) || e.User.Username == "lab-admin" {
			continue
		}
		r := Request{At: e.StageTimestamp, Took: e.StageTimestamp.Sub(e.Received), User: e.User.Username, Verb: e.Verb, Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource, Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name, Code: e.ResponseStatus.Code, Annotations: e.Annotations}
		if e.ObjectRef.Subresource != "" {
			r.Resource += "/" + e.ObjectRef.Subresource
		}
		all = append(all, r)
	}
	return all, nil
}

// String is "VERB GROUP/RESOURCE[/SUBRESOURCE] NAMESPACE/NAME"; what a request does not name is empty.
func (r Request) String() string {
	return fmt.Sprintf("%s %s/%s %s/%s", r.Verb, r.Group, r.Resource, r.Namespace, r.Name)
}

// Mutated says whether a webhook changed the object of a request, by the name of its configuration.
func (r Request) Mutated(configuration string) bool {
	for name, text := range r.Annotations {
		var m struct {
			Configuration string `json:"configuration"`
			Mutated       bool   `json:"mutated"`
		}
		if strings.HasPrefix(name, "mutation.webhook.admission.k8s.io/") && json.Unmarshal([]byte(text), &m) == nil && m.Configuration == configuration && m.Mutated {
			return true
		}
	}
	return false
}

// FailedOpen says whether a webhook did not answer and the request was let through without it, by the webhook's own name.
func (r Request) FailedOpen(webhook string) bool {
	for name, of := range r.Annotations {
		if strings.HasPrefix(name, "failed-open.mutation.webhook.admission.k8s.io/") && of == webhook {
			return true
		}
	}
	return false
}

// Created are those that made pods in a namespace.
func Created(all []Request, namespace string) []Request {
	var created []Request
	for _, r := range all {
		if r.Verb == "create" && r.Resource == "pods" && r.Namespace == namespace {
			created = append(created, r)
		}
	}
	return created
}
