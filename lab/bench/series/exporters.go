package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/kube"
)

// fetchPages makes the kubelets' pages, and asks the real exporters once for each way they are run.
func (b *bench) fetchPages(ctx context.Context, f facts) error {
	for i := range clusterNodes {
		node := nodeName(i)
		b.pages[cadvisor+"/"+node] = cadvisorPage(b.families, node, b.cluster.pods)
		b.pages[kubeletResource+"/"+node] = resourcePage(node, b.cluster.pods)
		b.pages[kubelet+"/"+node] = kubeletPage(node, b.cluster.pods)
	}
	b.say("starting an API server")
	api, err := kube.StartServer(ctx, b.assets, b.dir)
	if err != nil {
		return err
	}
	defer api.Stop()
	b.say("creating %d objects", len(b.cluster.objects)+len(b.cluster.quotas))
	for _, objects := range [][]kube.Object{b.cluster.objects, b.cluster.quotas} {
		if err := api.Fill(ctx, objects); err != nil {
			return err
		}
	}
	args := map[string]map[string][]string{ours: b.chart.exporter, theirs: {}, noList: {}}
	for source, s := range f.Sources {
		args[theirs][source] = s.ExporterArgs
	}
	for _, way := range []string{ours, theirs, noList} {
		for _, source := range []string{kubeStateMetrics, nodeExporter} {
			b.say("asking %s as run by %s", source, way)
			ask := b.askNodeExporter
			if source == kubeStateMetrics {
				ask = func(ctx context.Context, args []string) ([]byte, error) {
					return b.askKubeStateMetrics(ctx, args, api.Kubeconfig)
				}
			}
			if b.pages[way+"/"+source], err = ask(ctx, args[way][source]); err != nil {
				return err
			}
		}
	}
	return nil
}

// askKubeStateMetrics returns the page once it knows all pods and has stopped growing.
func (b *bench) askKubeStateMetrics(ctx context.Context, args []string, kubeconfig string) ([]byte, error) {
	address, err := kube.FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	telemetry, err := kube.FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	_, telemetryPort, _ := net.SplitHostPort(telemetry)
	own := []string{"--host=127.0.0.1", "--telemetry-host=127.0.0.1", "--kubeconfig=" + kubeconfig, "--port=" + port, "--telemetry-port=" + telemetryPort}
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		return strings.HasPrefix(a, "--port=") || strings.HasPrefix(a, "--telemetry-port=")
	})
	last := 0
	return b.ask(ctx, "kube-state-metrics", append(args, own...), address, func(page []byte) error {
		known, size := bytes.Count(page, []byte("\nkube_pod_info{")), len(page)
		if known < clusterPods || size != last {
			last = size
			return fmt.Errorf("it knows %d pods and has written %d bytes", known, size)
		}
		return nil
	})
}

// askNodeExporter returns the page about this machine, whose files are where they are instead of below /host.
func (b *bench) askNodeExporter(ctx context.Context, args []string) ([]byte, error) {
	address, err := kube.FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, a := range args {
		flag, value, _ := strings.Cut(a, "=")
		switch {
		case flag == "--web.listen-address":
			continue
		case value == "/host/root":
			value = "/"
		case strings.HasPrefix(value, "/host/root/"):
			value = strings.TrimPrefix(value, "/host/root")
		case strings.HasPrefix(value, "/host/"):
			value = strings.TrimPrefix(value, "/host")
		}
		if value != "" {
			flag += "=" + value
		}
		all = append(all, flag)
	}
	return b.ask(ctx, "node_exporter", append(all, "--web.listen-address="+address), address, func(page []byte) error {
		if !bytes.Contains(page, []byte("\nnode_load1 ")) {
			return errors.New("it says nothing about load")
		}
		return nil
	})
}

// ask starts an exporter and returns its page once that holds what it has to hold.
func (b *bench) ask(ctx context.Context, program string, args []string, address string, complete func(page []byte) error) ([]byte, error) {
	p, err := kube.Start(ctx, os.Environ(), filepath.Join(b.assets, program), args...)
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	client := http.Client{Timeout: time.Minute}
	var text []byte
	err = kube.Until(ctx, program, 3*time.Minute, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
		if err != nil {
			return fmt.Errorf("ask %s: %w", program, err)
		}
		res, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("ask %s: %w", program, err)
		}
		defer res.Body.Close()
		if text, err = io.ReadAll(res.Body); err != nil {
			return fmt.Errorf("ask %s: %w", program, err)
		}
		return complete(text)
	}, p)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, p.Tail(5))
	}
	return text, err
}
