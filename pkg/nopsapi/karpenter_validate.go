package nopsapi

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"
)

var (
	regionForm = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-\d+$`)
	// labelForm is the form of a label's value; names of instance types, zones and capacity types are such.
	labelForm = regexp.MustCompile(`^[0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?$`)
)

const (
	maxVCPU      = 1 << 13 // of an instance type; the largest of EC2 has 1920
	maxMemoryMiB = 1 << 27 // 128 TiB
	maxLabels    = 100     // of an instance type
	maxLabel     = 317     // bytes of a key with its prefix
	maxTotal     = 1e9     // of a commitment, whatever its unit
	maxName      = 253     // bytes of a name in Kubernetes
	dearest      = 10      // times the price on demand: what costs more is a slip of units
	instanceType = "node.kubernetes.io/instance-type"
)

// Validate says what is wrong with the header, whatever the time is; CheckAt looks at the time.
func (h FactHeader) Validate() error { return h.validate(KarpenterSchema) }

// validate is that of a kind of document whose newest schema is known.
func (h FactHeader) validate(newest int) error {
	switch {
	case h.SchemaVersion < 1:
		return fmt.Errorf("schema_version %d: the first is 1", h.SchemaVersion)
	case h.SchemaVersion > newest:
		return fmt.Errorf("schema_version %d: this reader knows up to %d and would misread it", h.SchemaVersion, newest)
	case h.Seq == 0:
		return fmt.Errorf("seq is 0: the first document is 1")
	case h.AsOf.After(time.Unix(0, 0)) && h.Seq > uint64(h.AsOf.UnixNano()):
		// A slip of the pen, or worse: whatever honest document came next would be taken for a replay, for ever.
		return fmt.Errorf("seq %d is more than the nanoseconds since 1970 at as_of: no later document could have a higher one", h.Seq)
	case h.AsOf.IsZero():
		return fmt.Errorf("as_of is missing")
	case !h.ValidUntil.After(h.AsOf):
		return fmt.Errorf("valid_until %s is not after as_of %s", stamp(h.ValidUntil), stamp(h.AsOf))
	case h.ValidUntil.Sub(h.AsOf) > MaxValidity:
		return fmt.Errorf("valid from %s to %s: at most %s are allowed", stamp(h.AsOf), stamp(h.ValidUntil), MaxValidity)
	}
	return nil
}

// CheckAt says why nothing may be decided by a document at a time: it speaks of the future, or is no longer valid.
func (h FactHeader) CheckAt(now time.Time) error {
	switch {
	case h.AsOf.After(now.Add(MaxAhead)):
		return fmt.Errorf("as_of %s lies in the future", stamp(h.AsOf))
	case !h.ValidUntil.After(now):
		return fmt.Errorf("valid_until %s has passed", stamp(h.ValidUntil))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Validate says what is wrong with a market. One thing wrong makes all of it unusable: who gets one number wrong may have got others wrong.
func (m Market) Validate() error {
	if err := m.FactHeader.Validate(); err != nil {
		return err
	}
	switch {
	case !regionForm.MatchString(m.Region):
		return fmt.Errorf("region %q: expected one such as us-east-1", clip(m.Region))
	case len(m.InstanceTypes) > MaxInstanceTypes:
		return fmt.Errorf("instance_types: %d, at most %d are allowed", len(m.InstanceTypes), MaxInstanceTypes)
	case len(m.Offerings) > MaxOfferings:
		return fmt.Errorf("offerings: %d, at most %d are allowed", len(m.Offerings), MaxOfferings)
	}
	types := make(map[string]bool, len(m.InstanceTypes))
	for i, t := range m.InstanceTypes {
		if err := t.validate(); err != nil {
			return fmt.Errorf("instance type %d %q: %w", i, clip(t.Name), err)
		}
		if types[t.Name] {
			return fmt.Errorf("instance type %d %q: listed twice", i, t.Name)
		}
		types[t.Name] = true
	}
	type id struct{ typ, zone, capacity string }
	seen := make(map[id]bool, len(m.Offerings))
	names, ids := map[string]string{}, map[string]string{} // zone's ID → name, and back
	for i, o := range m.Offerings {
		at := id{o.InstanceType, o.ZoneID, o.CapacityType}
		err := o.validate(m.AsOf)
		switch {
		case err != nil:
		case !types[o.InstanceType]:
			err = fmt.Errorf("this type is not among instance_types")
		case seen[at]:
			err = fmt.Errorf("listed twice")
		case o.Zone == "":
		case names[o.ZoneID] != "" && names[o.ZoneID] != o.Zone, ids[o.Zone] != "" && ids[o.Zone] != o.ZoneID:
			err = fmt.Errorf("zone %s is of another ID elsewhere, or the ID of another zone", o.Zone)
		default:
			names[o.ZoneID], ids[o.Zone] = o.Zone, o.ZoneID
		}
		if err != nil {
			return fmt.Errorf("offering %d %q %q %q: %w", i, clip(o.InstanceType), clip(o.ZoneID), clip(o.CapacityType), err)
		}
		seen[at] = true
	}
	return nil
}

func (t InstanceType) validate() error {
	switch {
	case !labelForm.MatchString(t.Name):
		return fmt.Errorf("its name is not the value of a label")
	case t.VCPU < 1 || t.VCPU > maxVCPU:
		return fmt.Errorf("vcpu %d: expected 1 to %d", t.VCPU, maxVCPU)
	case t.MemoryMiB < 1 || t.MemoryMiB > maxMemoryMiB:
		return fmt.Errorf("memory_mib %d: expected 1 to %d", t.MemoryMiB, maxMemoryMiB)
	case t.MaxPods < 0:
		return fmt.Errorf("max_pods %d is negative", t.MaxPods)
	case len(t.Labels) > maxLabels:
		return fmt.Errorf("labels: %d, at most %d are allowed", len(t.Labels), maxLabels)
	}
	for key, value := range t.Labels {
		if key == "" || len(key) > maxLabel || value != "" && !labelForm.MatchString(value) {
			return fmt.Errorf("label %q %q: not one of Kubernetes", clip(key), clip(value))
		}
	}
	if said, ok := t.Labels[instanceType]; ok && said != t.Name {
		return fmt.Errorf("its label %s says %q", instanceType, said)
	}
	return nil
}

func (o MarketOffering) validate(asOf time.Time) error {
	switch o.CapacityType {
	case CapacitySpot, CapacityOnDemand, CapacityReserved:
	default:
		return fmt.Errorf("unknown capacity type")
	}
	paid := o.CapacityType != CapacityReserved // what is reserved costs nothing more
	switch {
	case !labelForm.MatchString(o.ZoneID):
		return fmt.Errorf("zone_id is no ID of a zone")
	case o.Zone != "" && !labelForm.MatchString(o.Zone):
		return fmt.Errorf("zone %q is no name of a zone", clip(o.Zone))
	case !within(o.Price, 0, MaxPrice) || paid && o.Price == 0:
		return fmt.Errorf("price %v: expected above 0 and up to %v USD an hour", o.Price, MaxPrice)
	case !within(o.OnDemandPrice, 0, MaxPrice) || paid && o.OnDemandPrice == 0:
		return fmt.Errorf("on_demand_price %v: expected above 0 and up to %v USD an hour", o.OnDemandPrice, MaxPrice)
	case paid && o.Price > dearest*o.OnDemandPrice:
		return fmt.Errorf("price %v is more than %d times the one on demand, %v", o.Price, dearest, o.OnDemandPrice)
	case o.PlacementScore < 0 || o.PlacementScore > 10:
		return fmt.Errorf("placement_score %d: expected 1 to 10, or 0 where it is not known", o.PlacementScore)
	case o.TargetVCPU < 0:
		return fmt.Errorf("target_vcpu %d is negative", o.TargetVCPU)
	case !within(o.Confidence, 0, 1):
		return fmt.Errorf("confidence %v: expected 0 to 1", o.Confidence)
	case o.ObservedAt.IsZero():
		return fmt.Errorf("observed_at is missing")
	case o.ObservedAt.After(asOf.Add(MaxAhead)):
		return fmt.Errorf("observed_at %s is after as_of", stamp(o.ObservedAt))
	}
	if i := o.Interruption; i != nil && (!within(i.MonthlyLow, 0, 1) || !within(i.MonthlyHigh, 0, 1) || i.MonthlyLow > i.MonthlyHigh) {
		return fmt.Errorf("interruption %v to %v: expected two shares from 0 to 1, the lower one first", i.MonthlyLow, i.MonthlyHigh)
	}
	return nil
}

// within is false of what is not a number.
func within(x, low, high float64) bool { return x >= low && x <= high && !math.IsInf(x, 0) }

// Validate says what is wrong with commitments; one thing wrong makes all of them unusable.
func (c Commitments) Validate() error {
	if err := c.FactHeader.Validate(); err != nil {
		return err
	}
	if len(c.Commitments) > MaxCommitments {
		return fmt.Errorf("commitments: %d, at most %d are allowed", len(c.Commitments), MaxCommitments)
	}
	seen := make(map[string]bool, len(c.Commitments))
	for i, one := range c.Commitments {
		err := one.validate(c.AsOf)
		if err == nil && seen[one.ID] {
			err = fmt.Errorf("listed twice")
		}
		if err != nil {
			return fmt.Errorf("commitment %d %q: %w", i, clip(one.ID), err)
		}
		seen[one.ID] = true
	}
	return nil
}

func (c Commitment) validate(asOf time.Time) error {
	switch c.Unit {
	case UnitUSDPerHour, UnitVCPU, UnitNormalized:
	default:
		return fmt.Errorf("unknown unit %q", clip(c.Unit))
	}
	switch {
	case c.ID == "" || len(c.ID) > maxName:
		return fmt.Errorf("id: expected 1 to %d bytes", maxName)
	case c.Start.IsZero() || c.End.IsZero() || !c.End.After(c.Start):
		return fmt.Errorf("end %s is not after start %s", stamp(c.End), stamp(c.Start))
	case !within(c.Total, 0, maxTotal):
		return fmt.Errorf("total %v: expected 0 to %v", c.Total, maxTotal)
	}
	if err := c.scope(); err != nil {
		return err
	}
	u := c.OtherUse
	for _, x := range []float64{u.P10, u.P50, u.P90, u.Last} {
		if !within(x, 0, maxTotal) {
			return fmt.Errorf("other_use %v: expected 0 to %v", x, maxTotal)
		}
	}
	if u.P10 > u.P50 || u.P50 > u.P90 || u.WindowSeconds < 0 {
		return fmt.Errorf("other_use p10 %v, p50 %v, p90 %v over %d seconds: expected each at least the one before", u.P10, u.P50, u.P90, u.WindowSeconds)
	}
	if len(c.Rates) > MaxInstanceTypes {
		return fmt.Errorf("rates: %d, at most %d are allowed", len(c.Rates), MaxInstanceTypes)
	}
	for family, rate := range c.Rates {
		if !labelForm.MatchString(family) || !within(rate, 0, MaxPrice) {
			return fmt.Errorf("rate %v of family %q: expected 0 to %v USD a vCPU and hour", rate, clip(family), MaxPrice)
		}
	}
	if a := c.Allocation; a != nil {
		switch {
		case !within(a.VCPU, 0, maxTotal):
			return fmt.Errorf("allocation of %v vCPU: expected 0 to %v", a.VCPU, maxTotal)
		case c.Unit == UnitVCPU && a.VCPU > c.Total:
			return fmt.Errorf("allocation of %v vCPU of a total of %v", a.VCPU, c.Total)
		case a.LeaseUntil.IsZero():
			return fmt.Errorf("allocation without lease_until: a share without an end would outlive whoever gave it")
		case a.LeaseUntil.Sub(asOf) > MaxLease:
			return fmt.Errorf("lease_until %s: at most %s after as_of are allowed", stamp(a.LeaseUntil), MaxLease)
		}
	}
	return nil
}

// scope says what the scope of a kind lacks. What is empty means everything: a plan for a family that names none would be taken for one that
// applies to any.
func (c Commitment) scope() error {
	s, lacks := c.Scope, ""
	switch c.Kind {
	case CommitmentComputeSP:
		if s.Family != "" || s.InstanceType != "" || s.ZoneID != "" {
			return fmt.Errorf("a %s applies to every family and zone: its scope names one", c.Kind)
		}
	case CommitmentEC2InstanceSP:
		if s.Region == "" || s.Family == "" {
			lacks = "region and family"
		}
	case CommitmentStandardRI, CommitmentConvertibleRI:
		if s.Region == "" || s.Family == "" && s.InstanceType == "" {
			lacks = "region, and family or instance_type"
		}
	case CommitmentZonalRI:
		if s.ZoneID == "" || s.InstanceType == "" {
			lacks = "zone_id and instance_type"
		}
	default:
		return fmt.Errorf("unknown kind %q", clip(c.Kind))
	}
	if lacks != "" {
		return fmt.Errorf("the scope of a %s needs %s", c.Kind, lacks)
	}
	for _, text := range []string{s.Region, s.Family, s.ZoneID, s.InstanceType} {
		if text != "" && !labelForm.MatchString(text) {
			return fmt.Errorf("scope %q: not the value of a label", clip(text))
		}
	}
	return nil
}

// Validate says what is wrong with an inventory. Modes, kinds and whatever else a newer agent may call otherwise are nothing wrong.
func (k KarpenterInventory) Validate() error {
	if err := readable(k.SchemaVersion, KarpenterSchema); err != nil {
		return err
	}
	switch {
	case k.ObservedAt.IsZero():
		return fmt.Errorf("observed_at is missing")
	case k.Mode == "":
		return fmt.Errorf("mode is empty")
	}
	for _, list := range []struct {
		name      string
		got, most int
	}{
		{"pools", len(k.Pools), MaxPools}, {"node_classes", len(k.NodeClasses), MaxNodeClasses}, {"nodes", len(k.Nodes), MaxNodes}, {"findings", len(k.Findings), MaxFindings},
	} {
		if list.got > list.most {
			return fmt.Errorf("%s: %d, at most %d are allowed", list.name, list.got, list.most)
		}
	}
	pools := make(map[string]bool, len(k.Pools))
	for i, p := range k.Pools {
		switch {
		case p.Name == "" || len(p.Name) > maxName:
			return fmt.Errorf("pool %d: its name has %d bytes, expected 1 to %d", i, len(p.Name), maxName)
		case pools[p.Name]:
			return fmt.Errorf("pool %d %q: listed twice", i, p.Name)
		case p.Nodes < 0:
			return fmt.Errorf("pool %d %q: %d nodes", i, clip(p.Name), p.Nodes)
		}
		pools[p.Name] = true
	}
	for i, n := range k.Nodes {
		if n.Name == "" || len(n.Name) > maxName {
			return fmt.Errorf("node %d: its name has %d bytes, expected 1 to %d", i, len(n.Name), maxName)
		}
	}
	for i, f := range k.Findings {
		if f.ID == "" || f.Code == "" {
			return fmt.Errorf("finding %d has no id or no code", i)
		}
	}
	return nil
}

// Validate says what is wrong with a delivery of records.
func (k KarpenterRecords) Validate() error {
	switch {
	case len(k.Records) == 0:
		return fmt.Errorf("records is empty")
	case len(k.Records) > MaxRecords:
		return fmt.Errorf("records: %d, at most %d are allowed", len(k.Records), MaxRecords)
	}
	seen := make(map[string]bool, len(k.Records))
	for i, r := range k.Records {
		err := r.validate()
		if err == nil && seen[r.ID] {
			err = fmt.Errorf("listed twice")
		}
		if err != nil {
			return fmt.Errorf("record %d %q: %w", i, clip(r.ID), err)
		}
		seen[r.ID] = true
	}
	return nil
}

func (r KarpenterRecord) validate() error {
	switch {
	case r.ID == "" || len(r.ID) > MaxRecordID || strings.Contains(r.ID, "|"):
		return fmt.Errorf("id: expected 1 to %d bytes without a bar", MaxRecordID)
	case r.At.IsZero():
		return fmt.Errorf("at is missing")
	case r.Actor == "" || r.Action == "" || r.Outcome == "":
		return fmt.Errorf("actor, action or outcome is empty")
	case r.Predicted < 0 || r.Actual < 0:
		return fmt.Errorf("drift of %d predicted and %d actual nodes", r.Predicted, r.Actual)
	}
	return nil
}

// Validate says whether an answer can be what was written.
func (k KarpenterAck) Validate() error {
	if k.ReceivedAt.IsZero() {
		return fmt.Errorf("received_at is missing")
	}
	return nil
}
