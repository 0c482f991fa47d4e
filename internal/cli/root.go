package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Names of environment variables.
const (
	EnvAPIKey       = "NOPS_API_KEY"
	EnvHost         = "NOPS_HOST"
	EnvCABundle     = "NOPS_CA_BUNDLE"
	EnvAMPSecretKey = "NOPS_AMP_SECRET_KEY"
	EnvPolicy       = "NOPS_POLICY"
)

const (
	defaultNamespace = "nops"
	defaultRelease   = "nops-kubernetes-agent"
)

// newRootCommand builds a fresh tree: every run, and every test, has its own.
func newRootCommand(f *Factory) *cobra.Command {
	root := &cobra.Command{
		Use:   "nopsctl",
		Short: "Install and look after the nOps Kubernetes agent stack",
		Long: `nopsctl installs the nOps Kubernetes agent stack on Amazon EKS, proves that data flows, and looks after it.

Answers go to stdout, everything else to stderr. Exit codes: nopsctl help exit-codes.`,
		Example: `  nopsctl install --api-key-file key.txt     install or upgrade, prove that data flows
  nopsctl status                             what runs, and why not if not
  nopsctl test-connectivity                  where data stops, and what to do`,
		SilenceErrors:              true,
		SilenceUsage:               true,
		Args:                       noSuchCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(flagError)
	root.SetHelpFunc(help)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddGroup(&cobra.Group{ID: "stack", Title: "The stack:"}, &cobra.Group{ID: "tool", Title: "This tool:"})
	for _, c := range []*cobra.Command{
		newInstallCommand(f, nil), newStatusCommand(f, nil), newTestConnectivityCommand(f, nil),
		newEnableCommand(f, nil), newDisableCommand(f, nil), newVerifyCommand(f, nil), newImagesCommand(f), newKarpenopsCommand(f), newVPACommand(f), newUninstallCommand(f, nil),
	} {
		c.GroupID = "stack"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{newExplainCommand(f), newCompletionCommand(f), newVersionCommand(f, nil)} {
		c.GroupID = "tool"
		root.AddCommand(c)
	}
	for _, c := range newHelpTopics() {
		root.AddCommand(c)
	}
	root.SetHelpCommandGroupID("tool")
	return root
}

// noSuchCommand is for commands that only hold others.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "nopsctl --help lists the commands"
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		hint = "did you mean " + strings.Join(s, " or ") + "? " + hint
	}
	return usageHint(hint, "unknown command %q", args[0])
}

// flagError gives errors of pflag the class they are, and advice.
func flagError(cmd *cobra.Command, err error) error {
	return usageHint(cmd.CommandPath()+" --help lists the flags", "%s", err)
}

// noArgs and exactArgs are cobra's, with a class.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageHint(cmd.CommandPath()+" --help shows how it is used", "%s takes no argument, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return usageHint(cmd.CommandPath()+" --help shows how it is used", "%s needs one argument, %s; got %d", cmd.CommandPath(), what, len(args))
	}
}

// outputFlag adds -o with the formats a command has.
func outputFlag(cmd *cobra.Command, into *string, formats ...string) {
	cmd.Flags().StringVarP(into, "output", "o", formats[0], "format of the answer: "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

func checkOutput(value string, formats ...string) error {
	for _, f := range formats {
		if value == f {
			return nil
		}
	}
	return usage("--output %q: expected %s", value, fmt.Sprintf("one of %s", strings.Join(formats, ", ")))
}

// help is cobra's, without what pflag adds to every switch.
func help(cmd *cobra.Command, _ []string) {
	text := strings.TrimSpace(cmd.Long)
	if text == "" {
		text = cmd.Short
	}
	fmt.Fprintln(cmd.OutOrStdout(), text)
	if cmd.Runnable() || cmd.HasSubCommands() {
		const noise = "[=true|false]"
		fmt.Fprint(cmd.OutOrStdout(), "\n"+strings.ReplaceAll(cmd.UsageString(), noise, strings.Repeat(" ", len(noise))))
	}
}
