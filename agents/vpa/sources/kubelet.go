package sources

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/metrics"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Bounds of one round of questions to kubelets.
const (
	kubeletsAtOnce = 32
	kubeletTimeout = 10 * time.Second
	maxKubelet     = 32 << 20 // bytes; a node of 250 pods answers with 200 kB
	kubeletPort    = 10250
)

// The label of nodes whose kubelet answers nobody.
const (
	computeType = "eks.amazonaws.com/compute-type"
	fargate     = "fargate"
)

// KubeletOptions say how kubelets are asked.
type KubeletOptions struct {
	// Kube is how the agent reaches the API server: kubelets are shown the same token, and their certificates are held against the same
	// authority.
	Kube      *rest.Config
	UserAgent string
	Nodes     listersv1.NodeLister
	// Insecure believes any certificate: where kubelets sign their own, as a cluster without serverTLSBootstrap has them.
	Insecure bool
	Log      *slog.Logger     // nil: silence
	Now      func() time.Time // nil: time.Now
}

// Kubelets asks every node's kubelet for /metrics/resource. CPU is the rate between two questions, so that a container's first answer
// has memory alone.
type Kubelets struct {
	nodes  listersv1.NodeLister
	client *http.Client
	log    *slog.Logger
	now    func() time.Time

	mu    sync.Mutex // one round at a time
	last  map[string]map[containerKey]reading
	quiet map[string]string // node → why it did not answer
}

var _ metrics.PodMetricsLister = (*Kubelets)(nil)

type containerKey struct{ namespace, pod, container string }

// reading is what a kubelet says of a container.
type reading struct {
	cpu      float64 // seconds since it began
	cpuAt    time.Time
	memory   float64
	memoryAt time.Time
}

// NewKubelets makes the source.
func NewKubelets(o KubeletOptions) (*Kubelets, error) {
	config := agent.KubeConfig(o.Kube, o.UserAgent)
	if o.Insecure {
		config.Insecure, config.CAFile, config.CAData = true, "", nil
	}
	// A kubelet is asked by its address, which its certificate names; what the API server is called is of no use here.
	config.ServerName = ""
	config.Timeout = kubeletTimeout
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of kubelets: %w", err)
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token is for the kubelet alone
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Kubelets{nodes: o.Nodes, client: client, log: o.Log, now: o.Now, last: map[string]map[containerKey]reading{}, quiet: map[string]string{}}, nil
}

// List implements metrics.PodMetricsLister. A node that does not answer is left out and said once; when none of them answers that is an
// error.
func (k *Kubelets) List(ctx context.Context, namespace string, _ metav1.ListOptions) (*v1beta1.PodMetricsList, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	nodes, err := k.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	type answer struct {
		node     string
		readings map[containerKey]reading
		err      error
	}
	answers := make(chan answer)
	slots := make(chan struct{}, kubeletsAtOnce)
	asked := 0
	for _, n := range nodes {
		if n.Labels[computeType] == fargate {
			continue
		}
		asked++
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			readings, err := k.ask(ctx, n)
			answers <- answer{n.Name, readings, err}
		}()
	}
	var (
		gathered pods
		present  = make(map[string]bool, asked)
		failed   = 0
		why      error
	)
	for range asked {
		a := <-answers
		present[a.node] = true
		k.tell(a.node, a.err)
		if a.err != nil {
			failed, why = failed+1, a.err
			continue // what it said last stays: the rate goes across the gap
		}
		for key, now := range a.readings {
			if namespace != "" && key.namespace != namespace {
				continue
			}
			gather(&gathered, key, k.last[a.node], now)
		}
		k.last[a.node] = a.readings
	}
	for node := range k.last {
		if !present[node] {
			delete(k.last, node)
		}
	}
	for node := range k.quiet {
		if !present[node] {
			delete(k.quiet, node)
		}
	}
	if failed > 0 && failed == asked {
		return nil, fmt.Errorf("no kubelet of %d answers, one of them because: %w", asked, why)
	}
	return &gathered.list, nil
}

// gather adds what a container used since the reading before.
func gather(to *pods, key containerKey, before map[containerKey]reading, now reading) {
	used := corev1.ResourceList{}
	at, window := now.memoryAt, time.Duration(0)
	if !now.memoryAt.IsZero() {
		used[corev1.ResourceMemory] = *resource.NewQuantity(int64(now.memory), resource.BinarySI)
	}
	// A counter that fell is another container's of that name: its rate is not known yet.
	if old, is := before[key]; is && !old.cpuAt.IsZero() && now.cpuAt.After(old.cpuAt) && now.cpu >= old.cpu {
		at, window = now.cpuAt, now.cpuAt.Sub(old.cpuAt)
		used[corev1.ResourceCPU] = *resource.NewScaledQuantity(int64((now.cpu-old.cpu)/window.Seconds()*1e9), resource.Nano)
	}
	if len(used) > 0 {
		to.add(key.namespace, key.pod, key.container, at, window, used)
	}
}

// tell says once that a node does not answer, and once that it does again.
func (k *Kubelets) tell(node string, err error) {
	_, was := k.quiet[node]
	switch {
	case err != nil && !was:
		k.quiet[node] = err.Error()
		k.log.Warn("a kubelet does not answer; its pods are measured when it does again", "node", node, "error", err)
	case err == nil && was:
		delete(k.quiet, node)
		k.log.Info("a kubelet answers again", "node", node)
	}
}

// Quiet is how many nodes do not answer.
func (k *Kubelets) Quiet() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.quiet)
}

// ask asks one kubelet.
func (k *Kubelets) ask(ctx context.Context, n *corev1.Node) (map[containerKey]reading, error) {
	address, err := kubeletOf(n)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, kubeletTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics/resource", nil)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet of %s: %w", n.Name, err)
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	began := k.now()
	res, err := k.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet of %s: %w", n.Name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		hint := ""
		if res.StatusCode == http.StatusForbidden || res.StatusCode == http.StatusUnauthorized {
			hint = " (it takes get on nodes/metrics)"
		}
		return nil, fmt.Errorf("asking the kubelet of %s: HTTP %d%s", n.Name, res.StatusCode, hint)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxKubelet+1))
	if err != nil {
		return nil, fmt.Errorf("reading what the kubelet of %s answers: %w", n.Name, err)
	}
	if len(text) > maxKubelet {
		return nil, fmt.Errorf("the kubelet of %s answers with more than %d bytes", n.Name, maxKubelet)
	}
	return parse(string(text), began), nil
}

// kubeletOf is where a node's kubelet listens.
func kubeletOf(n *corev1.Node) (string, error) {
	port := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = kubeletPort
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return net.JoinHostPort(a.Address, strconv.Itoa(port)), nil
		}
	}
	return "", fmt.Errorf("node %s has no internal address", n.Name)
}

// The two metrics that are read.
const (
	cpuMetric    = "container_cpu_usage_seconds_total"
	memoryMetric = "container_memory_working_set_bytes"
)

// parse reads the text format, of which two metrics of containers are wanted. A line that is no sample is left out: what a newer kubelet
// adds is no reason to know nothing. Samples without a time are of the moment.
func parse(text string, moment time.Time) map[containerKey]reading {
	all := map[containerKey]reading{}
	for line := range strings.SplitSeq(text, "\n") {
		cpu := strings.HasPrefix(line, cpuMetric+"{")
		if !cpu && !strings.HasPrefix(line, memoryMetric+"{") {
			continue
		}
		key, rest, err := readLabels(line[strings.IndexByte(line, '{')+1:])
		if err != nil || key.container == "" || key.pod == "" || key.namespace == "" {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		value, err := strconv.ParseFloat(fields[0], 64)
		if err != nil || !(value >= 0) || value > 1e18 {
			continue
		}
		at := moment
		if len(fields) > 1 {
			ms, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				continue
			}
			at = time.UnixMilli(ms)
		}
		r := all[key]
		if cpu {
			r.cpu, r.cpuAt = value, at
		} else {
			r.memory, r.memoryAt = value, at
		}
		all[key] = r
	}
	return all
}

var errLabels = errors.New("the labels do not end")

// readLabels reads what follows the brace: name="value",… with \\, \" and \n escaped in values.
func readLabels(text string) (key containerKey, rest string, err error) {
	for {
		text = strings.TrimLeft(text, ", ")
		if after, is := strings.CutPrefix(text, "}"); is {
			return key, after, nil
		}
		name, after, is := strings.Cut(text, `="`)
		if !is {
			return key, "", errLabels
		}
		end, escaped := 0, false
		for ; end < len(after) && after[end] != '"'; end++ {
			if after[end] == '\\' {
				escaped = true
				end++
			}
		}
		if end >= len(after) {
			return key, "", errLabels
		}
		value := after[:end]
		if escaped {
			value = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(value)
		}
		switch strings.TrimSpace(name) {
		case "namespace":
			key.namespace = value
		case "pod":
			key.pod = value
		case "container":
			key.container = value
		}
		text = after[end+1:]
	}
}
