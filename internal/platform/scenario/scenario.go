// Package scenario plays markets and commitments that were written down: prices and scores over time, noise, zones that collapse, commitments
// that expire, and whatever a platform can get wrong in between.
//
// It is pure. What is answered at a moment depends on the file, the moment at which the scenario began and the moment itself, on nothing
// else: two runs give the same bytes, and a month plays as fast as it is asked for. The local platform serves it, the lab chooses it, a
// replay walks through it:
//
//	s, err := scenario.Named("az-collapse")              // or Decode of a file, YAML or JSON
//	player := s.Player(start)
//	a := player.At(scenario.Market, start.Add(50*time.Hour))
//	a.Market                                             // *nopsapi.Market, nil where the answer is not one
//	a.Status, a.ContentType, a.Body(), a.RetryAfter, …   // as HTTP carries it
//
// docs/contract.md describes the file; the examples are in examples.
package scenario

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Kind is a document of facts.
type Kind string

// The kinds.
const (
	Market      Kind = "market"
	Commitments Kind = "commitments"
)

// Fault is what goes wrong with an answer.
type Fault string

// The faults.
const (
	FaultStatus    Fault = "status"    // Status is answered, with RetryAfter
	FaultDrop      Fault = "drop"      // the connection is cut
	FaultSlow      Fault = "slow"      // the answer is right and comes after Latency
	FaultFrozen    Fault = "frozen"    // whoever makes the documents stopped: the last one is served on, and expires
	FaultStale     Fault = "stale"     // a new number on a document of the past: as_of and valid_until lie back by Shift
	FaultFuture    Fault = "future"    // as_of lies ahead by Shift
	FaultReplay    Fault = "replay"    // the document of Back numbers ago
	FaultSchema    Fault = "schema"    // of a schema that does not exist yet
	FaultTruncated Fault = "truncated" // JSON that ends in the middle, with 200
	FaultHTML      Fault = "html"      // a web page, with 200
	FaultNumbers   Fault = "numbers"   // NaN, numbers beyond a float64, negative ones, numbers as texts: one after the other
	FaultHuge      Fault = "huge"      // more bytes than the contract allows
	FaultEmpty     Fault = "empty"     // nothing, with 200
)

// Faults are all of them.
func Faults() []Fault {
	return []Fault{
		FaultStatus, FaultDrop, FaultSlow, FaultFrozen, FaultStale, FaultFuture, FaultReplay, FaultSchema, FaultTruncated, FaultHTML, FaultNumbers,
		FaultHuge, FaultEmpty,
	}
}

// Duration is written "90s", "36h", "3d" or "3d12h"; in JSON and YAML as a text.
type Duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("duration %s: expected a text such as \"36h\" or \"3d12h\"", data)
	}
	value, err := ParseDuration(text)
	*d = Duration(value)
	return err
}

// ParseDuration reads "90s", "36h", "3d" or "3d12h", with a minus before it or not.
func ParseDuration(text string) (time.Duration, error) {
	rest, negative := strings.CutPrefix(text, "-")
	var days time.Duration
	if n, after, ok := strings.Cut(rest, "d"); ok {
		count, err := strconv.ParseUint(n, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("duration %q: expected one such as 36h or 3d12h", text)
		}
		days, rest = time.Duration(count)*24*time.Hour, after
	}
	var part time.Duration
	if rest != "" || days == 0 {
		var err error
		if part, err = time.ParseDuration(rest); err != nil || part < 0 {
			return 0, fmt.Errorf("duration %q: expected one such as 36h or 3d12h", text)
		}
	}
	all := days + part
	if part > longest || all > longest {
		return 0, fmt.Errorf("duration %q: at most %d days are allowed", text, longest/(24*time.Hour))
	}
	if negative {
		all = -all
	}
	return all, nil
}

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String()) //nolint:wrapcheck // a text
}

// Bounds of a scenario.
const (
	longest  = 10 * 365 * 24 * time.Hour
	maxFile  = 1 << 20
	maxSteps = 500
)

// Scenario is a file.
type Scenario struct {
	Name  string `json:"name"`
	About string `json:"about,omitempty"` // what it is for
	// Region is us-east-1 when empty.
	Region string `json:"region,omitempty"`
	// Every is how often a document is made, 5 minutes when 0; each is valid for ValidFor, three times Every when 0.
	Every    Duration `json:"every,omitempty"`
	ValidFor Duration `json:"valid_for,omitempty"`
	// FirstSeq is the number of the first document; the Unix time of the start when 0, so that a scenario that is begun later goes on rising.
	FirstSeq uint64 `json:"first_seq,omitempty"`
	// TargetVCPU is what the scores are of, 64 when 0.
	TargetVCPU  int          `json:"target_vcpu,omitempty"`
	Zones       []Zone       `json:"zones,omitempty"`
	Families    []Family     `json:"families,omitempty"`
	Types       []Type       `json:"types,omitempty"`
	Noise       Noise        `json:"noise,omitzero"`
	Commitments []Commitment `json:"commitments,omitempty"`
	Steps       []Step       `json:"steps,omitempty"`
}

// Zone is one of the region's.
type Zone struct {
	ID   string `json:"id"`             // "use1-az1"
	Name string `json:"name,omitempty"` // "us-east-1a"
}

// Offer is what types and families have in common.
type Offer struct {
	Arch string `json:"arch,omitempty"` // amd64
	// Score is the placement score of spot; 0: not known.
	Score         int               `json:"score,omitempty"`
	Interruption  []float64         `json:"interruption,omitempty"` // monthly, low and high; empty: not known
	Confidence    float64           `json:"confidence,omitempty"`
	Zones         []string          `json:"zones,omitempty"`          // IDs; empty: all
	CapacityTypes []string          `json:"capacity_types,omitempty"` // empty: spot, where it has a price, and on-demand
	Labels        map[string]string `json:"labels,omitempty"`         // besides those that the name gives
}

// Family are instance types of one family, in sizes as EC2 names them.
type Family struct {
	Name             string   `json:"name"`  // "m7i"
	Sizes            []string `json:"sizes"` // "large", "xlarge", "2xlarge", …
	MemoryMiBPerVCPU int      `json:"memory_mib_per_vcpu"`
	OnDemandPerVCPU  float64  `json:"on_demand_per_vcpu"` // USD an hour
	SpotPerVCPU      float64  `json:"spot_per_vcpu,omitempty"`
	Offer
}

// Type is one instance type.
type Type struct {
	Name      string  `json:"name"`
	VCPU      int     `json:"vcpu"`
	MemoryMiB int     `json:"memory_mib"`
	MaxPods   int     `json:"max_pods,omitempty"`
	OnDemand  float64 `json:"on_demand"` // USD an hour
	Spot      float64 `json:"spot,omitempty"`
	Offer
}

// Noise moves spot's scores and prices about. It is smooth over Period, with some more from document to document.
type Noise struct {
	Seed   uint64   `json:"seed,omitempty"`
	Score  float64  `json:"score,omitempty"`  // at most so much up or down
	Price  float64  `json:"price,omitempty"`  // at most this share up or down
	Period Duration `json:"period,omitempty"` // 6 h when 0
}

// Commitment is a nopsapi.Commitment whose times count from the start of the scenario.
type Commitment struct {
	ID       string                  `json:"id"`
	Kind     string                  `json:"kind"`
	Scope    nopsapi.CommitmentScope `json:"scope,omitzero"`
	Start    Duration                `json:"start,omitempty"` // usually negative; a year ago when 0
	End      Duration                `json:"end,omitempty"`   // in a year when 0
	Unit     string                  `json:"unit"`
	Total    float64                 `json:"total"`
	OtherUse nopsapi.CommitmentUse   `json:"other_use,omitzero"`
	Rates    map[string]float64      `json:"rates,omitempty"`
	// VCPU is this cluster's share, leased for Lease (2 h when 0) with each document; nil: none.
	VCPU  *float64 `json:"vcpu,omitempty"`
	Lease Duration `json:"lease,omitempty"`
}

// Step is what is otherwise from a moment on. Later steps of the list go over earlier ones.
type Step struct {
	At Duration `json:"at"`
	// For is how long it holds; for good when 0. Repeat begins it again and again.
	For    Duration `json:"for,omitempty"`
	Repeat Duration `json:"repeat,omitempty"`
	About  string   `json:"about,omitempty"`

	// Of the offerings that Where chooses:
	Where        Where     `json:"where,omitzero"`
	Score        *int      `json:"score,omitempty"`
	Square       *Square   `json:"square,omitempty"`       // the score goes up and down
	PriceFactor  float64   `json:"price_factor,omitempty"` // of spot
	Ramp         Duration  `json:"ramp,omitempty"`         // in which the factor is reached
	Interruption []float64 `json:"interruption,omitempty"`
	Absent       bool      `json:"absent,omitempty"` // left out: not known

	// Of the commitment of this ID:
	Commitment   string   `json:"commitment,omitempty"`
	Total        *float64 `json:"total,omitempty"`
	OtherUse     *float64 `json:"other_use,omitempty"` // takes the place of p10, p50, p90 and last
	VCPU         *float64 `json:"vcpu,omitempty"`
	NoAllocation bool     `json:"no_allocation,omitempty"`
	LeaseEnds    bool     `json:"lease_ends,omitempty"` // it is not renewed any more
	Gone         bool     `json:"gone,omitempty"`       // it is not listed

	// Of the answers for these kinds; of both when empty:
	Of         []Kind   `json:"of,omitempty"`
	Fault      Fault    `json:"fault,omitempty"`
	Status     int      `json:"status,omitempty"`
	RetryAfter Duration `json:"retry_after,omitempty"`
	Latency    Duration `json:"latency,omitempty"`
	Shift      Duration `json:"shift,omitempty"` // an hour beyond what is valid when 0
	Back       int      `json:"back,omitempty"`  // 5 when 0
}

// Where chooses offerings: those that fit every list that is not empty.
type Where struct {
	Families      []string `json:"families,omitempty"`
	Types         []string `json:"types,omitempty"`
	Zones         []string `json:"zones,omitempty"` // IDs
	CapacityTypes []string `json:"capacity_types,omitempty"`
}

// Square is a score that is Low for the first half of each period and High for the other.
type Square struct {
	Period Duration `json:"period"`
	Low    int      `json:"low"`
	High   int      `json:"high"`
}

// Decode reads a file, YAML or JSON. What it does not know it refuses: a misspelt word must not play another scenario.
func Decode(data []byte) (Scenario, error) {
	if len(data) > maxFile {
		return Scenario{}, fmt.Errorf("scenario: %d bytes, at most %d are allowed", len(data), maxFile)
	}
	reader := yaml.NewDecoder(bytes.NewReader(data))
	var tree, more any
	if err := reader.Decode(&tree); err != nil {
		return Scenario{}, fmt.Errorf("scenario: %w", err)
	}
	if err := reader.Decode(&more); !errors.Is(err, io.EOF) {
		return Scenario{}, errors.New("scenario: more than one document in the file")
	}
	plain, err := json.Marshal(tree)
	if err != nil {
		return Scenario{}, fmt.Errorf("scenario: %w", err)
	}
	var s Scenario
	strict := json.NewDecoder(bytes.NewReader(plain))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&s); err != nil {
		return Scenario{}, fmt.Errorf("scenario: %w", err)
	}
	if err := s.Validate(); err != nil {
		return Scenario{}, err
	}
	return s, nil
}

//go:embed examples/*.yaml
var examples embed.FS

// Names are the scenarios that come with the package.
func Names() []string {
	files, _ := fs.Glob(examples, "examples/*.yaml") // the pattern is right
	for i, f := range files {
		files[i] = strings.TrimSuffix(path.Base(f), ".yaml")
	}
	return files
}

// Named is one of those.
func Named(name string) (Scenario, error) {
	text, err := Text(name)
	if err != nil {
		return Scenario{}, err
	}
	return Decode(text)
}

// Text is the file of one of those.
func Text(name string) ([]byte, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("scenario %q: none of that name; there are %s", name, strings.Join(Names(), ", "))
	}
	return examples.ReadFile("examples/" + name + ".yaml") //nolint:wrapcheck // it is there
}

// From is the scenario as it is begun in the middle, now: its numbers are those of a scenario that begins now, so that they rise after those of
// any before it. A scenario that says its first number keeps it.
func (s Scenario) From(at time.Duration, now time.Time) Scenario {
	if s.FirstSeq == 0 {
		passed := int64(at / time.Duration(s.withDefaults().Every))
		s.FirstSeq = uint64(max(now.Unix()-passed, 1))
	}
	return s
}

func (s Scenario) withDefaults() Scenario {
	if s.Region == "" {
		s.Region = "us-east-1"
	}
	if s.Every == 0 {
		s.Every = Duration(5 * time.Minute)
	}
	if s.ValidFor == 0 {
		s.ValidFor = min(3*s.Every, Duration(nopsapi.MaxValidity))
	}
	if s.TargetVCPU == 0 {
		s.TargetVCPU = 64
	}
	if s.Noise.Period == 0 {
		s.Noise.Period = Duration(6 * time.Hour)
	}
	s.Commitments = slices.Clone(s.Commitments)
	for i := range s.Commitments {
		c := &s.Commitments[i]
		if c.Start == 0 {
			c.Start = -Duration(365 * 24 * time.Hour)
		}
		if c.End == 0 {
			c.End = Duration(365 * 24 * time.Hour)
		}
		if c.Lease == 0 {
			c.Lease = Duration(2 * time.Hour)
		}
	}
	return s
}

// Validate says what is wrong with a scenario. One that is right plays documents that are right, but for the faults it asks for.
func (s Scenario) Validate() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("scenario %q: %w", s.Name, fmt.Errorf(format, args...))
	}
	s = s.withDefaults()
	switch {
	case s.Name == "":
		return errors.New("scenario: name is missing")
	case time.Duration(s.Every) < time.Second:
		return wrong("every %s: at least a second, for numbers are seconds", time.Duration(s.Every))
	case s.ValidFor <= 0 || time.Duration(s.ValidFor) > nopsapi.MaxValidity:
		return wrong("valid_for %s: expected up to %s", time.Duration(s.ValidFor), nopsapi.MaxValidity)
	case s.FirstSeq > 1<<62:
		return wrong("first_seq %d is too large to rise from", s.FirstSeq)
	case s.TargetVCPU < 0:
		return wrong("target_vcpu %d is negative", s.TargetVCPU)
	case len(s.Steps) > maxSteps:
		return wrong("steps: %d, at most %d are allowed", len(s.Steps), maxSteps)
	case !share(s.Noise.Score, 10) || !share(s.Noise.Price, 1) || time.Duration(s.Noise.Period) < time.Minute:
		return wrong("noise: expected a score up to 10, a price up to 1, and a period of a minute at least")
	case (len(s.Families) > 0 || len(s.Types) > 0) && len(s.Zones) == 0:
		return wrong("zones is empty: where are the instances?")
	}
	zones := map[string]bool{}
	for _, z := range s.Zones {
		if zones[z.ID] {
			return wrong("zone %s is listed twice", z.ID)
		}
		zones[z.ID] = true
	}
	types, err := s.types()
	if err != nil {
		return wrong("%w", err)
	}
	count := 0
	for _, t := range types {
		if err := t.check(zones); err != nil {
			return wrong("%s: %w", t.Name, err)
		}
		count += len(t.capacities()) * max(len(t.Zones), len(s.Zones))
	}
	if len(types) > nopsapi.MaxInstanceTypes || count > nopsapi.MaxOfferings {
		return wrong("%d types, %d offerings: at most %d and %d are allowed", len(types), count, nopsapi.MaxInstanceTypes, nopsapi.MaxOfferings)
	}
	for i, step := range s.Steps {
		if err := s.checkStep(step, zones); err != nil {
			return wrong("step %d at %s: %w", i, time.Duration(step.At), err)
		}
	}
	// What is left is the contract's to judge: names, prices, scopes.
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := Scenario{
		Name: s.Name, Region: s.Region, Every: s.Every, ValidFor: s.ValidFor, TargetVCPU: s.TargetVCPU, Zones: s.Zones, Families: s.Families, Types: s.Types,
		Commitments: s.Commitments, FirstSeq: 1,
	}.Player(start)
	if err := p.At(Market, start).Market.Validate(); err != nil {
		return wrong("%w", err)
	}
	if err := p.At(Commitments, start).Commitments.Validate(); err != nil {
		return wrong("%w", err)
	}
	return nil
}

// share is false of what is not a number.
func share(x, most float64) bool { return x >= 0 && x <= most }

// pair says whether a list is two shares, the lower one first, or nothing.
func pair(list []float64) bool {
	return len(list) == 0 || len(list) == 2 && share(list[0], 1) && share(list[1], 1) && list[0] <= list[1]
}

func (t Type) check(zones map[string]bool) error {
	switch {
	case !pair(t.Interruption):
		return errors.New("interruption: expected two shares from 0 to 1, the lower one first")
	case t.Score < 0 || t.Score > 10:
		return fmt.Errorf("score %d: expected 1 to 10, or 0 where it is not known", t.Score)
	case t.Spot < 0 || t.OnDemand <= 0 || t.Spot > t.OnDemand:
		return fmt.Errorf("spot at %v, on demand at %v: expected spot not to be dearer", t.Spot, t.OnDemand)
	}
	seen := map[string]bool{}
	for _, z := range t.Zones {
		if !zones[z] || seen[z] {
			return fmt.Errorf("zone %q: not one of zones, or listed twice", z)
		}
		seen[z] = true
	}
	for _, c := range t.CapacityTypes {
		switch {
		case seen[c] || c != nopsapi.CapacitySpot && c != nopsapi.CapacityOnDemand && c != nopsapi.CapacityReserved:
			return fmt.Errorf("capacity type %q: unknown, or listed twice", c)
		case c == nopsapi.CapacitySpot && t.Spot == 0:
			return errors.New("capacity type spot without a price of spot")
		}
		seen[c] = true
	}
	return nil
}

func (s Scenario) checkStep(step Step, zones map[string]bool) error {
	offers := step.Score != nil || step.Square != nil || step.PriceFactor != 0 || len(step.Interruption) > 0 || step.Absent
	parts := 0
	for _, part := range []bool{step.Commitment != "", offers, step.Fault != ""} {
		if part {
			parts++
		}
	}
	switch {
	case step.At < 0 || step.For < 0 || step.Repeat < 0 || step.Repeat > 0 && (step.For == 0 || step.For > step.Repeat):
		return errors.New("at, for and repeat: none negative, and what repeats holds no longer than until it does")
	case parts != 1:
		return errors.New("expected one thing: what changes of offerings, of a commitment, or a fault")
	}
	for _, z := range step.Where.Zones {
		if !zones[z] {
			return fmt.Errorf("zone %q is not one of zones", z)
		}
	}
	if step.Commitment != "" {
		return s.checkCommitment(step)
	}
	return errors.Join(step.checkOffers(), step.checkFault())
}

func (step Step) checkOffers() error {
	score := func(n int) bool { return n >= 1 && n <= 10 }
	switch {
	case step.Score != nil && !score(*step.Score):
		return fmt.Errorf("score %d: expected 1 to 10", *step.Score)
	case step.Square != nil && (!score(step.Square.Low) || !score(step.Square.High) || time.Duration(step.Square.Period) < time.Minute):
		return errors.New("square: expected low and high from 1 to 10, and a period of a minute at least")
	case !share(step.PriceFactor, 100) || step.Ramp < 0:
		return fmt.Errorf("price_factor %v: expected above 0 and up to 100, ramp not negative", step.PriceFactor)
	case !pair(step.Interruption):
		return errors.New("interruption: expected two shares from 0 to 1, the lower one first")
	}
	return nil
}

func (step Step) checkFault() error {
	switch {
	case step.Back < 0 || step.Latency < 0 || step.RetryAfter < 0 || step.Shift < 0:
		return errors.New("back, latency, retry_after and shift: none negative")
	case step.Fault != "" && !slices.Contains(Faults(), step.Fault):
		return fmt.Errorf("fault %q: expected one of %v", step.Fault, Faults())
	case (step.Fault == FaultStatus) != (step.Status != 0) || step.Status != 0 && (step.Status < 400 || step.Status > 599):
		return fmt.Errorf("status %d: goes with the fault status, from 400 to 599", step.Status)
	case step.Fault == FaultSlow && step.Latency == 0:
		return errors.New("fault slow without latency")
	}
	for _, k := range step.Of {
		if k != Market && k != Commitments {
			return fmt.Errorf("of %q: expected %s or %s", k, Market, Commitments)
		}
	}
	return nil
}

func (s Scenario) checkCommitment(step Step) error {
	i := slices.IndexFunc(s.Commitments, func(c Commitment) bool { return c.ID == step.Commitment })
	if i < 0 {
		return fmt.Errorf("commitment %q is not one of commitments", step.Commitment)
	}
	for _, x := range []*float64{step.Total, step.OtherUse, step.VCPU} {
		if x != nil && !share(*x, 1e9) {
			return fmt.Errorf("commitment %s: %v: expected 0 to 1e9", step.Commitment, *x)
		}
	}
	return nil
}

// sizes are EC2's smaller ones in vCPU; of "2xlarge" and so on the number says it.
func vcpus(size string) (int, error) {
	switch size {
	case "medium":
		return 1, nil
	case "large":
		return 2, nil
	case "xlarge":
		return 4, nil
	}
	n, err := strconv.Atoi(strings.TrimSuffix(size, "xlarge"))
	if err != nil || !strings.HasSuffix(size, "xlarge") || n < 2 || n > 1000 {
		return 0, fmt.Errorf("size %q: expected medium, large, xlarge, 2xlarge, …", size)
	}
	return 4 * n, nil
}

// types are all, those of the families written out.
func (s Scenario) types() ([]Type, error) {
	all := slices.Clone(s.Types)
	for _, f := range s.Families {
		if len(f.Sizes) == 0 {
			return nil, fmt.Errorf("family %q has no sizes", f.Name)
		}
		for _, size := range f.Sizes {
			n, err := vcpus(size)
			if err != nil {
				return nil, fmt.Errorf("family %q: %w", f.Name, err)
			}
			all = append(all, Type{Name: f.Name + "." + size, VCPU: n, MemoryMiB: n * f.MemoryMiBPerVCPU, OnDemand: float64(n) * f.OnDemandPerVCPU, Spot: float64(n) * f.SpotPerVCPU, Offer: f.Offer})
		}
	}
	return all, nil
}

func (t Type) capacities() []string {
	switch {
	case len(t.CapacityTypes) > 0:
		return t.CapacityTypes
	case t.Spot > 0:
		return []string{nopsapi.CapacitySpot, nopsapi.CapacityOnDemand}
	}
	return []string{nopsapi.CapacityOnDemand}
}
