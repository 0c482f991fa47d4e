package install

import (
	"fmt"
	"strings"

	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"
)

// Given is what somebody gave as values, in the ways helm has for it.
type Given struct {
	Files  []GivenFile // -f, later ones win
	JSON   []string    // --set-json
	Set    []string    // --set
	String []string    // --set-string
}

// GivenFile is the content of a values file.
type GivenFile struct {
	Name string
	Data []byte
}

// Parse merges what was given exactly as helm does: files, then --set-json, then --set, then --set-string. Its errors name
// the input but repeat no value: there may be a credential in it.
func (g Given) Parse() (map[string]any, error) {
	values := map[string]any{}
	for _, f := range g.Files {
		var m map[string]any
		if err := yaml.Unmarshal(f.Data, &m); err != nil {
			return nil, &Error{Class: ClassUsage, Reason: "values file " + f.Name, Err: oneLineError{err}}
		}
		values = merge(values, m)
	}
	for _, s := range []struct {
		flag  string
		given []string
		parse func(string, map[string]any) error
	}{{"--set-json", g.JSON, strvals.ParseJSON}, {"--set", g.Set, strvals.ParseInto}, {"--set-string", g.String, strvals.ParseIntoString}} {
		for _, given := range s.given {
			if s.flag == "--set-json" && strings.HasPrefix(strings.TrimSpace(given), "{") {
				var m map[string]any
				if err := yaml.Unmarshal([]byte(given), &m); err != nil {
					return nil, &Error{Class: ClassUsage, Reason: s.flag + ": not a JSON object"}
				}
				values = merge(values, m)
				continue
			}
			if err := s.parse(given, values); err != nil {
				path, _, _ := strings.Cut(given, "=")
				return nil, &Error{Class: ClassUsage, Reason: fmt.Sprintf("%s %s=…: cannot be parsed", s.flag, path), Advice: "as in helm: " + s.flag + " path.to.value=VALUE; quote it for the shell, and escape commas and dots in names with a backslash"}
			}
		}
	}
	return values, nil
}

type oneLineError struct{ error }

// Error implements error.
func (e oneLineError) Error() string { return oneLine(e.error.Error()) }
