package platform_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/nopsctl/nopsctl/lab/ca"
	"github.com/nopsctl/nopsctl/lab/images"
	"github.com/nopsctl/nopsctl/lab/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// TestMain lets this test binary be what the lab's binary is: the program that the platform starts again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == platform.Subcommand {
		if err := platform.Main(context.Background(), os.Args[2:], os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const arn = "arn:aws:eks:us-east-1:123456789012:cluster/demo"

// running is a platform of a test.
type running struct {
	platform.Info
	control platform.Control
	options platform.Options
	stop    func()
}

func victoriaMetrics(t *testing.T) string {
	t.Helper()
	path := os.Getenv("NOPSCTL_VICTORIAMETRICS")
	if path == "" {
		t.Skip("NOPSCTL_VICTORIAMETRICS names no victoria-metrics: the stores behind the gate are the real program (make test-unit sets it)")
	}
	return path
}

// run starts a platform; options that are empty get directories of the test.
func run(t *testing.T, o platform.Options) running {
	t.Helper()
	store := victoriaMetrics(t)
	if o.StateDir == "" {
		o.StateDir = shortDir(t)
	}
	if o.CacheDir == "" {
		o.CacheDir = t.TempDir()
	}
	if o.Bin == "" {
		o.Bin = t.TempDir()
		if err := os.Symlink(store, filepath.Join(o.Bin, "victoria-metrics")); err != nil {
			t.Fatal(err)
		}
	}
	if o.Listen == (platform.Listen{}) {
		o.Listen = platform.Local()
	}
	ctx, cancel := context.WithCancel(t.Context())
	readied := make(chan platform.Info, 1)
	o.OnReady = func(i platform.Info) { readied <- i }
	ended := make(chan error, 1)
	go func() { ended <- platform.Run(ctx, o, slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	stopped := false
	r := running{options: o, control: platform.Control{StateDir: o.StateDir}, stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the platform ended with: %v", err)
		}
	}}
	t.Cleanup(r.stop)
	select {
	case r.Info = <-readied:
	case err := <-ended:
		stopped = true
		t.Fatalf("the platform did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the platform is not ready after a minute")
	}
	return r
}

// shortDir is a directory whose path leaves room for a socket's name; t.TempDir's may not.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "platform")
}

// transport reaches the real names through the lab's proxy, trusting the lab's bundle: as a host with the lab's
// environment does.
func (r running) transport(t *testing.T) *http.Transport {
	t.Helper()
	bundle, err := platform.Bundle(r.options, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		t.Fatal("no certificate in the bundle")
	}
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: r.Addresses.Proxy}), TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func (r running) whoAmI(t *testing.T, tr http.RoundTripper, key string) (nopsapi.WhoAmI, int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://app.nops.io/svc/k8s_agent/v1/api-keys/whoami", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Nops-Api-Key", key)
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nopsapi.WhoAmI{}, 0, err
	}
	defer res.Body.Close()
	var who nopsapi.WhoAmI
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode == http.StatusOK {
		err = json.Unmarshal(text, &who)
	}
	return who, res.StatusCode, err
}

func (r running) fault(t *testing.T, what, state string) {
	t.Helper()
	if err := r.control.Fault(t.Context(), what, state); err != nil {
		t.Fatalf("fault %s %s: %v", what, state, err)
	}
}

func TestCustomersAndKeysSurviveARestart(t *testing.T) {
	first := run(t, platform.Options{})
	tr := first.transport(t)
	for _, tc := range []struct {
		name, key, customer string
		status              int
	}{
		{"install key of the first", first.APIKey, "4242", 200},
		{"admin key of the first", first.AdminKey, "4242", 200},
		{"install key of the second", first.OtherAPIKey, "4343", 200},
		{"a key that looks right", "4242.00000000000000000000000000000000", "", 401},
	} {
		who, status, err := first.whoAmI(t, tr, tc.key)
		if err != nil || status != tc.status || who.CustomerID != tc.customer {
			t.Errorf("%s: customer %q, status %d, %v; want %q, %d", tc.name, who.CustomerID, status, err, tc.customer, tc.status)
		}
	}
	client, err := nopsclient.New(nopsclient.Options{Key: first.APIKey, Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.RegisterCluster(t.Context(), arn); err != nil {
		t.Fatal(err)
	}
	config, err := client.InstallConfig(t.Context(), arn)
	if err != nil {
		t.Fatal(err)
	}
	if config.AMP.WorkspaceID != first.Workspace || config.AMP.Region != "us-east-1" || config.AMP.SecretAccessKey == "" {
		t.Errorf("install-config names workspace %q in %q, want %q in us-east-1 with keys", config.AMP.WorkspaceID, config.AMP.Region, first.Workspace)
	}
	var admin nopsapi.APIKeyList
	get(t, tr, "https://app.nops.io/svc/k8s_agent/v1/api-keys", first.AdminKey, &admin)
	for _, key := range admin.APIKeys {
		if key.Name == "lab install key" {
			request(t, tr, http.MethodDelete, "https://app.nops.io/svc/k8s_agent/v1/api-keys/"+key.ID, first.AdminKey)
		}
	}
	tr.CloseIdleConnections()
	first.stop()

	again := run(t, platform.Options{StateDir: first.options.StateDir, CacheDir: first.options.CacheDir})
	if again.AdminKey != first.AdminKey || again.Workspace != first.Workspace {
		t.Error("the restarted platform has other customers")
	}
	tr = again.transport(t)
	var clusters nopsapi.ClusterList
	get(t, tr, "https://app.nops.io/svc/k8s_agent/v1/clusters", again.AdminKey, &clusters)
	if len(clusters.Clusters) != 1 || clusters.Clusters[0].ARN != arn {
		t.Errorf("after the restart the clusters are %+v, want the one that was registered", clusters.Clusters)
	}
	if _, status, err := again.whoAmI(t, tr, again.APIKey); err != nil || status != http.StatusUnauthorized {
		t.Errorf("a revoked key after the restart: status %d, %v; it must stay revoked", status, err)
	}
}

func get(t *testing.T, tr http.RoundTripper, address, key string, into any) {
	t.Helper()
	if err := json.Unmarshal(request(t, tr, http.MethodGet, address, key), into); err != nil {
		t.Fatal(err)
	}
}

func request(t *testing.T, tr http.RoundTripper, method, address, key string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("X-Nops-Api-Key", key)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %s %v", method, address, res.Status, text, err)
	}
	return text
}

func TestPlatformDown(t *testing.T) {
	r := run(t, platform.Options{})
	tr := r.transport(t)
	if _, status, err := r.whoAmI(t, tr, r.APIKey); err != nil || status != http.StatusOK {
		t.Fatalf("before: %d, %v", status, err)
	}
	raw, err := net.Dial("tcp", r.Addresses.TLS)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	open := tls.Client(raw, &tls.Config{ServerName: "app.nops.io", InsecureSkipVerify: true})
	if err := open.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.fault(t, platform.FaultPlatform, "down")
	r.fault(t, platform.FaultPlatform, "down") // twice is no error
	_ = open.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := open.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was open: %v, want a reset", err)
	}
	if _, _, err := r.whoAmI(t, tr, r.APIKey); err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Errorf("through the proxy: %v, want 502", err)
	}
	fresh, err := net.Dial("tcp", r.Addresses.TLS)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if err := tls.Client(fresh, &tls.Config{ServerName: "app.nops.io"}).HandshakeContext(t.Context()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection by name: %v, want a reset", err)
	}
	if conn, err := net.Dial("tcp", r.Addresses.API); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the plain port: %v, want refusal", err)
		if err == nil {
			conn.Close()
		}
	}
	// The other names live on.
	for _, address := range []string{"https://public.ecr.aws/v2/", "https://aps-workspaces.us-east-1.amazonaws.com/"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Errorf("%s while the platform is down: %v", address, err)
			continue
		}
		res.Body.Close()
	}
	if info, err := r.control.Info(t.Context()); err != nil || info.Faults[platform.FaultPlatform] != "down" {
		t.Errorf("info: %v %v, want platform down", info.Faults, err)
	}
	r.fault(t, platform.FaultPlatform, "up")
	if who, status, err := r.whoAmI(t, tr, r.APIKey); err != nil || status != http.StatusOK || who.CustomerID != "4242" {
		t.Errorf("after: %d, %v", status, err)
	}
	if text := request(t, http.DefaultTransport, http.MethodGet, "http://"+r.Addresses.API+"/svc/k8s_agent/v1/api-keys/whoami", r.APIKey); !bytes.Contains(text, []byte("4242")) {
		t.Errorf("the plain port after: %s", text)
	}
}

func TestKilledAPIReturnsByItself(t *testing.T) {
	r := run(t, platform.Options{})
	tr := r.transport(t)
	pid := apiProcess(t, r.options.StateDir)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, status, err := r.whoAmI(t, tr, r.APIKey); err == nil && status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the API is not back 30 s after it was killed")
		}
	}
	if again := apiProcess(t, r.options.StateDir); again == pid {
		t.Error("the process is the same: nothing was killed")
	}
}

// apiProcess finds the process of the API by its arguments.
func apiProcess(t *testing.T, stateDir string) int {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(entries) == 0 {
		t.Skip("no /proc here to find the process in")
	}
	for _, e := range entries {
		text, err := os.ReadFile(e)
		if err == nil && bytes.Contains(text, []byte("\x00api\x00"+filepath.Join(stateDir, "api.json"))) {
			var pid int
			if _, err := fmt.Sscanf(e, "/proc/%d/cmdline", &pid); err == nil {
				return pid
			}
		}
	}
	t.Fatal("no process of the API is running")
	return 0
}

func TestNothingIsLeftBehind(t *testing.T) {
	r := run(t, platform.Options{})
	r.fault(t, platform.FaultMetrics, "down")
	r.fault(t, platform.FaultMetrics, "up")
	r.stop()
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		if text, err := os.ReadFile(p); err == nil && bytes.Contains(text, []byte(r.options.StateDir)) {
			t.Errorf("%s is still running: %s", p, bytes.ReplaceAll(text, []byte{0}, []byte(" ")))
		}
	}
	var stacks []byte
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		stacks = make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !bytes.Contains(stacks, []byte("lab/platform.(")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines are left ten seconds after the end:\n%s", stacks)
		}
	}
	for name, address := range map[string]string{"TLS": r.Addresses.TLS, "metrics": r.Addresses.Metrics, "registry": r.Addresses.Registry} {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("somebody still listens for %s", name)
		}
	}
}

func TestNoCredentialInArgumentsOrLogs(t *testing.T) {
	r := run(t, platform.Options{})
	tr := r.transport(t)
	if _, _, err := r.whoAmI(t, tr, r.APIKey); err != nil {
		t.Fatal(err)
	}
	var seed platform.Seed
	text, err := os.ReadFile(filepath.Join(r.options.StateDir, "seed.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &seed); err != nil {
		t.Fatal(err)
	}
	var searched bytes.Buffer
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", filepath.Join(r.options.StateDir, "logs", "*")} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, _ := os.ReadFile(f)
			searched.Write(text)
		}
	}
	if searched.Len() == 0 || len(seed.Customers) != 2 || len(seed.User.SecretAccessKey) < 30 {
		t.Fatalf("searched %d bytes for the credentials of %d customers", searched.Len(), len(seed.Customers))
	}
	for _, c := range seed.Customers {
		for _, secret := range []string{c.APIKey, c.AdminKey, c.SecretAccessKey} {
			if bytes.Contains(searched.Bytes(), []byte(secret)) {
				t.Errorf("a credential of customer %s is in arguments or logs", c.ID)
			}
		}
	}
	if bytes.Contains(searched.Bytes(), []byte(seed.User.SecretAccessKey)) {
		t.Error("the user's AWS secret is in arguments or logs")
	}
	for _, file := range []string{"seed.json", "api.json", "control.sock", "api.sock"} {
		info, err := os.Stat(filepath.Join(r.options.StateDir, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, others may use it", file, info.Mode())
		}
	}
}

func TestProxyReachesOnlyTheLab(t *testing.T) {
	r := run(t, platform.Options{})
	for _, tc := range []struct{ name, request, want string }{
		{"a name of the lab", "CONNECT app.nops.io:443 HTTP/1.1\r\nHost: app.nops.io:443\r\n\r\n", "200"},
		{"another name", "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", "403"},
		{"another port", "CONNECT app.nops.io:22 HTTP/1.1\r\nHost: app.nops.io:22\r\n\r\n", "403"},
		{"an address", "CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\n\r\n", "403"},
		{"no tunnel", "GET http://app.nops.io/ HTTP/1.1\r\nHost: app.nops.io\r\n\r\n", "403"},
	} {
		conn, err := net.Dial("tcp", r.Addresses.Proxy)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, tc.request)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer := make([]byte, 64)
		n, err := conn.Read(answer)
		if err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 "+tc.want) {
			t.Errorf("%s: %q %v, want %s", tc.name, answer[:n], err, tc.want)
		}
		conn.Close()
	}
}

func TestFrontRefusesOtherNames(t *testing.T) {
	r := run(t, platform.Options{})
	authority, err := ca.Open(filepath.Join(r.options.CacheDir, "ca"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())
	for _, tc := range []struct {
		name, server string
		want         bool
	}{
		{"API", "app.nops.io", true}, {"metrics", "aps-workspaces.us-east-1.amazonaws.com", true}, {"registry", "public.ecr.aws", true},
		{"signer", "data-signer.us-east-1.amazonaws.com", true}, {"signer of another region", "data-signer.eu-west-1.amazonaws.com", false},
		{"another region", "aps-workspaces.eu-west-1.amazonaws.com", false}, {"another name", "example.com", false},
	} {
		conn, err := tls.Dial("tcp", r.Addresses.TLS, &tls.Config{RootCAs: roots, ServerName: tc.server})
		if (err == nil) != tc.want {
			t.Errorf("%s: %v, want success %v", tc.name, err, tc.want)
		}
		if conn != nil {
			conn.Close()
		}
	}
	// One connection, another host in the request: answered by neither site.
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "app.nops.io"}, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", r.Addresses.TLS)
	}}
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://public.ecr.aws/v2/", nil)
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host on this connection: %s, want 421", res.Status)
	}
}

func TestRegistryByEachOfItsDoors(t *testing.T) {
	r := run(t, platform.Options{})
	tr := r.transport(t)
	image, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	push, _ := name.ParseReference(r.Addresses.Registry+"/nops/thing:1", name.Insecure)
	if err := remote.Write(push, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	public, _ := name.ParseReference("public.ecr.aws/nops/thing:1")
	nodes, _ := name.ParseReference(r.Addresses.RegistryNodes+"/nops/thing:1", name.Insecure)
	pull := func(ref name.Reference) error {
		options := []remote.Option{remote.WithContext(t.Context()), remote.WithRetryStatusCodes(), remote.WithRetryBackoff(remote.Backoff{Duration: time.Millisecond, Steps: 1})}
		if ref == public {
			options = append(options, remote.WithTransport(tr))
		}
		got, err := remote.Get(ref, options...)
		if err == nil && got.Digest != digest {
			t.Errorf("%s: digest %s, want %s", ref, got.Digest, digest)
		}
		return err
	}
	for _, ref := range []name.Reference{push, public, nodes} {
		if err := pull(ref); err != nil {
			t.Errorf("pull %s: %v", ref, err)
		}
	}
	other, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	for ref, through := range map[name.Reference]http.RoundTripper{public: tr, nodes: http.DefaultTransport} {
		var refused *transport.Error
		if err := remote.Write(ref, other, remote.WithContext(t.Context()), remote.WithTransport(through)); !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
			t.Errorf("push to %s: %v, want 403", ref, err)
		}
	}
	r.fault(t, platform.FaultRegistryNodes, "down")
	if err := pull(nodes); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the nodes' registry is down: %v, want refusal", err)
	}
	if err := pull(public); err != nil {
		t.Errorf("the nodes' registry is down, the public name must live: %v", err)
	}
	r.fault(t, platform.FaultRegistryNodes, "up")
	if err := pull(nodes); err != nil {
		t.Errorf("the nodes' registry is back: %v", err)
	}
	tr.CloseIdleConnections()
	r.stop()
	again := run(t, platform.Options{CacheDir: r.options.CacheDir})
	kept, _ := name.ParseReference(again.Addresses.Registry+"/nops/thing:1", name.Insecure)
	if err := pull(kept); err != nil {
		t.Errorf("after a restart, in another lab: %v", err)
	}
}

// TestPublishedHelmCommand: helm, with the environment of a lab, finds the chart where the published command looks for it,
// anonymous token included.
func TestPublishedHelmCommand(t *testing.T) {
	helm := os.Getenv("NOPSCTL_HELM3")
	if helm == "" {
		t.Skip("NOPSCTL_HELM3 names no helm (make test-unit sets it)")
	}
	r := run(t, platform.Options{})
	chart := fstest.MapFS{
		"Chart.yaml":        {Data: []byte("apiVersion: v2\nname: kubernetes-agent\nversion: 0.1.0\n")},
		"templates/cm.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-the-chart}\n")},
	}
	if _, _, _, err := (images.Registry{Host: r.Addresses.Registry, Insecure: true}).PushChart(t.Context(), "nops", chart); err != nil {
		t.Fatal(err)
	}
	bundle, err := platform.Bundle(r.options, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	file := filepath.Join(home, "bundle.pem")
	if err := os.WriteFile(file, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), helm, "template", "x", "oci://public.ecr.aws/nops/kubernetes-agent")
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home, "HTTPS_PROXY=http://" + r.Addresses.Proxy, "SSL_CERT_FILE=" + file}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "from-the-chart") {
		t.Errorf("helm template: %v\n%s", err, out)
	}
}

func TestUnknownFaults(t *testing.T) {
	r := run(t, platform.Options{})
	for _, tc := range [][2]string{{"weather", "down"}, {"platform", "sideways"}, {"platform", "503"}, {"metrics", "200"}, {"metrics", "600"}, {"", "up"}, {"metrics/down", "up"}} {
		if err := r.control.Fault(t.Context(), tc[0], tc[1]); err == nil {
			t.Errorf("fault %q %q was taken", tc[0], tc[1])
		}
	}
	if _, err := r.Field("other_api_key"); err != nil {
		t.Error(err)
	}
	if _, err := r.Field("faults"); err == nil {
		t.Error("a field that is no text was given as one")
	}
}

func TestOptionsCrossTheExecWithoutCredentials(t *testing.T) {
	o := platform.Options{StateDir: shortDir(t), CacheDir: t.TempDir(), Bin: "/none", Listen: platform.Inside("192.168.77.1")}
	file, err := o.Write()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := platform.LoadSeed(o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range seed.Customers {
		if bytes.Contains(text, []byte(c.APIKey)) || bytes.Contains(text, []byte(c.SecretAccessKey)) {
			t.Error("the options file holds a credential")
		}
	}
	if again, err := platform.LoadSeed(o.StateDir); err != nil || again.Customers[0] != seed.Customers[0] {
		t.Errorf("the seed changed from one reading to the next: %v", err)
	}
	for _, args := range [][]string{nil, {"serve"}, {"fly", file}, {"serve", "/none"}, {"api", "/none"}} {
		if err := platform.Main(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
