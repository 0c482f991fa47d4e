package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nopsctl/nopsctl/lab/ca"
)

// Subcommand is the hidden first argument under which the caller's binary calls Main.
const Subcommand = "__platform"

// Listen holds the addresses to listen on. Port 0 is any free one; Info tells which.
type Listen struct {
	TLS           string `json:"tls"`
	API           string `json:"api"`
	Metrics       string `json:"metrics"`
	Registry      string `json:"registry"`
	RegistryNodes string `json:"registry_nodes"`
	Proxy         string `json:"proxy"`
}

// Inside are the addresses in a network namespace of the lab's own, where every port is free: TLS on this IP address, the
// rest on loopback.
func Inside(ip string) Listen {
	return Listen{
		TLS: net.JoinHostPort(ip, "443"), API: "127.0.0.1:8480", Metrics: "127.0.0.1:8428",
		Registry: "127.0.0.1:5000", RegistryNodes: "127.0.0.1:5001", Proxy: "127.0.0.1:3128",
	}
}

// Local are free ports of the loopback address.
func Local() Listen {
	const free = "127.0.0.1:0"
	return Listen{TLS: free, API: free, Metrics: free, Registry: free, RegistryNodes: free, Proxy: free}
}

// Options say what to run and where.
type Options struct {
	StateDir string `json:"state_dir"` // of this lab; short enough for a socket's path
	CacheDir string `json:"cache_dir"` // of all labs
	Bin      string `json:"bin"`       // directory that holds victoria-metrics
	Listen   Listen `json:"listen"`
	// Region is that of the metrics workspaces; empty: us-east-1.
	Region string `json:"region,omitempty"`
	// HeartbeatSeconds is the interval that the platform asks for; 0: the shortest that the contract allows.
	HeartbeatSeconds int `json:"heartbeat_seconds,omitempty"`
	// ChartVersion is the one that install-config names; empty: none, so the caller's own.
	ChartVersion string `json:"chart_version,omitempty"`
	// SampleAge is the age from which samples are refused; 0: one hour.
	SampleAge time.Duration `json:"sample_age,omitempty"`
	// SampleRate bounds samples per second and workspace; 0: no bound.
	SampleRate float64 `json:"sample_rate,omitempty"`
	// Executable is the program whose Subcommand is Main; empty: this one.
	Executable string `json:"executable,omitempty"`

	// OnReady is told when everything answers. Optional.
	OnReady func(Info) `json:"-"`
}

func (o Options) withDefaults() (Options, error) {
	if o.StateDir == "" || o.CacheDir == "" || o.Bin == "" {
		return o, errors.New("platform options: StateDir, CacheDir and Bin are required")
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.Executable == "" {
		var err error
		if o.Executable, err = os.Executable(); err != nil {
			return o, fmt.Errorf("platform options: find this program: %w", err)
		}
	}
	return o, nil
}

// path is a path below the state directory.
func (o Options) path(name string) string { return filepath.Join(o.StateDir, name) }

// Write saves the options for `__platform serve FILE` and returns the file.
func (o Options) Write() (string, error) {
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return "", fmt.Errorf("write the platform's options: %w", err)
	}
	path := o.path("options.json")
	return path, writeJSON(path, o)
}

func readOptions(path string) (Options, error) {
	var o Options
	return o, readJSON(path, &o)
}

// Hosts are the names that the lab serves.
func Hosts(region string) []string {
	if region == "" {
		region = "us-east-1"
	}
	return []string{apiHost, metricsHost(region), registryHost, signerHost(region)}
}

const (
	apiHost      = "app.nops.io"
	registryHost = "public.ecr.aws"
	// account stands in ARNs of messages; a documentation value of AWS.
	account = "123456789012"
)

// signerHost is where the SDK asks AWS Signer about revocations.
func signerHost(region string) string { return "data-signer." + region + ".amazonaws.com" }

func metricsHost(region string) string { return "aps-workspaces." + region + ".amazonaws.com" }

// Authority opens the machine's lab CA.
func Authority(o Options, now time.Time) (*ca.Authority, error) {
	return ca.Open(filepath.Join(o.CacheDir, "ca"), now) //nolint:wrapcheck // says what it opens
}

// Bundle returns the certificates that a lab's programs and images trust: the system's and the lab CA's.
func Bundle(o Options, now time.Time) ([]byte, error) {
	a, err := Authority(o, now)
	if err != nil {
		return nil, err
	}
	return a.Bundle(ca.SystemFiles()...) //nolint:wrapcheck // says what it reads
}

// writeJSON writes a file that only its owner may read, whole or not at all.
func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, append(text, '\n'))
}

func writeFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func readJSON(path string, value any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
