package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// variable documents an environment variable.
type variable struct{ Name, About string }

func variables() []variable {
	return []variable{
		{EnvAPIKey, "API key of nOps, when no flag gives one."},
		{EnvHost, "URL of the nOps API, when --host is not given. Default: https://app.nops.io"},
		{EnvCABundle, "File of PEM certificates to trust besides the system's, when --ca-bundle is not given."},
		{EnvAMPSecretKey, "Secret access key of the metrics workspace, for platforms that do not hand one out, when --amp-secret-key-file is not given."},
		{EnvPolicy, "File that says who must have signed the images, when --policy is not given. Default: nopsctl/policy.yaml in the user's configuration directory, where there is one."},
		{"KUBECONFIG", "Kubeconfig file or files, when --kubeconfig is not given. Default: ~/.kube/config"},
		{"HTTPS_PROXY, NO_PROXY", "Proxy for requests from here. Never copied into the cluster."},
		{"SSL_CERT_FILE", "Replaces the system's trusted certificates."},
		{"NO_COLOR", "Not empty: no colours."},
		{"CLICOLOR_FORCE", "Not empty and not 0: colours even where no terminal is."},
		{"TERM", "dumb: no colours, no signs beyond ASCII."},
		{"NOPSCTL_ASCII", "Not empty: no signs beyond ASCII."},
		{"COLUMNS", "Width of the terminal, where it cannot be asked."},
	}
}

func newHelpTopics() []*cobra.Command {
	var env strings.Builder
	for _, v := range variables() {
		fmt.Fprintf(&env, "  %-22s %s\n", v.Name, wrap(v.About, 74, 25))
	}
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean", Long: "Exit codes of nopsctl\n\n" + exitCodesText()},
		{Use: "karpenops-safety", Short: "What karpenops never does, and how to stop it", Long: karpenopsSafety},
		{Use: "environment", Short: "Which environment variables are read", Long: "Environment variables that nopsctl reads\n\n" + env.String()},
	}
}
