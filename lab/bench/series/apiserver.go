package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process of ours, told to end with its context and waited for by stop.
type process struct {
	name string
	cmd  *exec.Cmd
	log  journal
	stop func()
	done chan struct{}
}

// A journal is what a program says, readable while it goes on.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// tail is the end of it.
func (j *journal) tail(lines int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := strings.Split(strings.TrimSpace(j.text.String()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// start runs a program until stop. What it says is kept for the error that follows from it.
func start(ctx context.Context, env []string, path string, args ...string) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{name: filepath.Base(path), cmd: exec.CommandContext(ctx, path, args...), done: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing stays when this program is killed
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 15 * time.Second
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	p.stop = func() { cancel(); <-p.done }
	return p, nil
}

// ended is the end of a program that should have gone on.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself: %v\n%s", p.name, p.cmd.ProcessState, p.log.tail(15))
	default:
		return nil
	}
}

// freeAddress is one that nobody listens on now.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// until repeats a check until it holds, a process ends or the time is over.
func until(ctx context.Context, what string, patience time.Duration, check func() error, processes ...*process) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		for _, p := range processes {
			if dead := p.ended(); dead != nil {
				return fmt.Errorf("wait for %s: %w", what, dead)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %w)", what, ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// An apiServer is a real one with its etcd, on this machine and for this program alone.
type apiServer struct {
	url, token string
	client     *http.Client
	kubeconfig string
	stop       func()
}

func startAPIServer(ctx context.Context, assets, dir string) (_ *apiServer, err error) {
	var stops []func()
	s := &apiServer{token: "token-of-the-benchmark", client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 32}}} // its certificate is made at its start, for 127.0.0.1
	s.stop = func() {
		s.client.CloseIdleConnections()
		for i := len(stops) - 1; i >= 0; i-- {
			stops[i]()
		}
	}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	var addresses [3]string
	for i := range addresses {
		if addresses[i], err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	etcd, err := start(ctx, os.Environ(), filepath.Join(assets, "etcd"), "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls=http://"+addresses[0], "--advertise-client-urls=http://"+addresses[0], "--listen-peer-urls=http://"+addresses[1], "--initial-advertise-peer-urls=http://"+addresses[1], "--initial-cluster=default=http://"+addresses[1])
	if err != nil {
		return nil, err
	}
	stops = append(stops, etcd.stop)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	s.url, s.kubeconfig = "https://"+addresses[2], filepath.Join(dir, "kubeconfig")
	host, port, _ := net.SplitHostPort(addresses[2])
	for name, text := range map[string]string{
		"service-account.key": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})),
		"tokens.csv":          s.token + ",benchmark,benchmark,system:masters\n",
		"kubeconfig": `{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
			"clusters": [{"name": "c", "cluster": {"server": "` + s.url + `", "insecure-skip-tls-verify": true}}], "users": [{"name": "u", "user": {"token": "` + s.token + `"}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write for the API server: %w", err)
		}
	}
	api, err := start(ctx, os.Environ(), filepath.Join(assets, "kube-apiserver"), "--etcd-servers=http://"+addresses[0], "--bind-address="+host, "--advertise-address="+host, "--secure-port="+port, "--endpoint-reconciler-type=none",
		"--cert-dir="+filepath.Join(dir, "certificates"), "--service-cluster-ip-range=10.100.0.0/16", "--service-account-issuer=https://benchmark.invalid", "--service-account-key-file="+filepath.Join(dir, "service-account.key"),
		"--service-account-signing-key-file="+filepath.Join(dir, "service-account.key"), "--token-auth-file="+filepath.Join(dir, "tokens.csv"), "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
	if err != nil {
		return nil, err
	}
	stops = append(stops, api.stop)
	return s, until(ctx, "the API server", 2*time.Minute, func() error { return s.do(ctx, http.MethodGet, "/readyz", "", nil, nil) }, etcd, api)
}

// do asks the API server.
func (s *apiServer) do(ctx context.Context, method, path, contentType string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", contentType)
	res, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	}
	if answer != nil {
		if err := json.Unmarshal(text, answer); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	return nil
}

// fill creates objects, each with its status. Namespaces come first, the order of the rest is of no consequence.
func (s *apiServer) fill(ctx context.Context, objects []object) error {
	var first, rest []object
	for _, o := range objects {
		if o.collection == "/api/v1/namespaces" {
			first = append(first, o)
		} else {
			rest = append(rest, o)
		}
	}
	for _, some := range [][]object{first, rest} {
		work, failures := make(chan object), make(chan error, 8)
		var workers sync.WaitGroup
		for range cap(failures) {
			workers.Go(func() {
				var failure error
				for o := range work {
					if failure == nil {
						failure = s.create(ctx, o)
					}
				}
				failures <- failure
			})
		}
		for _, o := range some {
			work <- o
		}
		close(work)
		workers.Wait()
		close(failures)
		var all []error
		for err := range failures {
			all = append(all, err)
		}
		if err := errors.Join(all...); err != nil {
			return err
		}
	}
	return nil
}

func (s *apiServer) create(ctx context.Context, o object) error {
	body, err := json.Marshal(o.body)
	if err != nil {
		return fmt.Errorf("encode for %s: %w", o.collection, err)
	}
	var created struct{ Metadata struct{ Name string } }
	if err := s.do(ctx, http.MethodPost, o.collection, "application/json", body, &created); err != nil {
		return err
	}
	var parts struct{ Status json.RawMessage }
	if err := json.Unmarshal(body, &parts); err != nil {
		return fmt.Errorf("encode for %s: %w", o.collection, err)
	}
	if status := string(parts.Status); status == "" || status == "{}" || strings.HasSuffix(o.collection, "/services") || strings.HasSuffix(o.collection, "/ingresses") {
		return nil
	}
	return s.do(ctx, http.MethodPatch, o.collection+"/"+created.Metadata.Name+"/status", "application/merge-patch+json", []byte(`{"status":`+string(parts.Status)+`}`), nil)
}
