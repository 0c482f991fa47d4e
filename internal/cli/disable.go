package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newDisableCommand(f *Factory, runF func(context.Context, *toggleOptions) error) *cobra.Command {
	o := &toggleOptions{f: f}
	cmd := o.bind(&cobra.Command{
		Use:   "disable COMPONENT",
		Short: "Switch a component off",
		Long: "Says what disabling the component means, asks, upgrades the release and waits. Nothing else of the release changes.\n" +
			"Without a terminal it needs --yes. The heartbeat needs --force: without it nobody is told when the stack breaks.\n\n" +
			"karpenops leaves NodePools that it made and nobody tends any more. Where there are any, it asks whether to take them back first (yes by default); with --yes or\n" +
			"without a terminal --revert or --no-revert has to decide: draining nodes and leaving them to nobody are both too much to guess. While it reverts,\n" +
			"karpenops is paused, and it goes only once nothing of it is left.\n\n" +
			"containerRightsizing leaves pods with the requests that it gave them, until they are replaced. The same two flags, or the question, say whether they get back what their\n" +
			"templates request first: in place, without restarts; what cannot be changed in place is named. Its webhook goes before anything else, so that no pod waits for it.\n\n" + componentList(),
		Example: "  nopsctl disable containerInsights\n  nopsctl disable karpenops --revert\n  nopsctl disable containerRightsizing --revert",
	}, runF)
	cmd.Flags().BoolVar(&o.force, "force", false, "disable the heartbeat all the same")
	return cmd
}
