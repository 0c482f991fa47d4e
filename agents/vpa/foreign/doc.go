// Package foreign finds out who else sizes a workload. Two that size one pod undo each other's work for ever; the other one wins, for it
// was there by somebody's will.
//
// There are objects of others that name a workload, and marks that others leave on workloads and pods. Objects are watched while their API
// is there, and only then: whether it is, is asked again and again, for definitions come and go with the products they belong to. To ask
// for a group by its name costs one small answer, where to watch all definitions would cost megabytes in clusters that have many.
//
// Known are the Kubernetes VPA, the resource optimization of EKS Auto Mode, the Datadog pod autoscaler and PerfectScale by their objects,
// and CAST AI, ScaleOps, StormForge and Kubecost by marks. Zesty selects workloads in its own policies and documents no mark: for its
// workloads AnnotationOff is the answer.
//
// HorizontalPodAutoscalers are not owners: the resource on whose utilization one scales is left to it, and the other one is sized.
//
// It needs get, list and watch on each of those resources, and the non-resource paths of discovery, which everybody may read.
package foreign
