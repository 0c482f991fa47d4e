// Package aws makes Karpenter's kwok provider look like EC2 in what matters to whoever tunes NodePools: the labels of
// instance types, and the capacity of nodes. As released, the provider has labels of its own group, and a node's capacity is
// what its pods requested, so that spec.limits would count requests instead of machines.
package aws

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kwok "sigs.k8s.io/karpenter/kwok/cloudprovider"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/scheduling"
)

// Group is that of the AWS provider's labels.
const Group = "karpenter.k8s.aws"

// Labels of an instance type, and the zone's, as the AWS provider has them.
const (
	Category   = Group + "/instance-category"
	Family     = Group + "/instance-family"
	Generation = Group + "/instance-generation"
	Size       = Group + "/instance-size"
	CPU        = Group + "/instance-cpu"
	Memory     = Group + "/instance-memory" // MiB
	ZoneID     = "topology.k8s.aws/zone-id"
)

// EBSZone is the zone as the driver of EBS volumes writes it into theirs.
const EBSZone = "topology.ebs.csi.aws.com/zone"

// Register makes the labels ones that Karpenter knows: a pod or a NodePool may ask for them, and a node has them. A volume's zone is a node's, as in the
// AWS provider.
func Register() {
	v1.NormalizedLabels[EBSZone] = corev1.LabelTopologyZone
	v1.RestrictedLabelDomains = v1.RestrictedLabelDomains.Insert(Group)
	v1.WellKnownLabels = v1.WellKnownLabels.Insert(Category, Family, Generation, Size, CPU, Memory, ZoneID)
}

var name = regexp.MustCompile(`^(([a-z]+)(\d+)[a-z0-9-]*)\.([a-z0-9-]+)$`)

// Labels are those of an instance type with a name as EC2 has them.
func Labels(it *cloudprovider.InstanceType) (map[string]string, error) {
	m := name.FindStringSubmatch(it.Name)
	if m == nil {
		return nil, fmt.Errorf("instance type %q: the name is not family.size", it.Name)
	}
	return map[string]string{
		Family: m[1], Category: m[2], Generation: m[3], Size: m[4],
		CPU: strconv.FormatInt(it.Capacity.Cpu().Value(), 10), Memory: strconv.FormatInt(it.Capacity.Memory().Value()>>20, 10),
	}, nil
}

// Label adds the labels to instance types.
func Label(types []*cloudprovider.InstanceType) error {
	for _, it := range types {
		labels, err := Labels(it)
		if err != nil {
			return err
		}
		for key, value := range labels {
			it.Requirements.Add(scheduling.NewRequirement(key, corev1.NodeSelectorOpIn, value))
		}
	}
	return nil
}

// Provider is the kwok provider, whose nodes have the capacity of their instance type.
type Provider struct {
	*kwok.CloudProvider
	types map[string]corev1.ResourceList
}

// NewProvider offers types that Label has labelled.
func NewProvider(ctx context.Context, c client.Client, types []*cloudprovider.InstanceType) Provider {
	known := map[string]corev1.ResourceList{}
	for _, it := range types {
		known[it.Name] = it.Capacity
	}
	return Provider{kwok.NewCloudProvider(ctx, nodes{c, known}, types), known}
}

// Create has the node made, later and elsewhere, and says what it will be.
func (p Provider) Create(ctx context.Context, claim *v1.NodeClaim) (*v1.NodeClaim, error) {
	created, err := p.CloudProvider.Create(ctx, claim)
	if err != nil {
		return nil, err //nolint:wrapcheck // Karpenter looks at what kind of error it is
	}
	created.Status.Capacity = p.types[created.Labels[corev1.LabelInstanceTypeStable]].DeepCopy()
	return created, nil
}

// nodes is a client that creates nodes with the capacity of their type.
type nodes struct {
	client.Client
	types map[string]corev1.ResourceList
}

func (c nodes) Create(ctx context.Context, o client.Object, options ...client.CreateOption) error {
	if node, ok := o.(*corev1.Node); ok {
		node = node.DeepCopy() // the provider still reads its own
		node.Status.Capacity = c.types[node.Labels[corev1.LabelInstanceTypeStable]].DeepCopy()
		o = node
	}
	return c.Client.Create(ctx, o, options...) //nolint:wrapcheck // stands in for the client
}
