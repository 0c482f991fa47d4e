// Package vpa is the program of the nOps VPA: rightsizing that works beside the Kubernetes VPA.
//
// One program has four parts, each a Deployment of its own with its own rights: the recommender says what containers should request, the
// updater gives it to pods that run, the admission controller to those that are made, and the policy controller makes autoscalers of
// RightsizingPolicies. Each works without the others, and with the platform away. revert and import act once; nopsctl runs them as Jobs.
//
// # RBAC
//
// Each part has an account of its own; the chart's roles must equal these tables (a test compares them). None may edit a workload, none reads a Secret but
// the admission controller its own certificates, and nodes/proxy, which is remote execution, is nobody's.
//
// ClusterRole nops-vpa-recommender:
//
//	| API group          | resources                                          | names | verbs                                   |
//	|--------------------|----------------------------------------------------|-------|-----------------------------------------|
//	| vpa.nops.io        | verticalpodautoscalers                             |       | get, list, watch                        |
//	| vpa.nops.io        | verticalpodautoscalers/status                      |       | patch                                   |
//	| vpa.nops.io        | verticalpodautoscalercheckpoints                   |       | get, list, watch, create, patch, delete |
//	| autoscaling.k8s.io | verticalpodautoscalers                             |       | get, list, watch                        |
//	| eks.amazonaws.com  | resourceoptimizations                              |       | get, list, watch                        |
//	| datadoghq.com      | datadogpodautoscalers                              |       | get, list, watch                        |
//	| perfectscale.io    | workloadautomationconfigs                          |       | get, list, watch                        |
//	| autoscaling        | horizontalpodautoscalers                           |       | get, list, watch                        |
//	|                    | nodes, pods, replicationcontrollers                |       | get, list, watch                        |
//	|                    | events                                             |       | get, list, watch                        |
//	| apps               | daemonsets, deployments, replicasets, statefulsets |       | get, list, watch                        |
//	| *                  | */scale                                            |       | get                                     |
//	| batch              | cronjobs, jobs                                     |       | get, list, watch                        |
//	| metrics.k8s.io     | pods                                               |       | get, list                               |
//	|                    | nodes/metrics                                      |       | get                                     |
//
// ClusterRole nops-vpa-updater:
//
//	| API group          | resources                                          | names | verbs            |
//	|--------------------|----------------------------------------------------|-------|------------------|
//	| vpa.nops.io        | verticalpodautoscalers                             |       | get, list, watch |
//	| vpa.nops.io        | verticalpodautoscalers/status                      |       | patch            |
//	| autoscaling.k8s.io | verticalpodautoscalers                             |       | get, list, watch |
//	| eks.amazonaws.com  | resourceoptimizations                              |       | get, list, watch |
//	| datadoghq.com      | datadogpodautoscalers                              |       | get, list, watch |
//	| perfectscale.io    | workloadautomationconfigs                          |       | get, list, watch |
//	| autoscaling        | horizontalpodautoscalers                           |       | get, list, watch |
//	|                    | limitranges, pods, replicationcontrollers          |       | get, list, watch |
//	|                    | resourcequotas                                     |       | get, list, watch |
//	|                    | pods/resize                                        |       | patch            |
//	|                    | pods/eviction                                      |       | create           |
//	|                    | events                                             |       | create, patch    |
//	| apps               | daemonsets, deployments, replicasets, statefulsets |       | get, list, watch |
//	| *                  | */scale                                            |       | get              |
//	| batch              | cronjobs, jobs                                     |       | get, list, watch |
//
// ClusterRole nops-vpa-admission-controller:
//
//	| API group                    | resources                                          | names    | verbs            |
//	|------------------------------|----------------------------------------------------|----------|------------------|
//	| vpa.nops.io                  | verticalpodautoscalers                             |          | get, list, watch |
//	| autoscaling.k8s.io           | verticalpodautoscalers                             |          | get, list, watch |
//	| eks.amazonaws.com            | resourceoptimizations                              |          | get, list, watch |
//	| datadoghq.com                | datadogpodautoscalers                              |          | get, list, watch |
//	| perfectscale.io              | workloadautomationconfigs                          |          | get, list, watch |
//	| autoscaling                  | horizontalpodautoscalers                           |          | get, list, watch |
//	|                              | limitranges, replicationcontrollers                |          | get, list, watch |
//	|                              | resourcequotas                                     |          | get, list, watch |
//	| apps                         | daemonsets, deployments, replicasets, statefulsets |          | get, list, watch |
//	| *                            | */scale                                            |          | get              |
//	| batch                        | cronjobs, jobs                                     |          | get, list, watch |
//	| admissionregistration.k8s.io | mutatingwebhookconfigurations                      | nops-vpa | get, patch       |
//
// ClusterRole nops-vpa-policy:
//
//	| API group          | resources                                          | names | verbs                                   |
//	|--------------------|----------------------------------------------------|-------|-----------------------------------------|
//	| vpa.nops.io        | verticalpodautoscalers                             |       | get, list, watch, create, patch, delete |
//	| vpa.nops.io        | rightsizingpolicies                                |       | get, list, watch, patch                 |
//	| vpa.nops.io        | rightsizingpolicies/status                         |       | patch                                   |
//	| autoscaling.k8s.io | verticalpodautoscalers                             |       | get, list, watch                        |
//	| eks.amazonaws.com  | resourceoptimizations                              |       | get, list, watch                        |
//	| datadoghq.com      | datadogpodautoscalers                              |       | get, list, watch                        |
//	| perfectscale.io    | workloadautomationconfigs                          |       | get, list, watch                        |
//	| autoscaling        | horizontalpodautoscalers                           |       | get, list, watch, patch                 |
//	|                    | namespaces, pods                                   |       | get, list, watch                        |
//	|                    | limitranges                                        |       | list                                    |
//	|                    | replicationcontrollers                             |       | get, list                               |
//	|                    | pods/resize                                        |       | patch                                   |
//	|                    | events                                             |       | create, patch                           |
//	| apps               | daemonsets, deployments, replicasets, statefulsets |       | get, list, watch                        |
//	| batch              | cronjobs                                           |       | get, list, watch                        |
//
// Role nops-vpa-recommender:
//
//	| API group           | resources | names                | verbs       |
//	|---------------------|-----------|----------------------|-------------|
//	| coordination.k8s.io | leases    |                      | create      |
//	| coordination.k8s.io | leases    | nops-vpa-recommender | get, update |
//
// Role nops-vpa-updater:
//
//	| API group           | resources | names                         | verbs       |
//	|---------------------|-----------|-------------------------------|-------------|
//	| coordination.k8s.io | leases    |                               | create      |
//	| coordination.k8s.io | leases    | nops-vpa-updater              | get, update |
//	| coordination.k8s.io | leases    | nops-vpa-admission-controller | get         |
//
// Role nops-vpa-admission-controller:
//
//	| API group           | resources | names                         | verbs       |
//	|---------------------|-----------|-------------------------------|-------------|
//	| coordination.k8s.io | leases    |                               | create      |
//	| coordination.k8s.io | leases    | nops-vpa-admission-controller | get, update |
//	|                     | secrets   | nops-vpa-certificates         | get, update |
//
// Role nops-vpa-policy:
//
//	| API group           | resources | names           | verbs       |
//	|---------------------|-----------|-----------------|-------------|
//	| coordination.k8s.io | leases    |                 | create      |
//	| coordination.k8s.io | leases    | nops-vpa-policy | get, update |
package vpa
