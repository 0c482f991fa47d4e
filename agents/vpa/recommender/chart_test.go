package recommender

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/sources"
)

// rendered is the recommender's pod in a golden render of the chart.
func rendered(t *testing.T, golden string) corev1.PodSpec {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../../embedded-chart/testdata/golden", golden))
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range bytes.Split(data, []byte("\n---\n")) {
		var d appsv1.Deployment
		if yaml.Unmarshal(doc, &d) == nil && d.Kind == "Deployment" && d.Name == "nops-vpa-recommender" {
			return d.Spec.Template.Spec
		}
	}
	t.Fatalf("%s has no recommender", golden)
	return corev1.PodSpec{}
}

// kubelet gives the pod's program its variables, and its mounts below a directory that stands for the root.
type kubelet struct {
	t       *testing.T
	pod     corev1.PodSpec
	root    string
	secrets map[string]map[string]string
	configs map[string]map[string]string
}

// env is what the program finds in its environment. Paths of mounts are where the kubelet put them.
func (k *kubelet) env() agent.Getenv {
	all := map[string]string{}
	for _, e := range k.pod.Containers[0].Env {
		all[e.Name] = e.Value
		for _, m := range k.pod.Containers[0].VolumeMounts {
			if strings.HasPrefix(e.Value, m.MountPath+"/") {
				all[e.Name] = filepath.Join(k.root, e.Value)
			}
		}
		if e.ValueFrom == nil {
			continue
		}
		if ref := e.ValueFrom.SecretKeyRef; ref != nil {
			value, is := k.secrets[ref.Name][ref.Key]
			if !is && ref.Name == "nops-inline-credentials" {
				continue // of the platform, which nobody asks here
			}
			if !is {
				k.t.Fatalf("the container is not started: Secret %s has no key %s", ref.Name, ref.Key)
			}
			all[e.Name] = value
		}
		if ref := e.ValueFrom.FieldRef; ref != nil && ref.FieldPath == "metadata.namespace" {
			all[e.Name] = "nops"
		}
	}
	return func(name string) string { return all[name] }
}

// mount writes the files of Secrets and ConfigMaps as they are now, as the kubelet does again when they change.
func (k *kubelet) mount() {
	for _, m := range k.pod.Containers[0].VolumeMounts {
		for _, v := range k.pod.Volumes {
			if v.Name != m.Name {
				continue
			}
			files := map[string]string{}
			switch {
			case v.ConfigMap != nil:
				files = k.configs[v.ConfigMap.Name]
			case v.Secret != nil:
				for _, item := range v.Secret.Items {
					value, is := k.secrets[v.Secret.SecretName][item.Key]
					if !is {
						k.t.Fatalf("the pod is not started: Secret %s has no key %s", v.Secret.SecretName, item.Key)
					}
					files[item.Path] = value
				}
			}
			for name, content := range files {
				file := filepath.Join(k.root, m.MountPath, name)
				if err := os.MkdirAll(path.Dir(file), 0o700); err != nil {
					k.t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					k.t.Fatal(err)
				}
			}
		}
	}
}

// TestStoreOfTheChart: with what the chart renders the program is let in by a store that demands credentials, and by no other way: usage and history
// both. A token that changes is taken without a restart.
func TestStoreOfTheChart(t *testing.T) {
	basic := func(want string) func(*http.Request) bool {
		return func(r *http.Request) bool {
			user, password, is := r.BasicAuth()
			return is && user+":"+password == want
		}
	}
	bearer := func(want string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+want }
	}
	for _, tc := range []struct {
		golden, address string
		secret          string
		before, after   map[string]string // what the Secret holds
		opens, opensNow func(*http.Request) bool
	}{
		// User and password are read at the start; the certificate is anybody's.
		{"all-server-own-settings.yaml", "https://prometheus.monitoring.svc:9090", "prometheus-reader", map[string]string{"username": "u", "pass": "p:w\n"}, nil, basic("u:p:w"), nil},
		// The certificate is of the bundle.
		{"all-proxy.yaml", "https://metrics.example.com/prometheus", "metrics-reader", map[string]string{"bearer": "first\n"}, map[string]string{"bearer": "second"}, bearer("first"), bearer("second")},
	} {
		t.Run(tc.golden, func(t *testing.T) {
			var demand atomic.Pointer[func(*http.Request) bool]
			demand.Store(&tc.opens)
			refused := 0
			store := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !(*demand.Load())(r) {
					refused++
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				_ = r.ParseForm()
				if strings.HasSuffix(r.URL.Path, "/query_range") || strings.Contains(r.Form.Get("query"), "kube_") {
					_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
					return
				}
				_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"namespace":"shop","pod":"web-0","container":"app"},"value":[%d,"1"]}]}}`, start.Unix())
			}))
			defer store.Close()
			certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: store.Certificate().Raw}))
			k := &kubelet{t: t, pod: rendered(t, tc.golden), root: t.TempDir(), secrets: map[string]map[string]string{tc.secret: tc.before}, configs: map[string]map[string]string{"nops-ca-bundle": {"ca.crt": certificate}}}
			k.mount()
			env := k.env()
			if env(EnvStore) != tc.address {
				t.Fatalf("the store is %q", env(EnvStore))
			}
			var o Options
			fs := pflag.NewFlagSet("recommender", pflag.ContinueOnError)
			o.BindFlags(fs, func(name string) string {
				if name == EnvStore {
					return store.URL
				}
				return env(name)
			})
			if err := o.Validate(); err != nil {
				t.Fatal(err)
			}
			bundle, err := o.CABundle()
			if err != nil {
				t.Fatal(err)
			}
			r, err := New(o, Deps{Kube: &rest.Config{Host: "http://127.0.0.1:1"}, CABundle: bundle})
			if err != nil {
				t.Fatal(err)
			}
			r.opts.Source = SourceStore // of the one case usage comes from the kubelets, and history alone from the store
			source, err := (&leader{Recommender: r}).usage(nil)
			if err != nil {
				t.Fatal(err)
			}
			ask := func() error {
				got, err := (&sources.Client{Source: source}).GetContainersMetrics(t.Context())
				if err == nil && len(got) != 1 {
					err = fmt.Errorf("%d containers", len(got))
				}
				return err
			}
			if err := ask(); err != nil {
				t.Error(err)
			}
			history, err := r.history()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := history.Usage(t.Context(), "shop", start.Add(-o.History), start); err != nil {
				t.Error(err)
			}
			if refused != 0 {
				t.Errorf("%d questions were refused", refused)
			}
			if tc.after == nil {
				return
			}
			demand.Store(&tc.opensNow)
			if ask() == nil {
				t.Error("a token that the store takes no more lets it in")
			}
			k.secrets[tc.secret] = tc.after
			k.mount()
			if err := ask(); err != nil {
				t.Errorf("the new token: %v", err)
			}
		})
	}
}
