package cli

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// answer is a document that a command writes with -o json.
type answer struct {
	Name    string // of the schema's file
	Command string
	About   string
	Type    reflect.Type
}

func answers() []answer {
	return []answer{
		{"status", "nopsctl status -o json", "The release, its components with their workloads, and what the platform has seen.", reflect.TypeFor[statusAnswer]()},
		{"test-connectivity", "nopsctl test-connectivity -o json", "Every check of the three legs, with its outcome, and the outcome of the whole.", reflect.TypeFor[testAnswer]()},
		{"install", "nopsctl install -o json", "The plan; unless it was a dry run also the result and the connectivity test.", reflect.TypeFor[installAnswer]()},
		{"toggle", "nopsctl enable|disable COMPONENT -o json", "The component, the consequence, the plan and its result.", reflect.TypeFor[toggleAnswer]()},
		{"verify", "nopsctl verify -o json", "Every image with the outcome of its verification, who signed it, and each signature that was tried.", reflect.TypeFor[verifyAnswer]()},
		{"images-list", "nopsctl images list -o json", "Every image that install would install, with its digest.", reflect.TypeFor[imagesAnswer]()},
		{"inspect", "nopsctl verify inspect IMAGE -o json", "Every signature of an image and what it says of itself, trusted by nobody.", reflect.TypeFor[inspectAnswer]()},
		{"images-mirror", "nopsctl images mirror -o json", "Every image that was copied, where to, and with how many signatures.", reflect.TypeFor[mirrorAnswer]()},
		{"uninstall", "nopsctl uninstall -o json", "What was removed and what was kept.", reflect.TypeFor[uninstallAnswer]()},
		{"karpenops-status", "nopsctl karpenops status -o json", "What karpenops sees, intends and did, from the agent's record; whether it runs. The same with -o yaml.", reflect.TypeFor[karpenStatusAnswer]()},
		{"karpenops-explain", "nopsctl karpenops explain NODEPOOL -o json", "What was decided about a NodePool and why, what waits and what a person can do. The same with -o yaml.", reflect.TypeFor[karpenExplainAnswer]()},
		{"karpenops-act", "nopsctl karpenops plan|revert|approve -o json", "What the agent's program answered in the cluster.", reflect.TypeFor[karpenActAnswer]()},
		{"karpenops-pause", "nopsctl karpenops pause|resume -o json", "What is paused now, by whom, and what it was before.", reflect.TypeFor[karpenPauseAnswer]()},
		{"vpa-status", "nopsctl vpa status -o json", "The policies, every workload that has an autoscaler, what it requests and what is recommended, and what that saves. The same with -o yaml.", reflect.TypeFor[vpaStatusAnswer]()},
		{"vpa-explain", "nopsctl vpa explain WORKLOAD -o json", "How the request of each container came to be, when it is applied, and why not. The same with -o yaml.", reflect.TypeFor[vpaExplainAnswer]()},
		{"vpa-act", "nopsctl vpa import|revert -o json", "What the agent's program answered in the cluster, and what it was about.", reflect.TypeFor[vpaActAnswer]()},
		{"version", "nopsctl version -o json", "This build and the chart it carries.", reflect.TypeFor[versionAnswer]()},
		{"explain", "nopsctl explain ID -o json", "What an ID means.", reflect.TypeFor[Explanation]()},
	}
}

// schemaOf is the JSON Schema (draft 2020-12) of an answer. Unknown fields are allowed: a later build may add some within
// a schema_version.
func schemaOf(a answer) map[string]any {
	s := typeSchema(a.Type)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = "https://github.com/nopsctl/nopsctl/docs/schemas/" + a.Name + ".schema.json"
	s["title"] = a.Command
	s["description"] = a.About
	return s
}

func typeSchema(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Implements(reflect.TypeFor[json.Marshaler]()):
		return map[string]any{}
	}
	switch t.Kind() { //nolint:exhaustive // the kinds that answers have; the rest is anything
	case reflect.Pointer:
		return typeSchema(t.Elem())
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": []any{"array", "null"}, "items": typeSchema(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": typeSchema(t.Elem())}
	case reflect.Struct:
		properties, required := map[string]any{}, []any{}
		structSchema(t, properties, &required)
		return map[string]any{"type": "object", "properties": properties, "required": required}
	}
	return map[string]any{}
}

func structSchema(t reflect.Type, properties map[string]any, required *[]any) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			structSchema(embedded, properties, required)
			continue
		case !f.IsExported(), name == "-":
			continue
		case name == "":
			name = f.Name
		}
		properties[name] = typeSchema(f.Type)
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			*required = append(*required, name)
		}
	}
}
