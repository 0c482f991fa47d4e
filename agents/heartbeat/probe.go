package heartbeat

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// How long the probe watches vmagent, and how often it looks. vmagent sends every few seconds and retries within a minute.
const (
	watchFor  = 15 * time.Second
	watchStep = time.Second
)

// ProbeDeps is what the probe uses besides its options.
type ProbeDeps struct {
	Version string
	Now     func() time.Time
	// Proxy is for the way out of the cluster; nil means none.
	Proxy func(*http.Request) (*url.URL, error)
	// CABundle is trusted besides the system's roots. (In the image SSL_CERT_FILE does that.)
	CABundle []byte
	// Window and Step of the look at vmagent; zero means the defaults.
	Window, Step time.Duration
}

// Probe looks at the connections from inside the cluster and says what it found. What fails is in the report.
func Probe(ctx context.Context, o ProbeOptions, d ProbeDeps) probe.Report {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Window == 0 {
		d.Window, d.Step = watchFor, watchStep
	}
	r := probe.Report{
		SchemaVersion: probe.ReportSchema, AgentVersion: d.Version, At: d.Now().UTC(), Namespace: o.Namespace, ClusterARN: o.ClusterARN, TestID: o.TestID,
		Results: make([]probe.Result, 1, 2),
	}
	var group sync.WaitGroup
	group.Go(func() {
		r.Results[0] = probeNOps(ctx, o, d)
		if o.Nonce != "" {
			r.Observation = observeNonce(ctx, o, d)
		}
	})
	var amp *probe.Result
	if o.AMPURL != "" {
		group.Go(func() {
			res := probe.Run(ctx, probe.Target{Name: probe.TargetAMP, URL: o.AMPURL, CABundle: d.CABundle, Proxy: d.Proxy, Now: d.Now})
			amp = &res
		})
	}
	if o.VmagentURL != "" {
		group.Go(func() {
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			delivery := probe.Watch(ctx, client, o.VmagentURL, d.Window, d.Step, d.Now)
			r.Vmagent = &delivery
		})
	}
	group.Wait()
	if amp != nil {
		r.Results = append(r.Results, *amp)
	}
	return r
}

func probeNOps(ctx context.Context, o ProbeOptions, d ProbeDeps) probe.Result {
	res := probe.Run(ctx, probe.Target{
		Name: probe.TargetNOps, URL: strings.TrimRight(o.Host, "/") + nopsapi.PathWhoAmI(), CABundle: d.CABundle, Proxy: d.Proxy, Now: d.Now,
		Header: http.Header{nopsapi.KeyHeader: {o.APIKey}, "User-Agent": {"nops-heartbeat/" + d.Version}},
	})
	res.Stages = append(res.Stages, authStage(res, o))
	return res
}

// authStage says what the platform thinks of the key.
func authStage(res probe.Result, o ProbeOptions) probe.StageResult {
	s := probe.StageResult{Stage: probe.StageAuth, Outcome: probe.OK}
	failed := func(code probe.Code, why string) probe.StageResult {
		s.Outcome, s.Code, s.Error = probe.Failed, code, why
		return s
	}
	if f, is := res.Failure(); is {
		s.Outcome, s.Detail = probe.Skipped, f.Stage+" failed"
		return s
	}
	if o.APIKey == "" {
		return failed(probe.CodeUnauthorized, "the agent has no API key: the Secret of the installation is missing or empty")
	}
	switch res.Status {
	case http.StatusOK:
		var who nopsapi.WhoAmI
		if err := json.Unmarshal(res.Body, &who); err != nil || who.CustomerID == "" {
			return failed(probe.CodeNotHTTP, "the answer is not the platform's: something in between answers for it")
		}
		if who.ClusterARN != "" && o.ClusterARN != "" && who.ClusterARN != o.ClusterARN {
			return failed(probe.CodeForbidden, fmt.Sprintf("the API key is for another cluster: %s", who.ClusterARN))
		}
		scopes := make([]string, 0, len(who.Scopes))
		for _, scope := range who.Scopes {
			scopes = append(scopes, string(scope))
		}
		slices.Sort(scopes)
		s.Detail = fmt.Sprintf("customer %s, scope %s", who.CustomerID, strings.Join(scopes, ", "))
		return s
	case http.StatusUnauthorized:
		return failed(probe.CodeUnauthorized, "the platform does not know the API key: HTTP 401")
	case http.StatusForbidden:
		return failed(probe.CodeForbidden, "the platform does not allow the API key: HTTP 403")
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		s.Outcome, s.Detail = probe.Skipped, fmt.Sprintf("this platform does not offer to check a key: HTTP %d", res.Status)
		return s
	}
	return failed(probe.CodeHTTPStatus, fmt.Sprintf("the platform answers HTTP %d", res.Status))
}

func observeNonce(ctx context.Context, o ProbeOptions, d ProbeDeps) *probe.Observation {
	transport, err := nopsclient.Transport(d.CABundle)
	var client *nopsclient.Client
	if err == nil {
		transport.Proxy = d.Proxy
		defer transport.CloseIdleConnections()
		client, err = nopsclient.New(nopsclient.Options{Host: o.Host, Key: o.APIKey, UserAgent: "nops-heartbeat/" + d.Version, Attempts: 2, Now: d.Now, Transport: transport})
	}
	if err == nil {
		_, err = client.Observe(ctx, o.ClusterARN, o.TestID, o.Nonce, "cluster")
	}
	if err != nil {
		return &probe.Observation{Error: err.Error()}
	}
	return &probe.Observation{Posted: true}
}
