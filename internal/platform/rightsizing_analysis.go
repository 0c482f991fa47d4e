package platform

import (
	"context"
	"errors"
)

// analysis is what is to be analysed of a cluster.
type analysis struct {
	CustomerID string `json:"customer_id"`
	ClusterARN string `json:"cluster_arn"`
	Wanted     int64  `json:"wanted"` // generation of the list of workloads
}

func (s *Server) analysisOf(ctx context.Context, home string) (analysis, error) {
	a, err := read[analysis](ctx, s.store(), kindAnalysis, home)
	if errors.Is(err, ErrNoDocument) {
		err = nil
	}
	return a, err
}
