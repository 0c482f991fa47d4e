package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	"github.com/nopsctl/nopsctl/lab/platform"
)

// newKarpenterScenario chooses what the platform tells karpenops.
func newKarpenterScenario(g *global) *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: "karpenter-scenario [NAME|FILE|off]", Short: "What the platform tells karpenops of markets and commitments", Args: cobra.MaximumNArgs(1),
		Long: `Choose what the platform tells karpenops of markets and commitments: a scenario by its name, or a file of one
(docs/contract.md describes it). "off" ends it: what was published is served again. Without an argument it says what is played.

` + "  " + strings.Join(scenario.Names(), "\n  "),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.running()
			if err != nil {
				return err
			}
			control := platform.Control{StateDir: c.Layout.Path("platform")}
			switch {
			case len(args) == 0:
				played, err := control.Played(cmd.Context())
				if err == nil {
					fmt.Fprintln(g.out, playing(played))
				}
				return err //nolint:wrapcheck // says what does not answer
			case args[0] == "off":
				if err := control.EndScenario(cmd.Context()); err != nil {
					return err //nolint:wrapcheck // says what does not answer
				}
				fmt.Fprintln(g.err, "✓ no scenario is played")
				return nil
			}
			into, err := scenario.ParseDuration(at)
			if err != nil {
				return fmt.Errorf("--at: %w", err)
			}
			text, err := readScenario(args[0])
			if err != nil {
				return err
			}
			played, err := control.Scenario(cmd.Context(), text, into)
			if err == nil {
				fmt.Fprintln(g.err, "✓ "+playing(played))
			}
			return err //nolint:wrapcheck // names the scenario
		},
	}
	cmd.Flags().StringVar(&at, "at", "0s", "how far into the scenario to begin, such as 47h or 2d1h")
	return cmd
}

func playing(p platform.Played) string {
	if p.Scenario.Name == "" {
		return "no scenario is played"
	}
	return fmt.Sprintf("%s is played, since %s: %s", p.Scenario.Name, p.StartedAt.Format(time.RFC3339), p.Scenario.About)
}

// readScenario reads a scenario by its name, or a file, and says what is wrong with it before anything is begun.
func readScenario(name string) ([]byte, error) {
	if slices.Contains(scenario.Names(), name) {
		return scenario.Text(name) //nolint:wrapcheck // names the scenario
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("scenario %s: no file, and none of the names: %s", name, strings.Join(scenario.Names(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("read the scenario: %w", err)
	}
	if _, err := scenario.Decode(text); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}
