package sources

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	prommodel "github.com/prometheus/common/model"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/client-go/kubernetes"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
)

// authority signs kubelets' certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) serving(t *testing.T, ip string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "system:node:x", Organization: []string{"system:nodes"}}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(ip)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// kubelet stands in for one: it lets in whom the API server says it may, as a kubelet with webhook authentication and authorization does.
type kubelet struct {
	*httptest.Server
	api kubernetes.Interface

	mu    sync.Mutex
	pages []string // one for each question, the last for ever
	fails bool
	asked int
}

func startKubelet(t *testing.T, api kubernetes.Interface, ca *authority, pages ...string) *kubelet {
	t.Helper()
	k := &kubelet{api: api, pages: pages}
	k.Server = httptest.NewUnstartedServer(k)
	k.TLS = &tls.Config{Certificates: []tls.Certificate{ca.serving(t, "127.0.0.1")}, MinVersion: tls.VersionTLS12}
	k.StartTLS()
	t.Cleanup(k.Close)
	return k
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	who, err := k.api.AuthenticationV1().TokenReviews().Create(r.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil || !who.Status.Authenticated {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	may, err := k.api.AuthorizationV1().SubjectAccessReviews().Create(r.Context(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: who.Status.User.Username, Groups: who.Status.User.Groups, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "nodes", Subresource: "metrics", Name: "n"},
	}}, metav1.CreateOptions{})
	if err != nil || !may.Status.Allowed || r.URL.Path != "/metrics/resource" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if k.fails {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	page := k.pages[0]
	if len(k.pages) > 1 {
		k.pages = k.pages[1:]
	}
	_, _ = w.Write([]byte(page))
}

func (k *kubelet) fail(b bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fails = b
}

func (k *kubelet) node(t *testing.T, api kubernetes.Interface, name string, more map[string]string) {
	t.Helper()
	host, port, err := net.SplitHostPort(k.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	makeNode(t, api, name, host, int32(n), more)
}

func makeNode(t *testing.T, api kubernetes.Interface, name, host string, port int32, more map[string]string) {
	t.Helper()
	node, err := api.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: more}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "127.0.0.2"}, {Type: corev1.NodeInternalIP, Address: host}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = port
	if _, err := api.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// resourcePage is what a kubelet says of containers: cpu in seconds, memory in bytes, at a time.
func resourcePage(at time.Time, containers ...string) string {
	var cpu, memory strings.Builder
	for _, c := range containers {
		f := strings.Fields(c) // pod container cpu memory
		fmt.Fprintf(&cpu, "container_cpu_usage_seconds_total{container=%q,namespace=\"shop\",pod=%q} %s %d\n", f[1], f[0], f[2], at.UnixMilli())
		fmt.Fprintf(&memory, "container_memory_working_set_bytes{container=%q,namespace=\"shop\",pod=%q} %s %d\n", f[1], f[0], f[3], at.UnixMilli())
	}
	return "# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds\n# TYPE container_cpu_usage_seconds_total counter\n" + cpu.String() +
		"# TYPE container_memory_working_set_bytes gauge\n" + memory.String() + "node_cpu_usage_seconds_total 1e6 1\npod_memory_working_set_bytes{namespace=\"shop\",pod=\"a\"} 1 1\nresource_scrape_error 0\n"
}

// TestKubelets asks stand-ins for kubelets, which ask a real API server who may ask.
func TestKubelets(t *testing.T) {
	config, api := agenttest.Kubernetes(t)
	ctx := t.Context()
	ca := newAuthority(t)
	account := func(name string) *rest.Config {
		if _, err := api.CoreV1().ServiceAccounts(agenttest.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		token, err := api.CoreV1().ServiceAccounts(agenttest.Namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return &rest.Config{Host: config.Host, BearerToken: token.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAData: ca.pem}}
	}
	may, mayNot := account("may"), account("may-not")
	for _, create := range []func() error{
		func() error {
			_, err := api.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "metrics"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, Verbs: []string{"get"}}}}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := api.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "metrics"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "metrics"},
				Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: agenttest.Namespace, Name: "may"}},
			}, metav1.CreateOptions{})
			return err
		},
	} {
		if err := create(); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 11, 28, 1, 0, 0, 0, time.UTC)
	minute := func(n int) time.Time { return at.Add(time.Duration(n) * time.Minute) }
	one := startKubelet(t, api, ca,
		resourcePage(minute(0), "a app 100 1048576", "a sidecar 5 1024", "b app 70 2097152"),
		resourcePage(minute(1), "a app 130 2097152", "a sidecar 5 1024", "b app 3 1048576"), // b was restarted: its counter begins anew
		resourcePage(minute(1), "a app 130 2097152", "a sidecar 5 1024", "b app 3 1048576"), // housekeeping was slow: nothing new
		resourcePage(minute(3), "a app 190 4194304", "b app 63 1048576"))
	other := startKubelet(t, api, ca, resourcePage(minute(0), "c app 0 1024"), resourcePage(minute(1), "c app 120 1024"), resourcePage(minute(3), "c app 240 1024"))
	one.node(t, api, "one", nil)
	other.node(t, api, "other", nil)
	makeNode(t, api, "gone", "127.0.0.1", 1, nil)                                        // nobody listens
	makeNode(t, api, "fargate", "127.0.0.1", 1, map[string]string{computeType: fargate}) // is not asked
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	list, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 4 {
		t.Fatalf("%d nodes, %v", len(list.Items), err)
	}
	for i := range list.Items {
		if err := nodes.Add(&list.Items[i]); err != nil {
			t.Fatal(err)
		}
	}
	var log agenttest.Buffer
	source := func(kube *rest.Config, insecure bool) *Kubelets {
		k, err := NewKubelets(KubeletOptions{Kube: kube, UserAgent: "test", Nodes: listersv1.NewNodeLister(nodes), Insecure: insecure, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k := source(may, false)
	client := &Client{Source: k, Name: "kubelet"}
	ask := func() map[string]string {
		t.Helper()
		all, err := client.GetContainersMetrics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		used := map[string]string{}
		for _, s := range all {
			cpu := "-"
			if c, is := s.Usage[model.ResourceCPU]; is {
				cpu = fmt.Sprint(c)
			}
			used[s.ID.PodName+"/"+s.ID.ContainerName] = fmt.Sprintf("%sm %d", cpu, s.Usage[model.ResourceMemory])
		}
		return used
	}
	for i, want := range []map[string]string{
		{"a/app": "-m 1048576", "a/sidecar": "-m 1024", "b/app": "-m 2097152", "c/app": "-m 1024"},
		{"a/app": "500m 2097152", "a/sidecar": "0m 1024", "b/app": "-m 1048576", "c/app": "2000m 1024"},
		{"a/app": "-m 2097152", "a/sidecar": "-m 1024", "b/app": "-m 1048576", "c/app": "1000m 1024"}, // other is at its third page
		{"a/app": "500m 4194304", "b/app": "500m 1048576", "c/app": "-m 1024"},
	} {
		if got := ask(); !maps.Equal(got, want) {
			t.Errorf("round %d: %v, want %v", i, got, want)
		}
	}
	one.fail(true)
	for range 3 {
		if got := ask(); len(got) != 1 || k.Quiet() != 2 {
			t.Errorf("with a node that fails: %v, %d are quiet", got, k.Quiet())
		}
	}
	one.fail(false)
	ask()
	if said, again := strings.Count(log.String(), "does not answer"), strings.Count(log.String(), "answers again"); said != 2 || again != 1 || k.Quiet() != 1 {
		t.Errorf("that a node does not answer was said %d times, that it does again %d times: want 2 (gone, one) and 1\n%s", said, again, log.String())
	}
	if err := nodes.Delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}); err != nil {
		t.Fatal(err)
	}
	ask()
	if k.Quiet() != 0 || len(k.last) != 2 {
		t.Errorf("a node that is gone is remembered: %d quiet, %d last", k.Quiet(), len(k.last))
	}
	for name, c := range map[string]struct {
		kube     *rest.Config
		insecure bool
		says     string
	}{
		"may not":           {mayNot, false, "HTTP 403 (it takes get on nodes/metrics)"},
		"no token":          {&rest.Config{Host: config.Host, TLSClientConfig: may.TLSClientConfig}, false, "HTTP 401"},
		"another authority": {&rest.Config{Host: config.Host, BearerToken: may.BearerToken, TLSClientConfig: rest.TLSClientConfig{CAData: config.CAData}}, false, "certificate"},
		"insecure":          {&rest.Config{Host: config.Host, BearerToken: may.BearerToken, TLSClientConfig: rest.TLSClientConfig{CAData: config.CAData}}, true, ""},
	} {
		got, err := source(c.kube, c.insecure).List(ctx, "", metav1.ListOptions{})
		if c.says == "" && (err != nil || len(got.Items) == 0) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), may.BearerToken) {
			t.Errorf("%s: the error has the token", name)
		}
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := k.List(short, "", metav1.ListOptions{}); err == nil {
		t.Error("a round whose time is up answers")
	}
}

// TestParseReadsAsPrometheus: what is read is what the library reads, of whatever a page holds.
func TestParseReadsAsPrometheus(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOf(rapid.SampledFrom([]rune(`ab-0.é"\{},= ` + "\n")))
		escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
		var page bytes.Buffer
		seen := map[containerKey]bool{}
		for _, metric := range []string{cpuMetric, memoryMetric, "container_start_time_seconds"} {
			fmt.Fprintf(&page, "# TYPE %s gauge\n", metric)
			for range rapid.IntRange(0, 4).Draw(t, "lines") {
				key := containerKey{word.Draw(t, "namespace"), word.Draw(t, "pod"), word.Draw(t, "container")}
				if metric == cpuMetric && seen[key] {
					continue
				}
				seen[key] = metric == cpuMetric
				pairs := []string{`container="` + escape.Replace(key.container) + `"`, `namespace="` + escape.Replace(key.namespace) + `"`, `pod="` + escape.Replace(key.pod) + `"`, `other="}"`}
				slices.Reverse(pairs)
				fmt.Fprintf(&page, "%s{%s} %g", metric, strings.Join(pairs, ","), rapid.Float64Range(0, 1e9).Draw(t, "value"))
				if rapid.Bool().Draw(t, "timed") {
					fmt.Fprintf(&page, " %d", rapid.Int64Range(1, 1e13).Draw(t, "time"))
				}
				page.WriteByte('\n')
			}
		}
		text := page.String()
		parser := expfmt.NewTextParser(prommodel.UTF8Validation)
		families, err := parser.TextToMetricFamilies(&page)
		if err != nil {
			t.Skip("the library does not read it: ", err)
		}
		now := time.UnixMilli(42)
		want := map[containerKey]reading{}
		for _, name := range []string{cpuMetric, memoryMetric} {
			for _, m := range families[name].GetMetric() {
				labels := map[string]string{}
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				key := containerKey{labels["namespace"], labels["pod"], labels["container"]}
				if key.namespace == "" || key.pod == "" || key.container == "" {
					continue
				}
				at := now
				if m.TimestampMs != nil {
					at = time.UnixMilli(m.GetTimestampMs())
				}
				r := want[key]
				if name == cpuMetric {
					r.cpu, r.cpuAt = m.GetGauge().GetValue(), at
				} else {
					r.memory, r.memoryAt = m.GetGauge().GetValue(), at
				}
				want[key] = r
			}
		}
		if got := parse(text, now); !maps.Equal(got, want) {
			t.Fatalf("%q:\n%v, want\n%v", text, got, want)
		}
	})
}

// FuzzParse: whatever a kubelet says, it is read or left out.
func FuzzParse(f *testing.F) {
	f.Add(resourcePage(time.UnixMilli(1), "a app 1 2"))
	f.Add(cpuMetric + `{namespace="a\`)
	f.Add(cpuMetric + `{namespace="a",pod="b",container="c"} NaN`)
	f.Fuzz(func(t *testing.T, text string) {
		for key, r := range parse(text, time.UnixMilli(1)) {
			if key.pod == "" || r.cpu < 0 || r.memory < 0 || r.cpu != r.cpu {
				t.Errorf("%v %v", key, r)
			}
		}
	})
}
