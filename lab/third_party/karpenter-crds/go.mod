// The CustomResourceDefinitions of Karpenter itself, and those that its AWS provider ships, which are stricter. Nothing is compiled: the YAML files
// are taken out of the modules (lab/build, CRDs). go mod tidy would find nothing that needs them, and is not for this module.
module github.com/nopsctl/nopsctl/lab/third_party/karpenter-crds

go 1.26.0

require (
	github.com/aws/karpenter-provider-aws v1.14.1
	sigs.k8s.io/karpenter v1.14.1
)
