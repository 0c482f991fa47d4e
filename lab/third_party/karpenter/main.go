// Command karpenter is Karpenter's controller with its kwok provider, whose instance types and nodes look like those of EC2:
// see package aws. `karpenter crds` prints the CustomResourceDefinitions that it was built with.
package main

import (
	"bytes"
	"fmt"
	"os"

	"sigs.k8s.io/controller-runtime/pkg/log"

	kwokapis "sigs.k8s.io/karpenter/kwok/apis"
	kwok "sigs.k8s.io/karpenter/kwok/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/apis"
	"sigs.k8s.io/karpenter/pkg/cloudprovider/overlay"
	"sigs.k8s.io/karpenter/pkg/controllers"
	"sigs.k8s.io/karpenter/pkg/controllers/state"
	"sigs.k8s.io/karpenter/pkg/operator"

	"github.com/nopsctl/nopsctl/lab/third_party/karpenter/aws"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "crds" {
		fmt.Printf("%s\n", bytes.Join([][]byte{apis.NodePoolCRD, apis.NodeClaimCRD, apis.NodeOverlayCRD, kwokapis.KWOKNodeClassCRD}, []byte("\n---\n")))
		return
	}
	aws.Register()
	ctx, op := operator.NewOperator()
	types, err := kwok.ConstructInstanceTypes(ctx)
	if err == nil {
		err = aws.Label(types)
	}
	if err != nil {
		log.FromContext(ctx).Error(err, "reading the instance types")
		os.Exit(1)
	}
	provider := aws.NewProvider(ctx, op.GetClient(), types)
	decorated := overlay.Decorate(provider, op.GetClient(), op.InstanceTypeStore)
	cluster := state.NewCluster(op.Clock, op.GetClient(), decorated)
	op.WithControllers(ctx, controllers.NewControllers(ctx, op.Manager, op.Clock, op.GetClient(), op.EventRecorder, decorated, provider, cluster, op.InstanceTypeStore)...).Start(ctx)
}
