package karpenfeeder

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	cetypes "github.com/aws/aws-sdk-go-v2/service/costexplorer/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	sptypes "github.com/aws/aws-sdk-go-v2/service/savingsplans/types"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Holdings are what AWS said about commitments and their use.
type Holdings struct {
	Region   string
	At       time.Time
	Cluster  string // its name, in the tag eks:eks-cluster-name
	Plans    []sptypes.SavingsPlan
	Rates    map[string][]sptypes.SavingsPlanRate // by the plan's ID
	Reserved []types.ReservedInstances
	VCPUs    map[string]int // by instance type
	Running  []types.Instance
	// Used and its window are billing's: by the plan's ARN.
	Used   []cetypes.SavingsPlansUtilizationDetail
	Window time.Duration // that Used is of
	// Reservations are billing's use of Reserved Instances, by subscription ID.
	Reservations []cetypes.ReservationUtilizationGroup
}

// Share is how much of each commitment this cluster may take, and until when.
type Share struct {
	Part  float64 // 0 to 1
	Until time.Time
}

// Sample is what others than this cluster ran at a moment, in vCPU on demand, by family.
type Sample struct {
	At   int64          `json:"at"` // unix seconds
	VCPU map[string]int `json:"vcpu"`
}

// pattern of the nodes that karpenops's own NodePools make.
const ownPool = "nops-"

// running counts vCPUs that run on demand, by family: of others, and of this cluster's own NodePools for commitments.
func (h Holdings) running() (others, own map[string]int) {
	others, own = map[string]int{}, map[string]int{}
	for _, i := range h.Running {
		if i.InstanceLifecycle == types.InstanceLifecycleTypeSpot || i.State == nil || i.State.Name != types.InstanceStateNameRunning {
			continue
		}
		vcpu := h.VCPUs[string(i.InstanceType)]
		if tag(i.Tags, "eks:eks-cluster-name") == h.Cluster && strings.HasPrefix(tag(i.Tags, "karpenter.sh/nodepool"), ownPool) {
			own[family(string(i.InstanceType))] += vcpu
		} else {
			others[family(string(i.InstanceType))] += vcpu
		}
	}
	return others, own
}

func tag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

// Commitments is the document, and what others run now, to be remembered. Former samples are given oldest first.
func (h Holdings) Commitments(seq uint64, validFor time.Duration, share Share, former []Sample) (c nopsapi.Commitments, now Sample, problems []string) {
	c = nopsapi.Commitments{FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: seq, AsOf: h.At.UTC(), ValidUntil: h.At.Add(validFor).UTC()}}
	others, own := h.running()
	now = Sample{At: h.At.Unix(), VCPU: others}
	samples := append(slices.DeleteFunc(slices.Clone(former), func(s Sample) bool { return s.At > now.At }), now) // the clock may have been set back
	billed := map[string]float64{}                                                                                // USD an hour, by ARN
	for _, d := range h.Used {
		if d.Utilization == nil || h.Window <= 0 {
			continue
		}
		if used, err := strconv.ParseFloat(aws.ToString(d.Utilization.UsedCommitment), 64); err == nil {
			billed[aws.ToString(d.SavingsPlanArn)] = used / h.Window.Hours()
		}
	}
	for _, plan := range h.Plans {
		one, problem := h.plan(plan, billed, own, samples)
		if problem != "" {
			problems = append(problems, problem)
			continue
		}
		c.Commitments = append(c.Commitments, one)
	}
	reservedUse := map[string]float64{} // share in use, by subscription
	for _, g := range h.Reservations {
		if g.Utilization == nil {
			continue
		}
		if percent, err := strconv.ParseFloat(aws.ToString(g.Utilization.UtilizationPercentage), 64); err == nil {
			reservedUse[aws.ToString(g.Value)] = percent / 100
		}
	}
	for _, r := range h.Reserved {
		one, problem := h.reserved(r, reservedUse, own, samples)
		if problem != "" {
			problems = append(problems, problem)
			continue
		}
		c.Commitments = append(c.Commitments, one)
	}
	slices.SortFunc(c.Commitments, func(x, y nopsapi.Commitment) int { return cmp.Compare(x.ID, y.ID) })
	for i := range c.Commitments {
		one := &c.Commitments[i]
		one.Allocation = &nopsapi.Allocation{VCPU: math.Floor(share.Part * vcpus(*one)), LeaseUntil: share.Until.UTC()}
	}
	slices.Sort(problems)
	return c, now, problems
}

// vcpus is how many vCPUs a commitment pays for; of several rates the dearest, which promises least.
func vcpus(c nopsapi.Commitment) float64 {
	if c.Unit == nopsapi.UnitVCPU {
		return c.Total
	}
	dearest := 0.0
	for _, rate := range c.Rates {
		dearest = max(dearest, rate)
	}
	if dearest == 0 {
		return 0
	}
	return c.Total / dearest
}

func (h Holdings) plan(p sptypes.SavingsPlan, billed map[string]float64, own map[string]int, samples []Sample) (c nopsapi.Commitment, problem string) {
	id := aws.ToString(p.SavingsPlanId)
	c = nopsapi.Commitment{ID: id, Unit: nopsapi.UnitUSDPerHour, Rates: map[string]float64{}}
	switch p.SavingsPlanType {
	case sptypes.SavingsPlanTypeCompute:
		c.Kind = nopsapi.CommitmentComputeSP
	case sptypes.SavingsPlanTypeEc2Instance:
		c.Kind = nopsapi.CommitmentEC2InstanceSP
		c.Scope = nopsapi.CommitmentScope{Region: aws.ToString(p.Region), Family: aws.ToString(p.Ec2InstanceFamily)}
	default:
		return c, fmt.Sprintf("Savings Plan %s is of the type %s, which pays for no nodes", id, p.SavingsPlanType)
	}
	var err error
	if c.Total, err = strconv.ParseFloat(aws.ToString(p.Commitment), 64); err != nil || c.Total <= 0 {
		return c, fmt.Sprintf("Savings Plan %s: %q is no commitment in USD an hour", id, aws.ToString(p.Commitment))
	}
	if c.Start, err = time.Parse(time.RFC3339, aws.ToString(p.Start)); err == nil {
		c.End, err = time.Parse(time.RFC3339, aws.ToString(p.End))
	}
	if err != nil {
		return c, fmt.Sprintf("Savings Plan %s: %v", id, err)
	}
	for _, r := range h.Rates[id] {
		h.rate(c.Rates, r)
	}
	if len(c.Rates) == 0 {
		return c, fmt.Sprintf("Savings Plan %s: no rates of Linux instances in %s are known, so it cannot be counted in vCPUs", id, h.Region)
	}
	uses := func(counts map[string]int) float64 {
		cost := 0.0
		for _, fam := range slices.Sorted(maps.Keys(counts)) {
			if rate, covered := c.Rates[fam]; covered {
				cost += float64(counts[fam]) * rate
			}
		}
		return cost
	}
	c.OtherUse = use(samples, uses)
	if used, known := billed[aws.ToString(p.SavingsPlanArn)]; known {
		atLeast(&c.OtherUse, used-uses(own))
	}
	atMost(&c.OtherUse, c.Total)
	return c, ""
}

// rate adds what a vCPU costs under a plan: of the sizes of a family the dearest.
func (h Holdings) rate(rates map[string]float64, r sptypes.SavingsPlanRate) {
	properties := map[string]string{}
	for _, p := range r.Properties {
		properties[string(p.Name)] = aws.ToString(p.Value)
	}
	name := properties[string(sptypes.SavingsPlanRatePropertyKeyInstanceType)]
	price, err := strconv.ParseFloat(aws.ToString(r.Rate), 64)
	vcpu := h.VCPUs[name]
	if err != nil || vcpu == 0 || r.Unit != sptypes.SavingsPlanRateUnitHours ||
		properties[string(sptypes.SavingsPlanRatePropertyKeyProductDescription)] != "Linux/UNIX" ||
		properties[string(sptypes.SavingsPlanRatePropertyKeyTenancy)] != "shared" || properties[string(sptypes.SavingsPlanRatePropertyKeyRegion)] != h.Region {
		return
	}
	rates[family(name)] = max(rates[family(name)], price/float64(vcpu))
}

func (h Holdings) reserved(r types.ReservedInstances, used map[string]float64, own map[string]int, samples []Sample) (c nopsapi.Commitment, problem string) {
	id, name := aws.ToString(r.ReservedInstancesId), string(r.InstanceType)
	c = nopsapi.Commitment{
		ID: id, Unit: nopsapi.UnitVCPU, Start: aws.ToTime(r.Start).UTC(), End: aws.ToTime(r.End).UTC(), Kind: nopsapi.CommitmentStandardRI,
		Scope: nopsapi.CommitmentScope{Region: h.Region, Family: family(name), Platform: "Linux", Tenancy: "default"},
	}
	switch {
	case r.ProductDescription != types.RIProductDescriptionLinuxUnix && r.ProductDescription != types.RIProductDescriptionLinuxUnixAmazonVpc:
		return c, fmt.Sprintf("Reserved Instances %s are for %s, which no node runs", id, r.ProductDescription)
	case r.InstanceTenancy != types.TenancyDefault:
		return c, fmt.Sprintf("Reserved Instances %s are for %s tenancy", id, r.InstanceTenancy)
	case h.VCPUs[name] == 0:
		return c, fmt.Sprintf("Reserved Instances %s are of %s, of which nothing is known here: add its family to --families", id, name)
	}
	if r.OfferingClass == types.OfferingClassTypeConvertible {
		c.Kind = nopsapi.CommitmentConvertibleRI
	}
	if r.Scope == types.ScopeAvailabilityZone {
		// Of a zone they apply to their very type.
		c.Kind, c.Scope.InstanceType, c.Scope.ZoneID = nopsapi.CommitmentZonalRI, name, aws.ToString(r.AvailabilityZoneId)
		if c.Scope.ZoneID == "" {
			return c, fmt.Sprintf("Reserved Instances %s: AWS does not say the ID of their zone", id)
		}
	}
	c.Total = float64(int(aws.ToInt32(r.InstanceCount)) * h.VCPUs[name])
	c.OtherUse = use(samples, func(counts map[string]int) float64 { return float64(counts[family(name)]) })
	if part, known := used[id]; known {
		atLeast(&c.OtherUse, part*c.Total-float64(own[family(name)]))
	}
	atMost(&c.OtherUse, c.Total)
	return c, ""
}

// use is what samples come to.
func use(samples []Sample, worth func(map[string]int) float64) nopsapi.CommitmentUse {
	var all []float64
	for _, s := range samples {
		all = append(all, worth(s.VCPU))
	}
	last := all[len(all)-1]
	slices.Sort(all)
	// The nearest rank, upwards: of few samples the 90th percentile is the greatest.
	at := func(p float64) float64 { return all[max(0, int(math.Ceil(p*float64(len(all))))-1)] }
	return nopsapi.CommitmentUse{P10: at(0.1), P50: at(0.5), P90: at(0.9), Last: last, WindowSeconds: int(samples[len(samples)-1].At - samples[0].At)}
}

// atLeast raises what is known to be in use.
func atLeast(u *nopsapi.CommitmentUse, least float64) {
	u.P90 = max(u.P90, least)
}

// atMost keeps use within what there is: what runs beyond a commitment is paid for otherwise.
func atMost(u *nopsapi.CommitmentUse, total float64) {
	for _, f := range []*float64{&u.P10, &u.P50, &u.P90, &u.Last} {
		*f = min(*f, total)
	}
}
