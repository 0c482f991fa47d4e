// Package conformance holds the golden renders of the chart against judges that are not ours: kubeconform with schemas of
// every minor release of Kubernetes that the chart is for, kube-score, the Pod Security Standards' own checks, and helm lint.
//
// The schemas are derived from the OpenAPI document inside the released module of each Kubernetes (testdata/kubernetes.sum
// pins them); nothing else is fetched. They know names, types and what is required, but no enumerations and no rules
// between fields: those an API server knows, and the lab has one.
//
// What kube-score does not look at and others of its kind (polaris, kube-linter) do is in Rules. Every finding is either
// mended in the chart or listed in findings.yaml with the reason why it stays; one that is not listed fails the test, and
// so does an entry that nothing matches any more.
package conformance
