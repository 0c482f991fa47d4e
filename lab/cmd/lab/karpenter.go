package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/karpenter"
)

func newKarpenter(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "karpenter", Short: "Run Karpenter in the lab, with nodes that do not exist", Long: `Run Karpenter in the lab: the real controller, nodes that kwok makes up.

  lab karpenter on                                  start it; NodePools refer to the KWOKNodeClass "default"
  lab karpenter on --gates NodeOverlay=true         start it anew with other feature gates; its objects stay
  lab karpenter off                                 remove it, its nodes and its API
  lab karpenter play FILE                           do what a scenario says, and write down what Karpenter does
  lab logs karpenter                                what it says`,
	}
	for _, c := range []func(*global) *cobra.Command{newKarpenterOn, newKarpenterOff, newKarpenterStatus, newKarpenterPlay} {
		cmd.AddCommand(c(g))
	}
	return cmd
}

// karpenter is the lab of this name with the programs that Karpenter needs, compiled if they are missing.
func (g *global) karpenter(ctx context.Context) (karpenter.Lab, error) {
	c, err := g.running()
	if err != nil {
		return karpenter.Lab{}, err
	}
	if !c.Ready() {
		return karpenter.Lab{}, &hinted{fmt.Errorf("lab %s is still starting", g.name), "wait for: lab up --name " + g.name}
	}
	b, err := g.builder()
	if err != nil {
		return karpenter.Lab{}, err
	}
	var programs []build.Program
	for _, p := range build.ThirdParty() {
		if slices.Contains([]string{"karpenter", "kwok", "kubernetes"}, p.Name) {
			programs = append(programs, p)
		}
	}
	bin, err := b.Assets(ctx, programs)
	if err != nil {
		return karpenter.Lab{}, err //nolint:wrapcheck // names the program
	}
	return karpenter.Lab{Cluster: c, Bin: bin}, nil
}

func newKarpenterOn(g *global) *cobra.Command {
	var gates, boot string
	cmd := &cobra.Command{
		Use: "on", Short: "Start Karpenter, or start it anew with other options", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			parsed, err := karpenter.ParseGates(gates)
			if err != nil {
				return err //nolint:wrapcheck // says what may be written
			}
			l, err := g.karpenter(cmd.Context())
			if err != nil {
				return err
			}
			release, err := g.lock(cmd.Context(), l.Cluster.Layout)
			if err != nil {
				return err
			}
			defer release()
			if err := l.On(cmd.Context(), karpenter.Options{Gates: parsed, Boot: boot}); err != nil {
				return err //nolint:wrapcheck // names the lab
			}
			fmt.Fprintf(g.err, "✓ Karpenter %s is on\n", karpenter.Version)
			return nil
		},
	}
	cmd.Flags().StringVar(&gates, "gates", "", "feature gates, such as NodeOverlay=true,SpotToSpotConsolidation=true; others are as by default")
	cmd.Flags().StringVar(&boot, "boot", "", "how long a node takes until it registers, such as 20s")
	return cmd
}

func newKarpenterOff(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "off", Short: "Remove Karpenter, its nodes and its API", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := g.karpenter(cmd.Context())
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
			fmt.Fprintln(g.err, "✓ Karpenter is off")
			return nil
		},
	}
}

func newKarpenterStatus(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Whether Karpenter runs, and with what gates", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.running()
			if err != nil {
				return err
			}
			o, err := karpenter.Lab{Cluster: c}.Status(cmd.Context())
			switch {
			case errors.Is(err, karpenter.ErrOff):
				fmt.Fprintln(g.out, "Karpenter: off")
				return nil
			case err != nil:
				return err //nolint:wrapcheck // names the lab
			}
			fmt.Fprintf(g.out, "Karpenter: on, version %s, gates %q\n", o.Version, karpenter.FormatGates(o.Gates))
			return nil
		},
	}
}

func newKarpenterPlay(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "play FILE…", Short: "Do what scenarios say, each with a Karpenter of its own, and write into their files what Karpenter does", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := g.karpenter(cmd.Context())
			if err != nil {
				return err
			}
			release, err := g.lock(cmd.Context(), l.Cluster.Layout)
			if err != nil {
				return err
			}
			defer release()
			for _, file := range args {
				text, err := os.ReadFile(file)
				if err != nil {
					return fmt.Errorf("read a scenario: %w", err)
				}
				var s karpenter.Scenario
				decoder := json.NewDecoder(bytes.NewReader(text))
				decoder.DisallowUnknownFields()
				if err := decoder.Decode(&s); err != nil {
					return fmt.Errorf("read a scenario: %s: %w", file, err)
				}
				fmt.Fprintf(g.err, "· %s\n", s.Name)
				if err := l.Play(cmd.Context(), &s, func(line string) { fmt.Fprintln(g.err, "  "+line) }); err != nil {
					return err //nolint:wrapcheck // names the scenario
				}
				written, err := s.Format()
				if err != nil {
					return err //nolint:wrapcheck // names the scenario
				}
				if err := os.WriteFile(file, written, 0o644); err != nil {
					return fmt.Errorf("write a scenario: %w", err)
				}
			}
			return nil
		},
	}
}
