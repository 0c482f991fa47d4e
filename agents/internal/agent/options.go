package agent

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// Environment variables that every agent reads. Flags win over them; the key has no flag, because arguments are public.
const (
	EnvAPIKey     = "NOPS_API_KEY"
	EnvHost       = "NOPS_HOST"
	EnvClusterARN = "NOPS_CLUSTER_ARN"
	EnvNamespace  = "POD_NAMESPACE"
	EnvLogLevel   = "NOPS_LOG_LEVEL"
	EnvListen     = "NOPS_LISTEN_ADDRESS"
	EnvCABundle   = "NOPS_CA_BUNDLE"
)

// DefaultHost is where the platform is.
const DefaultHost = "https://app.nops.io"

// Getenv looks a variable of the environment up, as os.Getenv does.
type Getenv func(name string) string

// Options are what every agent needs to know.
type Options struct {
	// APIKey authenticates to the platform. It comes from the environment alone.
	APIKey string
	// Host is the platform's address.
	Host string
	// ClusterARN names the cluster.
	ClusterARN string
	// Namespace is the agent's own.
	Namespace string
	// ListenAddress serves health and metrics.
	ListenAddress string
	// CABundleFile holds certificates in PEM that are trusted besides the system's; empty means none.
	CABundleFile string
	// LogLevel is debug, info, warn or error.
	LogLevel string
}

// Environment names the variables that BindFlags reads.
func (*Options) Environment() []string {
	return []string{EnvAPIKey, EnvHost, EnvClusterARN, EnvNamespace, EnvLogLevel, EnvListen, EnvCABundle}
}

// BindFlags adds the flags; their defaults come from the environment.
func (o *Options) BindFlags(fs *pflag.FlagSet, env Getenv) {
	o.APIKey = strings.TrimSpace(env(EnvAPIKey))
	fs.StringVar(&o.Host, "host", Or(env(EnvHost), DefaultHost), "address of the nOps platform ("+EnvHost+")")
	fs.StringVar(&o.ClusterARN, "cluster-arn", env(EnvClusterARN), "ARN of this cluster ("+EnvClusterARN+")")
	fs.StringVar(&o.Namespace, "namespace", env(EnvNamespace), "namespace the agent runs in ("+EnvNamespace+")")
	fs.StringVar(&o.ListenAddress, "listen-address", Or(env(EnvListen), ":8080"), "address of /healthz, /readyz and /metrics ("+EnvListen+")")
	fs.StringVar(&o.CABundleFile, "ca-bundle", env(EnvCABundle), "file of certificates trusted besides the system's ("+EnvCABundle+")")
	fs.StringVar(&o.LogLevel, "log-level", Or(env(EnvLogLevel), "info"), "debug, info, warn or error ("+EnvLogLevel+")")
}

// Validate says everything that is wrong at once.
func (o *Options) Validate() error {
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
	if o.Namespace == "" {
		errs = append(errs, fmt.Errorf("--namespace (%s) is empty", EnvNamespace))
	}
	if _, err := ParseLevel(o.LogLevel); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// CABundle reads the file of certificates; nil when none is named.
func (o *Options) CABundle() ([]byte, error) {
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
