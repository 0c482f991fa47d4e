// Package clusterstate is the recommender's model of a cluster: upstream's interface and answers, found through indexes.
package clusterstate

import (
	"time"

	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
)

// New returns an empty cluster whose aggregations are collected at most every gcInterval.
func New(gcInterval time.Duration) model.ClusterState { return model.NewClusterState(gcInterval) }
