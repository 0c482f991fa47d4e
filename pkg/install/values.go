package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
)

// merge lays over on top of base without changing either. Maps merge; everything else, null included, replaces.
func merge(base, over map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(over))
	for k, v := range base {
		out[k] = normal(v)
	}
	for k, v := range over {
		below, isMap := out[k].(map[string]any)
		above, bothMaps := v.(map[string]any)
		if isMap && bothMaps {
			out[k] = merge(below, above)
			continue
		}
		out[k] = normal(v)
	}
	return out
}

// normal copies a value and gives its numbers one type. A number comes from --set as an integer and from the release's
// record as a float: templates would print a million in two ways, and no second install would be a no-op.
func normal(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = normal(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = normal(x)
		}
		return out
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v)
		}
		return v
	case float32:
		return normal(float64(v))
	case int:
		return int64(v)
	case int32:
		return int64(v)
	case uint64:
		return int64(v) //nolint:gosec // values are written by people
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	}
	return v
}

// canonical is JSON with sorted keys.
func canonical(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // values come from YAML or JSON: what cannot be marshalled cannot be there
		return []byte(fmt.Sprintf("%T", v))
	}
	return b
}

func equalValues(a, b map[string]any) bool {
	if len(a) == 0 && len(b) == 0 {
		return true
	}
	return bytes.Equal(canonical(normal(a)), canonical(normal(b)))
}

// lookup finds the value at a dotted path.
func lookup(values map[string]any, path string) (any, bool) {
	head, rest, deeper := strings.Cut(path, ".")
	v, ok := values[head]
	if !ok || !deeper {
		return v, ok
	}
	m, isMap := v.(map[string]any)
	if !isMap {
		return nil, false
	}
	return lookup(m, rest)
}

func lookupString(values map[string]any, path string) string {
	v, _ := lookup(values, path)
	s, _ := v.(string)
	return s
}

func lookupBool(values map[string]any, path string) (value, known bool) {
	v, ok := lookup(values, path)
	b, isBool := v.(bool)
	return b, ok && isBool
}

// set writes a value at a dotted path, making maps on the way.
func set(values map[string]any, path string, v any) {
	head, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		values[head] = v
		return
	}
	m, ok := values[head].(map[string]any)
	if !ok {
		m = map[string]any{}
		values[head] = m
	}
	set(m, rest, v)
}

// remove deletes a path, and the maps that become empty with it.
func remove(values map[string]any, path string) {
	head, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		delete(values, head)
		return
	}
	m, ok := values[head].(map[string]any)
	if !ok {
		return
	}
	remove(m, rest)
	if len(m) == 0 {
		delete(values, head)
	}
}

// inlineCredentials lists the paths where credentials used to be given, each with the key of the Secret it belongs in. Where
// two paths give one key, the later one wins, as in the chart.
func inlineCredentials() []struct{ path, key string } {
	return []struct{ path, key string }{
		{"karpenops.apiKey", KeyAPI}, // until 2024
		{"nops.apiKey", KeyAPI},
		{pathAMPAccess, KeyAMPAccess},
		{pathAMPSecret, KeyAMPSecret},
		{"datadog.apiKey", KeyDatadog},
	}
}

// credentialAt is the credential at a path; empty when there is none.
func credentialAt(values map[string]any, path string) string {
	v, ok := lookup(values, path)
	if !ok || v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// takeCredentials removes inline credentials from values and returns them by Secret key. Empty ones stay: they say nothing.
func takeCredentials(values map[string]any) secretData {
	found := secretData{}
	for _, c := range inlineCredentials() {
		if v := credentialAt(values, c.path); v != "" {
			found[c.key] = []byte(v)
			remove(values, c.path)
		}
	}
	return found
}

func holdsCredentials(values map[string]any) bool {
	return slices.ContainsFunc(inlineCredentials(), func(c struct{ path, key string }) bool { return credentialAt(values, c.path) != "" })
}

// secretData cannot be printed.
type secretData map[string][]byte

// String implements fmt.Stringer.
func (s secretData) String() string {
	return fmt.Sprintf("[%s: redacted]", strings.Join(sortedKeys(s), ", "))
}

// GoString implements fmt.GoStringer.
func (s secretData) GoString() string { return s.String() }

// MarshalJSON implements json.Marshaler.
func (s secretData) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// references lists where the values name the Secret of a credential, and the key in it.
func references() []struct{ key, name, path string } {
	return []struct{ key, name, path string }{
		{KeyAPI, "customerManagedSecrets.apiSecretName", "customerManagedSecrets.apiSecretKey"},
		{KeyAMPAccess, "customerManagedSecrets.ampAccessName", "customerManagedSecrets.ampAccessKey"},
		{KeyAMPSecret, "customerManagedSecrets.ampSecretName", "customerManagedSecrets.ampSecretKey"},
		{KeyDatadog, "customerManagedSecrets.ddSecretName", "customerManagedSecrets.ddSecretKey"},
	}
}

// refer makes the chart read the credentials from the Secret, as far as it holds them and they are used.
func refer(values map[string]any, data secretData) {
	set(values, "customerManagedSecrets.enabled", true)
	for _, r := range references() {
		switch {
		case len(data[r.key]) == 0:
		case isAMP(r.key) && hasRole(values):
			// The keys stay in the Secret, for a rollback to a revision without the role.
			if lookupString(values, r.name) == CredentialsSecret {
				remove(values, r.name)
				remove(values, r.path)
			}
		default:
			set(values, r.name, CredentialsSecret)
			set(values, r.path, r.key)
		}
	}
}

// The paths of the keys of the metrics store (Amazon Managed Prometheus), inline and as an entry of External Secrets' store.
const (
	pathAMPAccess = "containerInsights.ampAccessKey"
	pathAMPSecret = "containerInsights.ampSecretKey"
	pathAMPEntry  = "externalSecrets.data.ampKeys.remoteRef.key"
)

func isAMP(key string) bool { return key == KeyAMPAccess || key == KeyAMPSecret }

// hasRole says whether the values give the service account that writes to the metrics store a role, as the chart sees it:
// no keys are needed then.
func hasRole(values map[string]any) bool {
	if on, _ := lookupBool(values, "containerInsights.podIdentity.enabled"); on {
		return true
	}
	arn := ""
	for _, path := range []string{"containerInsights.serviceAccount.annotations", "victoriaMetrics.serviceAccount.annotations"} {
		v, _ := lookup(values, path)
		annotations, _ := v.(map[string]any)
		if v, ok := annotations["eks.amazonaws.com/role-arn"]; ok { // the later one's wins, empty or not
			arn, _ = v.(string)
		}
	}
	return arn != ""
}

// external says whether External Secrets brings the credentials.
func external(values map[string]any) bool {
	on, _ := lookupBool(values, "externalSecrets.enabled")
	return on
}

// readsAMPFromValues says whether the chart reads the keys of the metrics store from the values and from nowhere else:
// External Secrets brings the others, but not these, and no role makes them unnecessary.
func readsAMPFromValues(values map[string]any) bool {
	return external(values) && lookupString(values, pathAMPEntry) == "" && !hasRole(values)
}

// customersSecrets names the Secrets that the values say somebody else keeps; empty when the credentials are ours to keep.
func customersSecrets(values map[string]any) []string {
	if external(values) {
		return []string{"those of External Secrets"}
	}
	if on, _ := lookupBool(values, "customerManagedSecrets.enabled"); !on {
		return nil
	}
	names := map[string]bool{}
	for _, r := range references() {
		if n := lookupString(values, r.name); n != "" && n != CredentialsSecret {
			names[n] = true
		}
	}
	return sortedKeys(names)
}

// UnknownValue is a value path that the chart does not know.
type UnknownValue struct {
	Path       string `json:"path"`
	Suggestion string `json:"suggestion,omitempty"` // the path that was probably meant
}

// String is the sentence people read.
func (u UnknownValue) String() string {
	s := fmt.Sprintf("unknown value %q", u.Path)
	if u.Suggestion != "" {
		s += fmt.Sprintf(": did you mean %q?", u.Suggestion)
	}
	return s
}

// known is what a chart says about its values, in its defaults and in its schema.
type known struct {
	defaults map[string]any
	root     map[string]any // the schema, for $ref
	schema   map[string]any
	paths    []string
}

func knownValues(c *chart.Chart) (*known, error) {
	k := &known{defaults: c.Values}
	if len(c.Schema) > 0 {
		if err := json.Unmarshal(c.Schema, &k.schema); err != nil {
			return nil, fmt.Errorf("chart %s: values.schema.json: %w", c.Name(), err)
		}
		k.root = k.schema
	}
	k.collect("", k.defaults, k.schema, 0)
	sort.Strings(k.paths)
	return k, nil
}

const maxDepth = 24 // a schema may refer to itself

// collect lists every path that is known and that one would suggest: none that is deprecated.
func (k *known) collect(prefix string, defaults, schema map[string]any, depth int) {
	if depth > maxDepth {
		return
	}
	seen := map[string]bool{}
	properties := k.properties(schema)
	for name := range defaults {
		seen[name] = true
	}
	for name := range properties {
		seen[name] = true
	}
	for name := range seen {
		path := join(prefix, name)
		below, _ := defaults[name].(map[string]any)
		belowSchema := k.resolve(properties[name])
		if old, _ := belowSchema["deprecated"].(bool); old {
			continue
		}
		k.paths = append(k.paths, path)
		if below != nil || belowSchema != nil {
			k.collect(path, below, belowSchema, depth+1)
		}
	}
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// resolve follows local references.
func (k *known) resolve(v any) map[string]any {
	schema, _ := v.(map[string]any)
	for range maxDepth {
		ref, ok := schema["$ref"].(string)
		if !ok {
			return schema
		}
		at := k.root
		for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
			at, _ = at[part].(map[string]any)
		}
		schema = at
	}
	return schema
}

func (k *known) properties(schema map[string]any) map[string]any {
	p, _ := schema["properties"].(map[string]any)
	all, _ := schema["allOf"].([]any)
	for _, part := range all {
		for name, v := range k.properties(k.resolve(part)) {
			if p == nil {
				p = map[string]any{}
			}
			if _, ok := p[name]; !ok {
				p[name] = v
			}
		}
	}
	return p
}

// deprecated lists given values whose schema says they are deprecated, with what it says.
func (k *known) deprecated(values map[string]any) map[string]string {
	found := map[string]string{}
	k.findDeprecated("", values, k.schema, found, 0)
	return found
}

func (k *known) findDeprecated(prefix string, values, schema map[string]any, found map[string]string, depth int) {
	if depth > maxDepth {
		return
	}
	properties := k.properties(schema)
	for name, v := range values {
		s := k.resolve(properties[name])
		if s == nil {
			continue
		}
		path := join(prefix, name)
		if d, _ := s["deprecated"].(bool); d {
			found[path], _ = s["description"].(string)
			continue
		}
		if m, ok := v.(map[string]any); ok {
			k.findDeprecated(path, m, s, found, depth+1)
		}
	}
}

// unknown lists the given paths that the chart does not know, each with a suggestion where one is near.
func (k *known) unknown(values map[string]any) []UnknownValue {
	var paths []string
	k.findUnknown("", values, k.defaults, k.schema, len(k.defaults) > 0, &paths)
	sort.Strings(paths)
	var found []UnknownValue
	for _, p := range paths {
		found = append(found, UnknownValue{Path: p, Suggestion: k.suggest(p)})
	}
	return found
}

func (k *known) findUnknown(prefix string, values, defaults, schema map[string]any, closedByDefaults bool, paths *[]string) {
	properties := k.properties(schema)
	patterns, _ := schema["patternProperties"].(map[string]any)
	// The defaults close what the schema is silent about. One that says no more than "an object" means: any.
	closed := closedByDefaults && schema == nil || len(properties) > 0
	switch additional := schema["additionalProperties"].(type) {
	case bool:
		closed = !additional
	case map[string]any:
		closed = false
	}
	for name, v := range values {
		path := join(prefix, name)
		if prefix == "" && name == "global" {
			continue // Helm's own
		}
		below, inDefaults := defaults[name]
		property, inSchema := properties[name]
		if !inDefaults && !inSchema {
			if !closed || matches(patterns, name) {
				continue
			}
			*paths = append(*paths, leaves(path, v)...)
			continue
		}
		m, isMap := v.(map[string]any)
		if !isMap {
			continue
		}
		belowMap, _ := below.(map[string]any)
		k.findUnknown(path, m, belowMap, k.resolve(property), len(belowMap) > 0, paths)
	}
}

func matches(patterns map[string]any, name string) bool {
	for p := range patterns {
		if re, err := regexp.Compile(p); err == nil && re.MatchString(name) {
			return true
		}
	}
	return false
}

// leaves names what was given below an unknown path: "autoUpater.enabled" says more than "autoUpater".
func leaves(path string, v any) []string {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return []string{path}
	}
	var all []string
	for name, x := range m {
		all = append(all, leaves(join(path, name), x)...)
	}
	return all
}

// suggest finds the known path that was probably meant.
func (k *known) suggest(path string) string {
	best, bestScore := "", math.MaxInt
	last := path[strings.LastIndexByte(path, '.')+1:]
	for _, candidate := range k.paths {
		score := distance(strings.ToLower(path), strings.ToLower(candidate))
		limit := max(2, len(path)/5)
		if strings.Count(path, ".") != strings.Count(candidate, ".") {
			// Given at another depth: `apiKey` for `nops.apiKey`.
			if !strings.HasSuffix(candidate, "."+last) || strings.Contains(path, ".") {
				continue
			}
			score = 2
		}
		if score <= limit && (score < bestScore || score == bestScore && len(candidate) < len(best)) {
			best, bestScore = candidate, score
		}
	}
	return best
}

// distance counts insertions, deletions, replacements and swaps of neighbours.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		rows[2][0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[1][j]+1, rows[2][j-1]+1, rows[1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[0][j-2]+1)
			}
			rows[2][j] = d
		}
		rows[0], rows[1], rows[2] = rows[1], rows[2], rows[0]
	}
	return rows[1][len(b)]
}

// ValueChange is one value that a plan changes. Values that look like credentials are not shown.
type ValueChange struct {
	Path string `json:"path"`
	Old  any    `json:"old,omitempty"`
	New  any    `json:"new,omitempty"`
}

var secretName = regexp.MustCompile(`(?i)(api|access|secret|private|licen[cs]e)_?key$|password|passwd|token$|credentials?$|secret$`)

func valueChanges(before, after map[string]any) []ValueChange {
	a, b := map[string]any{}, map[string]any{}
	flatten("", before, a)
	flatten("", after, b)
	var changes []ValueChange
	for _, path := range sortedKeys(merge(a, b)) {
		oldValue, newValue := a[path], b[path]
		if bytes.Equal(canonical(normal(oldValue)), canonical(normal(newValue))) {
			continue
		}
		if secretName.MatchString(path) && !NamesSecret(path) {
			oldValue, newValue = hide(oldValue), hide(newValue)
		}
		changes = append(changes, ValueChange{Path: path, Old: oldValue, New: newValue})
	}
	return changes
}

// NamesSecret says whether the chart's value at a path is the name of a Secret or of a key in one. Such a name is no credential, though the path looks
// like that of one.
func NamesSecret(path string) bool {
	switch path {
	case "containerRightsizing.recommender.store.secretName", "containerRightsizing.recommender.store.usernameKey", "containerRightsizing.recommender.store.passwordKey", "containerRightsizing.recommender.store.tokenKey":
		return true
	}
	return strings.HasPrefix(path, "customerManagedSecrets.")
}

func hide(v any) any {
	if v == nil || v == "" {
		return v
	}
	return "[redacted]"
}

func flatten(prefix string, values map[string]any, out map[string]any) {
	for name, v := range values {
		path := join(prefix, name)
		if m, ok := v.(map[string]any); ok && len(m) > 0 {
			flatten(path, m, out)
			continue
		}
		out[path] = v
	}
}
