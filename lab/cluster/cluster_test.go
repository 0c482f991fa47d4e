package cluster

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
	read := func(file string) *x509.Certificate {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, file+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
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
		if _, err := read(tt.file).Verify(x509.VerifyOptions{DNSName: tt.host, Roots: pool, KeyUsages: []x509.ExtKeyUsage{tt.usage}}); err != nil {
			t.Errorf("%s for %q: %v", tt.file, tt.host, err)
		}
	}
	// The front proxy speaks for any user: only its own authority vouches for it, and for nobody else.
	front := x509.NewCertPool()
	front.AddCert(read("front-proxy-ca"))
	for _, tt := range []struct {
		file string
		pool *x509.CertPool
		ok   bool
	}{{"front-proxy-client", front, true}, {"front-proxy-client", pool, false}, {"admin", front, false}} {
		if _, err := read(tt.file).Verify(x509.VerifyOptions{Roots: tt.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); (err == nil) != tt.ok {
			t.Errorf("%s, by the front proxy's authority %v: %v", tt.file, tt.pool == front, err)
		}
	}
	serials := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", e.Name(), info.Mode())
		}
		if name, ok := strings.CutSuffix(e.Name(), ".crt"); ok {
			serial := read(name).SerialNumber.String()
			if other := serials[serial]; other != "" {
				t.Errorf("%s and %s have the serial number %s", name, other, serial)
			}
			serials[serial] = name
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

func TestKeep(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		dirs, want   []string
		refused      bool
	}{
		{"in view", "what nothing covers needs no help", []string{"/srv/cache", "/opt/lab", "", "/variable/lib/x", "/var/library"}, nil, false},
		{"covered", "each top that is covered", []string{"/var/lib/labs", "/run/labs/x", "/var/log/x"}, []string{"/var/lib/labs", "/run/labs/x", "/var/log/x"}, false},
		{"nested", "a mount of the outer one brings the inner one along", []string{"/var/lib/a/b", "/var/lib/a", "/var/lib/ab", "/var/lib/a/c"}, []string{"/var/lib/a", "/var/lib/ab"}, false},
		{"twice", "mounting twice would only hide the first", []string{"/run/x", "/run/x", "/run/x/"}, []string{"/run/x"}, false},
		{"the top itself", "it would hide what the lab puts there", []string{"/opt", "/var/lib"}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := keep(tt.dirs)
			if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.refused {
				t.Errorf("%s: %v\n%s", tt.reason, err, diff)
			}
		})
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/var/log", link); err != nil {
		t.Fatal(err)
	}
	if _, err := keep([]string{link}); err == nil || !strings.Contains(err.Error(), link) {
		t.Errorf("a link to what is covered: %v", err)
	}
}

func TestDelay(t *testing.T) {
	var waits []time.Duration
	for wait := time.Duration(0); len(waits) < 8; {
		wait = delay(wait, time.Second)
		waits = append(waits, wait)
	}
	want := "[200ms 400ms 800ms 1.6s 3.2s 6.4s 10s 10s]"
	if got := fmt.Sprint(waits); got != want {
		t.Errorf("a program that ends again and again waits %s, want %s", got, want)
	}
	if got := delay(10*time.Second, 2*time.Minute); got != 200*time.Millisecond {
		t.Errorf("a program that ran well waits %s", got)
	}
}

func TestBindTarget(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	resolved, err := filepath.EvalSymlinks(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, to, want string }{
		{"link", "file", resolved},
		{"dangling", "nowhere", ""},
		{"elsewhere", "/running/nowhere", ""},
	} {
		path := filepath.Join(dir, tt.name)
		if err := os.Symlink(tt.to, path); err != nil {
			t.Fatal(err)
		}
		if got, err := bindTarget(path); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	if got, err := bindTarget(file); got != resolved || err != nil {
		t.Errorf("a file: %q, %v", got, err)
	}
	if _, err := bindTarget(filepath.Join(dir, "missing")); err == nil {
		t.Error("a file that is not there")
	}
}
