package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Schemas turns an OpenAPI 2 document of Kubernetes into one schema per kind, each complete in itself, under the names by
// which kubeconform asks for them (deployment-apps-v1.json). They are what kubeconform's own, published ones are in strict
// mode, and differ in this:
//   - only stable versions have one: an alpha or beta API is off by default (Kubernetes 1.24), and EKS leaves it off;
//   - apiVersion and kind must be there and be the right ones, and metadata must be there;
//   - definitions stay definitions, so that the schema language of CustomResourceDefinitions, which contains itself, is
//     held to the last level;
//   - a key of a map or an item of a list is never null.
//
// A keyword that this derivation does not know is an error: without it, a schema would let pass what Kubernetes refuses.
func Schemas(document []byte) (map[string][]byte, error) {
	var doc struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("parse the OpenAPI document: %w", err)
	}
	all := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(doc.Definitions)) {
		group, version, kind, ok := object(doc.Definitions[name])
		if !ok {
			continue
		}
		schema, err := (&derivation{definitions: doc.Definitions, done: map[string]any{}}).root(name, group, version, kind)
		if err != nil {
			return nil, fmt.Errorf("schema of %s %s/%s: %w", kind, group, version, err)
		}
		data, err := json.Marshal(schema)
		if err != nil {
			return nil, fmt.Errorf("schema of %s %s/%s: %w", kind, group, version, err)
		}
		file := strings.ToLower(kind) + "-" + version + ".json"
		if group != "" {
			first, _, _ := strings.Cut(group, ".")
			file = strings.ToLower(kind) + "-" + first + "-" + version + ".json"
		}
		if all[file] != nil {
			return nil, fmt.Errorf("two kinds ask for the name %s, the second is %s of %s", file, kind, group)
		}
		all[file] = data
	}
	return all, nil
}

var stable = regexp.MustCompile(`^v[0-9]+$`)

// object says whether a definition is that of an object with a name, in a version that is served by default.
func object(definition map[string]any) (group, version, kind string, ok bool) {
	kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
	if len(kinds) != 1 { // options and events of a watch belong to every group
		return "", "", "", false
	}
	gvk, _ := kinds[0].(map[string]any)
	group, _ = gvk["group"].(string)
	version, _ = gvk["version"].(string)
	kind, _ = gvk["kind"].(string)
	properties, _ := definition["properties"].(map[string]any)
	metadata, _ := properties["metadata"].(map[string]any)
	ref, _ := metadata["$ref"].(string)
	return group, version, kind, strings.HasSuffix(ref, ".ObjectMeta") && stable.MatchString(version) && kind != ""
}

// derivation collects the definitions that one schema needs.
type derivation struct {
	definitions map[string]map[string]any
	done        map[string]any
}

const local = "#/definitions/"

func (d *derivation) root(name, group, version, kind string) (map[string]any, error) {
	definition := maps.Clone(d.definitions[name])
	required, _ := definition["required"].([]any)
	definition["required"] = append([]any{"apiVersion", "kind", "metadata"}, required...)
	schema, err := d.schema(definition, false)
	if err != nil {
		return nil, err
	}
	properties, ok := schema["properties"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("definition %s has no properties", name)
	}
	properties["apiVersion"] = map[string]any{"enum": []string{strings.TrimPrefix(group+"/"+version, "/")}}
	properties["kind"] = map[string]any{"enum": []string{kind}}
	schema["$schema"] = "http://json-schema.org/draft-04/schema#"
	schema["definitions"] = d.done
	return schema, nil
}

// nullable is appended to the name of a definition that may be null where it stands.
const nullable = "?"

// ref makes a reference, and the definition behind it if it is not there yet.
func (d *derivation) ref(ref string, optional bool) (map[string]any, error) {
	name, ok := strings.CutPrefix(ref, local)
	definition := d.definitions[name]
	if !ok || definition == nil {
		return nil, fmt.Errorf("reference %q leads nowhere", ref)
	}
	key := name
	if optional {
		key += nullable
	}
	if _, ok := d.done[key]; !ok {
		d.done[key] = true // a definition may contain itself
		schema, err := d.named(name, definition, optional)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		d.done[key] = schema
	}
	return map[string]any{"$ref": local + key}, nil
}

// named derives a definition. The document says nothing, or not all, about types that read more than one form of JSON.
func (d *derivation) named(name string, definition map[string]any, optional bool) (map[string]any, error) {
	base := name[:strings.LastIndex(name, ".")+1]
	var other map[string]any // besides a schema of the language of CustomResourceDefinitions
	switch strings.TrimPrefix(name, base) {
	case "Quantity":
		return map[string]any{"type": types(optional, "string", "number")}, nil
	case "JSONSchemaPropsOrBool":
		other = map[string]any{"type": "boolean"}
	case "JSONSchemaPropsOrArray":
		other = map[string]any{"type": "array", "items": map[string]any{"$ref": local + base + "JSONSchemaProps"}}
	case "JSONSchemaPropsOrStringArray":
		other = map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	default:
		return d.schema(definition, optional)
	}
	one, err := d.ref(local+base+"JSONSchemaProps", optional)
	if err != nil {
		return nil, err
	}
	if _, err := d.ref(local+base+"JSONSchemaProps", false); err != nil {
		return nil, err
	}
	return map[string]any{"anyOf": []any{one, other}}, nil
}

func (d *derivation) schema(from map[string]any, optional bool) (map[string]any, error) {
	to := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(from)) {
		var err error
		switch value := from[key].(type) {
		case string:
			switch {
			case key == "$ref":
				return d.ref(value, optional)
			case key == "type" && from["format"] == "int-or-string":
				to[key] = types(optional, "string", "integer")
			case key == "type":
				to[key] = types(optional, value)
			case key == "format" && value != "int-or-string":
				to[key] = value
			case key != "format" && !note(key):
				err = unknown(key)
			}
		case map[string]any:
			switch {
			case key == "properties":
				to[key], err = d.properties(value, from)
				if open, _ := from["x-kubernetes-preserve-unknown-fields"].(bool); !open && from["additionalProperties"] == nil {
					to["additionalProperties"] = false
				}
			case key == "items" || key == "additionalProperties":
				to[key], err = d.schema(value, false)
			case !note(key):
				err = unknown(key)
			}
		default:
			switch {
			case key == "required":
				to[key] = value
			case !note(key):
				err = unknown(key)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return to, nil
}

func (d *derivation) properties(from, owner map[string]any) (map[string]any, error) {
	required, _ := owner["required"].([]any)
	to := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		property, ok := from[name].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("property %s is no schema", name)
		}
		schema, err := d.schema(property, !slices.Contains(required, any(name)))
		if err != nil {
			return nil, fmt.Errorf("property %s: %w", name, err)
		}
		to[name] = schema
	}
	return to, nil
}

// note says that a keyword constrains nothing.
func note(key string) bool { return key == "description" || strings.HasPrefix(key, "x-kubernetes-") }

func unknown(key string) error {
	return fmt.Errorf("this derivation does not know the keyword %q: teach it in schemas.go what it means", key)
}

func types(optional bool, names ...string) any {
	if optional {
		return append(names, "null")
	}
	if len(names) == 1 {
		return names[0]
	}
	return names
}
