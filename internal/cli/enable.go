package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newEnableCommand(f *Factory, runF func(context.Context, *toggleOptions) error) *cobra.Command {
	o := &toggleOptions{f: f, enable: true}
	return o.bind(&cobra.Command{
		Use:     "enable COMPONENT",
		Short:   "Switch a component on",
		Long:    "Says what enabling the component means, asks, upgrades the release and waits. Nothing else of the release changes.\n\n" + componentList(),
		Example: "  nopsctl enable containerInsights",
	}, runF)
}
