package platform

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// cluster is a stored cluster and whose it is.
type cluster struct {
	nopsapi.Cluster
	CustomerID string `json:"customer_id"`
}

// home is where a cluster's documents are kept. It begins with the customer: the record that one customer has of an ARN
// neither shows nor bars that of another.
func home(customerID, arn string) string { return customerID + "|" + arn }

// own returns a cluster of the caller's customer. A cluster of another customer does not exist for this one.
func (s *Server) own(ctx context.Context, r *request) (cluster, error) {
	cl, err := read[cluster](ctx, s.store(), kindCluster, r.home)
	if errors.Is(err, ErrNoDocument) {
		return cluster{}, errNoCluster(r.arn)
	}
	return cl, err
}

// clusters are those the caller's key is for.
func (s *Server) clusters(ctx context.Context, c caller) ([]cluster, error) {
	all, err := list[cluster](ctx, s.store(), kindCluster, c.customer.ID)
	mine := all[:0]
	for _, cl := range all {
		if c.key.ClusterARN == "" || c.key.ClusterARN == cl.ARN {
			mine = append(mine, cl)
		}
	}
	return mine, err
}

func (s *Server) listClusters(ctx context.Context, c caller, _ *request) (result, error) {
	all, err := s.clusters(ctx, c)
	answer := nopsapi.ClusterList{Clusters: []nopsapi.Cluster{}}
	for _, cl := range all {
		answer.Clusters = append(answer.Clusters, cl.Cluster)
	}
	return found(answer), err
}

// publicClusters is the public list: the clusters that were registered or heard of within some days.
func (s *Server) publicClusters(ctx context.Context, c caller, r *request) (result, error) {
	var since time.Time
	if text := r.URL.Query().Get("days"); text != "" {
		days, err := strconv.Atoi(text)
		if err != nil || days < 1 || days > 10000 {
			return result{}, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "days %q: expected a number from 1", text)
		}
		since = s.now().AddDate(0, 0, -days)
	}
	all, err := s.clusters(ctx, c)
	answer := []nopsapi.PublicCluster{}
	for _, cl := range all {
		seen := cl.RegisteredAt
		if st, err := read[state](ctx, s.store(), kindState, home(cl.CustomerID, cl.ARN)); err == nil && st.HeardAt.After(seen) {
			seen = st.HeardAt
		}
		if !seen.Before(since) {
			answer = append(answer, nopsapi.PublicCluster{Name: cl.Name, ExternalID: cl.ClusterID})
		}
	}
	return found(answer), err
}

func (s *Server) registerCluster(ctx context.Context, c caller, r *request) (result, error) {
	cl, err := s.own(ctx, r)
	var refused *refusal
	switch {
	case err == nil:
		return found(cl.Cluster), nil
	case !errors.As(err, &refused):
		return result{}, err
	}
	parts, err := nopsapi.ParseARN(r.arn)
	if err != nil {
		return result{}, invalid(err)
	}
	cl = cluster{CustomerID: c.customer.ID, Cluster: nopsapi.Cluster{ARN: r.arn, Name: parts.Name, Region: parts.Region, ClusterID: clusterID(r.home), RegisteredAt: s.now()}}
	return result{status: http.StatusCreated, answer: cl.Cluster}.writes(kindCluster, c.customer.ID, r.home, cl)
}

// clusterID looks like the public examples, "D/M7Yj" and "a+ABC1": six characters of the base64 alphabet.
func clusterID(home string) string {
	sum := sha256.Sum256([]byte("cluster-id:" + home))
	return base64.StdEncoding.EncodeToString(sum[:])[:6]
}

func (s *Server) getCluster(ctx context.Context, _ caller, r *request) (result, error) {
	cl, err := s.own(ctx, r)
	return found(cl.Cluster), err
}

// interval is how often a customer's agents beat, in seconds.
func interval(c Customer) int {
	if c.HeartbeatInterval == 0 {
		return 60
	}
	return min(max(c.HeartbeatInterval, nopsapi.MinHeartbeatInterval), nopsapi.MaxHeartbeatInterval)
}

func (s *Server) installConfig(ctx context.Context, c caller, r *request) (result, error) {
	cl, err := s.own(ctx, r)
	return found(nopsapi.InstallConfig{
		ClusterARN: cl.ARN, ClusterID: cl.ClusterID, AMP: c.customer.AMP, ChartVersion: c.customer.ChartVersion, DatadogAPIKey: c.customer.DatadogAPIKey,
		HeartbeatIntervalSeconds: interval(c.customer),
	}), err
}

func (s *Server) agentKey(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	created, change, err := s.mint(c, "agents of "+r.arn, r.arn, nopsapi.ScopeAgent, nopsapi.ScopeRead)
	return result{status: http.StatusCreated, answer: nopsapi.AgentKey{ID: created.ID, Key: created.Key}, changes: []Change{change}, secret: true}, err
}
