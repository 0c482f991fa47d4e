package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	nops "github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Analyse works out recommendations now, for all clusters of the first customer whose agent asked for some. What is chosen holds for the
// analyses that the platform makes by itself afterwards; zero is the default.
func (c Control) Analyse(ctx context.Context, s nops.AnalysisSettings) ([]nops.Analysis, error) {
	query := url.Values{}
	for name, d := range map[string]time.Duration{"history": s.History, "min": s.Min, "window": s.Window, "valid": s.Valid} {
		if d != 0 {
			query.Set(name, d.String())
		}
	}
	return asked[[]nops.Analysis](ctx, c, http.MethodPost, "/rightsizing/analyses?"+query.Encode(), nil)
}

// Analyses are how the last ones went.
func (c Control) Analyses(ctx context.Context) ([]nops.Analysis, error) {
	return asked[[]nops.Analysis](ctx, c, http.MethodGet, "/rightsizing/analyses", nil)
}

// SpoilRecommendations spoils what the platform recommends, in one of the ways of nops.RightsizingFaults; "" ends it.
func (c Control) SpoilRecommendations(ctx context.Context, fault string) error {
	method := http.MethodPut
	if fault == "" {
		method = http.MethodDelete
	}
	_, err := asked[struct{}](ctx, c, method, "/rightsizing/fault", map[string]string{"fault": fault})
	return err
}

// Spoiled is how recommendations are spoiled now; "": they are not.
func (c Control) Spoiled(ctx context.Context) (string, error) {
	how, err := asked[struct{ Fault string }](ctx, c, http.MethodGet, "/rightsizing/fault", nil)
	return how.Fault, err
}

// Recommend publishes recommendations for a cluster, as a person does: they hold to their end, whatever is analysed meanwhile.
func (c Control) Recommend(ctx context.Context, arn string, valid time.Duration, workloads []nopsapi.WorkloadRecommendation) (nopsapi.RightsizingAck, error) {
	now := time.Now().UTC()
	seq := uint64(max(now.Unix(), 1))
	if last, err := c.Recommendations(ctx, arn); err == nil {
		seq = max(seq, last.Seq+1)
	}
	for i := range workloads {
		if workloads[i].Containers == nil {
			workloads[i].Containers = []nopsapi.ContainerRecommendation{}
		}
	}
	all := nopsapi.Recommendations{FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.RightsizingSchema, Seq: seq, AsOf: now, ValidUntil: now.Add(valid)}, Workloads: slices.Concat([]nopsapi.WorkloadRecommendation{}, workloads)}
	if err := all.Validate(); err != nil {
		return nopsapi.RightsizingAck{}, err //nolint:wrapcheck // says which workload
	}
	return asked[nopsapi.RightsizingAck](ctx, c, http.MethodPut, nopsapi.PathRecommendations(arn), all)
}

// Recommendations are those that the platform serves for a cluster, however they are spoiled on their way.
func (c Control) Recommendations(ctx context.Context, arn string) (nopsapi.Recommendations, error) {
	return asked[nopsapi.Recommendations](ctx, c, http.MethodGet, nopsapi.PathRecommendations(arn), nil)
}

// Outcomes are what became of recommendations, by time.
func (c Control) Outcomes(ctx context.Context, arn string) ([]nopsapi.Outcome, error) {
	var all []nopsapi.Outcome
	for query := ""; ; {
		page, err := asked[nopsapi.OutcomeList](ctx, c, http.MethodGet, nopsapi.PathOutcomes(arn)+query, nil)
		if err != nil {
			return nil, err
		}
		if all = append(all, page.Outcomes...); page.Next == "" {
			return all, nil
		}
		if len(page.Outcomes) == 0 {
			return nil, errors.New("platform: the list of outcomes does not end")
		}
		query = "?" + url.Values{"after": {page.Next}}.Encode()
	}
}

// Clusters are those of the first customer.
func (c Control) Clusters(ctx context.Context) ([]nopsapi.Cluster, error) {
	list, err := asked[nopsapi.ClusterList](ctx, c, http.MethodGet, nopsapi.PathClusters(), nil)
	return list.Clusters, err
}

// asked asks the control socket, and reads the answer.
func asked[T any](ctx context.Context, c Control, method, path string, body any) (answer T, err error) {
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return answer, fmt.Errorf("platform: %w", err)
		}
	}
	if text, err = c.ask(ctx, method, path, text); err != nil {
		return answer, err
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, fmt.Errorf("platform: %w", err)
	}
	return answer, nil
}
