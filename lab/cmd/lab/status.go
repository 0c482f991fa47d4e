package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/lab/cluster"
	"github.com/nopsctl/nopsctl/lab/platform"
)

// Status is the answer of `lab status -o json`. docs/lab-status.md describes it; a golden file holds its form.
type Status struct {
	SchemaVersion int               `json:"schema_version"` // 1
	Name          string            `json:"name"`
	State         string            `json:"state"`        // "up", "starting" or "down"; the rest is empty unless "up"
	PID           int               `json:"pid"`          // of the lab's init, on the host
	Kubeconfig    string            `json:"kubeconfig"`   // file; works on the host and inside
	ClusterARN    string            `json:"cluster_arn"`  // the cluster's identity
	PlatformURL   string            `json:"platform_url"` // the nOps API, plain HTTP on 127.0.0.1
	APIKey        string            `json:"api_key"`      // of the demo's customer, scopes install and read; of this lab alone
	MetricsURL    string            `json:"metrics_url"`  // PromQL API of the demo customer's workspace
	Registry      string            `json:"registry"`     // host:port on 127.0.0.1, plain HTTP
	ProxyURL      string            `json:"proxy_url"`    // HTTPS proxy that leads the real host names into the lab
	CABundle      string            `json:"ca_bundle"`    // file of certificates to trust with it
	Policy        string            `json:"policy"`       // file: who signs what this lab serves, for nopsctl --policy
	AWSKeyID      string            `json:"aws_access_key_id"`
	AWSSecretKey  string            `json:"aws_secret_access_key"` // for AWS Signer's revocation API; of this lab alone
	AWSKeys       string            `json:"aws_credentials"`       // file that holds them, as ~/.aws/credentials does
	Faults        map[string]string `json:"faults"`                // name → "up" or "down"
}

func (g *global) status(ctx context.Context) (Status, error) {
	l, err := g.layout()
	if err != nil {
		return Status{}, err
	}
	s := Status{SchemaVersion: 1, Name: g.name, State: "down", Faults: map[string]string{}}
	c, err := cluster.Find(l)
	if err != nil {
		return s, nil // not running is an answer
	}
	s.State, s.PID = "starting", c.PID
	if !complete(c) {
		return s, nil
	}
	info, err := platform.Control{StateDir: l.Path("platform")}.Info(ctx)
	if err != nil {
		return s, err //nolint:wrapcheck // says what does not answer
	}
	s.State, s.Kubeconfig, s.ClusterARN, s.CABundle = "up", l.Kubeconfig(), c.ARN, bundleFile(l)
	s.PlatformURL, s.MetricsURL, s.Registry, s.ProxyURL = "http://"+c.Forwards["api"], "http://"+c.Forwards["metrics"], c.Forwards["registry"], "http://"+c.Forwards["proxy"]
	s.APIKey, s.Faults = info.APIKey, info.Faults
	s.Policy, s.AWSKeyID, s.AWSSecretKey, s.AWSKeys = policyFile(l), info.AWSAccessKeyID, info.AWSSecretAccessKey, credentialsFile(l)
	return s, nil
}

func newStatus(g *global) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "status", Short: "Addresses, keys and faults of the lab", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.showStatus(cmd.Context(), output) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func (g *global) showStatus(ctx context.Context, output string) error {
	s, err := g.status(ctx)
	if err != nil {
		return err
	}
	switch output {
	case "json":
		return writeJSON(g.out, s)
	case "text":
		s.text(g.out)
		return nil
	}
	return fmt.Errorf("output %q: text or json", output)
}

func writeJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err = fmt.Fprintln(w, string(text))
	return err //nolint:wrapcheck // the stream says it all
}

func (s Status) text(w io.Writer) {
	fmt.Fprintf(w, "lab %s: %s\n", s.Name, s.State)
	if s.State != "up" {
		return
	}
	for _, row := range [][2]string{
		{"cluster", s.ClusterARN}, {"kubeconfig", s.Kubeconfig}, {"nOps API", s.PlatformURL}, {"API key", s.APIKey}, {"metrics", s.MetricsURL}, {"registry", s.Registry}, {"policy", s.Policy}, {"AWS keys", s.AWSKeys},
	} {
		fmt.Fprintf(w, "  %-11s %s\n", row[0], row[1])
	}
	var down []string
	for name, state := range s.Faults {
		if state != "up" {
			down = append(down, name)
		}
	}
	sort.Strings(down)
	if len(down) > 0 {
		fmt.Fprintf(w, "  %-11s %s (lab fault NAME up)\n", "down", strings.Join(down, ", "))
	}
}

func newInfo(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "info [FIELD]", Short: "Everything the platform side tells of itself, keys of all customers included: JSON, or one field", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.running()
			if err != nil {
				return err
			}
			info, err := platform.Control{StateDir: c.Layout.Path("platform")}.Info(cmd.Context())
			if err != nil {
				return err //nolint:wrapcheck // says what does not answer
			}
			if len(args) == 0 {
				return writeJSON(g.out, info)
			}
			value, err := info.Field(args[0])
			if err == nil {
				fmt.Fprintln(g.out, value)
			}
			return err //nolint:wrapcheck // names the field
		},
	}
}

func newEnv(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "env", Short: `Shell code that points this shell at the lab: eval "$(lab env)"`, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := g.status(cmd.Context())
			if err != nil {
				return err
			}
			if s.State != "up" {
				return &hinted{fmt.Errorf("lab %s is %s", g.name, s.State), "start it with: lab up --name " + g.name}
			}
			repo, err := repository()
			if err != nil {
				return err
			}
			fmt.Fprintf(g.out, "export KUBECONFIG=%s\nexport HTTPS_PROXY=%s\nexport NO_PROXY=127.0.0.1,localhost\nexport SSL_CERT_FILE=%s\nexport PATH=%s/bin:$PATH\n", s.Kubeconfig, s.ProxyURL, s.CABundle, repo)
			fmt.Fprintln(g.out, "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_CA_BUNDLE")
			l, err := g.layout()
			if err != nil {
				return err
			}
			for _, e := range awsEnvironment(l) {
				fmt.Fprintln(g.out, "export "+e)
			}
			fmt.Fprintf(g.out, "# The real host names (app.nops.io, public.ecr.aws, …) now lead into lab %s, and nowhere else.\n", g.name)
			return nil
		},
	}
}
