package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletionCommand(f *Factory) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a completion script for a shell",
		Example: `  source <(nopsctl completion bash)                                     # this shell
  nopsctl completion zsh > "${fpath[1]}/_nopsctl"                      # every zsh
  nopsctl completion fish > ~/.config/fish/completions/nopsctl.fish    # every fish`,
		Args:                  oneArg("the shell"),
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), f.IO.Out
			var err error
			switch args[0] {
			case "bash":
				err = root.GenBashCompletionV2(out, true)
			case "zsh":
				err = root.GenZshCompletion(out)
			case "fish":
				err = root.GenFishCompletion(out, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(out)
			default:
				return usage("completion for %q: expected bash, zsh, fish or powershell", args[0])
			}
			if err != nil {
				return fmt.Errorf("write the completion script: %w", err)
			}
			return nil
		},
	}
}
