package karpenfeeder

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Answers are what AWS said about the market of a region.
type Answers struct {
	Region   string
	At       time.Time
	Zones    []types.AvailabilityZone
	Types    []types.InstanceTypeInfo
	Spot     []types.SpotPrice                     // any order; the newest of an offering counts
	Scores   map[string][]types.SpotPlacementScore // by family
	ScoredAt map[string]time.Time                  // by family
	Products []string                              // elements of pricing's PriceList, JSON
	Target   int                                   // vCPU that scores were asked for
}

// family is what AWS calls the part before the dot.
func family(instanceType string) string {
	before, _, _ := strings.Cut(instanceType, ".")
	return before
}

// Market is the document; problems are answers that could not be used, each in a sentence.
func (a Answers) Market(seq uint64, validFor time.Duration) (m nopsapi.Market, problems []string) {
	m = nopsapi.Market{FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: seq, AsOf: a.At.UTC(), ValidUntil: a.At.Add(validFor).UTC()}, Region: a.Region}
	zones := map[string]string{} // name → ID
	for _, z := range a.Zones {
		zones[aws.ToString(z.ZoneName)] = aws.ToString(z.ZoneId)
	}
	known := map[string]bool{}
	for _, info := range a.Types {
		t, ok := instanceType(info)
		if !ok {
			problems = append(problems, fmt.Sprintf("instance type %s: AWS says neither vCPUs nor memory nor architecture", info.InstanceType))
			continue
		}
		known[t.Name] = true
		m.InstanceTypes = append(m.InstanceTypes, t)
	}
	slices.SortFunc(m.InstanceTypes, func(x, y nopsapi.InstanceType) int { return cmp.Compare(x.Name, y.Name) })
	prices, wrong := onDemandPrices(a.Products)
	problems = append(problems, wrong...)
	newest := map[[2]string]types.SpotPrice{}
	for _, p := range a.Spot {
		zone := cmp.Or(zones[aws.ToString(p.AvailabilityZone)], aws.ToString(p.AvailabilityZoneId))
		key := [2]string{string(p.InstanceType), zone}
		if zone == "" || p.ProductDescription != types.RIProductDescriptionLinuxUnix {
			continue
		}
		if before, there := newest[key]; !there || aws.ToTime(before.Timestamp).Before(aws.ToTime(p.Timestamp)) {
			newest[key] = p
		}
	}
	names := map[string]string{} // ID → name
	for name, id := range zones {
		names[id] = name
	}
	for _, key := range slices.SortedFunc(maps.Keys(newest), func(x, y [2]string) int { return slices.Compare(x[:], y[:]) }) {
		name, zone := key[0], key[1]
		onDemand, priced := prices[name]
		if !known[name] || !priced {
			if known[name] {
				problems = append(problems, fmt.Sprintf("%s: no on-demand price, left out", name))
			}
			continue
		}
		price, err := strconv.ParseFloat(aws.ToString(newest[key].SpotPrice), 64)
		if err != nil || price <= 0 {
			problems = append(problems, fmt.Sprintf("%s in %s: %q is no price, left out", name, zone, aws.ToString(newest[key].SpotPrice)))
			continue
		}
		spot := nopsapi.MarketOffering{InstanceType: name, ZoneID: zone, Zone: names[zone], CapacityType: nopsapi.CapacitySpot, Price: price, OnDemandPrice: onDemand, ObservedAt: a.At.UTC()}
		for _, s := range a.Scores[family(name)] {
			if aws.ToString(s.AvailabilityZoneId) == zone && aws.ToInt32(s.Score) >= 1 && aws.ToInt32(s.Score) <= 10 {
				spot.PlacementScore, spot.TargetVCPU, spot.ObservedAt = int(aws.ToInt32(s.Score)), a.Target, a.ScoredAt[family(name)].UTC()
			}
		}
		m.Offerings = append(m.Offerings, spot, nopsapi.MarketOffering{
			InstanceType: name, ZoneID: zone, Zone: names[zone], CapacityType: nopsapi.CapacityOnDemand, Price: onDemand, OnDemandPrice: onDemand, ObservedAt: a.At.UTC(),
		})
	}
	slices.Sort(problems)
	return m, slices.Compact(problems)
}

// instanceType labels a type as Karpenter's AWS provider does (https://karpenter.sh/docs/concepts/scheduling/#well-known-labels).
func instanceType(info types.InstanceTypeInfo) (t nopsapi.InstanceType, ok bool) {
	if info.VCpuInfo == nil || info.MemoryInfo == nil || info.ProcessorInfo == nil || len(info.ProcessorInfo.SupportedArchitectures) == 0 {
		return t, false
	}
	var arch string
	switch {
	case slices.Contains(info.ProcessorInfo.SupportedArchitectures, types.ArchitectureTypeX8664):
		arch = "amd64"
	case slices.Contains(info.ProcessorInfo.SupportedArchitectures, types.ArchitectureTypeArm64):
		arch = "arm64"
	default:
		return t, false
	}
	name := string(info.InstanceType)
	_, size, _ := strings.Cut(name, ".")
	fam := family(name)
	cut := strings.IndexFunc(fam, func(r rune) bool { return r >= '0' && r <= '9' })
	if cut < 0 {
		cut = len(fam)
	}
	digits := strings.TrimRightFunc(fam[cut:], func(r rune) bool { return r < '0' || r > '9' })
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = digits[:end]
	}
	t = nopsapi.InstanceType{Name: name, VCPU: int(aws.ToInt32(info.VCpuInfo.DefaultVCpus)), MemoryMiB: int(aws.ToInt64(info.MemoryInfo.SizeInMiB)), Labels: map[string]string{
		"node.kubernetes.io/instance-type":    name,
		"kubernetes.io/arch":                  arch,
		"kubernetes.io/os":                    "linux",
		"karpenter.k8s.aws/instance-family":   fam,
		"karpenter.k8s.aws/instance-category": fam[:cut],
		"karpenter.k8s.aws/instance-size":     size,
		"karpenter.k8s.aws/instance-cpu":      strconv.Itoa(int(aws.ToInt32(info.VCpuInfo.DefaultVCpus))),
		"karpenter.k8s.aws/instance-memory":   strconv.FormatInt(aws.ToInt64(info.MemoryInfo.SizeInMiB), 10),
	}}
	if digits != "" {
		t.Labels["karpenter.k8s.aws/instance-generation"] = digits
	}
	if maker := aws.ToString(info.ProcessorInfo.Manufacturer); maker != "" {
		t.Labels["karpenter.k8s.aws/instance-cpu-manufacturer"] = strings.ToLower(strings.Fields(maker)[0])
	}
	if info.Hypervisor != "" {
		t.Labels["karpenter.k8s.aws/instance-hypervisor"] = string(info.Hypervisor)
	}
	return t, t.VCPU > 0 && t.MemoryMiB > 0
}

// onDemandPrices reads pricing's documents: Linux, shared tenancy, nothing preinstalled, USD an hour by instance type.
func onDemandPrices(products []string) (prices map[string]float64, problems []string) {
	prices = map[string]float64{}
	for i, text := range products {
		var p struct {
			Product struct {
				Attributes struct {
					InstanceType    string `json:"instanceType"`
					OperatingSystem string `json:"operatingSystem"`
					Tenancy         string `json:"tenancy"`
					Preinstalled    string `json:"preInstalledSw"`
					CapacityStatus  string `json:"capacitystatus"`
				} `json:"attributes"`
			} `json:"product"`
			Terms struct {
				OnDemand map[string]struct {
					Dimensions map[string]struct {
						Unit  string            `json:"unit"`
						Price map[string]string `json:"pricePerUnit"`
					} `json:"priceDimensions"`
				} `json:"OnDemand"`
			} `json:"terms"`
		}
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			problems = append(problems, fmt.Sprintf("product %d of the price list is no JSON, left out", i))
			continue
		}
		at := p.Product.Attributes
		if at.InstanceType == "" || at.OperatingSystem != "Linux" || at.Tenancy != "Shared" || at.Preinstalled != "NA" || at.CapacityStatus != "Used" {
			continue
		}
		for _, term := range p.Terms.OnDemand {
			for _, d := range term.Dimensions {
				price, err := strconv.ParseFloat(d.Price["USD"], 64)
				if d.Unit != "Hrs" || err != nil || price <= 0 {
					continue // a product without a price in dollars, as in China's regions
				}
				// One product of a type is all there should be: of several the dearest, so that savings are not overstated.
				prices[at.InstanceType] = max(prices[at.InstanceType], price)
			}
		}
	}
	return prices, problems
}
