package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/internal/iostreams"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// valueFlags are helm's.
type valueFlags struct {
	files          []string
	set, setString []string
	setJSON        []string
}

func (v *valueFlags) bind(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVarP(&v.files, "values", "f", nil, "values file, - for stdin; may be repeated, later ones win")
	fs.StringArrayVar(&v.set, "set", nil, "set a value: path.to.value=VALUE; may be repeated")
	fs.StringArrayVar(&v.setString, "set-string", nil, "set a value that is a string whatever it looks like")
	fs.StringArrayVar(&v.setJSON, "set-json", nil, "set a value that is JSON")
}

const maxValues = 4 << 20

func (v *valueFlags) parse(ctx context.Context, f *Factory) (map[string]any, error) {
	given := install.Given{Set: v.set, String: v.setString, JSON: v.setJSON}
	for _, name := range v.files {
		var data []byte
		var err error
		if name == "-" {
			data, err = f.IO.ReadAll(ctx, maxValues)
		} else {
			data, err = f.ReadFile(name)
		}
		if err != nil {
			return nil, &failure{class: "usage", reason: "--values " + name, err: err}
		}
		given.Files = append(given.Files, install.GivenFile{Name: name, Data: data})
	}
	values, err := given.Parse()
	hideCredentials(f.IO.Redactor(), "", values)
	return values, err
}

// hideCredentials makes known what looks like a credential among the values, so that no message repeats it.
func hideCredentials(r *iostreams.Redactor, path string, values map[string]any) {
	for name, v := range values {
		at := strings.TrimPrefix(path+"."+name, ".")
		switch v := v.(type) {
		case map[string]any:
			hideCredentials(r, at, v)
		case string:
			if install.NamesSecret(at) { // what it holds may be a word of every second sentence
				continue
			}
			lower := strings.ToLower(name)
			for _, word := range []string{"apikey", "secret", "accesskey", "password", "token"} {
				if strings.Contains(lower, word) {
					r.Add(v)
				}
			}
		}
	}
}

// lookup finds the value at a dotted path.
func lookup(values map[string]any, path string) any {
	head, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		return values[head]
	}
	below, _ := values[head].(map[string]any)
	return lookup(below, rest)
}

func setPath(values map[string]any, path string, v any) {
	head, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		values[head] = v
		return
	}
	below, ok := values[head].(map[string]any)
	if !ok {
		below = map[string]any{}
		values[head] = below
	}
	setPath(below, rest, v)
}

func setString(values map[string]any, path, v string) {
	if v != "" {
		setPath(values, path, v)
	}
}

// overlay lays over on top of base.
func overlay(base, over map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(over))
	for k, v := range base {
		out[k] = v
	}
	for k, v := range over {
		below, isMap := out[k].(map[string]any)
		above, bothMaps := v.(map[string]any)
		if isMap && bothMaps {
			v = overlay(below, above)
		}
		out[k] = v
	}
	return out
}

func first(options ...string) string {
	for _, s := range options {
		if s != "" {
			return s
		}
	}
	return ""
}

// valueARN is the cluster's ARN in the values.
func valueARN(values map[string]any) string {
	s, _ := lookup(values, "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN").(string)
	return s
}

// valueKey is the API key in the values; karpenops.apiKey is where it was until 2024.
func valueKey(values map[string]any) apiKey {
	for _, path := range []string{"nops.apiKey", "karpenops.apiKey"} {
		if s, _ := lookup(values, path).(string); s != "" {
			return apiKey{s, "value " + path}
		}
	}
	return apiKey{}
}

// customersKeys says whether the given values name Secrets that the customer keeps.
func customersKeys(values map[string]any) bool {
	if on, _ := lookup(values, "customerManagedSecrets.enabled").(bool); !on {
		return false
	}
	name := fmt.Sprint(lookup(values, "customerManagedSecrets.apiSecretName"))
	return name != install.CredentialsSecret
}
