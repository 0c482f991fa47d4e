package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Type is an instance type.
type Type struct {
	Name      string
	VCPU      int
	MemoryMiB int
	Labels    map[string]string // that its nodes carry, but for zone and capacity type
}

// Offering is a type in a zone in a capacity type.
type Offering struct {
	Type         *Type
	Zone         string
	CapacityType string
	labels       map[string]string
	typeIndex    int32
}

// Catalogue is all that can be launched. An offering goes by its index.
type Catalogue struct {
	Types     []*Type
	Zones     []string
	Offerings []Offering
}

// NewCatalogue makes the offerings of all types in all zones, sorted.
func NewCatalogue(types []*Type, zones, capacityTypes []string) *Catalogue {
	c := &Catalogue{Types: slices.SortedFunc(slices.Values(types), func(a, b *Type) int { return strings.Compare(a.Name, b.Name) }), Zones: slices.Sorted(slices.Values(zones))}
	for i, t := range c.Types {
		for _, zone := range c.Zones {
			for _, capacityType := range capacityTypes {
				labels := maps.Clone(t.Labels)
				if labels == nil {
					labels = map[string]string{}
				}
				labels[LabelType], labels[LabelZone], labels[LabelCapacityType] = t.Name, zone, capacityType
				c.Offerings = append(c.Offerings, Offering{Type: t, Zone: zone, CapacityType: capacityType, labels: labels, typeIndex: int32(i)})
			}
		}
	}
	return c
}

// Find is the index of an offering.
func (c *Catalogue) Find(name, zone, capacityType string) (int32, error) {
	for i, o := range c.Offerings {
		if o.Type.Name == name && o.Zone == zone && o.CapacityType == capacityType {
			return int32(i), nil
		}
	}
	return 0, fmt.Errorf("no offering %s in %s, %s", name, zone, capacityType)
}

// A Market is what offerings cost and how they fare. It knows nothing of what is done with it, so that all who are compared meet the same.
type Market interface {
	// Price is in USD an hour.
	Price(offering int32, at time.Time) float64
	// Depth is how much of the offering there is, from 0 (launches fail) to 1.
	Depth(offering int32, at time.Time) float64
	// Reclaimed says whether the node, the nth of the cluster, is taken away in the step that ends at that time.
	Reclaimed(offering int32, cluster string, n int, at time.Time, step time.Duration) bool
}

// Labels are those that nodes get from the offering.
func (o *Offering) Labels() map[string]string { return o.labels }
