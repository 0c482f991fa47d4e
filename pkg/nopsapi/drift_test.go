package nopsapi_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// source is the package as it is written, so that what is added to it cannot be forgotten here.
type source struct {
	paths    []string            // functions that make paths
	messages []string            // structs with JSON names
	values   map[string][]string // constants of texts, by the beginning of their names
}

func readSource(t *testing.T) source {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := source{values: map[string][]string{}}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && strings.HasPrefix(d.Name.Name, "Path") {
					found.paths = append(found.paths, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					found.take(t, spec)
				}
			}
		}
	}
	slices.Sort(found.messages)
	return found
}

func (f *source) take(t *testing.T, spec ast.Spec) {
	t.Helper()
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if st, ok := s.Type.(*ast.StructType); ok && len(st.Fields.List) > 0 && st.Fields.List[len(st.Fields.List)-1].Tag != nil {
			f.messages = append(f.messages, s.Name.Name)
		}
	case *ast.ValueSpec:
		if len(s.Values) != 1 {
			return
		}
		lit, ok := s.Values[0].(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range []string{"Scope", "State", "Pipeline", "Code", "From", "Capacity", "Commitment", "Unit", "Outcome"} {
			if strings.HasPrefix(s.Names[0].Name, group) {
				f.values[group] = append(f.values[group], text)
			}
		}
		if name := s.Names[0].Name; name == "WarningOpen" || name == "WarningClosed" {
			f.values["WarningState"] = append(f.values["WarningState"], text)
		} else if strings.HasPrefix(name, "Warning") {
			f.values["WarningKind"] = append(f.values["WarningKind"], text)
		}
	}
}

// TestEverythingIsHeld fails when a path or a message is added to the package and to no test.
func TestEverythingIsHeld(t *testing.T) {
	s := readSource(t)
	if len(s.paths) < 22 || len(s.messages) < 61 {
		t.Fatalf("only %d paths and %d messages found: the test does not see the package", len(s.paths), len(s.messages))
	}
	known := slices.Sorted(maps.Keys(messages()))
	if diff := cmp.Diff(known, s.messages); diff != "" {
		t.Errorf("messages of the tests and of the package differ:\n%s", diff)
	}
	text := string(mustRead(t, "openapi_test.go"))
	for _, path := range s.paths {
		if !strings.Contains(text, "nopsapi."+path+"(") {
			t.Errorf("%s is in no test: it must be a path of openapi.yaml", path)
		}
	}
}

// TestValues holds the values that the document allows against the constants.
func TestValues(t *testing.T) {
	s, schemas := readSource(t).values, read(t).Components.Schemas
	scopes := schemas["WhoAmI"].Properties["scopes"].Items.Enum
	for name, tt := range map[string]struct{ document, constants []string }{
		"scopes":          {scopes, s["Scope"]},
		"component state": {schemas["ComponentStatus"].Properties["state"].Known, s["State"]},
		"pipeline state":  {schemas["PipelineStatus"].Properties["state"].Known, s["Pipeline"]},
		"error code":      {schemas["ErrorDetail"].Properties["code"].Enum, s["Code"]},
		"warning kind":    {schemas["Warning"].Properties["kind"].Enum, s["WarningKind"]},
		"warning state":   {schemas["Warning"].Properties["state"].Enum, s["WarningState"]},
		"observed from":   {schemas["Observation"].Properties["from"].Enum, s["From"]},
		"capacity type":   {schemas["MarketOffering"].Properties["capacity_type"].Enum, s["Capacity"]},
		"commitment":      {schemas["Commitment"].Properties["kind"].Enum, s["Commitment"]},
		"unit":            {schemas["Commitment"].Properties["unit"].Enum, s["Unit"]},
		"outcome":         {schemas["Outcome"].Properties["kind"].Known, s["Outcome"]},
	} {
		if len(tt.constants) == 0 {
			t.Errorf("%s: no constants found", name)
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(tt.document)), slices.Sorted(slices.Values(tt.constants))); diff != "" {
			t.Errorf("%s: document and constants differ:\n%s", name, diff)
		}
	}
}

// TestLimits holds what the document says of sizes, names and versions against the constants.
func TestLimits(t *testing.T) {
	d := read(t)
	s := d.Components.Schemas
	operation := func(method, path string) operation {
		return d.Paths[strings.ReplaceAll(path, "/arn/", "/{arn}/")][method]
	}
	for name, tt := range map[string]struct{ got, want any }{
		"OpenAPI":          {d.OpenAPI, "3.1.0"},
		"version":          {d.Info.Version, strconv.Itoa(nopsapi.Version)},
		"oldest schema":    {s["Heartbeat"].Properties["schema_version"].Minimum, 1},
		"newest schema":    {s["Heartbeat"].Properties["schema_version"].Maximum, nopsapi.HeartbeatSchema},
		"host":             {d.Servers[0].URL, nopsapi.DefaultHost},
		"header":           {d.Components.SecuritySchemes["apiKey"].Name, nopsapi.KeyHeader},
		"idempotency":      {d.Components.Parameters["IdempotencyKey"].Name, nopsapi.IdempotencyHeader},
		"idempotency key":  {d.Components.Parameters["IdempotencyKey"].Schema.MaxLength, nopsapi.MaxIdempotencyKey},
		"boot_id":          {s["Heartbeat"].Properties["boot_id"].MaxLength, nopsapi.MaxBootID},
		"compressed beat":  {d.Paths[strings.ReplaceAll(nopsapi.PathHeartbeats("arn"), "/arn/", "/{arn}/")]["post"].MaxCompressed, nopsapi.MaxHeartbeatCompressed},
		"market":           {operation("put", nopsapi.PathMarket("arn")).MaxBytes, nopsapi.MaxMarket},
		"market read":      {operation("get", nopsapi.PathMarket("arn")).MaxBytes, nopsapi.MaxMarket},
		"inventory":        {operation("put", nopsapi.PathKarpenterInventory("arn")).MaxBytes, nopsapi.MaxInventory},
		"inventory read":   {operation("get", nopsapi.PathKarpenterInventory("arn")).MaxBytes, nopsapi.MaxInventory},
		"packed inventory": {operation("put", nopsapi.PathKarpenterInventory("arn")).MaxCompressed, nopsapi.MaxBody},
		"facts":            {s["FactHeader"].Properties["schema_version"].Maximum, nopsapi.KarpenterSchema},
		"inventory schema": {s["KarpenterInventory"].Properties["schema_version"].Maximum, nopsapi.KarpenterSchema},
		"instance types":   {s["Market"].Properties["instance_types"].MaxItems, nopsapi.MaxInstanceTypes},
		"offerings":        {s["Market"].Properties["offerings"].MaxItems, nopsapi.MaxOfferings},
		"price":            {float64(s["MarketOffering"].Properties["price"].Maximum), nopsapi.MaxPrice},
		"commitments":      {s["Commitments"].Properties["commitments"].MaxItems, nopsapi.MaxCommitments},
		"pools":            {s["KarpenterInventory"].Properties["pools"].MaxItems, nopsapi.MaxPools},
		"node classes":     {s["KarpenterInventory"].Properties["node_classes"].MaxItems, nopsapi.MaxNodeClasses},
		"nodes":            {s["KarpenterInventory"].Properties["nodes"].MaxItems, nopsapi.MaxNodes},
		"findings":         {s["KarpenterInventory"].Properties["findings"].MaxItems, nopsapi.MaxFindings},
		"records sent":     {s["KarpenterRecords"].Properties["records"].MaxItems, nopsapi.MaxRecords},
		"records read":     {s["KarpenterRecordList"].Properties["records"].MaxItems, nopsapi.MaxRecords},
		"record ID":        {s["KarpenterRecord"].Properties["id"].MaxLength, nopsapi.MaxRecordID},
		"workloads":        {s["RightsizedWorkloads"].Properties["workloads"].MaxItems, nopsapi.MaxWorkloads},
		"recommendations":  {s["Recommendations"].Properties["workloads"].MaxItems, nopsapi.MaxWorkloads},
		"containers":       {s["WorkloadRecommendation"].Properties["containers"].MaxItems, nopsapi.MaxContainers},
		"wanted":           {s["RightsizedWorkload"].Properties["containers"].MaxItems, nopsapi.MaxContainers},
		"outcomes sent":    {s["Outcomes"].Properties["outcomes"].MaxItems, nopsapi.MaxOutcomes},
		"outcomes read":    {s["OutcomeList"].Properties["outcomes"].MaxItems, nopsapi.MaxOutcomes},
		"outcome ID":       {s["Outcome"].Properties["id"].MaxLength, nopsapi.MaxRecordID},
		"recommended":      {s["Recommendations"].Properties["schema_version"].Maximum, nopsapi.RightsizingSchema},
		"workloads schema": {s["RightsizedWorkloads"].Properties["schema_version"].Maximum, nopsapi.RightsizingSchema},
		"outcomes schema":  {s["Outcomes"].Properties["schema_version"].Maximum, nopsapi.RightsizingSchema},
		"list read":        {operation("get", nopsapi.PathRecommendations("arn")).MaxBytes, nopsapi.MaxRecommendations},
		"list published":   {operation("put", nopsapi.PathRecommendations("arn")).MaxBytes, nopsapi.MaxRecommendations},
		"list wanted":      {operation("put", nopsapi.PathRightsizedWorkloads("arn")).MaxBytes, nopsapi.MaxRecommendations},
		"components":       {s["Heartbeat"].Properties["components"].MaxItems, nopsapi.MaxComponents},
		"heartbeats":       {s["HeartbeatList"].Properties["heartbeats"].MaxItems, nopsapi.MaxHeartbeatsPerAnswer},
		"name of a key":    {s["NewAPIKey"].Properties["name"].MaxLength, nopsapi.MaxKeyName},
		"shortest beat":    {s["HeartbeatAck"].Properties["interval_seconds"].Minimum, nopsapi.MinHeartbeatInterval},
		"longest interval": {s["HeartbeatAck"].Properties["interval_seconds"].Maximum, nopsapi.MaxHeartbeatInterval},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: the document says %v, the package %v", name, tt.got, tt.want)
		}
	}
	for _, words := range []string{"project's own", "not a claim about nOps's servers"} {
		if !strings.Contains(d.Info.Description, words) {
			t.Errorf("the document does not say %q", words)
		}
	}
}

// TestTheDriftTestSeesDrift plants differences: each must be found, or the tests above prove nothing.
func TestTheDriftTestSeesDrift(t *testing.T) {
	type more struct {
		nopsapi.AgentKey
		Extra string `json:"extra,omitempty"`
	}
	type other struct {
		ID  string `json:"id,omitempty"`
		Key int    `json:"key"`
	}
	s := read(t).Components.Schemas["AgentKey"]
	if problems := compare("AgentKey", s, nopsapi.AgentKey{}); len(problems) != 0 {
		t.Fatalf("without drift: %v", problems)
	}
	for _, message := range []any{more{}, other{}} {
		if len(compare("AgentKey", s, message)) == 0 {
			t.Errorf("drift of %T is not seen", message)
		}
	}
	var fewer schema
	if err := json.Unmarshal([]byte(`{"required":["id"],"properties":{"id":{"type":"string"}}}`), &fewer); err != nil {
		t.Fatal(err)
	}
	if len(compare("AgentKey", fewer, nopsapi.AgentKey{})) == 0 {
		t.Error("a schema with fewer fields is not seen")
	}
}
