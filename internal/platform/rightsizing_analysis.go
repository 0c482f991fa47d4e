package platform

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/nopsctl/nopsctl/internal/platform/analyser"
	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// AnalysesPath is where a server with FaultControl is told to analyse now, and says how the last analyses went. It is no part of the contract.
const AnalysesPath = "/lab/rightsizing/analyses"

const (
	renewEvery   = time.Hour
	changedAfter = time.Minute     // at least, between analyses of a list that keeps changing
	againAfter   = 5 * time.Minute // one that failed
	mostSaid     = 100             // of what was skipped, that is kept
)

// UsageView opens the metrics store of a workspace.
type UsageView interface {
	Usage(workspaceID string) (analyser.Store, error)
}

// AnalysisSettings are what a person may choose; zero is the default.
type AnalysisSettings struct {
	analyser.Settings
	Valid time.Duration `json:"valid,omitempty"` // how long the recommendations hold; a day, which is the most, unless set
}

// Validate says what is wrong with settings.
func (a AnalysisSettings) Validate() error {
	if valid := cmp.Or(a.Valid, nopsapi.MaxValidity); valid < time.Second || valid > nopsapi.MaxValidity {
		return fmt.Errorf("valid %s: expected one second to %s", a.Valid, nopsapi.MaxValidity)
	}
	return a.Settings.Validate() //nolint:wrapcheck // says what is wrong with which
}

// Analysis is how one went.
type Analysis struct {
	ClusterARN string             `json:"cluster_arn"`
	At         time.Time          `json:"at"`
	Seq        uint64             `json:"seq,omitempty"` // of the recommendations that came of it
	Generation int64              `json:"generation"`    // of the list of workloads
	History    string             `json:"history"`
	Min        string             `json:"min"`
	Workloads  int                `json:"workloads"` // that something is recommended for
	Containers int                `json:"containers"`
	Samples    int64              `json:"samples"`
	ByName     int                `json:"by_name,omitempty"` // pods, of each day, that only their names assigned
	Skipped    []analyser.Skipped `json:"skipped,omitempty"`
	More       int                `json:"more_skipped,omitempty"` // than are listed
	Problem    string             `json:"problem,omitempty"`      // why nothing came of it
}

// analysis is what is to be analysed of a cluster, and how that went.
type analysis struct {
	CustomerID string           `json:"customer_id"`
	ClusterARN string           `json:"cluster_arn"`
	Wanted     int64            `json:"wanted"` // generation of the list of workloads
	Settings   AnalysisSettings `json:"settings"`
	Last       Analysis         `json:"last,omitzero"`
	Tried      time.Time        `json:"tried,omitzero"`
}

func (s *Server) analysisOf(ctx context.Context, home string) (analysis, error) {
	a, err := read[analysis](ctx, s.store(), kindAnalysis, home)
	if errors.Is(err, ErrNoDocument) {
		err = nil
	}
	return a, err
}

// due says whether it is time for an analysis.
func (a analysis) due(now time.Time) bool {
	switch {
	case a.Last.Problem != "":
		return now.Sub(a.Tried) >= againAfter
	case a.Last.Generation != a.Wanted:
		return now.Sub(a.Tried) >= changedAfter
	}
	return now.Sub(a.Tried) >= renewEvery
}

// analyse makes analyses until the context ends, one after another: each has its share of memory.
func (s *Server) analyse(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all, err := list[analysis](ctx, s.store(), kindAnalysis, "")
		for _, a := range all {
			if ctx.Err() != nil {
				return
			}
			if !a.due(s.now()) {
				continue
			}
			if doc, err := read[issued](ctx, s.store(), kindRecommendations, home(a.CustomerID, a.ClusterARN)); err == nil && doc.ByHand && doc.ValidUntil.After(s.now()) {
				continue
			}
			if _, err := s.Analyse(ctx, a.CustomerID, a.ClusterARN, nil); err != nil && ctx.Err() == nil {
				s.log().Error("analysing usage", "cluster_arn", a.ClusterARN, "error", err) // tried again
			}
		}
		if err != nil && ctx.Err() == nil {
			s.log().Error("looking for what is to be analysed", "error", err)
		}
	}
}

// Analyse works out recommendations for a cluster now, and issues them. Settings hold for later analyses, too; nil are those that hold.
func (s *Server) Analyse(ctx context.Context, customerID, arn string, settings *AnalysisSettings) (Analysis, error) {
	s.analyses.Lock()
	defer s.analyses.Unlock()
	at := home(customerID, arn)
	told, err := read[wanted](ctx, s.store(), kindWorkloads, at)
	if errors.Is(err, ErrNoDocument) {
		return Analysis{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no agent of cluster %s has asked for recommendations yet", arn)
	} else if err != nil {
		return Analysis{}, err
	}
	a, err := s.analysisOf(ctx, at)
	if err != nil {
		return Analysis{}, err
	}
	if settings != nil {
		a.Settings = *settings
	}
	began := s.now()
	held := a.Settings.WithDefaults()
	done := Analysis{ClusterARN: arn, At: began, Generation: told.Generation, History: held.History.String(), Min: held.Min.String()}
	usage, failed := s.usage(ctx, customerID, arn, told.Body, a.Settings, began)
	s.mu.Lock()
	defer s.mu.Unlock()
	var res result
	if failed == nil {
		res, failed = s.conclude(ctx, at, a.Settings, usage, &done)
	}
	if failed != nil {
		done.Problem = failed.Error()
	}
	// What was asked for meanwhile is still to be done.
	now, err := s.analysisOf(ctx, at)
	if err != nil {
		return done, errors.Join(failed, err)
	}
	now.Settings, now.Last, now.Tried = a.Settings, done, began
	if extra := len(done.Skipped) - mostSaid; extra > 0 {
		now.Last.Skipped, now.Last.More = done.Skipped[:mostSaid], extra
	}
	change, err := document(kindAnalysis, "", at, now)
	if err == nil {
		err = s.store().Write(ctx, append(res.changes, change)...)
	}
	if err = errors.Join(failed, err); err == nil {
		s.log().Info("recommendations issued", "cluster_arn", arn, "seq", done.Seq, "workloads", done.Workloads, "containers", done.Containers, "samples", done.Samples, "skipped", len(done.Skipped))
	}
	return done, err
}

// usage asks the metrics store of a customer.
func (s *Server) usage(ctx context.Context, customerID, arn string, body []byte, settings AnalysisSettings, now time.Time) (analyser.Result, error) {
	if s.Usage == nil {
		return analyser.Result{}, errors.New("this platform has no metrics store to ask")
	}
	customer, err := read[Customer](ctx, s.store(), kindCustomer, customerID)
	if err != nil {
		return analyser.Result{}, err
	}
	var told nopsapi.RightsizedWorkloads
	if err := json.Unmarshal(body, &told); err != nil {
		return analyser.Result{}, fmt.Errorf("stored workloads: %w", err)
	}
	store, err := s.Usage.Usage(customer.AMP.WorkspaceID)
	if err != nil {
		return analyser.Result{}, err //nolint:wrapcheck // says which workspace
	}
	return analyser.Run(ctx, store, analyser.Options{Settings: settings.Settings, Cluster: arn, Workloads: told.Workloads, Now: now}) //nolint:wrapcheck // names the namespace and the day
}

// conclude makes the list of what was found, and the result that issues it.
func (s *Server) conclude(ctx context.Context, at string, settings AnalysisSettings, usage analyser.Result, done *Analysis) (result, error) {
	last, err := read[issued](ctx, s.store(), kindRecommendations, at)
	if err != nil && !errors.Is(err, ErrNoDocument) {
		return result{}, err
	}
	now := s.now()
	all := nopsapi.Recommendations{
		FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.RightsizingSchema, Seq: max(last.Seq+1, uint64(max(now.Unix(), 1))), AsOf: now, ValidUntil: now.Add(cmp.Or(settings.Valid, nopsapi.MaxValidity))},
		Workloads:  usage.Workloads,
	}
	if all.Workloads == nil {
		all.Workloads = []nopsapi.WorkloadRecommendation{}
	}
	done.Workloads, done.Samples, done.ByName, done.Skipped = len(all.Workloads), usage.Samples, usage.ByName, usage.Skipped
	for _, w := range all.Workloads {
		done.Containers += len(w.Containers)
	}
	body, err := json.Marshal(all)
	if err != nil {
		return result{}, fmt.Errorf("write the recommendations: %w", err)
	}
	if len(body) > nopsapi.MaxRecommendations {
		return result{}, fmt.Errorf("recommendations for %d workloads have %d bytes, the contract allows %d", done.Workloads, len(body), nopsapi.MaxRecommendations)
	}
	res, err := s.issue(ctx, at, body, false)
	if err == nil {
		done.Seq = all.Seq
	}
	return res, err
}

// controlAnalyses answers at AnalysesPath: GET tells how the last analyses of the customer's clusters went, POST makes new ones, with
// ?history=10m&min=2m&window=1m&valid=1h, which then hold for later ones; what is left out is the default.
func (s *Server) controlAnalyses(ctx context.Context, c caller, r *request) (result, error) {
	all, err := list[analysis](ctx, s.store(), kindAnalysis, "")
	if err != nil {
		return result{}, err
	}
	settings, err := analysisSettings(r.URL.Query())
	if err != nil {
		return result{}, invalid(err)
	}
	answer := []Analysis{}
	for _, a := range all {
		switch {
		case a.CustomerID != c.customer.ID:
		case r.Method == http.MethodPost:
			done, err := s.Analyse(ctx, a.CustomerID, a.ClusterARN, &settings)
			if err != nil && done.Problem == "" {
				return result{}, err
			}
			answer = append(answer, done)
		default:
			answer = append(answer, a.Last)
		}
	}
	return found(answer), nil
}

func analysisSettings(query url.Values) (a AnalysisSettings, err error) {
	for name, into := range map[string]*time.Duration{"history": &a.History, "min": &a.Min, "window": &a.Window, "valid": &a.Valid} {
		if text := query.Get(name); text != "" {
			if *into, err = scenario.ParseDuration(text); err != nil {
				return a, fmt.Errorf("%s %q: expected a duration such as 10m or 30d", name, text)
			}
		}
	}
	return a, a.Validate()
}
