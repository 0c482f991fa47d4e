package agent

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// Environment variables of ProcessOptions and PlatformOptions. Flags win over them; the key has no flag, because arguments are public.
const (
	EnvAPIKey       = "NOPS_API_KEY"
	EnvHost         = "NOPS_HOST"
	EnvClusterARN   = "NOPS_CLUSTER_ARN"
	EnvNamespace    = "POD_NAMESPACE"
	EnvLogLevel     = "NOPS_LOG_LEVEL"
	EnvListen       = "NOPS_LISTEN_ADDRESS"
	EnvCABundle     = "NOPS_CA_BUNDLE"
	EnvRelease      = "NOPS_RELEASE"
	EnvChartVersion = "NOPS_CHART_VERSION"
)

// DefaultHost is where the platform is.
const DefaultHost = "https://app.nops.io"

// DefaultRelease is the release the documentation uses.
const DefaultRelease = "nops-kubernetes-agent"

// Getenv looks a variable of the environment up, as os.Getenv does.
type Getenv func(name string) string

// Flags is what a command can be told, by flags with the environment as fallback. Agents put theirs together from
// ProcessOptions, PlatformOptions where they speak to the platform, and what is their own.
type Flags interface {
	// BindFlags adds the flags; their defaults come from the environment.
	BindFlags(fs *pflag.FlagSet, env Getenv)
	// Environment names the variables that BindFlags reads.
	Environment() []string
	// Validate says everything that is wrong at once.
	Validate() error
}

var (
	_ Flags = (*ProcessOptions)(nil)
	_ Flags = (*PlatformOptions)(nil)
)

// ProcessOptions are what every agent needs to know, whether it speaks to the platform or not.
type ProcessOptions struct {
	// Namespace is the agent's own.
	Namespace string
	// Release is the Helm release the agent belongs to (label app.kubernetes.io/instance).
	Release string
	// ChartVersion is that of the release; it is passed on.
	ChartVersion string
	// ListenAddress serves health and metrics.
	ListenAddress string
	// CABundleFile holds certificates in PEM that are trusted besides the system's; empty means none.
	CABundleFile string
	// LogLevel is debug, info, warn or error.
	LogLevel string
}

// Environment implements Flags.
func (*ProcessOptions) Environment() []string {
	return []string{EnvNamespace, EnvLogLevel, EnvListen, EnvCABundle, EnvRelease, EnvChartVersion}
}

// BindFlags implements Flags.
func (o *ProcessOptions) BindFlags(fs *pflag.FlagSet, env Getenv) {
	fs.StringVar(&o.Namespace, "namespace", env(EnvNamespace), "namespace the agent runs in ("+EnvNamespace+")")
	fs.StringVar(&o.Release, "release", Or(env(EnvRelease), DefaultRelease), "Helm release this agent belongs to ("+EnvRelease+")")
	fs.StringVar(&o.ChartVersion, "chart-version", env(EnvChartVersion), "version of the installed chart ("+EnvChartVersion+")")
	fs.StringVar(&o.ListenAddress, "listen-address", Or(env(EnvListen), ":8080"), "address of /healthz, /readyz and /metrics ("+EnvListen+")")
	fs.StringVar(&o.CABundleFile, "ca-bundle", env(EnvCABundle), "file of certificates trusted besides the system's ("+EnvCABundle+")")
	fs.StringVar(&o.LogLevel, "log-level", Or(env(EnvLogLevel), "info"), "debug, info, warn or error ("+EnvLogLevel+")")
}

// Validate implements Flags.
func (o *ProcessOptions) Validate() error {
	var errs []error
	if o.Namespace == "" {
		errs = append(errs, fmt.Errorf("--namespace (%s) is empty", EnvNamespace))
	}
	if o.Release == "" {
		errs = append(errs, fmt.Errorf("--release (%s) is empty", EnvRelease))
	}
	if _, err := ParseLevel(o.LogLevel); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// PlatformOptions are what an agent needs that speaks to the platform. One that does not is given no key.
type PlatformOptions struct {
	// APIKey authenticates to the platform. It comes from the environment alone.
	APIKey string
	// Host is the platform's address.
	Host string
	// ClusterARN names the cluster.
	ClusterARN string
}

// Environment implements Flags.
func (*PlatformOptions) Environment() []string {
	return []string{EnvAPIKey, EnvHost, EnvClusterARN}
}

// BindFlags implements Flags.
func (o *PlatformOptions) BindFlags(fs *pflag.FlagSet, env Getenv) {
	o.APIKey = strings.TrimSpace(env(EnvAPIKey))
	fs.StringVar(&o.Host, "host", Or(env(EnvHost), DefaultHost), "address of the nOps platform ("+EnvHost+")")
	fs.StringVar(&o.ClusterARN, "cluster-arn", env(EnvClusterARN), "ARN of this cluster ("+EnvClusterARN+")")
}

// Validate implements Flags.
func (o *PlatformOptions) Validate() error {
	var errs []error
	if o.APIKey == "" {
		errs = append(errs, fmt.Errorf("%s is empty: the API key comes from the Secret of the installation", EnvAPIKey))
	}
	if u, err := url.Parse(o.Host); err != nil || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http") {
		errs = append(errs, fmt.Errorf("--host (%s): not an http or https address", EnvHost))
	}
	if !strings.HasPrefix(o.ClusterARN, "arn:") {
		errs = append(errs, fmt.Errorf("--cluster-arn (%s): %q is not an ARN", EnvClusterARN, o.ClusterARN))
	}
	return errors.Join(errs...)
}

// Client speaks to the platform as the agent of that name, trusting the certificates of the bundle besides the system's.
// attempts are those of one call; an agent with a queue of its own makes one.
func (o *PlatformOptions) Client(userAgent string, bundle []byte, attempts int) (*nopsclient.Client, error) {
	transport, err := nopsclient.Transport(bundle)
	if err != nil {
		return nil, fmt.Errorf("--ca-bundle (%s): %w", EnvCABundle, err)
	}
	// One small request a minute gains nothing from HTTP/2, which costs memory and keeps a connection that a firewall
	// has forgotten in use for minutes.
	transport.ForceAttemptHTTP2, transport.Protocols = false, new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	c, err := nopsclient.New(nopsclient.Options{Host: o.Host, Key: o.APIKey, UserAgent: userAgent, Attempts: attempts, Transport: transport})
	if err != nil {
		return nil, fmt.Errorf("making a client of the platform: %w", err)
	}
	return c, nil
}

// CABundle reads the file of certificates; nil when none is named.
func (o *ProcessOptions) CABundle() ([]byte, error) {
	if o.CABundleFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(o.CABundleFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-bundle (%s): %w", EnvCABundle, err)
	}
	return pem, nil
}

// Or is s, or the default where s is empty.
func Or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
