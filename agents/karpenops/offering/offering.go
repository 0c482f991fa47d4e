// Package offering says what Karpenter can launch under a list of requirements, and which nodes stop to fit when the list changes.
//
// The API server accepts lists that allow nothing, or everything, and the pool stays Ready (see the tests): whoever edits a NodePool
// has to know the set of offerings before and after. The package holds the requirement algebra of karpenter.sh/v1 as far as labels go,
// without importing Karpenter; a differential test compares it with Karpenter's own.
//
// It is pure: no clients, no clock, nothing is read from the outside.
package offering

// Well-known labels.
const (
	LabelInstanceType = "node.kubernetes.io/instance-type"
	LabelZone         = "topology.kubernetes.io/zone"
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
