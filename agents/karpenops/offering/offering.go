// Package offering says what Karpenter can launch under a list of requirements, and which nodes stop to fit when the list changes.
//
// The API server accepts lists that allow nothing, or everything, and the pool stays Ready (see the tests): whoever edits a NodePool
// has to know the set of offerings before and after. The package holds the requirement algebra of karpenter.sh/v1 as far as labels go,
// without importing Karpenter; a differential test compares it with Karpenter's own.
//
// It is pure: no clients, no clock, nothing is read from the outside.
package offering

import (
	"maps"
	"slices"
	"strings"
)

// Well-known labels.
const (
	LabelInstanceType = "node.kubernetes.io/instance-type"
	LabelZone         = "topology.kubernetes.io/zone"
	LabelRegion       = "topology.kubernetes.io/region"
	LabelZoneID       = "topology.k8s.aws/zone-id"
	LabelArch         = "kubernetes.io/arch"
	LabelOS           = "kubernetes.io/os"
	LabelCapacityType = "karpenter.sh/capacity-type"
	LabelNodePool     = "karpenter.sh/nodepool"
	LabelFamily       = "karpenter.k8s.aws/instance-family"
)

// Operator is one of the operators of NodePool requirements.
type Operator string

// The operators.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
	Gt           Operator = "Gt"
	Lt           Operator = "Lt"
	Gte          Operator = "Gte"
	Lte          Operator = "Lte"
)

// Requirement is one entry of spec.template.spec.requirements, field for field.
type Requirement struct {
	Key       string   `json:"key"`
	Operator  Operator `json:"operator"`
	Values    []string `json:"values,omitempty"`
	MinValues *int     `json:"minValues,omitempty"`
}

// Requirements is the whole list. Several entries of a key hold together.
type Requirements []Requirement

// Type is an instance type with the labels that its nodes get, whatever the zone and capacity type.
type Type struct {
	Name      string
	VCPU      int
	MemoryMiB int
	MaxPods   int // 0: not known
	Labels    map[string]string
}

// Offering is a type in a zone in a capacity type.
type Offering struct {
	Type         string `json:"type"`
	Zone         string `json:"zone"` // the account's name of the zone
	CapacityType string `json:"capacityType"`
}

// Labels of the AWS provider that follow from an instance type's name and size.
const (
	LabelSize       = "karpenter.k8s.aws/instance-size"
	LabelCategory   = "karpenter.k8s.aws/instance-category"
	LabelGeneration = "karpenter.k8s.aws/instance-generation"
	LabelCPU        = "karpenter.k8s.aws/instance-cpu"
	LabelMemory     = "karpenter.k8s.aws/instance-memory" // MiB
	LabelFlex       = "karpenter.k8s.aws/instance-capability-flex"
)

// WellKnown says whether Karpenter with the AWS provider knows a label: a node has it or not by its instance type, zone and capacity
// type. Others are custom: the node gets them from the NodePool.
func WellKnown(key string) bool {
	switch key {
	case LabelNodePool, LabelZone, LabelRegion, LabelInstanceType, LabelArch, LabelOS, LabelCapacityType, LabelZoneID, labelWindowsBuild:
		return true
	}
	if name, ok := strings.CutPrefix(key, domainAWS+"/"); ok {
		return slices.Contains(awsLabels, name) || optional(key)
	}
	return false
}

// awsLabels are those that any instance type may be required to have; optional ones beside.
var awsLabels = []string{
	"instance-hypervisor", "instance-encryption-in-transit-supported", "instance-category", "instance-capability-flex", "instance-family",
	"instance-generation", "instance-size", "instance-cpu", "instance-cpu-manufacturer", "instance-cpu-sustained-clock-speed-mhz",
	"instance-memory", "instance-ebs-bandwidth", "instance-network-bandwidth", "instance-tenancy",
}

// optional says whether most instance types lack this label: where no type of a catalogue has it, none is of that kind.
func optional(key string) bool {
	if key == labelWindowsBuild {
		return true
	}
	name, ok := strings.CutPrefix(key, domainAWS+"/")
	return ok && slices.Contains([]string{
		"instance-local-nvme", "instance-gpu-name", "instance-gpu-manufacturer", "instance-gpu-count", "instance-gpu-memory",
		"instance-accelerator-name", "instance-accelerator-manufacturer", "instance-accelerator-count",
		"capacity-reservation-id", "capacity-reservation-type", "capacity-reservation-interruptible",
		"placement-group-id", "placement-group-partition",
	}, name)
}

const (
	domainKarpenter   = "karpenter.sh"
	domainAWS         = "karpenter.k8s.aws"
	labelWindowsBuild = "node.kubernetes.io/windows-build"
	labelHostname     = "kubernetes.io/hostname"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// near finds a value that somebody probably meant: the closest by edits, at most two and fewer than half of its length.
func near(value string, known []string) string {
	best, found := 3, ""
	for _, k := range known {
		if d := distance(value, k, best); d < best || d == best && found != "" && k < found {
			best, found = d, k
		}
	}
	if best*2 >= len(value) {
		return ""
	}
	return found
}

// distance counts edits, and stops at most.
func distance(a, b string, most int) int {
	if len(a)-len(b) >= most || len(b)-len(a) >= most {
		return most
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		previous := row[0]
		row[0] = i + 1
		for j := range b {
			d := previous
			if a[i] != b[j] {
				d = 1 + min(previous, row[j], row[j+1])
			}
			previous, row[j+1] = row[j+1], d
		}
	}
	return min(row[len(b)], most)
}
