package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/vpa"
)

func newVPA(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "upstream-vpa", Short: "Run the VPA of Kubernetes in the lab, unchanged", Long: `Run the VPA of Kubernetes in the lab, unchanged, with metrics-server, as programs of the node.

  lab upstream-vpa on                       start it; its webhook, Leases and API are those that it has by itself
  lab upstream-vpa off                      remove it, with its autoscalers
  lab logs upstream-vpa-recommender         what it says`,
	}
	for _, c := range []func(*global) *cobra.Command{newVPAOn, newVPAOff} {
		cmd.AddCommand(c(g))
	}
	return cmd
}

// upstreamVPA is the lab of this name with these programs, compiled if they are missing.
func (g *global) upstreamVPA(ctx context.Context, names ...string) (vpa.Lab, error) {
	c, err := g.running()
	if err != nil {
		return vpa.Lab{}, err
	}
	if !c.Ready() {
		return vpa.Lab{}, &hinted{fmt.Errorf("lab %s is still starting", g.name), "wait for: lab up --name " + g.name}
	}
	b, err := g.builder()
	if err != nil {
		return vpa.Lab{}, err
	}
	var programs []build.Program
	for _, p := range build.ThirdParty() {
		if p.Name == "kubernetes" || slices.Contains(names, p.Name) {
			programs = append(programs, p)
		}
	}
	bin, err := b.Assets(ctx, programs)
	if err != nil {
		return vpa.Lab{}, err //nolint:wrapcheck // names the program
	}
	return vpa.Lab{Cluster: c, Bin: bin}, nil
}

func newVPAOn(g *global) *cobra.Command {
	var o vpa.Options
	cmd := &cobra.Command{
		Use: "on", Short: "Start it, or start it anew with other options", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := []string{vpa.MetricsServer}
			if !o.MetricsOnly {
				names = append(names, vpa.Recommender, vpa.Updater, vpa.Admission)
			}
			l, err := g.upstreamVPA(cmd.Context(), names...)
			if err != nil {
				return err
			}
			b, err := g.builder()
			if err != nil {
				return err
			}
			if o.CRDs, err = b.UpstreamVPACRDs(cmd.Context()); err != nil {
				return err //nolint:wrapcheck // says what it reads
			}
			release, err := g.lock(cmd.Context(), l.Cluster.Layout)
			if err != nil {
				return err
			}
			defer release()
			if err := l.On(cmd.Context(), o); err != nil {
				return err //nolint:wrapcheck // names the lab
			}
			fmt.Fprintf(g.err, "✓ upstream's VPA %s is on\n", vpa.Version)
			return nil
		},
	}
	cmd.Flags().DurationVar(&o.Interval, "interval", time.Minute, "how often it recommends, and looks at pods")
	cmd.Flags().BoolVar(&o.MetricsOnly, "metrics-only", false, "start nothing but metrics-server")
	cmd.Flags().StringVar(&o.Gates, "gates", "", "its feature gates, such as InPlace=true")
	return cmd
}

func newVPAOff(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "off", Short: "Remove it, with its autoscalers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := g.upstreamVPA(cmd.Context())
			if err != nil {
				return err
			}
			release, err := g.lock(cmd.Context(), l.Cluster.Layout)
			if err != nil {
				return err
			}
			defer release()
			if err := l.Off(cmd.Context()); err != nil {
				return err //nolint:wrapcheck // names what failed
			}
			fmt.Fprintln(g.err, "✓ upstream's VPA is off")
			return nil
		},
	}
}
