// Package retarget points the libraries of upstream's Vertical Pod Autoscaler at our API group.
//
// Upstream keeps the group and version of its types, and the scheme and codecs that its generated client encodes with, in package
// variables which the client reads when it is built. Assigned before, they make types, client, listers and references of Events ours;
// requests to autoscaling.k8s.io do not occur any more. A copy of the types with a generated client would need every package of
// upstream's converted, which is a fork in all but name.
package retarget

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpascheme "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/scheme"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/features"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Ours points this process at vpa.nops.io/v1, once; to be called before any client of upstream's is built. It also turns on upstream's
// gate InPlace, whose update mode is that of our policies: without the gate the webhook refuses such an autoscaler.
func Ours() { once() }

var once = sync.OnceFunc(func() {
	To(schema.GroupVersion{Group: rightsizing.Group, Version: rightsizing.Version})
	utilruntime.Must(features.MutableFeatureGate.SetFromMap(map[string]bool{string(features.InPlace): true}))
}) //nolint:gochecknoglobals // what it changes is global to the process

// To points this process at a group and version. It is for programs that can serve either group; agents call Ours. It must not run
// beside anything that uses upstream's client.
func To(gv schema.GroupVersion) {
	vpav1.SchemeGroupVersion = gv
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	utilruntime.Must(vpav1.AddToScheme(s))
	vpascheme.Scheme, vpascheme.Codecs, vpascheme.ParameterCodec = s, serializer.NewCodecFactory(s), runtime.NewParameterCodec(s)
}
