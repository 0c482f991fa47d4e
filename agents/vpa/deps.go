package vpa

import (
	_ "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/logic"
	_ "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input"
	_ "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/routines"
	_ "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater/logic"
)
