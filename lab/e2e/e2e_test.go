package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nopsctl/nopsctl/lab/karpenter"
)

// labStatus is what `lab status -o json` says.
type labStatus struct {
	PID         int    `json:"pid"`
	Kubeconfig  string `json:"kubeconfig"`
	PlatformURL string `json:"platform_url"`
	APIKey      string `json:"api_key"`
	MetricsURL  string `json:"metrics_url"`
	Registry    string `json:"registry"`
	ClusterARN  string `json:"cluster_arn"`
	Policy      string `json:"policy"`
	AWSKeys     string `json:"aws_credentials"`
	AWSSecret   string `json:"aws_secret_access_key"`
	Faults      map[string]string
}

// world is the lab that all stories of a run share.
type world struct {
	bin    string // the repository's bin directory
	name   string
	status labStatus
	// timeline is of the Karpenter that the story has turned on.
	timeline *karpenter.Timeline
	// remembered are pods, by the name that a story gives them.
	remembered map[string][]storyPod
}

func TestStories(t *testing.T)   { run(t, "stories", 19) }
func TestScenarios(t *testing.T) { run(t, "scenarios", 2) }

// run plays every story of a directory, one after another: they share one cluster.
func run(t *testing.T, dir string, atLeast int) {
	files := stories(t, dir, atLeast)
	w, err := start("e2e")
	t.Cleanup(w.down(t))
	if err != nil {
		t.Fatal(err)
	}
	w.play(t, files)
}

// stories are the files of a directory's.
func stories(t *testing.T, dir string, atLeast int) []string {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("the stories need root on Linux: they run a real Kubernetes in namespaces of their own")
	}
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < atLeast {
		t.Fatalf("found %d stories in testdata/%s, expected at least %d", len(files), dir, atLeast)
	}
	return files
}

// play plays stories one after another.
func (w *world) play(t *testing.T, files []string) {
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			began := time.Now()
			// Not deferred: testscript's own tests begin once this one has returned.
			t.Cleanup(func() { t.Logf("%s took %s", filepath.Base(file), time.Since(began).Round(time.Second)) })
			w.clean(t)
			testscript.RunT(told{t}, testscript.Params{
				Files:               []string{file},
				Cmds:                w.commands(),
				Setup:               w.setup,
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
			})
		})
	}
	t.Logf("%d stories in lab %s", len(files), w.name)
}

// theirs is the lab that is up already and stays up, where one is named.
func theirs() string { return os.Getenv("NOPSCTL_LAB") }

// start brings a lab with all components up, or uses the one that NOPSCTL_LAB names. What it returns can be taken down in any case.
func start(name string) (*world, error) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		return &world{}, err
	}
	w := &world{bin: bin, name: name}
	for _, name := range []string{"lab", "nopsctl"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return w, fmt.Errorf("%w: run make build", err)
		}
	}
	if theirs() != "" {
		w.name = theirs()
	} else {
		if out, err := w.lab("down", "--name", w.name).CombinedOutput(); err != nil {
			return w, fmt.Errorf("lab down: %w\n%s", err, out)
		}
		up := w.lab("up", "--name", w.name, "--components", "all")
		up.Stdout, up.Stderr = os.Stdout, os.Stderr
		if err := up.Run(); err != nil {
			return w, fmt.Errorf("lab up: %w", err)
		}
	}
	out, err := w.lab("status", "--name", w.name, "-o", "json").Output()
	if err != nil {
		return w, fmt.Errorf("lab status: %w", err)
	}
	if err := json.Unmarshal(out, &w.status); err != nil {
		return w, fmt.Errorf("lab status -o json: %w\n%s", err, out)
	}
	return w, nil
}

// down removes what start brought up.
func (w *world) down(t *testing.T) func() {
	return func() {
		if theirs() != "" || w.name == "" {
			return
		}
		if out, err := w.lab("down", "--name", w.name).CombinedOutput(); err != nil {
			t.Errorf("lab down: %v\n%s", err, out)
		}
	}
}

func (w *world) lab(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(w.bin, "lab"), args...)
}

// inside is a command in the lab's namespaces.
func (w *world) inside(args ...string) *exec.Cmd {
	return w.lab(append([]string{"exec", "--name", w.name, "--"}, args...)...)
}

// clean gives each story an empty cluster: whatever the one before left is removed with plain tools.
func (w *world) clean(t *testing.T) {
	t.Helper()
	if len(w.status.Faults) < 5 {
		t.Fatalf("the lab knows the faults %v: it is older than these stories", w.status.Faults)
	}
	for fault := range w.status.Faults {
		if out, err := w.lab("fault", "--name", w.name, fault, "up").CombinedOutput(); err != nil {
			t.Fatalf("lab fault %s up: %v\n%s", fault, err, out)
		}
	}
	w.forgetTimeline()
	if out, err := w.lab("karpenter", "off", "--name", w.name).CombinedOutput(); err != nil {
		t.Fatalf("lab karpenter off: %v\n%s", err, out)
	}
	if out, err := w.lab("upstream-vpa", "off", "--name", w.name).CombinedOutput(); err != nil {
		t.Fatalf("lab upstream-vpa off: %v\n%s", err, out)
	}
	script := `
set -e
kubectl delete namespaces -l lab.nopsctl.local/story --wait --timeout=90s >/dev/null
if helm status nops-kubernetes-agent -n nops >/dev/null 2>&1; then helm uninstall nops-kubernetes-agent -n nops --wait >/dev/null || true; fi
kubectl delete deployments -n default --all >/dev/null
kubectl delete namespace nops --ignore-not-found --wait --timeout=90s >/dev/null
kubectl get clusterroles,clusterrolebindings,mutatingwebhookconfigurations,customresourcedefinitions -o name | grep -E '/nops-|\.nops\.io$|/servicemonitors\.' | xargs -r kubectl delete --ignore-not-found >/dev/null`
	if out, err := w.inside("bash", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("cleaning the cluster: %v\n%s", err, out)
	}
}

func (w *world) setup(env *testscript.Env) error {
	// A story has a home of its own; the lab's state and cache stay where they are.
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find the cache: %w", err)
	}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		state = filepath.Join(os.Getenv("HOME"), ".local", "state")
	}
	home := filepath.Join(env.WorkDir, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	repo := filepath.Dir(w.bin)
	for name, value := range map[string]string{
		"BEGAN":          strconv.FormatInt(time.Now().Unix(), 10),
		"KEY":            w.status.APIKey, // for what is planted; nothing else takes a key from a command line
		"KEYINJSON":      base64.StdEncoding.EncodeToString([]byte(`{"key":"` + w.status.APIKey + `"}`)),
		"KEYFILE":        filepath.Join(env.WorkDir, "key"),
		"BADSECRET":      filepath.Join(env.WorkDir, "badsecret"),
		"BADKEY":         filepath.Join(env.WorkDir, "badkey"),
		"LAB":            w.name,
		"ARN":            w.status.ClusterARN,
		"POLICY":         w.status.Policy,
		"AWSKEYS":        w.status.AWSKeys,
		"REPO":           repo,
		"CHART":          filepath.Join(repo, "embedded-chart", "chart"),
		"CHARTS":         filepath.Join(repo, "lab", "e2e", "testdata", "charts"),
		"HOME":           home,
		"XDG_STATE_HOME": state,
		"XDG_CACHE_HOME": cache,
		"NO_COLOR":       "1",
		// Short intervals: a story should not wait for a minute's scrape.
		"FAST": "victoriaMetrics.scrapeInterval=5s",
		// Its vendor alone can build the image of the DCGM exporter: the lab has none, and what is not there cannot be verified.
		"NOGPU": "dcgmExporter.enabled=false",
	} {
		env.Setenv(name, value)
	}
	if err := os.WriteFile(filepath.Join(env.WorkDir, "key"), []byte(w.status.APIKey+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(env.WorkDir, "badsecret"), []byte("not-the-secret-of-this-workspace\n"), 0o600); err != nil {
		return err
	}
	bad := fmt.Sprintf("4242.%032x\n", 0xbad)
	return os.WriteFile(filepath.Join(env.WorkDir, "badkey"), []byte(bad), 0o600)
}
