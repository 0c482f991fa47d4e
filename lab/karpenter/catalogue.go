package karpenter

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/nopsctl/nopsctl/lab/cluster"
)

// Type is an instance type of the lab's catalogue. Names, sizes and on-demand prices are those of EC2 in us-east-1 (Linux,
// USD an hour); spot prices are made up, each zone's a fraction of the on-demand price, and stay what they are.
type Type struct {
	Name      string
	Family    string
	Arch      string
	VCPU      int
	MemoryMiB int
	OnDemand  float64
	Spot      map[string]float64 // by zone
}

// Zone is an availability zone. Names differ from account to account, IDs do not.
type Zone struct{ Name, ID string }

// Zones are those of the lab's account.
func Zones() []Zone {
	return []Zone{{cluster.Region + "a", "use1-az4"}, {cluster.Region + "b", "use1-az6"}, {cluster.Region + "c", "use1-az1"}}
}

// Catalogue is what the lab's Karpenter may launch: few enough types that a scheduling pass takes no time on a small machine,
// enough families, sizes, zones and two architectures that a choice is one.
func Catalogue() []Type {
	families := []struct {
		name, arch string
		gib        int        // of memory for each vCPU
		price      float64    // of the size "large", on demand
		spot       [3]float64 // by zone, relative to that
	}{
		{"m5", "amd64", 4, 0.096, [3]float64{0.42, 0.47, 0.39}},
		{"m5a", "amd64", 4, 0.086, [3]float64{0.45, 0.41, 0.52}},
		{"m6i", "amd64", 4, 0.096, [3]float64{0.37, 0.44, 0.41}},
		{"m6a", "amd64", 4, 0.0864, [3]float64{0.36, 0.33, 0.40}},
		{"m7i", "amd64", 4, 0.1008, [3]float64{0.34, 0.38, 0.35}},
		{"m7a", "amd64", 4, 0.11592, [3]float64{0.32, 0.36, 0.31}},
		{"m7g", "arm64", 4, 0.0816, [3]float64{0.41, 0.38, 0.44}},
		{"c5", "amd64", 2, 0.085, [3]float64{0.46, 0.43, 0.49}},
		{"c6i", "amd64", 2, 0.085, [3]float64{0.40, 0.42, 0.38}},
		{"c6a", "amd64", 2, 0.0765, [3]float64{0.39, 0.35, 0.42}},
		{"c7i", "amd64", 2, 0.08925, [3]float64{0.37, 0.36, 0.39}},
		{"c7g", "arm64", 2, 0.0725, [3]float64{0.43, 0.40, 0.45}},
		{"r5", "amd64", 8, 0.126, [3]float64{0.35, 0.33, 0.38}},
		{"r6i", "amd64", 8, 0.126, [3]float64{0.31, 0.34, 0.30}},
		{"r6a", "amd64", 8, 0.1134, [3]float64{0.30, 0.32, 0.34}},
		{"r7i", "amd64", 8, 0.1323, [3]float64{0.29, 0.33, 0.32}},
		{"r7g", "arm64", 8, 0.1071, [3]float64{0.36, 0.31, 0.33}},
	}
	sizes := []struct {
		name string
		vcpu int
	}{{"large", 2}, {"xlarge", 4}, {"2xlarge", 8}, {"4xlarge", 16}}
	var types []Type
	for _, f := range families {
		for _, s := range sizes {
			t := Type{
				Name: f.name + "." + s.name, Family: f.name, Arch: f.arch, VCPU: s.vcpu, MemoryMiB: s.vcpu * f.gib * 1024,
				OnDemand: round(f.price * float64(s.vcpu) / 2), Spot: map[string]float64{},
			}
			for n, zone := range Zones() {
				t.Spot[zone.Name] = round(t.OnDemand * f.spot[n])
			}
			types = append(types, t)
		}
	}
	return types
}

// round to what AWS bills, so that the same price is the same number wherever it is computed.
func round(usd float64) float64 { return math.Round(usd*1e6) / 1e6 }

type requirement struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

type offering struct {
	Price        float64
	Available    bool
	Requirements []requirement
}

type kwokType struct {
	Name             string            `json:"name"`
	Offerings        []offering        `json:"offerings"`
	Architecture     string            `json:"architecture"`
	OperatingSystems []string          `json:"operatingSystems"`
	Resources        map[string]string `json:"resources"`
}

// instanceTypes is the catalogue as Karpenter's kwok provider reads it from INSTANCE_TYPES_FILE_PATH.
func instanceTypes(types []Type) ([]byte, error) {
	in := func(key, value string) requirement { return requirement{key, "In", []string{value}} }
	var all []kwokType
	for _, t := range types {
		k := kwokType{
			Name: t.Name, Architecture: t.Arch, OperatingSystems: []string{"linux"},
			Resources: map[string]string{"cpu": strconv.Itoa(t.VCPU), "memory": fmt.Sprintf("%dMi", t.MemoryMiB), "ephemeral-storage": "20Gi", "pods": strconv.Itoa(podLimit(t.VCPU))},
		}
		for _, zone := range Zones() {
			for _, o := range []struct {
				capacity string
				price    float64
			}{{"spot", t.Spot[zone.Name]}, {"on-demand", t.OnDemand}} {
				k.Offerings = append(k.Offerings, offering{o.price, true, []requirement{
					in("karpenter.sh/capacity-type", o.capacity), in("topology.kubernetes.io/zone", zone.Name), in("topology.k8s.aws/zone-id", zone.ID),
				}})
			}
		}
		all = append(all, k)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("write the catalogue of instance types: %w", err)
	}
	return text, nil
}

// podLimit follows from how many addresses the network interfaces of an instance take.
func podLimit(vcpu int) int {
	switch {
	case vcpu < 4:
		return 29
	case vcpu < 16:
		return 58
	}
	return 234
}
