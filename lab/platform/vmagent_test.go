package platform_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/lab/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// agent is a real vmagent that scrapes a counter every second and writes it through the proxy to the real name.
type agent struct {
	cmd     *exec.Cmd
	scrapes *atomic.Int64 // how often it came
	metrics string        // its own metrics
}

// startAgent starts vmagent as the chart does: keys in the environment, SigV4, snappy, one queue on disk.
func startAgent(t *testing.T, r running, workspace, keyID, secret, job string) agent {
	t.Helper()
	program := os.Getenv("NOPSCTL_VMAGENT")
	if program == "" {
		t.Skip("NOPSCTL_VMAGENT names no vmagent: only the real one shows that its signatures are understood (make test-unit sets it)")
	}
	a := agent{scrapes: &atomic.Int64{}}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "lab_scrapes_total %d\n", a.scrapes.Add(1))
	}))
	t.Cleanup(target.Close)
	dir := t.TempDir()
	bundle, err := platform.Bundle(r.options, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, external_labels: {cluster: %q}}\nscrape_configs: [{job_name: %q, static_configs: [{targets: [%q]}]}]\n", arn, job, strings.TrimPrefix(target.URL, "http://"))
	for name, text := range map[string]string{"bundle.pem": string(bundle), "scrape.yaml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := httptest.NewServer(http.NotFoundHandler())
	address := strings.TrimPrefix(port.URL, "http://")
	port.Close()
	a.metrics = "http://" + address + "/metrics"
	a.cmd = exec.Command(program,
		"-httpListenAddr="+address, "-promscrape.config="+filepath.Join(dir, "scrape.yaml"), "-remoteWrite.tmpDataPath="+filepath.Join(dir, "queue"),
		"-remoteWrite.url=https://aps-workspaces.us-east-1.amazonaws.com/workspaces/"+workspace+"/api/v1/remote_write", "-remoteWrite.proxyURL=http://"+r.Addresses.Proxy,
		"-remoteWrite.tlsCAFile="+filepath.Join(dir, "bundle.pem"), "-remoteWrite.aws.useSigv4", "-remoteWrite.aws.region=us-east-1", "-remoteWrite.aws.service=aps",
		"-remoteWrite.forcePromProto", "-remoteWrite.queues=1", "-remoteWrite.retryMaxInterval=2s", "-remoteWrite.flushInterval=500ms",
	)
	a.cmd.Env = []string{"AWS_ACCESS_KEY_ID=" + keyID, "AWS_SECRET_ACCESS_KEY=" + secret}
	log, err := os.Create(filepath.Join(dir, "vmagent.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	a.cmd.Stdout, a.cmd.Stderr = log, log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { _ = a.cmd.Process.Kill() })
		_ = a.cmd.Wait()
		timer.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", job, text)
		}
	})
	return a
}

// eventually repeats a check until it holds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute: %v", what, err)
		}
	}
}

// ask runs an instant query at the open address and returns the values of the first series.
func (r running) ask(t *testing.T, query string) ([]string, error) {
	t.Helper()
	res, err := http.Get("http://" + r.Addresses.Metrics + "/api/v1/query?" + url.Values{"query": {query}}.Encode())
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %w", res.Status, text, err)
	}
	var answer struct {
		Data struct {
			Result []struct {
				Value  [2]any
				Values [][2]any
			}
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	var values []string
	for _, series := range answer.Data.Result {
		for _, v := range append(series.Values, series.Value) {
			if s, ok := v[1].(string); ok {
				values = append(values, s)
			}
		}
		break
	}
	return values, nil
}

// TestMetricsEndToEnd: the real agent's samples arrive, whatever happens in between, and only where they may.
func TestMetricsEndToEnd(t *testing.T) {
	r := run(t, platform.Options{})
	seed, err := platform.LoadSeed(r.options.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	mine, other := seed.Customers[0], seed.Customers[1]
	good := startAgent(t, r, mine.WorkspaceID, mine.AccessKeyID, mine.SecretAccessKey, "good")
	startAgent(t, r, mine.WorkspaceID, mine.AccessKeyID, "a-wrong-secret", "wrong-secret")
	startAgent(t, r, mine.WorkspaceID, other.AccessKeyID, other.SecretAccessKey, "others-keys")

	eventually(t, "the first sample", func() error {
		values, err := r.ask(t, `lab_scrapes_total{job="good", cluster="`+arn+`"}`)
		if err == nil && len(values) == 0 {
			err = errors.New("no sample")
		}
		return err
	})
	eventually(t, "both strangers are refused", func() error {
		info, err := r.control.Info(t.Context())
		if err != nil {
			return err
		}
		rejected := info.Gate[mine.WorkspaceID].Rejected
		if rejected["wrong_signature"] == 0 || rejected["other_workspace"] == 0 {
			return fmt.Errorf("rejected: %v", rejected)
		}
		return nil
	})

	// The platform sees the samples as well.
	client, err := nopsclient.New(nopsclient.Options{Key: r.APIKey, Transport: r.transport(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.RegisterCluster(t.Context(), arn); err != nil {
		t.Fatal(err)
	}
	view := func() nopsapi.ConnectivityView {
		v, err := client.Connectivity(t.Context(), arn)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := view(); v.LastSample == nil || v.LastSample.Series < 2 || time.Since(v.LastSample.At) > 30*time.Second {
		t.Errorf("the platform's view of the samples: %+v %s; want several series, seen just now", v.LastSample, v.SampleError)
	}

	// An outage: the stores are gone, then they throttle, then they are back. Nothing is lost.
	r.fault(t, platform.FaultMetrics, "down")
	if v := view(); v.SampleError == "" {
		t.Error("the stores are down, and the platform does not say that it cannot ask them")
	}
	wait := func(n int64) {
		until := good.scrapes.Load() + n
		eventually(t, "more scrapes", func() error {
			if good.scrapes.Load() < until {
				return errors.New("not yet")
			}
			return nil
		})
	}
	wait(4)
	r.fault(t, platform.FaultMetrics, "429")
	wait(3)
	r.fault(t, platform.FaultMetrics, "up")
	last := good.scrapes.Load() + 2
	eventually(t, "every scrape is in the store", func() error {
		values, err := r.ask(t, `lab_scrapes_total{job="good"}[10m]`)
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, v := range values {
			seen[v] = true
		}
		for i := int64(1); i <= last; i++ {
			if !seen[strconv.FormatInt(i, 10)] {
				return fmt.Errorf("scrape %d of %d is missing", i, last)
			}
		}
		return nil
	})

	// Strangers left nothing, in either workspace.
	if values, err := r.ask(t, `lab_scrapes_total{job!="good"}`); err != nil || len(values) != 0 {
		t.Errorf("samples of strangers: %v %v", values, err)
	}
	info, err := r.control.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := info.Gate[other.WorkspaceID]; c.Samples != 0 {
		t.Errorf("%d samples in the other customer's workspace", c.Samples)
	}
	if c := info.Gate[mine.WorkspaceID]; c.Rejected["injected"] == 0 || c.Samples < uint64(last) || c.Rejected["not_snappy"] != 0 {
		t.Errorf("counts %+v: want throttled writes, at least %d samples, and none that was not snappy", c, last)
	}
}
