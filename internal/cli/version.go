package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/internal/version"
)

type versionOptions struct {
	f      *Factory
	output string
}

// versionAnswer is the JSON of version -o json.
type versionAnswer struct {
	SchemaVersion int          `json:"schema_version"`
	Client        version.Info `json:"client"`
	Chart         chartVersion `json:"chart"`
}

type chartVersion struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	AppVersion string `json:"app_version"`
}

func newVersionCommand(f *Factory, runF func(*versionOptions) error) *cobra.Command {
	o := &versionOptions{f: f}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of nopsctl and of the chart it carries",
		Long:  "Prints the version of nopsctl and of the chart it carries. It asks neither the cluster nor the network; nopsctl status shows what is installed.",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if runF != nil {
				return runF(o)
			}
			return versionRun(o)
		},
	}
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

func versionRun(o *versionOptions) error {
	if err := checkOutput(o.output, "text", "json"); err != nil {
		return err
	}
	chart, err := embeddedVersion(o.f)
	if err != nil {
		return err
	}
	v := o.f.Version()
	if o.output == "json" {
		return writeJSON(o.f.IO.Out, versionAnswer{SchemaVersion: 1, Client: v, Chart: chart})
	}
	commit := ""
	if v.Commit != "" {
		commit = ", commit " + v.Commit[:min(12, len(v.Commit))]
	}
	fmt.Fprintf(o.f.IO.Out, "nopsctl %s (%s, %s%s)\nchart   %s %s (embedded)\n", v.Version, v.Go, v.Platform, commit, chart.Name, chart.Version)
	return nil
}

// embeddedVersion reads three lines of Chart.yaml. A YAML parser is not worth the start-up time.
func embeddedVersion(f *Factory) (chartVersion, error) {
	var v chartVersion
	files, err := f.Chart()
	if err != nil {
		return v, err
	}
	data, err := fs.ReadFile(files, "Chart.yaml")
	if err != nil {
		return v, fmt.Errorf("embedded chart: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		switch key {
		case "name":
			v.Name = value
		case "version":
			v.Version = value
		case "appVersion":
			v.AppVersion = value
		}
	}
	return v, nil
}

// writeJSON writes an answer for programs: indented, because people read it too.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}
