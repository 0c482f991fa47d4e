package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name string
		ok   bool
	}{{"demo", true}, {"e2e-2", true}, {"", false}, {"Demo", false}, {"../x", false}, {"2x", false}, {strings.Repeat("a", 32), false}} {
		if _, err := NewLayout(t.TempDir(), tt.name); (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.name, err)
		}
	}
}

func TestPKI(t *testing.T) {
	dir := t.TempDir()
	ca, err := writePKI(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	for _, tt := range []struct {
		file, host string
		usage      x509.ExtKeyUsage
	}{
		{"apiserver", "127.0.0.1", x509.ExtKeyUsageServerAuth},
		{"apiserver", NodeIP, x509.ExtKeyUsageServerAuth},
		{"apiserver", apiServiceIP, x509.ExtKeyUsageServerAuth},
		{"apiserver", "kubernetes.default.svc", x509.ExtKeyUsageServerAuth},
		{"kubelet-server", NodeIP, x509.ExtKeyUsageServerAuth},
		{"etcd", "127.0.0.1", x509.ExtKeyUsageServerAuth},
		{"admin", "", x509.ExtKeyUsageClientAuth},
		{"kubelet", "", x509.ExtKeyUsageClientAuth},
	} {
		data, err := os.ReadFile(filepath.Join(dir, tt.file+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{DNSName: tt.host, Roots: pool, KeyUsages: []x509.ExtKeyUsage{tt.usage}}); err != nil {
			t.Errorf("%s for %q: %v", tt.file, tt.host, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", e.Name(), info.Mode())
		}
	}
}

func TestConfiguration(t *testing.T) {
	l, err := NewLayout(t.TempDir(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writePKI(l.Path("pki"), time.Now()); err != nil {
		t.Fatal(err)
	}
	s := spec{Layout: l, Bin: "/bin", APIPort: 4711, Hosts: []string{"app.nops.io"}, PauseRef: "pause:1", Mirrors: map[string]string{"public.ecr.aws": "http://127.0.0.1:5001"}}
	if err := s.write("overlayfs"); err != nil {
		t.Fatal(err)
	}
	read := func(parts ...string) string {
		t.Helper()
		data, err := os.ReadFile(l.Path(parts...))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, name := range []string{"kubelet.yaml", "kube-proxy.yaml"} {
		var v map[string]any
		if err := yaml.UnmarshalStrict([]byte(read("config", name)), &v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var cni, kubeconfig map[string]any
	if err := json.Unmarshal([]byte(read("config", "cni", "10-lab.conflist")), &cni); err != nil {
		t.Errorf("CNI: %v", err)
	}
	if err := yaml.Unmarshal([]byte(read("kubeconfig")), &kubeconfig); err != nil || kubeconfig["current-context"] != ARN("demo") {
		t.Errorf("kubeconfig: %v, context %v", err, kubeconfig["current-context"])
	}
	for file, want := range map[string]string{
		"Corefile": "template IN A app.nops.io", "hosts": NodeIP + " lab-node app.nops.io", "resolv.conf": "nameserver " + NodeIP,
		"containerd.toml": `sandbox_image = "pause:1"`, "certs.d/public.ecr.aws/hosts.toml": "http://127.0.0.1:5001",
	} {
		if got := read("config", file); !strings.Contains(got, want) {
			t.Errorf("%s does not hold %q:\n%s", file, want, got)
		}
	}
	if strings.Contains(read("config", "Corefile"), "forward") {
		t.Error("the lab's DNS asks somebody outside")
	}
	if strings.Contains(read("config", "cni", "10-lab.conflist"), `"ipMasq": true`) {
		t.Error("pods are let out")
	}
}

func TestFindWhatIsNotThere(t *testing.T) {
	l, err := NewLayout(t.TempDir(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Find(l); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no state: %v", err)
	}
	// A PID that somebody else has by now is not the lab.
	text, err := json.Marshal(record{PID: os.Getpid(), Started: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(l.recordFile(), string(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(l); !errors.Is(err, ErrNotRunning) {
		t.Errorf("another process: %v", err)
	}
	if err := writeFile(l.recordFile(), "{", 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(l); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("a damaged record: %v", err)
	}
	if os.Geteuid() == 0 {
		if err := Remove(context.Background(), l); err != nil {
			t.Errorf("remove: %v", err)
		}
		if _, err := os.Stat(l.State); !os.IsNotExist(err) {
			t.Errorf("state is left: %v", err)
		}
	}
}

func TestStartTime(t *testing.T) {
	if at, err := startTime(os.Getpid()); err != nil || at == 0 {
		t.Errorf("own: %d, %v", at, err)
	}
	if _, err := startTime(1 << 30); err == nil {
		t.Error("no such process")
	}
}
