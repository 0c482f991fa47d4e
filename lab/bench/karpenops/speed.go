package main

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/lab/bench/karpenops/sim"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// What the planner may take, for as many offerings, NodePools and nodes.
const (
	largeOfferings = 1000
	largePools     = 20
	largeNodes     = 2000
	mostTime       = 50 * time.Millisecond
	mostMemory     = 64 << 20
	planRounds     = 30
)

// A speed is what one plan takes.
type speed struct {
	median, worst time.Duration
	computing     time.Duration // a mean of all processors, collecting garbage included: of a busy machine this says more
	allocated     uint64        // bytes, at most
}

// measure times plans one after another, each with the memory of the one before.
func measure(makePlan func(plan.Input) plan.Plan) speed {
	in := large(time.Date(2027, 1, 4, 12, 0, 0, 0, time.UTC))
	var s speed
	var times []time.Duration
	for range planRounds {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		started, computed := time.Now(), processorTime()
		p := makePlan(in)
		took := time.Since(started)
		s.computing += (processorTime() - computed) / planRounds
		runtime.ReadMemStats(&after)
		s.allocated = max(s.allocated, after.TotalAlloc-before.TotalAlloc)
		times = append(times, took)
		in.Memory = p.Memory
		in.Now = in.Now.Add(10 * time.Minute)
		in.Market = advance(in.Market, in.Now)
		in.Commitments.FactHeader = header(in.Now)
	}
	s.median, s.worst = median(times), slices.Max(times)
	return s
}

// processorTime is what this process has computed.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func header(at time.Time) nopsapi.FactHeader {
	return nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: uint64(at.Unix()), AsOf: at, ValidUntil: at.Add(time.Hour)}
}

// advance is the market ten minutes later: other scores.
func advance(m *nopsapi.Market, at time.Time) *nopsapi.Market {
	next := *m
	next.FactHeader = header(at)
	next.Offerings = slices.Clone(m.Offerings)
	for i := range next.Offerings {
		o := &next.Offerings[i]
		o.ObservedAt = at
		if o.PlacementScore > 0 {
			o.PlacementScore = 1 + (o.PlacementScore+i+int(at.Unix()/600))%10
		}
	}
	return &next
}

// large is a region with 1,000 offerings and a cluster of 20 NodePools and 2,000 nodes: 42 families of four sizes in three zones, spot and on
// demand, of which the first 1,000 are stated.
func large(at time.Time) plan.Input {
	in := plan.Input{Now: at, Config: plan.Config{Mode: karpenstate.ModeOverlays}.WithDefaults(), Zones: map[string]string{}, Market: &nopsapi.Market{FactHeader: header(at), Region: "us-east-1"}, Commitments: &nopsapi.Commitments{FactHeader: header(at)},
		Karpenter: karpenstate.Karpenter{APIVersions: []string{"v1"}, Writable: true, NodeOverlay: true, NodeClassKinds: []string{"EC2NodeClass"}}}
	zones := []string{"a", "b", "c"}
	for i, z := range zones {
		in.Zones["use1-az"+strconv.Itoa(i+1)] = "us-east-1" + z
	}
	var families []string
	for i := range largeOfferings/24 + 1 {
		families = append(families, string("cmr"[i%3])+strconv.Itoa(3+i/3)+"i")
	}
	for i, family := range families {
		for j, size := range []string{"large", "xlarge", "2xlarge", "4xlarge"} {
			vcpu := 2 << j
			t := nopsapi.InstanceType{Name: family + "." + size, VCPU: vcpu, MemoryMiB: vcpu * (2048 << (i % 3)), MaxPods: 58, Labels: map[string]string{
				sim.LabelFamily: family, offering.LabelCategory: family[:1], offering.LabelGeneration: strconv.Itoa(3 + i/3), offering.LabelSize: size, offering.LabelCPU: strconv.Itoa(vcpu), offering.LabelArch: "amd64", offering.LabelOS: "linux"}}
			in.Market.InstanceTypes = append(in.Market.InstanceTypes, t)
			for z, zone := range zones {
				for _, capacityType := range []string{sim.OnDemand, sim.Spot} {
					if len(in.Market.Offerings) == largeOfferings {
						break
					}
					o := nopsapi.MarketOffering{InstanceType: t.Name, ZoneID: "use1-az" + strconv.Itoa(z+1), Zone: "us-east-1" + zone, CapacityType: capacityType, Price: 0.05 * float64(vcpu), OnDemandPrice: 0.05 * float64(vcpu), ObservedAt: at}
					if capacityType == sim.Spot {
						o.Price *= 0.3 + 0.01*float64((i*7+z)%20)
						o.PlacementScore = 1 + (i*3+j+z)%10
						o.Interruption = &nopsapi.Interruption{MonthlyLow: 0.05, MonthlyHigh: 0.1, Source: "advisor"}
					}
					in.Market.Offerings = append(in.Market.Offerings, o)
				}
			}
		}
	}
	for i := range largePools {
		name := "pool-" + strconv.Itoa(i)
		requirements := offering.Requirements{
			{Key: offering.LabelArch, Operator: offering.In, Values: []string{"amd64"}},
			{Key: offering.LabelCapacityType, Operator: offering.In, Values: []string{sim.OnDemand, sim.Spot}},
			{Key: offering.LabelGeneration, Operator: offering.Gt, Values: []string{strconv.Itoa(3 + i%3)}},
		}
		var list []any
		for _, r := range requirements {
			var values []any
			for _, v := range r.Values {
				values = append(values, v)
			}
			list = append(list, map[string]any{"key": r.Key, "operator": string(r.Operator), "values": values})
		}
		limit := 4000.0
		in.Pools = append(in.Pools, plan.Pool{Name: name, Managed: true, Mode: in.Config.Mode, Ready: true, Nodes: largeNodes / largePools, Weight: 1 + 4*i, Requirements: requirements, CPULimit: &limit, CPUUsed: 600, DriftBudget: 10,
			Object: map[string]any{"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": map[string]any{"name": name, "annotations": map[string]any{karpenstate.AnnotationImported: karpenstate.ImportedByNops}}, "spec": map[string]any{
				"weight": int64(1 + 4*i), "limits": map[string]any{"cpu": "4000"}, "disruption": map[string]any{"consolidationPolicy": "WhenEmptyOrUnderutilized", "consolidateAfter": "5m", "budgets": []any{map[string]any{"nodes": "10%"}}},
				"template": map[string]any{"spec": map[string]any{"requirements": list, "expireAfter": "720h", "nodeClassRef": map[string]any{"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"}}}}}})
	}
	for i := range largeNodes {
		n := (i * 37) % largeOfferings
		if i%20 != 0 {
			n |= 1 // nineteen of twenty on spot: the same type and zone
		}
		o, t := &in.Market.Offerings[n], in.Market.InstanceTypes[n/6]
		labels := map[string]string{offering.LabelInstanceType: t.Name, offering.LabelZone: o.Zone, offering.LabelZoneID: o.ZoneID, offering.LabelCapacityType: o.CapacityType, offering.LabelNodePool: in.Pools[i%largePools].Name}
		for key, value := range t.Labels {
			labels[key] = value
		}
		in.Nodes = append(in.Nodes, plan.Node{Name: fmt.Sprintf("node-%04d", i), Pool: in.Pools[i%largePools].Name, Labels: labels, VCPU: float64(t.VCPU), Requests: float64(t.VCPU) * 0.7, Created: at.Add(-time.Duration(i) * time.Minute)})
	}
	for i := range 40 {
		in.Shapes = append(in.Shapes, plan.Shape{CPU: 0.25 * float64(1+i%16), MemoryMiB: 512 * float64(1+i%12), Count: 200, Pending: i % 3})
	}
	for i := range 20 {
		family := families[i]
		in.Commitments.Commitments = append(in.Commitments.Commitments, nopsapi.Commitment{ID: "sp-" + family, Kind: nopsapi.CommitmentEC2InstanceSP, Scope: nopsapi.CommitmentScope{Region: "us-east-1", Family: family}, Start: at.AddDate(-1, 0, 0), End: at.AddDate(0, i%2, 2),
			Unit: nopsapi.UnitVCPU, Total: 200, OtherUse: nopsapi.CommitmentUse{P10: 20, P50: 40, P90: 60, Last: 50, WindowSeconds: 604800}, Rates: map[string]float64{family: 0.03}, Allocation: &nopsapi.Allocation{VCPU: 80, LeaseUntil: at.Add(6 * 24 * time.Hour)}})
	}
	return in
}
