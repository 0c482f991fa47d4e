package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	lab "github.com/nopsctl/nopsctl/lab/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// newRightsizing is the platform's side of rightsizing.
func newRightsizing(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rightsizing", Short: "What the platform recommends, and what became of it", Args: cobra.NoArgs,
		Long: `What the platform recommends, how its last analysis went and how recommendations are spoiled.

The platform analyses by itself: when an agent says which workloads it wants recommendations for, and every hour.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			control, err := g.control()
			if err != nil {
				return err
			}
			return showRightsizing(cmd.Context(), control, g.out)
		},
	}
	cmd.AddCommand(newAnalyse(g), newSpoil(g), newRecommend(g), newOutcomes(g))
	return cmd
}

func (g *global) control() (lab.Control, error) {
	c, err := g.running()
	if err != nil {
		return lab.Control{}, err
	}
	return lab.Control{StateDir: c.Layout.Path("platform")}, nil
}

func showRightsizing(ctx context.Context, control lab.Control, out io.Writer) error {
	fault, err := control.Spoiled(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what does not answer
	}
	if fault != "" {
		fmt.Fprintf(out, "spoiled: %s (lab rightsizing fault off ends it)\n", fault)
	}
	analyses, err := control.Analyses(ctx)
	if err != nil {
		return err //nolint:wrapcheck // likewise
	}
	if len(analyses) == 0 {
		fmt.Fprintln(out, "no agent has asked for recommendations")
	}
	for _, a := range analyses {
		showAnalysis(out, a)
	}
	clusters, err := control.Clusters(ctx)
	if err != nil {
		return err //nolint:wrapcheck // likewise
	}
	for _, cl := range clusters {
		all, err := control.Recommendations(ctx, cl.ARN)
		if err != nil {
			fmt.Fprintf(out, "%s: %v\n", cl.Name, err)
			continue
		}
		fmt.Fprintf(out, "%s: recommendations %d of %s, valid until %s\n", cl.Name, all.Seq, all.AsOf.Format(time.RFC3339), all.ValidUntil.Format(time.RFC3339))
		table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		for _, w := range all.Workloads {
			for _, c := range w.Containers {
				fmt.Fprintf(table, "%s %s/%s\t%s\t%s\tcpu %s\tmemory %s\t%d samples, %g days\n", w.Kind, w.Namespace, w.Name, c.Name, w.Level, cores(c.CPU), mebibytes(c.Memory), c.Samples, c.Days)
			}
		}
		_ = table.Flush()
	}
	return nil
}

func showAnalysis(out io.Writer, a platform.Analysis) {
	switch {
	case a.At.IsZero():
		fmt.Fprintln(out, "not analysed yet")
		return
	case a.Problem != "":
		fmt.Fprintf(out, "analysed at %s, in vain: %s\n", a.At.Format(time.RFC3339), a.Problem)
		return
	}
	fmt.Fprintf(out, "analysed at %s, %s back: %d containers of %d workloads, %d samples\n", a.At.Format(time.RFC3339), a.History, a.Containers, a.Workloads, a.Samples)
	for _, s := range a.Skipped {
		fmt.Fprintf(out, "skipped: %s\n", s)
	}
	if a.More > 0 {
		fmt.Fprintf(out, "skipped: %d more\n", a.More)
	}
}

func cores(r nopsapi.Recommended) string {
	return fmt.Sprintf("%.0fm (%.0f–%.0f)", r.Target*1000, r.Lower*1000, r.Upper*1000)
}

func mebibytes(r nopsapi.Recommended) string {
	const mi = 1 << 20
	return fmt.Sprintf("%.1fMi (%.1f–%.1f)", r.Target/mi, r.Lower/mi, r.Upper/mi)
}

func newAnalyse(g *global) *cobra.Command {
	var history, minimum, window, valid string
	cmd := &cobra.Command{
		Use: "analyse", Short: "Analyse usage now, and issue recommendations", Args: cobra.NoArgs,
		Long: `Analyse usage now, and issue recommendations. A lab is too young for the defaults; a story has ten minutes:

  lab rightsizing analyse --history 10m --min 2m

What is chosen holds for the analyses that the platform makes by itself afterwards. It fails where the analysis does.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			control, err := g.control()
			if err != nil {
				return err
			}
			var s platform.AnalysisSettings
			for _, f := range []struct {
				name, text string
				into       *time.Duration
			}{{"history", history, &s.History}, {"min", minimum, &s.Min}, {"window", window, &s.Window}, {"valid", valid, &s.Valid}} {
				if f.text == "" {
					continue
				}
				if *f.into, err = scenario.ParseDuration(f.text); err != nil {
					return fmt.Errorf("--%s: %w", f.name, err)
				}
			}
			all, err := control.Analyse(cmd.Context(), s)
			if err != nil {
				return err //nolint:wrapcheck // says what does not answer
			}
			if len(all) == 0 {
				return &hinted{fmt.Errorf("no agent has asked for recommendations"), "the agent asks a minute after a RightsizingPolicy selects its first workload"}
			}
			for _, a := range all {
				if a.Problem != "" {
					return fmt.Errorf("analyse the usage of %s: %s", a.ClusterARN, a.Problem)
				}
				showAnalysis(g.out, a)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&history, "history", "", "how far to look back (30d)")
	cmd.Flags().StringVar(&minimum, "min", "", "how much usage a container needs (24h)")
	cmd.Flags().StringVar(&window, "window", "", "what CPU's rate is taken over (2m)")
	cmd.Flags().StringVar(&valid, "valid", "", "how long the recommendations hold (24h)")
	return cmd
}

func newSpoil(g *global) *cobra.Command {
	var names []string
	for _, f := range platform.RightsizingFaults() {
		names = append(names, string(f))
	}
	return &cobra.Command{
		Use: "fault " + strings.Join(names, "|") + "|off", Short: "Spoil recommendations on their way to the agent", Args: cobra.ExactArgs(1), ValidArgs: append(names, "off"),
		RunE: func(cmd *cobra.Command, args []string) error {
			control, err := g.control()
			if err != nil {
				return err
			}
			fault := args[0]
			if fault == "off" {
				fault = ""
			}
			return control.SpoilRecommendations(cmd.Context(), fault) //nolint:wrapcheck // says which there are
		},
	}
}

func newRecommend(g *global) *cobra.Command {
	var valid time.Duration
	cmd := &cobra.Command{
		Use: "recommend FILE", Short: "Recommend what a file says, until its end", Args: cobra.ExactArgs(1),
		Long: `Recommend what a file says (YAML or JSON), in the place of what is analysed, until its end:

  workloads:
    - {api_version: apps/v1, kind: Deployment, namespace: shop, name: cart, level: BalancedSavings,
       containers: [{name: app, cpu: {target: 0.25}, memory: {target: 268435456}}]}`,
		RunE: func(cmd *cobra.Command, args []string) error {
			control, err := g.control()
			if err != nil {
				return err
			}
			workloads, err := readRecommendations(args[0])
			if err != nil {
				return err
			}
			clusters, err := control.Clusters(cmd.Context())
			if err != nil {
				return err //nolint:wrapcheck // says what does not answer
			}
			for _, cl := range clusters {
				ack, err := control.Recommend(cmd.Context(), cl.ARN, valid, workloads)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				fmt.Fprintf(g.out, "%s: recommendations %d\n", cl.Name, ack.Seq)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&valid, "valid", time.Hour, "how long they hold, at most 24h")
	return cmd
}

func readRecommendations(name string) ([]nopsapi.WorkloadRecommendation, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the recommendations: %w", err)
	}
	var file struct {
		Workloads []nopsapi.WorkloadRecommendation `json:"workloads"`
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return file.Workloads, nil
}

func newOutcomes(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "outcomes", Short: "What became of recommendations, as JSON, one a line", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			control, err := g.control()
			if err != nil {
				return err
			}
			clusters, err := control.Clusters(cmd.Context())
			if err != nil {
				return err //nolint:wrapcheck // says what does not answer
			}
			lines := json.NewEncoder(g.out)
			for _, cl := range clusters {
				all, err := control.Outcomes(cmd.Context(), cl.ARN)
				if err != nil {
					return err //nolint:wrapcheck // likewise
				}
				for _, o := range all {
					if err := lines.Encode(o); err != nil {
						return fmt.Errorf("write the outcomes: %w", err)
					}
				}
			}
			return nil
		},
	}
}
