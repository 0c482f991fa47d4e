package heartbeat

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/pflag"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Environment variables beyond those of the chassis.
const (
	EnvVmagentURL = "NOPS_VMAGENT_URL"
	EnvAMPURL     = "NOPS_AMP_URL" // of probe alone
)

// Options of `run`.
type Options struct {
	agent.PlatformOptions
	agent.ProcessOptions
	// VmagentURL is where vmagent serves /metrics; empty means that the installation has none.
	VmagentURL string
}

var (
	_ agent.Flags = (*Options)(nil)
	_ agent.Flags = (*ProbeOptions)(nil)
)

// Environment names the variables that BindFlags reads.
func (o *Options) Environment() []string {
	return append(append(o.PlatformOptions.Environment(), o.ProcessOptions.Environment()...), EnvVmagentURL)
}

// BindFlags adds the flags; their defaults come from the environment.
func (o *Options) BindFlags(fs *pflag.FlagSet, env agent.Getenv) {
	o.PlatformOptions.BindFlags(fs, env)
	o.ProcessOptions.BindFlags(fs, env)
	fs.StringVar(&o.VmagentURL, "vmagent-url", env(EnvVmagentURL), "address of vmagent; empty when there is none ("+EnvVmagentURL+")")
}

// Validate says everything that is wrong at once.
func (o *Options) Validate() error {
	return errors.Join(o.PlatformOptions.Validate(), o.ProcessOptions.Validate(), optionalURL("--vmagent-url ("+EnvVmagentURL+")", o.VmagentURL))
}

func optionalURL(what, s string) error {
	if s == "" {
		return nil
	}
	if u, err := url.Parse(s); err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("%s: not an http or https address", what)
	}
	return nil
}

// ProbeOptions of `probe`: the connectivity test from inside the cluster.
type ProbeOptions struct {
	Options
	// Nonce is posted to the platform as seen from the cluster; empty posts nothing.
	Nonce string
	// TestID names the connectivity test the nonce belongs to.
	TestID string
	// AMPURL is the metrics store's remote-write address; empty tries none.
	AMPURL string
}

// Environment names the variables that BindFlags reads.
func (o *ProbeOptions) Environment() []string { return append(o.Options.Environment(), EnvAMPURL) }

// BindFlags adds the flags; their defaults come from the environment.
func (o *ProbeOptions) BindFlags(fs *pflag.FlagSet, env agent.Getenv) {
	o.Options.BindFlags(fs, env)
	fs.StringVar(&o.Nonce, "nonce", "", "nonce of the connectivity test, posted to the platform")
	fs.StringVar(&o.TestID, "test-id", "", "id of the connectivity test")
	fs.StringVar(&o.AMPURL, "amp-url", env(EnvAMPURL), "remote-write address of the metrics store ("+EnvAMPURL+")")
}

// Validate says everything that is wrong at once. A missing key is no mistake here: the report says what follows from it.
func (o *ProbeOptions) Validate() error {
	var errs []error
	errs = append(errs, optionalURL("--host ("+agent.EnvHost+")", o.Host), optionalURL("--vmagent-url ("+EnvVmagentURL+")", o.VmagentURL), optionalURL("--amp-url", o.AMPURL))
	if (o.Nonce == "") != (o.TestID == "") {
		errs = append(errs, errors.New("--nonce and --test-id go together"))
	}
	if o.Nonce != "" && o.ClusterARN == "" {
		errs = append(errs, fmt.Errorf("--nonce needs --cluster-arn (%s)", agent.EnvClusterARN))
	}
	return errors.Join(errs...)
}
