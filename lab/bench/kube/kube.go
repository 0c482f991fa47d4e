// Package kube is a real API server for one measurement, and the programs that run beside it.
package kube

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

// A Process of ours, told to end with its context and waited for by Stop.
type Process struct {
	Stop func()

	name string
	cmd  *exec.Cmd
	log  journal
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

// patience is how long a program may take to end when it is told to.
const patience = 15 * time.Second

// Start runs a program until Stop. What it says is kept for the error that follows from it.
func Start(ctx context.Context, env []string, path string, args ...string) (*Process, error) {
	return Launch(ctx, filepath.Base(path), patience, func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env = env
		return cmd
	})
}

// Launch is Start for a command that is more than a path, and that may take its time to end.
func Launch(ctx context.Context, name string, patience time.Duration, command func(context.Context) *exec.Cmd) (*Process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &Process{name: name, cmd: command(ctx), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if p.cmd.SysProcAttr == nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // nothing stays when this program is killed
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = patience
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	p.Stop = func() { cancel(); <-p.done }
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Tail is the end of what the program said.
func (p *Process) Tail(lines int) string { return p.log.tail(lines) }

// Ended is the end of a program that should have gone on.
func (p *Process) Ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself: %v\n%s", p.name, p.cmd.ProcessState, p.log.tail(15))
	default:
		return nil
	}
}

// FreeAddress is one that nobody listens on now.
func FreeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Until repeats a check until it holds, a process ends or the time is over.
func Until(ctx context.Context, what string, patience time.Duration, check func() error, processes ...*Process) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		for _, p := range processes {
			if dead := p.Ended(); dead != nil {
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

// A Server is a real API server with its etcd, on this machine and for this program alone.
type Server struct {
	URL, Token string
	Kubeconfig string // a file
	Stop       func()
	// Client trusts the server.
	Client *http.Client

	processes []*Process
}

// PID is the API server's.
func (s *Server) PID() int { return s.processes[len(s.processes)-1].PID() }

// StartServer starts one from programs in assets that keeps what it has in dir. Arguments come after the usual ones.
func StartServer(ctx context.Context, assets, dir string, arguments ...string) (_ *Server, err error) {
	var stops []func()
	s := &Server{Token: "token-of-the-benchmark", Client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 32}}} // its certificate is made at its start, for 127.0.0.1
	s.Stop = func() {
		s.Client.CloseIdleConnections()
		for i := len(stops) - 1; i >= 0; i-- {
			stops[i]()
		}
	}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	var addresses [3]string
	for i := range addresses {
		if addresses[i], err = FreeAddress(ctx); err != nil {
			return nil, err
		}
	}
	etcd, err := Start(ctx, os.Environ(), filepath.Join(assets, "etcd"), "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls=http://"+addresses[0], "--advertise-client-urls=http://"+addresses[0], "--listen-peer-urls=http://"+addresses[1], "--initial-advertise-peer-urls=http://"+addresses[1], "--initial-cluster=default=http://"+addresses[1])
	if err != nil {
		return nil, err
	}
	stops = append(stops, etcd.Stop)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	s.URL, s.Kubeconfig = "https://"+addresses[2], filepath.Join(dir, "kubeconfig")
	host, port, _ := net.SplitHostPort(addresses[2])
	for name, text := range map[string]string{
		"service-account.key": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})),
		"tokens.csv":          s.Token + ",benchmark,benchmark,system:masters\n",
		"kubeconfig": `{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
			"clusters": [{"name": "c", "cluster": {"server": "` + s.URL + `", "insecure-skip-tls-verify": true}}], "users": [{"name": "u", "user": {"token": "` + s.Token + `"}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write for the API server: %w", err)
		}
	}
	api, err := Start(ctx, os.Environ(), filepath.Join(assets, "kube-apiserver"), append([]string{"--etcd-servers=http://" + addresses[0], "--bind-address=" + host, "--advertise-address=" + host, "--secure-port=" + port, "--endpoint-reconciler-type=none",
		"--cert-dir=" + filepath.Join(dir, "certificates"), "--service-cluster-ip-range=10.100.0.0/16", "--service-account-issuer=https://benchmark.invalid", "--service-account-key-file=" + filepath.Join(dir, "service-account.key"),
		"--service-account-signing-key-file=" + filepath.Join(dir, "service-account.key"), "--token-auth-file=" + filepath.Join(dir, "tokens.csv"), "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition"}, arguments...)...)
	if err != nil {
		return nil, err
	}
	stops = append(stops, api.Stop)
	s.processes = []*Process{etcd, api}
	return s, Until(ctx, "the API server", 2*time.Minute, func() error { return s.Do(ctx, http.MethodGet, "/readyz", "", nil, nil) }, etcd, api)
}

// Do asks the API server.
func (s *Server) Do(ctx context.Context, method, path, contentType string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Token)
	req.Header.Set("Content-Type", contentType)
	res, err := s.Client.Do(req)
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

// Ended is the end of one of the server's programs.
func (s *Server) Ended() error {
	for _, p := range s.processes {
		if err := p.Ended(); err != nil {
			return err
		}
	}
	return nil
}

// An Object is made in a collection, such as /api/v1/nodes, with the status that it has.
type Object struct {
	Collection string
	Body       any
}

// Fill creates objects, each with its status. Namespaces come first, the order of the rest is of no consequence.
func (s *Server) Fill(ctx context.Context, objects []Object) error {
	return s.fill(ctx, objects, s.createWithStatus)
}

// FillWhole is Fill for kinds whose status is not written apart.
func (s *Server) FillWhole(ctx context.Context, objects []Object) error {
	return s.fill(ctx, objects, func(ctx context.Context, o Object) error {
		_, _, err := s.create(ctx, o)
		return err
	})
}

func (s *Server) fill(ctx context.Context, objects []Object, create func(context.Context, Object) error) error {
	var first, rest []Object
	for _, o := range objects {
		if o.Collection == "/api/v1/namespaces" {
			first = append(first, o)
		} else {
			rest = append(rest, o)
		}
	}
	for _, some := range [][]Object{first, rest} {
		if err := Each(len(some), func(i int) error { return create(ctx, some[i]) }); err != nil {
			return err
		}
	}
	return nil
}

// atOnce is how many requests are made at a time.
const atOnce = 8

// Each does something for each of so many, several at once. A failure ends it soon.
func Each(n int, do func(i int) error) error {
	work, failures := make(chan int), make(chan error, atOnce)
	var workers sync.WaitGroup
	for range cap(failures) {
		workers.Go(func() {
			var failure error
			for i := range work {
				if failure == nil {
					failure = do(i)
				}
			}
			failures <- failure
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	workers.Wait()
	close(failures)
	var all []error
	for err := range failures {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// create makes an object, and returns its name and what it was made of.
func (s *Server) create(ctx context.Context, o Object) (name string, body []byte, err error) {
	if body, err = json.Marshal(o.Body); err != nil {
		return "", nil, fmt.Errorf("encode for %s: %w", o.Collection, err)
	}
	var created struct{ Metadata struct{ Name string } }
	err = s.Do(ctx, http.MethodPost, o.Collection, "application/json", body, &created)
	return created.Metadata.Name, body, err
}

func (s *Server) createWithStatus(ctx context.Context, o Object) error {
	name, body, err := s.create(ctx, o)
	if err != nil {
		return err
	}
	var parts struct{ Status json.RawMessage }
	if err := json.Unmarshal(body, &parts); err != nil {
		return fmt.Errorf("encode for %s: %w", o.Collection, err)
	}
	if status := string(parts.Status); status == "" || status == "{}" || strings.HasSuffix(o.Collection, "/services") || strings.HasSuffix(o.Collection, "/ingresses") {
		return nil
	}
	return s.Do(ctx, http.MethodPatch, o.Collection+"/"+name+"/status", "application/merge-patch+json", []byte(`{"status":`+string(parts.Status)+`}`), nil)
}
