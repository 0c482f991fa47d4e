package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/karpenops/sim"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// A scenario is what all policies meet: a market, commitments, clusters and their load. Everything in it is a function of its seed and
// of time, and of nothing that a policy does.
type scenario struct {
	Seed   uint64    `json:"seed"`
	Start  time.Time `json:"start"`
	Days   int       `json:"days"`
	Region string    `json:"region"`
	Zones  []struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"zones"`
	Families    []familySpec     `json:"families"`
	Sizes       []sizeSpec       `json:"sizes"`
	MarketEvery duration         `json:"marketEvery"`
	MarketValid duration         `json:"marketValid"`
	ScoreNoise  float64          `json:"scoreNoise"`
	Waves       []wave           `json:"waves"`
	Collapses   []collapse       `json:"collapses"`
	Silences    []collapse       `json:"silences"` // of the platform
	Commitments []commitmentSpec `json:"commitments"`
	Clusters    []clusterSpec    `json:"clusters"`
}

type familySpec struct {
	Name       string  `json:"name"`
	USDPerVCPU float64 `json:"usdPerVcpu"` // on demand
	MemoryMiB  int     `json:"memoryPerVcpuMiB"`
	SpotShare  float64 `json:"spotShare"` // of the price on demand
	Depth      float64 `json:"depth"`
}

type sizeSpec struct {
	Name string `json:"name"`
	VCPU int    `json:"vcpu"`
}

// A wave is a family's, low at the end of each period.
type wave struct {
	Why    string   `json:"why"`
	Family string   `json:"family"`
	Zone   string   `json:"zone"` // empty: all
	Period duration `json:"period"`
	Low    duration `json:"low"`
	From   int      `json:"from"` // days
	To     int      `json:"to"`
	Depth  float64  `json:"depth"`
}

// A collapse is of a zone, or where it has none, of the platform.
type collapse struct {
	Zone  string   `json:"zone"`
	From  duration `json:"from"`
	To    duration `json:"to"`
	Depth float64  `json:"depth"`
}

type commitmentSpec struct {
	ID         string   `json:"id"`
	Kind       string   `json:"kind"`
	Family     string   `json:"family"`
	Total      float64  `json:"total"` // vCPU
	USDPerVCPU float64  `json:"usdPerVcpu"`
	EndsAfter  duration `json:"endsAfter"`
	Others     struct {
		Base     float64 `json:"base"`
		Swing    float64 `json:"swing"`
		Noise    float64 `json:"noise"`
		PeakHour float64 `json:"peakHour"`
		PerDay   float64 `json:"perDay"`
	} `json:"others"`
}

type clusterSpec struct {
	Name  string  `json:"name"`
	Share float64 `json:"share"` // of each commitment
	Pools []struct {
		Name          string   `json:"name"`
		CapacityTypes []string `json:"capacityTypes"`
		CPU           string   `json:"cpu"`
		Budget        string   `json:"budget"`
		Weight        int      `json:"weight"`
		QuietHours    string   `json:"quietHours"` // for ten hours from then on nothing is disrupted
		Workload      string   `json:"workload"`   // that it is reserved for, by a label
	} `json:"pools"`
	Groups []struct {
		Name      string  `json:"name"`
		CPU       int64   `json:"cpu"`
		MemoryMiB int64   `json:"memoryMiB"`
		Base      float64 `json:"base"`
		Swing     float64 `json:"swing"`
		Noise     float64 `json:"noise"`
		PeakHour  float64 `json:"peakHour"`
		Weekend   float64 `json:"weekend"`
		Spread    bool    `json:"spread"`
	} `json:"groups"`
	Batches []struct {
		Name      string  `json:"name"`
		CPU       int64   `json:"cpu"`
		MemoryMiB int64   `json:"memoryMiB"`
		PerHour   float64 `json:"perHour"`
		Minutes   float64 `json:"minutes"`
		Workload  string  `json:"workload"`
	} `json:"batches"`
}

// duration reads "4h" from JSON.
type duration time.Duration

func (d *duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("a duration is text such as \"4h\": %w", err)
	}
	parsed, err := time.ParseDuration(s)
	*d = duration(parsed)
	return err
}

func loadScenario(path string) (*scenario, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	s := &scenario{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(s); err != nil {
		return nil, fmt.Errorf("scenario %s: %w", path, err)
	}
	return s, nil
}

// catalogue is what there is to launch.
func (s *scenario) catalogue() *sim.Catalogue {
	var types []*sim.Type
	for _, f := range s.Families {
		for _, size := range s.Sizes {
			t := &sim.Type{Name: f.Name + "." + size.Name, VCPU: size.VCPU, MemoryMiB: size.VCPU * f.MemoryMiB}
			t.Labels = map[string]string{
				sim.LabelFamily: f.Name, "karpenter.k8s.aws/instance-category": f.Name[:1], "karpenter.k8s.aws/instance-generation": f.Name[1:2], "karpenter.k8s.aws/instance-size": size.Name,
				"karpenter.k8s.aws/instance-cpu": strconv.Itoa(size.VCPU), "karpenter.k8s.aws/instance-memory": strconv.Itoa(t.MemoryMiB), "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
			}
			types = append(types, t)
		}
	}
	var zones []string
	for _, z := range s.Zones {
		zones = append(zones, z.Name)
	}
	return sim.NewCatalogue(types, zones, []string{sim.OnDemand, sim.Spot})
}

// chance is a number from 0 to 1 that depends on its arguments alone: whoever asks in whatever order gets the same.
func (s *scenario) chance(what string, numbers ...int64) float64 {
	h := fnv.New64a()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], s.Seed)
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte(what))
	for _, n := range numbers {
		binary.LittleEndian.PutUint64(b[:], uint64(n))
		_, _ = h.Write(b[:])
	}
	x := h.Sum64() // FNV's upper bits are poor: mix them (splitmix64)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11) / (1 << 53)
}

// normal is such a number of the normal distribution, of variance one.
func (s *scenario) normal(what string, numbers ...int64) float64 {
	u, v := s.chance(what, numbers...), s.chance(what+"'", numbers...)
	return math.Sqrt(-2*math.Log(1-u)) * math.Cos(2*math.Pi*v)
}

// drifting is noise that changes slowly: of variance one, with half of it forgotten every few hours.
func (s *scenario) drifting(what string, hours int) []float64 {
	all := make([]float64, hours+2)
	all[0] = s.normal(what, 0)
	for i := 1; i < len(all); i++ {
		all[i] = 0.85*all[i-1] + math.Sqrt(1-0.85*0.85)*s.normal(what, int64(i))
	}
	return all
}

// market is the spot market of a scenario.
type market struct {
	s         *scenario
	catalogue *sim.Catalogue
	onDemand  []float64
	zone      []string // IDs
	family    []*familySpec
	noise     [][]float64 // by offering, hourly; nil: on demand
	twin      []int32     // the same on demand
}

func newMarket(s *scenario, c *sim.Catalogue) *market {
	m := &market{s: s, catalogue: c}
	ids := map[string]string{}
	for _, z := range s.Zones {
		ids[z.Name] = z.ID
	}
	families := map[string]*familySpec{}
	for i := range s.Families {
		families[s.Families[i].Name] = &s.Families[i]
	}
	for i, o := range c.Offerings {
		f := families[o.Type.Labels[sim.LabelFamily]]
		m.family = append(m.family, f)
		m.zone = append(m.zone, ids[o.Zone])
		m.onDemand = append(m.onDemand, f.USDPerVCPU*float64(o.Type.VCPU))
		twin := int32(i)
		var noise []float64
		if o.CapacityType == sim.Spot {
			noise = s.drifting("market "+o.Type.Name+" "+o.Zone, s.Days*24)
			twin-- // the catalogue has on-demand first
		}
		m.noise, m.twin = append(m.noise, noise), append(m.twin, twin)
	}
	return m
}

func (m *market) hour(offering int32, at time.Time) float64 {
	hours := at.Sub(m.s.Start).Hours()
	i := min(max(int(hours), 0), len(m.noise[offering])-2)
	part := min(max(hours-float64(i), 0), 1)
	return m.noise[offering][i]*(1-part) + m.noise[offering][i+1]*part
}

// Price of spot moves little, as it has since 2017; a shallow offering costs up to a third more.
func (m *market) Price(offering int32, at time.Time) float64 {
	price := m.onDemand[offering]
	if m.noise[offering] == nil {
		return price
	}
	zone := 1 + 0.06*(m.s.chance("zone "+m.zone[offering]+m.family[offering].Name)-0.5)
	share := m.family[offering].SpotShare * zone * (1 + 0.04*m.hour(offering, at)) * (1 + 0.35*max(0, 0.6-m.Depth(offering, at)))
	return math.Round(price*min(share, 1)*1e4) / 1e4
}

// Depth is how much of an offering there is.
func (m *market) Depth(offering int32, at time.Time) float64 {
	if m.noise[offering] == nil {
		return 1
	}
	f, zone := m.family[offering], m.zone[offering]
	depth := f.Depth + 0.08*m.hour(offering, at)
	since := at.Sub(m.s.Start)
	for _, w := range m.s.Waves {
		if w.Family == f.Name && (w.Zone == "" || w.Zone == zone) && since >= time.Duration(w.From)*24*time.Hour && since < time.Duration(w.To)*24*time.Hour &&
			since%time.Duration(w.Period) >= time.Duration(w.Period-w.Low) {
			depth = min(depth, w.Depth)
		}
	}
	for _, c := range m.s.Collapses {
		if c.Zone == zone && since >= time.Duration(c.From) && since < time.Duration(c.To) {
			depth = min(depth, c.Depth)
		}
	}
	return min(max(depth, 0), 1)
}

// hazard is how often an offering is taken away, an hour: about 7 % a month where there is plenty, every other day where there is little, within
// hours where there is nothing left.
func (m *market) hazard(offering int32, at time.Time) float64 {
	if m.Depth(offering, at) < 0.05 {
		return 0.5
	}
	return 1e-4 * math.Exp(7.6*(0.85-m.Depth(offering, at)))
}

// Reclaimed takes several nodes of an offering at a time, as interruptions do.
func (m *market) Reclaimed(offering int32, cluster string, n int, at time.Time, step time.Duration) bool {
	if m.s.chance("reclaim", int64(offering), at.Unix()) >= 1-math.Exp(-m.hazard(offering, at)*step.Hours()) {
		return false
	}
	return m.s.chance("reclaimed "+cluster, int64(n), at.Unix()) < 0.7
}

// silent says whether the platform does not answer.
func (s *scenario) silent(at time.Time) bool {
	since := at.Sub(s.Start)
	for _, c := range s.Silences {
		if since >= time.Duration(c.From) && since < time.Duration(c.To) {
			return true
		}
	}
	return false
}

// document is what the platform says of the market: scores as noisy as they are, the advisor's monthly rate, which knows nothing of today.
func (m *market) document(at time.Time, seq uint64) *nopsapi.Market {
	d := &nopsapi.Market{FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: seq, AsOf: at, ValidUntil: at.Add(time.Duration(m.s.MarketValid))}, Region: m.s.Region}
	for _, t := range m.catalogue.Types {
		d.InstanceTypes = append(d.InstanceTypes, nopsapi.InstanceType{Name: t.Name, VCPU: t.VCPU, MemoryMiB: t.MemoryMiB, Labels: t.Labels})
	}
	for i, o := range m.catalogue.Offerings {
		offering := int32(i)
		entry := nopsapi.MarketOffering{InstanceType: o.Type.Name, ZoneID: m.zone[i], Zone: o.Zone, CapacityType: o.CapacityType, Price: m.Price(offering, at), OnDemandPrice: m.onDemand[i], ObservedAt: at}
		if o.CapacityType == sim.Spot {
			entry.PlacementScore = int(min(max(math.Round(1+9*m.Depth(offering, at)+m.s.ScoreNoise*m.s.normal("score", int64(i), at.Unix())), 1), 10))
			entry.TargetVCPU = 64
			entry.Interruption = &nopsapi.Interruption{MonthlyLow: 0.05, MonthlyHigh: 0.10, Source: "advisor"}
			if m.family[i].Depth < 0.78 {
				entry.Interruption.MonthlyLow, entry.Interruption.MonthlyHigh = 0.10, 0.15
			}
		}
		d.Offerings = append(d.Offerings, entry)
	}
	return d
}

// others is what accounts that are no concern of these clusters use of a commitment, in vCPU.
func (s *scenario) others(c *commitmentSpec, at time.Time) float64 {
	since := at.Sub(s.Start).Hours()
	hour := math.Floor(since) // billing is by the hour
	use := c.Others.Base + c.Others.Swing*math.Cos(2*math.Pi*(math.Mod(hour, 24)-c.Others.PeakHour)/24) + c.Others.PerDay*since/24
	noise := min(max(s.normal("others "+c.ID, int64(hour)), -2), 2)
	return math.Floor(min(max(use+c.Others.Noise*noise, 0), c.Total))
}

// spare is what others leave of a commitment; nothing after its end.
func (s *scenario) spare(c *commitmentSpec, at time.Time) float64 {
	if at.Sub(s.Start) >= time.Duration(c.EndsAfter) {
		return 0
	}
	return c.Total - s.others(c, at)
}

// wanted is how many pods of a group there should be.
func (s *scenario) wanted(cluster *clusterSpec, group int, at time.Time) int {
	g := cluster.Groups[group]
	since := at.Sub(s.Start)
	hour := math.Mod(since.Hours(), 24)
	curve := g.Swing * math.Cos(2*math.Pi*(hour-g.PeakHour)/24)
	n := g.Base + curve
	if weekday := at.Weekday(); weekday == time.Saturday || weekday == time.Sunday {
		n *= g.Weekend
	}
	return max(1, int(math.Round(n+g.Noise*s.normal("load "+cluster.Name+g.Name, int64(since/(15*time.Minute))))))
}

// batches are pods that come in this minute.
func (s *scenario) batches(cluster *clusterSpec, at time.Time) []*sim.Pod {
	var pods []*sim.Pod
	for _, b := range cluster.Batches {
		busy := 1.0
		if hour := at.Hour(); hour < 6 || hour > 20 {
			busy = 0.4
		}
		if s.chance("batch "+cluster.Name+b.Name, at.Unix()) >= busy*b.PerHour/60 {
			continue
		}
		minutes := b.Minutes * (0.5 + s.chance("length "+cluster.Name+b.Name, at.Unix()))
		p := &sim.Pod{Name: fmt.Sprintf("%s-%d", b.Name, at.Unix()), Group: b.Name, CPU: b.CPU, MemoryMiB: b.MemoryMiB, Ends: at.Add(time.Duration(minutes * float64(time.Minute)))}
		if b.Workload != "" {
			p.Selector = map[string]string{"workload": b.Workload}
		}
		pods = append(pods, p)
	}
	return pods
}

// basePools are the user's.
func (s *scenario) basePools(cluster *clusterSpec) []map[string]any {
	var families []any
	for _, f := range s.Families {
		families = append(families, f.Name)
	}
	var all []map[string]any
	for _, p := range cluster.Pools {
		var capacityTypes []any
		for _, t := range p.CapacityTypes {
			capacityTypes = append(capacityTypes, t)
		}
		budgets := []any{map[string]any{"nodes": p.Budget}}
		if p.QuietHours != "" {
			budgets = append(budgets, map[string]any{"nodes": "0", "schedule": p.QuietHours, "duration": "10h"})
		}
		template := map[string]any{"spec": map[string]any{
			"expireAfter": "Never", "nodeClassRef": map[string]any{"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
			"requirements": []any{
				map[string]any{"key": "kubernetes.io/arch", "operator": "In", "values": []any{"amd64"}},
				map[string]any{"key": sim.LabelCapacityType, "operator": "In", "values": capacityTypes},
				map[string]any{"key": sim.LabelFamily, "operator": "In", "values": families},
			},
		}}
		if p.Workload != "" {
			template["metadata"] = map[string]any{"labels": map[string]any{"workload": p.Workload}}
		}
		spec := map[string]any{
			"template": template, "limits": map[string]any{"cpu": p.CPU},
			"disruption": map[string]any{"consolidationPolicy": "WhenEmptyOrUnderutilized", "consolidateAfter": "5m", "budgets": budgets},
		}
		if p.Weight > 0 {
			spec["weight"] = int64(p.Weight)
		}
		all = append(all, map[string]any{"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": map[string]any{"name": p.Name, "annotations": map[string]any{"imported_by": "nops"}}, "spec": spec})
	}
	return all
}
