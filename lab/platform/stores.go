package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	nops "github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/platform/analyser"
)

// stores asks the metrics stores of the workspaces.
type stores struct {
	urls map[string]string // workspace → URL
	http http.Client
}

var (
	_ nops.MetricsView = (*stores)(nil)
	_ nops.UsageView   = (*stores)(nil)
)

// Usage implements the platform's view of what recommendations are worked out from.
func (s *stores) Usage(workspaceID string) (analyser.Store, error) {
	base, ok := s.urls[workspaceID]
	if !ok {
		return nil, fmt.Errorf("no metrics store for workspace %s", workspaceID)
	}
	return &analyser.Reader{Address: base, Client: &s.http}, nil
}

// LastSample implements the platform's view of a cluster's metrics.
func (s *stores) LastSample(ctx context.Context, workspaceID, clusterARN string) (time.Time, int, error) {
	base, ok := s.urls[workspaceID]
	if !ok {
		return time.Time{}, 0, fmt.Errorf("no metrics store for workspace %s", workspaceID)
	}
	cluster := strconv.Quote(clusterARN)
	series, err := s.number(ctx, base, "count({cluster="+cluster+"})")
	if err != nil {
		return time.Time{}, 0, err
	}
	// The newest of all samples; once nothing arrives any more, that of any target's up, which is cheap to look far back for.
	for _, query := range []string{"max(tlast_over_time({cluster=" + cluster + "}[15m]))", "max(tlast_over_time(up{cluster=" + cluster + "}[30d]))"} {
		at, err := s.number(ctx, base, query)
		if err != nil {
			return time.Time{}, 0, err
		}
		if at > 0 {
			return time.UnixMilli(int64(at * 1000)), int(series), nil
		}
	}
	return time.Time{}, int(series), nil
}

// number asks for one number; 0 when there is none.
func (s *stores) number(ctx context.Context, base, query string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/query?"+url.Values{"query": {query}}.Encode(), nil)
	if err != nil {
		return 0, fmt.Errorf("ask the metrics store: %w", err)
	}
	res, err := s.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask the metrics store: %w", err)
	}
	defer res.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&answer); err != nil {
		return 0, fmt.Errorf("ask the metrics store: %s: %w", res.Status, err)
	}
	if answer.Status != "success" {
		return 0, fmt.Errorf("ask the metrics store: %s: %s", res.Status, answer.Error)
	}
	if len(answer.Data.Result) == 0 {
		return 0, nil
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("ask the metrics store: the answer %q is no number", text)
	}
	return n, nil
}
